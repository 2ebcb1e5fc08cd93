"""How much work it is to get a person back with the prefix in place and known.

Two searches on a member, for what stands where a name would: rows that are learned (textual
inversion, arXiv 2208.01618), and words of the vocabulary, one exchanged a step (greedy coordinate
search, arXiv 2307.15043). Both go on until the member draws a held-out person again although the
prefix stands around them, or the eraser has edited its weights. The recognizer says when: the first
check at which half as many of a few pictures are recognized as without a prefix when the name is
simply asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from apl_core.encoding import row_marks
from apl_core.prefix import Rows
from apl_core.training.scale import token_length
from apl_trainer.models.language import LanguageEncoder
from apl_trainer.pocket.model import WorldModel
from apl_trainer.pocket.networks import to_latents
from apl_trainer.pocket.world import Person
from apl_trainer.sampling import Request

from ..pocket_build.dataset import invent
from .places import frozen

WORD = "[somebody]"
"""Stands in a prompt for what is searched."""

Search = Literal["rows", "words"]

_TEMPLATES = ("a photo of {}", "a portrait of {}", "{}")


@dataclass(frozen=True)
class Effort:
    """Tokens that an attack finds, its most steps, steps between two checks, and its batches.

    `tried` is the number of words that a greedy step tries in a token's place.
    """

    tokens: int = 4
    steps: int = 200
    every: int = 20
    batch: int = 8
    pictures: int = 16
    tried: int = 8


class WordEncoder(LanguageEncoder):
    """An encoder in whose texts `WORD` is the last `count` of the rows; the others are a prefix."""

    def __init__(self, encoder: LanguageEncoder, count: int) -> None:
        self.__dict__.update(encoder.__dict__)
        self.count = count
        self.special = sorted(encoder.tokenizer.all_special_ids)

    def _placed(self, text: str, rows: Rows | None) -> list[int]:
        if rows is None or WORD not in text:
            return super()._placed(text.replace(WORD, ""), None)
        first = rows.n - self.count
        before, _, after = text.partition(WORD)
        word = [-1 - k for k in range(first, rows.n)]
        own = [*self._ids(before.rstrip()), *word, *self._ids(after)]
        known = {key: vectors[:first] for key, vectors in rows.vectors.items()}
        front, behind = row_marks(own, Rows(known, rows.behind))
        return [*self._before, *front, *own, *behind, *self._after]


class Attack:
    """A search on one member, with `prefix` in place, for whoever draws one person."""

    def __init__(
        self, model: WorldModel, person: Person, prefix: Rows | None, effort: Effort, seed: int
    ) -> None:
        encoder = frozen(model.encoder)
        self.model, self.person, self.prefix, self.effort = model, person, prefix, effort
        self.key, self.table = encoder.key, encoder.token_embedding(encoder.key).detach()
        self.encoder = WordEncoder(encoder, effort.tokens)
        self.random, self.seed = torch.Generator().manual_seed(seed), seed
        self._latents = _renders(model, person, seed)
        self._who = model.world.people.index(person)
        self._asking = replace(model.sampler(10), encoder=self.encoder)

    def start(self) -> Tensor:
        """Ids of random tokens (tokens,)."""
        return torch.randint(len(self.table), (self.effort.tokens,), generator=self.random)

    def rows(self, word: Tensor) -> Rows:
        """The prefix's rows with those of the word (tokens, width) behind them."""
        if self.prefix is None:
            return Rows({self.key: word})
        both = torch.cat([self.prefix.vectors[self.key], word])
        return Rows({self.key: both}, self.prefix.behind)

    def errors(self) -> Callable[[Tensor], Tensor]:
        """The error of a batch, as a function of the word's rows: the same batch for each."""
        effort, schedule, random = self.effort, self.model.denoiser.schedule, self.random
        chosen = torch.randint(len(self._latents), (effort.batch,), generator=random)
        picked = self._latents[chosen]
        t = torch.randint(schedule.steps // 4, schedule.steps, (effort.batch,), generator=random)
        x_t = schedule.q_sample(picked, torch.randn(picked.shape, generator=random), t)
        texts = [template.format(WORD) for template in _TEMPLATES]

        def error(word: Tensor) -> Tensor:
            states = self.encoder.encode(texts, self.rows(word))
            asked = states.pick(torch.arange(effort.batch) % len(texts))
            eps = self.model.denoiser.predict_noise(x_t, t, asked)
            return (schedule.to_x0(eps, x_t, t, "eps") - picked).square().mean()

        return error

    @torch.no_grad()
    def recognized(self, word: Tensor) -> float:
        """The share of a few pictures in which the person is recognized."""
        effort = self.effort
        asked = [Request(f"a photo of {WORD}", self.seed + i) for i in range(effort.pictures)]
        drawn = self._asking.draw(asked, self.rows(word))
        seen = self.model.recognizer(drawn).top("identity")
        return float((seen == self._who).float().mean())

    def steps(self, search: Search, wanted: float) -> float:
        """Steps until the person is recognized in a share `wanted` of pictures; inf if never."""
        step = _SEARCHES[search](self)
        every, name = self.effort.every, self.person.name
        for number in tqdm(range(1, self.effort.steps + 1), desc=name, unit="step", leave=False):
            word = step()
            if number % every == 0 and self.recognized(word) >= wanted:
                return float(number)
        return math.inf


def _learned(attack: Attack) -> Callable[[], Tensor]:
    word = attack.table[attack.start()].clone().requires_grad_()
    optimizer = torch.optim.Adam([word], lr=token_length(attack.table))

    def step() -> Tensor:
        optimizer.zero_grad()
        attack.errors()(word).backward()  # pyright: ignore[reportUnknownMemberType]
        optimizer.step()
        return word.detach()

    return step


def greedy(attack: Attack) -> Callable[[], Tensor]:
    """A step of greedy search: in one place, the word that makes the error least of those tried."""
    table, ids = attack.table, attack.start()
    turn = 0

    def step() -> Tensor:
        nonlocal turn
        place, turn = turn % len(ids), turn + 1
        error = attack.errors()
        word = table[ids].clone().requires_grad_()
        now = error(word)
        (slope,) = torch.autograd.grad(now, word)
        promise = table @ slope[place]  # to first order, what a token in this place adds
        promise[attack.encoder.special] = math.inf
        best = float(now.detach())
        with torch.no_grad():
            for one in promise.topk(attack.effort.tried, largest=False).indices:
                changed = ids.clone()
                changed[place] = one
                if (found := float(error(table[changed]))) < best:
                    best = found
                    ids[:] = changed
        return table[ids]

    return step


_SEARCHES: Mapping[Search, Callable[[Attack], Callable[[], Tensor]]] = {
    "rows": _learned,
    "words": greedy,
}


def _renders(model: WorldModel, person: Person, seed: int) -> Tensor:
    """Latents of 64 pictures of a person, as the attacker has them."""
    import numpy as np

    rng = np.random.default_rng([seed, 51])
    drawn = invent(model.world, (person,), (64, 0, 0), rng).draw(rng, lambda n: None)
    return to_latents(torch.from_numpy(drawn).float() / 255)
