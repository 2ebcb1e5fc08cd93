"""The VAEs of diffusers as the core's latent port."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class VaeLatents:
    """Latents in the scale that the denoiser works in; one picture at a time, to spare memory.

    It runs in the VAE's own dtype, float32 as the project loads it: SDXL's overflows in fp16.
    """

    def __init__(self, vae: nn.Module) -> None:
        self.vae: Any = vae
        self._scale, self._shift = self._numbers(self.vae.config)
        self.channels, self.pixels = self._size(self.vae.config)
        """Channels of a latent, and pixels on a side of the picture for one place of it."""

    def _numbers(self, config: Any) -> tuple[Any, Any]:
        return float(config.scaling_factor), float(config.get("shift_factor") or 0)

    def _size(self, config: Any) -> tuple[int, int]:
        return int(config.latent_channels), 2 ** (len(config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, C, h, w), the posterior's mean, of pictures (B, 3, H, W) in [0, 1]."""
        given = (pictures * 2 - 1).to(self.vae.device, self.vae.dtype)
        found = torch.cat([self._encoded(one[None]) for one in given]).float()
        return (found - _like(self._shift, found)) * _like(self._scale, found)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents (B, C, h, w)."""
        raw = latents / _like(self._scale, latents) + _like(self._shift, latents)
        given = raw.to(self.vae.device, self.vae.dtype)
        found = torch.cat([self._decoded(one[None]) for one in given]).float()
        return (found / 2 + 0.5).clamp(0, 1)

    def _encoded(self, picture: Tensor) -> Tensor:
        return self.vae.encode(picture).latent_dist.mode()

    def _decoded(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent).sample


class VideoLatents(VaeLatents):
    """Qwen-Image's VAE, which is one of videos: every channel has a scale of its own."""

    def _numbers(self, config: Any) -> tuple[Any, Any]:
        return 1 / torch.tensor(config.latents_std), torch.tensor(config.latents_mean)

    def _size(self, config: Any) -> tuple[int, int]:
        return int(config.z_dim), 2 ** len(config.temperal_downsample)

    def _encoded(self, picture: Tensor) -> Tensor:
        return super()._encoded(picture[:, :, None])[:, :, 0]

    def _decoded(self, latent: Tensor) -> Tensor:
        return super()._decoded(latent[:, :, None])[:, :, 0]


class PackedLatents(VaeLatents):
    """Flux.2's VAE: places in packs of 2 x 2, normed as the VAE's batch norm remembers them."""

    def _numbers(self, config: Any) -> tuple[Any, Any]:
        norm = self.vae.bn
        return 1 / (norm.running_var + config.batch_norm_eps).sqrt(), norm.running_mean

    def _size(self, config: Any) -> tuple[int, int]:
        channels, pixels = super()._size(config)
        return 4 * channels, 2 * pixels

    def _encoded(self, picture: Tensor) -> Tensor:
        return pixel_unshuffle(super()._encoded(picture), 2)

    def _decoded(self, latent: Tensor) -> Tensor:
        return super()._decoded(pixel_shuffle(latent, 2))


def latents_of(vae: nn.Module) -> VaeLatents:
    """The latent port of a diffusers VAE, told by what it has."""
    if hasattr(vae, "bn"):
        return PackedLatents(vae)
    has: Any = vae.config
    return (VideoLatents if "temperal_downsample" in has else VaeLatents)(vae)


def _like(number: Any, latents: Tensor) -> Any:
    """A number, or one for each channel, to be multiplied with latents (B, C, h, w)."""
    if not isinstance(number, Tensor):
        return number
    return number.detach().to(latents.device, latents.dtype).reshape(1, -1, 1, 1)
