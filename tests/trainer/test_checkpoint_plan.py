"""What a dry run counts, which preset a card gets, and CLIP's vocabulary."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from slim_checkpoints import unet

from apl_core.errors import AplError, ConfigError
from apl_core.schedule import Schedule
from apl_core.training.config import TrainConfig
from apl_core.training.micro import forward_batch
from apl_trainer.checkpoints import tokenizer
from apl_trainer.checkpoints.cost import LiveBytes, unet_cost
from apl_trainer.checkpoints.detect import CheckpointInfo, Network
from apl_trainer.checkpoints.presets import (
    CPU,
    PRESETS,
    dtype_for,
    fitted,
    own_device,
    picture_size,
    preset_for,
)
from apl_trainer.checkpoints.safetensors_index import Contents

DEVICE = torch.device("cpu")
NOTHING = Network(Contents(Path("x"), {}, {}, {}), "model.", {})
FOUND = CheckpointInfo(Path("x.safetensors"), "SD 1.x", (), NOTHING, NOTHING, "eps", "fp16")


def test_bytes_are_counted_while_they_live() -> None:
    with LiveBytes() as live:
        one = torch.empty(1000, device="meta")
        two = one + 1
        view = two[:10]
        assert (live.live, live.peak) == (8000, 8000)
        del one
        assert live.live == 4000
        del two
        assert live.live == 4000 and len(view) == 10  # the view holds it
        del view
    assert (live.live, live.peak) == (0, 8000)


def test_a_steps_cost_is_that_of_its_parts() -> None:
    """Weight gradients and recomputing cost operations; checkpointing and bf16 save bytes."""
    with torch.device("meta"):
        network = unet("sd1")
    plain = unet_cost(network, 2, 16, torch.float32, False, 768)
    more = unet_cost(network, 2, 16, torch.float32, False, 768, weight_gradients=True)
    saved = unet_cost(network, 2, 16, torch.float32, True, 768)
    half = unet_cost(network, 2, 16, torch.bfloat16, False, 768)
    assert plain.forward == more.forward == saved.forward
    assert more.backward > 1.5 * plain.backward
    assert plain.backward < saved.backward < plain.backward + 1.1 * plain.forward
    assert saved.peak < plain.peak
    assert half.peak < 0.75 * plain.peak
    assert all(parameter.grad is None for parameter in network.parameters())


def test_presets() -> None:
    xl = replace(FOUND, family="SDXL")
    assert preset_for(FOUND, None, DEVICE) is CPU
    assert preset_for(FOUND, 4, DEVICE) is PRESETS[4]
    with pytest.raises(ConfigError, match="8 GB or more"):
        preset_for(xl, 6, DEVICE)
    assert picture_size(FOUND, PRESETS[4], None) == 512
    assert picture_size(xl, preset_for(xl, 8, DEVICE), None) == 512
    assert picture_size(xl, preset_for(xl, 12, DEVICE), None) == 1024
    assert picture_size(replace(FOUND, prediction="v"), PRESETS[24], None) == 768
    assert picture_size(FOUND, PRESETS[4], 640) == 640
    config = TrainConfig()
    assert fitted(config, PRESETS[4], torch.bfloat16, {}).micro_batch == 1
    assert fitted(config, PRESETS[4], torch.float16, {}).mixed_precision == "fp16"
    kept = fitted(replace(config, micro_batch=7), PRESETS[4], torch.bfloat16, {"micro_batch": 7})
    assert (kept.micro_batch, kept.mixed_precision) == (7, "bf16")
    assert dtype_for(PRESETS[4], DEVICE) == torch.float32
    assert forward_batch(DEVICE, 1) == 64


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="give cuda or cpu"):
        own_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            own_device("cuda")


def test_nothing_of_the_signal_is_left_at_zero_snr() -> None:
    plain = Schedule.scaled_linear()
    flat = plain.to_zero_snr().alphas_cumprod
    assert float(flat[-1]) < 1e-7
    torch.testing.assert_close(flat[0], plain.alphas_cumprod[0])
    assert bool((flat[1:] <= flat[:-1]).all())


def test_a_single_file_is_read_with_openais_vocabulary(tmp_path: Path) -> None:
    """The ids are those that open_clip's own tokenizer gives."""
    digest = hashlib.sha256(tokenizer.VOCABULARY.read_bytes()).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    read = tokenizer.find_tokenizer(None, tmp_path / "model.safetensors")
    assert (len(read), read.bos_token_id, read.eos_token_id) == (49408, 49406, 49407)
    ids = {
        "a photo of a cat": [320, 1125, 539, 320, 2368],
        "A  photo\nof a CAT": [320, 1125, 539, 320, 2368],
        "! a b": [256, 320, 321],
        "Zo\u00eb's caf\u00e9 \U0001f642": [4397, 40520, 568, 15304, 14860],
        "\u5317\u4eac \u0130stanbul 12": [161, 234, 245, 21078, 361, 328, 16384, 11231, 272, 273],
        "": [],
    }
    for text, expected in ids.items():
        assert read(text).input_ids == [49406, *expected, 49407], text


def test_a_tokenizer_beside_the_file_goes_before_openais(tmp_path: Path) -> None:
    """OpenAI's list written as two files, with the last merge left out."""
    own = tmp_path / "tokenizer"
    own.mkdir()
    tokenizer.write_vocabulary(own)
    lines = (own / "merges.txt").read_text(encoding="utf-8").splitlines()
    (own / "merges.txt").write_text("\n".join(lines[:-1]), encoding="utf-8")
    vocabulary = json.loads((own / "vocab.json").read_text(encoding="utf-8"))
    del vocabulary["".join(lines[-1].split())]
    (own / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    for beside in (tmp_path, tmp_path / "model.safetensors"):
        assert len(tokenizer.find_tokenizer(None, beside)) == 49407
    (own / "vocab.json").write_text("[", encoding="utf-8")
    with pytest.raises(AplError, match="read the tokenizer in"):
        tokenizer.find_tokenizer(own, tmp_path)
    with pytest.raises(AplError, match=r"vocab\.json or merges\.txt is missing"):
        tokenizer.find_tokenizer(tmp_path / "nothing", tmp_path)
