"""Packs of others behind APL Apply Prefix on every installed ComfyUI: covered, or refused.

What reached the text encoder is read from the server's own trace, chunk by chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_host
import pytest
from comfyui_host import Graph, Host, Refused, txt2img, txt2img_sdxl
from test_comfyui_server import PROMPT, applied, picture, prefix

from apl_core.formats import write_prefix
from apl_core.trace import TraceReader

NAMES = ("comfyui-prompt-control", "ComfyUI_ADV_CLIP_emb", "ComfyUI_smZNodes")
HOSTS = comfyui_host.installed()
MISSING = [name for name in NAMES if not all(comfyui_host.pack(name, host) for host in HOSTS)]
if MISSING:
    pytest.skip(f"no {', '.join(MISSING)} among the hosts' packs", allow_module_level=True)

KEY = "the operator's long secret"
LONG = " ".join(f"man {at}" for at in range(70))
"""140 tokens: three chunks beside ten vectors."""

number = itertools.count()


@pytest.fixture(scope="module")
def host(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI with the packs, which writes a trace and enforces nothing."""
    base = tmp_path_factory.mktemp(source.name)
    folder = base / "models" / "apl"
    folder.mkdir(parents=True)
    write_prefix(prefix("clip_l", behind=4), folder / "bracket.safetensors")
    write_prefix(prefix("clip_l", "clip_g", behind=4), folder / "xl.safetensors")
    packs = [pack for name in NAMES if (pack := comfyui_host.pack(name, source))]
    environment = {"APL_TRACE": str(base / "trace.jsonl"), "APL_TRACE_KEY": KEY}
    environment["PIP_NO_INDEX"] = "1"  # smZNodes calls pip when it is imported
    with Host(source, base, packs=packs, env=environment) as running:
        yield running


@pytest.fixture(autouse=True)
def loaded(request: pytest.FixtureRequest, host: Host) -> None:
    """Skip what needs a pack that this host cannot load; its log says why."""
    nodes = {
        "prompt_control": "PCLazyTextEncode",
        "adv_clip_emb": "BNK_CLIPTextEncodeAdvanced",
        "smznodes": "smZ CLIPTextEncode",
    }
    known = host.get("/object_info")
    lost = [node for part, node in nodes.items() if part in request.node.name and node not in known]
    if lost:
        pytest.skip(f"{host.source.name} does not load the pack of {lost[0]}")


def by(graph: Graph, node: str, **inputs: Any) -> Graph:
    """The graph with another encoder for its positive text."""
    clip = graph["pos"]["inputs"]["clip"]
    return {**graph, "pos": {"class_type": node, "inputs": {"clip": clip, **inputs}}}


def prompt_control(text: str, graph: Graph | None = None) -> Graph:
    """Text to image through prompt-control."""
    return by(graph or txt2img("", steps=1), "PCLazyTextEncode", text=text)


def advanced(text: str, weights: str = "comfy", norm: str = "none") -> Graph:
    """Text to image through ADV_CLIP_emb."""
    options = {"weight_interpretation": weights, "token_normalization": norm}
    return by(txt2img("", steps=1), "BNK_CLIPTextEncodeAdvanced", text=text, **options)


def smz(text: str, parser: str) -> Graph:
    """Text to image through smZNodes."""
    flags = {"mean_normalization": True, "multi_conditioning": True, "with_SDXL": False}
    sizes = dict.fromkeys(("width", "height", "target_width", "target_height"), 64)
    rest = {"crop_w": 0, "crop_h": 0, "ascore": 6.0, "text_g": "", "text_l": "", "smZ_steps": 1}
    more = {"use_old_emphasis_implementation": False, "parser": parser, **flags, **sizes, **rest}
    return by(txt2img("", steps=1), "smZ CLIPTextEncode", text=text, **more)


def covered(host: Host, graph: Graph, file: str = "bracket") -> list[dict[str, Any]]:
    """Run the graph with the prefix; its traced chunks of text, all of which carry the prefix."""
    trace = TraceReader(host.base / "trace.jsonl", KEY.encode())
    trace.new()
    queued = host.queue(applied(graph, file))
    assert host.wait(queued).images()
    lines = [line for line in trace.new() if line.get("request") == queued and line["words"]]
    keys = ("clip_l", "clip_g") if file == "xl" else ("clip_l",)
    digest = prefix(*keys, behind=4).digest
    bare = [line for line in lines if digest not in line["carried"]]
    assert lines and not bare, bare
    return lines


def words(lines: list[dict[str, Any]], encoder: str = "clip_l") -> int:
    """Tokens of text in all chunks of an encoder."""
    return sum(line["words"] for line in lines if line["encoder"] == encoder)


