"""How fast this recipe is against the authors', on the same model in the same run."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from apl_core.atomic import write_text
from apl_core.example_kinds import Target
from apl_core.prefix import Rows
from apl_core.training.batches import BatchSampler, generator
from apl_core.training.callbacks import Control, Event, Stepped, Validated
from apl_core.training.config import PAPER, TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.frozen import frozen
from apl_core.training.initial import initial_rows
from apl_core.training.parallel import Group
from apl_core.training.step import gradient
from apl_trainer.pocket.model import PocketModel
from apl_trainer.pocket.source import PocketSource, training_people
from apl_trainer.pocket.train import PocketOrigin, pocket_run
from apl_trainer.report.curves import Chart, Curve, save_charts

_ROUNDS, _SMALL_STEPS = 6, 6
_NEAR = 1.05

Line = list[tuple[float, float]]
"""Seconds of training and the validator's score at that time."""


def step_costs(model: PocketModel, say: Callable[[str], None]) -> dict[str, float]:
    """Seconds per sample: the authors' step, frozen weights, batches, and kept predictions.

    The variants take turns, so that a machine whose speed drifts treats them alike; medians.
    """
    ours = TrainConfig()
    bare = {"repulsion": 0.0, "weight_contrast": 0.0, "weight_contrast_free": 0.0}
    variants = {
        "authors": PAPER,
        "frozen": replace(PAPER, recipe="apl", batch_things=0),
        "batched": replace(ours, target_cache=0, **bare),
        "kept": replace(ours, target_cache=ours.batch),
        "fresh": replace(ours, target_cache=ours.batch, target_cache_uses=1),
    }
    benches = {name: _Bench(model, config) for name, config in variants.items()}
    for bench in benches.values():
        bench.steps(1)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(_ROUNDS):
        for name, bench in benches.items():
            times[name].append(bench.steps(1 if bench.config.batch > 2 else _SMALL_STEPS))
        say(f"step cost, round {number + 1} of {_ROUNDS}")
    costs = {name: statistics.median(values) for name, values in times.items()}
    share = ours.num_targets / ours.samples
    costs["ours"] = costs["kept"] + share * (costs["fresh"] - costs["kept"])
    found = {f"seconds.step_per_sample.{name}": value for name, value in costs.items()}
    return found | {"step_cost_ratio": costs["ours"] / costs["authors"]}


class _Bench:
    def __init__(self, model: PocketModel, config: TrainConfig) -> None:
        self.model, self.config = model, config
        people = training_people(model.world.group("train"))[0]
        target: Target = "empty" if config.recipe == "paper" else "person"
        source = PocketSource(model, people, target, config.num_vectors)
        self.group = Group()
        self.batches = BatchSampler(
            config, model.encoder, model.denoiser, source, self.group, lambda *_: None
        )
        rows = initial_rows(config, model.encoder, generator(0, "bench"))
        leaves = {k: v.clone().requires_grad_() for k, v in rows.vectors.items()}
        self.rows = Rows(leaves, config.num_suffix_vectors)
        self.step = 0

    def steps(self, count: int) -> float:
        """Seconds per sample over some steps, drawing of the examples' pictures left out."""
        model = self.model
        modules = [*model.encoder.modules, *model.denoiser.modules]
        spent, samples = 0.0, 0
        with frozen(modules, self.config.recipe == "paper"):
            for _ in range(count):
                counts = self.batches.counts(self.step)
                drawing = 0.0
                if (
                    not self.config.target_cache
                ):  # what a kept pool has drawn long ago is not the step's cost
                    began = time.perf_counter()
                    self.batches.examples(counts, "step", self.step)
                    drawing = time.perf_counter() - began
                began = time.perf_counter()
                batch = self.batches.batch(self.step)
                gradient(
                    self.config, model.encoder, model.denoiser, batch, self.rows, self.group, 1.0
                )
                spent += time.perf_counter() - began - drawing
                samples += len(batch)
                self.step += 1
        return spent / samples


def quality_curve(
    model: PocketModel, config: TrainConfig, seconds: float, say: Callable[[str], None]
) -> Line:
    """The best validator's score so far against seconds of training, up to a budget of seconds.

    A recipe is asked once at least, however small the budget.
    """
    curve: Line = []
    spent, best = 0.0, float("inf")
    control = Control()

    def on_event(event: Event) -> None:
        nonlocal spent, best
        if isinstance(event, Stepped):
            spent += event.seconds
        elif isinstance(event, Validated):
            best = min(best, event.score)
            curve.append((spent, best))
            say(f"{config.recipe}: {spent:.0f} s, score {best:.3f}")
        if curve and spent > seconds:
            control.stop.set()

    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create(config)
        pocket_run(model, config, folder, PocketOrigin("", None), [on_event], control).run()
    return curve


def time_to(curve: Line, score: float) -> float:
    """Seconds at which a curve first reaches a score; infinity if it never does."""
    return next((seconds for seconds, found in curve if found <= score), float("inf"))


def compared(ours: Line, theirs: Line) -> dict[str, float]:
    """How much sooner ours is at the best score that both reach, and within 5 % of it.

    A recipe on its plateau has its very best by chance, late or early: the second comparison does
    not hang on when.
    """
    score = max(ours[-1][1], theirs[-1][1])
    found = {"score.ours": ours[-1][1], "score.authors": theirs[-1][1], "score.compared_at": score}
    for key, aim in (("quality", score), ("near_quality", _NEAR * score)):
        seconds = {"ours": time_to(ours, aim), "authors": time_to(theirs, aim)}
        found |= {f"seconds.to_{key}.{who}": spent for who, spent in seconds.items()}
        found[f"speedup_to_{key}"] = seconds["authors"] / seconds["ours"]
    return found


def run(
    model: PocketModel, out: Path, minutes: float, say: Callable[[str], None]
) -> dict[str, float]:
    """Both measurements; writes figures.json and speed.svg into `out`.

    A `speedup_to_quality` above 1 says that ours was so many times sooner where both come to.
    """
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    found = step_costs(model, say)
    ours = quality_curve(model, TrainConfig(validate_every=10), 60 * minutes, say)
    theirs = quality_curve(model, replace(PAPER, validate_every=150), 60 * minutes, say)
    found |= compared(ours, theirs) | {"seconds.budget": 60 * minutes}
    _draw(ours, theirs, out / "speed.svg")
    write_text(out / "figures.json", json.dumps(found, indent=1, sort_keys=True) + "\n")
    return found


def _draw(ours: Line, theirs: Line, path: Path) -> None:
    recipes = ("this recipe", "a", ours), ("the paper's", "b", theirs)
    curves = [Curve(label, tone, points, marks=True) for label, tone, points in recipes]
    title = "Identity + lost fidelity on validation names (lower is better), one thread"
    save_charts(path, Chart(title, curves, 1, "Nothing was measured.", "second"))
