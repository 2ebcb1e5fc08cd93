"""CLIP text encoders out of a checkpoint: transformers' classes filled from three layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .ldm_configs import LAYERS

_HEAD_WIDTH = 64
_FROM_OPEN_CLIP = (
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^ln_final\.", "final_layer_norm."),
)


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of open_clip or transformers, old or new, under names without `text_model.`."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.removeprefix("text_model.")
        if name.endswith(("position_ids", "logit_scale")):
            continue
        joined = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if joined:
            place = f"encoder.layers.{joined[1]}.self_attn."
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"{place}{part}_proj.{joined[2]}"] = piece.contiguous()
        elif name == "text_projection":
            found["text_projection.weight"] = value.T.contiguous()
        else:
            for pattern, replacement in _FROM_OPEN_CLIP:
                name = re.sub(pattern, replacement, name)
            found[name] = value
    return found


def text_config(shapes: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """Arguments for CLIPTextConfig from plain names; `quick`: OpenAI's activation, not open_clip's.

    `shapes` maps plain names to tensors. CLIP's heads are 64 wide; BOS and EOS are the last tokens.
    """
    vocabulary, width = shapes["embeddings.token_embedding.weight"].shape
    layers = [int(m[1]) for n in shapes if (m := re.match(r"encoder\.layers\.(\d+)\.", n))]
    projection = shapes.get("text_projection.weight")
    if max(layers, default=0) > LAYERS:
        raise ValueError(f"layer {max(layers)}")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": max(layers, default=-1) + 1,
        "num_attention_heads": max(width // _HEAD_WIDTH, 1),
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"].shape[0],
        "hidden_act": "quick_gelu" if quick else "gelu",
        "projection_dim": width if projection is None else projection.shape[0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def new_text_model(config: Mapping[str, Any], projection: bool) -> torch.nn.Module:
    """An empty text model on the meta device; with `projection` it gives the pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    with torch.device("meta"):
        return kind(CLIPTextConfig(**config))


def own_names(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain names as this version of transformers calls them in `model`."""
    inside = hasattr(model, "text_model")
    return {
        f"text_model.{n}" if inside and not n.startswith("text_projection") else n: value
        for n, value in weights.items()
    }
