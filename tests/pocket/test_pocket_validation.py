"""The validator of a pocket run, and the sheets that show what it saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from apl_core.prefix import Rows
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.model import load_pocket
from apl_trainer.pocket.validation import PocketPreviewer, PocketValidator


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.int16)


def test_a_preview_shows_what_was_judged_or_draws_it(tmp_path: Path) -> None:
    model = load_pocket()
    validator = PocketValidator(model, model.world.group("train")[:4])
    preview = PocketPreviewer(validator)
    validated, other = random_rows(model.encoder, 4, 2, 0), random_rows(model.encoder, 12, 4, 1)
    preview(validated, tmp_path / "drawn.png")
    assert validator.validated(validated) is None
    validator(validated)
    validator.sampler, sampler = None, validator.sampler  # type: ignore[assignment]
    preview(validated, tmp_path / "validated.png")
    drawn, seen = read(tmp_path / "drawn.png"), read(tmp_path / "validated.png")
    assert np.abs(drawn - seen).max() <= 1
    validator.sampler = sampler
    assert validator.validated(other) is None
    next(iter(validated.vectors.values())).add_(1)  # a step later the same rows are others
    assert validator.validated(Rows(validated.vectors, validated.behind)) is None
    preview(other, tmp_path / "other.png")
    assert np.abs(read(tmp_path / "other.png") - seen).max() > 30
