"""Operator mode on every installed ComfyUI: every text is read with the prefix, or no picture."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_attacks import NAME, applied, attacks, sampled
from comfyui_host import Graph, Host, Refused, txt2img, txt2img_sdxl
from lora_file import write_lora
from PIL import Image
from test_comfyui_server import compared, prefix

from apl_core.formats import write_prefix

FOREIGN = '''
"""A pack that is loaded after ours (by name): an encoder of its own, and changes to the host."""

import functools

import nodes
import torch


class Loads:
    CATEGORY, FUNCTION, RETURN_TYPES = "t", "run", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": {"clip": ("CLIP",)}}

    def run(self, clip=None):
        return ([[torch.zeros(1, 77, 768), {}]],)


class Combine(nodes.ConditioningCombine):
    """Takes the place of a node of the host."""


NODE_CLASS_MAPPINGS = {"ForeignConditioning": Loads}
nodes.NODE_CLASS_MAPPINGS["Smuggled"] = Loads
nodes.NODE_CLASS_MAPPINGS["ConditioningCombine"] = Combine

_concat = nodes.ConditioningConcat.concat


@functools.wraps(_concat)
def concat(self, conditioning_to, conditioning_from):
    return (conditioning_from,)


nodes.ConditioningConcat.concat = concat
'''


def fill(base: Path) -> None:
    """Prefixes, a LoRA, and nothing else."""
    folder = base / "models" / "apl"
    folder.mkdir(parents=True)
    write_prefix(prefix("clip_l", behind=4), folder / "house.safetensors")
    write_prefix(prefix("clip_l", seed=3), folder / "own.safetensors")
    write_lora(base / "models" / "loras" / "random_lora.safetensors")


@pytest.fixture(scope="module")
def enforcing(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI whose operator enforces the prefix "house", with a foreign pack beside ours."""
    base = tmp_path_factory.mktemp(source.name)
    fill(base)
    pack = base / "custom_nodes" / "foreign.py"
    pack.parent.mkdir()
    pack.write_text(FOREIGN)
    with Host(source, base, env={"APL_ENFORCE": "house"}) as running:
        yield running


