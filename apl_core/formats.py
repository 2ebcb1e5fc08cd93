"""Prefix files: safetensors, read, inspected and written with every limit checked.

No pickle is opened here. Whatever is wrong with a file ends in a PrefixFileError.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from . import atomic
from .errors import PrefixFileError
from .header import (
    LENGTH_BYTES,
    Entry,
    Header,
    HeaderFault,
    header_length,
    parse_header,
    with_metadata,
)
from .limits import FILE_BYTES
from .metadata import from_metadata, plain_words, shown, to_metadata
from .prefix import WIDTHS, Prefix, check_count, describe

PREFIX = "APL prefix"
EMBEDDING = "textual inversion"
SAFETENSORS = "safetensors file of another kind"
PICKLE = "PyTorch pickle"
UNKNOWN = "unknown or broken file"

_DTYPES = ("F32", "F16", "BF16")
_BY_WIDTH = {width: key for key, width in WIDTHS.items()}
_PICKLE_STARTS = (b"PK\x03\x04", b"PK\x05\x06", *(bytes((0x80, version)) for version in range(6)))
_RETRAIN = "use a prefix that `apl train` wrote, or a textual inversion in safetensors"
_CONVERT = "turn it into a prefix file once with `apl convert`"


@dataclass(frozen=True)
class FileReport:
    """What a file holds; `prefix` if it can be used as one, else `problem`."""

    path: Path
    size: int
    kind: str
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    prefix: Prefix | None = None
    problem: PrefixFileError | None = None

    def text(self) -> str:
        """The report in plain words, safe to print."""
        lines = [f"{shown(self.path.name)}: {self.kind}, {self.size:,} bytes"]
        if self.prefix is not None:
            stands = f"{self.prefix.rows_in_front} in front of the text"
            if self.prefix.behind:
                stands += f", {self.prefix.behind} behind it"
            lines += [f"For {describe(self.prefix.widths)}", f"{self.prefix.n} vectors: {stands}"]
            lines += [f"Digest {self.prefix.short_digest}", plain_words(self.prefix.card)]
        else:
            shapes = [f"Tensor {shown(name, 80)}: {what}" for name, what in self.tensors.items()]
            lines += shapes[:20] + ([f"... {len(shapes) - 20} more"] if len(shapes) > 20 else [])
        if self.problem is not None:
            lines.append(f"Not usable as a prefix: {self.problem}")
        return "\n".join(lines)


def read_prefix(path: Path) -> Prefix:
    """The prefix in a file of ours or in a safetensors textual inversion; PrefixFileError."""
    report = inspect_file(path)
    if report.prefix is None:
        raise report.problem or _problem(path, "it holds no prefix", _RETRAIN)
    return report.prefix


def inspect_file(path: Path) -> FileReport:
    """What is in a file, whatever it is; PrefixFileError only if it cannot be read at all."""
    path = Path(path)
    try:
        stream = _open_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _no_access(path, error) from error
    with stream:
        try:
            return _inspect(path, os.fstat(stream.fileno()).st_size, stream)
        except OSError as error:
            raise _no_access(path, error) from error


def write_prefix(prefix: Prefix, path: Path) -> None:
    """Write a prefix file in one move, whole or not at all; PrefixFileError."""
    path = Path(path)
    asked = f"write the prefix file {shown(str(path))}"
    bare = safetensors.torch.save(dict(prefix.vectors))
    data = bare[LENGTH_BYTES + int.from_bytes(bare[:LENGTH_BYTES], "little") :]
    metadata = to_metadata(
        prefix.card,
        keys=prefix.keys,
        behind=prefix.behind,
        tensors_sha256=hashlib.sha256(data).hexdigest(),
    )
    try:
        blob = with_metadata(bare, metadata)
        length = header_length(blob, len(blob))
        parse_header(blob[LENGTH_BYTES : LENGTH_BYTES + length], len(data))
    except ValueError as error:  # HeaderFault, or text that is no Unicode
        raise PrefixFileError(asked, str(error), "shorten or correct its card") from error
    try:
        atomic.write_bytes(path, blob)
    except OSError as error:
        raise PrefixFileError(asked, *atomic.reason(error)) from error


def _open_regular(path: Path) -> BinaryIO:
    """Open for reading, and only a regular file: no pipe that waits, no device that never ends."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is not a regular file")
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    stream = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(0, "it is not a regular file")
    return stream


