"""What `apl pocket evaluate` reports beyond its table: cosines, distances, intervals, a page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from apl_core.atomic import write_text
from apl_core.prefix import Prefix

from ..evaluation.figures import changes, likeness
from ..evaluation.titles import FIGURE_TITLES, RESEEDED
from ..report.page import Picture, Table, write_page
from ..statistics import Mean
from .evaluate import PocketEvaluation, save_sheet
from .model import PocketModel
from .reader import PocketReader, faces_of

_TRAIN_GROUP = "Train group: names to train on. The person should change."
_NOTES = (
    "Intervals are 95 % bootstrap intervals over names. A picture without a face is in no cosine "
    "and is not anonymous: it counts in face found alone.",
    "FID and KID are of the recognizer's features: comparable between rows, with nothing else.",
)


def detailed(model: PocketModel, outcome: PocketEvaluation) -> dict[str, Mean]:
    """All figures with intervals by `CONDITION.FIGURE`; `base` is no prefix."""
    reader = PocketReader(model)
    figures: dict[str, Mean] = {}
    for name, found in outcome.found.items():
        title = "base" if name == "none" else name
        figures |= {f"{title}.{key}": m for key, m in found.items()}
        paper = outcome.asked[name]
        faces = faces_of(outcome.drawn[name].reading)
        start = 0
        for group, asked in (("trained", paper.trained), ("heldout", paper.heldout)):
            part = faces.pick(torch.arange(start, start + len(asked)))
            start += len(asked)
            seen = likeness(part, [q.subject for q in asked], reader.gallery)
            figures |= {
                f"{title}.{key}.{group}": seen[key]
                for key in ("identity_cosine", "identity_cosine_max", "anonymous")
            }
    return figures | _changes(reader, outcome)


def _changes(reader: PocketReader, outcome: PocketEvaluation) -> dict[str, Mean]:
    """How far name-free pictures move: with the prefix, a random one, and with another seed."""
    free = len(outcome.prompts.free)
    if not free:
        return {}
    pictures = {
        name: [outcome.drawn[name].pictures[-free:]]
        for name in ("none", "prefix", "random", "reseeded")
    }
    return changes(pictures.pop("none"), dict(pictures), reader)


def write_outcome(out: Path, model: PocketModel, prefix: Prefix, outcome: PocketEvaluation) -> None:
    """Write figures.json, report.json (with intervals), sheet.png and report.html into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    figures = detailed(model, outcome)
    flat = {k: m.value for k, m in figures.items() if not math.isnan(m.value)} | outcome.flat
    write_text(out / "figures.json", json.dumps(flat, indent=1, sort_keys=True) + "\n")
    facts = {
        "Model": model.name,
        "Prefix": f"{prefix.n} vectors, {prefix.behind} behind the text, {prefix.short_digest}",
        "Pictures": f"{sum(len(d.pictures) for d in outcome.drawn.values())}",
    }
    write_intervals(out, figures, facts)
    save_sheet(outcome, out / "sheet.png", _TRAIN_GROUP)
    write_page(
        out / "report.html",
        "A prefix, measured",
        "The same prompts and seeds without and with the prefix, beside plain baselines.",
        [Picture(out / "sheet.png", "No prefix above, the same seeds with the prefix below.")],
        [outcome.table(), *_tables(figures)],
        facts,
        _NOTES,
    )


def write_intervals(out: Path, figures: Mapping[str, Mean], facts: Mapping[str, str]) -> None:
    """Write report.json: every figure as `{value, low, high, count}`, and what it was made with."""
    made_with = {"torch": torch.__version__, "CPU cores": str(os.cpu_count())}
    data = {
        "format": 1,
        "facts": {**facts, **made_with},
        "figures": {k: m.plain() for k, m in figures.items()},
    }
    write_text(out / "report.json", json.dumps(data, indent=1, sort_keys=True) + "\n")


def _tables(figures: dict[str, Mean]) -> list[Table]:
    titles = {**FIGURE_TITLES, "reseeded": RESEEDED}
    groups = [("trained", "trained"), ("held-out", "heldout")]
    keys = [
        ("cosine", "identity_cosine"),
        ("largest", "identity_cosine_max"),
        ("anonymous", "anonymous"),
    ]
    columns = [(f"{k}, {g}", f"{{}}.{key}.{group}") for g, group in groups for k, key in keys]
    cosines = [
        [titles[n], *(figures[key.format(n)].percent() for _, key in columns)]
        for n in titles
        if f"{n}.identity_cosine.trained" in figures
    ]
    about = (
        "Cosine of the identity embedding with that of the person named, in percent: mean, mean of "
        "each name's likeliest picture, and share of pictures that show somebody else's face."
    )
    found = [Table("Likeness", about, ["", *(t for t, _ in columns)], cosines)]
    kinds = ("pixels", "features", "fid", "kid")
    changes = [
        [titles[n], *(f"{figures[f'change.{k}.{n}'].value:.4f}" for k in kinds)]
        for n in titles
        if f"change.pixels.{n}" in figures
    ]
    if changes:
        about = "Name-free pictures against those without prefix, same seeds."
        found.append(Table("Drift", about, ["", "pixels", "features", "FID", "KID"], changes))
    return found
