"""A diffusers U-Net as the core's denoiser port."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from apl_core.ports import Conditioning
from apl_core.schedule import Prediction, Schedule


class UnetDenoiser:
    """Noise predictions of a conditional U-Net that predicts eps, v or x0."""

    def __init__(self, unet: UNet2DConditionModel, schedule: Schedule, kind: Prediction) -> None:
        self.unet, self.schedule = unet, schedule
        self.kind: Prediction = kind

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
        output = self.unet(x_t.to(dtype), t, conditioning.cross.to(dtype)).sample
        return self.schedule.to_eps(output.float(), x_t, t, self.kind)
