"""Every node of every installed ComfyUI that takes a CLIP or gives a conditioning, by /object_info.

Under APL_ENFORCE and behind APL Apply Prefix each of them is covered, passes on what was read
elsewhere, or is refused in words; one that is none of it fails. What an encoder read is told by the
server's own trace. `pytest -s` prints the table.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_thin
import pytest
from comfyui_host import Graph, Host, Refused, txt2img, txt2img_sdxl
from comfyui_thin import ALLOWED, FILES, file_of, prefix
from lora_file import write_lora
from PIL import Image

from apl_core.trace import TraceReader
from apl_trainer.verify.case import Case
from apl_trainer.verify.comfyui_nodes import GROWS, CannotFill, Filler, Nodes, links, node
from apl_trainer.verify.comfyui_parts import Parts

KEY = "the operator's long secret"
COVERED, PASSES, REFUSED, FAILED, BARE = "covered", "passes on", "refused", "failed", "BARE"
OURS = ("APL_", "Test")
WALKED = ("Z-Image", "Qwen-Image", "Mage-Flow", "Flux.1", "SD 3.5", "Lumina 2", "HiDream I1")
"""Families whose text encoders the nodes are given: all that a node of the host is made for."""

WIDE = ("SD 1.x", "Z-Image", "Qwen-Image", "Flux.1", "SD 3.5")
"""Those that every node is given; the others go to the nodes that are named like them."""

MADE_FOR = {"PhotoMakerEncode": "SDXL"}
"""The family of a node that takes no other, where its name does not say so."""

LEFT_OUT = {
    "CLIPTextEncodeHunyuanDiT": "Hunyuan-DiT's text encoder, which is of a family without prefixes",
    "MiniMaxH3ReferenceToVideo, with pictures": "a video of five frames",
}
"""Nodes that fail here with every text encoder, and what they want."""


@pytest.fixture(scope="module")
def enforcing(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI that enforces a prefix for each family and traces."""
    base = tmp_path_factory.mktemp(source.name)
    with started(source, base, APL_ENFORCE="studio", APL_ENFORCE_NODES=ALLOWED) as running:
        yield running


