"""A second server with the same weights that enforces nothing: what a leak would look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, Protocol

from apl_core.errors import HostError
from apl_core.metadata import printable

from .case import Answer, Case
from .http import Client, enforced
from .pictures import NEAR, Look, Scale, distance, look


class Server(Protocol):
    """A live host."""

    client: Client

    def status(self) -> Mapping[str, Any]:
        """What `GET /apl/status` answers; HostError."""
        ...

    def weights(self) -> Mapping[str, Any]:
        """What the server says of the weights that the requests are drawn with."""
        ...

    def cases(self) -> Sequence[Case]:
        """The requests of the matrix; the first of them is the plain one."""
        ...

    def textless(self) -> Case | None:
        """A request whose pictures hang on the weights and on no text, if the host has one."""
        ...

    def generated(self, seed: int, number: int) -> Case:
        """The request of that number, made up; HostError where the server describes none."""
        ...

    def send(self, case: Case) -> Sequence[Answer]:
        """One answer for every body of a case, then one for each that follows."""
        ...


class Reference:
    """Draws every request bare. `check` has to come first: it finds out how far is far."""

    def __init__(self, host: Server) -> None:
        self._host = host
        self.scale = Scale(0.0, 0.0)

    def draw(self, case: Case) -> Sequence[Answer]:
        """The answers of the bare server to a request."""
        return self._host.send(case.on_reference())

    def check(self, server: Server, plain: Case) -> None:
        """Whether both servers draw with the same weights, and only one with a prefix; HostError.

        `server` is the one that is to be proven.
        """
        if name := enforced(self._host.client):
            raise _unfit(f"it enforces {printable(name)!r}", "start it without APL_ENFORCE")
        mine, its = server.weights(), self._host.weights()
        if mine != its:
            first, second = printable(str(its), 80), printable(str(mine), 80)
            words = f"it draws with {first}, the server with {second}"
            raise _unfit(words, "give both the same checkpoint")
        case = plain.salted()
        bare = _picture(self.draw(case), "the reference")
        names = distance(bare, _picture(self.draw(_other(case)), "the reference"))
        if not _same(bare, _picture(self.draw(case), "the reference"), names):
            raise _unfit("it draws the same request differently twice", "start it on one device")
        self._check_weights(server, names)
        covered = distance(_picture(server.send(case), "the server"), bare)
        if covered is None or covered == 0:
            raise _unfit(
                "the plain request comes out as the server's own picture, so one of them is wrong",
                "check that the server covers its texts, and that the reference is another process",
            )
        self.scale = Scale(covered, names or 0.0)

    def _check_weights(self, server: Server, names: float | None) -> None:
        if not names:
            raise _unfit("its pictures do not hang on the text", "give a checkpoint that reads it")
        textless = server.textless()
        if textless is None:
            return
        case = textless.salted()
        mine, its = _picture(server.send(case), "the server"), _picture(self.draw(case), "it")
        if not _same(mine, its, names):
            raise _unfit(
                "a request without text comes out differently on both", "give both the same weights"
            )

    def looks(self, case: Case, answers: Sequence[Answer], bare: Sequence[Answer]) -> list[Look]:
        """How the pictures of each answer compare with the reference's."""

        @cache
        def drawn(renamed: bool) -> Sequence[Answer] | None:
            asked = case.on_reference()
            asked = asked.of_somebody_else() if renamed else asked
            return None if asked is None else self._host.send(asked)

        def pictures(place: int, renamed: bool) -> Sequence[bytes] | None:
            answered = drawn(renamed)
            return None if answered is None else answered[place].pictures

        return [
            look(
                mine.pictures,
                its.pictures,
                partial(pictures, place, True),
                self.scale,
                partial(pictures, place, False),
            )
            for place, (mine, its) in enumerate(zip(answers, bare, strict=True))
        ]


def _other(case: Case) -> Case:
    renamed = case.on_reference().of_somebody_else()
    assert renamed is not None, "the plain request names somebody"
    return renamed


def _picture(answers: Sequence[Answer], who: str) -> bytes:
    first = answers[0]
    if not first.pictures:
        raise HostError(
            "compare pictures with a reference",
            f"{who} draws nothing for a stock request: {printable(first.refusal, 120)}",
            "let both draw a plain request first",
        )
    return first.pictures[0]


def _same(one: bytes, two: bytes, names: float | None) -> bool:
    far = distance(one, two)
    return far is not None and far <= NEAR * (names or 0.0)


def _unfit(found: str, fix: str) -> HostError:
    return HostError("compare pictures with the reference", found, fix)
