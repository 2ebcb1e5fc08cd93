"""Examines a prefix on a pocket model beside all baselines, and sums up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from apl_core.prefix import Prefix
from apl_core.training.callbacks import PhaseReport

from ..evaluation.before_after import save_before_after
from ..evaluation.conditions import Condition, baselines, random_rows, reseeded
from ..evaluation.titles import CONDITION_TITLES
from ..report.page import Table
from ..report.sheet import SCALE, TITLES
from ..statistics import Mean
from .metrics import PendingImages, PromptSet, change, figures
from .model import PocketModel
from .render_pool import Rendered, RenderPool

EVALUATION_STEPS = 10
"""DDIM steps of the pictures that are measured."""

_COLUMNS = (
    "identity_top1.trained",
    "identity_top1.heldout",
    "identity_top5.heldout",
    "face_found",
    "scene",
    "people",
    "things",
)
_TITLES = ("trained", "held-out", "held-out top-5", "face found", "scene", "people", "things")


@dataclass(frozen=True)
class PocketEvaluation:
    """What the measurement gave: intervals per condition, and the flat numbers of figures.json.

    `asked` holds the questions of each condition, some of which are asked less than all of `paper`.
    """

    found: dict[str, dict[str, Mean]]
    flat: dict[str, float]
    drawn: dict[str, Rendered]
    prompts: PromptSet
    asked: dict[str, PromptSet]

    def table(self) -> Table:
        """The conditions side by side, in percent."""
        rows = [
            [title, *(_cell(self.found[name], key) for key in _COLUMNS)]
            for name, title in CONDITION_TITLES.items()
        ]
        about = (
            "Percent with 95 % intervals. Identity (first three columns): lower is more anonymous. "
            "The others: higher is better; scene is hat, shirt and background as asked beside a "
            "name, people and things are name-free prompts drawn as asked."
        )
        return Table("Identity and fidelity", about, ("", *_TITLES), rows)


def _cell(found: dict[str, Mean], key: str) -> str:
    return found[key].percent() if key in found and found[key].count else "-"


def evaluate(
    model: PocketModel,
    renderer: RenderPool,
    prompts: PromptSet,
    prefix: Prefix,
    tell: PhaseReport = lambda name, done, total: None,
) -> PocketEvaluation:
    """Draw with the prefix and with all baselines, and compute all figures."""
    learned = Condition(CONDITION_TITLES["prefix"], prefix.rows(), free=True, brief=False)
    conditions = {
        "prefix": learned,
        **baselines(random_rows(model.encoder, prefix.n, prefix.behind)),
    }
    jobs = {name: (c.requests(prompts), c.rows) for name, c in conditions.items()}
    jobs["reseeded"] = reseeded(prompts), None
    total = sum(len(requests) for requests, _ in jobs.values())
    with tqdm(total=total, desc="measuring", unit="picture") as bar:
        shots = {name: PendingImages(renderer.submit(*job)) for name, job in jobs.items()}

        def advance(count: int) -> None:
            bar.update(count)
            tell("measuring", bar.n, total)

        drawn = {name: shot.result(advance) for name, shot in shots.items()}
    found = {n: figures(drawn[n], c, prompts) for n, c in conditions.items()}
    asked = {n: c.prompts_of(prompts) for n, c in conditions.items()}
    return PocketEvaluation(found, _flat(found, drawn, prompts), drawn, prompts, asked)


def _flat(
    found: dict[str, dict[str, Mean]], drawn: dict[str, Rendered], prompts: PromptSet
) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, values in found.items():
        title = "base" if name == "none" else name
        flat |= {f"{title}.{key}": m.value for key, m in values.items()}
    flat["floor.identity_top1"] = 0.5 * (
        flat["floor.identity_top1.trained"] + flat["floor.identity_top1.heldout"]
    )
    for key in ("objects", "people", "things", "scene"):
        flat[f"drift.{key}"] = flat[f"base.{key}"] - flat[f"prefix.{key}"]
    free = len(prompts.free)
    plain = drawn["none"].pictures[-free:]
    flat["drift.change"] = change(drawn["prefix"].pictures[-free:], plain).value
    flat["drift.change_of_seed"] = change(drawn["reseeded"].pictures, plain).value
    return flat


def save_sheet(outcome: PocketEvaluation, path: Path, trained: str = TITLES["trained"]) -> None:
    """Write what the prefix changes and keeps; `trained` is the title of the train group."""

    def pictures(places: list[int]) -> list[Tensor]:
        return [outcome.drawn[name].pictures[places] for name in ("none", "prefix")]

    save_before_after(path, outcome.prompts, pictures, SCALE, {"trained": trained})
