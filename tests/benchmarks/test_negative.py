"""`apl bench negative`: both sides covered beside the positive alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from apl_core.errors import AplError
from apl_core.formats import write_prefix
from apl_core.prefix import Prefix
from apl_core.training.config import TrainConfig
from apl_trainer.cli import main
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.model import load_pocket
from benchmarks.negative import Size, cells, learn, run

SMALL = TrainConfig(
    batch_identity=1,
    batch_things=1,
    batch_people=1,
    target_cache=0,
    steps=1,
    validate_every=0,
    proportion_empty_prompts=0.5,
)
SIZE = Size(names=2, pictures=1, free=2)


def test_both_sides_are_measured_beside_the_positive_alone(tmp_path: Path) -> None:
    said: list[str] = []
    model = load_pocket()

    def measured(guidances: list[float]) -> dict[str, float]:
        prefixes, every = learn(model, SMALL, [0, 1], tmp_path), cells(model.world, guidances)
        return run(model, tmp_path, prefixes, every, SIZE, 1, said.append)

    flat = measured([1.0, 3.0])
    assert flat == json.loads((tmp_path / "figures.json").read_text())
    keys = {key.rsplit(".", 1)[0] for key in flat if key.endswith(".change")}
    ways = ("none", "positive", "both", "difference", "difference_worst")
    made = ("1/empty", "3/empty", "3/hat", "3/name")
    assert keys == {f"{cell}.{way}" for cell in made for way in ways}
    # guidance 1 runs no negative prompt, so nothing there can tell the two ways apart
    apart = {key: value for key, value in flat.items() if ".difference" in key and value}
    assert apart and not any(key.startswith("1/") for key in apart)
    assert all(flat[f"{cell}.positive.change"] > 0 for cell in made)
    assert "not tried on pretrained weights" in said[-1] and "3/hat" in said[-1]

    kept = (tmp_path / "cells.json").read_bytes()
    assert measured([3.0]) == {k: v for k, v in flat.items() if k.startswith("3/")}
    assert (tmp_path / "cells.json").read_bytes() == kept
    one, other = learn(model, SMALL, [0, 1], tmp_path).values()
    for title, size in (("seed-0", SIZE), ("seed-2", replace(SIZE, free=3))):
        with pytest.raises(AplError, match="another measurement"):
            run(model, tmp_path, {title: other}, [], size, 1, said.append)
    with pytest.raises(AplError, match="other settings"):
        learn(model, replace(SMALL, proportion_empty_prompts=0.0), [0], tmp_path)
    assert one.digest != other.digest and (tmp_path / "cells.json").read_bytes() == kept


def test_given_prefixes_are_measured_without_learning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_pocket()
    rows = random_rows(model.encoder, 4, 2)
    file, out = tmp_path / "p.safetensors", tmp_path / "out"
    write_prefix(Prefix(rows.vectors, rows.behind), file)
    sizes = ["--names", "1", "--free", "1", "--guidance", "1", "--workers", "1"]
    given = ["bench", "negative", "--prefix", str(file), *sizes, "--json", "--out", str(out)]
    assert main(given) == 0
    flat = json.loads(capsys.readouterr().out)
    assert flat == json.loads((out / "figures.json").read_text())
    assert flat["1/empty.both.change"] == flat["1/empty.positive.change"] > 0
    assert not (out / "seed-0").exists()
