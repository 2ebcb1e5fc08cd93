"""Rows that survive a kill: one JSON line each, appended, and read back without a torn end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from apl_core.atomic import reason
from apl_core.errors import RunError
from apl_core.locks import lock
from apl_core.metadata import printable

from .settings import parse_json

PARTS = "parts"


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of all ranks' logs under a dataset's folder; torn lines are left out."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / PARTS).glob("pictures-*.jsonl")):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise RunError(f"read {printable(str(path))}", *reason(error)) from error
        for line in lines:
            with suppress(ValueError):  # torn by a kill, or being written right now
                row = parse_json(line)
                if isinstance(row, dict):
                    rows.append(row)
    return rows


class JsonLog:
    """One rank's log, open for appending."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns. RunError if it is full."""
        try:
            self._stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise RunError(f"write {printable(str(self._path))}", *reason(error)) from error


@contextmanager
def open_log(folder: Path, rank: int) -> Iterator[JsonLog]:
    """The log of a rank, held for this process alone; RunError if another one has it."""
    path = folder / PARTS / f"pictures-{rank}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b", buffering=0)
    except OSError as error:
        raise RunError(f"open {printable(str(path))}", *reason(error)) from error
    with stream:
        try:
            lock(stream.fileno())
        except OSError as error:
            raise RunError(
                f"make pictures into {printable(str(folder))} as shard {rank}",
                "another process is doing that already",
                "wait for it, or give each process its own --shard",
            ) from error
        try:
            _mend(stream)
        except OSError as error:
            raise RunError(f"open {printable(str(path))}", *reason(error)) from error
        yield JsonLog(stream, path)


def _mend(stream: Any) -> None:
    """Cut off a last line that a kill left without its end."""
    stream.seek(0)
    whole = stream.read()
    kept = whole.rfind(b"\n") + 1
    if kept < len(whole):
        stream.truncate(kept)
