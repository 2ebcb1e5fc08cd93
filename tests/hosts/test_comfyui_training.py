"""Learning on every installed ComfyUI: exact gradients, and a host that is left as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_probes
import lesson_digest
import pytest
from comfyui_host import Graph, Host, Refused, txt2img
from test_comfyui_server import applied, picture

from apl_core.formats import read_prefix

PROBE = "comfyui_training_probe.py"


@pytest.fixture(scope="module")
def said(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the checks said on one host."""
    work = tmp_path_factory.mktemp("work")
    expected = lesson_digest.expected(tmp_path_factory.mktemp("plain"))
    (work / "lessons.txt").write_text(expected)
    return comfyui_probes.said(PROBE, source, work)


@pytest.mark.parametrize("check", comfyui_probes.checks(PROBE))
def test_training(check: str, said: dict[str, str]) -> None:
    assert said[check] == ""


@pytest.fixture(scope="module")
def host(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running ComfyUI with the pack, and with one that takes memory away."""
    base = tmp_path_factory.mktemp(source.name)
    pack = base / "custom_nodes" / "hungry.py"
    pack.parent.mkdir()
    pack.write_text(HUNGRY)
    with Host(source, base) as running:
        yield running


HUNGRY = '''
"""A model whose attention runs out of memory as soon as gradients are recorded."""

import torch


class Hungry:
    CATEGORY, FUNCTION, RETURN_TYPES = "t", "run", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        passes = (["forward", "backward"],)
        return {"required": {"model": ("MODEL",), "where": passes, "times": ("INT", {})}}

    def run(self, model, where, times):
        left = [times]

        def fail(_=None):
            if left[0]:
                left[0] -= 1
                raise torch.cuda.OutOfMemoryError("Allocation on device: out of memory")

        def patch(n, context, value, options):
            if torch.is_grad_enabled() and n.requires_grad:
                fail() if where == "forward" else n.register_hook(fail)
            return n, context, value

        hungry = model.clone()
        hungry.set_model_attn1_patch(patch)
        return (hungry,)


NODE_CLASS_MAPPINGS = {"Hungry": Hungry}
'''


def hungry(graph: Graph, where: str, times: int) -> Graph:
    """The training graph on a model that runs out of memory in its first passes."""
    inputs = {"model": ["model", 0], "where": where, "times": times}
    train = {**graph["train"], "inputs": {**graph["train"]["inputs"], "model": ["hungry", 0]}}
    return {**graph, "hungry": {"class_type": "Hungry", "inputs": inputs}, "train": train}


def training(**more: Any) -> Graph:
    """A graph that trains on the random SD 1.5 checkpoint for a few steps."""
    wires = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2]}
    names = "Ada Lovelace\nAlan Turing\nEmmy Noether\nGrace Hopper"
    texts = {"names": names, "things": "a cat", "people": "a woman"}
    sizes = {"vectors": 6, "behind": 3, "steps": 3, "rate": 0.5, "batch": 3, "micro_batch": 1}
    made = {"width": 64, "height": 64, "pictures_per_name": 1, "picture_steps": 2, "cfg": 5.0}
    rest = {"target": "person", "run_name": "run", "seed": 0, "preview_every": 2}
    inputs = {**wires, **texts, **sizes, **made, **rest, **more}
    return {
        "model": txt2img("")["model"],
        "train": {"class_type": "APL_TrainPrefix", "inputs": inputs},
    }


def test_a_trained_prefix_is_shown_stored_and_used_at_once(host: Host) -> None:
    before = picture(host, txt2img("a cat"))
    assert len(host.run(training()).images()) == 6
    run = host.base / "output" / "apl" / "run"
    assert {"config.toml", "metrics.jsonl", "prefix.safetensors", "state.safetensors"} <= {
        path.name for path in run.iterdir()
    }
    assert list((run / "previews").glob("*.png"))
    stored = read_prefix(host.base / "models" / "apl" / "run.safetensors")
    assert (stored.n, stored.behind, stored.card.names_trained) == (6, 3, 4)
    assert stored.digest == read_prefix(run / "prefix.safetensors").digest
    assert picture(host, txt2img("a cat")) == before
    assert picture(host, applied(txt2img("a cat"), "run")) != before


def on_texts(**more: Any) -> Graph:
    """The same graph without a MODEL and a VAE."""
    graph = training(**more)
    for name in ("model", "vae"):
        del graph["train"]["inputs"][name]
    return graph


def test_texts_alone_are_learned_from_without_a_model(host: Host) -> None:
    done = host.run(on_texts(text_steps=2, run_name="texts"))
    assert done.text("train").startswith("No picture had a part in this prefix")
    assert not done.entry["outputs"]["train"].get("images")
    stored = read_prefix(host.base / "models" / "apl" / "texts.safetensors")
    assert stored.card.recipe.endswith("learned on texts alone") and not stored.card.figures
    before = picture(host, txt2img("a cat"))
    assert picture(host, applied(txt2img("a cat"), "texts")) != before
    with pytest.raises(Refused) as refused:
        host.run(on_texts(run_name="nothing"))
    assert "set text_steps to learn on texts alone" in refused.value.nodes["train"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": " \n"}, "there is no name in it"),
        ({"names": "Ada\nAda"}, "stands there 2 times"),
        ({"target": "description"}, "has no description"),
        ({"run_name": "../up"}, "is not a valid folder name"),
        ({"vectors": 3, "behind": 4}, "cannot stand behind the text"),
        ({"rate": 0.002}, "take the recipe's own"),
        ({"names": "Ada\nAlan\nEmmy"}, "give 4 or more"),
        ({"things": "a cat\nAda Lovelace at sea"}, "it names 'Ada Lovelace'"),
        ({"clip": ["vaeonly", 0]}, "VAE"),
    ],
)
def test_bad_settings_are_said_on_the_node(host: Host, given: dict[str, Any], said: str) -> None:
    graph = training(**given)
    graph["vaeonly"] = {"class_type": "VAELoader", "inputs": {"vae_name": "random_vae.safetensors"}}
    with pytest.raises(Refused) as refused:
        host.run(graph)
    assert said in refused.value.nodes["train"]


def test_an_interrupt_stops_the_graph_and_leaves_the_server_usable(host: Host) -> None:
    before = picture(host, txt2img("a cat"))
    queued = host.queue(training(steps=40, preview_every=0, run_name="long", seed=5))
    metrics = host.base / "output" / "apl" / "long" / "metrics.jsonl"
    deadline = time.monotonic() + 1200
    while not metrics.exists() or metrics.read_text().count("\n") < 11:
        assert time.monotonic() < deadline, host.log()[-3000:]
        time.sleep(0.5)
    host.post("/interrupt", {})
    with pytest.raises(Refused) as refused:
        host.wait(queued, timeout=60)
    assert refused.value.nodes == {"train": "execution_interrupted"}
    assert read_prefix(metrics.with_name("prefix.safetensors")).card.steps == 10
    assert picture(host, txt2img("a cat")) == before


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_is_said_and_leaves_the_server_usable(host: Host, where: str) -> None:
    before = picture(host, txt2img("a cat"))
    graph = training(batch=3, micro_batch=3, preview_every=0, run_name=f"hungry {where}")
    with pytest.raises(Refused) as refused:
        host.run(hungry(graph, where, 1_000))
    assert "not enough memory for one example of 64 x 64" in refused.value.nodes["train"]
    assert picture(host, txt2img("a cat")) == before
    assert host.run(hungry(graph, where, 1)).images()  # a part of the batch fits
    assert picture(host, txt2img("a cat")) == before
