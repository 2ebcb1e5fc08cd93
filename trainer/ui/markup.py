"""The parts of the page as HTML; every word that is not this file's own is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from apl_core.errors import AplError
from apl_core.training.config import SETTINGS, allowed

from .curves import effect_chart, loss_chart
from .review import DATA
from .run_request import RunRequest
from .run_status import RunStatus, figures, newest_preview, rows, seconds_left

_SHEETS = 4
_UNMEASURED = (
    "On a checkpoint nothing measures the faces: press Preview now and look at pictures, and see "
    "apl evaluate for figures."
)
STATES = {
    "working": "at work",
    "looking": "waits for you",
    "stopped": "stopped",
    "failed": "failed",
    "broken": "broken off",
    "done": "finished",
}

_CONDITIONS = {
    "base": "no prefix",
    "prefix": "learned prefix",
    "random": "random prefix",
    "description": "description instead of name",
    "negative": "name in the negative prompt",
    "floor": "“a person” instead of name",
}
_FIGURES = {
    "identity_top1.trained": "trained names",
    "identity_top1.heldout": "held-out names",
    "face_found": "face found",
    "scene": "scene",
    "people": "people",
    "things": "things",
}
_DOING = {
    "starting": "Starting",
    "saving": "Saving",
    "loading the model": "Loading the model",
    "measuring": "Drawing and measuring",
    "drawing": "Drawing the before/after sheet",
}


def style(script: str) -> str:
    """The style sheet, and a script that runs once it is there: an element for every Gradio."""
    sheet = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return f'<style onload="{html.escape(script, quote=True)}">{sheet}</style>'


def head() -> str:
    """What the page is for."""
    return (
        "<header class='apl'><h1>APL Prefix</h1><p>Learn a prompt prefix that makes a "
        "text-to-image model draw anonymous faces, whoever the prompt names.</p></header>"
    )


def about(text: str) -> str:
    """A sentence below a component."""
    return f"<p class='apl apl-faint'>{html.escape(text)}</p>"


def notice(text: str, tone: str = "good") -> str:
    """One message; `tone` is good or bad."""
    role = "alert" if tone == "bad" else "status"
    lines = "<br>".join(html.escape(line) for line in text.split("\n"))
    return f"<div class='apl apl-notice apl-{tone}' role='{role}'>{lines}</div>"


def settings_help() -> str:
    """Every setting of a training, what it takes and what it does."""
    rows = (
        f"<tr><td><code>{name}</code></td><td>{html.escape(allowed(declared))}</td>"
        f"<td>{html.escape(declared.metadata['help'])}</td></tr>"
        for name, declared in SETTINGS.items()
    )
    table = f"<table>{''.join(rows)}</table>"
    return f"<details class='apl'><summary>All settings</summary>{table}</details>"


def file_button(target: str) -> str:
    """A button that reads a text file in the browser into the text field inside `#target`."""
    script = (
        "const field = document.querySelector(this.dataset.target);"
        "if (this.files[0]) this.files[0].text().then(text => {field.value = text;"
        "field.dispatchEvent(new Event('input', {bubbles: true})); this.value = ''})"
    )
    return (
        f"<label class='apl apl-file'>Load a file of names<input type='file' accept='.txt,.csv,"
        f"text/plain' data-target='#{html.escape(target, quote=True)} textarea' "
        f'onchange="{html.escape(script, quote=True)}"></label>'
    )


def status(run: RunStatus | None) -> str:
    """What is going on, how far it is, and how long it will take."""
    if run is None:
        return (
            "<div class='apl apl-status'><p class='apl-faint'>No run yet. Start shows here how far "
            "it is, how well it hides the names and what it costs, and pictures without and with "
            "the prefix. A run goes on when this page is closed.</p></div>"
        )
    parts = [
        f"<div class='apl apl-status'><p class='apl-line-up'><b>{html.escape(run.name)}</b>"
        f"<span class='apl-state apl-{html.escape(run.state)}'>{STATES[run.state]}</span></p>"
    ]
    if run.going:
        parts.append(_progress(run))
    elif run.error:
        lines = "<br>".join(html.escape(line) for line in run.error.split("\n"))
        parts.append(f"<p class='apl-notice apl-bad' role='alert'>{lines}</p>")
        if run.began:
            parts.append("<p>Resume goes on from what was saved last.</p>")
    elif run.state == "looking":
        parts.append(
            "<p>The pictures are drawn. Look at them and at what stands for each name.</p>"
        )
        parts += [f"<p class='apl-faint'>{html.escape(line)}</p>" for line in run.said.split("\n")]
    elif run.state == "stopped":
        at = f"Stopped after step {run.step} of {run.steps}. " if run.steps else "Stopped. "
        parts.append(f"<p>{at}Resume goes on from there.</p>")
    elif run.said:
        parts.append(f"<p>{html.escape(run.said)}</p>")
    elif run.steps:
        parts.append(f"<p>{run.step} steps learned.</p>")
    return "".join(parts) + "</div>"


def _progress(run: RunStatus) -> str:
    doing = _DOING.get(run.doing, run.doing[:1].upper() + run.doing[1:])
    if run.doing == "learning" and run.done == run.total:
        doing = "Looking at what was learned"
    known = run.total > 0
    share = min(100.0, 100 * run.done / run.total) if known else 0.0
    left = seconds_left(run, rows(run.path))
    told = [f"{run.done} of {run.total}"] if known else []
    told += [f"about {duration(left)} of learning left"] if left else []
    said = " · ".join([html.escape(doing), *told])
    bar = f"<i style='width:{share:.1f}%'></i>" if known else "<i></i>"
    state = f"aria-valuenow='{share:.0f}'" if known else "aria-busy='true'"
    kind = "" if known else " apl-unknown"
    return (
        f"<div class='apl-bar{kind}' role='progressbar' aria-valuemin='0' aria-valuemax='100' "
        f"aria-label='progress' {state}>{bar}</div><p class='apl-faint'>{said}</p>"
    )


def duration(seconds: float) -> str:
    """Such as `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def charts(run: RunStatus | None) -> str:
    """Loss beside identity and drift, which are measured on the pocket model alone."""
    if run is None:
        return "<div class='apl'></div>"
    metrics = rows(run.path)
    steps = run.steps or max((row["step"] for row in metrics), default=0)
    measured = any("score" in row for row in metrics) or not _on_a_checkpoint(run.path)
    effect = effect_chart(metrics, steps) if measured else about(_UNMEASURED)
    both = loss_chart(metrics, steps) + effect
    return f"<div class='apl apl-charts'>{both}</div>"


def _on_a_checkpoint(path: Path) -> bool:
    try:
        return RunRequest.of(path).kind == "checkpoint"
    except AplError:  # a run of which nobody knows
        return False


def preview(run: RunStatus | None) -> str:
    """The newest contact sheet: without the prefix above, with it below."""
    sheet = newest_preview(run.path) if run else None
    source = picture(sheet) if sheet else None
    if run is None or sheet is None or source is None:
        return "<div class='apl'></div>"
    step = sheet.stem.removeprefix("step-").lstrip("0") or "0"
    caption = f"Preview after step {html.escape(step)}: without the prefix above, with it below"
    return (
        f"<div class='apl'><figure class='apl-sheet'><figcaption>{caption}</figcaption>"
        f"<img src='{source}' alt='{caption}'></figure></div>"
    )


def contact(run: RunStatus | None) -> str:
    """The first contact sheets of a run that waits for somebody to look at its pictures."""
    sheets = sorted((run.path / DATA).glob("sheet-*.png")) if run else []
    shown = [source for path in sheets[:_SHEETS] if (source := picture(path))]
    if run is None or run.state != "looking":
        shown = []
    images = "".join(f"<img src='{source}' alt='pictures of each name'>" for source in shown)
    return f"<div class='apl'><figure class='apl-sheet'>{images}</figure></div>"


def results(run: RunStatus | None, target: Path | None) -> str:
    """Figures, the before/after sheet and what can be taken home."""
    if run is None or run.going or run.prefix is None:
        return "<div class='apl'></div>"
    parts = ["<div class='apl apl-results'><h2>Result</h2>", _table(figures(run.path))]
    sheet = picture(run.path / "sheet.png")
    if sheet:
        caption = "The same prompts and seeds, without the prefix above and with it below"
        parts.append(
            f"<figure class='apl-sheet'><figcaption>{caption}</figcaption>"
            f"<img src='{sheet}' alt='{caption}'></figure>"
        )
    links = [
        _download(run.path / "report.html", f"{run.name}.html", "text/html", "Report"),
        _download(run.prefix, f"{run.name}.safetensors", "application/octet-stream", "Prefix"),
    ]
    parts.append(f"<p class='apl-line-up'>{''.join(links)}</p>")
    if target is None:
        parts.append(
            "<p class='apl-faint'>Put the prefix into models/apl of ComfyUI or the webui. Started "
            "with <code>apl ui --apl-dir FOLDER</code>, this page does that with one button.</p>"
        )
    return "".join(parts) + "</div>"


def picture(path: Path | None) -> str | None:
    """A PNG as a data URL; None if it is not there (yet) or only half of it is."""
    try:
        data = path.read_bytes() if path else b""
    except OSError:
        return None
    if not data.startswith(b"\x89PNG") or b"IEND" not in data[-12:]:
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _table(flat: dict[str, float]) -> str:
    if not flat:
        return "<p class='apl-faint'>Nothing was measured in this run.</p>"
    heads = "".join(f"<th scope='col'>{title}</th>" for title in _FIGURES.values())
    lines = [
        f"<tr class='apl-{name}'><th scope='row'>{title}</th>{_cells(flat, name)}</tr>"
        for name, title in _CONDITIONS.items()
    ]
    return (
        "<div class='apl-wide'><table><thead><tr><td></td><th colspan='2' scope='colgroup'>"
        "recognized, %: less is more anonymous</th><th colspan='4' scope='colgroup'>drawn as asked,"
        f" %: more is better</th></tr><tr><td></td>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cells(flat: dict[str, float], name: str) -> str:
    values: Sequence[float | None] = [flat.get(f"{name}.{key}") for key in _FIGURES]
    return "".join(f"<td>{'-' if v is None else f'{100 * v:.1f}'}</td>" for v in values)


def _download(path: Path, name: str, kind: str, title: str) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""
    return (
        f"<a class='apl-download' download='{html.escape(name, quote=True)}' "
        f"href='data:{kind};base64,{data}'>{title} ({len(data) * 3 // 4 // 1024 + 1} KB)</a>"
    )
