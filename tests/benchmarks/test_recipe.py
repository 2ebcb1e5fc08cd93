"""`apl bench recipe`: how faces are told apart, what a killed run finds again, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from apl_core.prefix import Rows
from apl_core.training.config import TrainConfig
from apl_trainer.pocket.metrics import PromptSet
from apl_trainer.pocket.model import PocketModel, load_pocket
from apl_trainer.pocket.recognizer import Reading
from apl_trainer.pocket.render_pool import Rendered
from apl_trainer.sampling import Request
from benchmarks.recipe import FLOOR, NONE, SECOND, Measure, Record, Variant, diversity, table


def test_diversity_is_the_distance_of_faces_of_names_and_of_seeds() -> None:
    angles = torch.tensor([0.0, 20.0, 90.0, 180.0]).deg2rad()
    faces = torch.stack([angles.cos(), angles.sin()], 1)
    drawn = Rendered(torch.zeros(4, 3, 1, 1), Reading({}, faces))
    found = diversity(drawn, ["ada", "ada", "bo", "cy"])

    def apart(*pairs: tuple[float, float]) -> float:
        distances = [1 - torch.tensor(abs(a - b)).deg2rad().cos() for a, b in pairs]
        return float(torch.stack(distances).mean())

    different = apart((0, 90), (20, 90), (0, 180), (20, 180), (90, 180))
    assert found["diversity"] == pytest.approx(different, abs=1e-5)
    assert found["diversity_seeds"] == pytest.approx(apart((0, 20)), abs=1e-5)
    assert set(diversity(drawn, ["ada", "bo", "cy", "di"])) == {"diversity"}


def test_a_killed_run_finds_the_figures_that_it_has(tmp_path: Path) -> None:
    made: list[str] = []

    def figures(name: str) -> dict[str, float]:
        made.append(name)
        return {"people": 1.0}

    for _ in range(2):
        record = Record(tmp_path / "out" / "figures.json")
        for name in ("one", "two"):
            record.get(name, lambda name=name: figures(name))
    assert made == ["one", "two"] and record.found == {n: {"people": 1.0} for n in made}


def test_a_table_has_the_median_and_the_worst_of_the_seeds() -> None:
    found = {name: {"people": 1.0, "identity_top1.heldout": 0.9} for name in (NONE, FLOOR)}
    for seed, (people, left) in enumerate([(0.9, 0.02), (0.7, 0.04), (0.8, 0.0)]):
        found[f"recipe, seed {seed}"] = {"people": people, "identity_top1.heldout": left}
    shown = table(found, {"recipe": Variant(TrainConfig())}, [0, 1, 2])
    people, left = shown.columns.index("people"), shown.columns.index("held-out")
    assert [row[people] for row in shown.rows[2:]] == ["80.0", "70.0"]
    assert [row[left] for row in shown.rows[2:]] == ["2.0", "4.0"]


class Drawn:
    """Stands where processes draw: pictures of noise, as the recognizer reads them."""

    def __init__(self, model: PocketModel) -> None:
        self.model = model

    def submit(self, requests: Sequence[Request], rows: Rows | None) -> list[Future[Rendered]]:
        random = torch.Generator().manual_seed(0)
        pictures = torch.rand(len(requests), 3, 32, 32, generator=random)
        made: Future[Rendered] = Future()
        made.set_result(Rendered(pictures, self.model.recognizer(pictures)))
        return [made]


def test_a_second_recognizer_reads_the_same_pictures() -> None:
    model = load_pocket()
    prompts, drawn = PromptSet.of(model.world, 8, 2, 16), cast(Any, Drawn(model))
    found = Measure(prompts, model.recognizer)(drawn, None)
    other = Measure(prompts, lambda pictures: model.recognizer(1 - pictures))(drawn, None)
    own = {key: value for key, value in found.items() if not key.startswith(SECOND)}
    assert own and found == own | {SECOND + key: value for key, value in own.items()}
    assert {key: other[key] for key in own} == own and other != found
    runs = {NONE: found, FLOOR: found, "recipe, seed 0": other | {"name_left": 0.01}}
    shown = table(runs, {"recipe": Variant(TrainConfig())}, [0], SECOND)
    assert "name left" not in shown.columns and shown.rows[0][1:] != shown.rows[2][1:]
