"""What is asked and in which ways it is drawn: the same prompts and seeds under every condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from apl_core.example_kinds import PERSON
from apl_core.ports import TextEncoderPort
from apl_core.prefix import Rows

from ..sampling import Request
from .titles import CONDITION_TITLES

_RESEEDED = 500_000
Same = TypeVar("Same", bound="EvalPrompts")


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt with `{}` where the subject goes, and its seed.

    `asked` are the classes that a reader of the picture must see, where one can tell.
    """

    template: str
    subject: str
    seed: int
    asked: Mapping[str, int] = field(default_factory=dict[str, int])
    description: str = ""

    def request(self, subject: str | None = None, negative: str = "") -> Request:
        """The picture to make, with this or another subject."""
        text = self.template.replace("{}", subject or self.subject)
        return Request(text, self.seed, negative)


@dataclass(frozen=True)
class EvalPrompts:
    """The prompts of one evaluation."""

    trained: tuple[EvalPrompt, ...]
    heldout: tuple[EvalPrompt, ...]
    people: tuple[EvalPrompt, ...]
    things: tuple[EvalPrompt, ...]

    def brief(self: Same) -> Same:
        """The same evaluation with one picture of every name.

        Names take turns in which of their first two pictures it is, so that every kind of prompt
        that is asked for stays in.
        """
        return replace(self, trained=_in_turn(self.trained), heldout=_in_turn(self.heldout))

    @property
    def named(self) -> tuple[EvalPrompt, ...]:
        """All prompts that name somebody."""
        return self.trained + self.heldout

    @property
    def free(self) -> tuple[EvalPrompt, ...]:
        """All prompts that name nobody."""
        return self.people + self.things


def _in_turn(questions: tuple[EvalPrompt, ...]) -> tuple[EvalPrompt, ...]:
    by_name: dict[str, list[EvalPrompt]] = {}
    for question in questions:
        by_name.setdefault(question.subject, []).append(question)
    return tuple(asked[i % min(2, len(asked))] for i, asked in enumerate(by_name.values()))


@dataclass(frozen=True)
class Condition:
    """One way to make pictures: the rows, and what becomes of the name in the prompt."""

    title: str
    rows: Rows | None = None
    rewrite: Callable[[EvalPrompt], Request] = EvalPrompt.request
    free: bool = False
    brief: bool = True

    def prompts_of(self, whole: Same) -> Same:
        """The prompts that are drawn: one picture a name for a brief condition."""
        return whole.brief() if self.brief else whole

    def requests(self, whole: EvalPrompts) -> list[Request]:
        """All pictures of this condition: of the named prompts, then of the name-free ones."""
        prompts = self.prompts_of(whole)
        return [self.rewrite(q) for q in prompts.named] + [
            q.request() for q in prompts.free if self.free
        ]


def baselines(random: Rows) -> dict[str, Condition]:
    """No prefix, a random one, and what people do without one."""
    return {
        "none": Condition(CONDITION_TITLES["none"], free=True, brief=False),
        "random": Condition(CONDITION_TITLES["random"], random, free=True),
        "description": Condition(
            CONDITION_TITLES["description"], rewrite=lambda q: q.request(q.description)
        ),
        "negative": Condition(
            CONDITION_TITLES["negative"], rewrite=lambda q: q.request(negative=q.subject)
        ),
        "floor": Condition(CONDITION_TITLES["floor"], rewrite=lambda q: q.request(PERSON)),
    }


def random_rows(encoder: TextEncoderPort, vectors: int, behind: int, seed: int = 0) -> Rows:
    """A random prefix whose rows are as long as real token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for key, width in encoder.widths.items():
        table = encoder.token_embedding(key).float().cpu()
        made[key] = table.mean(0) + table.std(0) * torch.randn(vectors, width, generator=generator)
    return Rows(made, behind)


def reseeded(prompts: EvalPrompts) -> list[Request]:
    """The name-free prompts once more with other seeds: how much a seed alone changes."""
    return [replace(q.request(), seed=q.seed + _RESEEDED) for q in prompts.free]
