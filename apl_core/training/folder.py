"""A run's folder: settings, metrics, previews, the prefix, and the state to resume from."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..atomic import reason, write_bytes, write_text
from ..errors import RunError
from ..locks import lock
from ..metadata import printable
from .config import TrainConfig
from .renamed import renamed_row

_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True)
class State:
    """All that a run has to remember: tensors by name, and plain numbers."""

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


class RunFolder:
    """Paths and files of one run; every file is replaced in one move."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.previews = self.path / "previews"
        self.prefix = self.path / "prefix.safetensors"
        self.state = self.path / "state.safetensors"
        self.newer = self.path / "state.newer.safetensors"
        self.earlier = self.path / "state.earlier.safetensors"

    def create(self, config: TrainConfig) -> None:
        """Make the folder and write the settings; RunError if a run is in it already."""
        with self.told("make the run folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            if self.config.exists() or self.state.exists():
                raise RunError(
                    f"start a run in {self.path}",
                    "there is a run in this folder already",
                    f"choose another folder, or go on with `apl resume {self.path}`",
                )
            write_text(self.config, config.to_toml())

    @contextlib.contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Hold the folder for one process; RunError if another one has it."""
        with self.told("lock the run folder"):
            file = open(self.path / "lock", "a+b")  # noqa: SIM115
        with file:
            try:
                lock(file.fileno())
            except OSError as error:
                raise RunError(
                    f"train in {self.path}",
                    "another process is training in this folder",
                    "wait for it, stop it, or choose another folder",
                ) from error
            yield

    def save_state(self, state: State) -> None:
        """Write what is needed to resume; the state before it is kept as the earlier one.

        A readable state is in the folder at every moment, also if the newest one was damaged.
        """
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors.items()}
        data = save(tensors, {"state": json.dumps(state.numbers)})
        with self.told("save the training state in"):
            write_bytes(self.newer, data)
            if self.state.exists():
                os.replace(self.state, self.earlier)
            os.replace(self.newer, self.state)
            write_text(self.path / "state.json", json.dumps(state.numbers, indent=1) + "\n")

    def load_state(self) -> tuple[State, str] | None:
        """The newest readable state, and a word about unreadable ones; None if none was saved."""
        troubles: list[str] = []
        for path in (self.state, self.newer, self.earlier):
            if not path.exists():
                continue
            try:
                opened: Any = safe_open(path, "pt")
                with opened as file:
                    metadata: dict[str, str] = file.metadata() or {}
                    numbers = json.loads(metadata["state"])
                    if type(numbers["step"]) is not int:
                        raise ValueError("its step is not a number")
                    tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
                step = numbers["step"]
            except _UNREADABLE as error:
                troubles.append(f"{path.name} is unreadable ({printable(str(error), 200)})")
                continue
            note = f"{'; '.join(troubles)}; going on from step {step}" if troubles else ""
            return State(tensors, numbers), note
        if troubles:
            raise RunError(
                f"resume {self.path}", "; ".join(troubles), "start the run again in another folder"
            )
        return None

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl; numbers that are not finite become null."""
        plain = {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}
        with self.told("write metrics in"), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl; a line that is no row (a kill may cut one off) is left out."""
        if not self.metrics.exists():
            return []
        rows: list[dict[str, Any]] = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                row: Any = json.loads(line)
                if isinstance(row, dict) and type(cast("dict[str, Any]", row).get("step")) is int:
                    rows.append(renamed_row(cast("dict[str, Any]", row)))
        return rows

    def cut_log(self, step: int) -> None:
        """Forget metrics after a step, so that a resumed run writes them once."""
        kept = [json.dumps(row) for row in self.rows() if row["step"] <= step]
        with self.told("write metrics in"):
            write_text(self.metrics, "".join(line + "\n" for line in kept))

    @contextlib.contextmanager
    def told(self, asked: str) -> Generator[None, None, None]:
        """Turn an OSError into a RunError that begins with `asked` and the folder."""
        try:
            yield
        except OSError as error:
            found, fix = reason(error)
            raise RunError(f"{asked} {self.path}", found, fix) from error