def _inspect(path: Path, size: int, stream: BinaryIO) -> FileReport:
    start = stream.read(LENGTH_BYTES)
    if not start:
        return FileReport(path, size, UNKNOWN, problem=_problem(path, "it is empty", _RETRAIN))
    try:
        length = header_length(start, size)
        text = stream.read(length)
        if not text.startswith(b"{"):
            raise HeaderFault("it is no safetensors file")
        header = parse_header(text, size - LENGTH_BYTES - length)
    except HeaderFault as fault:
        if start.startswith(_PICKLE_STARTS):
            found = "it is a pickle (.pt, .bin, .ckpt), which could run any code when opened"
            return FileReport(path, size, PICKLE, problem=_problem(path, found, _CONVERT))
        return FileReport(path, size, UNKNOWN, problem=_problem(path, str(fault), _RETRAIN))
    shapes = {name: str(entry) for name, entry in header.entries.items()}
    kind = SAFETENSORS
    prefix = problem = None
    try:
        keys = _keys(path, header, size)
        kind = PREFIX if "apl.format" in header.metadata else EMBEDDING
        blob = start + text + stream.read(size - LENGTH_BYTES - length)
        prefix = _load(path, blob, header, keys)
    except PrefixFileError as error:
        problem = error
    return FileReport(path, size, kind, shapes, header.metadata, prefix, problem)


def _keys(path: Path, header: Header, size: int) -> dict[str, str]:
    """Tensor name -> encoder, after everything the header can tell has been checked."""
    if size > FILE_BYTES:
        raise _problem(path, f"it has {size:,} bytes, at most {FILE_BYTES:,} are read", _RETRAIN)
    entries = header.entries
    names = ", ".join(shown(name, 40) for name in list(entries)[:5]) or "nothing"
    if entries and set(entries) <= set(WIDTHS):
        keys = {name: name for name in entries}
    elif len(entries) == 1:
        ((name, entry),) = entries.items()
        keys = {name: _encoder_of(path, entry)}
    else:
        raise _problem(path, f"it holds {names} ({len(entries)} tensors), no prefix", _RETRAIN)
    for name, key in keys.items():
        entry = entries[name]
        rows = entry.shape[0] if len(entry.shape) == 2 else 1
        if entry.dtype not in _DTYPES or entry.shape not in ((rows, WIDTHS[key]), (WIDTHS[key],)):
            expected = f"(n, {WIDTHS[key]}) in {', '.join(_DTYPES)}"
            raise _problem(
                path, f"its tensor {shown(name, 40)} is {entry}, not {expected}", _RETRAIN
            )
        try:
            check_count(rows)
        except PrefixFileError as error:
            raise _problem(path, error.found, error.fix) from error
    return keys


def _encoder_of(path: Path, entry: Entry) -> str:
    width = entry.shape[-1] if entry.shape else 0
    key = _BY_WIDTH.get(width)
    if key == "clip_g":
        found = "it holds clip_g (1280) alone, which is one half of an SDXL embedding"
        raise _problem(path, found, "use a file with both clip_l and clip_g")
    if key is None or len(entry.shape) not in (1, 2):
        known = ", ".join(f"{name} {width}" for name, width in WIDTHS.items())
        raise _problem(path, f"its tensor is {entry}, no known encoder's ({known})", _RETRAIN)
    return key


def _load(path: Path, blob: bytes, header: Header, keys: Mapping[str, str]) -> Prefix:
    try:
        loaded: dict[str, Tensor] = safetensors.torch.load(blob)
    except SafetensorError as error:
        raise _problem(
            path, f"safetensors refuses it ({shown(str(error), 80)})", _RETRAIN
        ) from error
    vectors = {keys[name]: rows.reshape(-1, rows.shape[-1]) for name, rows in loaded.items()}
    try:
        card, behind = from_metadata(header.metadata)
        return Prefix(vectors, behind, card)
    except PrefixFileError as error:
        raise _problem(path, error.found, error.fix) from error


def _problem(path: Path, found: str, fix: str) -> PrefixFileError:
    return PrefixFileError(f"read the prefix file {shown(str(path))}", found, fix)


def _no_access(path: Path, error: OSError | ValueError) -> PrefixFileError:
    found = (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be read"
    if isinstance(error, FileNotFoundError):
        found = "there is no such file"
    return _problem(path, found, "check the path and whether you may read it")
