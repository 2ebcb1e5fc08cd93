"""Prefix files: safetensors, read, inspected and written with every limit checked.

No pickle is opened here. Whatever is wrong with a file ends in a PrefixFileError.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from . import atomic
from .errors import PrefixFileError
from .header import (
    LENGTH_BYTES,
    PASSED_OVER,
    Header,
    HeaderFault,
    header_length,
    parse_header,
    pass_over,
    tensor_names,
    with_metadata,
)
from .kinds import USE, check_vectors, find_vectors, what_it_is
from .limits import FILE_BYTES, SAMPLE_BYTES, WHOLE_HEADER_BYTES
from .metadata import from_metadata, plain_words, printable, to_metadata
from .names import place
from .prefix import WIDTHS, Prefix

PREFIX = "APL prefix"
EMBEDDING = "textual inversion"
SAFETENSORS = "safetensors file of another kind"
PICKLE = "PyTorch pickle"
UNKNOWN = "unknown or broken file"

_DTYPES = ("F32", "F16", "BF16")
_PICKLE_STARTS = (b"PK\x03\x04", b"PK\x05\x06", *(bytes((0x80, version)) for version in range(6)))
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

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Keys of the metadata whose values were too long to be of any use here."""
        mark = PASSED_OVER.decode()
        return tuple(key for key, value in self.metadata.items() if value.endswith(mark))

    def text(self) -> str:
        """The report in plain words, safe to print."""
        lines = [f"{printable(self.path.name)}: {self.kind}, {self.size:,} bytes"]
        if self.prefix is not None:
            stands = f"{self.prefix.rows_in_front} in front of the text"
            if self.prefix.behind:
                stands += f", {self.prefix.behind} behind it"
            lines += [f"For {self.prefix.described}", f"{self.prefix.n} vectors: {stands}"]
            lines += [f"Digest {self.prefix.short_digest}", plain_words(self.prefix.card)]
            if len(self.tensors) > len(self.prefix.keys):
                lines.append(
                    f"Tensors, one after another: {', '.join(map(printable, self.tensors))}"
                )
        else:
            shapes = [
                f"Tensor {printable(name, 80)}: {what}" for name, what in self.tensors.items()
            ]
            lines += shapes[:20] + ([f"... {len(shapes) - 20} more"] if len(shapes) > 20 else [])
        if self.passed_over:
            some = ", ".join(printable(key, 80) for key in self.passed_over[:20])
            lines.append(f"Passed over in its metadata, too long: {some}")
        if self.problem is not None:
            lines.append(f"Not usable as a prefix: {self.problem}")
        return "\n".join(lines)


def read_prefix(path: Path) -> Prefix:
    """The prefix in a file of ours or in a safetensors textual inversion; PrefixFileError."""
    report = inspect_file(path)
    if report.prefix is None:
        raise report.problem or _problem(path, "it holds no prefix", USE)
    return report.prefix


def inspect_file(path: Path, choice: str | None = None) -> FileReport:
    """What is in a file, whatever it is; PrefixFileError only if it cannot be read at all.

    `choice` is the tensor to take where a file holds embeddings for several tokens.
    """
    path = Path(path)
    try:
        stream = _open_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _no_access(path, error) from error
    with stream:
        try:
            return _inspect(path, os.fstat(stream.fileno()).st_size, stream, choice)
        except OSError as error:
            raise _no_access(path, error) from error


def write_prefix(prefix: Prefix, path: Path) -> None:
    """Write a prefix file in one move, whole or not at all; PrefixFileError."""
    path = Path(path)
    asked = f"write the prefix file {printable(place(path))}"
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


