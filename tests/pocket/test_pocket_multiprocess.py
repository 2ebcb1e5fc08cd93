"""Two processes of one machine learn one prefix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apl_core.formats import read_prefix
from apl_core.training.callbacks import Control, Stepped
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.scale import embedding_lengths
from apl_trainer.pocket.model import load_pocket
from apl_trainer.pocket.multiprocess import run_multiprocess
from apl_trainer.pocket.train import PocketOrigin

CONFIG = TrainConfig(
    max_steps=0,
    steps=4,
    target_cache=18,
    batch_identity=3,
    batch_things=2,
    batch_people=3,
    validate_every=4,
    save_every=2,
    optimizer="adam",
    learning_rate=1e-3,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo needs a POSIX system here")


def learn(path: Path, processes: int, stop_at: int = 0) -> RunFolder:
    """A run in a folder, asked to stop after a step."""
    model, folder, control = load_pocket(), RunFolder(path), Control()

    def on_event(event: object) -> None:
        if isinstance(event, Stepped) and event.step == stop_at:
            control.stop.set()

    if not folder.config.exists():
        folder.create(CONFIG)
    origin = PocketOrigin(str(model.folder), None)
    run_multiprocess(model, CONFIG, folder, origin, [on_event], control, processes)
    return folder


def test_two_processes_learn_and_see_what_one_does_and_go_on_when_stopped(tmp_path: Path) -> None:
    one, two = learn(tmp_path / "one", 1), learn(tmp_path / "two", 2, stop_at=2)
    assert [r["step"] for r in two.rows() if "loss" in r] == [1, 2]
    learn(tmp_path / "two", 2)
    rows = one.rows(), two.rows()
    assert [r["step"] for r in rows[1] if "loss" in r] == [1, 2, 3, 4]
    losses = [[r["loss"] for r in found if "loss" in r] for found in rows]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    validated = [next(r for r in found if "score" in r) for found in rows]
    assert (
        validated[0].keys() == validated[1].keys()
        and validated[0]["step"] == validated[1]["step"] == 4
    )
    for key in ("score", "name_left", "drift_things", "drift_people"):
        assert validated[1][key] == pytest.approx(validated[0][key], abs=0.02), key
    prefixes = [read_prefix(f.prefix).vectors["pocket"] for f in (one, two)]
    length = embedding_lengths(CONFIG, load_pocket().encoder)["pocket"]
    moved = CONFIG.steps * CONFIG.learning_rate * length  # as far as Adam can move a number
    assert float((prefixes[0] - prefixes[1]).abs().mean()) < 0.05 * moved
