"""`apl verify` on models of language-model families, on every installed ComfyUI that has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_thin
import pytest
from comfyui_examples import FAMILIES, on_random_weights, prefixed, runs_on
from comfyui_host import Host, Refused
from comfyui_thin import ALLOWED, file_of, prefix

from apl_core.trace import TraceReader
from apl_trainer.cli import main

KEY = "the operator's long secret"
ENFORCED = ("Z-Image", "Qwen-Image", "Krea 2", "Flux.2 Klein 4B")
COVERED = (
    "plain",
    "negative prompt",
    "emphasis",
    "empty text beside a name",
    "combined",
    "concatenated",
    "in turns",
    "guidance of 0",
    "link in __value__",
    "two users at once",
    "a turn or an end of Gemma",
    "encoded by CLIPTextEncode",
)
REFUSED = ("a turn or an end of Qwen", "a turn or an end of Qwen, a template of its own")


@pytest.fixture(scope="module")
def traced(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI that enforces a prefix for each of several families, and traces."""
    base = tmp_path_factory.mktemp(source.name)
    comfyui_thin.pack(base)
    comfyui_thin.write_prefixes(base, ENFORCED)
    trace = {"APL_TRACE": str(base / "trace.jsonl"), "APL_TRACE_KEY": KEY}
    enforced = {"APL_ENFORCE": "studio", "APL_ENFORCE_NODES": ALLOWED}
    with Host(source, base, env={**trace, **enforced}) as running:
        yield running


@pytest.fixture(scope="module")
def reference(traced: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The same host with the same models, which enforces nothing."""
    base = tmp_path_factory.mktemp(f"{traced.source.name}-bare")
    comfyui_thin.pack(base)
    with Host(traced.source, base) as running:
        yield running


def graph_of(name: str, host: Host) -> Any:
    """A family's example graph on thin weights; skips where the host has not got it."""
    graph = on_random_weights(prefixed(FAMILIES[name].graph(), "-"))
    if not runs_on(graph, host.get("/object_info")):
        pytest.skip(f"this ComfyUI has no {FAMILIES[name].family}")
    return graph


@pytest.mark.parametrize("name", FAMILIES)
def test_the_matrix_on_a_model_of_a_family(
    traced: Host, reference: Host, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = graph_of(name, traced)
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(graph))
    only = COVERED + REFUSED if name == "z_image" else (*COVERED[:3], *REFUSED)
    said = ["verify", "--host", "comfyui", traced.url, "--reference", reference.url, "--json"]
    said += ["--trace", str(traced.base / "trace.jsonl"), "--key", KEY, "--side", "256"]
    said += ["--model-graph", str(file), *(f"--only={one}" for one in only)]
    code = main(said)
    told = capsys.readouterr()
    assert told.out, told.err
    rows = {row["case"]: row for row in json.loads(told.out)["verdicts"]}
    results = {case: row["result"] for case, row in rows.items()}
    assert code == 0, rows
    assert {one for one in only if results[one] == "covered"} == set(only) - set(REFUSED), results
    assert all(results[one] == "refused" for one in REFUSED), results


def test_a_traced_chunk_says_its_family_and_where_the_rows_stand(traced: Host) -> None:
    graph = graph_of("qwen_image", traced)
    trace = TraceReader(traced.base / "trace.jsonl", KEY.encode())
    trace.new()
    del graph["load"], graph["apply"]
    graph["pos"]["inputs"]["clip"] = ["clip", 0]
    queued = traced.queue(graph)
    assert traced.wait(queued).images()
    lines = [one for one in trace.new() if one.get("request") == queued]
    digest = prefix("Qwen-Image").digest
    assert lines and {one["family"] for one in lines} == {"Qwen-Image"}
    assert {one["encoder"] for one in lines} == {"qwen25_7b"}
    for one in lines:
        places = one["carried"][digest]
        assert places[:4] == [34, 35, 36, 37] and one["words"] == places[4] - 38


def test_a_picture_names_its_familys_prefix(traced: Host) -> None:
    graph = graph_of("z_image", traced)
    del graph["load"], graph["apply"]
    graph["pos"]["inputs"]["clip"] = ["clip", 0]
    (png,) = traced.run(graph).images()
    assert f"{file_of('Z-Image')} {prefix('Z-Image').short_digest}".encode() in png


def test_a_family_without_a_prefix_draws_nothing(traced: Host) -> None:
    graph = graph_of("z_image", traced)
    graph["clip"]["inputs"]["family"] = "Chroma"
    with pytest.raises(Refused, match="Chroma"):
        traced.run(graph)
