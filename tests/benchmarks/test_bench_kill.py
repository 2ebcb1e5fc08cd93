"""`apl bench kill` on a few kills, and on a run that does not remember what it should."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from apl_core.training.folder import RunFolder, State
from apl_trainer.pocket.model import PocketModel, load_pocket
from benchmarks.kill import run

if not hasattr(os, "fork"):
    pytest.skip("the bench needs a system that forks", allow_module_level=True)


@pytest.fixture(scope="module")
def model() -> PocketModel:
    return load_pocket()


def test_killed_runs_come_out_as_if_nobody_had_disturbed_them(
    model: PocketModel, tmp_path: Path
) -> None:
    said: list[str] = []
    figures = run(model, tmp_path, 5, 3, said.append)
    assert figures["failures"] == 0, said
    assert figures["kills"] == 5  # how many fell into a save depends on the disk
    assert figures["identical"] == figures["runs"] >= 1
    assert figures["told_of_the_earlier_state"] == figures["cut_states"]
    assert figures["no_room"] == 2 and figures["read_only"] == 1
    assert json.loads((tmp_path / "figures.json").read_text()) == figures


def test_a_state_that_forgets_is_found_out(
    model: PocketModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_save = RunFolder.save_state

    def forgetful(self: RunFolder, state: State) -> None:
        shaken = {k: v + 1e-4 if k.startswith("rows") else v for k, v in state.tensors.items()}
        true_save(self, replace(state, tensors=shaken))

    monkeypatch.setattr(RunFolder, "save_state", forgetful)
    said: list[str] = []
    figures = run(model, tmp_path, 2, 4, said.append)
    assert figures["failures"] >= 1 and figures["identical"] < figures["runs"]
    assert "came out another one" in (tmp_path / "failures.txt").read_text()
