"""`apl verify` on every installed ComfyUI: the whole matrix, and a hole that it has to find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import comfyui_host
import comfyui_probes
import pytest
from comfyui_host import Host, Refused, txt2img, txt2img_sdxl
from lora_file import write_lora
from test_comfyui_server import prefix

from apl_core.formats import write_prefix
from apl_trainer.cli import main

HOSTS = comfyui_host.installed()
if not HOSTS:
    pytest.skip(comfyui_probes.NO_HOST, allow_module_level=True)

KEY = "the operator's long secret"
STRIPS = '''
"""A pack that the operator allowed, and that encodes beneath the prefix and its guard."""


class Strips:
    CATEGORY, FUNCTION, RETURN_TYPES = "t", "run", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {})}}

    def run(self, clip, text):
        plain = clip.clone()
        for name in [one for one in plain.patcher.object_patches if "process_tokens" in one]:
            del plain.patcher.object_patches[name]
        plain.tokenizer = type(clip.tokenizer).apl_base() if hasattr(
            type(clip.tokenizer), "apl_base") else clip.tokenizer
        return (plain.encode_from_tokens_scheduled(plain.tokenize(text)),)


NODE_CLASS_MAPPINGS = {"StripsPrefix": Strips}
'''


@pytest.fixture(scope="module", params=HOSTS, ids=lambda host: host.name)
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A ComfyUI that enforces "house" and writes a trace; SDXL has a prefix of its own file."""
    base = tmp_path_factory.mktemp(request.param.name)
    folder = base / "models" / "apl"
    folder.mkdir(parents=True)
    write_prefix(prefix("clip_l", behind=4), folder / "house.safetensors")
    write_lora(base / "models" / "loras" / "random_lora.safetensors")
    pack = base / "custom_nodes" / "strips.py"
    pack.parent.mkdir()
    pack.write_text(STRIPS)
    environment = {
        "APL_ENFORCE": "house",
        "APL_ENFORCE_NODES": "StripsPrefix",
        "APL_TRACE": str(base / "trace.jsonl"),
        "APL_TRACE_KEY": KEY,
    }
    with Host(request.param, base, env=environment) as running:
        yield running


def verify(host: Host, *more: str) -> int:
    trace = ["--trace", str(host.base / "trace.jsonl"), "--key", KEY]
    return main(["verify", "--host", "comfyui", host.url, *trace, *more])


def test_no_request_of_the_matrix_gets_past_the_prefix(
    traced: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    before = traced.get("/apl/status")
    code = verify(traced, "--json")
    said = json.loads(capsys.readouterr().out)
    rows = {row["case"]: row for row in said["verdicts"]}
    assert code == 0 and not said["holes"], said
    refused = {name for name, row in rows.items() if row["result"] == "refused"}
    assert refused == {"unknown node", "SDXL's encode node"} & set(rows), rows
    assert len(rows) >= 25
    assert {"wildcard", "LoRA", "LoRA by hook", "LoRA by hook, in turns"} <= set(rows)
    print("covered:", sum(row["result"] == "covered" for row in rows.values()))
    assert rows["8 chunks"]["chunks"] >= 8 and rows["batch of 2"]["pictures"] == 2
    assert rows["our node, last half only"]["chunks"] >= 2
    after = traced.get("/apl/status")
    drawn = sum(row["pictures"] for row in rows.values())
    assert after["pictures"] - before["pictures"] == drawn
    assert after["refused"] > before["refused"] and after["since"] == before["since"]
    assert after["enforced"] == "house" and after["usable"] and after["trace"]


def test_a_pack_that_strips_the_prefix_is_a_hole(
    traced: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = txt2img("a photo of a man")
    graph["pos"]["class_type"] = "StripsPrefix"
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    own = ["--graph", str(tmp_path / "graph.json"), "--only", "your graph", "--only", "plain"]
    code = verify(traced, *own, "--json")
    said = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [one for one in said["holes"] if one.startswith("your graph: ")] == said["holes"]
    assert "without the prefix" in said["holes"][0]


def test_a_trace_that_was_edited_or_has_another_key_is_refused(
    traced: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = ["--trace", str(traced.base / "trace.jsonl"), "--key", KEY.upper()]
    assert main(["verify", "--host", "comfyui", traced.url, *trace]) == 1
    assert "not signed with this key" in capsys.readouterr().err
    log = traced.base / "trace.jsonl"
    whole = log.read_bytes()
    try:
        log.write_bytes(whole.replace(b'"positive"', b'"negative"', 1))
        assert verify(traced, "--only", "plain") == 1
    finally:
        log.write_bytes(whole)
    assert "was changed" in capsys.readouterr().err
    assert verify(traced, "--only", "no such thing") == 2


def test_without_its_trace_file_no_picture_is_made(traced: Host) -> None:
    log = traced.base / "trace.jsonl"
    hidden = log.rename(log.with_suffix(".hidden"))
    log.mkdir()
    try:
        with pytest.raises(Refused, match="write the trace"):
            traced.run(txt2img("a man that nobody has seen yet"))
    finally:
        log.rmdir()
        hidden.rename(log)
    assert traced.run(txt2img("a man that nobody has seen yet")).images()


def test_a_family_that_the_prefix_is_not_for_is_refused(traced: Host) -> None:
    with pytest.raises(Refused, match="SDXL"):
        traced.run(txt2img_sdxl("a man"))


def test_a_server_that_enforces_nothing_is_no_success(
    traced: Host, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    with Host(traced.source, tmp_path_factory.mktemp("open")) as plain:
        assert main(["verify", "--host", "comfyui", plain.url]) == 1
        assert "it enforces no prefix" in capsys.readouterr().err
        said = plain.get("/apl/status")
        assert said["enforced"] is None and not said["trace"] and "pictures" not in said
