"""`apl bench families`: what a step on today's families needs, counted at their real sizes.

Nothing is loaded and nothing computed: transformers and text encoders are built on the meta device,
with the sizes of the released models, and every tensor and operation of an example is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apl_core.prefix import WIDTHS
from apl_core.training.config import TrainConfig
from apl_trainer.checkpoints.cost import (
    TEXT,
    Cost,
    EmptyPipeline,
    fused_attention,
    transformer_cost,
    unet_cost,
)
from apl_trainer.checkpoints.pipelines import FAMILIES, KREA_LAYERS, Family
from apl_trainer.checkpoints.quantize import Quantize, bytes_of
from apl_trainer.models.language import Reader

from .house import write_between
from .train import SD15, SDXL, TEXT_BYTES

Say = Callable[[str], None]

_HALF = torch.bfloat16
_RATE, _SHARE = 165e12, 0.4
"""bf16 operations a second of an RTX 4090's matrix units by its maker, and the part taken here."""

_KLEIN = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24}
NETWORKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Z-Image": ("ZImageTransformer2DModel", {}),
    "Qwen-Image": ("QwenImageTransformer2DModel", {}),
    "Krea 2": ("Krea2Transformer2DModel", {}),
    "Flux.2 Klein 4B": (
        "Flux2Transformer2DModel",
        {**_KLEIN, "joint_attention_dim": 3 * 2560, "guidance_embeds": False},
    ),
    "Flux.2 dev": ("Flux2Transformer2DModel", {}),
    "Flux.1": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "Chroma": ("ChromaTransformer2DModel", {}),
    "SD 3.5": (
        "SD3Transformer2DModel",
        {
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
    ),
    "Lumina 2": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
}
"""Class, and what differs from its defaults, of each transformer: SD 3.5 is the large one."""


def _decoder(width: int, inner: int, layers: int, heads: int, kept: int) -> dict[str, Any]:
    return {
        "vocab_size": 151936,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kept,
        "head_dim": 128,
    }


_LANGUAGE: Mapping[str, dict[str, Any]] = {
    "qwen3_4b": _decoder(2560, 9728, 36, 32, 8),
    "qwen3vl_4b": _decoder(2560, 9728, 36, 32, 8),
    "qwen25_7b": _decoder(3584, 18944, 28, 28, 4),
    "mistral3_24b": {**_decoder(5120, 32768, 40, 32, 8), "vocab_size": 131072},
}
_T5: dict[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}
_CLIP: Mapping[str, dict[str, Any]] = {
    "clip_l": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
    "clip_g": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
}


def text_model(key: str, layers: int = 0) -> nn.Module:
    """A text encoder of the released size on the meta device; Qwen2.5's as Qwen3 of its size.

    With `layers` it has so many of them.
    """
    some: dict[str, Any] = {"num_hidden_layers": layers} if layers else {}
    with torch.device("meta"):
        if key in _CLIP:
            return transformers.CLIPTextModel(transformers.CLIPTextConfig(**{**_CLIP[key], **some}))
        if key == "t5xxl":
            sizes = {**_T5, "num_layers": layers or _T5["num_layers"]}
            config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")
            return transformers.T5EncoderModel(config)
        if key == "gemma2_2b":
            return transformers.Gemma2Model(transformers.Gemma2Config(**some))
        sizes = {**_LANGUAGE[key], **some}
        if key == "mistral3_24b":
            return transformers.MistralModel(transformers.MistralConfig(**sizes))
        return transformers.Qwen3Model(transformers.Qwen3Config(**sizes))


def transformer(family: Family, fewer: Mapping[str, int] | None = None) -> nn.Module:
    """A transformer of the released size, with `fewer` layers if they are told."""
    name, config = NETWORKS[family.name]
    return getattr(diffusers, name)(**{**config, **(fewer or {})})


def empty_pipeline(family: Family, checkpointing: bool = True) -> EmptyPipeline:
    """Its networks of the released sizes on the meta device."""
    with torch.device("meta"):
        network = transformer(family)
    *clips, language = map(text_model, family.encoders.values())
    reader = Reader(language, family.template.layers or KREA_LAYERS, checkpointing)
    return EmptyPipeline(family, network, clips, reader)


