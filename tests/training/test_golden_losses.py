"""Losses of short runs as they were recorded: who changes what is learned sees it here."""

from pathlib import Path
from typing import Any

import pytest
from tiny_run import PAPER_STEP, WHOLE, settings
from tiny_train import timeless, train

from apl_core.training import batches

GOLDEN = {
    "plain": [12.39842, 10.67189, 11.73739, 12.77556],
    "pool": [14.93813, 16.77207, 11.49657, 13.19704],
    "muon": [12.39842, 10.71845, 11.08965, 11.29348],
    "texts": [12.27943, 8.9372, 9.2486, 11.26662],
    "whole": [7.53842, 8.65058, 16.77098, 12.11777],
    "paper": [0.45793, 0.35029, 0.63416, 0.606],
}
"""Losses of steps 1, 2, 6 and 12 at seed 0.

Recorded anew when errors began to be counted in what another caption changes, 0.0638 here: but for
that and rounding they are those of before. The paper's are not counted so.
"""

TOLERANCE = [0.01, 0.02, 0.06, 0.2]
"""Other CPUs round differently, and Adam's first steps enlarge it (seen: 0.09 at step 12)."""


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("plain", {}),
        ("pool", {"target_cache": 18, "target_cache_uses": 5}),
        ("muon", {"optimizer": "muon"}),
        ("texts", {"text_steps": 5, "prefix_init": "normal", "repulsion": 0.0}),
        ("whole", WHOLE),
        ("paper", {**PAPER_STEP, "lr_scheduler": "constant"}),
    ],
)
def test_golden_losses(
    name: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CAPTIONS", 16)  # how many were measured on when these were made
    config = settings(**{"learning_rate": 0.0125, "validate_every": 0, **changes})
    train(tmp_path, config)
    losses = [row["loss"] for row in timeless(tmp_path)]
    for step, wanted, share in zip((1, 2, 6, 12), GOLDEN[name], TOLERANCE, strict=True):
        assert losses[step - 1] == pytest.approx(wanted, rel=share), step
