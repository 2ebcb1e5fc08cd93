"""`apl verify` on every installed ComfyUI: the whole matrix, and a failure that it has to find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_host import Host, Refused, txt2img, txt2img_sdxl
from lora_file import write_lora
from test_comfyui_server import prefix

from apl_core.formats import write_prefix
from apl_trainer.cli import main

KEY = "the operator's long secret"
UNWRAPS = '''
"""A pack that the operator allowed, and that encodes with the host's own methods, past the gate."""
import contextlib

from comfy import sd, sd1_clip

NAMES = [(sd1_clip.SDTokenizer, "tokenize_with_weights"), (sd1_clip.SDClipModel, "process_tokens")]
NAMES += [(sd.CLIP, name) for name in ("encode_from_tokens", "encode_from_tokens_scheduled")]


@contextlib.contextmanager
def past():
    kept = [(owner, name, getattr(owner, name)) for owner, name in NAMES]
    for owner, name, method in kept:
        while hasattr(method, "__wrapped__"):
            method = method.__wrapped__
        setattr(owner, name, method)
    try:
        yield
    finally:
        for owner, name, method in kept:
            setattr(owner, name, method)


class PastTheGate:
    CATEGORY, FUNCTION, RETURN_TYPES = "t", "run", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {})}}

    def run(self, clip, text):
        with past():
            return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)


NODE_CLASS_MAPPINGS = {"PastTheGate": PastTheGate}
'''


@pytest.fixture(scope="module")
def traced(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI that enforces "house", traces, and allows a pack that goes past the gate."""
    base = furnished(tmp_path_factory.mktemp(source.name))
    folder = base / "models" / "apl"
    folder.mkdir(parents=True)
    write_prefix(prefix("clip_l", behind=4), folder / "house.safetensors")
    environment = {
        "APL_ENFORCE": "house",
        "APL_ENFORCE_NODES": "PastTheGate",
        "APL_TRACE": str(base / "trace.jsonl"),
        "APL_TRACE_KEY": KEY,
    }
    with Host(source, base, env=environment) as running:
        yield running


@pytest.fixture(scope="module")
def reference(traced: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The same host with the same weights and packs, without a prefix for everybody."""
    base = furnished(tmp_path_factory.mktemp(f"{traced.source.name}-bare"))
    with Host(traced.source, base) as running:
        yield running


def furnished(base: Path) -> Path:
    """A base folder with a LoRA and the pack."""
    write_lora(base / "models" / "loras" / "random_lora.safetensors")
    pack = base / "custom_nodes" / "past_the_gate.py"
    pack.parent.mkdir()
    pack.write_text(UNWRAPS)
    return base


def verify(host: Host, *more: str) -> int:
    trace = ["--trace", str(host.base / "trace.jsonl"), "--key", KEY]
    return main(["verify", "--host", "comfyui", host.url, "--side", "32", *trace, *more])


def test_no_request_of_the_matrix_and_none_made_up_gets_past_the_prefix(
    traced: Host, reference: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    before = traced.get("/apl/status")
    code = verify(traced, "--reference", reference.url, "--generate", "12", "--json")
    said = json.loads(capsys.readouterr().out)
    rows = {row["case"]: row for row in said["verdicts"]}
    assert code == 0 and not said["failures"], said
    drawn = [name for name, row in rows.items() if row["result"] == "covered"]
    print("results:", said["counts"])
    assert set(said["counts"]) <= {"covered", "no text acts", "refused", "failed", "traced"}
    assert {"plain", "negative prompt", "link of index -1", "empty text beside a name"} <= set(
        drawn
    )
    assert {"LoRA and empty texts", "guidance of 0", "LoRA by hook, in turns"} <= set(drawn)
    assert rows["unknown node"]["result"] == "failed"
    made = [rows[f"g{number}"] for number in range(12)]
    assert sum(bool(row["bare"]) for row in made) >= 6
    assert rows["8 chunks"]["chunks"] >= 8 and rows["batch of 2"]["pictures"] == 2
    after = traced.get("/apl/status")
    assert after["refused"] > before["refused"] and after["since"] == before["since"]
    assert after["enforced"] == "house" and after["usable"] and after["trace"]


def test_a_pack_that_goes_past_the_gate_is_found_by_pictures_alone(
    traced: Host, reference: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = txt2img("a photo of a man")
    graph["pos"]["class_type"] = "PastTheGate"
    graph["sampler"]["inputs"]["cfg"] = 1.0
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    own = ["--graph", str(tmp_path / "graph.json"), "--only", "your graph", "--only", "plain"]
    assert verify(traced, *own) == 0  # the negative's chunk has the prefix, the other is not seen
    capsys.readouterr()
    code = verify(traced, *own, "--reference", reference.url, "--json")
    said = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [one for one in said["failures"] if one.startswith("your graph: ")] == said["failures"]
    assert "is the one that the reference draws" in said["failures"][0]


def test_a_trace_that_was_edited_or_has_another_key_is_refused(
    traced: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = ["--trace", str(traced.base / "trace.jsonl"), "--key", KEY.upper()]
    assert main(["verify", "--host", "comfyui", traced.url, *trace]) == 1
    assert "not signed with this key" in capsys.readouterr().err
    log = traced.base / "trace.jsonl"
    whole = log.read_bytes()
    try:
        log.write_bytes(whole.replace(b'"ComfyUI"', b'"comfyui"', 1))
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
    with pytest.raises(Refused, match="clip_g"):
        traced.run(txt2img_sdxl("a man"))


def test_a_server_that_enforces_nothing_is_no_success(
    traced: Host, reference: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--host", "comfyui", reference.url]) == 1
    assert "it enforces no prefix" in capsys.readouterr().err
    said = reference.get("/apl/status")
    assert said["enforced"] is None and not said["trace"] and "pictures" not in said
    assert verify(traced, "--reference", traced.url, "--only", "plain") == 1
    assert "it enforces 'house'" in capsys.readouterr().err
