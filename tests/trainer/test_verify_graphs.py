"""Requests that `apl verify` makes up for ComfyUI, from what a server says of its nodes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apl_core.errors import HostError
from apl_trainer.verify.case import PERSON, SALT, Case
from apl_trainer.verify.comfyui_generate import request
from apl_trainer.verify.comfyui_matrix import Matrix
from apl_trainer.verify.comfyui_nodes import Graph
from apl_trainer.verify.comfyui_parts import Parts

INT = ("INT", {"default": 1, "min": 1, "max": 64})
FLOAT = ("FLOAT", {"default": 1.0, "min": -2.0, "max": 3.0})
TEXT = ("STRING", {"multiline": True})
WAYS = (["euler", "heun"],)
SCHEDULES = ("COMBO", {"options": ["normal", "karras"]})  # the newer way of saying so


def node(gives: str, **needs: Any) -> dict[str, Any]:
    told = {slot: [kind] if isinstance(kind, str) else list(kind) for slot, kind in needs.items()}
    return {"input": {"required": told}, "output": gives.split()}


SAMPLED = {
    "model": "MODEL",
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "latent_image": "LATENT",
    "cfg": FLOAT,
}
KNOWN = {
    "CheckpointLoaderSimple": node("MODEL CLIP VAE", ckpt_name=(["tiny"],)),
    "CLIPTextEncode": node("CONDITIONING", clip="CLIP", text=TEXT),
    "EmptyLatentImage": node("LATENT", width=INT, height=INT, batch_size=INT),
    "KSampler": node(
        "LATENT",
        **SAMPLED,
        seed=INT,
        steps=INT,
        sampler_name=WAYS,
        scheduler=SCHEDULES,
        denoise=FLOAT,
    ),
    "KSamplerAdvanced": node(
        "LATENT",
        **SAMPLED,
        noise_seed=INT,
        steps=INT,
        sampler_name=WAYS,
        scheduler=SCHEDULES,
        start_at_step=INT,
        end_at_step=INT,
        add_noise=(["enable"],),
    ),
    "SamplerCustom": node(
        "LATENT LATENT",
        **SAMPLED,
        noise_seed=INT,
        sampler="SAMPLER",
        sigmas="SIGMAS",
        add_noise="BOOLEAN",
    ),
    "SamplerCustomAdvanced": node(
        "LATENT LATENT",
        noise="NOISE",
        guider="GUIDER",
        sampler="SAMPLER",
        sigmas="SIGMAS",
        latent_image="LATENT",
    ),
    "DualCFGGuider": node(
        "GUIDER",
        model="MODEL",
        cond1="CONDITIONING",
        cond2="CONDITIONING",
        negative="CONDITIONING",
        cfg_conds=FLOAT,
    ),
    "RandomNoise": node("NOISE", noise_seed=INT),
    "KSamplerSelect": node("SAMPLER", sampler_name=WAYS),
    "BasicScheduler": node("SIGMAS", model="MODEL", scheduler=SCHEDULES, steps=INT, denoise=FLOAT),
    "VAEDecode": node("IMAGE", samples="LATENT", vae="VAE"),
    "SaveImage": {**node("", images="IMAGE", filename_prefix="STRING"), "output_node": True},
    "FreSca": node("MODEL", model="MODEL", scale_low=FLOAT, scale_high=FLOAT, freq_cutoff=INT),
    "Merge": node("MODEL", model1="MODEL", model2="MODEL", ratio=FLOAT),
    "Skip": node(
        "CLIP", clip="CLIP", stop_at_clip_layer=("INT", {"default": -1, "min": -24, "max": -1})
    ),
    "Turn": node("CONDITIONING CONDITIONING", positive="CONDITIONING", negative="CONDITIONING"),
    "Both": node("CONDITIONING", conditioning_1="CONDITIONING", conditioning_2="CONDITIONING"),
    "Strange": node("CONDITIONING", text=TEXT, clip="CLIP", anything="SOMETHING"),
    "Files": node("MODEL", model="MODEL", name=([],)),
    "CLIPSave": node("CLIP", clip="CLIP"),
    "APL_ApplyPrefix": node("CLIP", clip="CLIP"),
}
BETWEEN = {"FreSca", "Merge", "Skip", "Turn", "Both"}


def made(number: int, seed: int = 0, known: dict[str, Any] = KNOWN) -> Case:
    return request(known, "tiny", 32, seed, number)


def graph_of(number: int) -> Graph:
    return made(number).bodies[0]["prompt"]


def test_a_number_is_the_same_request_for_its_seed() -> None:
    assert made(7) == made(7)
    assert made(7) != made(8) and made(7).bodies != made(7, seed=1).bodies


@pytest.mark.parametrize("number", range(40))
def test_every_request_is_whole_and_names_the_person(number: int) -> None:
    graph = graph_of(number)
    texts = [str(one["inputs"].get("text")) for one in graph.values()]
    assert any(PERSON in text and SALT in text for text in texts)
    missing = sum(
        slot not in one["inputs"]
        for one in graph.values()
        for slot in KNOWN[one["class_type"]]["input"]["required"]
    )
    assert missing <= 1  # one in fifty lacks an input on purpose
    for one in graph.values():
        for value in one["inputs"].values():
            if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
                gives = KNOWN[graph[value[0]]["class_type"]]["output"]
                assert -len(gives) <= value[1] < len(gives)


def test_every_node_that_can_stand_between_does_and_no_other() -> None:
    used = {one["class_type"] for number in range(60) for one in graph_of(number).values()}
    assert used >= BETWEEN | {"KSampler", "KSamplerAdvanced", "SamplerCustom", "DualCFGGuider"}
    assert not used & {"Files", "Strange", "CLIPSave", "APL_ApplyPrefix"}


def test_numbers_come_at_both_ends_and_links_in_every_form() -> None:
    graphs = [graph_of(number) for number in range(200)]
    scales = {
        n["inputs"]["scale_low"]
        for g in graphs
        for n in g.values()
        if n["class_type"] == "FreSca" and isinstance(n["inputs"].get("scale_low"), float)
    }
    assert {-2.0, 3.0} <= scales
    values = [value for g in graphs for n in g.values() for value in n["inputs"].values()]
    assert any(isinstance(one, dict) and "__value__" in one for one in values)
    assert any(isinstance(one, list) and one[1] == -1 for one in values)
    assert any("extra_data" in made(number).bodies[0] for number in range(60))
    sizes = [n["inputs"]["width"] for g in graphs for n in g.values() if "width" in n["inputs"]]
    assert max(one for one in sizes if isinstance(one, int)) <= 64
    layers = [
        n["inputs"]["stop_at_clip_layer"]
        for g in graphs
        for n in g.values()
        if isinstance(n["inputs"].get("stop_at_clip_layer"), int)
    ]
    assert {-24, -1} <= set(layers) and max(layers) == -1


def test_a_server_without_the_stock_nodes_is_told() -> None:
    with pytest.raises(HostError, match="make requests up"):
        for number in range(20):
            made(number, known={name: KNOWN[name] for name in ("CheckpointLoaderSimple", "FreSca")})


def test_the_matrix_has_what_the_server_has_nodes_for() -> None:
    cases = {case.name: case for case in Matrix(KNOWN, "tiny", 32, 2, "house").cases()}
    assert next(iter(cases)) == "plain"
    assert {"link of index -1", "link in __value__", "negative drawn by FreSca"} <= set(cases)
    assert {"turned round by Turn", "unknown node", "node without inputs"} <= set(cases)
    assert "encoded by CLIPTextEncode" in cases and "encoded by Strange" not in cases
    assert "LoRA" not in cases and "hires fix" not in cases
    odd = cases["extra data {'extra_pnginfo': 5}"]
    assert odd.bodies[0]["extra_data"] == {"extra_pnginfo": 5} and "extra_data" not in odd.bare[0]
    for case in cases.values():  # a comparison with another seed would show nothing
        seeds = {
            str(body["prompt"]["sampler"]["inputs"].get("seed"))
            for body in (case.bodies[0], *case.bare)
        }
        assert len(seeds) == 1, case.name
    named = [case for case in cases.values() if PERSON in str(case.bodies)]
    assert {case.name for case in cases.values()} - {case.name for case in named} == set()


SIZES = ("width", "height", "batch_size")
OWN: Graph = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "z"}},
    "2": {"class_type": "Shift", "inputs": {"model": ["1", 0], "shift": 3.0}},
    "3": {"class_type": "CLIPLoader", "inputs": {"clip_name": "q"}},
    "4": {"class_type": "VAELoader", "inputs": {"vae_name": "v"}},
    "5": {"class_type": "APL_ApplyPrefix", "inputs": {"clip": ["3", 0], "prefix": ["9", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["5", 0], "text": "a"}},
    "7": {"class_type": "EmptySD3LatentImage", "inputs": dict.fromkeys(SIZES, 1024)},
    "8": {
        "class_type": "KSampler",
        "inputs": {"model": ["2", 0], "positive": ["6", 0], "latent_image": ["7", 0]},
    },
    "10": {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["4", 0]}},
}


def test_requests_are_drawn_with_the_loaders_of_another_graph() -> None:
    parts = Parts.of(OWN)
    assert set(parts.nodes) == {"own 1", "own 2", "own 3", "own 4"}
    cases = Matrix(KNOWN, "tiny", 64, 1, "house").cases()
    made = {case.name: parts.put(case) for case in cases}
    plain = made["plain"]
    assert plain is not None
    graph = plain.bodies[0]["prompt"]
    assert graph["pos"]["inputs"]["clip"] == ["own 3", 0]
    assert graph["sampler"]["inputs"]["model"] == ["own 2", 0]
    assert graph["own 2"]["inputs"]["model"] == ["own 1", 0]
    assert graph["latent"] == {**OWN["7"], "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    assert made["encoder by index -2"] is None  # of one loader's outputs
    told = json.dumps([case.bodies for case in made.values() if case])
    assert '["model", ' not in told and "tiny" not in told


@pytest.mark.parametrize("lost", ["6", "7", "8", "10"])
def test_a_graph_without_a_part_is_refused_in_words(lost: str) -> None:
    graph = {name: told for name, told in OWN.items() if name != lost}
    with pytest.raises(HostError, match="it has no"):
        Parts.of(graph)
