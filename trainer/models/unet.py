"""A diffusers U-Net as the core's denoiser port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from apl_core.errors import FitError
from apl_core.ports import Conditioning
from apl_core.schedule import Prediction, Schedule


class UnetDenoiser:
    """Noise predictions of a conditional U-Net that predicts eps, v, x0 or a flow's velocity.

    An SDXL U-Net is told the size of the picture, `pixels` times that of the latent, and gets the
    pooled text beside the hidden states.
    """

    def __init__(self, unet: UNet2DConditionModel, schedule: Schedule, kind: Prediction) -> None:
        self.unet, self.schedule = unet, schedule
        self.kind: Prediction = kind
        self.pixels = 8

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The U-Net."""
        return [self.unet]

    @property
    def device(self) -> torch.device:
        """Where x_t is expected."""
        return self.unet.device

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Noise prediction (B, C, H, W) in float32."""
        dtype = self.unet.dtype
        cross, flow = conditioning.cross.to(dtype), self.schedule.flow
        time = t if flow is None else 1000 * flow.to(t.device)[t]
        given: Any = self.unet(
            x_t.to(dtype), time, cross, added_cond_kwargs=self._added(x_t, conditioning)
        )
        return self.schedule.to_eps(given.sample.float(), x_t, t, self.kind)

    def _added(self, x_t: Tensor, conditioning: Conditioning) -> dict[str, Tensor] | None:
        """What SDXL takes besides: pooled text, and original size, crop and target size (B, 6)."""
        config: Any = self.unet.config
        if config.addition_embed_type != "text_time":
            return None
        pooled = conditioning.pooled
        if pooled is None:
            raise FitError(
                "predict noise",
                "the U-Net wants pooled texts and the text encoders give none",
                "use the text encoders of an SDXL model",
            )
        height, width = (self.pixels * int(side) for side in x_t.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=x_t.device)
        ids = sizes.to(self.unet.dtype).expand(len(x_t), 6)
        return {"text_embeds": pooled.to(self.unet.dtype), "time_ids": ids}
