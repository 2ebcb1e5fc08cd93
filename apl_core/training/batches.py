"""Which examples a step learns from: drawn fresh, or from a cache whose targets are kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch

from ..example_kinds import KINDS, Kind, Weighting
from ..objective import Example, TargetBatch, compute_targets
from ..ports import DenoiserPort, TextEncoderPort
from ..tokens import CHUNK
from .callbacks import PhaseReport
from .config import TrainConfig
from .micro import MicroBatch, forward_batch
from .parallel import Group
from .scale import CAPTIONS, caption_change
from .step import autocast, by_chunks


class Source(Protocol):
    """Where examples come from."""

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind; the same generator state gives the same examples."""
        ...


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A generator for one purpose and one index: nothing to save, nothing to restore."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class BatchSampler:
    """Gives every step its batch; the same step always gets the same one."""

    def __init__(
        self,
        config: TrainConfig,
        encoder: TextEncoderPort,
        denoiser: DenoiserPort | None,
        source: Source,
        group: Group,
        progress: PhaseReport,
    ) -> None:
        self.config, self.encoder, self._denoiser = config, encoder, denoiser
        self.source, self.group, self.progress = source, group, progress
        self._number, self._batches = -1, dict[int, TargetBatch]()
        self._full: TargetBatch | None = None
        self._micro: MicroBatch | None = None

    @property
    def denoiser(self) -> DenoiserPort:
        """The denoiser; examples of the text stage are drawn without one."""
        if self._denoiser is None:
            raise ValueError("noised examples need a denoiser")
        return self._denoiser

    def batch(self, step: int) -> TargetBatch:
        """The whole global batch of a step.

        A cache begins empty: each step gets targets of its own, which is kept, until the cache
        is full. From then on steps draw from it, and no more are computed until its uses are up.
        They go through the whole cache, and again in another order. Each takes examples of all
        noise levels: one out of the noisiest, one out of the next, and so on.
        """
        counts, uses = self.counts(step), self.config.target_cache_uses
        if not self.config.target_cache:
            return self._with_targets(counts, "step", step)
        number, place = divmod(step, uses) if uses else (0, step)
        cache = self._cached_targets(number, place)
        rows = [self._spread(cache, kind, count, step) for kind, count in counts.items() if count]
        return cache.pick([row for some in rows for row in some]).to(self.denoiser.device)

    def _spread(self, cache: TargetBatch, kind: Kind, count: int, step: int) -> list[int]:
        """Where `count` examples of a kind lie in a cache, one in each `count`-th of its levels."""
        places = torch.tensor([i for i, k in enumerate(cache.kinds) if k == kind])
        by_noise = places[cache.t[places].argsort(stable=True)].reshape(count, -1)
        turn, at = divmod(step, by_noise.shape[1])
        random = generator(self.config.seed, f"pick-{kind}", turn)
        return [int(part[torch.randperm(len(part), generator=random)[at]]) for part in by_noise]

    def _cached_targets(self, number: int, place: int) -> TargetBatch:
        """Batch `place` of a cache while it fills up, and all of its batches afterwards."""
        size = self.config.batch
        whole = math.ceil(self.config.target_cache / size)
        if number != self._number:
            self._number, self._batches, self._full = number, {}, None
        first = number * whole
        if place < whole:
            return self._kept(first + place)
        if self._full is None:
            every = range(first, first + whole)
            missing = [index for index in every if index not in self._batches]
            for done, index in enumerate(missing, 1):  # a resumed run did not see them made
                self._kept(index)
                self.progress("teacher predictions", done * size, len(missing) * size)
            self._full = TargetBatch.join([self._batches.pop(index) for index in every])
        return self._full

    def _kept(self, index: int) -> TargetBatch:
        if index not in self._batches:
            made = self._with_targets(self.config.counts, "pool", index)
            self._batches[index] = made.to(torch.device("cpu"))  # a card has better use for memory
        return self._batches[index]

    def counts(self, step: int) -> dict[Kind, int]:
        """Examples of each kind in a step; the paper's recipe throws a coin for one of two."""
        if self.config.recipe != "paper":
            return self.config.counts
        coin = int(torch.randint(2, (1,), generator=generator(self.config.seed, "coin", step)))
        chosen = KINDS[coin]
        return {kind: n if kind == chosen else 0 for kind, n in self.config.counts.items()}

    def examples(self, counts: dict[Kind, int], purpose: str, index: int) -> list[Example]:
        """Examples as the source gives them, without noise, some name-free ones without words."""
        random = generator(self.config.seed, f"{purpose}-examples", index)
        drawn = (self.source.draw(kind, n, random) for kind, n in counts.items() if n)
        every = [example for examples in drawn for example in examples]
        chance = generator(self.config.seed, f"{purpose}-empty", index)
        lots = torch.rand(len(every), generator=chance)
        return [
            replace(one, prompt="", neutral="", contrast_prompt="")
            if one.kind != "identity" and float(lot) < self.config.proportion_empty_prompts
            else one
            for one, lot in zip(every, lots, strict=True)
        ]

    def unit(self) -> float:
        """What errors are counted in: the mean error that another caption makes."""
        free: list[Kind] = [kind for kind in KINDS[1:] if self.config.counts[kind]]
        counts: dict[Kind, int] = {kind: CAPTIONS for kind in free or KINDS[:1]}
        examples = self.examples(counts, "unit", 0)
        random = generator(self.config.seed, "unit-noise")
        t = self._levels(examples, random)
        noise = torch.randn((len(examples), *examples[0].latent.shape), generator=random)
        weighting = cast(Weighting, self.config.weighting)
        micro = self._new_micro(noise)
        parts = self.encoder, self.denoiser, examples, t, noise, weighting, micro
        with autocast(self.config, self.denoiser.device):
            return caption_change(*parts)

    def _with_targets(self, counts: dict[Kind, int], purpose: str, index: int) -> TargetBatch:
        examples = self.examples(counts, purpose, index)
        random = generator(self.config.seed, f"{purpose}-noise", index)
        total = len(examples)
        t = self._levels(examples, random)
        noise = torch.randn((total, *examples[0].latent.shape), generator=random)
        device = self.denoiser.device
        mine = self.group.share(total)
        x_t = torch.zeros(noise.shape, device=device)
        target, direction = torch.zeros_like(x_t), torch.zeros_like(x_t)

        def run(some: list[int]) -> None:
            with autocast(self.config, device):
                part = compute_targets(
                    self.encoder,
                    self.denoiser,
                    [examples[i] for i in some],
                    t[some],
                    noise[some],
                    self.config.repulsion,
                    any(self.config.contrasts.values()),
                )
            x_t[some], target[some] = part.x_t, part.target
            direction[some] = part.contrast_direction

        if self._micro is None:
            self._micro = self._new_micro(noise)
        # all are encoded without the prefix; the longest text of an example decides its chunks
        longest = [max(e.prompt, e.neutral, e.contrast_prompt, key=len) for e in examples]
        for some in by_chunks(self.encoder, [longest[i] for i in mine], CHUNK):
            self._micro.each([mine[i] for i in some], run)
        return TargetBatch(
            tuple(e.kind for e in examples),
            tuple(e.prompt for e in examples),
            self.group.gather(x_t[mine], total),
            t.to(device),
            self.group.gather(target[mine], total),
            self.group.gather(direction[mine], total),
        )

    def _new_micro(self, noise: torch.Tensor) -> MicroBatch:
        """As many examples of such noise at once as the settings, or memory, allow."""
        size = self.config.micro_batch or forward_batch(self.denoiser.device, noise[0].numel())
        return MicroBatch(size)

    def _levels(self, examples: Sequence[Example], random: torch.Generator) -> torch.Tensor:
        """Steps of the schedule to noise examples at, (B,): name-free ones from their own on.

        Each kind's are spread: of n examples one falls into each n-th of the steps.
        """
        t = torch.zeros(len(examples), dtype=torch.long)
        end = self.denoiser.schedule.steps
        for kind in dict.fromkeys(e.kind for e in examples):
            where = [i for i, e in enumerate(examples) if e.kind == kind]
            count = len(where)
            named, free = self.config.max_snr, self.config.max_snr_free
            lowest = self.denoiser.schedule.first_below(named if kind == "identity" else free)
            part = torch.randperm(count, generator=random) + torch.rand(count, generator=random)
            t[where] = (lowest + (end - lowest) * part / count).long().clamp(max=end - 1)
        return t
