"""What it changes to put the prefix into negative and empty prompts too, on a pocket model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from apl_core.atomic import write_text
from apl_core.errors import AplError
from apl_core.formats import read_prefix
from apl_core.prefix import Prefix, Rows
from apl_core.training.config import TrainConfig
from apl_core.training.events import Control
from apl_core.training.folder import RunFolder

from ..evaluation.conditions import Condition
from ..evaluation.studio import Drawn, Studio
from ..pocket.examination import EVALUATION_STEPS
from ..pocket.learn import Origin
from ..pocket.measure import Paper, Shot, change, figures
from ..pocket.model import GUIDANCE, PocketModel
from ..pocket.together import cores, run_together
from ..pocket.world import World
from ..report.page import Table
from ..watch import Bar

GUIDANCES = (GUIDANCE, 1.0, 2.0, 4.0, 7.0, 12.0)
_KEYS = {
    "identity_top1.trained": "identity trained", "identity_top1.heldout": "held-out",
    "face_found": "faces", "people": "people", "people.gender": "gender", "things": "things",
    "objects": "objects", "change": "change",
}  # fmt: skip
_LESS = ("identity_top1.trained", "identity_top1.heldout", "change")
"""Of these figures less is better; of the others more."""
_WAYS = {"none": "no prefix", "positive": "positive", "both": "both sides"}

Figures = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How many names a group, pictures a name, and name-free prompts a group are asked."""

    names: int = 48
    pictures: int = 2
    free: int = 96


@dataclass(frozen=True)
class Cell:
    """One way to make pictures: the guidance, and what stands in the negative prompt."""

    guidance: float
    title: str
    negative: str

    @property
    def key(self) -> str:
        """Such as `3/hat`."""
        return f"{self.guidance:g}/{self.title}"


def cells(world: World, guidances: Sequence[float]) -> list[Cell]:
    """Every guidance with an empty negative prompt, with a thing, and with a held-out name in it.

    At guidance 1 no negative prompt is run.
    """
    negatives = {"empty": "", "hat": "a red hat", "name": world.group("heldout")[-1].name}
    return [
        Cell(guidance, title, text)
        for guidance in guidances
        for title, text in negatives.items()
        if guidance != 1 or not text
    ]


class Measurement:
    """The same prompts and seeds in every cell, beside the pictures without prefix; in a folder.

    `cells.json` keeps what was measured, and what was asked; nothing is measured twice.
    """

    def __init__(self, studio: Studio, paper: Paper, every: Sequence[Cell], file: Path) -> None:
        self.studio, self.paper, self.cells, self.file = studio, paper, every, file
        self.found: dict[str, Figures] = {}
        if file.exists():
            self.found = json.loads(file.read_text(encoding="utf-8"))
        self._plain: dict[str, Drawn] = {}

    def measure(self, title: str, rows: Rows) -> None:
        """All cells of one prefix: rows in the prompts only (`positive`), and in both (`both`)."""
        ways = {"positive": rows, "both": replace(rows, everywhere=True)}
        todo = [
            (f"{title}/{cell.key}/{way}", cell, some)
            for cell in self.cells
            for way, some in ways.items()
            if f"{title}/{cell.key}/{way}" not in self.found
        ]
        each = len(self.paper.named) + len(self.paper.free)
        with tqdm(total=each * len(todo), desc=f"measuring {title}", unit="picture") as bar:
            for key, cell, some in todo:
                self._keep(key, self._draw(cell, some, bar), self._without(cell))

    def _without(self, cell: Cell) -> Drawn:
        """The pictures of a cell without a prefix, drawn once."""
        if cell.key not in self._plain:
            self._plain[cell.key] = drawn = self._draw(cell, None, None)
            self._keep(f"none/{cell.key}", drawn, drawn)
        return self._plain[cell.key]

    def _draw(self, cell: Cell, rows: Rows | None, bar: tqdm[NoReturn] | None) -> Drawn:
        questions = (*self.paper.named, *self.paper.free)
        requests = [q.request(negative=cell.negative) for q in questions]
        shot = Shot(self.studio.submit(requests, rows, cell.guidance))
        return shot.result(bar.update if bar is not None else int)

    def _keep(self, key: str, drawn: Drawn, plain: Drawn) -> None:
        every = figures(drawn, Condition("", free=True, brief=False), self.paper)
        free = len(self.paper.free)
        every["change"] = change(drawn.pictures[-free:], plain.pictures[-free:])
        self.found[key] = {name: every[name].value for name in _KEYS}
        write_text(self.file, json.dumps(self.found, indent=1) + "\n")

    def table(self, titles: Sequence[str]) -> Table:
        """Medians over the prefixes and, behind them, the worst of each."""
        rows: list[list[str]] = []
        for cell in self.cells:
            rows.append([cell.key, _WAYS["none"], *_words([self.found[f"none/{cell.key}"]])])
            for way in ("positive", "both"):
                every = [self.found[f"{title}/{cell.key}/{way}"] for title in titles]
                rows.append([cell.key, _WAYS[way], *_words(every)])
        about = (
            "Percent; change is a mean square. Median over the prefixes, and the worst of them. "
            "Rows in the prompts alone (positive), or in negative and empty ones too (both sides). "
            "Pocket model only; not tried on pretrained weights."
        )
        columns = ("CFG/negative", "rows in", *_KEYS.values())
        return Table("Negative and empty prompts", about, columns, rows)

    def difference(self, title: str, cell: Cell) -> Figures:
        """Both sides minus the positive alone, for one prefix."""
        one, both = (self.found[f"{title}/{cell.key}/{way}"] for way in ("positive", "both"))
        return {key: both[key] - one[key] for key in _KEYS}


