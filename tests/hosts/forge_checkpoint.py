"""Write a small random checkpoint that Forge or Forge Neo takes for Stable Diffusion 1.5.

Run by the host's Python, because the network classes are its own:
``venv/bin/python forge_checkpoint.py FORGE OUT.safetensors``. Text encoder and VAE have their real
sizes, which Forge insists on; the U-Net has the width by which it tells families apart and as few
blocks as it accepts. The CLIP vocabulary goes into a hub cache folder (``OUT/../hub``), which the
reference reads.
"""

import sys
from pathlib import Path

FORGE, OUT = map(Path, sys.argv[1:])
PACKAGES = FORGE / "packages_3rdparty"
sys.argv[1:] = ["--always-cpu"]  # Forge reads the command line of whoever imports it
if not PACKAGES.is_dir():
    PACKAGES, sys.argv[1:] = FORGE / "modules_forge" / "packages", ["--cpu"]  # Forge Neo
sys.path[:0] = [str(Path(__file__).parent), str(FORGE), str(PACKAGES)]

NOT_THERE = ("image_size", "legacy")
"""What ComfyUI's U-Net is told and Forge's is not."""

VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}


def main() -> None:
    """Write vocabulary and checkpoint."""
    import torch
    from a1111_checkpoint import CLIP_L, write_hub
    from backend.nn.unet import IntegratedUNet2DConditionModel
    from backend.nn.vae import IntegratedAutoencoderKL
    from comfyui_checkpoint import SD15_UNET, prefixed, random_weights
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    write_hub(OUT.parent / "hub")
    unet = {name: value for name, value in SD15_UNET.items() if name not in NOT_THERE}
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": IntegratedUNet2DConditionModel(**unet),
            "first_stage_model.": IntegratedAutoencoderKL(**VAE),
            "cond_stage_model.transformer.": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        }
    weights = {}
    for seed, (prefix, model) in enumerate(parts.items(), 1):
        weights |= prefixed(prefix, random_weights(model, seed))
    bias = weights["cond_stage_model.transformer.text_model.final_layer_norm.bias"]
    bias.normal_(std=0.2, generator=torch.Generator().manual_seed(4))  # Forge divides by the mean
    part = OUT.with_suffix(".part")
    save_file(weights, str(part))
    part.replace(OUT)


main()
