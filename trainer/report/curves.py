"""Loss, identity and drift over a run, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def save_curves(rows: Rows, path: Path) -> None:
    """Draw metrics.jsonl rows as PNG: the losses on the left, what they lead to on the right."""
    steps = [row for row in rows if "loss" in row]
    checks = [row for row in rows if "score" in row]
    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind in ("identity", "things", "people"):
        points = [(row["step"], row[kind]) for row in steps if kind in row]
        if points:
            left.plot(*zip(*points, strict=True), lw=1, label=kind)
    left.set(xlabel="step", ylabel="mean squared error", yscale="log", title="loss per kind")
    left.legend(fontsize=8)
    for key, label in (
        ("identity", "identity (validation names)"),
        ("drift_people", "drift on people"),
        ("drift_things", "drift on things"),
    ):
        points = [(row["step"], 100 * row[key]) for row in checks if key in row]
        if points:
            right.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1, label=label)
    right.axhline(0, color="0.8", lw=0.8)
    right.set(xlabel="step", ylabel="%", title="on prompts kept for choosing")
    if right.lines[1:]:
        right.legend(fontsize=8)
    figure.savefig(path)
