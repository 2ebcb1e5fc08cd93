"""What a checkpoint is loaded as: its parts behind the core's ports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from apl_core.errors import ConfigError
from apl_core.ports import DenoiserPort, TextEncoderPort
from apl_core.schedule import Prediction

from ..models.vae import VaeLatents
from ..sampling import Sampler
from .family import CheckpointInfo
from .pipelines import PipelineInfo
from .quantize import Quantize

Info = CheckpointInfo | PipelineInfo
"""What was found out about a checkpoint."""


@dataclass(frozen=True)
class Options:
    """How a checkpoint is to be loaded; `clip_skip` counts as hosts do, 1 being the last layer.

    `size` of the pictures in pixels, the family's own by default: noise levels may depend on it.
    `quantize` the frozen blocks of a pipeline; `checkpointing` computes its language model again on
    the way back.
    """

    tokenizer: Path | None = None
    clip_skip: int | None = None
    prediction: Prediction | None = None
    dtype: torch.dtype = torch.float32
    text_dtype: torch.dtype = torch.float32
    device: str = "cpu"
    size: int | None = None
    quantize: Quantize | None = None
    checkpointing: bool = False


class Encoder(TextEncoderPort, Protocol):
    """A text encoder that can look at texts before a long run."""

    def check(self, texts: Iterable[str]) -> None:
        """PromptError if one of the texts could not be encoded."""
        ...


@dataclass(frozen=True)
class CheckpointModel:
    """A real text-to-image model behind the core's ports."""

    recognized: Info
    encoder: Encoder
    denoiser: DenoiserPort
    latents: VaeLatents

    @property
    def name(self) -> str:
        """Name for cards and reports."""
        return self.recognized.path.stem

    @property
    def family(self) -> str:
        """Its family as a prefix's card says it; empty where the encoders alone tell it."""
        return self.recognized.card_family

    def latent_shape(self, size: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of a picture of `size` pixels, the family's own by default."""
        side = (size or self.recognized.size) // self.latents.pixels
        return self.latents.channels, side, side

    def sampler(
        self,
        steps: int | None = None,
        guidance: float | None = None,
        size: int | None = None,
        batch: int = 4,
    ) -> Sampler:
        """DDIM, which is Euler's steps in a flow, with classifier-free guidance; the family's own
        steps and scale by default. ConfigError for more steps than a distilled model has."""
        shape, found = self.latent_shape(size), self.recognized
        scale = found.guidance if guidance is None else guidance
        number = found.steps if steps is None else steps
        if number > self.denoiser.schedule.steps:
            raise ConfigError(
                f"draw in {number} steps",
                f"this model is distilled to {found.steps}",
                f"ask for {found.steps} steps or fewer",
            )
        return Sampler(self.encoder, self.denoiser, self.latents, shape, scale, number, batch)
