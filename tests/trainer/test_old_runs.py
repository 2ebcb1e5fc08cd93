"""Runs that a former learner began are refused with a sentence, wherever somebody goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from apl_core.training.folder import RunFolder
from apl_trainer.checkpoints.train import CheckpointOrigin
from apl_trainer.cli import main
from apl_trainer.pocket.train import PocketOrigin
from apl_trainer.run_paths import BUILT_IN
from apl_trainer.ui.run_request import RunRequest
from apl_trainer.ui.run_status import read_run
from apl_trainer.ui.worker_main import run

NAMES = ("Ann Lee", "Bo Li", "Cy Mo", "Di Nu")
SAID = "start a new run: what the old one has learned is in its prefix.safetensors and stays valid"


def pocket(folder: Path) -> None:
    PocketOrigin(str(BUILT_IN), None).save(RunFolder(folder))
    RunRequest("pocket", str(BUILT_IN), None, "quick").save(folder, "")


def checkpoint(folder: Path) -> None:
    model = str(folder / "model.safetensors")
    CheckpointOrigin(model, names=NAMES).save(RunFolder(folder))
    RunRequest("checkpoint", model, NAMES, "quick").save(folder, "")


@pytest.mark.parametrize("begun", [pocket, checkpoint])
@pytest.mark.parametrize("setting", ["min_timestep", "min_timestep_free", "lowest_t"])
def test_resume_and_page_say_to_start_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], begun: Callable[[Path], None], setting: str
) -> None:
    begun(tmp_path)
    (tmp_path / "config.toml").write_text(f"{setting} = 0\nlearning_rate = 0.002\nsteps = 3\n")
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["resume", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert SAID in said and f"set {setting}: " in said and said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    assert run(tmp_path) == 1
    told = read_run(tmp_path)
    assert told.state == "failed" and SAID in told.error and "unexpected" not in told.error
