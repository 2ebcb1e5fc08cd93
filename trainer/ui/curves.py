"""Curves of a run as small SVGs that follow the page's light or dark theme."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .run_status import is_number

Rows = Sequence[Mapping[str, Any]]
Point = tuple[float, float]

_WIDTH, _HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 92, 12, 26
_MOST = 400
"""Points of one line."""

_LEAST = 1e-12


@dataclass(frozen=True)
class Curve:
    """One curve: its label stands at its end; the tone is a class of the style sheet."""

    label: str
    tone: str
    points: Sequence[Point]
    marks: bool = False


def loss_chart(rows: Rows, steps: int) -> str:
    """The loss of every step, and its running mean."""
    points = [(float(r["step"]), float(r["loss"])) for r in rows if is_number(r.get("loss"))]
    lines = [Curve("", "faint", points)] if len(points) > _SMOOTH else []
    lines.append(Curve("mean" if lines else "loss", "a", _smooth(points) if lines else points))
    return chart("Loss", lines, steps, False)


def effect_chart(rows: Rows, steps: int) -> str:
    """Who is still drawn, and what is lost, in percent, on prompts kept for choosing."""
    shown = (
        ("identity", "identity", "a"),
        ("drift_people", "drift people", "b"),
        ("drift_things", "drift things", "c"),
    )
    checks = [r for r in rows if "score" in r]  # a step's row calls its losses by the same names
    lines: list[Curve] = []
    for key, label, tone in shown:
        points = [(float(r["step"]), 100 * r[key]) for r in checks if is_number(r.get(key))]
        lines.append(Curve(label, tone, points, marks=True))
    return chart("Identity and drift, %", lines, steps, True)


def chart(title: str, lines: Sequence[Curve], steps: int, percent: bool) -> str:
    """An SVG of lines over steps 0..steps; a sentence instead while there is nothing to draw."""
    drawn = [line for line in lines if line.points]
    head = f"<figcaption>{html.escape(title)}</figcaption>"
    if not drawn:
        about = "Nothing was measured yet." if percent else "No step was done yet."
        return f"<figure class='apl-chart'>{head}<p class='apl-faint'>{about}</p></figure>"
    values = [y for line in drawn for _, y in line.points]
    low, high, step = _scale(min(0.0, *values), max(values))
    last = max([steps, *(int(x) for line in drawn for x, _ in line.points)])
    parts = [_axis(low, high, step, last), *(_curve(line, low, high, last) for line in drawn)]
    parts += _labels(drawn, low, high, last)
    told = "; ".join(f"{line.label} {line.points[-1][1]:.3g}" for line in drawn if line.label)
    return (
        f"<figure class='apl-chart'>{head}<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' "
        f"aria-label='{html.escape(f'{title} at step {last}: {told}', quote=True)}'>"
        f"{''.join(parts)}</svg></figure>"
    )


_SMOOTH = 10


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


def _at(x: float, y: float, low: float, high: float, last: int) -> Point:
    across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / max(last, 1)
    down = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - y) / ((high - low) or 1.0)
    return across, down


def _axis(low: float, high: float, step: float, last: int) -> str:
    parts: list[str] = []
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        x, y = _at(0, value, low, high, last)
        tone = "apl-zero" if abs(value) < step / 2 else "apl-grid"
        parts.append(
            f"<line class='{tone}' x1='{x:.0f}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>"
            f"<text class='apl-tick' x='{x - 6:.0f}' y='{y + 3.5:.1f}' text-anchor='end'>"
            f"{0 if abs(value) < step / 2 else value:.4g}</text>"
        )
    for step_number in sorted({0, last // 2, last}):
        x, _ = _at(step_number, low, low, high, last)
        word = f"step {step_number}" if step_number == last else step_number
        parts.append(
            f"<text class='apl-tick' x='{x:.0f}' y='{_HEIGHT - 6}' text-anchor='middle'>"
            f"{word}</text>"
        )
    return "".join(parts)


def _curve(line: Curve, low: float, high: float, last: int) -> str:
    thin = line.points[:: max(1, len(line.points) // _MOST)]
    if thin[-1] != line.points[-1]:
        thin = [*thin, line.points[-1]]
    places = [_at(x, y, low, high, last) for x, y in thin]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = places if line.marks else places[-1:] if line.label else []
    marks = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3'/>" for x, y in dots)
    return f"<g class='apl-line apl-{line.tone}'><polyline points='{path}'/>{marks}</g>"


def _labels(lines: Sequence[Curve], low: float, high: float, last: int) -> list[str]:
    """Names beside the ends of the lines, moved apart where they would meet."""
    ends = [(line, *_at(*line.points[-1], low, high, last)) for line in lines if line.label]
    parts: list[str] = []
    above = -99.0
    for line, x, y in sorted(ends, key=lambda end: end[2]):
        above = max(y + 3.5, above + 13)
        parts.append(
            f"<text class='apl-label apl-{line.tone}' x='{x + 8:.1f}' y='{above:.1f}'>"
            f"{html.escape(line.label)}</text>"
        )
    return parts
