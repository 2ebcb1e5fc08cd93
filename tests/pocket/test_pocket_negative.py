"""`apl bench negative`: both sides covered beside the positive alone, learnt and measured small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from apl_core.errors import AplError
from apl_trainer.bench.negative import Size, run
from apl_trainer.cli import main
from apl_trainer.pocket.learn import POCKET
from apl_trainer.pocket.model import load_pocket

SMALL = replace(
    POCKET,
    batch_identity=1,
    batch_things=1,
    batch_people=1,
    pool=0,
    steps=1,
    check_every=0,
    empty=0.5,
)
SIZE = Size(names=2, pictures=1, free=2)


def test_both_sides_are_measured_beside_the_positive_alone(tmp_path: Path) -> None:
    said: list[str] = []
    model = load_pocket()

    def measured(guidances: list[float]) -> dict[str, float]:
        return run(model, tmp_path, SMALL, [0, 1], guidances, SIZE, 1, said.append)

    flat = measured([1.0, 3.0])
    assert flat == json.loads((tmp_path / "figures.json").read_text())
    keys = {key.rsplit(".", 1)[0] for key in flat if key.endswith(".change")}
    ways = ("none", "positive", "both", "difference", "difference_worst")
    cells = ("1/empty", "3/empty", "3/hat", "3/name")
    assert keys == {f"{cell}.{way}" for cell in cells for way in ways}
    # guidance 1 runs no negative prompt, so nothing there can tell the two ways apart
    apart = {key: value for key, value in flat.items() if ".difference" in key and value}
    assert apart and not any(key.startswith("1/") for key in apart)
    assert all(flat[f"{cell}.positive.change"] > 0 for cell in cells)
    assert "not tried on pretrained weights" in said[-1] and "3/hat" in said[-1]

    kept = (tmp_path / "cells.json").read_bytes()
    assert measured([3.0]) == {k: v for k, v in flat.items() if k.startswith("3/")}
    assert (tmp_path / "cells.json").read_bytes() == kept
    with pytest.raises(AplError, match="another measurement"):
        run(model, tmp_path, replace(SMALL, empty=0.0), [0], [3.0], SIZE, 1, said.append)


@pytest.mark.parametrize(
    "wrong",
    [["--seeds", "0,x"], ["--guidance", "0.5"], ["--names", "0"], ["--set", "empty=2"]],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_learnt(
    wrong: list[str], tmp_path: Path
) -> None:
    try:
        code = main(["bench", "negative", "--out", str(tmp_path / "out"), *wrong])
    except SystemExit as end:
        code = end.code
    assert code == 2 and not (tmp_path / "out").exists()
