"""The pocket model's networks: the classes of a real Stable Diffusion, a few million weights.

The VAE's place is taken by a fixed rearrangement of 4 x 4 pixels, which loses nothing.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from apl_core.schedule import Schedule

WIDTH, PATCH, LATENT_CHANNELS, LATENT_SIZE = 128, 4, 48, 8
LATENT_SCALE = 1.7
"""Makes the latents' standard deviation about one, as Stable Diffusion's 0.18215 does."""


SCHEDULE = Schedule.scaled_linear(end=0.02)
"""Stable Diffusion's shape of noise levels, going further: 1.6 % of the signal is left at the end.

With SD's own end (6.8 %) a picture this small still shows its background's color through the
noise, so a model learns to read it there and not in the prompt (cf. arXiv 2305.08891).
"""


def to_latents(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, 32, 32) in [0, 1] -> latents (B, 48, 8, 8), rearranged 4 x 4 without loss."""
    return F.pixel_unshuffle(pictures * 2 - 1, PATCH) * LATENT_SCALE


def to_pictures(latents: Tensor) -> Tensor:
    """Latents (B, 48, 8, 8) -> pictures (B, 3, 32, 32) clipped to [0, 1]."""
    return (F.pixel_shuffle(latents / LATENT_SCALE, PATCH) / 2 + 0.5).clamp(0, 1)


def text_config(vocabulary: int, width: int = WIDTH, layers: int = 3) -> CLIPTextConfig:
    """CLIP's text transformer in small; BOS and EOS are the last two tokens of its vocabulary."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def new_text_encoder(vocabulary: int) -> CLIPTextModel:
    """The pocket model's text encoder: 3 layers of width 128."""
    return CLIPTextModel(text_config(vocabulary))


def new_unet(width: int = WIDTH, **other: Any) -> UNet2DConditionModel:
    """A conditional U-Net on 8 x 8 latents for texts of a width; `other` parts of its config.

    The pocket model's predicts x0 (diffusers' "sample").
    """
    blocks: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    }
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 96),
        norm_num_groups=16,
        cross_attention_dim=width,
        attention_head_dim=4,
        **blocks,
        **other,
    )