@pytest.fixture(scope="module")
def free(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The same, which enforces nothing."""
    with started(source, tmp_path_factory.mktemp(f"{source.name}-free")) as running:
        yield running


def started(source: Path, base: Path, **environment: str) -> Host:
    """A ComfyUI with thin models and a prefix for each family."""
    comfyui_thin.pack(base)
    comfyui_thin.write_prefixes(base)
    write_lora(base / "models" / "loras" / "random_lora.safetensors")
    pictures = base / "input" / "pictures"
    pictures.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(pictures / "one.png")
    (pictures / "one.txt").write_text("a photo of Ada Lovelace")
    trace = {"APL_TRACE": str(base / "trace.jsonl"), "APL_TRACE_KEY": KEY}
    return Host(source, base, env={**trace, "FAMILIES": ",".join(WALKED), **environment})


def loaders(family: str) -> Graph:
    """A graph whose positive text is encoded by a family's own text encoder."""
    if family in ("SD 1.x", "SDXL"):
        return txt2img("a") if family == "SD 1.x" else txt2img_sdxl("a")
    graph = txt2img("a")
    graph["clip"] = node("TestClip", family=family)
    graph["vae"] = node("TestVae", family="Qwen-Image")  # nodes that edit encode large pictures
    graph["decode"]["inputs"]["vae"] = ["vae", 0]
    graph["pos"]["inputs"]["clip"] = ["clip", 0]
    return graph


def families(host: Host) -> list[str]:
    """The families that this host has."""
    told = host.get("/object_info/TestClip")["TestClip"]["input"]["required"]["family"][0]
    return ["SD 1.x", "SDXL", *told]


def takes(nodes: Nodes, name: str, kind: str) -> bool:
    """Whether a node has an input of a type, needed or not, also one that a choice brings."""
    return f'"{kind}"' in str(nodes.raw(name)["input"]).replace("'", '"')


class Walk:
    """Runs nodes on one host, each with the text encoders of all families."""

    def __init__(self, host: Host, *, applied: bool) -> None:
        self.host, self.applied = host, applied
        self.nodes = Nodes(host.get("/object_info"))
        self.families = families(host)
        self.queued: dict[str, tuple[str, str]] = {}
        self.said: dict[str, dict[str, str]] = defaultdict(dict)

    def graph(self, name: str, family: str, pictures: bool) -> Graph:
        """A graph around a node, which takes this family's text encoder."""
        made: Graph = {"model": node("CheckpointLoaderSimple", ckpt_name="-")}
        filler = Filler(self.nodes, made, random.Random(name), bold=0.0)
        given: dict[str, Any] = {}
        for slot in self.nodes.slots(name):
            if slot.name == "max_length":
                given[slot.name] = 2
            elif slot.kind in FILES:
                made[f"file {slot.name}"] = node(FILES[slot.kind])
                given[slot.name] = [f"file {slot.name}", 0]
            elif slot.name == "resize_method":  # not needed, says the node, and fails without
                given[slot.name] = "None"
            elif slot.kind == "STRING" and "photomaker" in str(slot.limits):
                given[slot.name] = "a photo of photomaker Ada Lovelace"
        new = filler.add(name, given, also=("IMAGE", GROWS) if pictures else ())
        gives = self.nodes.gives(name)
        for output, kind in enumerate(gives):
            value: list[Any] = [new, output]
            if kind == "CLIP":
                made[f"read{output}"] = node("CLIPTextEncode", clip=value, text="a photo of Ada")
                value = [f"read{output}", 0]
            made[f"take{output}"] = node("TestTakes", value=value)
        parts = Parts.of(loaders(family))
        case = parts.put(Case(name, ({"prompt": made},)))
        assert case is not None
        whole: Graph = case.bodies[0]["prompt"]
        if self.applied:
            clip = parts.given[1]
            for place, slot, _ in [one for one in links(whole) if one[2] == clip]:
                whole[place]["inputs"][slot] = ["apply", 0]
            whole["load"] = node("APL_LoadPrefix", file=file_of(family))
            whole["apply"] = node("APL_ApplyPrefix", clip=clip, prefix=["load", 0])
        return whole

    def queue(self, name: str, pictures: bool) -> None:
        """Have a node run with each family's text encoder, and with every picture it can take."""
        title = f"{name}, with pictures" if pictures else name
        for family in self.families:
            if family != "SD 1.x" and re.search("Merge|Save", name):
                continue  # what it makes of a thin text encoder is as large as of a real one
            named = MADE_FOR.get(name) == family or family in named_like(name)
            if family not in WIDE and not named:
                continue
            if pictures and family in ("SD 1.x", "Flux.1", "SD 3.5"):
                continue  # these read no pictures
            try:
                self.queued[self.host.queue(self.graph(name, family, pictures))] = title, family
            except CannotFill as error:
                self.said[title][family] = f"{FAILED}: no {error}"
            except Refused as refused:
                self.said[title][family] = verdict_of(str(refused))

    def finish(self) -> dict[str, dict[str, str]]:
        """What came of all of them: node, family, verdict."""
        answers: dict[str, str] = {}
        for prompt in self.queued:
            try:
                self.host.wait(prompt)
                answers[prompt] = ""
            except Refused as refused:
                answers[prompt] = str(refused)
        lines = TraceReader(self.host.base / "trace.jsonl", KEY.encode()).new()
        for prompt, (name, family) in self.queued.items():
            digest = prefix(family).digest
            read = [one for one in lines if one.get("request") == prompt]
            texts = [one for one in read if one["words"] or not self.applied]
            bare = [one for one in texts if digest not in one["carried"]]
            if bare:
                said = f"{BARE}: {bare[0]}"
            elif answers[prompt]:
                said = verdict_of(answers[prompt])
            else:
                said = COVERED if texts else PASSES
            self.said[name][family] = said
        return dict(self.said)


def named_like(name: str) -> list[str]:
    """The families that a node is named like: an older host may have the node and not those."""
    return [one for one in ("SDXL", *WALKED) if one.split()[0].replace("-", "") in name]


def verdict_of(message: str) -> str:
    """Whether a message is this project's or the host's own."""
    return f"{REFUSED if 'Fix: ' in message else FAILED}: {message[:300]}"


def table(said: dict[str, dict[str, str]]) -> str:
    """One line for each node."""
    lines: list[str] = []
    for name, by_family in sorted(said.items()):
        groups: dict[str, list[str]] = defaultdict(list)
        for family, verdict in by_family.items():
            groups[verdict.partition(":")[0]].append(family)
        lines.append(f"{name}: " + "; ".join(f"{k} ({', '.join(v)})" for k, v in groups.items()))
    return "\n".join(lines)


def judged(walk: Walk) -> None:
    """Run every node that takes a CLIP; AssertionError for one that is in no class."""
    readers = [
        name
        for name in sorted(walk.nodes)
        if takes(walk.nodes, name, "CLIP")
        and not name.startswith(OURS)
        and set(named_like(name) or walk.families) & set(walk.families)
        and (walk.applied or "Save" not in name)  # what it saves is no picture
    ]
    for name in readers:
        walk.queue(name, False)
        if takes(walk.nodes, name, "IMAGE"):
            walk.queue(name, True)
    said = walk.finish()
    print(f"\n{walk.host.source.name}, {'applied' if walk.applied else 'enforced'}:\n{table(said)}")
    assert set(readers) <= set(said)
    wrong: dict[str, Any] = {}
    for name, by_family in said.items():
        verdicts = {verdict.partition(":")[0] for verdict in by_family.values()}
        if BARE in verdicts:
            wrong[name] = [one for one in by_family.values() if one.startswith(BARE)][:1]
        elif verdicts == {FAILED} and not {name, name.split(", with")[0]} & LEFT_OUT.keys():
            wrong[name] = sorted(set(by_family.values()))[:3]
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())


