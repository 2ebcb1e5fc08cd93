"""Steps that name-free prompts do not survive are taken back, and the step size halved."""

import math
from pathlib import Path

import pytest
import torch

from apl_core.example_kinds import Kind
from apl_core.training import backtracking
from apl_core.training.backtracking import GROWTH, TRAIL, Backtracking, free_error
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.muon import Muon
from apl_trainer.pocket.model import load_pocket
from apl_trainer.pocket.train import PocketOrigin, pocket_run


def test_a_step_over_the_limit_goes_back_and_halves_the_step_size() -> None:
    rows = {"pocket": torch.ones(2, 3, requires_grad=True)}
    optimizer = Muon(rows.values(), lr=0.1)
    tries = Backtracking(0.5)
    assert not tries.too_far(9.0), "there is no step yet"
    tries.goes_on(0.02, rows)
    rows["pocket"].grad = torch.randn(2, 3)
    optimizer.step()
    tries.grow()
    assert not torch.equal(rows["pocket"], torch.ones(2, 3)) and tries.share == 1
    assert not tries.too_far(0.5) and tries.too_far(0.51)
    tries.back(rows, optimizer)
    assert torch.equal(rows["pocket"], torch.ones(2, 3)) and tries.share == 0.5
    assert not optimizer.state, "its momentum led over the cliff"
    assert not tries.too_far(9.0), "nothing is left to take back: from here it goes on"
    tries.goes_on(9.0, rows)
    tries.grow()
    assert tries.share == 0.5 * GROWTH


def test_where_prompts_never_were_well_the_limit_follows_them() -> None:
    tries = Backtracking(0.5)
    for error in (1.0, 0.8, 0.9):
        tries.goes_on(error, {"pocket": torch.ones(1)})
    assert not tries.too_far(3.2) and tries.too_far(3.3), "four times the lowest"
    assert not Backtracking(0.0, trail=[{"pocket": torch.ones(1)}]).too_far(9.0)


def test_where_prompts_are_not_well_there_either_it_goes_back_by_one_step_more() -> None:
    """A run on a causal language model went back to a place that was no better, for 200 steps."""
    rows = {"pocket": torch.zeros(1, requires_grad=True)}
    optimizer, tries = Muon(rows.values(), lr=0.1), Backtracking(0.5)
    for place, error in enumerate((0.1, 0.2, 0.49)):
        with torch.no_grad():
            rows["pocket"].fill_(place)
        tries.goes_on(error, rows)
        tries.grow()
    for place in (2, 1, 0):
        assert tries.too_far(0.6)
        tries.back(rows, optimizer)
        assert rows["pocket"].item() == place
    assert not tries.too_far(0.6), "it is where it began"
    assert tries.share == 0.5, "one step too long is what led there"
    tries.goes_on(0.6, rows)
    tries.grow()
    assert tries.too_far(0.7)
    tries.back(rows, optimizer)
    assert tries.share == 0.25 * GROWTH


def test_only_so_many_steps_are_kept() -> None:
    tries = Backtracking(0.5)
    for place in range(TRAIL + 3):
        tries.goes_on(0.1, {"pocket": torch.full((1,), float(place))})
    assert [rows["pocket"].item() for rows in tries.trail] == list(range(3, TRAIL + 3))


def test_the_error_counts_name_free_kinds_by_their_weights() -> None:
    weights: dict[Kind, float] = {"identity": 1.0, "things": 3.0, "people": 1.0}
    assert free_error({"identity": 9.0, "things": 1.0, "people": 2.0}, weights) == 1.25
    assert free_error({"identity": 9.0, "people": 2.0}, weights) == 2.0
    assert math.isnan(free_error({"identity": 9.0}, weights))


def pocket_errors(folder: Path, backtrack: float, rate: float) -> tuple[list[float], list[float]]:
    """Errors of name-free prompts and step sizes of a short run."""
    config = TrainConfig(
        steps=12, target_cache=48, validate_every=0, learning_rate=rate, backtrack=backtrack
    )
    model, run = load_pocket(), RunFolder(folder)
    run.create(config)
    pocket_run(model, config, run, PocketOrigin(str(model.folder), None)).run()
    rows = [row for row in run.rows() if "loss" in row]
    kinds = ("things", "people")
    errors = [free_error({k: row[k] for k in kinds}, config.weights) for row in rows]
    return errors, [row["learning_rate"] for row in rows]


def test_steps_are_taken_back_where_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule once more, over the errors of a run that allows little and whose steps are long."""
    monkeypatch.setattr(backtracking, "JUMP", 1.0)
    errors, rates = pocket_errors(tmp_path / "run", 0.02, 30.0)
    lowest, share, kept, returned = errors[0], 1.0, 0, False
    for step, (error, rate) in enumerate(zip(errors, rates, strict=True)):
        if kept and error > max(0.02, lowest):
            assert rate == 0.0
            share, kept, returned = share if returned else share / 2, kept - 1, True
            continue
        lowest, kept, returned = min(lowest, error), kept + 1, False
        planned = 30.0 * (min(step + 1, 10) / 10 if step < 11 else 0.5)
        assert rate == pytest.approx(planned * share)
        share = min(1.0, share * 1.05)
    assert rates.count(0.0) >= 2