def _words(every: Sequence[Figures]) -> list[str]:
    found: list[str] = []
    for key in _KEYS:
        values = [one[key] for one in every]
        middle, worst = statistics.median(values), (max if key in _LESS else min)(values)
        shown = [f"{v:.4f}" if key == "change" else f"{100 * v:.1f}" for v in (middle, worst)]
        found.append(shown[0] if len(every) == 1 else f"{shown[0]} ({shown[1]})")
    return found


def run(model: PocketModel, out: Path, config: TrainConfig, seeds: Sequence[int],
        guidances: Sequence[float], size: Size, workers: int,
        say: Callable[[str], None]) -> dict[str, float]:  # fmt: skip
    """Learn a prefix a seed, measure them all; writes cells.json, figures.json and tables.txt.

    Goes on in the folder of the same measurement; AplError if it holds another one.
    """
    out.mkdir(parents=True, exist_ok=True)
    _same(out, model, config, size)
    titles = {f"seed-{seed}": seed for seed in seeds}
    learnt = {
        title: _learnt(model, replace(config, seed=seed), RunFolder(out / title))
        for title, seed in titles.items()
    }
    paper = Paper.of(model.world, size.names, size.pictures, size.free)
    with Studio(model.folder, EVALUATION_STEPS, workers) as studio:
        every = cells(model.world, guidances)
        measurement = Measurement(studio, paper, every, out / "cells.json")
        for title, prefix in learnt.items():
            measurement.measure(title, prefix.rows())
    flat = _flat(measurement, list(titles))
    write_text(out / "figures.json", json.dumps(flat, indent=1, sort_keys=True) + "\n")
    table = measurement.table(list(titles))
    text = f"{table.about}\n\n{table.text()}\n"
    write_text(out / "tables.txt", text)
    say(text)
    return flat


def _flat(measurement: Measurement, titles: Sequence[str]) -> dict[str, float]:
    """Per cell and way the median over seeds, and of the differences median and worst."""
    flat: dict[str, float] = {}
    for cell in measurement.cells:
        flat |= {
            f"{cell.key}.none.{k}": v for k, v in measurement.found[f"none/{cell.key}"].items()
        }
        lost = [measurement.difference(title, cell) for title in titles]
        for key in _KEYS:
            for way in ("positive", "both"):
                values = [measurement.found[f"{t}/{cell.key}/{way}"][key] for t in titles]
                flat[f"{cell.key}.{way}.{key}"] = statistics.median(values)
            values = [one[key] for one in lost]
            flat[f"{cell.key}.difference.{key}"] = statistics.median(values)
            flat[f"{cell.key}.difference_worst.{key}"] = (max if key in _LESS else min)(values)
    return flat


def _same(out: Path, model: PocketModel, config: TrainConfig, size: Size) -> None:
    asked = {"model": model.name, "size": asdict(size), "recipe": asdict(replace(config, seed=0))}
    file, text = out / "asked.json", json.dumps(asked, indent=1, sort_keys=True) + "\n"
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise AplError(
            f"measure in {out}", "another measurement is in this folder (see asked.json)",
            "choose another folder",
        )  # fmt: skip
    write_text(file, text)


def _learnt(model: PocketModel, config: TrainConfig, folder: RunFolder) -> Prefix:
    """The prefix of a run's folder: learnt in it, or gone on with, unless it is there."""
    if folder.prefix.exists():
        return read_prefix(folder.prefix)
    origin = Origin(str(model.folder), None)
    if not folder.config.exists():
        folder.create(config)
        origin.save(folder)
    return run_together(model, config, folder, origin, [Bar()], Control(), cores())
