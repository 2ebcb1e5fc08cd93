"""Runs go on after the clone, or the run and its data, have moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apl_core.training.folder import RunFolder
from apl_trainer.checkpoints.train import CheckpointOrigin
from apl_trainer.cli import main
from apl_trainer.pocket.train import PocketOrigin
from apl_trainer.run_paths import BUILT_IN
from apl_trainer.ui.run_request import RunRequest

OLD = (
    "/gone/apl-prefix/trainer/pocket/weights",
    "C:\\gone\\trainer\\pocket\\weights",
    "/gone/site-packages/apl_trainer/pocket/weights",
)


def origin(folder: Path) -> dict[str, object]:
    return json.loads((folder / "origin.json").read_text(encoding="utf-8"))


def test_the_built_in_model_is_remembered_by_its_name(tmp_path: Path) -> None:
    PocketOrigin(str(BUILT_IN), ("a", "b")).save(RunFolder(tmp_path))
    assert origin(tmp_path) == {"model": "built-in", "names": ["a", "b"], "beside": {}}
    assert PocketOrigin.of(RunFolder(tmp_path)) == PocketOrigin(str(BUILT_IN), ("a", "b"))
    assert RunRequest.of(tmp_path) == RunRequest("pocket", str(BUILT_IN), ("a", "b"), "standard")
    RunRequest("pocket", str(BUILT_IN), None, "quick").save(tmp_path, "")
    assert str(BUILT_IN) not in (tmp_path / "order.json").read_text(encoding="utf-8")
    assert RunRequest.of(tmp_path) == RunRequest("pocket", str(BUILT_IN), None, "quick")


@pytest.mark.parametrize("model", OLD)
def test_an_older_runs_whole_path_of_it_is_understood(tmp_path: Path, model: str) -> None:
    (tmp_path / "origin.json").write_text(json.dumps({"model": model, "names": None}))
    assert PocketOrigin.of(RunFolder(tmp_path)) == PocketOrigin(str(BUILT_IN), None)
    assert (
        RunRequest.of(tmp_path).model == str(BUILT_IN) and RunRequest.of(tmp_path).kind == "pocket"
    )


def test_another_model_that_is_gone_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text('{"model": "/gone/worlds/1/weights", "names": null}')
    assert PocketOrigin.of(RunFolder(tmp_path)).model == "/gone/worlds/1/weights"


def test_a_pocket_model_given_from_here_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUILT_IN, "worlds/1")
    (tmp_path / "run").mkdir()
    PocketOrigin("worlds/1", None).save(RunFolder(Path("run")))
    monkeypatch.chdir("/")
    assert PocketOrigin.of(RunFolder(tmp_path / "run")).model == str(tmp_path / "worlds/1")


def test_model_data_and_tokenizer_that_moved_with_the_run_are_found(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for place in ("runs/mine", "data/set", "models/tokenizer"):
        (before / place).mkdir(parents=True)
    (before / "models/sd1.safetensors").write_bytes(b"")
    paths = ("models/sd1.safetensors", "data/set", "models/tokenizer")
    here, there = ([str(root / path) for path in paths] for root in (before, after))
    CheckpointOrigin(here[0], here[1], tokenizer=here[2]).save(RunFolder(before / "runs/mine"))
    assert CheckpointOrigin.of(RunFolder(before / "runs/mine")) == CheckpointOrigin(
        *here[:2], tokenizer=here[2]
    )
    shutil.copytree(before / "runs/mine", tmp_path / "far/mine")
    assert CheckpointOrigin.of(RunFolder(tmp_path / "far/mine")) == CheckpointOrigin(
        *here[:2], tokenizer=here[2]
    )
    before.rename(after)
    assert CheckpointOrigin.of(RunFolder(after / "runs/mine")) == CheckpointOrigin(
        *there[:2], tokenizer=there[2]
    )
    assert RunRequest.of(after / "runs/mine").model == there[0]
    gone = CheckpointOrigin.of(RunFolder(tmp_path / "far/mine"))
    assert gone is not None and gone.checkpoint == here[0]


def test_an_older_run_on_a_checkpoint_is_read(tmp_path: Path) -> None:
    data = {"checkpoint": "/gone/sd.safetensors", "data": None, "names": ["a"]}
    (tmp_path / "origin.json").write_text(json.dumps(data))
    assert CheckpointOrigin.of(RunFolder(tmp_path)) == CheckpointOrigin(
        "/gone/sd.safetensors", None, ("a",)
    )


def test_resume_goes_on_with_a_run_of_a_clone_that_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    few = [
        "--steps",
        "2",
        "--set",
        "target_cache=18",
        "--set",
        "validate_every=0",
        "--set",
        "batch_identity=3",
        "--set",
        "batch_things=2",
        "--set",
        "batch_people=3",
    ]
    assert main(["pocket", "train", "--out", str(out), *few]) == 0
    assert "built-in" in (out / "origin.json").read_text(encoding="utf-8")
    first = (out / "prefix.safetensors").read_bytes()
    (out / "prefix.safetensors").unlink()
    (out / "origin.json").write_text(json.dumps({"model": OLD[0], "names": None}))
    assert main(["resume", str(out)]) == 0
    assert (out / "prefix.safetensors").read_bytes() == first
    capsys.readouterr()
