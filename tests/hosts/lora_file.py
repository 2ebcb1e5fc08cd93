"""A small random LoRA on CLIP-L's text layers, under the names that all three hosts read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, RANK, WIDTH = 12, 4, 768


def write_lora(file: Path, seed: int = 0) -> None:
    """Write one that changes every attention of the text encoder, and nothing of the U-Net."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        for part in ("q_proj", "v_proj"):
            name = f"lora_te_text_model_encoder_layers_{layer}_self_attn_{part}"
            down = torch.randn((RANK, WIDTH), generator=generator) * 0.05
            up = torch.randn((WIDTH, RANK), generator=generator) * 0.05
            weights[f"{name}.lora_down.weight"] = down.half()
            weights[f"{name}.lora_up.weight"] = up.half()
            weights[f"{name}.alpha"] = torch.tensor(float(RANK))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
