"""What a request proves: its pictures, and the traced chunks that they were made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from apl_core.errors import ConfigError, HostError
from apl_core.metadata import shown
from apl_core.trace import NEGATIVE, TraceReader

COVERED, REFUSED, UNPROVEN, HOLE = "covered", "refused", "not proven", "HOLE"


@dataclass(frozen=True)
class Case:
    """A request by name; several bodies are sent at once. `words`: does it hold a positive text?"""

    name: str
    bodies: tuple[Mapping[str, Any], ...]
    words: bool = True


@dataclass(frozen=True)
class Answer:
    """What came back: pictures, whether each says the prefix, or why there is none.

    `request` is the id that the trace knows it by.
    """

    request: str
    pictures: int
    says: bool = True
    refusal: str = ""


@dataclass(frozen=True)
class Verdict:
    """One line of the table; `chunks` counts traced positive chunks with words in them."""

    case: str
    result: str
    pictures: int
    chunks: int
    detail: str = ""


class Server(Protocol):
    """A live host."""

    def status(self) -> Mapping[str, Any]:
        """What `GET /apl/status` answers; HostError."""
        ...

    def cases(self) -> Sequence[Case]:
        """The requests of the matrix, with texts that the server has never seen."""
        ...

    def send(self, case: Case) -> Sequence[Answer]:
        """One answer for every body of a case; HostError if the server cannot be reached."""
        ...


def verify(
    server: Server, trace: TraceReader | None, only: Sequence[str] = ()
) -> Iterable[Verdict]:
    """Send the matrix (or the cases named) and judge every case.

    HostError where nothing is enforced at all, ConfigError for a name that is no case.
    """
    status = server.status()
    name, digest = status.get("enforced"), status.get("digest")
    if not name or not digest:
        raise HostError(
            "verify the server",
            "it enforces no prefix"
            if not name
            else f"it cannot read its prefix {shown(str(name))}",
            "start it with APL_ENFORCE (docs/operators.md)",
        )
    if trace is not None:
        if not status.get("trace"):
            raise HostError(
                "verify the server by its trace",
                "it writes none",
                "start it with APL_TRACE and APL_TRACE_KEY, or leave --trace out",
            )
        trace.new()  # what was there before is checked, and not ours
    cases = server.cases()
    unknown = set(only) - {case.name for case in cases}
    if unknown:
        raise ConfigError(
            f"send {', '.join(sorted(unknown))}",
            "there is no such request for this server",
            f"choose from: {', '.join(case.name for case in cases)}",
        )
    for case in cases:
        if only and case.name not in only:
            continue
        answers = server.send(case)
        lines = None if trace is None else trace.new()
        yield judge(case, answers, lines, str(digest))


def judge(
    case: Case, answers: Sequence[Answer], lines: Sequence[Mapping[str, Any]] | None, digest: str
) -> Verdict:
    """The worst that one of a case's answers proves, by all trace lines since it was sent."""
    pictures = sum(answer.pictures for answer in answers)
    if not pictures:
        return Verdict(case.name, REFUSED, 0, 0, "; ".join({one.refusal for one in answers}))
    if any(answer.pictures and not answer.says for answer in answers):
        return Verdict(
            case.name, HOLE, pictures, 0, "a picture does not say that it has the prefix"
        )
    if lines is None:
        return Verdict(case.name, UNPROVEN, pictures, 0, "its metadata says so; there is no trace")
    seen = 0
    for answer in answers:
        own = [
            line
            for line in lines
            if line["kind"] == "chunk"
            and line["request"] in ("", answer.request)
            and line["side"] != NEGATIVE
            and line["words"]
        ]
        bare = [line for line in own if digest not in line["carried"]]
        seen += len(own)
        if answer.pictures and bare:
            detail = f"{len(bare)} of {len(own)} chunks reached an encoder without the prefix"
            return Verdict(case.name, HOLE, pictures, seen, detail)
        if answer.pictures and case.words and not own:
            detail = "a picture came, and no chunk of its text was traced"
            return Verdict(case.name, HOLE, pictures, seen, detail)
    return Verdict(case.name, COVERED, pictures, seen)


def holes(verdicts: Sequence[Verdict]) -> list[str]:
    """What keeps the server from being proven, in words; [] if nothing does."""
    found = [f"{one.case}: {one.detail}" for one in verdicts if one.result == HOLE]
    if not any(one.pictures for one in verdicts):
        found.append("not one picture was made, so nothing is proven but refusals")
    return found


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for a terminal."""
    rows = [("request", "result", "pictures", "chunks", "")]
    rows += [
        (one.case, one.result, str(one.pictures), str(one.chunks), shown(one.detail, 100))
        for one in verdicts
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = (
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
