"""`apl bench name-left`: ranks, and a tiny measurement that goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apl_core.training.config import TrainConfig
from apl_trainer.pocket.model import load_pocket
from apl_trainer.run_paths import BUILT_IN
from benchmarks import name_left
from benchmarks.name_left import PAIRS, RECIPES, Size, rank_correlation, run, scatter

CONFIG = TrainConfig(batch_identity=1, batch_things=1, batch_people=1, target_cache=0)


def test_ranks_and_not_values_are_compared() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # scipy.stats.spearmanr([1, 2, 2, 3], [1, 3, 2, 4]).statistic
    assert rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486832980505139)


def test_every_snapshot_is_measured_both_ways_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {name: RECIPES[name] for name in ("recipe", "names-heavy")}
    monkeypatch.setattr(name_left, "RECIPES", two)
    model, size, said = load_pocket(BUILT_IN), Size(4, 2, 4, 8), list[str]()
    flat = run(model, CONFIG, [3], size, tmp_path, 1, said.append)
    assert flat["prefixes"] == 4 and len(said) == 1
    found = json.loads((tmp_path / "snapshots.json").read_text())
    assert set(found) == {f"seed-3/{name}/0000{step}.safetensors" for name in two for step in "24"}
    for one in found.values():
        assert set(one) == {*PAIRS, *(seen for seen, _ in PAIRS.values())}
        assert one["drift_things"] > 0
    assert (tmp_path / "scatter.svg").read_text().count("<svg") >= 1
    before = (tmp_path / "snapshots.json").stat().st_mtime_ns
    assert run(model, CONFIG, [3], size, tmp_path, 1, said.append) == pytest.approx(
        flat, nan_ok=True
    )
    assert (tmp_path / "snapshots.json").stat().st_mtime_ns == before


def test_a_chart_holds_a_dot_for_each_prefix_in_percent() -> None:
    columns = [*PAIRS, *(seen for seen, _ in PAIRS.values())]
    found = [{column: 0.1 * number for column in columns} for number in range(1, 4)]
    charts = scatter(found)
    assert len(charts) == len(PAIRS)
    for chart, (_, sign) in zip(charts, PAIRS.values(), strict=True):
        [curve] = chart.curves
        across, upwards = zip(*curve.points, strict=True)
        assert across == upwards == pytest.approx((10, 20, 30))
        assert f"{sign:.2f}" in chart.title
