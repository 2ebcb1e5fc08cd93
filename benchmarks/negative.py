"""What it changes to put the prefix into negative and empty prompts too, on a pocket model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from apl_core.atomic import write_text
from apl_core.errors import AplError
from apl_core.formats import read_prefix
from apl_core.prefix import Prefix, Rows
from apl_core.training.callbacks import Control
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_trainer.callbacks import ProgressBar
from apl_trainer.evaluation.conditions import Condition
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.metrics import PendingImages, PromptSet, change, figures
from apl_trainer.pocket.model import PocketModel
from apl_trainer.pocket.multiprocess import cores, run_multiprocess
from apl_trainer.pocket.render_pool import Rendered, RenderPool
from apl_trainer.pocket.train import PocketOrigin
from apl_trainer.pocket.world import World
from apl_trainer.report.page import Table

NEGATIVES = ("empty", "hat", "name")
_KEYS = {
    "identity_top1.trained": "identity trained",
    "identity_top1.heldout": "held-out",
    "face_found": "faces",
    "people": "people",
    "people.gender": "gender",
    "things": "things",
    "objects": "objects",
    "change": "change",
}
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


def cells(
    world: World, guidances: Sequence[float], negatives: Sequence[str] = NEGATIVES
) -> list[Cell]:
    """Every guidance with an empty negative prompt, with a thing, and with a held-out name in it.

    At guidance 1 no negative prompt is run.
    """
    texts = {"empty": "", "hat": "a red hat", "name": world.group("heldout")[-1].name}
    return [
        Cell(guidance, title, texts[title])
        for guidance in guidances
        for title in negatives
        if guidance != 1 or title == "empty"
    ]


class Measurement:
    """The same prompts and seeds in every cell, beside the pictures without prefix; in a folder.

    `cells.json` keeps what was measured, and what was asked; nothing is measured twice.
    """

    def __init__(
        self, renderer: RenderPool, prompts: PromptSet, every: Sequence[Cell], file: Path
    ) -> None:
        self.renderer, self.prompts, self.cells, self.file = renderer, prompts, every, file
        self.found: dict[str, Figures] = {}
        if file.exists():
            self.found = json.loads(file.read_text(encoding="utf-8"))
        self._plain: dict[str, Rendered] = {}

    def measure(self, title: str, rows: Rows) -> None:
        """All cells of one prefix: rows in the prompts only (`positive`), and in both (`both`)."""
        ways = {"positive": rows, "both": replace(rows, everywhere=True)}
        todo = [
            (f"{title}/{cell.key}/{way}", cell, some)
            for cell in self.cells
            for way, some in ways.items()
            if f"{title}/{cell.key}/{way}" not in self.found
        ]
        each = len(self.prompts.named) + len(self.prompts.free)
        with tqdm(total=each * len(todo), desc=f"measuring {title}", unit="picture") as bar:
            for key, cell, some in todo:
                self._keep(key, self._draw(cell, some, bar), self._without(cell))

    def _without(self, cell: Cell) -> Rendered:
        """The pictures of a cell without a prefix, drawn once."""
        if cell.key not in self._plain:
            self._plain[cell.key] = drawn = self._draw(cell, None, None)
            self._keep(f"none/{cell.key}", drawn, drawn)
        return self._plain[cell.key]

    def _draw(self, cell: Cell, rows: Rows | None, bar: tqdm[NoReturn] | None) -> Rendered:
        questions = (*self.prompts.named, *self.prompts.free)
        requests = [q.request(negative=cell.negative) for q in questions]
        shot = PendingImages(self.renderer.submit(requests, rows, cell.guidance))
        return shot.result(bar.update if bar is not None else int)

    def _keep(self, key: str, drawn: Rendered, plain: Rendered) -> None:
        every = figures(drawn, Condition("", free=True, brief=False), self.prompts)
        free = len(self.prompts.free)
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


def run(
    model: PocketModel,
    out: Path,
    prefixes: Mapping[str, Prefix],
    every: Sequence[Cell],
    size: Size,
    workers: int,
    say: Callable[[str], None],
) -> Figures:
    """Measure prefixes by their titles; writes cells.json, figures.json and tables.txt.

    Goes on in the folder of the same measurement; AplError if it holds another one.
    """
    out.mkdir(parents=True, exist_ok=True)
    _ask(out, model, prefixes, size)
    prompts = PromptSet.of(model.world, size.names, size.pictures, size.free)
    with RenderPool(model.folder, EVALUATION_STEPS, workers) as renderer:
        measurement = Measurement(renderer, prompts, every, out / "cells.json")
        for title, prefix in prefixes.items():
            measurement.measure(title, prefix.rows())
    titles = list(prefixes)
    flat, table = _flat(measurement, titles), measurement.table(titles)
    write_text(out / "figures.json", json.dumps(flat, indent=1, sort_keys=True) + "\n")
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


def _ask(out: Path, model: PocketModel, prefixes: Mapping[str, Prefix], size: Size) -> None:
    """Keep what is measured in `asked.json`; AplError if something else was, under a same title."""
    file = out / "asked.json"
    asked = {"model": model.name, "size": asdict(size)}
    asked |= {f"prefix {title}": prefix.digest for title, prefix in prefixes.items()}
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if before | asked != asked | before:
        raise AplError(
            f"measure in {out}",
            "another measurement is in this folder (see asked.json)",
            "choose another folder",
        )
    asked |= before
    write_text(file, json.dumps(asked, indent=1, sort_keys=True) + "\n")


def learn(
    model: PocketModel, config: TrainConfig, seeds: Sequence[int], out: Path
) -> dict[str, Prefix]:
    """A prefix a seed in a run's folder of its own below `out`, gone on with if it was begun."""
    return {
        f"seed-{seed}": _learned(model, replace(config, seed=seed), RunFolder(out / f"seed-{seed}"))
        for seed in seeds
    }


def _learned(model: PocketModel, config: TrainConfig, folder: RunFolder) -> Prefix:
    origin = PocketOrigin(str(model.folder), None)
    if not folder.config.exists():
        folder.create(config)
        origin.save(folder)
    if folder.config.read_text(encoding="utf-8") != config.to_toml():
        raise AplError(
            f"learn in {folder.path}",
            "the run in this folder has other settings",
            "choose another folder",
        )
    if folder.prefix.exists():
        return read_prefix(folder.prefix)
    return run_multiprocess(model, config, folder, origin, [ProgressBar()], Control(), cores())
