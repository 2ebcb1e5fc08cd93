"""What `apl bench peers` gives to trainers: a random model, pictures, and a tokenizer's cache."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from apl_core.atomic import write_text
from apl_trainer.checkpoints.tokenizer import openai_tokenizer, write_vocabulary
from apl_trainer.metadata_jsonl import CaptionedPicture, write_metadata

from .train import CLIP_L, SD15, SDXL, random_network

NAMES = ("Ann Lee", "Bo Marsh", "Cy Novak", "Di Okoye")
_PER_KIND = 4
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_CLIP = "openai/clip-vit-large-patch14"
_SHORT_SDXL = {**SDXL, "transformer_layers_per_block": (1, 1, 2)}
_SHORT_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 6,
    "num_attention_heads": 20,
    "vocab_size": 49408,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
"""SDXL in its published widths with fewer layers: whole, it does not fit in 24 GB beside a peer."""


@dataclass(frozen=True)
class Materials:
    """A random model, pictures in the forms that the programs read, and a tokenizer's cache."""

    model: Path
    pictures: Path
    dataset: Path
    kohya: Path
    tokenizers: Path
    family: str = "sd15"

    @staticmethod
    def made(folder: Path, size: int, family: str = "sd15") -> Materials:
        """Write them all into a folder; what is there stays."""
        parts = ("model", "plain", "data", "kohya", "words")
        found = Materials(*(folder / part for part in parts), family=family)
        if not (found.model / "model_index.json").exists():
            _write_model(found.model, size, family)
            words = found.tokenizers / _CLIP.replace("/", "_")
            words.mkdir(parents=True)
            write_vocabulary(words)  # which every version of transformers reads
            config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
            write_text(words / "tokenizer_config.json", json.dumps(config))
        rng = np.random.default_rng(0)
        rows: list[CaptionedPicture] = []
        for kind in ("identity", "things", "people"):
            for number in range(_PER_KIND):
                picture = Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8))
                name = NAMES[number] if kind == "identity" else ""
                text = {
                    "identity": f"a photo of {name}",
                    "things": f"a photo of {number + 2} red houses",
                    "people": f"a photo of an old woman with {number + 2} hats",
                }[kind]
                file = f"{kind}-{number}.png"
                for place in (found.pictures, found.dataset, found.kohya / "10_person"):
                    place.mkdir(parents=True, exist_ok=True)
                    picture.save(place / file)
                neutral = "a photo of a person" if name else ""
                rows.append(CaptionedPicture(file, text, kind, name, neutral))
        write_metadata(found.dataset, rows)
        return found


def _write_model(folder: Path, size: int, family: str) -> None:
    unet = {**(SD15 if family == "sd15" else _SHORT_SDXL), "sample_size": size // 8}
    parts: dict[str, Any] = {
        "vae": _random(lambda: AutoencoderKL(**_VAE)),
        "text_encoder": _random(lambda: CLIPTextModel(_clip(CLIP_L))),
        "tokenizer": _words(),
        "unet": _random(lambda: UNet2DConditionModel(**unet)),
        "scheduler": DDIMScheduler(
            **_BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False
        ),
    }
    if family == "sd15":
        none = {"safety_checker": None, "feature_extractor": None}
        kind: Any = StableDiffusionPipeline
        pipe = kind(**parts, **none, requires_safety_checker=False)
    else:
        parts["tokenizer_2"] = _words("!")
        parts["text_encoder_2"] = _random(lambda: CLIPTextModelWithProjection(_clip(_SHORT_G)))
        kind = StableDiffusionXLPipeline
        pipe = kind(**parts, add_watermarker=False)
    pipe.save_pretrained(folder)
    for file in folder.glob("text_encoder*/model.safetensors"):
        published = {  # transformers since 5.6 writes other names, which its older versions lack
            key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": one
            for key, one in load_file(file).items()
        }
        save_file(published, file, {"format": "pt"})


def _random(build: Callable[[], nn.Module]) -> Any:
    return random_network(build, torch.float32, torch.device("cpu"))


def _clip(sizes: Mapping[str, Any]) -> CLIPTextConfig:
    return CLIPTextConfig(**{**sizes, "bos_token_id": 49406, "eos_token_id": 49407})


def _words(pad: str = "<|endoftext|>") -> Any:
    words = copy.deepcopy(openai_tokenizer())  # others share it
    words.model_max_length = 77
    words.pad_token = pad
    return words
