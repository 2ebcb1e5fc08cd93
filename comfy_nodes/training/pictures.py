# pyright: reportMissingImports=false
"""Pictures and latents by ComfyUI's own sampler, for examples and for previews."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from apl_core.prefix import Prefix, Rows

from ..clips import Conditioning, encode, with_rows
from ..families import family_of
from ..opaque import opaque
from .denoiser import is_flow
from .latents import ComfyLatents

SAMPLER = "euler"


def scheduler_of(model: Any) -> str:
    """How the noise levels of a picture's steps are spread: as ComfyUI's own workflows have it."""
    return "simple" if is_flow(model) else "normal"


class LatentSampler:
    """Makes pictures with the loaded model; `size` is (width, height) in pixels."""

    def __init__(
        self, model: Any, clip: Any, vae: Any, size: tuple[int, int], steps: int, cfg: float
    ) -> None:
        self.model, self.clip, self.size, self.steps, self.cfg = model, clip, size, steps, cfg
        self.latents, self.family = ComfyLatents(vae, model), family_of(clip)
        self.scheduler = scheduler_of(model)
        self.negative: Conditioning = encode(clip, "")

    @torch.no_grad()
    def paint(self, text: str, seed: int, rows: Prefix | Rows | None = None) -> Tensor:
        """The latent (C, ...) of a picture of `text`, as the model itself works in."""
        clip = self.clip
        if rows is not None:
            clip = clip.clone()
            clip.tokenizer = with_rows(clip.tokenizer, rows, self.family)
        shape = self.latents.shape(*self.size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        painted = comfy.sample.sample(
            self.model,
            noise,
            self.steps,
            self.cfg,
            SAMPLER,
            self.scheduler,
            encode(clip, self.family.written(text)),
            self.negative,
            torch.zeros(shape),
            disable_pbar=True,
            seed=seed,
        )
        return self.latents.taken_in(painted)[0].cpu()

    def read(self, pictures: Tensor) -> Tensor:
        """Latents of pictures (B, H, W, 3), cut and scaled to the size, on the CPU."""
        moved = opaque(pictures).clone().float().movedim(-1, 1)
        width, height = self.size
        fitted = comfy.utils.common_upscale(moved, width, height, "bilinear", "center")
        return self.latents.encode(fitted).cpu()

    def before_and_after(
        self, texts: Sequence[str], seed: int, rows: Prefix | Rows, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pictures (B, H, W, 3) without and with the rows; `before` is used again if given."""
        if before is None:
            before = self._drawn([self.paint(text, seed) for text in texts])
        return before, self._drawn([self.paint(text, seed, rows) for text in texts])

    def _drawn(self, latents: Sequence[Tensor]) -> Tensor:
        return self.latents.decode(torch.stack(list(latents))).movedim(1, -1).cpu()


def sheet(before: Tensor, after: Tensor) -> Image.Image:
    """Pictures (B, H, W, 3) in two rows: without the prefix above, with it below."""
    rows = [torch.cat(list(pictures), 1) for pictures in (before, after)]
    whole = (torch.cat(rows, 0) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(whole.numpy())


def save(picture: Image.Image, path: Path) -> None:
    """Write a preview, without any metadata: names do not belong into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
