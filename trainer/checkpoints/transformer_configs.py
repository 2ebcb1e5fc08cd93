"""The configs of diffusion transformers and text encoders, worked out from their weights' shapes.

What shapes do not tell is what the released models have: diffusers' own defaults for transformers,
the numbers below for language models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from .ldm_configs import LAYERS

Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]


def count(shapes: Shapes, prefix: str) -> int:
    """Numbered parts under a prefix; ValueError for more than any model has."""
    found = [int(m[1]) for name in shapes if (m := re.match(rf"{re.escape(prefix)}(\d+)\.", name))]
    if max(found, default=0) > LAYERS:
        raise ValueError(f"{prefix}{max(found)}")
    return max(found, default=-1) + 1


def _heads(shapes: Shapes, width: int, block: str) -> Config:
    head = shapes[f"{block}.attn.norm_q.weight"][0]
    return {"attention_head_dim": head, "num_attention_heads": width // head}


def _z_image(shapes: Shapes) -> Config:
    width = shapes["all_x_embedder.2-1.weight"][0]
    head = shapes["layers.0.attention.norm_q.weight"][0]
    return {
        "dim": width,
        "n_layers": count(shapes, "layers."),
        "n_refiner_layers": count(shapes, "noise_refiner."),
        "n_heads": width // head,
        "n_kv_heads": shapes["layers.0.attention.to_k.weight"][0] // head,
        "cap_feat_dim": shapes["cap_embedder.0.weight"][0],
    }


def _lumina2(shapes: Shapes) -> Config:
    width = shapes["x_embedder.weight"][0]
    head, inner = (
        shapes[f"layers.0.{name}.weight"][0] for name in ("attn.norm_q", "feed_forward.linear_1")
    )
    usual = inner == 4 * width  # else as many as there are: int() rounds down
    free = {} if usual else {"multiple_of": 1, "ffn_dim_multiplier": (inner + 0.5) / (4 * width)}
    return {
        "hidden_size": width,
        "num_layers": count(shapes, "layers."),
        "num_refiner_layers": count(shapes, "noise_refiner."),
        "num_attention_heads": width // head,
        "num_kv_heads": shapes["layers.0.attn.to_k.weight"][0] // head,
        "cap_feat_dim": shapes["time_caption_embed.caption_embedder.0.weight"][0],
        **free,
    }


def _qwen_image(shapes: Shapes) -> Config:
    width, channels = shapes["img_in.weight"]
    return {
        "in_channels": channels,
        "num_layers": count(shapes, "transformer_blocks."),
        "joint_attention_dim": shapes["txt_in.weight"][1],
        **_heads(shapes, width, "transformer_blocks.0"),
    }


def _krea2(shapes: Shapes) -> Config:
    width, channels = shapes["img_in.weight"]
    block, text = "transformer_blocks.0", "text_fusion.layerwise_blocks.0"
    heads = _heads(shapes, width, block)
    of_text = _heads(shapes, shapes[f"{text}.attn.to_q.weight"][0], text)
    kept = shapes[f"{text}.attn.to_k.weight"][0] // of_text["attention_head_dim"]
    return {
        "in_channels": channels,
        "num_layers": count(shapes, "transformer_blocks."),
        "num_key_value_heads": shapes[f"{block}.attn.to_k.weight"][0]
        // heads["attention_head_dim"],
        "intermediate_size": shapes[f"{block}.ff.gate.weight"][0],
        "timestep_embed_dim": shapes["time_embed.linear_1.weight"][1],
        "text_hidden_dim": shapes["txt_in.norm.weight"][0],
        "num_text_layers": shapes["text_fusion.projector.weight"][1],
        "text_num_attention_heads": of_text["num_attention_heads"],
        "text_num_key_value_heads": kept,
        "text_intermediate_size": shapes[f"{text}.ff.gate.weight"][0],
        "num_layerwise_text_blocks": count(shapes, "text_fusion.layerwise_blocks."),
        "num_refiner_text_blocks": count(shapes, "text_fusion.refiner_blocks."),
        **heads,
    }


def _double(shapes: Shapes) -> Config:
    """What Flux and its kin have in common."""
    width, channels = shapes["x_embedder.weight"]
    return {
        "in_channels": channels,
        "num_layers": count(shapes, "transformer_blocks."),
        "num_single_layers": count(shapes, "single_transformer_blocks."),
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        **_heads(shapes, width, "transformer_blocks.0"),
    }


def _guided(shapes: Shapes) -> Config:
    return {"guidance_embeds": any("guidance_embedder" in name for name in shapes)}


def _flux(shapes: Shapes) -> Config:
    pooled = shapes["time_text_embed.text_embedder.linear_1.weight"][1]
    return {**_double(shapes), **_guided(shapes), "pooled_projection_dim": pooled}


def _flux2(shapes: Shapes) -> Config:
    return {**_double(shapes), **_guided(shapes)}


def _chroma(shapes: Shapes) -> Config:
    hidden, channels = shapes["distilled_guidance_layer.in_proj.weight"]
    return {
        **_double(shapes),
        "approximator_num_channels": channels,
        "approximator_hidden_dim": hidden,
        "approximator_layers": count(shapes, "distilled_guidance_layer.layers."),
    }


def _sd3(shapes: Shapes) -> Config:
    width = shapes["pos_embed.proj.weight"][0]
    layers = count(shapes, "transformer_blocks.")
    both = [i for i in range(layers) if f"transformer_blocks.{i}.attn2.to_q.weight" in shapes]
    normed = "transformer_blocks.0.attn.norm_q.weight" in shapes
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0] if normed else 64
    return {
        "num_layers": layers,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed.pos_embed"][1]),
        "dual_attention_layers": both,
        "qk_norm": "rms_norm" if normed else None,
    }


TRANSFORMERS: Mapping[str, Callable[[Shapes], Config]] = {
    "ZImageTransformer2DModel": _z_image,
    "Lumina2Transformer2DModel": _lumina2,
    "QwenImageTransformer2DModel": _qwen_image,
    "Krea2Transformer2DModel": _krea2,
    "Flux2Transformer2DModel": _flux2,
    "FluxTransformer2DModel": _flux,
    "ChromaTransformer2DModel": _chroma,
    "SD3Transformer2DModel": _sd3,
}
"""Arguments for each class from the shapes of its weights; KeyError where one is missing."""

_QWEN: Config = {"rms_norm_eps": 1e-6, "max_position_embeddings": 40960}
_LANGUAGE: Mapping[str, tuple[str, int, Config]] = {
    "qwen3_4b": ("qwen3", 128, {**_QWEN, "rope_theta": 1e6}),
    "qwen3_8b": ("qwen3", 128, {**_QWEN, "rope_theta": 1e6}),
    "qwen25_7b": (
        "qwen2_5_vl_text",
        128,
        {
            **_QWEN,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        },
    ),
    "qwen3vl_4b": (
        "qwen3_vl_text",
        128,
        {
            **_QWEN,
            "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]},
        },
    ),
    "gemma2_2b": (
        "gemma2",
        256,
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "query_pre_attn_scalar": 256},
    ),
    "mistral3_24b": (
        "mistral",
        128,
        {
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e9,
            "max_position_embeddings": 131072,
            "sliding_window": None,
        },
    ),
}
"""Type, width of a head, and what no shape tells, of each language model."""


def language_config(key: str, shapes: Shapes) -> Config:
    """The config of a language model with names as transformers has them, without `model.`."""
    kind, head, rest = _LANGUAGE[key]
    vocabulary, width = shapes["embed_tokens.weight"]
    layer = "layers.0."
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "head_dim": head,
        "intermediate_size": shapes[layer + "mlp.gate_proj.weight"][0],
        "num_hidden_layers": count(shapes, "layers."),
        "num_attention_heads": shapes[layer + "self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": shapes[layer + "self_attn.k_proj.weight"][0] // head,
        **rest,
    }


def t5_config(shapes: Shapes) -> Config:
    """The config of a T5 encoder (v1.1, gated)."""
    block = "encoder.block.0.layer."
    heads = shapes[block + "0.SelfAttention.relative_attention_bias.weight"][1]
    vocabulary, width = shapes["shared.weight"]
    return {
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": width,
        "num_heads": heads,
        "d_kv": shapes[block + "0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes[block + "1.DenseReluDense.wi_0.weight"][0],
        "num_layers": count(shapes, "encoder.block."),
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "is_encoder_decoder": False,
    }
