"""A signed record of what reached a text encoder: hosts' adapters write it, `apl verify` reads it.

One JSON object a line. Every line holds the HMAC-SHA256 of its other fields under a secret key, and
the MAC of the line before it in the same session, so that no line can be changed, added, moved or
taken out of the middle without the key. Prompts are not in it: of a text, only how many places of
a chunk it takes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import HostError
from .metadata import printable
from .names import place

if TYPE_CHECKING:  # whoever reads a trace needs no torch
    from torch import Tensor

    from .prefix import Prefix

FILE, KEY = "APL_TRACE", "APL_TRACE_KEY"
"""Environment variables: the file to append to, and the secret."""

VERSION = 1
MIN_KEY = 16


def key_of(text: str) -> bytes:
    """The secret from an environment variable or a file; HostError if it is too short."""
    key = text.strip().encode()
    if len(key) < MIN_KEY:
        raise HostError(
            "use the key of a trace",
            f"it has {len(key)} characters, fewer than {MIN_KEY}",
            f"set {KEY} to a long random text, the same for the server and for `apl verify`",
        )
    return key


class TraceWriter:
    """Appends signed lines to a file; safe to use from several threads.

    A line that cannot be written raises HostError: what is to be proven must not happen unseen.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = Path(path)
        self._key = key
        self._session = secrets.token_hex(8)
        self._number = 0
        self._before = ""
        self._lock = threading.Lock()

    @staticmethod
    def of(environment: Mapping[str, str]) -> TraceWriter | None:
        """The writer that the environment asks for, or None; HostError without a usable key."""
        path = environment.get(FILE)
        return TraceWriter(Path(path), key_of(environment.get(KEY, ""))) if path else None

    def write(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Append one line; HostError if that fails."""
        with self._lock:
            line = {
                **facts,
                "trace": VERSION,
                "session": self._session,
                "number": self._number,
                "before": self._before,
                "time": round(time.time(), 3),
                "kind": kind,
            }
            mac = _mac(self._key, line)
            text = json.dumps({**line, "mac": mac}, sort_keys=True) + "\n"
            try:
                with self.path.open("ab", buffering=0) as stream:
                    stream.write(text.encode())
            except OSError as error:
                raise HostError(
                    f"write the trace {printable(place(self.path))}",
                    error.strerror or type(error).__name__,
                    f"give {FILE} a file that can be written, or unset it",
                ) from error
            self._number, self._before = self._number + 1, mac


@dataclass(frozen=True)
class Chunk:
    """One chunk of a text as it reached an encoder.

    `words` counts places that are neither BOS, EOS, padding, a template nor a known prefix;
    `carried` maps the digest of each prefix that stands whole around all words to the places of
    its rows.
    """

    encoder: str
    words: int
    carried: Mapping[str, Sequence[int]]


def describe(
    embedded: Tensor,
    end: int,
    prefixes: Sequence[Prefix],
    start: int = 1,
    encoder: str = "",
    scale: float = 1.0,
) -> Chunk:
    """What a chunk holds, from its embedded tokens (places, width) and where its text stands.

    The text stands from `start` up to the place `end`: in CLIP, up to the first EOS. `encoder` is
    the name of the encoder's rows in a prefix; it is told by the width where it is left out.
    Compares rows bit for bit with those of `prefixes`, in the dtype of the encoder's embeddings;
    `scale` is what the encoder multiplies `embedded` by before it reads it.
    """
    from .prefix import WIDTHS

    rows = embedded[:end].detach().cpu()
    width = int(rows.shape[-1])
    found: dict[str, tuple[list[int], list[int]]] = {}
    for prefix in prefixes:
        own = [key for key in prefix.vectors if WIDTHS[key] == width and encoder in ("", key)]
        for key in own[:1]:
            front = _find(rows, prefix.front(key) / scale, start, last=False)
            back = _find(rows, prefix.back(key) / scale, start, last=True)
            if front is not None and back is not None:
                found[prefix.digest] = front, back
    taken = {place for places in found.values() for part in places for place in part}
    words = [place for place in range(start, int(rows.shape[0])) if place not in taken]
    carried = {
        digest: [*front, *back]
        for digest, (front, back) in found.items()
        if not words or (all(p < words[0] for p in front) and all(p > words[-1] for p in back))
    }
    names = [encoder] if encoder else [key for key, known in WIDTHS.items() if known == width]
    return Chunk(names[0] if names else str(width), len(words), carried)


def chunk_facts(chunk: Chunk, request: str, family: str = "") -> dict[str, Any]:
    """The fields of a line of kind "chunk"; `family` of the model, where the host knows it."""
    return {
        "request": request,
        "side": "unknown",  # earlier versions guessed it; every chunk has to carry the prefix
        "family": family,
        "encoder": chunk.encoder,
        "words": chunk.words,
        "carried": {digest: list(places) for digest, places in chunk.carried.items()},
    }


class TraceReader:
    """Reads a trace line by line and checks it: `new()` gives what came since the last call."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = Path(path)
        self._key = key
        self._place = 0
        self._line = 0
        self._sessions: dict[str, tuple[int, str]] = {}

    def new(self) -> list[dict[str, Any]]:
        """Lines since the last call, all of them signed and in order; HostError otherwise.

        A last line without its end is left for the next call: it may still be written.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._place)
                data = stream.read()
        except OSError as error:
            raise self._wrong(error.strerror or "it cannot be read") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        return [self._checked(line) for line in whole.splitlines()]

    def _checked(self, text: bytes) -> dict[str, Any]:
        self._line += 1
        try:
            parsed: Any = json.loads(text)
            line = cast("dict[str, Any]", parsed)
            mac = line.pop("mac")
            session, number, before = line["session"], line["number"], line["before"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._wrong(f"line {self._line} is not a line of a trace") from error
        if not isinstance(mac, str) or not hmac.compare_digest(
            mac.encode(), _mac(self._key, line).encode()
        ):
            raise self._wrong(f"line {self._line} is not signed with this key, or was changed")
        if self._sessions.get(session, (0, "")) != (number, before):
            raise self._wrong(f"a line before line {self._line} is missing or was moved")
        self._sessions[session] = number + 1, mac
        return line

    def _wrong(self, found: str) -> HostError:
        return HostError(
            f"read the trace {printable(str(self.path))}",
            found,
            "use the file that the server writes, and its key; do not edit it",
        )


@dataclass
class Tally:
    """What a server has done since it began: pictures with a prefix, requests that it refused."""

    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    pictures: int = 0
    refused: int = 0

    def facts(self) -> dict[str, Any]:
        """The fields that both hosts' status shows."""
        return {"since": self.since, "pictures": self.pictures, "refused": self.refused}


def _find(rows: Tensor, block: Tensor, start: int, last: bool) -> list[int] | None:
    """Places of a text where `block` stands in one piece; [] for an empty block, None for none."""
    n = int(block.shape[0])
    if not n:
        return []
    block = block.to(rows.dtype)
    starts = range(start, int(rows.shape[0]) - n + 1)
    for first in reversed(starts) if last else starts:
        if bool((rows[first : first + n] == block).all()):
            return list(range(first, first + n))
    return None


def _mac(key: bytes, line: Mapping[str, Any]) -> str:
    text = json.dumps(line, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest()
