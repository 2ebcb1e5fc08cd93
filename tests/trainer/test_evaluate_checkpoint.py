"""`apl evaluate` on a slim checkpoint, from names and a prefix file to the report."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from slim_evaluation import TRAINED, read_report, times, write_evaluation_root
from slim_runs import NAMES, count_calls

from apl_trainer.cli import evaluate, main
from apl_trainer.evaluation.checkpoint_eval import CheckpointEvaluator
from apl_trainer.metadata_jsonl import CaptionedPicture, descriptions_in, write_metadata
from apl_trainer.prompts import built_in_names
from apl_trainer.readers import available

facexlib = pytest.mark.skipif(
    not importlib.util.find_spec("facexlib"), reason="facexlib is not installed"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation_root(tmp_path_factory.mktemp("evaluate"))


def arguments(root: Path, out: Path, *more: str) -> list[str]:
    return [
        "evaluate",
        "--model",
        str(root / "sd1.safetensors"),
        "--tokenizer",
        str(root / "sd1" / "tokenizer"),
        "--prefix",
        str(root / "prefix.safetensors"),
        "--size",
        "64",
        "--steps",
        "1",
        "--seeds",
        "2",
        "--free",
        "2",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--weights",
        str(root / "none"),
        "--faces",
        "facexlib",
        *more,
    ]


def test_the_command_without_weights_says_what_is_missing_and_measures_drift(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = count_calls(monkeypatch, "apl_trainer.checkpoints.detect._detect_file")
    read = count_calls(monkeypatch, "apl_core.formats.read_prefix")
    names = ["--names", str(root / "names.txt"), "--heldout", str(root / "heldout.txt")]
    assert main(arguments(root, tmp_path, *names, "--json")) == 0
    assert len(looked) == len(read) == 1
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert printed["change.pixels.prefix"] > 0 and not any("identity" in key for key in printed)
    for word in ("face-detection", "apl fetch face-recognition", "apl fetch clip-b32", "https://"):
        assert word in said.err
    flat = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert set(flat) == {
        "change.pixels.prefix",
        "change.pixels.random",
        "change.pixels.reseeded",
        "change.share_of_a_seed",
    }
    report = read_report(tmp_path)
    assert len(report["not_measured"]) == 2
    monkeypatch.setitem(sys.modules, "dlib", None)  # not installed, as in a fresh environment
    lost = available.available_readers(root / "none", "cpu").lacking[0]
    assert "dlib-bin is not installed" in lost and 'pip install "apl-prefix[evaluate]"' in lost
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not measured: identity and faces" in page and "data:image/png;base64," in page
    before = times(tmp_path / "pictures")
    assert main(arguments(root, tmp_path, *names)) == 0
    assert times(tmp_path / "pictures") == before
    assert "another seed" in capsys.readouterr().out


def test_a_data_set_brings_names_groups_and_descriptions(root: Path, tmp_path: Path) -> None:
    data, said = tmp_path / "data", {NAMES[0]: "an old man", NAMES[2]: "a woman with red hair"}
    data.mkdir()
    entries = [
        CaptionedPicture(
            f"{i}.png",
            f"a photo of {name}, smiling",
            "identity",
            name,
            f"a photo of {said[name]}, smiling",
            i,
            "train" if name in TRAINED else "heldout",
        )
        for i, name in enumerate(said)
    ]
    entries.append(CaptionedPicture("t.png", "a red circle", "things", seed=9, split="heldout"))
    write_metadata(data, entries)
    assert descriptions_in(entries) == said
    out = tmp_path / "out"
    assert main(arguments(root, out, "--data", str(data))) == 0
    labels = [path.name.split("-")[0] for path in (out / "pictures" / "none").iterdir()]
    assert {group: labels.count(group) for group in labels} == {
        "trained": 2,
        "heldout": 2,
        "people": 2,
        "things": 2,
    }


def test_the_built_in_names_are_two_groups() -> None:
    given = argparse.Namespace(names="builtin", heldout=None, data=None)
    who = evaluate._who(given)
    assert (who.trained, who.heldout) == built_in_names() and not who.descriptions


@facexlib
def test_the_command_reads_faces_once_their_weights_are_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And draws what they need then: the gallery, and the baselines that only readers look at."""
    from apl_trainer.readers.facexlib import new_networks

    run = arguments(root, tmp_path / "out", "--names", str(root / "names.txt"), "--gallery-seeds=1")
    assert main([*run, "--json"]) == 0
    before = times(tmp_path / "out" / "pictures")
    for file in ("detection_Resnet50_Final", "recognition_arcface_ir_se50"):
        (tmp_path / f"{file}.safetensors").write_bytes(b"read by nobody in this test")

    def networks(detector: Path, recognizer: Path, device: str) -> Any:
        assert detector.is_file() and recognizer.is_file() and device == "cpu"
        return new_networks("mobile0.25")

    monkeypatch.setattr(available, "load_networks", networks)
    capsys.readouterr()
    assert main([*run, "--weights", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    assert "clip-b32" in said.err and "face-detection" not in said.err
    assert "base.face_found.trained" in json.loads(said.out)["intervals"]
    after = times(tmp_path / "out" / "pictures")
    assert before.items() <= after.items()
    new = {path.parent.name for path in after.keys() - before.keys()}
    assert new == {"gallery", "floor", "negative"}


def test_ctrl_c_ends_in_words(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: CheckpointEvaluator, tell: Any, rank: int, of: int) -> int:
        self.room.draw([self.image_sets["none"].cut(0, 1)], lambda count: None)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointEvaluator, "draw", interrupted)
    assert main(arguments(root, tmp_path, "--names", str(root / "names.txt"))) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert len(times(tmp_path)) == 1 and not (tmp_path / "report.json").exists()


def test_bad_usage_is_told_before_anything_is_loaded(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, names = tmp_path / "out", str(root / "names.txt")
    for more, said in (
        ([], "--names FILE"),
        (["--names", names, "--heldout", names], "in both lists"),
        (["--names", names, "--gallery", str(tmp_path / "none")], "no such folder"),
        (["--names", names, "--seeds", "0"], "--seeds: 0 is not within"),
        (["--names", names, "--shard", "2"], "--shard 2 of --num-shards 1"),
        (["--names", names, "--gallery", names, "--gallery-seeds", "2"], "--gallery-seeds"),
        (["--names", names, "--size", "100"], "multiple of 64"),
    ):
        assert main(arguments(root, out, *more)) == 2
        assert said in capsys.readouterr().err
    assert not out.exists()