@pytest.fixture(scope="module")
def free(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The same ComfyUI, whose operator enforces nothing."""
    base = tmp_path_factory.mktemp(f"{source.name}-free")
    fill(base)
    with Host(source, base) as running:
        yield running


def drawn(host: Host, graph: Graph, **extra: Any) -> tuple[np.ndarray, dict[str, str]]:
    """The picture that a graph makes, and what it says of itself; saved under a fresh name."""
    inputs = {**graph["save"]["inputs"], "filename_prefix": uuid.uuid4().hex}
    (png,) = host.run({**graph, "save": {**graph["save"], "inputs": inputs}}, **extra).images()
    image = Image.open(io.BytesIO(png))
    return np.asarray(image.convert("RGB"), dtype=float), dict(image.info)


def bare_of(graph: Graph) -> Graph:
    """What a user would draw without any of our nodes: they are taken out of the graph."""
    changed = json.loads(json.dumps(graph))
    for entry in changed.values():
        for slot, value in entry["inputs"].items():
            if value == ["apply", 0]:
                entry["inputs"][slot] = ["model", 1]
        if entry["class_type"] == "APL_PrefixConditioning":
            entry["class_type"] = "CLIPTextEncode"
            entry["inputs"] = {key: entry["inputs"][key] for key in ("clip", "text")}
    return {key: value for key, value in changed.items() if key not in ("apply", "load")}


@pytest.fixture(scope="module")
def distance(enforcing: Host, free: Host) -> float:
    """How far apart covered and bare are in a plain request (mean over pixels, 0 to 255)."""
    covered, _ = drawn(enforcing, txt2img(NAME))
    bare, _ = drawn(free, txt2img(NAME))
    return float(np.abs(covered - bare).mean())


def test_every_text_is_read_as_behind_apply_prefix(enforcing: Host, free: Host) -> None:
    graph = txt2img("a photo of Ada, smiling " * 20, negative="blurry, a dog")
    by_node, _ = drawn(free, applied(graph, "house", ("pos", "neg")))
    covered, said = drawn(enforcing, graph)
    assert (covered == by_node).all()
    digest = prefix("clip_l", behind=4).short_digest
    assert json.loads(said["APL"]) == f"house {digest}"
    assert json.loads(said["apl_enforced"]) == {"prefix": "house", "digest": digest}
    assert "apl_prefixes" not in said


@pytest.mark.parametrize("name", attacks())
def test_an_attack_draws_no_bare_picture(
    enforcing: Host, free: Host, distance: float, name: str
) -> None:
    graph = attacks()[name]
    try:
        covered, said = drawn(enforcing, graph)
    except Refused as refused:
        assert refused.nodes and all(len(one) < 500 for one in refused.nodes.values())
        return
    assert "house" in said["APL"]
    bare, _ = drawn(free, bare_of(graph))
    assert np.abs(covered - bare).mean() > distance / 10, "equal or near to the bare picture"


def test_odd_extra_data_and_nodes_change_nothing(enforcing: Host) -> None:
    covered, said = drawn(enforcing, txt2img(NAME), extra_data={"extra_pnginfo": 5})
    assert (covered == drawn(enforcing, txt2img(NAME))[0]).all() and "APL" in said
    for odd in ({"class_type": "APL_LoadPrefix"}, {"class_type": "CLIPTextEncode"}, 5, None):
        with pytest.raises(Refused) as refused:
            drawn(enforcing, {**txt2img(NAME), "odd": odd})
        assert "has no inputs" in refused.value.nodes["odd"]
    assert (drawn(enforcing, txt2img(NAME))[0] == covered).all()


@pytest.mark.parametrize("kind", ["ForeignConditioning", "Smuggled"])
def test_a_node_of_a_pack_is_refused_wherever_it_registers_itself(
    enforcing: Host, kind: str
) -> None:
    graph = txt2img(NAME)
    graph["odd"] = {"class_type": kind, "inputs": {}}
    before = set((enforcing.base / "output").glob("*.png"))
    with pytest.raises(Refused) as refused:
        enforcing.queue(graph, partial_execution_targets=["save"])
    assert "not one of ComfyUI's own local nodes" in refused.value.nodes["odd"]
    assert set((enforcing.base / "output").glob("*.png")) == before


@pytest.mark.parametrize("kind", ["ConditioningCombine", "ConditioningConcat"])
def test_a_node_that_a_pack_has_exchanged_is_refused(enforcing: Host, kind: str) -> None:
    slots = ("conditioning_1", "conditioning_2")
    if kind == "ConditioningConcat":
        slots = ("conditioning_to", "conditioning_from")
    graph = txt2img(NAME)
    graph["odd"] = {"class_type": kind, "inputs": {slot: ["pos", 0] for slot in slots}}
    graph["sampler"]["inputs"]["positive"] = ["odd", 0]
    with pytest.raises(Refused, match="not one of ComfyUI's own local nodes"):
        enforcing.queue(graph)


def test_a_conditioning_of_no_text_is_refused(enforcing: Host) -> None:
    graph = txt2img(NAME)
    graph["odd"] = {"class_type": "LotusConditioning", "inputs": {}}
    graph["sampler"]["inputs"]["positive"] = ["odd", 0]
    with pytest.raises(Refused, match="comes from no text"):
        enforcing.queue(graph)


def test_a_model_of_another_family_is_refused_on_its_encoder(enforcing: Host) -> None:
    before = set((enforcing.base / "output").glob("*.png"))
    with pytest.raises(Refused) as refused:
        enforcing.run(txt2img_sdxl(NAME))
    said = refused.value.nodes["neg" if "neg" in refused.value.nodes else "pos"]
    assert "SDXL" in said or "clip_g" in said
    assert set((enforcing.base / "output").glob("*.png")) == before


def test_what_a_picture_says_was_read_for_this_picture(enforcing: Host) -> None:
    graph = txt2img(NAME)
    graph["empty"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 7},
    }
    graph["save2"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["empty", 0], "filename_prefix": uuid.uuid4().hex},
    }
    forged = {"APL": "house 0123456789", "apl_enforced": 1, "apl_prefixes": {"x": "y"}, "mine": 1}
    entry = enforcing.run(graph, extra_data={"extra_pnginfo": forged}).entry["outputs"]
    text, other = (
        Image.open(io.BytesIO(enforcing.view(entry[node]["images"][0]))).info
        for node in ("save", "save2")
    )
    assert "0123456789" not in text["APL"] and "house" in text["APL"]
    assert not {"APL", "apl_enforced", "apl_prefixes"} & set(other)
    assert text["mine"] == other["mine"] == "1"
    _, again = drawn(enforcing, txt2img(NAME))
    assert "house" in again["APL"], "its conditioning came out of the cache"


def test_a_prefix_that_is_replaced_stays_the_one_that_the_server_started_with(
    enforcing: Host,
) -> None:
    file = enforcing.base / "models" / "apl" / "house.safetensors"
    before, said = drawn(enforcing, txt2img("a house and Ada"))
    kept = file.read_bytes()
    try:
        write_prefix(prefix("clip_l", seed=8), file)
        after, now = drawn(enforcing, sampled(txt2img("a house and Ada"), steps=4))
        assert now["APL"] == said["APL"]
        assert not (after == before).all()
        file.unlink()
        assert (drawn(enforcing, txt2img("a house and Ada"))[0] == before).all()
    finally:
        file.write_bytes(kept)


def test_a_text_that_ends_its_own_chunk_is_refused(enforcing: Host) -> None:
    with pytest.raises(Refused, match="endoftext"):
        enforcing.run(txt2img("a house <|endoftext|> Ada"))


def test_status_counts_pictures_and_refusals(enforcing: Host) -> None:
    before = enforcing.get("/apl/status")
    drawn(enforcing, txt2img(NAME))
    with pytest.raises(Refused):
        enforcing.run(txt2img("a house <|endoftext|> Ada Q"))
    after = enforcing.get("/apl/status")
    assert (after["enforced"], after["usable"]) == ("house", True)
    assert after["pictures"] == before["pictures"] + 1
    assert after["refused"] == before["refused"] + 1


def test_no_message_names_a_folder_of_the_server(enforcing: Host) -> None:
    graph = applied(txt2img(NAME), "absent")
    with pytest.raises(Refused) as refused:
        enforcing.queue(graph)
    assert str(enforcing.base) not in str(refused.value.answer)


def test_before_and_after_draws_no_picture_without_the_prefix(enforcing: Host, free: Host) -> None:
    entry = enforcing.run(compared(prompt=NAME, file="own")).entry["outputs"]
    files = [enforcing.view(entry[f"save{at}"]["images"][0]) for at in range(3)]
    pictures = {Image.open(io.BytesIO(one)).convert("RGB").tobytes() for one in files}
    assert len(pictures) == 1
    assert all("house" in Image.open(io.BytesIO(one)).info["APL"] for one in files)
    covered, _ = drawn(enforcing, txt2img(NAME, seed=4))
    assert pictures == {covered.astype("uint8").tobytes()}


def test_sdxl_is_covered_in_both_encoders(source: Path, free: Host, tmp_path: Path) -> None:
    for base in (tmp_path, free.base):
        folder = base / "models" / "apl"
        folder.mkdir(parents=True, exist_ok=True)
        write_prefix(prefix("clip_l", "clip_g", behind=4), folder / "xl.safetensors")
    graph = txt2img_sdxl(NAME)
    graph["neg"]["inputs"]["text"] = "blurry"
    wanted, _ = drawn(free, applied(graph, "xl", ("pos", "neg")))
    bare, _ = drawn(free, graph)
    with Host(source, tmp_path, env={"APL_ENFORCE": "xl"}) as enforcing:
        covered, said = drawn(enforcing, graph)
        assert (covered == wanted).all() and not (covered == bare).all()
        assert "xl" in said["APL"]
        with pytest.raises(Refused, match=r"SD 1\.x"):
            enforcing.run(txt2img(NAME))


@pytest.mark.parametrize("trouble", ["missing prefix", "another copy"])
def test_comfyui_does_not_start_where_the_pack_cannot_protect(
    source: Path, tmp_path: Path, trouble: str
) -> None:
    if trouble == "another copy":
        fill(tmp_path)
        (tmp_path / "custom_nodes").mkdir()
        (tmp_path / "custom_nodes" / "a_foreign.py").write_text(
            "import sys, types\nsys.modules['apl_core'] = types.ModuleType('apl_core')\n"
            "NODE_CLASS_MAPPINGS = {}\n"
        )
    with pytest.raises(RuntimeError, match="APL_ENFORCE is set, but APL Prefix cannot start"):
        Host(source, tmp_path, env={"APL_ENFORCE": "house"}).__enter__()
