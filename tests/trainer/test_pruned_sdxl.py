"""SDXL with blocks taken out, as single files: SSD-1B, Vega and KOALA in thin, random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from slim_checkpoints import pipeline, shaken, write_file

from apl_core.errors import AplError
from apl_trainer.checkpoints.load import Options, load_checkpoint

pipe_of = cache(pipeline)
PROMPTS = ["a photo of anna brill", "a red circle"]
BUILDS: dict[str, dict[str, Any]] = {
    "SSD-1B": {
        "layers_per_block": 2,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": (1, (2, 2), (4, 4)),
        "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
    },
    "Vega": {
        "layers_per_block": 2,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": (1, 1, 2),
    },
    "KOALA 700M": {
        "layers_per_block": 1,
        "mid_block_type": None,
        "transformer_layers_per_block": (1, 2, 5),
    },
    "KOALA 1B": {"layers_per_block": 1, "transformer_layers_per_block": (1, 2, 6)},
}


def pruned(build: str) -> Any:
    """A thin U-Net of this build."""
    attention = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shaken(
            UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(32, 64, 128),
                cross_attention_dim=2048,
                use_linear_projection=True,
                attention_head_dim=(1, 1, 2),
                down_block_types=("DownBlock2D", *attention[:1] * 2),
                up_block_types=(*attention[1:] * 2, "UpBlock2D"),
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=1280 + 6 * 256,
                **BUILDS[build],
            )
        )


def written(build: str, folder: Path, *left_out: str) -> tuple[Any, Path, Options]:
    """A single file of this build, without some of its modules."""
    pipe = pipe_of("sdxl")
    pipe.unet = pruned(build)
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    for name in left_out:
        parent, _, last = name.rpartition(".")
        delattr(pipe.unet.get_submodule(parent), last)
    path = write_file("sdxl", pipe, folder / "pruned.safetensors")
    return pipe.unet, path, Options(tokenizer=folder / "tokenizer")


@pytest.mark.parametrize("build", BUILDS)
def test_its_network_predicts_as_diffusers_own(build: str, tmp_path: Path) -> None:
    theirs, path, options = written(build, tmp_path)
    model = load_checkpoint(path, options)
    ours = model.denoiser.unet
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    conditioning = model.encoder.encode(PROMPTS, None)
    x_t, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    found = model.denoiser.predict_noise(x_t, t, conditioning)
    side = 8 * 4.0
    ids = torch.tensor([[side, side, 0, 0, side, side]] * 2)
    added = {"text_embeds": conditioning.pooled, "time_ids": ids}
    wanted = theirs(x_t, t, conditioning.cross, added_cond_kwargs=added).sample
    assert torch.equal(found, wanted)


def test_a_level_with_and_without_attention_is_refused_in_a_sentence(tmp_path: Path) -> None:
    _, path, options = written("SSD-1B", tmp_path, "down_blocks.1.attentions.1")
    with pytest.raises(AplError, match=r"pruned in another way.*diffusers folder"):
        load_checkpoint(path, options)
