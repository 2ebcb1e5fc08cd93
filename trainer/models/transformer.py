"""Diffusion transformers that learned by flow matching, as the core's denoiser port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apl_core.ports import Conditioning
from apl_core.schedule import Prediction, Schedule

Call = Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
"""Network, x_t (B, C, H, W), noise s (B,) in (0, 1], texts -> its output (B, C, H, W)."""


class FlowDenoiser:
    """Noise predictions of a transformer on the path of a rectified flow.

    It predicts the velocity, or the clean latent, which a small network learns much faster (arXiv
    2511.13720). `call` runs it as its family's pipeline in diffusers does.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, call: Call, kind: Prediction = "flow"
    ) -> None:
        self.network, self.schedule, self._call = network, schedule, call
        self.kind: Prediction = kind

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The transformer."""
        return [self.network]

    @property
    def device(self) -> torch.device:
        """Where x_t is expected."""
        return next(self.network.parameters()).device

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Noise prediction (B, C, H, W) in float32."""
        _, sigma = self.schedule.coefficients(t, x_t)
        found = self.output(x_t, sigma.flatten(), conditioning)
        return self.schedule.to_eps(found, x_t, t, self.kind)

    def output(self, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
        """What the network says (B, C, H, W), in float32, of x_t with a share `noise` (B,)."""
        dtype = next(self.network.parameters()).dtype
        pooled = None if texts.pooled is None else texts.pooled.to(dtype)
        given = Conditioning(texts.cross.to(dtype), pooled, texts.mask)
        return self._call(self.network, x_t.to(dtype), noise.to(dtype), given).float()


def lumina2(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Lumina 2's transformer; its time, and the sign of a velocity, run from noise to picture."""
    return network(x_t, 1 - noise, texts.cross, _mask(texts)).sample


def pixart(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """PixArt's transformer with a time from 0 to 1000."""
    out = network(
        x_t,
        encoder_hidden_states=texts.cross,
        timestep=1000 * noise,
        encoder_attention_mask=_mask(texts),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    )
    return out.sample


def _mask(texts: Conditioning) -> Tensor:
    if texts.mask is not None:
        return texts.mask
    return torch.ones(texts.cross.shape[:2], dtype=torch.bool, device=texts.cross.device)
