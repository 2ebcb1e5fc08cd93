"""The configs of a U-Net and a VAE in LDM layout, worked out from the shapes of their weights.

Facts of the layout: `input_blocks.N.0` is a residual block or, with `op`, the end of a level;
`input_blocks.N.1` its attention; SD 1.x has 8 heads and convolutions around its attention, SD 2.x
and SDXL have heads of 64 channels and linear layers there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .safetensors_index import Contents, refuse

UNET = "model.diffusion_model."
VAE = "first_stage_model."
_FEW_HEADS = 8
_HEAD_WIDTH = 64
_TIME_IDS = 6
LAYERS = 200
"""More of anything is not a model; building it would take all memory."""


def unet_config(contents: Contents) -> dict[str, Any]:
    """Arguments for diffusers' UNet2DConditionModel; AplError if its build is another one."""
    shapes = {name.removeprefix(UNET): contents.shapes[name] for name in contents.names(UNET)}
    try:
        return _unet_config(contents, shapes)
    except (KeyError, IndexError) as error:
        raise refuse(
            contents.path, f"weights of its U-Net are missing ({error})", "download it again"
        ) from error


def _unet_config(contents: Contents, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    levels: list[list[tuple[int, int]]] = [[]]
    for block in range(1, _count(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
            continue
        channels = shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0]
        levels[-1].append((channels, _depth(shapes, f"input_blocks.{block}.1.")))
    widths = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    linear = any(name.endswith("proj_in.weight") and len(s) == 2 for name, s in shapes.items())
    crossed = next(s for name, s in shapes.items() if name.endswith("attn2.to_k.weight"))
    config: dict[str, Any] = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)],
        **_transformers(contents, shapes, levels),
        "cross_attention_dim": crossed[1],
        "attention_head_dim": [max(w // _HEAD_WIDTH, 1) for w in widths] if linear else _FEW_HEADS,
        "use_linear_projection": linear,
    }
    if "label_emb.0.0.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
        }
    elif crossed[1] == 1024:
        config["upcast_attention"] = True  # SD 2.1 overflows in fp16 without
    return config


def _transformers(
    contents: Contents,
    shapes: Mapping[str, tuple[int, ...]],
    levels: Sequence[Sequence[tuple[int, int]]],
) -> dict[str, Any]:
    """How deep attention is: alike in all blocks of a level, or as somebody has pruned them."""
    each, middle = len(levels[0]), _depth(shapes, "middle_block.1.")
    down = [[depth for _, depth in level] for level in levels]
    count = _count(shapes, r"output_blocks\.(\d+)\.")
    every = [_depth(shapes, f"output_blocks.{n}.1.") for n in range(count)]
    up = [every[i : i + each + 1] for i in range(0, count, each + 1)]
    alike = all(len({w for w, _ in level}) == 1 and len(level) == each for level in levels)
    whole = [[depths[0]] * each for depths in down], [[depths[0]] * (each + 1) for depths in down]
    if alike and middle and (down, up[::-1]) == whole and down[-1][0] in (0, middle):
        return {"transformer_layers_per_block": [depths[0] or middle for depths in down]}
    known = [_one(depths) for depths in down], [_one(depths) for depths in up]
    paired = [bool(any(d)) for d in reversed(down)] == [bool(any(d)) for d in up]
    halves = any(0 in depths and any(depths) for depths in (*down, *up))
    if not alike or not paired or halves or middle not in (0, known[0][-1]):
        raise refuse(
            contents.path,
            "its U-Net is pruned in another way than those that are known",
            "give it as a diffusers folder, which says how it is built",
        )
    config: dict[str, Any] = {
        "transformer_layers_per_block": known[0],
        "reverse_transformer_layers_per_block": known[1],
    }
    if not middle:
        kept = any(name.startswith("middle_block.") for name in shapes)
        config["mid_block_type"] = "UNetMidBlock2D" if kept else None
    return config


def _one(depths: list[int]) -> int | list[int]:
    """One number where all blocks of a level are as deep, 1 where they have no attention."""
    return (depths[0] or 1) if len(set(depths)) == 1 else depths


def pooled_width(config: Mapping[str, Any]) -> int | None:
    """Width of the pooled text that a U-Net wants, from its config; None if it wants none."""
    if config.get("addition_embed_type") != "text_time":
        return None
    whole: int = config["projection_class_embeddings_input_dim"]
    return whole - _TIME_IDS * int(config["addition_time_embed_dim"])


def vae_config(contents: Contents, scaling: float, prefix: str = VAE) -> dict[str, Any]:
    """Arguments for diffusers' AutoencoderKL; `scaling` is the latents' factor."""
    shapes = {name.removeprefix(prefix): contents.shapes[name] for name in contents.names(prefix)}
    try:
        count = _count(shapes, r"encoder\.down\.(\d+)\.")
        widths = [shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(count)]
        latent = shapes["decoder.conv_in.weight"][1]
    except KeyError as error:
        raise refuse(
            contents.path,
            f"weights of its VAE are missing ({error})",
            "give a checkpoint with its VAE in it",
        ) from error
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": latent,
        "block_out_channels": widths,
        "scaling_factor": scaling,
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
    }


def check_layers(config: Mapping[str, Any]) -> None:
    """ValueError for a config that asks for more layers than any model has."""
    for name, value in config.items():
        counts = value if isinstance(value, list) else [value]
        if "layers" in name and any(isinstance(n, int | float) and n > LAYERS for n in counts):
            raise ValueError(f"{name} is {value}")


def _count(names: Mapping[str, object], pattern: str) -> int:
    found = [int(m[1]) for name in names if (m := re.match(pattern, name))]
    if max(found, default=0) > LAYERS:
        raise ValueError(f"block {max(found)}")
    return max(found, default=-1) + 1


def _depth(names: Mapping[str, object], place: str) -> int:
    return _count(names, re.escape(place) + r"transformer_blocks\.(\d+)\.")
