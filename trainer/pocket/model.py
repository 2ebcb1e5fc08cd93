"""A built pocket model, loaded: its world, its networks behind the core's ports, its recognizer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel

from apl_core.encoding import ReferenceEncoder
from apl_core.errors import AplError
from apl_core.ports import DenoiserPort, TextEncoderPort

from ..checkpoints.model_paths import is_pocket, no_model
from ..models.clip_text import ClipTower
from ..models.unet import UnetDenoiser
from ..run_paths import BUILT_IN
from ..sampling import Sampler
from .networks import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    SCHEDULE,
    new_text_encoder,
    new_unet,
    to_latents,
    to_pictures,
)
from .recognizer import Recognizer
from .vocabulary import read_vocabulary
from .world import World

log = logging.getLogger("apl")

RECOGNIZER = "recognizer.safetensors"
_OLD_RECOGNIZER = "recogniser.safetensors"  # read until 0.2
GUIDANCE, STEPS, ETA = 3.0, 20, 1.0
GUIDED = range(200, 850)
"""Steps of `SCHEDULE` at which guidance pulls; the others take one run of the U-Net, not two."""


class PocketLatents:
    """The fixed way between the pocket world's pictures and latents."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, 48, 8, 8) of pictures (B, 3, 32, 32) in [0, 1]."""
        return to_latents(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, 32, 32) in [0, 1] of latents (B, 48, 8, 8)."""
        return to_pictures(latents)


@dataclass(frozen=True)
class WorldModel:
    """A text-to-image model that draws a pocket world, and the recognizer that reads it."""

    folder: Path
    world: World
    encoder: TextEncoderPort
    denoiser: DenoiserPort
    recognizer: Recognizer

    @property
    def name(self) -> str:
        """Name for cards and reports."""
        return self.folder.name

    def sampler(self, steps: int = STEPS, guidance: float = GUIDANCE) -> Sampler:
        """DDPM in few steps, with guidance in the middle: fresh noise clears faces up."""
        shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        return Sampler(
            self.encoder,
            self.denoiser,
            PocketLatents(),
            shape,
            guidance,
            steps,
            eta=ETA,
            guided=self._guided(),
        )

    def _guided(self) -> range:
        """`GUIDED` in steps of the model's own schedule: those with as much signal left."""
        own, pocket = (s.alphas_cumprod for s in (self.denoiser.schedule, SCHEDULE))
        first, stop = (int((own - pocket[t]).abs().argmin()) for t in (GUIDED.start, GUIDED.stop))
        return range(first, stop)


@dataclass(frozen=True)
class PocketModel(WorldModel):
    """The pocket model: CLIP's text transformer and a U-Net, a few million weights."""

    encoder: ReferenceEncoder
    denoiser: UnetDenoiser

    @property
    def name(self) -> str:
        """The world is named by its seed."""
        return f"pocket world {self.world.seed}"


def load_pocket(folder: Path = BUILT_IN) -> PocketModel:
    """Load a pocket model's folder; AplError if it is not a finished one."""
    if folder != BUILT_IN and not is_pocket(folder):
        raise no_model(folder)
    recognizes = recognizer_file(folder)
    files = ("world.json", "vocab.json", "merges.txt", "model.safetensors", recognizes.name)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        begun = (folder / "build").is_dir()
        fix = f", or go on with `apl pocket build --out {folder}`" if begun else ""
        raise AplError(
            f"load the pocket model in {folder}",
            f"{', '.join(missing)} is missing",
            "give the folder of a finished build" + fix,
        )
    world = World.load(folder / "world.json")
    tokenizer = read_vocabulary(folder)
    text, unet = load_networks(folder, len(tokenizer))
    recognizer = load_recognizer(recognizes, len(world.people))
    for network in (text, unet):
        network.eval().requires_grad_(False)
    tower = ClipTower("pocket", text, tokenizer, pad=cast(int, tokenizer.eos_token_id))
    denoiser = UnetDenoiser(unet, SCHEDULE, "x0")
    return PocketModel(folder, world, ReferenceEncoder([tower]), denoiser, recognizer)


def recognizer_file(folder: Path) -> Path:
    """Where a pocket model's recognizer is, or has to be; an old name of it is told in a line."""
    new, old = folder / RECOGNIZER, folder / _OLD_RECOGNIZER
    if new.is_file() or not old.is_file():
        return new
    log.warning("%s is called %s from version 0.2 on: rename it", old, RECOGNIZER)
    return old


def load_recognizer(file: Path, people: int) -> Recognizer:
    """A recognizer of so many people from its file, in float32 and frozen."""
    recognizer = Recognizer(people)
    recognizer.load_state_dict(_part(load_file(file), ""))
    return recognizer.eval().requires_grad_(False)


def load_networks(folder: Path, vocabulary: int) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """The text encoder and the U-Net of a folder, in float32."""
    weights = load_file(folder / "model.safetensors")
    text, unet = new_text_encoder(vocabulary), new_unet()
    text.load_state_dict(_part(weights, "text."))
    unet.load_state_dict(_part(weights, "unet."))
    return text, unet


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights under a prefix without it; halves in float32, counts stay whole numbers."""
    return {
        k.removeprefix(prefix): v.float() if v.is_floating_point() else v
        for k, v in weights.items()
        if k.startswith(prefix)
    }
