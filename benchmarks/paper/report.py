"""Puts the parts of a benchmark together: report.html, report.json, tables.md, figures.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from apl_core.atomic import write_text
from apl_trainer.report.page import Picture, Table, write_page
from apl_trainer.statistics import Mean

from .experiment import Result
from .parts import largest
from .plan import VARIANTS, BenchmarkPlan
from .tables import markdown, tables
from .targets import TARGETS, verdict

NOTES = (
    "The pocket model draws cartoon faces of people who do not exist; identity is counted by a "
    "recognizer that knows all of them. Nothing of this says how a prefix does on photographs.",
    "Held-out names are known to the model; the prefix never saw them. Our recipe was chosen on "
    "trained names; but the share of scenes with two things was last changed after demos of world "
    "0 had lost too many of them, shorter recipes were given up after such demos, and earlier ones "
    "had been compared with its held-out figures in sight. "
    "The variants, the people taught later and the new words were made after the prefix.",
    "Weights edited in closed form take seconds and anonymize hard: weigh that against what both "
    "ways do to scenes, things and described people. A prefix leaves the model as it is, and moves "
    "to other checkpoints of the same text encoder.",
    "Whoever controls the prompt can leave the prefix out. A face that comes in as an image is not "
    "driven by text and not covered.",
)


@dataclass(frozen=True)
class Facts:
    """What a report is about."""

    model: str
    digest: str
    prefix: Mapping[str, str | int]
    command: str
    plan: BenchmarkPlan
    seconds: float


def gather(results: Mapping[str, Result]) -> tuple[dict[str, Mean], dict[str, float]]:
    """All figures and numbers of the parts, and those that sum several parts up."""
    figures = {k: m for r in results.values() for k, m in r.figures.items()}
    numbers = {k: v for r in results.values() for k, v in r.numbers.items()}
    transfers = [figures[f"transfer.{v}.heldout.prefix"] for v in VARIANTS]
    figures["transfer.heldout.worst"] = largest(transfers)
    for moment in ("before", "after"):
        figures[f"personalized.{moment}"] = figures[f"personalized.dreambooth.{moment}"]
    return figures, numbers


def flat_figures(
    figures: Mapping[str, Mean], numbers: Mapping[str, float]
) -> dict[str, float | None]:
    """The flat numbers of figures.json; null where nothing could be measured."""
    values = {k: m.value for k, m in figures.items()} | dict(numbers)
    return {k: None if math.isnan(v) else v for k, v in sorted(values.items())}


def write_report(out: Path, results: Mapping[str, Result], facts: Facts) -> dict[str, float | None]:
    """Write everything that is read afterwards; returns the flat figures."""
    figures, numbers = gather(results)
    numbers["seconds.this_run"] = facts.seconds
    flat = flat_figures(figures, numbers)
    found = tables(figures, numbers, facts.plan)
    goals = [
        {
            "key": t.key,
            "text": t.text,
            "limit": t.limit,
            "at_least": t.at_least,
            "value": flat.get(t.key),
            "met": t.met(flat),
            "words": t.words(flat),
        }
        for t in TARGETS
    ]
    sheets = {name: text for r in results.values() for name, text in r.sheets.items()}
    data: dict[str, Any] = {
        "format": 1,
        "command": facts.command,
        "verdict": verdict(flat),
        "model": {"name": facts.model, "sha256": facts.digest},
        "prefix": dict(facts.prefix),
        "plan": facts.plan.plain(),
        "targets": goals,
        "tables": [
            {
                "title": t.title,
                "about": t.about,
                "columns": list(t.columns),
                "rows": [list(r) for r in t.rows],
            }
            for t in found
        ],
        "figures": {k: m.plain() for k, m in figures.items()},
        "numbers": numbers,
        "sheets": [{"file": f"sheets/{n}", "caption": c} for n, c in sheets.items()],
        "notes": list(NOTES),
    }
    write_text(out / "report.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "figures.json", json.dumps(flat, indent=1) + "\n")
    write_text(out / "tables.md", f"{verdict(flat)}\n\n{markdown([_goals(flat), *found])}")
    pictures = [Picture(out / "sheets" / n, c) for n, c in sheets.items()]
    shown = {
        "Model": f"{facts.model}, {facts.digest[:12]}",
        "Prefix": ", ".join(f"{k} {v}" for k, v in facts.prefix.items()),
        "This run": f"{facts.seconds:.0f} s",
        "Again": facts.command,
    }
    write_page(
        out / "report.html",
        "The paper's five experiments on the pocket model",
        verdict(flat),
        pictures,
        [_goals(flat), *found],
        shown,
        NOTES,
    )
    return flat


def _goals(flat: Mapping[str, float | None]) -> Table:
    def value(key: str) -> str:
        found = flat.get(key)
        return "not measured" if found is None else f"{100 * found:.1f}"

    rows = [
        [
            t.text,
            value(t.key),
            f"{'>=' if t.at_least else '<='} {100 * t.limit:g}",
            "yes" if t.met(flat) else "no",
        ]
        for t in TARGETS
    ]
    return Table("Goals", "In percent.", ["goal", "found", "wanted", "reached"], rows)


def schema() -> dict[str, Any]:
    """The JSON schema of report.json (draft 2020-12)."""
    text = files("benchmarks.paper").joinpath("report.schema.json").read_text(encoding="utf-8")
    return json.loads(text)
