"""Curves as small SVGs: for the page, whose light or dark theme they follow, and as a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apl_core.atomic import write_text

from ..settings import is_number
from .templates import template

Rows = Sequence[Mapping[str, Any]]
Point = tuple[float, float]

_WIDTH, _HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 92, 12, 26
_MOST = 400  # points of one line
_SMOOTH = 10
_LINE = 13  # between names of lines
_LEAST = 1e-12


@dataclass(frozen=True)
class Curve:
    """One curve: its label stands at its end; the tone is a class of the style sheet."""

    label: str
    tone: str
    points: Sequence[Point]
    marks: bool = False


class Chart:
    """Curves over steps, or over another unit, from 0 to `last` at least; `empty` if there is none.

    The rest is for the templates, in units of the SVG: `grid` and `ticks` of the axes, `lines` and
    the `labels` at their ends.
    """

    width, height, right = _WIDTH, _HEIGHT, _WIDTH - _RIGHT

    def __init__(
        self, title: str, curves: Sequence[Curve], last: int, empty: str, unit: str = "step"
    ) -> None:
        self.title, self.empty = title, empty
        self.curves = [curve for curve in curves if curve.points]
        if not self.curves:
            return
        values = [y for curve in self.curves for _, y in curve.points]
        self._low, self._high, step = _scale(min(0.0, *values), max(values))
        self._last = max([last, *(int(x) for curve in self.curves for x, _ in curve.points)])
        marks = range(round((self._high - self._low) / step) + 1)
        self.grid = [self._mark(self._low + i * step, step) for i in marks]
        self.ticks = [
            (self._at(x, 0)[0], f"{unit} {x}" if x == self._last else str(x))
            for x in sorted({0, self._last // 2, self._last})
        ]
        self.lines = [(curve.tone, *self._line(curve)) for curve in self.curves]
        self.labels = self._labels()

    @property
    def told(self) -> str:
        """The chart in words."""
        ends = [(curve.label, curve.points[-1][1]) for curve in self.curves if curve.label]
        found = "; ".join(f"{label} {y:.3g}" for label, y in ends)
        return f"{self.title} at {self.ticks[-1][1]}: {found}"

    def _at(self, x: float, y: float) -> Point:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / max(self._last, 1)
        span = (self._high - self._low) or 1.0
        return across, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (self._high - y) / span

    def _mark(self, value: float, step: float) -> tuple[float, str, bool]:
        zero = abs(value) < step / 2
        return self._at(0, value)[1], "0" if zero else f"{value:.4g}", zero

    def _line(self, curve: Curve) -> tuple[str, list[Point]]:
        thin = list(curve.points[:: max(1, len(curve.points) // _MOST)])
        if thin[-1] != curve.points[-1]:
            thin.append(curve.points[-1])
        places = [self._at(x, y) for x, y in thin]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        return path, places if curve.marks else places[-1:] if curve.label else []

    def _labels(self) -> list[tuple[float, float, str, str]]:
        """Names beside the ends of the lines, moved apart where they would meet."""
        ends = [(*self._at(*c.points[-1]), c.tone, c.label) for c in self.curves if c.label]
        ends.sort(key=lambda end: end[1])
        heights = [y + 3.5 for _, y, _, _ in ends]
        for i in range(1, len(heights)):
            heights[i] = max(heights[i], heights[i - 1] + _LINE)
        lowest = _HEIGHT - _BOTTOM + 3.5
        for i in reversed(range(len(heights))):
            heights[i] = min(heights[i], lowest - _LINE * (len(heights) - 1 - i))
        return [
            (x + 8, y, tone, label) for (x, _, tone, label), y in zip(ends, heights, strict=True)
        ]


def loss_chart(rows: Rows, steps: int) -> Chart:
    """The loss of every step, and its running mean."""
    points = [(float(r["step"]), float(r["loss"])) for r in rows if is_number(r.get("loss"))]
    lines = [Curve("", "faint", points)] if len(points) > _SMOOTH else []
    lines.append(Curve("mean" if lines else "loss", "a", _smooth(points) if lines else points))
    return Chart("Loss", lines, steps, "No step was done yet.")


def effect_chart(rows: Rows, steps: int) -> Chart:
    """What is left of names, and what else changes, in percent, on prompts kept for choosing."""
    shown = (
        ("name_left", "name left", "a"),
        ("drift_people", "drift people", "b"),
        ("drift_things", "drift things", "c"),
    )
    checks = [r for r in rows if "score" in r]  # a step's row calls its losses by the same names
    lines: list[Curve] = []
    for key, label, tone in shown:
        points = [(float(r["step"]), 100 * r[key]) for r in checks if is_number(r.get(key))]
        lines.append(Curve(label, tone, points, marks=True))
    return Chart("Name left and drift, %", lines, steps, "Nothing was measured yet.")


def figure(chart: Chart) -> str:
    """A chart as HTML for the page."""
    return template("report/figure.html").render(chart=chart)


def save_charts(path: Path, *charts: Chart) -> None:
    """Write charts side by side as one SVG."""
    write_text(path, template("report/charts.svg").render(charts=charts))


def save_curves(rows: Rows, path: Path) -> None:
    """Write the loss of the rows of metrics.jsonl, and what it led to, as one SVG."""
    steps = max((row["step"] for row in rows), default=0)
    save_charts(path, loss_chart(rows, steps), effect_chart(rows, steps))


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Mean of each point and the ones before it, at most ten."""
    found: list[Point] = []
    for i, (x, _) in enumerate(points):
        window = points[max(0, i + 1 - _SMOOTH) : i + 1]
        found.append((x, sum(y for _, y in window) / len(window)))
    return found


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round ends of an axis and the distance of its three to six marks."""
    span = high - low if high - low > _LEAST else 1.0
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step
