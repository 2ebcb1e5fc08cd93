"""`apl bench name-left`: ranks, and a tiny measurement that goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apl_trainer.pocket.model import load_pocket
from apl_trainer.pocket.train import POCKET
from apl_trainer.run_paths import BUILT_IN
from benchmarks.name_left import PAIRS, Size, rank_correlation, run


def test_ranks_and_not_values_are_compared() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # scipy.stats.spearmanr([1, 2, 2, 3], [1, 3, 2, 4]).statistic
    assert rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486832980505139)


def test_every_snapshot_is_measured_both_ways_and_once(tmp_path: Path) -> None:
    model, size, said = load_pocket(BUILT_IN), Size(4, 2, 4, 8), list[str]()
    flat = run(model, POCKET, [3], size, tmp_path, 1, said.append)
    assert flat["prefixes"] == 2 and len(said) == 1
    found = json.loads((tmp_path / "snapshots.json").read_text())
    assert set(found) == {"seed-3/00002.safetensors", "seed-3/00004.safetensors"}
    for one in found.values():
        assert set(one) == {*PAIRS, *(seen for seen, _ in PAIRS.values())}
        assert one["drift_things"] > 0
    before = (tmp_path / "snapshots.json").stat().st_mtime_ns
    assert run(model, POCKET, [3], size, tmp_path, 1, said.append) == pytest.approx(
        flat, nan_ok=True
    )
    assert (tmp_path / "snapshots.json").stat().st_mtime_ns == before
