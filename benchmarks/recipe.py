"""`apl bench recipe`: what the recipe reaches over training seeds, and variants of it beside it.

Variants: other settings, the text stage alone or first, and models whose token embeddings are ten
times longer or shorter (the table is scaled, and what comes out of it divided again).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from apl_core.atomic import write_text
from apl_core.encoding import ReferenceEncoder, Tower
from apl_core.example_kinds import PERSON
from apl_core.formats import read_prefix, write_prefix
from apl_core.prefix import Prefix, Rows
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_trainer.callbacks import ProgressBar
from apl_trainer.evaluation.conditions import Condition
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.metrics import PendingImages, PromptSet, figures
from apl_trainer.pocket.model import PocketModel, WorldModel, load_pocket
from apl_trainer.pocket.recognizer import Reading
from apl_trainer.pocket.render_pool import Rendered, RenderPool
from apl_trainer.pocket.train import PocketOrigin, pocket_run
from apl_trainer.pocket.world import World
from apl_trainer.report.page import Table

COLUMNS: Mapping[str, tuple[str, bool]] = {
    "identity_top1.trained": ("trained", False),
    "identity_top1.heldout": ("held-out", False),
    "identity_top5.heldout": ("held-out top-5", False),
    "face_found": ("faces", True),
    "people": ("people", True),
    "people.gender": ("gender", True),
    "things": ("things", True),
    "objects": ("objects", True),
    "diversity": ("diversity", True),
    "diversity_seeds": ("over seeds", True),
    "name_left": ("name left", False),
    "seconds": ("seconds", False),
}
"""Title of each figure, and whether more is better."""

SECOND = "second."
"""In front of the figures that another recognizer gives for the same pictures."""

NONE, FLOOR = "no prefix", "a person in the name's place"


@dataclasses.dataclass(frozen=True)
class Variant:
    """The recipe with other settings, on a model of `scale` times longer token embeddings."""

    config: TrainConfig
    scale: float = 1.0


def stages(config: TrainConfig, steps: int) -> dict[str, Variant]:
    """The text stage alone, first, and not at all."""
    return {
        "text alone": Variant(dataclasses.replace(config, text_steps=steps, steps=0)),
        "text first": Variant(dataclasses.replace(config, text_steps=steps)),
        "denoiser alone": Variant(config),
    }


def scales(config: TrainConfig) -> dict[str, Variant]:
    """Token embeddings ten times shorter and longer."""
    return {f"embeddings x {scale:g}": Variant(config, scale) for scale in (0.1, 1.0, 10.0)}


class ScaledTower:
    """A tower of `scale` times longer token embeddings, divided again behind the table."""

    def __init__(self, tower: Tower, scale: float) -> None:
        self._tower, self._scale = tower, scale
        self.key, self.bos, self.eos, self.pad = tower.key, tower.bos, tower.eos, tower.pad

    @property
    def module(self) -> nn.Module:
        """The network itself."""
        return self._tower.module

    @property
    def table(self) -> Tensor:
        """Token embeddings (vocabulary, width)."""
        return self._tower.table * self._scale

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._tower.tokenize(text)

    def pieces(self, text: str) -> list[str]:
        """The same tokens as strings."""
        return self._tower.pieces(text)

    def run(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states and pooled output of token embeddings (B, 77, width)."""
        return self._tower.run(ids, rows / self._scale)


def learn(model: WorldModel, variant: Variant, folder: Path) -> Prefix:
    """The prefix of a run, learned once, for the model as it is; `seconds` stands on its card."""
    file = folder / "measured.safetensors"
    if file.exists():
        return read_prefix(file)
    torch.set_num_threads(1)
    scaled = model
    if variant.scale != 1 and isinstance(model, PocketModel):
        towers = [ScaledTower(tower, variant.scale) for tower in model.encoder.towers]
        scaled = dataclasses.replace(model, encoder=ReferenceEncoder(towers))
    run, origin = RunFolder(folder), PocketOrigin(str(model.folder), None)
    if not run.config.exists():
        run.create(variant.config)
        origin.save(run)
    began = time.perf_counter()
    found = pocket_run(scaled, variant.config, run, origin, [ProgressBar()]).run()
    seconds = time.perf_counter() - began
    vectors = {key: rows / variant.scale for key, rows in found.vectors.items()}
    told = {**found.card.figures, "seconds": seconds}
    prefix = Prefix(vectors, found.behind, dataclasses.replace(found.card, figures=told))
    write_prefix(prefix, file)
    return prefix


FREE = Condition(NONE, free=True, brief=False)
"""Prompts drawn as they are."""

NAME_REPLACED = Condition(FLOOR, rewrite=lambda q: q.request(PERSON), free=True, brief=False)


