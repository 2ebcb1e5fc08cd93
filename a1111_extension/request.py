"""What one image request asks of this extension; it travels with the request and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from apl_core.errors import AplError, HostError
from apl_core.prefix import Prefix

from . import config
from .refusal import Refused, refusal
from .steps import StepRange

NAME = "APL prefix"
HASH = "APL hash"
STEPS = "APL steps"
ENFORCED = "APL"
"""Keys in a picture's generation parameters."""

TAG = re.compile(r"<apl:([^>]*)>")


@dataclass(frozen=True, eq=False)
class Request:
    """Anonymise with this prefix in these steps."""

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
    locked = config.enforced()
    if locked:
        return _request(locked, StepRange())
    axes: dict[str, Any] = getattr(p, "apl_axes", {})
    tag = _one_tag(_prompts(p))
    if not isinstance(enabled, bool):
        raise _argument("enabled", enabled, "true or false")
    if not axes.get("enabled", "name" in axes or tag is not None or enabled):
        return None
    steps = axes.get("steps") or (tag and tag[1]) or _range(start, end)
    chosen = axes.get("name") or (tag and tag[0]) or name or config.default_prefix()
    if not isinstance(chosen, str):
        raise _argument("prefix", chosen, "the name of a prefix")
    if not chosen:
        raise HostError(
            "anonymise this image",
            f"no prefix is chosen and there is none in {config.library().folders}",
            "put a prefix file there or train one",
        )
    return _request(chosen, steps)


def from_tags(p: Any, parsed: Iterable[Any]) -> Request | None:
    """What the tags that the webui has parsed, and those in the prompts, ask for; AplErrors."""
    tag = _one_tag([*(f"<apl:{':'.join(one.items)}>" for one in parsed), *_prompts(p)])
    return None if tag is None else _request(tag[0], tag[1] or StepRange())


def attach(p: Any, outcome: Request | Refused | None) -> None:
    """Let a request carry its outcome, and its pictures say what was applied."""
    p.apl_outcome = outcome
    parameters = p.extra_generation_params
    for key in (NAME, HASH, STEPS, ENFORCED):
        parameters.pop(key, None)
    if isinstance(outcome, Refused):
        parameters[NAME] = Mark("refused", outcome)
    elif outcome is not None:
        parameters[NAME] = Mark(outcome.name, outcome)
        parameters[HASH] = outcome.prefix.short_digest
        if config.enforced():
            parameters[ENFORCED] = f"{outcome.name} {outcome.prefix.short_digest}"
        if not outcome.steps.whole:
            parameters[STEPS] = str(outcome.steps)


def of(p: Any) -> Request | None:
    """The request that `p` carries, None for a plain image; raises Refused."""
    outcome = getattr(p, "apl_outcome", None)
    said = p.extra_generation_params.get(NAME)
    if outcome is None and isinstance(said, Mark):
        outcome = said.outcome
    try:
        if outcome is None and config.enforced():
            outcome = read(p, False, "", 0.0, 1.0)
            attach(p, outcome)
        elif outcome is None and said is not None:  # only the text of a mark survived
            steps = p.extra_generation_params.get(STEPS)
            outcome = _request(str(said), StepRange.parse(steps) if steps else StepRange())
    except AplError as error:
        raise refusal(error) from error
    if isinstance(outcome, Refused):
        raise refusal(HostError(outcome.asked, outcome.found, outcome.fix))
    return outcome


def _request(name: str, steps: StepRange) -> Request:
    return Request(name, config.library().load(name), steps)


def _prompts(p: Any) -> list[str]:
    return [*(p.all_prompts or []), *(getattr(p, "all_hr_prompts", None) or [])]


def _one_tag(prompts: Iterable[str]) -> tuple[str, StepRange | None] | None:
    """(name, range) of the tags in the prompts, which all have to say the same."""
    found = {text for prompt in prompts for text in TAG.findall(prompt)}
    if len(found) > 1:
        raise HostError(
            "anonymise with the prefix that the prompt names",
            "its tags name different ones: " + ", ".join(sorted(found)),
            "use one <apl:name> tag",
        )
    if not found:
        return None
    name, _, steps = found.pop().partition(":")
    return name.strip(), StepRange.parse(steps) if steps else None


def _range(start: object, end: object) -> StepRange:
    for label, value in (("start", start), ("end", end)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _argument(label, value, "a number from 0 to 1")
    return StepRange(float(start), float(end))  # type: ignore[arg-type]


def _argument(label: str, value: object, expected: str) -> HostError:
    return HostError(f"read the argument {label!r}", f"it is {value!r}"[:80], f"give {expected}")
