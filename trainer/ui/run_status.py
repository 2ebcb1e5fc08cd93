"""What a run folder says about its run: nothing else is asked, and nothing is written."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apl_core.texts import read_text

from ..run_paths import STATUS
from ..settings import MAX_NUMBER, is_number, parse_json

LOG = "worker.log"
QUIET = 45.0
"""Seconds without a sign of life after which a run counts as killed; a beat is two."""

_FOREIGN = 180.0  # a run of the command line writes no status: its metrics have to do
_RECENT = 20


@dataclass(frozen=True)
class RunStatus:
    """A run as it stands.

    `state`: working, looking (waits for somebody to see its pictures), stopped, failed (with
    `error`), broken (exited without reporting a status), done.
    """

    path: Path
    state: str
    doing: str = ""
    done: int = 0
    total: int = 0
    step: int = 0
    steps: int = 0
    previews: int = 0
    said: str = ""
    error: str = ""
    pace: float = 0.0

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def going(self) -> bool:
        """Whether a process is at work in the folder."""
        return self.state == "working"

    @property
    def learned(self) -> bool:
        """Whether learning is over and only what it led to is drawn and measured."""
        return self.doing in ("measuring", "drawing")

    @property
    def began(self) -> bool:
        """Whether there is something to resume."""
        return (self.path / "config.toml").is_file()

    @property
    def prefix(self) -> Path | None:
        """The prefix, once there is one."""
        return _file(self.path / "prefix.safetensors")


def read_run(path: Path) -> RunStatus:
    """The state of a run, from its status file or, without one, from what else is there."""
    said = _json(path / STATUS)
    if said is None:
        return _without_status(path)
    state = str(said.get("state"))
    if state not in ("working", "done", "stopped", "looking", "failed") or (
        state == "working" and not _lives(path, said.get("process"))
    ):
        state = "broken"
    told: dict[str, Any] = {
        n: _count(said.get(n)) for n in ("done", "total", "step", "steps", "previews")
    }
    pace: Any = said.get("pace")
    told["pace"] = max(0.0, float(pace)) if is_number(pace) else 0.0
    told |= {n: str(said.get(n) or "") for n in ("doing", "said", "error")}
    if state == "broken":
        told["error"] = _last_words(path)
    return RunStatus(path, state, **told)


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; lines cut off by a kill are left out."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                row = parse_json(line)
                if isinstance(row, dict) and _count(row.get("step")):
                    found.append(row)
    return found


def figures(path: Path) -> dict[str, float]:
    """What was measured at the end; empty before that."""
    said = _json(path / "figures.json") or {}
    return {k: float(v) for k, v in said.items() if is_number(v)}


def newest_preview(path: Path) -> Path | None:
    """The preview sheet of the latest step."""
    sheets = sorted((path / "previews").glob("step-*.png"))
    return sheets[-1] if sheets else None


def seconds_left(run: RunStatus, metrics: list[dict[str, Any]]) -> float | None:
    """How long the rest of this stage will take by its own speed; None if nobody can know."""
    if not run.going:
        return None
    spent = [row["seconds"] for row in metrics if is_number(row.get("seconds"))][-_RECENT:]
    if run.doing == "learning" and spent:
        return (run.steps - run.step) * sum(spent) / len(spent)
    return max(0, run.total - run.done) * run.pace or None


def _without_status(path: Path) -> RunStatus:
    metrics = rows(path)
    step = max((_count(row["step"]) for row in metrics), default=0)
    steps = _steps(path, step)
    if (path / "figures.json").is_file() or (steps and step >= steps and _prefix_there(path)):
        state = "done"
    elif time.time() - _changed(path / "metrics.jsonl") < _FOREIGN:
        state = "working"
    else:
        state = "stopped"
    return RunStatus(path, state, "learning", step, steps, step, steps)


def _prefix_there(path: Path) -> bool:
    return (path / "prefix.safetensors").is_file()


def _steps(path: Path, step: int) -> int:
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in read_text(path / "config.toml").splitlines():
            name, _, value = line.partition("=")
            if name.strip() in ("steps", "max_steps"):
                found[name.strip()] = _count(int(value))
    return found.get("max_steps", 0) if step > found.get("steps", 0) else found.get("steps", 0)


def _lives(path: Path, process: object) -> bool:
    if time.time() - _changed(path / STATUS) > QUIET:
        return False
    if os.name == "posix" and type(process) is int and 0 < process < 2**31:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # somebody else's process
            return True
    return True


def log_of(path: Path) -> Path:
    """The log of the process that works in a folder: its own, or that of the run it is part of."""
    own = path / LOG
    return own if own.is_file() or not (path.parent / LOG).is_file() else path.parent / LOG


def _last_words(path: Path) -> str:
    """The last line of a worker's log, and where the log lies."""
    log = log_of(path)
    lines: list[str] = []
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = stream.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    told = f"The last line of its log: {last[-300:]}\n" if last else ""
    return f"The process exited without reporting a status.\n{told}The log is {log.resolve()}"


def _json(path: Path) -> dict[str, Any] | None:
    try:
        said = parse_json(read_text(path))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _count(value: object) -> int:
    return value if type(value) is int and 0 < value < MAX_NUMBER else 0


def _file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
