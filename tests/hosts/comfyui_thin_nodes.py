"""A pack for ComfyUI: loaders of thin models with random weights, and an output for anything.

`TestClip`, `TestModel` and `TestVae` stand in a graph where a user has loaders of files: what real
files need gigabytes for is built by the host's own classes with a few channels.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfyui_families
import torch
from comfy_extras import nodes_photomaker
from torch import nn

ATTENTION = {"axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Z-Image": (
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 256,
            "cap_feat_dim": 2560,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "qk_norm": True,
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8 / 3,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
            **ATTENTION,
        },
    ),
    "Qwen-Image": (
        "QwenImage",
        {"image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "num_attention_heads": 1},
    ),
    "Krea 2": (
        "Krea2",
        {
            "image_model": "krea2",
            "features": 128,
            "heads": 1,
            "kvheads": 1,
            "layers": 2,
            "multiplier": 1,
            "txtlayers": 12,
            "txtdim": 2560,
        },
    ),
    "Flux.2 Klein 4B": (
        "Flux2",
        {
            "image_model": "flux2",
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "context_in_dim": 7680,
            "hidden_size": 128,
            "mlp_ratio": 3.0,
            "num_heads": 1,
            "depth": 1,
            "depth_single_blocks": 1,
            "axes_dim": [32, 32, 32, 32],
            "theta": 2000,
            "patch_size": 1,
            "qkv_bias": False,
            "ops_bias": False,
            "guidance_embed": False,
            "global_modulation": True,
            "mlp_silu_act": True,
            "txt_ids_dims": [3],
        },
    ),
}
"""By family: the host's class of `supported_models`, and sizes as the host reads them of a file."""

DAMPED = ("proj", "out", "wo.", "w2", "down", "net.2", "lin2")


@cache
def clip(name: str) -> Any:
    """The thin CLIP of a family."""
    if name == "HiDream I1":
        comfyui_families.llama_tokenizer(Path(tempfile.mkdtemp()))
    return comfyui_families.clip_of(comfyui_families.thin(name))


@cache
def model(name: str) -> Any:
    """The thin denoiser of a family, as ComfyUI's loaders give one."""
    kind, sizes = MODELS[name]
    config: Any = getattr(comfy.supported_models, kind)(dict(sizes))
    config.set_inference_dtype(torch.float32, None)
    made = config.get_model({}, "", device="cpu")
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    for part in made.diffusion_model.modules():
        for own, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[own] = nn.Parameter(_drawn(value, generator), requires_grad=False)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(made, device, torch.device("cpu"))


def _drawn(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Numbers for a weight; a large one takes as much memory as a row and a column of it."""
    if value.dim() < 2:
        return 1 + 0.1 * torch.randn(value.shape, generator=generator)
    rows, columns = value.shape[0], value[0].numel()
    line = torch.randn(rows + columns, generator=generator) / columns**0.5
    return line.as_strided((rows, columns), (1, 1)).reshape(value.shape)


class Preview:
    """A VAE of no weights: a pixel for each place of a latent, in the host's own preview colors."""

    def __init__(self, name: str) -> None:
        self._colors = torch.tensor(model(name).model.latent_format.latent_rgb_factors)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Pictures (B, H, W, 3) in [0, 1] of latents (B, C, H, W) or (B, C, 1, H, W)."""
        flat = latent[:, :, 0] if latent.dim() == 5 else latent
        flat = flat.unflatten(1, (len(self._colors), -1)).mean(2)  # Flux.2 packs four places
        seen = torch.einsum("bchw,cr->bhwr", flat.float().cpu(), self._colors)
        return torch.sigmoid(seen)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Nothing, as large as a latent of pictures (B, H, W, 3)."""
        batch, height, width = pixels.shape[:3]
        return torch.zeros(batch, 16, height // 8, width // 8)


class TestClip:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("CLIP",)
    GIVES: ClassVar[Any] = staticmethod(clip)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"family": ([one.name for one in comfyui_families.here()],)}}

    def run(self, family: str) -> tuple[Any]:
        return (type(self).GIVES(family),)


class TestModel(TestClip):
    RETURN_TYPES = ("MODEL",)
    GIVES = staticmethod(model)


class TestVae(TestClip):
    RETURN_TYPES = ("VAE",)
    GIVES = staticmethod(Preview)


class TestPhotoMaker(TestModel):
    """What the host's loader makes of a PhotoMaker file, with one layer and random weights."""

    RETURN_TYPES = ("PHOTOMAKER",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> tuple[Any]:
        sizes = nodes_photomaker.VISION_CONFIG_DICT
        thin = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        with patch.dict(sizes, thin):
            made = nodes_photomaker.PhotoMakerIDEncoder()
        generator = torch.Generator().manual_seed(0)
        for weight in made.parameters():
            weight.data.normal_(0, 0.02, generator=generator)
        return (made,)


class TestGligen(TestPhotoMaker):
    """A file that its node hands on to the sampler as it is."""

    RETURN_TYPES = ("GLIGEN",)

    def run(self) -> tuple[Any]:
        return (object(),)


class TestVision(TestPhotoMaker):
    """What a vision encoder's file says of a picture in LLaVA's way."""

    RETURN_TYPES = ("CLIP_VISION_OUTPUT",)

    def run(self) -> tuple[Any]:
        seen = comfy.clip_vision.Output()
        seen["mm_projected"] = torch.zeros(1, 576, 4096)
        return (seen,)


class Anything(str):
    """A type that takes all others."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class TestTakes:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "run", (), True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": (Anything("*"),)}}

    def run(self, value: Any) -> dict[str, Any]:
        return {"ui": {"text": [type(value).__name__]}}


FILES = (TestPhotoMaker, TestGligen, TestVision)
NODES = (TestClip, TestModel, TestVae, TestTakes, *FILES)
NODE_CLASS_MAPPINGS = {one.__name__: one for one in NODES}
