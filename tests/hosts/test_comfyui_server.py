"""Whole graphs through the HTTP API of every installed ComfyUI, on random checkpoints."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_host
import comfyui_thin
import numpy as np
import pytest
import torch
from comfyui_attacks import applied
from comfyui_examples import completed, examples, on_random_weights, runs_on, to_workflow
from comfyui_host import Graph, Host, Refused, txt2img, txt2img_sdxl
from PIL import Image
from safetensors.torch import save_file

from apl_core.formats import write_prefix
from apl_core.prefix import WIDTHS, Prefix

EXAMPLES = examples()
PROMPT = "a photo of Ada Lovelace, (smiling:1.2)"
NODES = (
    "APL_PrefixConditioning",
    "APL_ApplyPrefix",
    "APL_LoadPrefix",
    "APL_PrefixInfo",
    "APL_TrainPrefix",
    "APL_IdentityCheck",
    "APL_BeforeAfter",
)
"""Public ids: they never change."""


def prefix(*keys: str, seed: int = 0, behind: int = 0) -> Prefix:
    """Ten random vectors for each encoder."""
    generator = torch.Generator().manual_seed(seed)
    return Prefix(
        {key: torch.randn((10, WIDTHS[key]), generator=generator) * 0.05 for key in keys}, behind
    )


@pytest.fixture(scope="module")
def host(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running ComfyUI with the pack and some prefixes."""
    base = tmp_path_factory.mktemp(source.name)
    folder, embeddings = base / "models" / "apl", base / "models" / "embeddings"
    folder.mkdir(parents=True)
    embeddings.mkdir()
    write_prefix(prefix("clip_l"), folder / "front.safetensors")
    write_prefix(prefix("clip_l"), embeddings / "front.safetensors")
    write_prefix(prefix("clip_l", behind=4), folder / "bracket.safetensors")
    write_prefix(prefix("clip_l", "clip_g", behind=4), folder / "xl.safetensors")
    write_prefix(prefix("clip_l", behind=4), folder / "my-prefix.safetensors")
    write_prefix(prefix("clip_l", "clip_g", behind=4), folder / "my-sdxl-prefix.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    comfyui_thin.write_prefixes(base)
    comfyui_thin.pack(base)
    with Host(source, base) as running:
        yield running


def pixels(png: bytes) -> bytes:
    """The picture without its metadata."""
    return Image.open(io.BytesIO(png)).convert("RGB").tobytes()


def picture(host: Host, graph: Graph) -> bytes:
    """The pixels of the one picture that a graph makes; a new file, so that it is always saved."""
    inputs = {**graph["save"]["inputs"], "filename_prefix": uuid.uuid4().hex}
    (png,) = host.run({**graph, "save": {**graph["save"], "inputs": inputs}}).images()
    return pixels(png)


def conditioned(graph: Graph, file: str) -> Graph:
    """The graph with APL Prefix Conditioning as the positive text's encoder."""
    inputs = {**graph["pos"]["inputs"], "prefix": ["load", 0], "start": 0.0, "end": 1.0}
    pos = {"class_type": "APL_PrefixConditioning", "inputs": inputs}
    load = {"class_type": "APL_LoadPrefix", "inputs": {"file": file}}
    return {**graph, "load": load, "pos": pos}


def beside(graph: Graph, file: str = "front") -> Graph:
    """The graph with a second picture that is drawn without the prefix."""
    graph = applied(graph, file)
    graph["bare"] = {**graph["pos"], "inputs": {**graph["pos"]["inputs"], "clip": ["model", 1]}}
    for node, takes, source in (
        ("sampler", "positive", "bare"),
        ("decode", "samples", "sampler2"),
        ("save", "images", "decode2"),
    ):
        graph[f"{node}2"] = {**graph[node], "inputs": {**graph[node]["inputs"], takes: [source, 0]}}
    return graph


def by_family(family: str) -> Graph:
    """A picture of a newer family's thin model."""
    graph = txt2img(PROMPT, steps=2)
    for name, kind in (("model", "TestModel"), ("clip", "TestClip"), ("vae", "TestVae")):
        graph[name] = {"class_type": kind, "inputs": {"family": family}}
    graph["pos"]["inputs"]["clip"] = graph["neg"]["inputs"]["clip"] = ["clip", 0]
    graph["decode"]["inputs"]["vae"] = ["vae", 0]
    return graph


def test_without_our_nodes_the_picture_is_the_hosts_own(host: Host, tmp_path: Path) -> None:
    told = host.get("/object_info/TestClip")["TestClip"]["input"]["required"]["family"][0]
    graphs = {one: by_family(one) for one in ("Z-Image", "Qwen-Image") if one in told}
    covered = {
        one: picture(host, applied(graph, comfyui_thin.file_of(one)))
        for one, graph in graphs.items()
    }
    comfyui_thin.pack(tmp_path)
    with Host(host.source, tmp_path, with_pack=False) as bare:
        assert picture(host, txt2img(PROMPT)) == picture(bare, txt2img(PROMPT))
        for one, graph in graphs.items():  # also behind one with the prefix
            assert picture(host, graph) == picture(bare, graph) != covered[one]


def test_three_ways_make_the_same_picture(host: Host) -> None:
    by_clip = picture(host, applied(txt2img(PROMPT), "front"))
    assert by_clip == picture(host, conditioned(txt2img(PROMPT), "front"))
    assert by_clip == picture(host, txt2img(f"embedding:front {PROMPT}"))
    assert by_clip != picture(host, txt2img(PROMPT))
    assert by_clip != picture(host, applied(txt2img(PROMPT), "bracket"))


def test_sdxl(host: Host) -> None:
    by_clip = picture(host, applied(txt2img_sdxl(PROMPT), "xl"))
    assert by_clip == picture(host, conditioned(txt2img_sdxl(PROMPT), "xl"))
    assert by_clip != picture(host, txt2img_sdxl(PROMPT))


def test_with_and_without_prefix_in_one_graph_and_again_from_the_cache(host: Host) -> None:
    plain, prefixed = txt2img(PROMPT, seed=5), applied(txt2img(PROMPT, seed=5), "bracket")
    both = beside(plain, "bracket")
    entry = host.run(both).entry["outputs"]
    found = [pixels(host.view(entry[node]["images"][0])) for node in ("save", "save2")]
    assert found == [picture(host, prefixed), picture(host, plain)]
    assert found[0] != found[1]


def test_a_replaced_file_gives_another_picture_at_once(host: Host) -> None:
    file = host.base / "models" / "apl" / "changing.safetensors"
    write_prefix(prefix("clip_l", seed=1), file)
    graph = applied(txt2img(PROMPT), "changing")
    before = picture(host, graph)
    write_prefix(prefix("clip_l", seed=2), file)
    assert picture(host, graph) != before
    write_prefix(prefix("clip_l", seed=1), file)
    assert picture(host, graph) == before


@pytest.mark.parametrize(
    ("file", "node", "said"),
    [
        ("absent", "load", "there is none"),
        ("broken", "load", "broken.safetensors"),
        ("../front", "load", "only dots"),
        ("xl", "apply", "the loaded checkpoint is SD 1.x (clip_l 768)"),
    ],
)
def test_what_is_in_the_way_is_said_on_its_node_and_no_picture_is_made(
    host: Host, file: str, node: str, said: str
) -> None:
    before = set((host.base / "output").glob("*.png"))
    with pytest.raises(Refused) as refused:
        host.run(applied(txt2img(PROMPT), file))
    assert said in refused.value.nodes[node]
    assert "Traceback" not in refused.value.nodes[node]
    assert set((host.base / "output").glob("*.png")) == before
    assert picture(host, txt2img("the server still works"))


def test_the_picture_names_the_prefix_and_its_digest(host: Host) -> None:
    (png,) = host.run(applied(txt2img(PROMPT, seed=9), "front")).images()
    text = Image.open(io.BytesIO(png)).info
    assert json.loads(text["apl_prefixes"]) == {"front": prefix("clip_l").short_digest}
    assert json.loads(text["prompt"])["load"]["inputs"] == {"file": "front"}
    (png,) = host.run(txt2img(PROMPT, seed=9)).images()
    assert "apl_prefixes" not in Image.open(io.BytesIO(png)).info


def dangling(graph: Graph) -> Graph:
    """The graph as the page sends it where APL Apply Prefix is bypassed."""
    graph = applied(graph, "front")
    graph["pos"]["inputs"]["clip"] = graph.pop("apply")["inputs"]["clip"]
    return graph


@pytest.mark.parametrize("graph", [dangling, beside])
def test_a_picture_names_no_prefix_that_was_not_used_for_it(host: Host, graph: Any) -> None:
    for png in host.run(graph(txt2img(PROMPT, seed=10))).images():
        assert "apl_prefixes" not in Image.open(io.BytesIO(png)).info


def test_a_picture_names_the_file_as_it_was_when_it_was_read(host: Host) -> None:
    file = host.base / "models" / "apl" / "queued.safetensors"
    write_prefix(prefix("clip_l", seed=1), file)
    first = host.queue(txt2img("something that takes its time", steps=40))
    second = host.queue(applied(txt2img(PROMPT, seed=11), "queued"))
    write_prefix(prefix("clip_l", seed=2), file)
    assert host.wait(first).images()
    (png,) = host.wait(second).images()
    said = json.loads(Image.open(io.BytesIO(png)).info["apl_prefixes"])
    assert said == {"queued": prefix("clip_l", seed=2).short_digest}


def merging(kind: str, covered: str) -> Graph:
    """A graph that takes the CLIP of APL Apply Prefix into a node that reads its weights."""
    graph = applied(txt2img(PROMPT, seed=12), "front")
    graph["late"] = {
        "class_type": "CLIPSetLastLayer",
        "inputs": {"clip": ["apply", 0], "stop_at_clip_layer": -2},
    }
    plain = {"CLIPMergeSimple": {"ratio": 0.5}, "CLIPMergeAdd": {}, "CLIPMergeSubtract": {}}
    if kind in plain:
        slots = {"clip1": ["model", 1], "clip2": ["model", 1], covered: ["late", 0]}
        graph["odd"] = {"class_type": kind, "inputs": {**slots, **plain[kind]}}
        if kind == "CLIPMergeSubtract":  # of equal weights nothing would be left
            twice = {"clip1": ["model", 1], "clip2": ["model", 1]}
            graph["twice"] = {"class_type": "CLIPMergeAdd", "inputs": twice}
            other = "clip1" if covered == "clip2" else "clip2"
            graph["odd"]["inputs"] |= {other: ["twice", 0], "multiplier": 0.3}
        graph["pos"]["inputs"]["clip"] = ["odd", 0]
    elif kind == "CLIPSave":
        inputs = {"clip": ["late", 0], "filename_prefix": "clip/apl"}
        graph["odd"] = {"class_type": kind, "inputs": inputs}
    else:
        inputs = {"model": ["model", 0], "clip": ["late", 0], "vae": ["model", 2]}
        graph["odd"] = {"class_type": kind, "inputs": {**inputs, "filename_prefix": "apl/c"}}
    return graph


MERGES = ("CLIPMergeSimple", "CLIPMergeAdd", "CLIPMergeSubtract")


@pytest.mark.parametrize("kind", [*MERGES, "CLIPSave", "CheckpointSave"])
def test_weights_of_a_prefixed_clip_are_not_taken_without_the_prefix(host: Host, kind: str) -> None:
    with pytest.raises(Refused, match="carries a prefix") as refused:
        host.run(merging(kind, "clip2"))
    assert "odd" in refused.value.nodes


@pytest.mark.parametrize("kind", MERGES)
def test_a_merge_into_a_prefixed_clip_keeps_the_prefix(host: Host, kind: str) -> None:
    covered = picture(host, merging(kind, "clip1"))
    graph = merging(kind, "clip1")
    del graph["load"], graph["apply"]
    graph["late"]["inputs"]["clip"] = ["model", 1]
    assert covered != picture(host, graph)


def test_an_empty_range_of_steps_is_said_once_and_on_its_node(host: Host) -> None:
    graph = conditioned(txt2img(PROMPT), "front")
    graph["pos"]["inputs"].update(start=0.8, end=0.2)
    with pytest.raises(Refused) as refused:
        host.run(graph)
    assert refused.value.nodes["pos"].count("from 0.8 to 0.2") == 1


def test_info_is_shown(host: Host) -> None:
    graph = applied(txt2img(PROMPT), "bracket")
    graph["info"] = {
        "class_type": "APL_PrefixInfo",
        "inputs": {"prefix": ["load", 0], "clip": ["model", 1]},
    }
    assert "SD 1.x (clip_l 768)" in host.run(graph).text("info")


@pytest.mark.parametrize("node", NODES)
def test_every_input_and_output_is_explained_in_two_languages(host: Host, node: str) -> None:
    info = host.get(f"/object_info/{node}")[node]
    assert info["description"]
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    assert all(declared[1].get("tooltip") for declared in inputs.values())
    assert all(info["output_tooltips"])
    texts = host.get("/i18n")
    english = texts["en"]["nodeDefs"][node]
    assert english["description"] == info["description"]
    assert english["display_name"] == info["display_name"]
    for slot, declared in inputs.items():
        assert english["inputs"][slot]["tooltip"] == declared[1]["tooltip"]
    for at, tooltip in enumerate(info["output_tooltips"]):
        assert english["outputs"][str(at)]["tooltip"] == tooltip
    for language in ("en", "zh"):
        said = texts[language]["nodeDefs"][node]
        assert said["display_name"] and said["description"]
        assert said.get("inputs", {}).keys() == inputs.keys()
        assert said.get("outputs", {}).keys() == {str(at) for at in range(len(info["output"]))}


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_help_page(host: Host, node: str) -> None:
    for page in (f"{node}.md", f"{node}/zh.md"):
        served = host.raw(f"/extensions/apl-prefix/docs/{page}").decode()
        assert served.startswith("# ")


def test_nodes_are_found_by_what_they_are_for(host: Host) -> None:
    info = host.get("/object_info")
    if "search_aliases" not in info["CLIPTextEncode"]:
        pytest.skip("this ComfyUI has no such list")
    ours = [node for node in info if node.startswith("APL_") and node != "APL_Refused"]
    assert len(ours) >= 6  # the one left out is put into graphs that are refused
    for node in ours:
        assert {"anonymize", "face", "privacy"} <= set(info[node]["search_aliases"]), node


def test_example_workflows_are_offered_with_pictures(host: Host) -> None:
    names = host.get("/workflow_templates")["apl-prefix"]
    assert sorted(names) == sorted(EXAMPLES)
    for name in names:
        assert host.raw(f"/api/workflow_templates/apl-prefix/{name}.jpg")[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_workflows_hold_their_graph_and_run(host: Host, name: str) -> None:
    info = host.get("/object_info")
    stored = host.get(f"/api/workflow_templates/apl-prefix/{name}.json")
    graph = EXAMPLES[name]
    thin = on_random_weights(graph)
    if not runs_on({**graph, **thin}, info):
        pytest.skip("this ComfyUI does not know the family")
    assert content(stored) == content(to_workflow(graph, info)), "run comfyui_examples.py again"
    assert host.run(completed(thin, info)).images()


def content(workflow: dict[str, Any]) -> list[Any]:
    """What a workflow does, without the places of its nodes (some have fewer inputs elsewhere)."""
    parts = ("id", "type", "widgets_values")
    nodes = [[node[part] for part in parts] for node in workflow["nodes"]]
    return [nodes, [link[1:4] for link in workflow["links"]]]


def compared(file: str = "bracket", **inputs: Any) -> Graph:
    """A graph with APL Before and After, all of whose pictures are saved."""
    graph = applied(txt2img(PROMPT, seed=4), file)
    plain = {"model": graph["model"], "load": graph["load"]}
    told = {"prompt": PROMPT, "negative": "", "seed": 4, "steps": 3, "cfg": 7.0}
    wires = {name: ["model", at] for at, name in enumerate(("model", "clip", "vae"))}
    sizes = {"width": 64, "height": 64, "sampler_name": "euler", "scheduler": "normal"}
    taken = {**wires, "prefix": ["load", 0], **told, **sizes, **inputs}
    plain["both"] = {"class_type": "APL_BeforeAfter", "inputs": taken}
    for at in range(3):
        saved = {"images": ["both", at], "filename_prefix": f"{uuid.uuid4().hex}"}
        plain[f"save{at}"] = {"class_type": "SaveImage", "inputs": saved}
    return plain


def test_before_and_after_are_the_pictures_of_two_stock_graphs(host: Host) -> None:
    entry = host.run(compared()).entry["outputs"]
    pngs = [host.view(entry[f"save{at}"]["images"][0]) for at in range(3)]
    both, before, after = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs)
    assert (both == np.concatenate([before, after], axis=1)).all()
    stock = txt2img(PROMPT, seed=4)
    assert before.tobytes() == picture(host, stock)
    assert after.tobytes() == picture(host, applied(stock, "bracket"))
    assert before.tobytes() != after.tobytes()
    assert all("apl_prefixes" not in Image.open(io.BytesIO(png)).info for png in pngs)


def test_before_and_after_wants_a_clip_without_the_prefix(host: Host) -> None:
    graph = {**compared(clip=["apply", 0]), "apply": applied(txt2img(PROMPT), "bracket")["apply"]}
    with pytest.raises(Refused) as refused:
        host.run(graph)
    assert "has this prefix already" in refused.value.nodes["both"]


def identity(text: str, other: str) -> Graph:
    """A graph that compares the faces of two pictures."""
    graph = txt2img(text)
    graph["pos2"] = {**graph["pos"], "inputs": {**graph["pos"]["inputs"], "text": other}}
    for node, takes, source in (("sampler", "positive", "pos2"), ("decode", "samples", "sampler2")):
        inputs = {**graph[node]["inputs"], takes: [source, 0]}
        graph[f"{node}2"] = {**graph[node], "inputs": inputs}
    images = {"image": ["decode", 0], "other": ["decode2", 0]}
    graph["check"] = {"class_type": "APL_IdentityCheck", "inputs": images}
    return graph


def test_the_identity_check_says_what_it_lacks(host: Host) -> None:
    with pytest.raises(Refused) as refused:
        host.run(identity(PROMPT, PROMPT))
    assert "facexlib is not installed in ComfyUI's environment" in refused.value.nodes["check"]


def test_the_identity_check_with_facexlib_and_random_weights(host: Host, tmp_path: Path) -> None:
    packages = [importlib.util.find_spec(name) for name in ("facexlib", "cv2")]
    same = subprocess.run(
        [str(comfyui_host.python(host.source)), "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    )
    if not all(packages) or same.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        pytest.skip("facexlib is not installed here, or for another Python than the host's")
    from apl_trainer.readers.facexlib import new_networks, weights_of

    lent = tmp_path / "lent"
    lent.mkdir()
    for package in packages:
        assert package and package.submodule_search_locations
        folder = Path(package.submodule_search_locations[0])
        (lent / folder.name).symlink_to(folder, target_is_directory=True)
    with Host(host.source, tmp_path, env={"PYTHONPATH": str(lent)}) as running:
        with pytest.raises(Refused) as refused:
            running.run(identity(PROMPT, PROMPT))
        assert "recognition_arcface_ir_se50.safetensors" in refused.value.nodes["check"]
        torch.manual_seed(0)
        detector, recognizer = new_networks("mobile0.25")
        faces = tmp_path / "models" / "apl_faces"
        faces.mkdir(parents=True)
        save_file(dict(weights_of(recognizer)), faces / "recognition_arcface_ir_se50.safetensors")
        file = faces / "detection_mobilenet0.25_Final.safetensors"
        for bias, said in ((-8, "nothing can be compared"), (8, "similarity of the largest two 1")):
            with torch.no_grad():
                for head in detector.ClassHead:  # type: ignore[union-attr]
                    head.conv1x1.bias[1::2] = bias
            save_file(dict(weights_of(detector)), file)
            text = running.run(identity(f"{PROMPT} {bias}", f"{PROMPT} {bias}")).text("check")
            assert said in text
