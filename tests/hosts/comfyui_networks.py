"""Thin MODELs and VAEs of ComfyUI's model families, with random weights, to learn on."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from comfyui_checkpoint import VAE, random_weights
from torch import nn

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 128,
    "mlp_ratio": 1.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
FLUX2 = {
    **FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "guidance_embed": False,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "n_heads": 1,
    "n_kv_heads": 1,
    "qk_norm": True,
    "axes_lens": [300, 512, 512],
    "multiple_of": 8,
    "ffn_dim_multiplier": 1.0,
}
BLOCKS = {"num_layers": 1, "num_attention_heads": 1}


@dataclass(frozen=True)
class Network:
    """The host's class of a family, its sizes, and the kind of its latents."""

    kind: str
    sizes: dict[str, Any]
    latents: str = "kl16"


NETWORKS = {
    "Z-Image": Network(
        "ZImage",
        {
            **LUMINA,
            "dim": 256,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 2560,
            "axes_dims": [32, 48, 48],
            "rope_theta": 256.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
    ),
    "Lumina 2": Network(
        "Lumina2", {**LUMINA, "dim": 96, "cap_feat_dim": 2304, "axes_dims": [32, 32, 32]}
    ),
    "Qwen-Image": Network(
        "QwenImage", {"image_model": "qwen_image", "in_channels": 64, **BLOCKS}, "wan"
    ),
    "Krea 2": Network(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 128,
            "heads": 1,
            "kvheads": 1,
            "multiplier": 1,
            "layers": 1,
        },
        "wan",
    ),
    "Mage-Flow": Network("MageFlow", {"image_model": "mage_flow", **BLOCKS}, "kl32"),
    "Flux.2 Klein 4B": Network("Flux2", {**FLUX2, "context_in_dim": 7680}, "kl32"),
    "Flux.2 Klein 9B": Network("Flux2", {**FLUX2, "context_in_dim": 12288}, "kl32"),
    "Flux.2 dev": Network(
        "Flux2", {**FLUX2, "context_in_dim": 15360, "guidance_embed": True}, "kl32"
    ),
    "Flux.1": Network("Flux", FLUX),
    "Chroma": Network(
        "Chroma",
        {
            **{name: one for name, one in FLUX.items() if name != "guidance_embed"},
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "vec_in_dim": None,
            "in_dim": 64,
            "out_dim": 128,
            "hidden_dim": 32,
            "n_layers": 1,
        },
    ),
    "SD 3.5": Network(
        "SD3",
        {
            "in_channels": 16,
            "patch_size": 2,
            "out_channels": 16,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 2048,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 128},
            },
            "num_patches": 256,
            "pos_embed_max_size": 16,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "x_block_self_attn_layers": [0],
        },
    ),
    "Wan": Network(
        "WAN21_T2V",
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": 128,
            "ffn_dim": 32,
            "num_heads": 1,
            "num_layers": 1,
        },
        "wan",
    ),
    "HiDream I1": Network(
        "HiDream",
        {
            "image_model": "hidream",
            "attention_head_dim": 128,
            "axes_dims_rope": [64, 32, 32],
            "caption_channels": [4096, 4096],
            "max_resolution": [128, 128],
            "in_channels": 16,
            "out_channels": 16,
            "llama_layers": [0, 1],
            "num_attention_heads": 1,
            "num_layers": 1,
            "num_single_layers": 1,
            "patch_size": 2,
            "text_emb_dim": 2048,
        },
    ),
    "ERNIE": Network(
        "ErnieImage",
        {
            "image_model": "ernie",
            "hidden_size": 128,
            "num_attention_heads": 1,
            "num_layers": 1,
            "ffn_hidden_size": 32,
        },
        "kl32",
    ),
}


@cache
def model_of(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A MODEL as ComfyUI's loaders make it, with random weights."""
    network = NETWORKS[name]
    config = getattr(comfy.supported_models, network.kind)(_known(network.sizes))
    config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
    model = config.get_model({}, "")
    weights = model.diffusion_model.state_dict()
    for at, (key, value) in enumerate(sorted(weights.items())):
        value.copy_(_random(key, value.shape, at).to(value.dtype))
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    cpu = torch.device("cpu")
    return kind(model, load_device=cpu, offload_device=cpu)


def _known(sizes: dict[str, Any]) -> dict[str, Any]:
    """Those of a network's sizes that this host's class has."""
    module = {"flux": "flux.Flux", "flux2": "flux.Flux", "chroma": "chroma.Chroma"}
    if sizes.get("image_model") not in module:
        return sizes
    package, _, kind = module[sizes["image_model"]].partition(".")
    params = getattr(importlib.import_module(f"comfy.ldm.{package}.model"), f"{kind}Params")
    return {k: v for k, v in sizes.items() if k == "image_model" or k in params.__annotations__}


def _random(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """Random numbers that keep what goes through a layer at about its size."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) < 2:
        return 0.1 * drawn + float("norm" in name and name.endswith(("weight", "scale")))
    return drawn * shape[1:].numel() ** -0.5


@cache
def vae_of(name: str) -> Any:
    """A VAE for a family's latents, with random weights."""
    latents = NETWORKS[name].latents
    return comfy.sd.VAE(sd=random_weights(_autoencoder(latents), 7))


def _autoencoder(latents: str) -> nn.Module:
    if latents == "wan":
        wan: Any = importlib.import_module("comfy.ldm.wan.vae")
        sizes = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
        steps = {"temperal_downsample": [False, True, True], "dropout": 0.0}
        read = "decoder.head.0.gamma" in Path(str(comfy.sd.__file__)).read_text("utf-8")
        return wan.WanVAE(dim=8 if read else 96, z_dim=16, **sizes, **steps)
    kl: Any = importlib.import_module("comfy.ldm.models.autoencoder")
    channels = int(latents.removeprefix("kl"))
    config = {**VAE, "z_channels": channels, "batch_norm_latent": channels == 32}
    return kl.AutoencoderKL(ddconfig=config, embed_dim=channels)