PROMPT_CONTROL = {
    "three chunks": (f"{LONG}", 140),
    "BREAK": ("Ada Lovelace BREAK a house BREAK Alan Turing", 6),
    "CAT": ("Ada Lovelace CAT a house", 4),
    "AND": ("Ada Lovelace AND a house :0.5", 4),
    "a schedule": ("[Ada Lovelace:a house:0.5] at night", 4),
    "AVG": ("Ada Lovelace AVG(0.3) a house", 4),
    "A1111": (f"STYLE(A1111) {LONG} (Ada:1.3)", 141),
    "comfy++": (f"STYLE(comfy++, length+mean) (Ada Lovelace:0.7) {LONG} (house:1.3)", 143),
    "compel": (f"STYLE(compel, mean) (Ada Lovelace:0.7) {LONG} (house:1.3)", 143),
    "down_weight": (f"STYLE(down_weight) (Ada Lovelace:0.7) {LONG} (house:1.3)", 143),
    "perp": (f"STYLE(perp) (Ada Lovelace:0.7) {LONG} (house:1.3)", 143),
    "an encoder of its own": ("a house TE(l=Ada Lovelace)", 2),
    "a mask": ("a house MASK() AND Ada Lovelace MASK(0 0.5)", 4),
}
"""prompt-control's syntax, and how many tokens of text have to reach the encoder at least."""


@pytest.mark.parametrize("case", PROMPT_CONTROL)
def test_prompt_control_is_covered(host: Host, case: str) -> None:
    text, tokens = PROMPT_CONTROL[case]
    found = covered(host, prompt_control(text))
    assert words(found) >= tokens


def test_prompt_control_makes_the_stock_picture(host: Host) -> None:
    by_pack = picture(host, applied(prompt_control(PROMPT), "bracket"))
    assert by_pack == picture(host, applied(txt2img(PROMPT, steps=1), "bracket"))
    assert by_pack != picture(host, prompt_control(PROMPT))


def test_prompt_controls_cuts_are_covered_or_refused(host: Host) -> None:
    for text in ("a red house and a [CUT:blue dog:blue]", "[CUT:Ada Lovelace:Ada] at sea"):
        try:
            covered(host, prompt_control(f"{text} {next(number)}"))
        except Refused as refused:
            assert any("took the prefix's vectors out" in said for said in refused.nodes.values())


TWO_CHUNKS = " ".join(LONG.split()[:70])
"""clip_g is slow."""


def test_sdxl_through_prompt_control(host: Host) -> None:
    text = f"STYLE(comfy++) {TWO_CHUNKS} (Ada:1.3)"
    found = covered(host, prompt_control(text, txt2img_sdxl("", steps=1)), "xl")
    assert words(found) >= 71 and words(found, "clip_g") >= 71


def test_sdxl_through_adv_clip_emb(host: Host) -> None:
    options = {"weight_interpretation": "compel", "token_normalization": "mean", "balance": 0.5}
    texts = {"text_l": f"{TWO_CHUNKS} (Ada:0.7)", "text_g": f"(Ada:1.3) {TWO_CHUNKS}"}
    plain = txt2img_sdxl("", steps=1)
    graph = by(plain, "BNK_CLIPTextEncodeSDXLAdvanced", **texts, **options)
    found = covered(host, graph, "xl")
    assert words(found) >= 71 and words(found, "clip_g") >= 71


@pytest.mark.parametrize(
    ("weights", "norm"),
    [
        ("comfy", "length+mean"),
        ("A1111", "none"),
        ("compel", "mean"),
        ("comfy++", "length"),
        ("comfy++", "length+mean"),
        ("down_weight", "none"),
    ],
)
def test_adv_clip_emb_is_covered(host: Host, weights: str, norm: str) -> None:
    text = f"(Ada Lovelace:0.7) {LONG} (house:1.3)"
    assert words(covered(host, advanced(text, weights, norm))) >= 143


def test_adv_clip_emb_makes_the_stock_picture(host: Host) -> None:
    by_pack = picture(host, applied(advanced(PROMPT), "bracket"))
    assert by_pack == picture(host, applied(txt2img(PROMPT, steps=1), "bracket"))
    assert by_pack != picture(host, advanced(PROMPT))


@pytest.mark.parametrize("parser", ["comfy", "comfy++", "A1111", "full", "compel"])
def test_smznodes_is_refused_and_leaves_nothing_behind(host: Host, parser: str) -> None:
    before = picture(host, smz(PROMPT, parser)), picture(host, txt2img(PROMPT, steps=1))
    made = set((host.base / "output").glob("*.png"))
    with pytest.raises(Refused) as refused:
        host.run(applied(smz(PROMPT, parser), "bracket"))
    assert "smZNodes" in refused.value.nodes["pos"]
    assert set((host.base / "output").glob("*.png")) == made
    assert before == (picture(host, smz(PROMPT, parser)), picture(host, txt2img(PROMPT, steps=1)))
    covered(host, txt2img(f"{PROMPT} {next(number)}", steps=1))
