"""`apl bench speed`: the curves of two recipes, and what is read from them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from apl_core.errors import AplError
from apl_core.training.config import TrainConfig
from apl_trainer.pocket.model import load_pocket
from benchmarks.results import write_sections
from benchmarks.speed import compared, quality_curve, time_to

SMALL = TrainConfig(
    max_steps=0,
    batch_identity=1,
    batch_things=1,
    batch_people=1,
    target_cache=0,
    steps=4,
    validate_every=2,
)


def test_a_recipe_is_asked_once_at_least_and_stops_when_its_time_is_up() -> None:
    said: list[str] = []
    curve = quality_curve(load_pocket(), SMALL, 0, said.append)
    assert len(curve) == len(said) == 1 and curve[0][0] > 0


def test_a_curve_has_the_best_score_so_far_of_every_check() -> None:
    curve = quality_curve(load_pocket(), SMALL, math.inf, lambda _: None)
    seconds, scores = zip(*curve, strict=True)
    assert len(curve) == 2
    assert list(seconds) == sorted(seconds) and list(scores) == sorted(scores, reverse=True)


def test_recipes_are_compared_at_the_best_that_both_reach_and_near_it() -> None:
    ours = [(1.0, 0.9), (2.0, 0.52), (4.0, 0.5), (8.0, 0.1)]
    theirs = [(10.0, 0.8), (20.0, 0.51), (90.0, 0.5)]
    found = compared(ours, theirs)
    assert found["score.compared_at"] == 0.5
    assert found["speedup_to_quality"] == 90 / 4
    assert found["speedup_to_near_quality"] == 20 / 2
    assert found["speedup_to_quality"] == 1 / compared(theirs, ours)["speedup_to_quality"]
    assert time_to(ours, 0.05) == math.inf


def test_the_page_of_results_says_what_was_measured(tmp_path: Path) -> None:
    ours, theirs = [(1.0, 0.9), (4.0, 0.5)], [(10.0, 0.8), (90.0, 0.5)]
    figures = compared(ours, theirs) | {"step_cost_ratio": 0.16, "seconds.budget": 420.0}
    page, run = tmp_path / "results.md", tmp_path / "figures.json"
    page.write_text("<!-- results: speed -->\n<!-- /results: speed -->\n")
    run.write_text(json.dumps(figures))
    write_sections(page, {"speed": tmp_path})
    told = page.read_text()
    assert "`apl bench speed --minutes 7`" in told
    assert "| 4 / 90 |" in told and "| 22.5 |" in told and "| 0.16 |" in told


def test_a_run_of_another_kind_or_a_page_without_markers_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("<!-- results: speed -->\n")
    (tmp_path / "figures.json").write_text('{"seconds.budget": 420.0}')
    with pytest.raises(AplError, match="no figure"):
        write_sections(page, {"speed": tmp_path})
    with pytest.raises(AplError, match=r"report\.json"):
        write_sections(page, {"paper": tmp_path})
    figures = compared([(1.0, 0.5)], [(2.0, 0.5)]) | {"step_cost_ratio": 1.0, "seconds.budget": 60}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    with pytest.raises(AplError, match="no <!-- results: speed"):
        write_sections(page, {"speed": tmp_path})
    assert page.read_text() == "<!-- results: speed -->\n"