@dataclasses.dataclass(frozen=True)
class Measure:
    """Draws the prompts of a world and counts what the recognizer sees, and what `second` sees."""

    prompts: PromptSet
    second: Callable[[Tensor], Reading] | None = None

    @staticmethod
    def of(world: World, second: Callable[[Tensor], Reading] | None = None) -> Measure:
        """64 + 64 names with two seeds, 256 name-free people and 256 scenes of things."""
        return Measure(PromptSet.of(world, 64, 2, 256), second)

    def __call__(
        self, renderer: RenderPool, rows: Rows | None, asked: Condition = FREE
    ) -> dict[str, float]:
        """The figures of `COLUMNS` that are seen in pictures; the second's behind `SECOND`."""
        drawn = PendingImages(renderer.submit(asked.requests(self.prompts), rows)).result(int)
        found = self._seen(drawn, asked)
        if self.second is not None:
            with torch.no_grad():
                again = Rendered(drawn.pictures, self.second(drawn.pictures))
            found |= {SECOND + key: value for key, value in self._seen(again, asked).items()}
        return found

    def _seen(self, drawn: Rendered, asked: Condition) -> dict[str, float]:
        values = {key: mean.value for key, mean in figures(drawn, asked, self.prompts).items()}
        values |= diversity(drawn, [q.subject for q in self.prompts.named])
        return {key: values[key] for key in COLUMNS if key in values}


class Record:
    """Figures by what they are of, in a file: a killed run finds those that it has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, float]] = {}
        if path.exists():
            self.found = json.loads(path.read_text(encoding="utf-8"))

    def get(self, name: str, made: Callable[[], dict[str, float]]) -> None:
        """Have figures made unless they are there."""
        if name not in self.found:
            self.found[name] = made()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self.found, indent=1) + "\n")


def run(
    model: WorldModel,
    variants: Mapping[str, Variant],
    seeds: Sequence[int],
    out: Path,
    workers: int,
    say: Callable[[str], None],
    load: Callable[[Path], WorldModel] = load_pocket,
    second: Callable[[Tensor], Reading] | None = None,
) -> dict[str, dict[str, float]]:
    """Learn and measure every variant with every seed; writes `figures.json` and says a table.

    A killed run goes on where it was. Seconds are those of one process and one thread. A `second`
    recognizer reads the same pictures, for a table of its own.
    """
    measure, record = Measure.of(model.world, second), Record(out / "figures.json")
    with RenderPool(model.folder, EVALUATION_STEPS, workers, load) as renderer:
        for asked in (FREE, NAME_REPLACED):
            record.get(asked.title, lambda asked=asked: measure(renderer, None, asked))
        for name, variant in variants.items():
            for seed in seeds:
                config = dataclasses.replace(variant.config, seed=seed)
                own = dataclasses.replace(variant, config=config)
                folder = out / name.replace(" ", "-") / f"seed-{seed}"

                def learned(own: Variant = own, folder: Path = folder) -> dict[str, float]:
                    prefix = learn(model, own, folder)
                    told = {k: v for k, v in prefix.card.figures.items() if k in COLUMNS}
                    return measure(renderer, prefix.rows()) | told

                record.get(f"{name}, seed {seed}", learned)
                say(f"{name}, seed {seed}")
    say(table(record.found, variants, seeds).text())
    if second is not None:
        say(table(record.found, variants, seeds, SECOND).text())
    return record.found


def diversity(drawn: Rendered, names: Sequence[str]) -> dict[str, float]:
    """Mean distances (1 - cosine) of faces, which are drawn first: of different names, and of one
    name over its seeds.

    The recognizer's embeddings are compared. Beside those of "a person" with the same seeds they
    say whether all anonymous faces become one.
    """
    faces = drawn.reading.embedding[: len(names)]
    who = {name: number for number, name in enumerate(dict.fromkeys(names))}
    index = torch.tensor([who[name] for name in names])
    same, apart = index[:, None] == index[None], 1 - faces @ faces.T
    one = same & ~torch.eye(len(names), dtype=torch.bool)
    found = {"diversity": float(apart[~same].mean())}
    return found | ({"diversity_seeds": float(apart[one].mean())} if one.any() else {})


def table(
    found: Mapping[str, Mapping[str, float]],
    variants: Mapping[str, Variant],
    seeds: Sequence[int],
    reader: str = "",
) -> Table:
    """Median and worst of the seeds, a line each; `reader` is `SECOND` for the other recognizer."""
    columns = [key for key in COLUMNS if not reader or key not in ("name_left", "seconds")]
    rows = [
        [one, *(_cell(found[one].get(reader + key), key) for key in columns)]
        for one in (NONE, FLOOR)
    ]
    for name in variants:
        runs = [found[f"{name}, seed {seed}"] for seed in seeds]
        for title, choose in (("median", statistics.median), ("worst", None)):
            cells: list[str] = []
            for key in columns:
                values = [one[reader + key] for one in runs if reader + key in one]
                pick = choose or (min if COLUMNS[key][1] else max)
                cells.append(_cell(pick(values) if values else None, key))
            rows.append([f"{name}, {title}", *cells])
    titles = ("", *(COLUMNS[key][0] for key in columns))
    about = f"Percent; seeds {', '.join(map(str, seeds))}; 64 + 64 names x 2, 256 + 256 prompts."
    title = "Read by the second recognizer" if reader else "What the recipe reaches"
    return Table(title, about, titles, rows)


def _cell(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if key == "seconds" else f"{100 * value:.1f}"
