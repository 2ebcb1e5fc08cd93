"""Stopped, killed or damaged at any moment: what comes out is what an uninterrupted run gives."""

import logging
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import PAPER_STEP, WHOLE, Child, settings
from tiny_train import prefix_bytes, stop_at, timeless, train

from apl_core.errors import RunError
from apl_core.training import backtracking
from apl_core.training.callbacks import Control
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder, State
from apl_core.training.renamed import RENAMED
from apl_trainer.plain_toml import loads

PLANS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kept targets": {"target_cache": 18, "target_cache_uses": 5},
    "micro-batches": {"micro_batch": 4, "max_grad_norm": 0.5},
    "muon": WHOLE,
    "texts": {"text_steps": 3, "save_every": 5},
    "paper": PAPER_STEP,
    "taken back": {"backtrack": 0.5},
    "patience": {"patience": 2, "steps": 30, "validate_every": 2, "learning_rate": 0.6},
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_stopped_run_goes_on_exactly(
    plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtracking, "JUMP", 0.9)  # takes some steps of this small run back
    config = settings(**PLANS[plan])
    train(tmp_path / "straight", config)
    taken_back = [
        row["step"] for row in timeless(tmp_path / "straight") if not row.get("learning_rate", 1)
    ]
    assert bool(taken_back) == (plan == "taken back")
    for step in random.Random(plan).sample(range(1, 12), 2):
        control = Control()
        train(tmp_path / "cut", config, stop_at(control, step), control=control)
    train(tmp_path / "cut", config)
    assert prefix_bytes(tmp_path / "cut") == prefix_bytes(tmp_path / "straight")
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "straight")


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    """Six kills by SIGKILL: after a random step, and a random part of a step or save later."""
    changes = {"steps": 26, "save_every": 1, "target_cache": 12}
    code, out = Child(tmp_path / "straight", **changes).finish()
    assert code == 0, out
    chance = random.Random(7)
    for step in range(2, 26, 4):
        child = Child(tmp_path / "killed", **changes)
        child.wait_for(f"step {step}")
        time.sleep(chance.random() * 0.05)
        child.process.kill()
        code, _ = child.finish()
        assert code == -signal.SIGKILL
    code, out = Child(tmp_path / "killed", **changes).finish()
    assert code == 0 and "finished" in out, out
    assert "step 20\n" not in out, "it began anew"
    assert prefix_bytes(tmp_path / "killed") == prefix_bytes(tmp_path / "straight")
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "straight")


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_at_any_moment_of_a_save_leaves_a_readable_state(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file operation of a save in turn is the last one that happens."""
    config = settings()
    train(tmp_path / "straight", config)
    control = Control()
    train(tmp_path / "cut", config, stop_at(control, 4), control=control)
    done: list[str] = []

    class Killed(BaseException):
        """Nothing in the project may catch this."""

    def until(name: str) -> None:
        true_call = getattr(os, name)

        def call(*given: Any, **more: Any) -> Any:
            if len(done) >= moment:
                raise Killed
            done.append(name)
            return true_call(*given, **more)

        monkeypatch.setattr(os, name, call)

    class Armed(RunFolder):
        def save_state(self, state: Any) -> None:
            for name in ("fsync", "replace"):
                until(name)
            super().save_state(state)

    from tiny_model import TinyJudge, TinySource
    from tiny_train import MODEL

    from apl_core.training.loop import Trainer

    armed = Armed(tmp_path / "cut")
    with pytest.raises(Killed):
        Trainer(config, MODEL, TinySource(), armed, TinyJudge(MODEL)).run()
    monkeypatch.undo()
    found = RunFolder(tmp_path / "cut").load_state()
    assert found is not None and found[0].numbers["step"] in (4, 6)
    assert not found[1], "nothing was damaged, so nothing is to be told"
    train(tmp_path / "cut", config)
    assert prefix_bytes(tmp_path / "cut") == prefix_bytes(tmp_path / "straight")
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "straight")


def stopped_at_seven(folder: Path) -> RunFolder:
    """States of step 6 (earlier) and 7 (newest)."""
    control = Control()
    train(folder, settings(), stop_at(control, 7), control=control)
    return RunFolder(folder)


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_truncated_state_gives_way_to_the_earlier_one(
    size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path / "straight", settings())
    run = stopped_at_seven(tmp_path / "cut")
    data = run.state.read_bytes()
    run.state.write_bytes(data[:size])
    with caplog.at_level(logging.WARNING, logger="apl"):
        train(run.path, settings())
    [record] = caplog.records
    assert "state.safetensors is unreadable" in record.getMessage()
    assert "going on from step 6" in record.getMessage()
    assert prefix_bytes(run.path) == prefix_bytes(tmp_path / "straight")
    assert timeless(run.path) == timeless(tmp_path / "straight")


def test_a_good_earlier_state_outlives_a_failed_save_over_a_damaged_one(tmp_path: Path) -> None:
    run = stopped_at_seven(tmp_path)
    run.state.write_bytes(b"damaged")
    found = run.load_state()
    assert found is not None
    run.newer.mkdir()  # nothing can be written there
    with pytest.raises(RunError):
        run.save_state(found[0])
    run.newer.rmdir()
    again = run.load_state()
    assert again is not None and again[0].numbers["step"] == 6


def test_two_damaged_states_are_an_error(tmp_path: Path) -> None:
    run = stopped_at_seven(tmp_path)
    run.state.write_bytes(b"")
    run.earlier.write_bytes(run.earlier.read_bytes()[:200])
    with pytest.raises(RunError, match=r"(?s)state.safetensors.*state.earlier.safetensors.*Fix:"):
        train(tmp_path, settings())


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    run = stopped_at_seven(tmp_path)
    with pytest.raises(RunError, match=r"\(4, 128\).*\(5, 128\)"):
        train(run.path, settings(num_vectors=5))
    with pytest.raises(RunError, match=r"exp_avg.*muon needs"):
        train(run.path, settings(optimizer="muon"))


def test_a_metrics_line_that_a_kill_cut_off_is_forgotten(tmp_path: Path) -> None:
    train(tmp_path / "straight", settings())
    run = stopped_at_seven(tmp_path / "cut")
    with run.metrics.open("a") as file:
        file.write('{"step": 8, "loss": 0.1}\n{"step": 9, "lo')
    train(run.path, settings())
    assert timeless(run.path) == timeless(tmp_path / "straight")


def test_a_finished_run_resumed_stays_as_it_is(tmp_path: Path) -> None:
    train(tmp_path, settings())
    before = prefix_bytes(tmp_path), timeless(tmp_path)
    train(tmp_path, settings())
    assert (prefix_bytes(tmp_path), timeless(tmp_path)) == before


def test_a_state_that_remembers_one_step_goes_on(tmp_path: Path) -> None:
    """Earlier versions could take one step back."""
    config, control = settings(backtrack=0.5), Control()
    train(tmp_path / "straight", config)
    train(tmp_path / "old", config, stop_at(control, 7), control=control)
    run = RunFolder(tmp_path / "old")
    state, _ = run.load_state() or pytest.fail("it saved nothing")
    before = {k: v for k, v in state.tensors.items() if k.startswith("before.")}
    assert before and all(len(v) == 7 for v in before.values())
    numbers = {k: v for k, v in state.numbers.items() if k != "returned"}
    run.save_state(State({**state.tensors, **{k: v[-1] for k, v in before.items()}}, numbers))
    train(run.path, config)
    assert prefix_bytes(run.path) == prefix_bytes(tmp_path / "straight")


def test_a_run_that_began_with_the_names_of_before_goes_on(tmp_path: Path) -> None:
    train(tmp_path / "straight", settings())
    run = stopped_at_seven(tmp_path / "old")
    text = run.config.read_text().replace('"no"', '"off"')
    for old, new in RENAMED.items():
        text = text.replace(f"\n{new} = ", f"\n{old} = ")
    run.config.write_text(text)
    run.metrics.write_text(run.metrics.read_text().replace('"learning_rate"', '"rate"'))
    assert 'autocast = "off"' in text and "\nrate = " in text and "learning_rate" not in text
    train(run.path, TrainConfig.from_mapping(loads(text)))
    assert prefix_bytes(run.path) == prefix_bytes(tmp_path / "straight")
    assert timeless(run.path) == timeless(tmp_path / "straight")