def _inspect(path: Path, size: int, stream: BinaryIO, choice: str | None) -> FileReport:
    start = stream.read(LENGTH_BYTES)
    if not start:
        return FileReport(path, size, UNKNOWN, problem=_problem(path, "it is empty", USE))
    text = b""
    try:
        length = header_length(start, size)
        text = _header_text(stream, length)
        if length > WHOLE_HEADER_BYTES:
            at_most = f"at most {WHOLE_HEADER_BYTES:,} are read"
            raise HeaderFault(f"its header has {length:,} bytes, {at_most}")
        if not text.startswith(b"{"):
            raise HeaderFault("it is not a safetensors file")
        short = pass_over(text)
        header = parse_header(short, size - LENGTH_BYTES - length)
    except HeaderFault as fault:
        return _unreadable(path, size, start, text, str(fault))
    shapes = {name: str(entry) for name, entry in header.entries.items()}
    what = what_it_is(header.entries)
    ours = "apl.format" in header.metadata
    kind = what.partition(" ")[2] or (PREFIX if ours else SAFETENSORS)
    prefix = problem = None
    try:
        if what:
            raise _problem(path, f"this is {what}, not a prefix", USE)
        names = _vectors(path, header, size, choice)
        kind = PREFIX if ours else EMBEDDING
        blob = len(short).to_bytes(LENGTH_BYTES, "little") + short
        prefix = _load(path, blob + stream.read(size - LENGTH_BYTES - length), header, names)
    except PrefixFileError as error:
        problem = error
    return FileReport(path, size, kind, shapes, header.metadata, prefix, problem)


def _header_text(stream: BinaryIO, length: int) -> bytes:
    """The header's bytes; of one that is too long its two ends only."""
    if length <= WHOLE_HEADER_BYTES:
        return stream.read(length)
    head = stream.read(SAMPLE_BYTES)
    stream.seek(length - 2 * SAMPLE_BYTES, os.SEEK_CUR)
    return head + stream.read(SAMPLE_BYTES)


def _unreadable(path: Path, size: int, start: bytes, text: bytes, fault: str) -> FileReport:
    """The report on a file without a sound header: a pickle, a part of something, or nothing."""
    if start.startswith(_PICKLE_STARTS):
        found = "it is a pickle (.pt, .bin, .ckpt), which could run any code when opened"
        return FileReport(path, size, PICKLE, problem=_problem(path, found, _CONVERT))
    what = what_it_is(tensor_names(text))
    said = f"this is {what}, not a prefix ({fault})" if what else fault
    kind = what.partition(" ")[2] or UNKNOWN
    return FileReport(path, size, kind, problem=_problem(path, said, USE))


def _vectors(
    path: Path, header: Header, size: int, choice: str | None
) -> dict[str, tuple[str, ...]]:
    """Encoder -> tensor names, after everything the header can tell has been checked."""
    shapes = {name: entry.shape for name, entry in header.entries.items()}
    if size > FILE_BYTES:
        raise _problem(path, f"it has {size:,} bytes, at most {FILE_BYTES:,} are read", USE)
    try:
        names = find_vectors(shapes, choice)
        check_vectors(shapes, names)
    except PrefixFileError as error:
        raise _problem(path, error.found, error.fix) from error
    for name, entry in header.entries.items():
        if entry.dtype not in _DTYPES:
            found = f"its tensor {printable(name, 40)} is {entry}, not in {', '.join(_DTYPES)}"
            raise _problem(path, found, USE)
    return names


def _load(path: Path, blob: bytes, header: Header, names: Mapping[str, Sequence[str]]) -> Prefix:
    try:
        loaded: dict[str, Tensor] = safetensors.torch.load(blob)
    except SafetensorError as error:
        raise _problem(
            path, f"safetensors refuses it ({printable(str(error), 80)})", USE
        ) from error
    vectors = {
        key: torch.cat([loaded[name].reshape(-1, WIDTHS[key]) for name in parts])
        for key, parts in names.items()
    }
    try:
        card, behind = from_metadata(header.metadata)
        return Prefix(vectors, behind, card)
    except PrefixFileError as error:
        raise _problem(path, error.found, error.fix) from error


def _problem(path: Path, found: str, fix: str) -> PrefixFileError:
    return PrefixFileError(f"read the prefix file {printable(str(path))}", found, fix)


def _no_access(path: Path, error: OSError | ValueError) -> PrefixFileError:
    found = (error.strerror if isinstance(error, OSError) else str(error)) or "it cannot be read"
    if isinstance(error, FileNotFoundError):
        found = "there is no such file"
    return _problem(path, found, "check the path and whether you may read it")
