"""Write small random checkpoints that ComfyUI takes for SD 1.5 and for SDXL.

Run by the *host's* Python, because the network classes are the host's own:
``venv/bin/python comfyui_checkpoint.py HOST MODELS``. The text encoders have their real sizes, so
every prefix fits; the U-Nets have the widths by which the host tells the families apart and as few
blocks as it accepts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

SD15_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "context_dim": 768,
    "legacy": False,
}
SDXL_UNET = {
    **SD15_UNET,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": -1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "context_dim": 2048,
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
DAMPED = ("proj_out", "out_layers.3", "to_out.0", "ff.net.2", "out_proj", "fc2")
"""Last layers of residual branches: kept small, so that deep random networks stay finite."""


def random_value(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A float16 start value for a weight: norms are identities, the rest scaled by its fan-in."""
    if len(shape) < 2:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    scale = 0.015 if "embedding" in name else shape[1:].numel() ** -0.5
    if any(part in name for part in DAMPED):
        scale *= 0.3
    return (torch.randn(shape, generator=generator) * scale).half()


def random_weights(model: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    """A value for every weight of `model`; equal shapes of one kind share their random numbers."""
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[tuple[str, torch.Size], Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and weight.dim() > 0:
            kind = (".".join(part for part in name.split(".") if not part.isdigit()), weight.shape)
            if kind not in drawn:
                drawn[kind] = random_value(name, weight.shape, generator)
            values[name] = drawn[kind].roll(len(values)).clone()
    return values


def prefixed(prefix: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under longer names."""
    return {prefix + name: value for name, value in values.items()}


def write(models: Path) -> None:
    """Write every checkpoint under ComfyUI's `models` folder, one weight family after the other."""
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.sd1_clip import SDClipModel
    from comfy.sdxl_clip import SDXLClipG
    from safetensors.torch import save_file

    def drawn(build: Callable[[], torch.nn.Module], seed: int) -> dict[str, Tensor]:
        with torch.device("meta"):
            model = build()
        return random_weights(model, seed)

    operations = comfy.ops.disable_weight_init
    unet = drawn(lambda: UNetModel(**SD15_UNET, operations=operations, device="meta"), 1)
    vae = drawn(lambda: AutoencoderKL(ddconfig=VAE, embed_dim=4), 2)
    clip_l = drawn(lambda: SDClipModel(device="meta").transformer, 3)
    clip_g = drawn(lambda: SDXLClipG(device="meta").transformer, 4)
    unet_xl = drawn(lambda: UNetModel(**SDXL_UNET, operations=operations, device="meta"), 5)
    sd15 = {
        **prefixed("model.diffusion_model.", unet),
        **prefixed("first_stage_model.", vae),
        **prefixed("cond_stage_model.transformer.", clip_l),
    }
    files: Iterable[tuple[str, dict[str, Tensor]]] = (
        ("checkpoints/random_sd15.safetensors", sd15),
        ("diffusion_models/random_sdxl.safetensors", unet_xl),
        ("text_encoders/random_clip_l.safetensors", clip_l),
        ("text_encoders/random_clip_g.safetensors", clip_g),
        ("vae/random_vae.safetensors", vae),
    )
    for name, values in files:
        out = models / name
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part")
        save_file(values, str(part))
        part.replace(out)


def main() -> None:
    """Write the checkpoints from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("host", type=Path)
    parser.add_argument("models", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(args.host))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    with torch.no_grad():
        write(args.models)


if __name__ == "__main__":
    main()
