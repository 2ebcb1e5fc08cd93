# pyright: reportMissingImports=false
"""ComfyUI's loaded VAE as the way between pictures and the latents that a MODEL works in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ComfyLatents:
    """The way between pictures and latents, one picture at a time.

    Latents are (C, h, w), or (C, 1, h, w) where the model works on videos.
    """

    def __init__(self, vae: Any, model: Any) -> None:
        self.vae, self.model = vae, model

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, C, ...) of the latent of a picture of this size in pixels, or next to it."""
        kind, pixels = self.model.model.latent_format, self.vae.spacial_compression_encode()
        frames = (1,) * (kind.latent_dimensions - 2)
        return (1, kind.latent_channels, *frames, height // pixels, width // pixels)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, C, ...) of pictures (B, 3, H, W) in [0, 1]."""
        found = [self.vae.encode(one[None].movedim(1, -1)) for one in pictures]
        return torch.cat([self.taken_in(one) for one in found])

    def taken_in(self, latent: Tensor) -> Tensor:
        """A latent (1, C, ...) of the host's nodes as the network works in it."""
        three = self.model.model.latent_format.latent_dimensions == 3
        shaped = latent.unsqueeze(2) if three and latent.dim() == 4 else latent
        return self.model.model.process_latent_in(shaped.clone().float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents."""
        found = [self.vae.decode(self.model.model.process_latent_out(one[None])) for one in latents]
        flat = [one.reshape(-1, *one.shape[-3:])[:1] for one in found]
        return torch.cat(flat).clone().float().movedim(-1, 1).clamp(0, 1)
