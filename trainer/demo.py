"""The main job from end to end: learn a prefix on a pocket model, measure it, show it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from apl_core.atomic import write_text
from apl_core.prefix import Prefix
from apl_core.training.config import TrainConfig
from apl_core.training.events import Control, Listener
from apl_core.training.folder import RunFolder

from .evaluation.statistics import Mean
from .evaluation.studio import Drawn, Studio
from .pocket.learn import Origin, pocket_run
from .pocket.measure import (
    Condition,
    Paper,
    Shot,
    baselines,
    change,
    figures,
    random_rows,
    reseeded,
)  # fmt: skip
from .pocket.model import PocketModel
from .report.curves import save_curves
from .report.page import Picture, Table, write_page
from .report.sheet import save_sheet

EVALUATION_STEPS = 10
"""DDIM steps of the pictures that are measured."""

_COLUMNS = (
    "identity_top1.trained", "identity_top1.heldout", "identity_top5.heldout", "face_found",
    "scene", "people", "things",
)  # fmt: skip
_TITLES = ("trained", "held-out", "held-out top-5", "face found", "scene", "people", "things")
_ORDER = ("none", "prefix", "random", "description", "negative", "floor")
NOTES = (
    "The pocket model draws cartoon faces of people who do not exist. That is why identity can be "
    "counted here; nothing of this says how a prefix does on photographs.",
    "Identity top-1 is how often the recogniser, which knows all 208 people of the world, names the "
    "person of the prompt first: chance is 0.5 %. Intervals are 95 % bootstrap intervals over names.",
    "Held-out names are known to the pocket model; the prefix never saw them, and nothing was chosen "
    "by them. The step that is kept is chosen on an eighth of the trained group.",
    "Whoever controls the prompt can leave the prefix out. A face that comes in as an image is not "
    "driven by text and not covered.",
)


@dataclass(frozen=True)
class Outcome:
    """What the measurement gave: intervals per condition, and the flat numbers of figures.json."""

    found: dict[str, dict[str, Mean]]
    flat: dict[str, float]
    drawn: dict[str, Drawn]
    paper: Paper

    def table(self) -> Table:
        """The conditions side by side, in percent."""
        titles = {"prefix": "learned prefix"}
        rows = [
            [titles.get(name, CONDITION_TITLES[name]), *(_cell(self.found[name], k) for k in _COLUMNS)]
            for name in _ORDER if name in self.found
        ]  # fmt: skip
        about = (
            "Percent with 95 % intervals. Identity (first three columns): lower is more anonymous. "
            "The others: higher is better; scene is hat, shirt and background as asked beside a name, "
            "people and things are name-free prompts drawn as asked."
        )
        return Table("Identity and fidelity", about, ("", *_TITLES), rows)


CONDITION_TITLES = {
    "none": "no prefix", "random": "random prefix", "description": "description instead of name",
    "negative": "name in the negative prompt", "floor": "“a person” instead of name",
}  # fmt: skip


def _cell(found: dict[str, Mean], key: str) -> str:
    return found[key].percent() if key in found else "–"


class Examination:
    """Draws the baselines in the background, the prefix when it is there, and sums up.

    Baselines are drawn one part at a time, so that the training beside them keeps its core.
    """

    def __init__(self, model: PocketModel, studio: Studio, paper: Paper) -> None:
        self.model, self.studio, self.paper = model, studio, paper
        random = random_rows(model.encoder, 10, 5)
        self.conditions = baselines(random)
        self._drawn: dict[str, Drawn] = {}
        self._thread = threading.Thread(target=self._baselines, daemon=True)
        self._failed: BaseException | None = None
        self._thread.start()

    def _baselines(self) -> None:
        try:
            jobs = {n: (c.requests(self.paper), c.rows) for n, c in self.conditions.items()}
            jobs["reseeded"] = reseeded(self.paper), None
            for name, (requests, rows) in jobs.items():
                parts = [
                    self.studio.draw(requests[i : i + 48], rows)
                    for i in range(0, len(requests), 48)
                ]
                self._drawn[name] = Drawn.join(parts)
        except BaseException as error:  # told to the caller in `finish`
            self._failed = error

    def finish(self, prefix: Prefix) -> Outcome:
        """Draw with the prefix, wait for the baselines, and compute all figures."""
        condition = Condition("learned prefix", prefix.rows(), free=True, brief=False)
        requests = condition.requests(self.paper)
        with tqdm(total=len(requests), desc="measuring", unit="picture") as bar:
            shot = Shot(self.studio.submit(requests, condition.rows))
            drawn = {"prefix": shot.result(lambda n: bool(bar.update(n)))}
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        drawn |= self._drawn
        conditions = {**self.conditions, "prefix": condition}
        found = {n: figures(drawn[n], c, self.paper) for n, c in conditions.items()}
        return Outcome(found, self._flat(found, drawn), drawn, self.paper)

    def _flat(self, found: dict[str, dict[str, Mean]], drawn: dict[str, Drawn]) -> dict[str, float]:
        flat: dict[str, float] = {}
        for name, values in found.items():
            title = "base" if name == "none" else name
            flat |= {f"{title}.{key}": m.value for key, m in values.items()}
        flat["floor.identity_top1"] = 0.5 * (
            flat["floor.identity_top1.trained"] + flat["floor.identity_top1.heldout"]
        )
        for key in ("objects", "people", "things", "scene"):
            flat[f"drift.{key}"] = flat[f"base.{key}"] - flat[f"prefix.{key}"]
        free = len(self.paper.free)
        plain = drawn["none"].pictures[-free:]
        flat["drift.change"] = change(drawn["prefix"].pictures[-free:], plain).value
        flat["drift.change_of_seed"] = change(drawn["reseeded"].pictures, plain).value
        return flat


def run_demo(model: PocketModel, config: TrainConfig, out: Path, paper: Paper,
             listeners: Sequence[Listener], control: Control, say: Callable[[str], None],
             workers: int | None = None) -> dict[str, float] | None:  # fmt: skip
    """Learn, measure and report into `out`; None when the training was stopped before its end."""
    began = time.perf_counter()
    folder = RunFolder(out)
    folder.create(config)
    origin = Origin(str(model.folder), None)
    origin.save(folder)
    torch.set_num_threads(1)
    with Studio(model.folder, EVALUATION_STEPS, workers) as studio:
        examination = Examination(model, studio, paper)
        trainer = pocket_run(model, config, folder, origin, listeners, control)
        start = time.perf_counter()
        prefix = trainer.run()
        training = time.perf_counter() - start
        if control.stop.is_set():
            return None
        outcome = examination.finish(prefix)
    seconds = {
        "seconds.prefix_training": training,
        "seconds.total": time.perf_counter() - began,
    }
    flat = outcome.flat | seconds
    write_text(out / "figures.json", json.dumps(flat, indent=1, sort_keys=True) + "\n")
    write_report(outcome, model, prefix, folder, flat)
    say(outcome.table().text())
    return flat


def write_report(outcome: Outcome, model: PocketModel, prefix: Prefix, folder: RunFolder,
                 flat: dict[str, float]) -> None:  # fmt: skip
    """Write sheet.png, curves.png and report.html into the run folder."""
    out = folder.path
    save_before_after(outcome, out / "sheet.png")
    save_curves(folder.rows(), out / "curves.png")
    facts = {
        "Model": model.name,
        "Prefix": f"{prefix.n} vectors, {prefix.behind} of them behind the text, {prefix.short_digest}",
        "Learned in": f"{flat['seconds.prefix_training']:.0f} s",
        "Everything": f"{flat['seconds.total']:.0f} s",
        "Picture change on name-free prompts": f"{flat['drift.change']:.4f} (mean square); another "
        f"seed changes {flat['drift.change_of_seed']:.4f}",
        "Again": "apl demo",
    }  # fmt: skip
    write_page(
        out / "report.html", "A prefix that anonymises faces",
        "The same prompts with the same seeds, without the prefix above and with it below: four "
        "people it learned from, four it never saw, and four prompts that name nobody.",
        [Picture(out / "sheet.png", "No prefix above, the same seeds with the prefix below."),
         Picture(out / "curves.png", "Loss while learning, and what it leads to.")],
        [outcome.table()], facts, NOTES,
    )  # fmt: skip


def save_before_after(outcome: Outcome, path: Path, each: int = 4) -> None:
    """Write the sheet: the same prompts and seeds without the prefix above and with it below."""
    paper = outcome.paper
    seeds = len(paper.trained) // len({q.subject for q in paper.trained})
    named, people = len(paper.named), len(paper.people)
    starts = (0, len(paper.trained))
    places = [start + i * seeds for start in starts for i in range(each)]
    places += [named + i for i in range(each // 2)] + [named + people + i for i in range(each // 2)]
    questions = [*paper.named, *paper.free]
    heads = [questions[i].subject for i in places]
    heads = [
        h if i < named else " ".join(h.split()[:4]) for h, i in zip(heads, places, strict=True)
    ]
    rows = [outcome.drawn[n].pictures[places] for n in ("none", "prefix")]
    save_sheet(rows, path, ("no prefix", "with prefix"), heads)


def small(config: TrainConfig) -> TrainConfig:
    """A demo of seconds that shows that everything works, and learns next to nothing."""
    return replace(config, steps=4, pool=72, check_every=4)
