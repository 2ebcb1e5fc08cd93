"""A thousand mixed runs in one ComfyUI: each its own answer, and nothing left of any of them.

`APL_MIXED_RUNS=1000 pytest tests/hosts/test_comfyui_mixed.py -s` prints the figures of SECURITY.md;
without it there are 100. Most runs end at the conditioning, a few at a picture.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import comfyui_thin
import pytest
from comfyui_host import Graph, Host, Refused, txt2img
from lora_file import write_lora
from mixed_runs import REFUSED, check
from test_comfyui_server import applied, conditioned, pixels, prefix

from apl_core.formats import write_prefix

HERE = Path(__file__).parent
FAMILIES = ("Z-Image", "Qwen-Image", "Flux.1", "Lumina 2")
MAN, LONG = "a photo of a man", " ".join(f"man {number}" for number in range(90))
EMPHASIS = "a (photo:1.3) of a ((man)) [here]"


@pytest.fixture(scope="module")
def host(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running ComfyUI with prefixes, a LoRA, and the pack that tells what it holds."""
    base = tmp_path_factory.mktemp(source.name)
    folder = base / "models" / "apl"
    folder.mkdir(parents=True)
    write_prefix(prefix("clip_l"), folder / "front.safetensors")
    write_prefix(prefix("clip_l", seed=1, behind=4), folder / "bracket.safetensors")
    write_prefix(prefix("clip_l", "clip_g"), folder / "xl.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    write_lora(base / "models" / "loras" / "random_lora.safetensors")
    pack = base / "custom_nodes" / "residue"
    pack.mkdir(parents=True)
    shutil.copy(HERE / "comfyui_residue_pack.py", pack / "__init__.py")
    shutil.copy(HERE / "host_residue.py", pack)
    comfyui_thin.pack(base)
    comfyui_thin.write_prefixes(base, FAMILIES)
    for family in FAMILIES:
        another = comfyui_thin.prefix(family, 5, 1)
        write_prefix(another, folder / f"{comfyui_thin.file_of(family)}-2.safetensors")
    # a newer host keeps what graphs gave for as long as there is memory, and so more after a run
    with Host(source, base, arguments=["--cache-classic"]) as running:
        yield running


def text(words: str = MAN) -> Graph:
    """A graph that ends at the conditioning of a text."""
    graph = txt2img(words)
    digest = {"class_type": "TestDigest", "inputs": {"conditioning": ["pos", 0]}}
    return {"model": graph["model"], "pos": graph["pos"], "digest": digest}


def between(graph: Graph, name: str, class_type: str, **inputs: object) -> Graph:
    """The graph with one more node between the checkpoint's CLIP and whatever takes it."""
    moved: Graph = {}
    for node, told in graph.items():
        taken = {
            slot: [name, 1 if class_type == "LoraLoader" else 0] if value == ["model", 1] else value
            for slot, value in told["inputs"].items()
        }
        moved[node] = {**told, "inputs": taken}
    return {**moved, name: {"class_type": class_type, "inputs": {"clip": ["model", 1], **inputs}}}


def skipped(graph: Graph) -> Graph:
    return between(graph, "skip", "CLIPSetLastLayer", stop_at_clip_layer=-2)


def with_lora(graph: Graph) -> Graph:
    inputs = {"lora_name": "random_lora.safetensors", "strength_model": 0.7, "strength_clip": 0.7}
    return between(graph, "lora", "LoraLoader", model=["model", 0], **inputs)


def stacked(graph: Graph) -> Graph:
    """The graph of one prefix with "bracket" on top of it."""
    load = {"class_type": "APL_LoadPrefix", "inputs": {"file": "bracket"}}
    inputs = {"clip": ["apply", 0], "prefix": ["load2", 0]}
    graph["pos"]["inputs"]["clip"] = ["apply2", 0]
    return {**graph, "load2": load, "apply2": {"class_type": "APL_ApplyPrefix", "inputs": inputs}}


def ranged(graph: Graph) -> Graph:
    graph["pos"]["inputs"].update(start=0.2, end=0.7)
    return graph


def failing(graph: Graph) -> Graph:
    fails = {"class_type": "TestFails", "inputs": {"conditioning": ["pos", 0]}}
    digest = {"class_type": "TestDigest", "inputs": {"conditioning": ["fails", 0]}}
    return {**graph, "fails": fails, "digest": digest}


def both(graph: Graph) -> Graph:
    """The graph, and beside it the same text without the prefix."""
    inputs = {**graph["pos"]["inputs"], "clip": ["model", 1]}
    bare = {"class_type": "CLIPTextEncode", "inputs": inputs}
    digest = {"class_type": "TestDigest", "inputs": {"conditioning": ["bare", 0]}}
    return {**graph, "bare": bare, "digest2": digest}


GRAPHS: dict[str, Callable[[], Graph]] = {
    "off": text,
    "front": lambda: applied(text(), "front"),
    "bracket": lambda: applied(text(), "bracket"),
    "our node": lambda: conditioned(text(), "front"),
    "our node, some steps": lambda: ranged(conditioned(text(), "bracket")),
    "stacked": lambda: stacked(applied(text(), "front")),
    "both in one graph": lambda: both(applied(text(), "bracket")),
    "emphasis": lambda: applied(text(EMPHASIS), "bracket"),
    "emphasis, off": lambda: text(EMPHASIS),
    "long": lambda: applied(text(LONG), "bracket"),
    "long, off": lambda: text(LONG),
    "empty": lambda: applied(text(""), "front"),
    "empty, off": lambda: text(""),
    "clip skip": lambda: applied(skipped(text()), "front"),
    "clip skip, off": lambda: skipped(text()),
    "LoRA": lambda: applied(with_lora(text()), "front"),
    "LoRA, off": lambda: with_lora(text()),
    "missing": lambda: applied(text(), "absent"),
    "broken": lambda: applied(text(), "broken"),
    "another family": lambda: applied(text(), "xl"),
    "spelled end": lambda: applied(text("a <|endoftext|> man"), "bracket"),
    "fails behind it": lambda: failing(applied(text(), "bracket")),
    "fails, off": lambda: failing(text()),
    "picture": lambda: applied(txt2img(MAN, steps=1), "front"),
    "picture, off": lambda: txt2img(MAN, steps=1),
}
WRONG = {"missing", "broken", "another family", "spelled end", "fails behind it", "fails, off"}
SAME = (("front", "our node"), ("empty", "empty, off"))


def of_family(family: str, file: str = "") -> Graph:
    """A graph that ends at the conditioning of a text by a family's own text encoder."""
    graph = text()  # with its loader, which else would load other memory as what the file lacks
    graph["clip"] = {"class_type": "TestClip", "inputs": {"family": family}}
    graph["pos"]["inputs"]["clip"] = ["clip", 0]
    return applied(graph, file) if file else graph


def families(host: Host) -> dict[str, Callable[[], Graph]]:
    """Graphs of the newer families that a host has, with a prefix, with another, and without."""
    told = host.get("/object_info/TestClip")["TestClip"]["input"]["required"]["family"][0]
    found: dict[str, Callable[[], Graph]] = {}
    for family in [one for one in FAMILIES if one in told]:
        file = comfyui_thin.file_of(family)
        for name, chosen in ((family, file), (f"{family}, 2", f"{file}-2"), (f"{family}, off", "")):
            found[name] = lambda family=family, chosen=chosen: of_family(family, chosen)
    return found


def answer(host: Host, graph: Graph) -> str:
    """What a graph gave: digests, a picture's pixels, or which node refused."""
    if "save" in graph:
        graph["save"]["inputs"]["filename_prefix"] = f"{time.monotonic_ns()}"  # never cached
    try:
        result = host.run(graph)
    except Refused as refused:
        return f"{REFUSED}{sorted(refused.nodes)}"
    if "save" in graph:
        return hashlib.sha256(pixels(result.images()[0])).hexdigest()
    return " ".join(result.text(node) for node in ("digest", "digest2") if node in graph)


def state(host: Host, *plain: Graph) -> dict[str, object]:
    """What the server holds after graphs without a prefix and one and the same picture."""
    for graph in (*plain, txt2img("the same picture as before", steps=1)):
        answer(host, graph)
    host.post("/history", {"clear": True})
    return host.get("/residue")


def test_mixed_runs_leave_nothing_and_are_never_mixed_up(host: Host) -> None:
    newer = families(host)
    for make in newer.values():  # a thin model is built when it is asked for first
        answer(host, make())
    makers = {**GRAPHS, **newer}
    kinds = {name: (lambda make=make: answer(host, make())) for name, make in makers.items()}
    found = check(
        host.source.name,
        kinds,
        lambda: state(host, *(make() for name, make in newer.items() if name.endswith("off"))),
        lambda: host.get("/residue/memory"),
        WRONG,
        SAME,
    )
    assert len(newer) >= 6  # Qwen-Image and Flux.1 at least
    assert found.one("both in one graph") == f"{found.one('bracket')} {found.one('off')}"
