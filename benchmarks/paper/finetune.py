"""Short fine-tuning of a pocket model's U-Net, and textual inversion, on renders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apl_core.ports import Conditioning
from apl_core.tokens import CHUNK
from apl_trainer.pocket.model import PocketModel
from apl_trainer.pocket.networks import to_latents
from apl_trainer.pocket.world import Person

from ..pocket_build.dataset import invent
from .variants import with_words

_HIGH = 600
"""Half of the noise levels are drawn above: there the prompt decides, not the picture."""


@dataclass(frozen=True, eq=False)
class FinetuneData:
    """Latents (N, 48, 8, 8) with a caption each."""

    latents: Tensor
    captions: tuple[str, ...]

    @staticmethod
    def join(parts: Sequence[FinetuneData]) -> FinetuneData:
        """All of several."""
        captions = tuple(c for p in parts for c in p.captions)
        return FinetuneData(torch.cat([p.latents for p in parts]), captions)


def renders(
    model: PocketModel,
    people: tuple[Person, ...],
    counts: tuple[int, int, int],
    seed: int,
    style: Callable[[Tensor], Tensor] | None = None,
) -> FinetuneData:
    """(named, anonymous, things) many drawings with captions of one chunk."""
    rng = np.random.default_rng([model.world.seed, 31, seed])
    subjects = invent(model.world, people, counts, rng)
    pictures = torch.from_numpy(subjects.draw(rng, lambda n: n)).float() / 255
    tower = model.encoder.towers[0]
    captions: list[str] = []
    for i in range(sum(counts)):
        caption = subjects.caption(i, rng)
        while len(tower.tokenize(caption)) > CHUNK:
            caption = subjects.caption(i, rng)
        captions.append(caption)
    return FinetuneData(to_latents(style(pictures) if style else pictures), tuple(captions))


def _noised(
    model: PocketModel, latents: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    schedule = model.denoiser.schedule
    noise = torch.randn(latents.shape, generator=random)
    t = torch.randint(schedule.steps, (len(latents),), generator=random)
    high = torch.randint(_HIGH, schedule.steps, (len(latents),), generator=random)
    t = torch.where(torch.rand(len(latents), generator=random) < 0.5, high, t)
    return schedule.q_sample(latents, noise, t), t, noise


def _loss(
    model: PocketModel, latents: Tensor, given: Conditioning, random: torch.Generator
) -> Tensor:
    """Mean squared error of the clean latent that the prediction means."""
    x_t, t, noise = _noised(model, latents, random)
    error = model.denoiser.predict_noise(x_t, t, given) - noise
    signal, sigma = model.denoiser.schedule.coefficients(t, x_t)
    return (error * sigma / signal).square().mean()


def fine_tune(
    model: PocketModel, material: FinetuneData, steps: int, rate: float, batch: int, seed: int = 0
) -> None:
    """Teach the U-Net of `model` in place; its text encoder stays as it is.

    Every tenth caption is dropped, as in training, so that classifier-free guidance stays sound.
    """
    random = torch.Generator().manual_seed(seed)
    unet = model.denoiser.unet.requires_grad_(True).train()
    with torch.no_grad():
        parts = [
            model.encoder.encode(material.captions[i : i + 64], None)
            for i in range(0, len(material.captions), 64)
        ]
        given, empty = Conditioning.join(parts), model.encoder.encode([""], None).cross
    optimizer = torch.optim.AdamW(unet.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _fall(step, steps)
        rows = torch.randint(len(material.captions), (batch,), generator=random)
        cross = given.cross[rows].clone()
        cross[torch.rand(batch, generator=random) < 0.1] = empty
        optimizer.zero_grad(set_to_none=True)
        _loss(model, material.latents[rows], Conditioning(cross), random).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
    unet.eval().requires_grad_(False)


def invert(
    model: PocketModel,
    words: Sequence[str],
    material: Sequence[FinetuneData],
    rows: int,
    steps: int,
    rate: float,
    batch: int,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Textual inversion (arXiv 2208.01618): learn `rows` token embeddings for every new word.

    `material` holds pictures of each word's subject, whose captions name it by the word. All
    else is frozen. A batch takes some words in turn, so that one run learns them all.
    """
    random = torch.Generator().manual_seed(seed)
    table = model.encoder.token_embedding("pocket").float()
    start = model.encoder.towers[0].tokenize("person")
    learned = {
        word: (
            table[start].mean(0)
            + 0.3 * table.std(0) * torch.randn(rows, table.shape[1], generator=random)
        ).requires_grad_()
        for word in words
    }
    optimizer = torch.optim.Adam(learned.values(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _fall(step, steps)
        which = [(step * batch + i) % len(words) for i in range(batch)]
        picks = [
            (w, int(torch.randint(len(material[w].captions), (1,), generator=random)))
            for w in which
        ]
        latents = torch.stack([material[w].latents[i] for w, i in picks])
        given = with_words(model, learned).encoder.encode(
            [material[w].captions[i] for w, i in picks], None
        )
        optimizer.zero_grad(set_to_none=True)
        _loss(model, latents, given, random).backward()
        optimizer.step()
    return {word: rows.detach() for word, rows in learned.items()}


def _fall(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
