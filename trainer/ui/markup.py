"""The parts of the page as HTML, out of the macros of parts.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apl_core.errors import AplError
from apl_core.training.config import SETTINGS, allowed
from apl_core.training.verdict import in_short

from ..evaluation.titles import FIGURE_TITLES
from ..report.curves import effect_chart, loss_chart
from ..report.templates import data_url, template
from .controller import ModelFound
from .review import DATA
from .run_status import RunStatus, figures, newest_preview, rows, seconds_left
from .trial import PICTURES, Trial, tried

_SHEETS = 4
_DOING = {
    "starting": "Starting",
    "saving": "Saving",
    "loading the model": "Loading the model",
    "pictures": "Drawing the pictures to learn from",
    "latents": "Encoding those pictures",
    "validation targets": "Predicting what the checks compare with",
    "teacher predictions": "Predicting what it learns from",
    "learning from texts": "Learning from texts alone (text stage)",
    "learning": "Learning",
    "pictures without and with": "Drawing your prompt without and with the prefix",
    "waiting for a step": "Waiting for the step under way",
    "measuring": "Drawing and measuring",
    "drawing": "Drawing the before/after sheet",
}


def part(name: str, *values: Any) -> str:
    """A macro of parts.html with its values: `head`, `style`, `about`, `file_button`, or below."""
    return str(getattr(template("ui/parts.html").module, name)(*values)).strip()


def notice(text: str, tone: str = "good") -> str:
    """One message; `tone` is good or bad."""
    return part("notice", text, tone)


def model(found: ModelFound) -> str:
    """What a chosen checkpoint is, and what of it is nowhere."""
    missing = [piece.label for piece, titles in found.pieces if not titles]
    return part("model", found.said, bool(found.pieces), missing)


def settings_help() -> str:
    """Every setting of a training, what it takes and what it does."""
    rows = [(name, allowed(told), told.metadata["help"]) for name, told in SETTINGS.items()]
    return part("settings_help", rows)


def status(run: RunStatus | None) -> str:
    """What is going on, how far it is, and how long it will take."""
    return part("status", run, _progress(run) if run and run.going else None)


def _progress(run: RunStatus) -> dict[str, Any]:
    doing = _DOING.get(run.doing, run.doing[:1].upper() + run.doing[1:])
    if run.doing == "learning" and run.done == run.total:
        doing = "Looking at what was learned"
    known = run.total > 0
    metrics = rows(run.path)
    left = seconds_left(run, metrics)
    said = [doing, *([f"{run.done} of {run.total}"] if known else [])]
    said += [f"about {duration(left)} of this left"] if left else []
    checks = [row for row in metrics if "score" in row]
    said += [in_short(checks[-1])] if checks else []
    share = min(100.0, 100 * run.done / run.total) if known else None
    return {"share": share, "said": " · ".join(said)}


def duration(seconds: float) -> str:
    """Such as `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def charts(run: RunStatus | None) -> str:
    """Loss beside what is left of names and what drifts, where names were kept for measuring."""
    if run is None:
        return part("charts", None, None)
    metrics = rows(run.path)
    steps = run.steps or max((row["step"] for row in metrics), default=0)
    measured = any("score" in row for row in metrics)
    effect = effect_chart(metrics, steps) if measured else None
    return part("charts", loss_chart(metrics, steps), effect)


def preview(run: RunStatus | None) -> str:
    """The newest contact sheet: without the prefix above, with it below."""
    sheet = newest_preview(run.path) if run else None
    step = sheet.stem.removeprefix("step-").lstrip("0") if sheet else ""
    return part("preview", picture(sheet), step or "0")


def trial(run: RunStatus | None) -> str:
    """The pictures that were asked for last, how far they are, or why there are none."""
    state = tried(run) if run else None
    if run is None or state is None:
        return part("trial", None, None, None, ())
    try:
        asked = Trial.of(state.path)
    except AplError:  # it was spoilt by hand
        return part("trial", None, None, None, ())
    pictures = [picture(state.path / name) for name in PICTURES] if state.state == "done" else []
    progress = _progress(state) if state.going else None
    return part("trial", state, asked, progress, [one for one in pictures if one])


def contact(run: RunStatus | None) -> str:
    """The first contact sheets of a run that waits for somebody to look at its pictures."""
    looking = run is not None and run.state == "looking"
    sheets = sorted((run.path / DATA).glob("sheet-*.png"))[:_SHEETS] if run and looking else []
    return part("contact", [source for path in sheets if (source := picture(path))])


def results(run: RunStatus | None, target: Path | None) -> str:
    """Figures, the before/after sheet and what can be taken home."""
    if run is None or run.going or run.prefix is None:
        return part("preview", None, "")
    files = [
        ("Report", f"{run.name}.html", _data(run.path / "report.html"), "text/html"),
        ("Prefix", f"{run.name}.safetensors", _data(run.prefix), "application/octet-stream"),
    ]
    links = [(title, name, data_url(d, kind), len(d)) for title, name, d, kind in files if d]
    return part(
        "results", FIGURE_TITLES, figures(run.path), picture(run.path / "sheet.png"), links, target
    )


def picture(path: Path | None) -> str | None:
    """A PNG as a data URL; None if it is not there (yet) or only half of it is."""
    data = _data(path) if path else b""
    if not data.startswith(b"\x89PNG") or b"IEND" not in data[-12:]:
        return None
    return data_url(data, "image/png")


def _data(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
