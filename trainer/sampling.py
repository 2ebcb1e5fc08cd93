"""Pictures from prompts: classifier-free guidance and DDIM over the core's ports."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from apl_core.ports import Conditioning, DenoiserPort, LatentPort, TextEncoderPort
from apl_core.prefix import Rows

Progress = Callable[[int, int], None]
"""Told how many sampling steps are done, and how many there are."""


@dataclass(frozen=True)
class Request:
    """One picture to make: the prompt, what to keep away from, and the seed of its noise."""

    prompt: str
    seed: int
    negative: str = ""


class AnySampler(Protocol):
    """Draws pictures of prompts; a Sampler is one."""

    def draw(self, requests: Sequence[Request], rows: Rows | None) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]; the same requests give the same pictures."""
        ...


@dataclass(frozen=True)
class Sampler:
    """Makes pictures; `shape` (C, H, W) is that of a latent, at most `batch` are run at once.

    `eta` is how much of a step's noise is fresh: 0 is DDIM, 1 is as random as DDPM (arXiv
    2010.02502, eq. 16). `guided` are the noise levels, as steps of the schedule, at which guidance
    pulls, all unless told: at the others the negative prompt is not run at all (arXiv 2404.07724).
    """

    encoder: TextEncoderPort
    denoiser: DenoiserPort
    latents: LatentPort
    shape: tuple[int, int, int]
    guidance: float
    steps: int
    batch: int = 64
    eta: float = 0.0
    guided: range = range(sys.maxsize)

    @torch.no_grad()
    def draw(
        self, requests: Sequence[Request], rows: Rows | None, progress: Progress | None = None
    ) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1]; in the negatives the rows stand if they are everywhere.

        A picture depends on its own request alone (up to rounding): prompts of equal length in
        chunks are run together, each noise comes from its own generator.
        """
        texts = {r.prompt for r in requests}
        prompts = {text: self.encoder.encode([text], rows) for text in texts}
        pushed = rows if rows is not None and rows.everywhere else None
        negatives = {r.negative: self.encoder.encode([r.negative], pushed) for r in requests}
        pictures: dict[int, Tensor] = {}
        groups: dict[tuple[int, int], list[int]] = {}
        for i, r in enumerate(requests):
            lengths = prompts[r.prompt].cross.shape[1], negatives[r.negative].cross.shape[1]
            groups.setdefault(lengths, []).append(i)
        parts = [
            members[start : start + self.batch]
            for members in groups.values()
            for start in range(0, len(members), self.batch)
        ]
        done = itertools.count(1)

        def step() -> None:
            if progress:
                progress(next(done), len(parts) * self.steps)

        for part in parts:
            given = [requests[i] for i in part]
            positive = Conditioning.join([prompts[r.prompt] for r in given])
            negative = Conditioning.join([negatives[r.negative] for r in given])
            drawn = self._ddim(positive, negative, [r.seed for r in given], step)
            pictures |= dict(zip(part, drawn, strict=True))
        return torch.stack([pictures[i] for i in range(len(requests))])

    def _ddim(
        self,
        positive: Conditioning,
        negative: Conditioning,
        seeds: list[int],
        told: Callable[[], None],
    ) -> Tensor:
        device = self.denoiser.device
        randoms = [torch.Generator().manual_seed(s) for s in seeds]

        def noise() -> Tensor:
            return torch.stack([torch.randn(self.shape, generator=r) for r in randoms]).to(device)

        x = noise()
        schedule = self.denoiser.schedule
        scheduler = DDIMScheduler(
            num_train_timesteps=schedule.steps,
            trained_betas=_betas(schedule.alphas_cumprod),
            clip_sample=False,
            set_alpha_to_one=schedule.flow is not None,  # a flow ends without noise
            timestep_spacing="trailing",
        )
        scheduler.set_timesteps(self.steps)
        for step in scheduler.timesteps:
            t = torch.full((len(x),), int(step), device=device)
            x_t = self.denoiser.schedule.scaled(x, t)
            eps = self.denoiser.predict_noise(x_t, t, positive)
            if self.guidance != 1 and int(step) in self.guided:
                plain = self.denoiser.predict_noise(x_t, t, negative)
                eps = plain + self.guidance * (eps - plain)
            fresh = noise() if self.eta else None
            moved: Any = scheduler.step(eps, int(step), x, self.eta, variance_noise=fresh)
            x = moved.prev_sample
            told()
        return self.latents.decode(x)


def _betas(alphas_cumprod: Tensor) -> list[float]:
    kept = alphas_cumprod.double().cpu()
    return (1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])).tolist()
