"""What a request proves: its pictures beside an unprotected server's, and its traced chunks.

Neither check asks how a host or the enforcer reads a request: a covered picture that is the bare
one is a leak, and so is one chunk without the prefix, whatever the other says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from apl_core.errors import ConfigError, HostError
from apl_core.metadata import printable
from apl_core.trace import TraceReader

from .case import Answer, Case
from .pictures import LIKE, NO_TEXT, UNSEEN, Look
from .reference import Reference, Server

COVERED, UNLIKE_BARE, TRACED, UNPROVEN = "covered", "unlike bare", "traced", "not proven"
INERT, REFUSED, FAILED, LOST = "no text acts", "refused", "failed", "no answer"
LEAK, BLOCKED = "LEAK", "BLOCKED"
RESULTS = (COVERED, UNLIKE_BARE, TRACED, UNPROVEN, INERT, REFUSED, FAILED, LOST, BLOCKED, LEAK)


@dataclass(frozen=True)
class Verdict:
    """One line of the table; `chunks` counts traced chunks, `bare` pictures of the reference.

    `distance` is how far the nearest covered picture is from a bare one, as a part of the plain
    request's distance; `body` is what was sent, for a leak.
    """

    case: str
    result: str
    pictures: int
    chunks: int
    detail: str = ""
    bare: int | None = None
    distance: float | None = None
    body: Sequence[Mapping[str, Any]] = ()


class Proof:
    """The matrix and `generate` more requests, sent to a server and to the reference beside it.

    HostError where nothing is enforced at all or the reference is none, ConfigError for a name in
    `only` that is not a request. `ended` says why a run stopped early, in words.
    """

    def __init__(
        self,
        server: Server,
        trace: TraceReader | None,
        only: Sequence[str] = (),
        reference: Reference | None = None,
        generate: int = 0,
        seed: int = 0,
    ) -> None:
        self.server, self.trace, self.reference = server, trace, reference
        self.digests = _digests(server.status(), trace is not None)
        self.ended = ""
        matrix = list(server.cases())
        self._plain = matrix[0]
        self._seed = seed
        self._made = [*range(generate)]
        if only:
            self._made = [int(one[1:]) for one in only if _is_number(one)]
            _check_names([one for one in only if not _is_number(one)], matrix)
            matrix = [case for case in matrix if case.name in only]
        self._matrix = matrix

    def __len__(self) -> int:
        return len(self._matrix) + len(self._made)

    def run(self) -> Iterator[Verdict]:
        """A verdict for every request; ends early if a server draws nothing anymore."""
        if self.reference is not None:
            self.reference.check(self.server, self._plain)
        if self.trace is not None:
            self.trace.new()  # what was there before is checked, and not ours
        for case in self._cases():
            verdict = self._judged(case)
            yield verdict
            if verdict.result == LOST and not self._alive():
                self.ended = f"a server draws nothing anymore after {case.name}"
                return

    def _cases(self) -> Iterator[Case]:
        yield from self._matrix
        for number in self._made:
            yield self.server.generated(self._seed, number)

    def _judged(self, case: Case) -> Verdict:
        case = case.salted()
        reference = self.reference
        with ThreadPoolExecutor(2) as pool:
            bare = pool.submit(reference.draw, case) if reference else None
            answers = pool.submit(self.server.send, case).result()
            drawn = bare.result() if bare else None
        lines = None if self.trace is None else self.trace.new()
        looks: list[Look] | None = None
        if reference is not None and drawn is not None:
            looks = reference.looks(case, answers, drawn)
        return assess(case, answers, lines, self.digests, drawn, looks)

    def _alive(self) -> bool:
        """Whether the servers still draw the plain request."""
        case = self._plain.salted()
        servers = [self.server.send, *([self.reference.draw] if self.reference else [])]
        return all(any(answer.pictures for answer in send(case)) for send in servers)


def assess(
    case: Case,
    answers: Sequence[Answer],
    lines: Sequence[Mapping[str, Any]] | None,
    digests: Mapping[str, str],
    bare: Sequence[Answer] | None = None,
    looks: Sequence[Look] | None = None,
) -> Verdict:
    """The worst that one of a case's answers proves.

    `lines` are all trace lines since it was sent, `digests` those of the enforced prefixes by the
    family of their texts ("" of the only one), `bare` what the reference answered, `looks` how
    its pictures compare with each answer's; all None without a trace, without a reference.
    """
    pictures = sum(len(answer.pictures) for answer in answers)
    others = None if bare is None else sum(len(answer.pictures) for answer in bare)
    fars = [one.distance for one in looks or () if one.distance is not None]
    chunks = [_chunks(answer, lines) for answer in answers]
    count = sum(map(len, chunks))

    def said(result: str, detail: str = "") -> Verdict:
        return Verdict(case.name, result, pictures, count, detail, others, min(fars, default=None))

    blocked = _blocked(case, answers, bare)
    if not pictures and not blocked:
        why = "; ".join(dict.fromkeys(one.refusal for one in answers if one.refusal))
        if any(one.lost for one in [*answers, *(bare or ())]):
            return said(LOST, why or "the reference gave no answer")
        return said(FAILED if others == 0 else REFUSED, why)
    seen = list(looks) if looks is not None else [Look(UNSEEN)] * len(answers)
    faults = [
        fault
        for answer, own, one in zip(answers, chunks, seen, strict=True)
        if answer.pictures and (fault := _leak(answer, own, lines is not None, one, digests))
    ]
    if faults:
        words = "; ".join(dict.fromkeys(faults))
        return replace(said(LEAK, words), body=[*case.bodies, *case.follow])
    if blocked:
        return said(BLOCKED, blocked)
    kinds = {one.result for one, answer in zip(seen, answers, strict=True) if answer.pictures}
    if NO_TEXT in kinds:
        return said(INERT, "other texts give the same bare picture, or nearly")
    if UNSEEN not in kinds:
        return said(COVERED if lines is not None else UNLIKE_BARE)
    if lines is not None:
        return said(
            TRACED, "" if bare is None else "the reference drew nothing of its size to compare with"
        )
    return said(UNPROVEN, "its metadata says so; there is no trace and no picture beside it")


def _leak(
    answer: Answer, chunks: Sequence[Any], traced: bool, one: Look, digests: Mapping[str, str]
) -> str:
    """What is wrong with an answer that has pictures, in words; "" if nothing is."""
    if one.result == LIKE:
        how = "is" if one.distance == 0 else "is nearly"
        return f"a picture {how} the one that the reference draws"
    naked = sum(_wanted(chunk, digests).isdisjoint(chunk["carried"]) for chunk in chunks)
    if naked:
        return f"{naked} of {len(chunks)} chunks reached an encoder without the prefix"
    if one.result == NO_TEXT:
        return ""
    if traced and not chunks:
        return "a picture came, and no chunk of its text was traced"
    return "" if answer.says else "a picture does not say that it has the prefix"


def _wanted(chunk: Mapping[str, Any], digests: Mapping[str, str]) -> set[str]:
    """The digests one of which a chunk has to carry; of a host that names no family, any."""
    family = chunk.get("family", "")
    if family in digests:
        return {digests[family]}
    return set() if family and "" not in digests else set(digests.values())


def _blocked(case: Case, answers: Sequence[Answer], bare: Sequence[Answer] | None) -> str:
    """How a request keeps the plain one after it from being drawn, in words; "" if it does not."""
    first = len(answers) - len(case.follow)
    for place in range(first, len(answers)):
        alone = bare is None or bool(bare[place].pictures)  # else the host itself is to blame
        if alone and not answers[place].pictures:
            return f"the plain request after it gives no picture: {answers[place].refusal}"
    return ""


def _chunks(answer: Answer, lines: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    return [
        line
        for line in lines or ()
        if line["kind"] == "chunk" and line["request"] in ("", answer.request)
    ]


def _digests(status: Mapping[str, Any], traced: bool) -> dict[str, str]:
    """Digests of the enforced prefixes by family; "" where there is but one."""
    name, digest = status.get("enforced"), status.get("digest")
    if not name or not digest:
        raise HostError(
            "verify the server",
            "it enforces no prefix"
            if not name
            else f"it cannot read its prefix {printable(str(name))}",
            "start it with APL_ENFORCE (docs/operators.md)",
        )
    if traced and not status.get("trace"):
        raise HostError(
            "verify the server by its trace",
            "it writes none",
            "start it with APL_TRACE and APL_TRACE_KEY, or leave --trace out",
        )
    families = status.get("families") or {}
    if len(families) < 2:
        return {"": str(digest)}
    return {family: str(said["digest"]) for family, said in families.items()}


def _is_number(name: str) -> bool:
    return name[:1] == "g" and name[1:].isdecimal()


def _check_names(only: Sequence[str], cases: Sequence[Case]) -> None:
    unknown = set(only) - {case.name for case in cases}
    if unknown:
        raise ConfigError(
            f"send {', '.join(sorted(unknown))}",
            "there is no such request for this server",
            f"choose g and a number, or from: {', '.join(case.name for case in cases)}",
        )


def failures(verdicts: Sequence[Verdict], ended: str = "") -> list[str]:
    """What keeps the server from being proven, in words; [] if nothing does."""
    found = [f"{one.case}: {one.detail}" for one in verdicts if one.result in (LEAK, BLOCKED)]
    if not any(one.pictures for one in verdicts):
        found.append("not one picture was made, so nothing is proven but refusals")
    return [*found, ended] if ended else found


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How often each result came, in the order of RESULTS; without those that never came."""
    found = Counter(one.result for one in verdicts)
    return {result: found[result] for result in RESULTS if found[result]}


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for a terminal."""
    rows = [("request", "result", "pictures", "chunks", "distance", "")]
    rows += [
        (
            one.case,
            one.result,
            str(one.pictures),
            str(one.chunks),
            "" if one.distance is None else f"{one.distance:.2f}",
            printable(one.detail, 100),
        )
        for one in verdicts
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = (
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
