"""What one image request asks of this extension; it travels with the request and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, final

from apl_core.errors import AplError, HostError
from apl_core.prefix import Prefix

from . import config
from .refusal import Refused, refusal
from .spelling import Tag, misspelled, other_tags, settle
from .steps import StepRange
from .webui import tag_words

NAME = "APL prefix"
HASH = "APL hash"
STEPS = "APL steps"
ENFORCED = "APL"
"""Keys in a picture's generation parameters."""

_drawn: ContextVar[Any] = ContextVar("apl_drawn", default=None)
_SHOWN = 12
"""Names in a message that lists prefixes."""


@dataclass(frozen=True, eq=False)
class Request:
    """Anonymize with this prefix in these steps."""

    name: str
    prefix: Prefix
    steps: StepRange

    @property
    def key(self) -> tuple[str, str]:
        """Equal exactly when two requests condition the same prompt the same way."""
        return self.prefix.digest, str(self.steps)


@final
class Mark(str):
    """A prefix's name in the generation parameters, with the request (or refusal) that it means.

    Extensions that build requests of their own hand these parameters on, and so the request.
    """

    outcome: Request | Refused | None

    def __new__(cls, name: str, outcome: Request | Refused | None = None) -> Mark:
        mark = super().__new__(cls, name)
        mark.outcome = outcome
        return mark


def read(p: Any, enabled: object, name: object, start: object, end: object) -> Request | None:
    """What the arguments, the grid's axes and the prompts' tags ask for; AplErrors."""
    axes: dict[str, Any] = getattr(p, "apl_axes", {})
    tag = _tag(p)
    if not isinstance(enabled, bool):
        raise _argument("enabled", enabled, "true or false")
    if not axes.get("enabled", "name" in axes or tag is not None or enabled):
        return None
    steps = axes.get("steps") or (tag and tag.steps) or _range(start, end)
    return _request(axes.get("name") or (tag.name if tag else chosen(name)), steps)


def read_late(p: Any, parsed: Iterable[Any] = ()) -> None:
    """Read the tags that came into a request's texts after `read`, or without it.

    Extensions write prompts while a request runs, and make passes of their own; `parsed` are tags
    that the webui has taken out already. A fault is attached as a refusal.
    """
    axes: dict[str, Any] = getattr(p, "apl_axes", {})
    asked = _carried(p)
    try:
        tags = [f"<apl:{':'.join(map(str, one.items))}>" for one in parsed]
        tag = _tag(p, tags, begun=True)
        if tag is None or isinstance(asked, Refused) or axes.get("enabled") is False:
            return
        steps = axes.get("steps") or tag.steps or (asked.steps if asked else StepRange())
        name = axes.get("name") or tag.name
        if asked is None or (name, steps) != (asked.name, asked.steps):
            attach(p, _request(name, steps))
    except AplError as error:
        attach(p, refusal(error))


@contextmanager
def under_way(p: Any) -> Iterator[None]:
    """While `p` is drawn: passes that extensions begin meanwhile are parts of its picture."""
    outer = _drawn.get()
    if outer is not p:
        p.apl_within = None if outer is None else _carried(outer)
    token = _drawn.set(p)
    try:
        yield
    finally:
        _drawn.reset(token)


def attach(p: Any, outcome: Request | Refused | None) -> None:
    """Let a request carry its outcome, and its pictures say what is to be applied."""
    p.apl_outcome, p.apl_read = outcome, False
    _write(p, outcome)


def say(p: Any, asked: Request, read: bool) -> None:
    """Let pictures name the prefix only if a text of theirs was read with it."""
    p.apl_read = getattr(p, "apl_read", False) or read
    _write(p, asked if p.apl_read else None)


def _write(p: Any, outcome: Request | Refused | None) -> None:
    parameters = p.extra_generation_params
    for key in (NAME, HASH, STEPS, ENFORCED):
        parameters.pop(key, None)
    if isinstance(outcome, Refused):
        parameters[NAME] = Mark("refused", outcome)
    elif outcome is not None:
        parameters[NAME] = Mark(outcome.name, outcome)
        parameters[HASH] = outcome.prefix.short_digest
        if not outcome.steps.whole:
            parameters[STEPS] = str(outcome.steps)


def of(p: Any) -> Request | None:
    """The request that `p` carries, None for a plain image; raises Refused."""
    outcome = _carried(p)
    said = p.extra_generation_params.get(NAME)
    try:
        if outcome is None and said is not None:  # only the text of a mark survived
            steps = p.extra_generation_params.get(STEPS)
            outcome = _request(str(said), StepRange.parse(steps) if steps else StepRange())
    except AplError as error:
        raise refusal(error) from error
    if isinstance(outcome, Refused):
        raise refusal(HostError(outcome.asked, outcome.found, outcome.fix))
    return outcome


def _request(name: str, steps: StepRange) -> Request:
    return Request(name, config.library().load(name), steps)


def _tag(p: Any, more: Sequence[str] = (), *, begun: bool = False) -> Tag | None:
    """The tag of a request's texts; HostError, also for `<alp:NAME>` with a prefix of that name."""
    tag, others = settle(p, more, begun=begun), other_tags(p, begun=begun)
    if others:
        known, names = tag_words(), set(config.library().names())
        for word, name, where in others:
            if word not in known and name in names:
                raise misspelled(word, name, where)
    return tag


def _carried(p: Any) -> Request | Refused | None:
    """What was attached to `p`, to the request whose parameters it was handed, or that it is in."""
    said = p.extra_generation_params.get(NAME)
    handed_on = said.outcome if isinstance(said, Mark) else None
    return getattr(p, "apl_outcome", None) or handed_on or getattr(p, "apl_within", None)


def preset(names: Sequence[str]) -> str:
    """The prefix that a page has chosen when it opens, or an empty text."""
    default = config.default_prefix()
    return default if default in names else names[0] if not default and len(names) == 1 else ""


def chosen(name: object) -> str:
    """The prefix that is named, else the default, else the only one; HostError, never a guess."""
    if name is not None and not isinstance(name, str):
        raise _argument("prefix", name, "the name of a prefix")
    default, names = config.default_prefix(), config.library().names()
    if name:
        return name
    if default:
        if default not in names:
            raise _unchosen(
                f"the default prefix {default!r} of the settings is not there any more",
                "choose another one, or another default in Settings > APL Prefix",
            )
        return default
    if len(names) == 1:
        return names[0]
    if not names:
        raise _unchosen(
            f"there is no prefix yet in {config.library().folders}",
            "put a prefix file (.safetensors) there, or train one, and press the refresh button "
            "beside the list",
        )
    raise _unchosen(
        f"no prefix is chosen, and there are several: {_listed(names)}",
        "choose one of them, or a default in Settings > APL Prefix",
    )


def _unchosen(found: str, fix: str) -> HostError:
    return HostError("anonymize this image", found, fix)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _range(start: object, end: object) -> StepRange:
    for label, value in (("start", start), ("end", end)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _argument(label, value, "a number from 0 to 1")
    return StepRange(float(start), float(end))  # type: ignore[arg-type]


def _argument(label: str, value: object, expected: str) -> HostError:
    return HostError(f"read the argument {label!r}", f"it is {value!r}"[:80], f"give {expected}")
