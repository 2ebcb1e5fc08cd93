"""Transformers and VAEs of a real ComfyUI in files, and what it computes with them.

``venv/bin/python comfyui_import_probe.py HOST MODELS WORK`` writes a folder for each family:
network.safetensors and vae.safetensors with the names that the host loads, and said.safetensors
with what went in and what came out. Weights are random, and such that bfloat16 holds them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfyui_expected import built
from comfyui_started import WORK
from safetensors.torch import save_file

if True:  # behind the start, which makes the host's modules importable
    from apl_comfy.training.denoiser import ComfyDenoiser
    from apl_comfy.training.encoder import ComfyEncoder
    from apl_comfy.training.texts import Texts
    from comfyui_families import here
    from comfyui_networks import NETWORKS, model_of, vae_of

AS_RELEASED: dict[str, dict[str, Any]] = {
    "Z-Image": {
        **{"dim": 1152, "n_heads": 9, "n_kv_heads": 9},
        **{"ffn_dim_multiplier": 8 / 3, "multiple_of": 256},
    },
    "Qwen-Image": {},
    "Krea 2": {},
    "Flux.2 Klein 4B": {"mlp_ratio": 3.0},
    "Flux.2 dev": {"mlp_ratio": 3.0},
    "Lumina 2": {"dim": 2304, "n_heads": 24, "n_kv_heads": 8, "ffn_dim_multiplier": 0.01},
    "Flux.1": {"mlp_ratio": 4.0, "hidden_size": 3072, "num_heads": 24},
    "Chroma": {"mlp_ratio": 4.0, "hidden_size": 3072, "num_heads": 24, "out_dim": 3072},
    "SD 3.5": {},
}
"""Sizes that all released models share, or have as the same multiple of others: no shape tells
them, or diffusers' own tables of names take them for granted."""

TEXT, STEP = "a photo of Ada Lovelace", 600


def rounded(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its weights in bfloat16; it keeps what of them bfloat16 holds."""
    weights = module.state_dict()
    for value in weights.values():
        value.copy_(value.bfloat16())
    return {name: value.bfloat16().contiguous() for name, value in weights.items()}


def write(name: str) -> None:
    """The files of a family, and one prediction and one picture."""
    network = NETWORKS[name]
    NETWORKS[name] = replace(network, sizes={**network.sizes, **AS_RELEASED[name]})
    model, vae, folder = model_of(name), vae_of(name), WORK / name.replace(" ", "-")
    folder.mkdir()
    inner = model.model.diffusion_model
    save_file(rounded(inner), folder / "network.safetensors")
    save_file(rounded(vae.first_stage_model), folder / "vae.safetensors")
    texts = ComfyEncoder(built(name)).encode([TEXT], None)
    assert isinstance(texts, Texts)
    (states, facts), denoiser = texts.each[0], ComfyDenoiser(model, 1)
    if name == "Flux.2 dev":
        facts["guidance"] = 4.0  # what the node in its example workflow says
    video = network.latents == "wan"
    shape = (1, 128, 8, 8) if network.latents == "kl32" else (1, 16, *[1] * video, 16, 16)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([STEP])
    eps = denoiser.predict_noise(x, t, texts)
    kept = denoiser.schedule.alphas_cumprod[t]
    noise = (1 - kept).sqrt() / (kept.sqrt() + (1 - kept).sqrt())  # a flow's factors sum to 1
    size = (1 - noise) / kept.sqrt()
    raw = model.model.latent_format.process_out(x)
    picture = vae.first_stage_model.decode(raw)
    said = {"x": x * size, "noise": noise, "eps": eps, "cross": states, "latent": x}
    said["picture"] = picture
    for key, fact in (("pooled", "pooled_output"), ("mask", "attention_mask")):
        if isinstance(facts.get(fact), torch.Tensor):
            said[key] = facts[fact].float()
    save_file({k: v.float().contiguous() for k, v in said.items()}, folder / "said.safetensors")


with torch.no_grad():
    for family in here():
        if family.name in AS_RELEASED:
            write(family.name)
