"""Write a small random Stable Diffusion 1.x checkpoint (with the yaml that A1111 reads beside it).

Run by the *host's* Python, because the U-Net and VAE classes are the host's own:
``venv/bin/python a1111_checkpoint.py WEBUI OUT.safetensors [--seed N]``. The text encoder has the
real CLIP-L widths and depth, so every prefix for SD 1.x fits; U-Net and VAE are a tenth as wide.
The CLIP vocabulary goes into a hub cache folder (``OUT/../hub``), so that the host stays offline.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path

VOCABULARY = (
    Path(__file__).parents[2] / "trainer/models/clip_vocabulary/bpe_simple_vocab_16e6.txt.gz"
)
CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2, 4],
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 768,
    "use_checkpoint": False,
    "legacy": False,
}
MODEL = {
    "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
    "params": {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 8,
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "scale_factor": 0.18215,
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": UNET,
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                "ddconfig": VAE,
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    },
}


def write_hub(folder: Path) -> None:
    """Write `openai/clip-vit-large-patch14` as a hub cache holding vocabulary and config only."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    tokens = list(_byte_characters())
    tokens += [token + "</w>" for token in tokens]
    tokens += ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    start, end = "<|startoftext|>", "<|endoftext|>"
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    model = folder / "models--openai--clip-vit-large-patch14"
    snapshot = model / "snapshots" / "0"
    snapshot.mkdir(parents=True, exist_ok=True)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text("0")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (snapshot / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (snapshot / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8"
    )
    (snapshot / "config.json").write_text(json.dumps(CLIP_L))
    (snapshot / "special_tokens_map.json").write_text(json.dumps(special))
    (snapshot / "tokenizer_config.json").write_text(
        json.dumps({**special, "model_max_length": 77, "do_lower_case": True})
    )


def _byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in the CLIP vocabulary, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(value) for value in printable]
    others = [value for value in range(256) if value not in set(printable)]
    return characters + [chr(256 + index) for index in range(len(others))]


def write_checkpoint(webui: Path, out: Path, seed: int) -> None:
    """Write random weights under the names of an SD 1.x checkpoint, and the yaml beside it."""
    sys.path.insert(0, str(webui / "repositories" / "stable-diffusion-stability-ai"))
    import torch
    from ldm.util import instantiate_from_config
    from omegaconf import OmegaConf
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    params = {**MODEL["params"], "cond_stage_config": "__is_unconditional__"}
    model = instantiate_from_config(OmegaConf.create({**MODEL, "params": params}))
    weights = {name: value for name, value in model.state_dict().items() if value.dim() > 0}
    text_model = CLIPTextModel(CLIPTextConfig(**CLIP_L))
    for name, value in text_model.state_dict().items():
        if "layer_norm" in name:  # fresh ones give a mean of zero, and the host divides by it
            value += 0.2 * torch.randn_like(value)
        weights[f"cond_stage_model.transformer.{name}"] = value
    for name, value in weights.items():
        # ldm starts its last layers at zero: a model that ignores its prompt could hide anything.
        if value.dim() > 1 and not value.any():
            value.normal_(std=0.2 * value[0].numel() ** -0.5)
        weights[name] = value.contiguous()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(out))
    OmegaConf.save(OmegaConf.create({"model": MODEL}), str(out.with_suffix(".yaml")))


def main() -> None:
    """Write checkpoint, yaml and hub cache from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("webui", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_hub(args.out.parent / "hub")
    write_checkpoint(args.webui, args.out, args.seed)


if __name__ == "__main__":
    main()
