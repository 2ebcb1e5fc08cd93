"""A thin random Z-Image for Forge Neo: its files, and what lets Neo load them.

Neo takes the sizes of networks from its own tables, so files alone cannot be small. As a script of
Neo this makes its layers fewer and narrower; what stays is its classes, the widths of what they
read and give, vocabulary, templates, and all code that runs. Run by Neo's Python it writes the
files: ``venv/bin/python neo_thin.py NEO FOLDER/random.safetensors``.
"""

import dataclasses
import sys
from pathlib import Path

VAE = "backend/huggingface/Tongyi-MAI/Z-Image-Turbo/vae"
NARROW = {"n_refiner_layers": 1, "ffn_dim_multiplier": 1 / 15}
TRANSFORMER = {
    "in_channels": 16,
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 1,
    "qk_norm": True,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "pad_tokens_multiple": 32,
}
"""What Neo reads from the shapes of the real file, but for the number of layers."""

QWEN = {
    "num_hidden_layers": 3,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


def thin():
    """Let this process build thin networks; returns the class of the encoder and the network."""
    from backend.nn import lumina
    from backend.nn.llm import llama
    from torch import nn

    whole = lumina.NextDiT

    class ThinQwen(llama.Qwen3_4B):
        def __init__(self, _config):
            nn.Module.__init__(self)
            config = dataclasses.replace(llama.Qwen3_4BConfig(), **QWEN)
            self.num_layers = config.num_hidden_layers
            self.model = llama.Llama2_(config)

    def network(**config):
        return whole(**{**config, **NARROW})

    lumina.NextDiT, llama.Qwen3_4B = network, ThinQwen
    return ThinQwen, network


def main():
    """Write text encoder, VAE and, last, transformer."""
    sys.path.insert(0, str(Path(__file__).parent))
    import torch
    from comfyui_checkpoint import random_weights
    from safetensors.torch import save_file

    neo, out = map(Path, sys.argv[1:])
    sys.argv[1:], sys.path[1:1] = ["--cpu"], [str(neo), str(neo / "modules_forge" / "packages")]
    from backend.nn.vae import IntegratedAutoencoderKL
    from backend.operations import using_forge_operations

    encoder, network = thin()
    with using_forge_operations(device=torch.device("meta"), dtype=torch.float16):
        vae = IntegratedAutoencoderKL.from_config(IntegratedAutoencoderKL.load_config(neo / VAE))
        parts = {"ae": vae, "qwen3_4b": encoder({}), out.stem: network(**TRANSFORMER)}
        for seed, (name, part) in enumerate(parts.items()):
            written = out.with_name(f"{name}.part")
            save_file(random_weights(part, seed), str(written))
            written.replace(out.with_name(f"{name}.safetensors"))


if __name__ == "__main__":
    main()
else:
    thin()
