"""Does `name_left` say who is recognized? Rank correlations over prefixes of all qualities.

On the pocket model, where identity can be counted: runs of the recipe and of recipes that care too
much or too little for names, people or things leave their rows behind at every few steps. Each of
them is measured both ways, by `PromptValidator` on held-out names and by the recognizer on pictures
of the same people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm

from apl_core.atomic import write_text
from apl_core.formats import read_prefix, write_prefix
from apl_core.prefix import Prefix, Rows
from apl_core.training.callbacks import Control, ValidationResult
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer
from apl_core.training.validation import PromptValidator
from apl_trainer.callbacks import ProgressBar
from apl_trainer.evaluation.conditions import Condition
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.metrics import PendingImages, PromptSet, figures
from apl_trainer.pocket.model import WorldModel, load_pocket
from apl_trainer.pocket.render_pool import RenderPool
from apl_trainer.pocket.source import PocketSource, training_people
from apl_trainer.pocket.validation import validation_examples
from apl_trainer.report.curves import Chart, Curve, save_charts
from apl_trainer.report.page import Table

PAIRS = {
    "name_left": ("identity_top1.heldout", 1),
    "drift_people": ("people", -1),
    "drift_things": ("things", -1),
    "swap": ("people.gender", -1),
}
"""What the validator says, what the recognizer says, and the sign that both should share."""


RECIPES: Mapping[str, Mapping[str, float]] = {
    "recipe": {},
    "names-heavy": {"weight_identity": 8.0},
    "names-light": {"weight_identity": 0.1},
    "people-light": {"weight_people": 0.1},
    "things-light": {"weight_things": 0.1},
}
"""Weights over the recipe's, so that there are prefixes of all qualities."""


@dataclass(frozen=True)
class Size:
    """Steps of a run, steps between two snapshots, and how many pictures each is measured on."""

    steps: int = 120
    every: int = 12
    names: int = 64
    free: int = 96


def snapshots(model: WorldModel, config: TrainConfig, folder: Path, every: int) -> list[Path]:
    """Prefix files of one run, one at each `every`-th step; made once."""
    files = [folder / f"{step:05d}.safetensors" for step in range(every, config.steps + 1, every)]
    if all(file.exists() for file in files):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    learned, _ = training_people(list(model.world.group("train")))
    source = PocketSource(model, learned, "person", config.num_vectors)
    made = iter(files)

    def keep(rows: Rows) -> ValidationResult:
        vectors = {key: value.detach() for key, value in rows.vectors.items()}
        write_prefix(Prefix(vectors, rows.behind), next(made))
        return ValidationResult(0.0, {})

    run = RunFolder(folder / "run")
    settings = replace(config, validate_every=every, patience=0, save_every=config.steps)
    run.create(settings)
    parts = Model(model.encoder, model.denoiser, model.name)
    Trainer(settings, parts, source, run, keep, None, [ProgressBar()], Control()).run()
    return files


def held_out_validator(model: WorldModel, names: int, free: int) -> PromptValidator:
    """The measure on held-out names, with latents of people and things of the pocket world."""
    people = list(model.world.group("heldout"))[:names]
    examples = validation_examples(model, people, names, free)
    return PromptValidator(model.encoder, model.denoiser, examples)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of the ranks; equal values share their mean rank."""
    ranks = [_ranks(torch.tensor(values, dtype=torch.float64)) for values in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _ranks(values: torch.Tensor) -> torch.Tensor:
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below.double() + (equal.double() - 1) / 2


def run(
    model: WorldModel,
    config: TrainConfig,
    seeds: Sequence[int],
    size: Size,
    out: Path,
    workers: int,
    say: Callable[[str], None],
    load: Callable[[Path], WorldModel] = load_pocket,
) -> dict[str, float]:
    """Measure every snapshot both ways; writes `snapshots.json` and `figures.json` into `out`."""
    files: list[Path] = []
    for seed in seeds:
        for name, weights in RECIPES.items():
            own = replace(config, seed=seed, steps=size.steps, max_steps=0, **cast(Any, weights))
            files += snapshots(model, own, out / f"seed-{seed}" / name, size.every)
    record = out / "snapshots.json"
    found: dict[str, dict[str, float]] = {}
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))
    validator = held_out_validator(model, size.names, size.free)
    prompts = PromptSet.of(model.world, size.names, 1, size.free)
    condition = Condition("", free=True, brief=False)
    requests = [q.request() for q in (*prompts.named, *prompts.free)]
    with RenderPool(model.folder, EVALUATION_STEPS, workers, load) as renderer:
        for file in tqdm(files, desc="measuring", unit="prefix"):
            name = file.relative_to(out).as_posix()
            if name in found:
                continue
            rows = read_prefix(file).rows()
            drawn = PendingImages(renderer.submit(requests, rows)).result(int)
            seen = {k: m.value for k, m in figures(drawn, condition, prompts).items()}
            told = validator(rows).figures
            found[name] = {k: seen[k] for k, _ in PAIRS.values()} | {k: told[k] for k in PAIRS}
            write_text(record, json.dumps(found, indent=1) + "\n")
    flat = correlations([found[file.relative_to(out).as_posix()] for file in files])
    write_text(out / "figures.json", json.dumps(flat, indent=1) + "\n")
    save_charts(out / "scatter.svg", *scatter(list(found.values())))
    say(table(flat).text())
    return flat


def scatter(found: Sequence[Mapping[str, float]]) -> list[Chart]:
    """A dot for every prefix: the validator's figure across, the recognizer's upwards, percent."""
    charts: list[Chart] = []
    for told, (seen, sign) in PAIRS.items():
        dots = sorted((100 * one[told], 100 * one[seen]) for one in found)
        title = f"{seen} over {told}, %: {_pair(found, told, seen, sign):.2f}"
        charts.append(Chart(title, [Curve("", "a apl-dots", dots, marks=True)], 100, "", "%"))
    return charts


def _pair(found: Sequence[Mapping[str, float]], told: str, seen: str, sign: int) -> float:
    return sign * rank_correlation([one[told] for one in found], [one[seen] for one in found])


def correlations(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Rank correlation of each pair, and the number of prefixes."""
    flat = {
        f"{told} / {seen}": _pair(found, told, seen, sign) for told, (seen, sign) in PAIRS.items()
    }
    return {**flat, "prefixes": float(len(found))}


def table(flat: Mapping[str, float]) -> Table:
    """The correlations in words."""
    rows = [[pair, f"{value:.2f}"] for pair, value in flat.items() if pair != "prefixes"]
    about = f"Over {flat['prefixes']:.0f} prefixes of one model, by rank; 1 is the same order."
    return Table(
        "Measured without and with a recognizer", about, ("pair", "rank correlation"), rows
    )
