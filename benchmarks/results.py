"""`apl bench results`: writes sections of docs/results.md from the files of finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from apl_core.errors import ConfigError, RunError
from apl_trainer.evaluation.titles import FIGURE_TITLES
from apl_trainer.settings import parse_json
from apl_trainer.statistics import Mean

from .house import write_between
from .paper.targets import Goal

_GOALS = (
    Goal("prefix.identity_top1.trained", "trained names recognized", 0.05),
    Goal("prefix.identity_top1.heldout", "held-out names recognized", 0.08),
    Goal("prefix.face_found", "face found", 0.99, True),
    Goal("drift.things", "name-free things lost", 0.02),
    Goal("drift.people", "name-free people lost", 0.05),
)
"""What a demo should reach."""

_CONDITIONS = {**FIGURE_TITLES, "prefix": f"**{FIGURE_TITLES['prefix']}**"}
_FIGURES = {
    "identity_top1.trained": "identity, trained names",
    "identity_top1.heldout": "identity, held-out names",
    "face_found": "face found",
    "people": "name-free people as asked",
    "things": "name-free things as asked",
}


def write_sections(page: Path, runs: Mapping[str, Path]) -> None:
    """Replace sections of the page: `demo`, `speed` and `paper` to the folders of their runs.

    Raises AplError where a run's files are missing or are of another kind of run.
    """
    writers = {"demo": _demo, "speed": _speed, "paper": _paper}
    for name, folder in runs.items():
        try:
            section = writers[name](folder)
        except KeyError as error:
            raise ConfigError(
                f"write the section {name} of {page.name}",
                f"{folder} has no figure {error}",
                f"give the folder of an `apl {'' if name == 'demo' else 'bench '}{name}`",
            ) from error
        write_between(page, f"results: {name}", section)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"read {path}", f"it cannot be read: {error}", "give the folder of a finished run"
        ) from error
    return found if isinstance(found, dict) else {}


def _day(path: Path) -> str:
    return date.fromtimestamp(path.stat().st_mtime).isoformat()


def _demo(folder: Path) -> str:
    report, flat = _read(folder / "report.json"), _read(folder / "figures.json")
    facts, figures = report["facts"], report["figures"]
    rows = [
        [title, *(_cell(figures.get(f"{name}.{key}")) for key in _FIGURES)]
        for name, title in _CONDITIONS.items()
    ]
    return "\n".join(
        [
            f"`{facts['Again']}` on {facts['CPU cores']} CPU cores, torch {facts['torch']}, "
            f"{_day(folder / 'report.json')}. {facts['Steps']} steps,",
            f"{facts['Prefix']}. Percent, with 95 % intervals.",
            "",
            *_table(["", *_FIGURES.values()], rows),
            "",
            *_goals([(g.text, flat.get(g.key), g.limit, g.at_least, g.met(flat)) for g in _GOALS]),
            "",
            f"Of the things alone, without colors and backgrounds, "
            f"{100 * flat['drift.objects']:.1f} % are lost.",
            f"Change of name-free pictures: {flat['drift.change']:.4f} (mean square). Another seed "
            f"changes them by {flat['drift.change_of_seed']:.4f}.",
            f"Learned in {flat['seconds.prefix_training']:.0f} s; the whole demo took "
            f"{flat['seconds.total']:.0f} s.",
            "",
        ]
    )


def _cell(figure: Mapping[str, Any] | None) -> str:
    mean = Mean.of(figure) if figure else None
    return mean.percent() if mean and mean.count else "-"


def _speed(folder: Path) -> str:
    flat = _read(folder / "figures.json")
    rows = [
        ["cost of a step per sample, ours / the authors'", f"{flat['step_cost_ratio']:.2f}"],
        [
            "best score, ours / the authors' (lower is better)",
            f"{flat['score.ours']:.3f} / {flat['score.authors']:.3f}",
        ],
        *(
            [f"seconds to {what}, ours / the authors'", _seconds(flat, key)]
            for key, what in (("quality", "the score that both reach"), ("near_quality", "95 %"))
        ),
        ["times sooner, at that score", f"{flat['speedup_to_quality']:.1f}"],
        ["times sooner, within 5 % of it", f"{flat['speedup_to_near_quality']:.1f}"],
    ]
    command = f"apl bench speed --minutes {flat['seconds.budget'] / 60:g}"
    head = f"`{command}`, {_day(folder / 'figures.json')}."
    return "\n".join([head, "", *_table(["", "measured"], rows), ""])


def _seconds(flat: Mapping[str, Any], key: str) -> str:
    return " / ".join(f"{flat[f'seconds.to_{key}.{who}']:.0f}" for who in ("ours", "authors"))


def _paper(folder: Path) -> str:
    report = _read(folder / "report.json")
    keys = ("text", "value", "limit", "at_least", "met")
    goals = [tuple(goal[key] for key in keys) for goal in report["targets"]]
    head = f"`{report['command']}`, {_day(folder / 'report.json')}. {report['verdict']}"
    return "\n".join([head, "", *_goals(goals), ""])


def _goals(goals: Sequence[tuple[Any, ...]]) -> list[str]:
    """Text, value, limit, whether it is a least one, and whether it is met, of each goal."""
    rows = [
        [
            text,
            "not measured" if value is None else f"{100 * value:.1f} %",
            f"{'at least' if at_least else 'at most'} {100 * limit:g} %",
            "yes" if met else "**no**",
        ]
        for text, value, limit, at_least, met in goals
    ]
    return _table(["goal", "measured", "limit", "met"], rows)


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
