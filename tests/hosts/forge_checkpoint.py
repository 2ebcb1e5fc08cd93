"""Write small random checkpoints that a Forge takes for SD 1.5 and, by name, for SDXL.

Run by the host's Python, because the network classes are its own:
``venv/bin/python forge_checkpoint.py FORGE OUT.safetensors``; ``sdxl.safetensors`` is for SDXL.
Text encoders and VAE have their real sizes, which Forge insists on; the U-Nets have the width by
which it tells families apart and as few blocks as it accepts. CLIP's vocabulary goes into a hub
cache folder (``OUT/../hub``), which the reference reads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
from a1111_checkpoint import CLIP_L, write_hub
from comfyui_checkpoint import SD15_UNET, SDXL_UNET, prefixed, random_weights
from comfyui_checkpoint import VAE as LDM_VAE
from transformers import CLIPTextConfig, CLIPTextModel

NOT_THERE = ("image_size", "legacy")
"""What ComfyUI's U-Net is told and Forge's is not."""

XL_UNET = {  # real depths: Neo looks at those of the way down, the trainer at all of them
    **SDXL_UNET,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
CLIP_G = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.": "",
    "text_model.encoder.layers": "transformer.resblocks",
    "text_model.final_layer_norm": "ln_final",
    "layer_norm": "ln_",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""What OpenCLIP calls the weights of transformers."""


def clip(config: dict, seed: int) -> dict:
    """Random weights of a text encoder, as transformers names them."""
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**config))
    weights = random_weights(model, seed)
    bias = weights["text_model.final_layer_norm.bias"]
    bias.normal_(std=0.2, generator=torch.Generator().manual_seed(4))  # Forge divides by the mean
    return weights


def projection() -> torch.Tensor:
    """A random text projection (1280, 1280) of CLIP-G, as transformers has it."""
    drawn = torch.randn(1280, 1280, generator=torch.Generator().manual_seed(5))
    return (drawn * 1280**-0.5).half()


def open_clip(weights: dict) -> dict:
    """A text encoder's weights as OpenCLIP names them: queries, keys and values in one."""
    named = {}
    for name, value in weights.items():
        if ".q_proj." in name:
            parts = [weights[name.replace(".q_proj.", f".{one}_proj.")] for one in "qkv"]
            name, value = name.replace(".q_proj.", ".in_proj_"), torch.cat(parts)
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        named[name] = value
    return named


def networks(forge: Path, unet: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The host's own U-Net and VAE, without numbers."""
    if (forge / "ldm_patched").is_dir():  # reForge has ComfyUI's
        sys.argv[1:], sys.path[:0] = ["--always-cpu"], [str(forge)]
        from ldm_patched.modules import options

        options.enable_args_parsing()
        from ldm_patched.ldm.models.autoencoder import AutoencoderKL
        from ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
        from ldm_patched.modules.ops import disable_weight_init

        with torch.device("meta"):
            network = UNetModel(**unet, operations=disable_weight_init, device="meta")
            return network, AutoencoderKL(ddconfig=LDM_VAE, embed_dim=4)
    packages = forge / "packages_3rdparty"
    sys.argv[1:] = ["--always-cpu"]  # Forge reads the command line of whoever imports it
    if not packages.is_dir():
        packages, sys.argv[1:] = forge / "modules_forge" / "packages", ["--cpu"]  # Forge Neo
    sys.path[:0] = [str(forge), str(packages)]
    from backend.nn.unet import IntegratedUNet2DConditionModel
    from backend.nn.vae import IntegratedAutoencoderKL

    with torch.device("meta"):
        told = {name: value for name, value in unet.items() if name not in NOT_THERE}
        return IntegratedUNet2DConditionModel(**told), IntegratedAutoencoderKL(**VAE)


def parts(forge: Path, xl: bool) -> dict:
    """The weights of a checkpoint of SD 1.5 or SDXL."""
    network, vae = networks(forge, XL_UNET if xl else SD15_UNET)
    weights = {
        **prefixed("model.diffusion_model.", random_weights(network, 1)),
        **prefixed("first_stage_model.", random_weights(vae, 2)),
    }
    if not xl:
        return weights | prefixed("cond_stage_model.transformer.", clip(CLIP_L, 3))
    big = {**open_clip(clip(CLIP_G, 4)), "text_projection": projection().T.contiguous()}
    return {
        **weights,
        **prefixed("conditioner.embedders.0.transformer.", clip(CLIP_L, 3)),
        **prefixed("conditioner.embedders.1.model.", big),
    }


def main() -> None:
    """Write vocabulary and checkpoint."""
    from safetensors.torch import save_file

    forge, out = map(Path, sys.argv[1:])
    write_hub(out.parent / "hub")
    part = out.with_suffix(".part")
    save_file(parts(forge, out.stem == "sdxl"), str(part))
    part.replace(out)


if __name__ == "__main__":
    main()
