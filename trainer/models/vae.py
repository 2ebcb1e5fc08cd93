"""A diffusers VAE as the core's latent port."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor


class VaeLatents:
    """Latents in the scale that the U-Net works in; one picture at a time, to spare memory.

    It runs in the VAE's own dtype, float32 as the project loads it: SDXL's overflows in fp16.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae = vae
        config: Any = vae.config
        self.scaling = float(config.scaling_factor)
        self.channels = int(config.latent_channels)
        self.pixels: int = 2 ** (len(config.block_out_channels) - 1)
        """Pixels on a side of the picture for one place of a latent."""

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, C, h, w), the posterior's mean, of pictures (B, 3, H, W) in [0, 1]."""
        given = (pictures * 2 - 1).to(self.vae.device, self.vae.dtype)
        found: list[Any] = [self.vae.encode(one[None]) for one in given]
        return torch.cat([one.latent_dist.mode() for one in found]).float() * self.scaling

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents (B, C, h, w)."""
        given: Any = (latents / self.scaling).to(self.vae.device, self.vae.dtype)
        found: list[Any] = [self.vae.decode(one[None]) for one in given]
        return (torch.cat([one.sample for one in found]).float() / 2 + 0.5).clamp(0, 1)
