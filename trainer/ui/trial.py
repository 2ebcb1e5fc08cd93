"""A prompt to try on a run: asked for on the page, drawn without and with its prefix."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from apl_core.atomic import reason, write_text
from apl_core.errors import ConfigError, RunError
from apl_core.metadata import printable

from ..run_paths import STATUS
from ..settings import parse_json
from .run_status import RunStatus, read_run

TRY = "try"
"""In a run's folder: somebody waits for the pictures; gone once a run at work has read it."""

TRIED, ASKED = "tried", "asked.json"
"""The folder in a run's folder where the pictures are drawn, and what was asked for."""

PICTURES = ("without.png", "with.png")

_LONGEST = 2000
_SEEDS = 2**63


@dataclass(frozen=True)
class Trial:
    """What to draw: a prompt, the seed of its noise, and what to keep away from."""

    prompt: str
    seed: int = 0
    negative: str = ""

    @staticmethod
    def asked(prompt: str, negative: str, seed: str) -> Trial:
        """What was typed on the page; ConfigError."""
        for what, text in (("prompt", prompt), ("negative prompt", negative)):
            if len(text) > _LONGEST:
                raise ConfigError(
                    f"draw a {what}",
                    f"it has {len(text):,} characters",
                    f"write {_LONGEST:,} or fewer",
                )
        if not prompt.strip():
            raise ConfigError("draw a prompt", "it is empty", "write what you want to see")
        number = str(seed).strip() or "0"
        if not (number.isascii() and number.isdecimal() and int(number[:20]) < _SEEDS):
            raise ConfigError(
                f"take the seed {printable(number, 40)}",
                "it is not a whole number from 0 on",
                "write one, such as 0",
            )
        return Trial(prompt, int(number), negative)

    def save(self, run: Path) -> Path:
        """Write it into a run's folder, in place of the one before; where. RunError."""
        folder = run / TRIED
        try:
            folder.mkdir(exist_ok=True)
            for old in (STATUS, *PICTURES):
                (folder / old).unlink(missing_ok=True)
            text = json.dumps(asdict(self), ensure_ascii=False, indent=1)
            write_text(folder / ASKED, text + "\n")
        except OSError as error:
            raise RunError(f"ask for pictures in {run}", *reason(error)) from error
        return folder

    @staticmethod
    def of(folder: Path) -> Trial:
        """Read what was asked for; RunError if it is broken."""
        try:
            said = parse_json((folder / ASKED).read_bytes())
            trial = Trial(str(said["prompt"]), said["seed"], str(said["negative"]))
            if type(trial.seed) is not int or not 0 <= trial.seed < _SEEDS:
                raise ValueError("seed")
            return trial
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"draw what was asked for in {folder}",
                f"{ASKED} cannot be read ({printable(str(error), 80)})",
                "ask for it again",
            ) from error


def is_trial(folder: Path) -> bool:
    """Whether a folder is that of a trial, and not that of a run."""
    return (folder / ASKED).is_file()


def tried(run: RunStatus) -> RunStatus | None:
    """How far the pictures are that were asked for last; None if none were."""
    folder = run.path / TRIED
    if not is_trial(folder):
        return None
    if (run.path / TRY).exists():
        if run.going:
            return RunStatus(folder, "working", "waiting for a step")
        said = "The run ended before the pictures were drawn. Press Draw once more."
        return RunStatus(folder, "failed", error=said)
    return read_run(folder)
