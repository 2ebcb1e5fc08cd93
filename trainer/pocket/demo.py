"""The main job from end to end: learn a prefix on a pocket model, measure it, show it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from apl_core.atomic import write_text
from apl_core.prefix import Prefix
from apl_core.training.callbacks import Callback, Control, PhaseReport
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder

from ..report.curves import save_curves
from ..report.page import Picture, write_page
from .eval_report import detailed, write_intervals
from .evaluate import EVALUATION_STEPS, PocketEvaluation, evaluate, save_sheet
from .metrics import PromptSet
from .model import PocketModel
from .multiprocess import cores, run_multiprocess
from .render_pool import RenderPool
from .train import PocketOrigin

GOAL_TRAINED, GOAL_HELDOUT = 0.05, 0.08
"""Identity top-1 that a prefix of the pocket model has to come down to."""

NOTES = (
    "The pocket model draws cartoon faces of people who do not exist. That is why identity can be "
    "counted here; nothing of this says how a prefix does on photographs.",
    "Identity top-1 is how often the recognizer, which knows all 208 people of the world, names "
    "the person of the prompt first: chance is 0.5 %. Intervals are 95 % bootstrap intervals over "
    "names.",
    "Held-out names are known to the pocket model; the prefix never saw them. The step that is "
    "kept and the recipe are chosen on the trained group; but the share of scenes with two things "
    "was last changed after demos of world 0 and seed 0 had lost too many of them, shorter "
    "recipes were given up after such demos, and earlier ones had been compared with its held-out "
    "figures in sight.",
    "Whoever controls the prompt can leave the prefix out. A face that comes in as an image is not "
    "driven by text and not covered.",
)


def run_demo(
    model: PocketModel,
    config: TrainConfig,
    out: Path,
    prompts: PromptSet,
    callbacks: Sequence[Callback],
    control: Control,
    say: Callable[[str], None],
    workers: int | None = None,
) -> dict[str, float] | None:
    """Learn, measure and report into `out`; None when the training was stopped before its end."""
    folder = RunFolder(out)
    folder.create(config)
    origin = PocketOrigin(str(model.folder), None)
    origin.save(folder)
    return learn_and_measure(
        model, config, folder, origin, prompts, callbacks, control, say, workers
    )


def learn_and_measure(
    model: PocketModel,
    config: TrainConfig,
    folder: RunFolder,
    origin: PocketOrigin,
    prompts: PromptSet,
    callbacks: Sequence[Callback],
    control: Control,
    say: Callable[[str], None],
    workers: int | None = None,
    tell: PhaseReport = lambda name, done, total: None,
) -> dict[str, float] | None:
    """The same in a folder that has its settings already: begins a run there or goes on with it.

    `tell` is told how far the measurement is.
    """
    start, out = time.perf_counter(), folder.path
    processes = cores() if workers is None else 1
    prefix = run_multiprocess(model, config, folder, origin, callbacks, control, processes)
    training = time.perf_counter() - start
    if control.stop.is_set():
        return None
    with RenderPool(model.folder, EVALUATION_STEPS, workers) as renderer:
        outcome = evaluate(model, renderer, prompts, prefix, tell)
    seconds = {"seconds.prefix_training": training, "seconds.total": time.perf_counter() - start}
    flat = outcome.flat | seconds
    write_text(out / "figures.json", json.dumps(flat, indent=1, sort_keys=True) + "\n")
    write_report(outcome, model, prefix, folder, config, flat)
    say(f"{outcome.table().text()}\n\n{verdict(flat)}")
    return flat


def verdict(flat: dict[str, float]) -> str:
    """One sentence that says what the prefix did, and whether that is enough."""
    before, after = flat["base.identity_top1.heldout"], flat["prefix.identity_top1.heldout"]
    trained = flat["prefix.identity_top1.trained"]
    enough = trained <= GOAL_TRAINED and after <= GOAL_HELDOUT
    goal = f"(goal: {GOAL_TRAINED:.0%} of trained names, {GOAL_HELDOUT:.0%} of held-out ones)"
    end = "reached" if enough else "not reached: this prefix is an experiment, not a protection"
    return (
        f"Held-out names are recognized in {after:.1%} of the pictures instead of {before:.1%}, "
        f"trained names in {trained:.1%} {goal}: {end}."
    )


def write_report(
    outcome: PocketEvaluation,
    model: PocketModel,
    prefix: Prefix,
    folder: RunFolder,
    config: TrainConfig,
    flat: dict[str, float],
) -> None:
    """Write report.json, sheet.png, curves.svg and report.html into the run folder."""
    out = folder.path
    save_sheet(outcome, out / "sheet.png")
    save_curves(folder.rows(), out / "curves.svg")
    facts = {
        "Model": model.name,
        "Prefix": f"{prefix.n} vectors, {prefix.behind} behind the text, {prefix.short_digest}",
        "Learned in": f"{flat['seconds.prefix_training']:.0f} s",
        "Everything": f"{flat['seconds.total']:.0f} s",
        "Picture change on name-free prompts": f"{flat['drift.change']:.4f} (mean square); another "
        f"seed changes {flat['drift.change_of_seed']:.4f}",
        "Steps": str(prefix.card.steps),
        "Again": f"apl demo --seed {config.seed}",
    }
    write_intervals(out, detailed(model, outcome), facts)
    write_page(
        out / "report.html",
        "What a prefix does to faces",
        "The same prompts with the same seeds, without the prefix above and with it below: eight "
        "names it learned from, eight it never saw, and sixteen prompts that name nobody. "
        + verdict(flat),
        [
            Picture(out / "sheet.png", "No prefix above, the same seeds with the prefix below."),
            Picture(out / "curves.svg", "Loss while learning, and what it leads to."),
        ],
        [outcome.table()],
        facts,
        NOTES,
    )


def small(config: TrainConfig) -> TrainConfig:
    """A smoke test: a few steps and pictures, result not usable."""
    return replace(config, steps=4, max_steps=0, target_cache=72, validate_every=4)