def test_every_node_that_takes_a_clip_under_an_operators_prefix(enforcing: Host) -> None:
    judged(Walk(enforcing, applied=False))


def test_every_node_that_takes_a_clip_behind_apply_prefix(free: Host) -> None:
    judged(Walk(free, applied=True))


def test_every_other_node_that_gives_a_conditioning_passes_one_on_or_is_refused(
    enforcing: Host,
) -> None:
    nodes = Nodes(enforcing.get("/object_info"))
    passes: list[str] = []
    refused: list[str] = []
    for name in nodes:
        if "CONDITIONING" not in nodes.gives(name) or takes(nodes, name, "CLIP"):
            continue
        if any(one.kind == "CONDITIONING" and one.needed for one in nodes.slots(name)):
            passes.append(name)
            continue
        with pytest.raises(Refused, match="comes from no text"):
            enforcing.queue({"odd": node(name)})
        refused.append(name)
    print(f"\npass on: {', '.join(passes)}\nof no text: {', '.join(refused)}")
    assert {"ConditioningCombine", "ConditioningZeroOut", "ControlNetApply"} <= set(passes)
    assert "SVD_img2vid_Conditioning" in refused


def test_only_nodes_that_take_a_clip_read_texts(free: Host) -> None:
    info = free.get("/object_info")
    nodes = Nodes(info)
    readers = {info[name]["python_module"] for name in nodes if takes(nodes, name, "CLIP")}
    found = {
        f"{file.parent.name}.{file.stem}" if file.parent.name == "comfy_extras" else file.stem
        for file in (free.source / "nodes.py", *free.source.glob("comfy_extras/*.py"))
        if re.search(r"\.(tokenize|encode_from_tokens\w*)\(", file.read_text(encoding="utf-8"))
    }
    assert found and found <= readers