def table(sizes: tuple[int, ...], say: Say) -> str:
    """Lines of Markdown: GiB and minutes for each family and size of the pictures."""
    config = TrainConfig()
    lines = [
        "| family | pixels | transformer | text encoders | example | together | int8, fp8 | nf4 "
        "| standard run | example, nothing again | together, int8 | standard run |",
        "|---" * 12 + "|",
        *unet_lines(config),
    ]
    for family in FAMILIES:
        if family.name not in NETWORKS:
            continue
        empty, plain = empty_pipeline(family), empty_pipeline(family, checkpointing=False)
        parts = bytes_of(empty.network, _HALF), empty.text_bytes(_HALF, None)
        kinds: tuple[Quantize | None, ...] = (None, "int8", "nf4")
        frozen = {kind: empty.bytes(_HALF, kind) + empty.whole_block(_HALF, kind) for kind in kinds}
        for size in sizes:
            say(f"{family.name} at {size}")
            again = transformer_cost(empty, 1, size, _HALF, checkpointing=True)
            cells = [family.name, str(size), *map(_gib, (*parts, again.peak))]
            cells += [_gib(frozen[kind] + again.peak) for kind in kinds]
            cells.append(_minutes(again, config))
            kept = transformer_cost(plain, 1, size, _HALF, checkpointing=False)
            cells += [_gib(kept.peak), _gib(frozen["int8"] + kept.peak), _minutes(kept, config)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def unet_lines(config: TrainConfig) -> list[str]:
    """The same of SD 1.5 and SDXL, whose text encoders are small and nothing is quantized."""
    lines: list[str] = []
    for name, sizes, built, words in (
        ("SD 1.5", (512,), SD15, TEXT_BYTES["sd15"]),
        ("SDXL", (512, 768, 1024), SDXL, TEXT_BYTES["sdxl"]),
    ):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**built)
        own, width = bytes_of(unet, _HALF), int(built["cross_attention_dim"])
        for size in sizes:
            again, kept = (
                unet_cost(unet, 1, size // 8, _HALF, checkpointing, width)
                for checkpointing in (True, False)
            )
            whole = own + words + again.peak
            cells = [name, str(size), *map(_gib, (own, words, again.peak, whole)), "-", "-"]
            cells += [_minutes(again, config), _gib(kept.peak), _gib(own + words + kept.peak)]
            lines.append(f"| {' | '.join(cells)}, bf16 | {_minutes(kept, config)} |")
    return lines


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"


def _minutes(cost: Cost, config: TrainConfig) -> str:
    """Of a standard run at `_SHARE` of `_RATE`."""
    flops = config.samples * (cost.forward + cost.backward) + config.num_targets * cost.forward
    minutes = flops / (_RATE * _SHARE) / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def step_operations(empty: EmptyPipeline, tokens: int, size: int) -> int:
    """Operations of the transformer in one step by a text of `tokens`."""
    family = empty.family
    width = len(family.template.layers or KREA_LAYERS) * WIDTHS[family.key]
    step, states = empty.step(1, tokens, size, _HALF), torch.empty(1, tokens, width, device="meta")
    with torch.no_grad(), fused_attention(), FlopCounterMode(display=False) as found:
        step(states.to(_HALF))
    return found.get_total_flops()


def prefix_table(sizes: tuple[int, ...], say: Say) -> str:
    """Lines of Markdown: what the rows of a prefix add to a step and to a picture, in percent."""
    rows, steps = TrainConfig().num_vectors, 8
    each = "".join(f" a step at {size} |" for size in sizes)
    lines = [f"| family |{each} its text, in {steps} steps at {sizes[-1]} |"]
    lines.append("|---" * (len(sizes) + 2) + "|")
    for family in FAMILIES:
        if family.name not in NETWORKS or family.template.fill:
            continue
        empty = empty_pipeline(family)
        reading = empty.reader.model
        reads = sum(one.numel() for one in reading.parameters())
        tables = (one for one in reading.modules() if isinstance(one, nn.Embedding))
        reads -= sum(one.weight.numel() for one in tables)
        cells: list[str] = []
        whole = 1
        for size in sizes:
            say(f"a prefix with {family.name} at {size}")
            whole = step_operations(empty, TEXT, size)
            more = step_operations(empty, TEXT + rows, size)
            cells.append(f"{100 * (more / whole - 1):.2f} %")
        if not any(float(cell[:-1]) for cell in cells):
            continue  # Flux.2 dev: texts of any length are filled up behind the language model
        cells.append(f"{100 * 2 * reads * rows / (steps * whole):.2f} %")
        lines.append(f"| {family.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def run(root: Path, sizes: tuple[int, ...], say: Say) -> str:
    """Write the tables into docs/training.md and docs/comfyui-models.md."""
    made, prefix = table(sizes, say), prefix_table(sizes[1:], say)
    write_between(root / "docs" / "training.md", "families", made)
    write_between(root / "docs" / "comfyui-models.md", "prefix", prefix)
    return f"{made}\n{prefix}"
