"""Weights in fewer bits, on thin pipelines of random weights: a language model, and T5."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from slim_checkpoints import pipeline as stable_diffusion
from slim_checkpoints import write_file
from slim_pipelines import pipeline
from tiny_model import NAMES
from torch import Tensor

from apl_core.errors import ConfigError
from apl_core.formats import read_prefix
from apl_core.prefix import Rows
from apl_trainer.checkpoints.cost import transformer_bytes, transformer_cost
from apl_trainer.checkpoints.detect import detect
from apl_trainer.checkpoints.load import load_checkpoint
from apl_trainer.checkpoints.loaded import CheckpointModel, Options
from apl_trainer.checkpoints.pipeline_load import empty_pipeline
from apl_trainer.checkpoints.presets import TrainingSetup, preset_for
from apl_trainer.checkpoints.quantize import KINDS, bytes_of, whole_block
from apl_trainer.cli import main

TEXT = "a portrait of anna brill, smiling"
NEAR = {"int8": 0.02, "fp8": 0.1, "nf4": 0.35}
"""How far a network's states may be from those of whole weights, as a share of their length."""


@pytest.fixture(scope="module", params=["Z-Image", "Flux.1"])
def folder(request: Any, tmp_path_factory: Any) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("quantize") / request.param.replace(" ", "-")
    pipeline(request.param).save_pretrained(found)
    yield found
    shutil.rmtree(found)


def predicted(model: CheckpointModel) -> tuple[Tensor, dict[str, Tensor]]:
    """The noise prediction for one text with rows, and the gradient that reaches the rows."""
    random = torch.Generator().manual_seed(0)
    rows = {
        key: (0.02 * torch.randn(3, width, generator=random)).requires_grad_()
        for key, width in model.encoder.widths.items()
    }
    texts = model.encoder.encode([TEXT], Rows(rows, 1))
    x_t = torch.randn(1, *model.latent_shape(128), generator=random)
    found = model.denoiser.predict_noise(x_t, torch.tensor([500]), texts)
    found.square().mean().backward()
    return found.detach(), {key: row.grad for key, row in rows.items() if row.grad is not None}


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_gradients_stay_near(folder: Path, kind: Any) -> None:
    whole, fewer = load_checkpoint(folder), load_checkpoint(folder, Options(quantize=kind))
    (wanted, slopes), (found, other) = predicted(whole), predicted(fewer)
    assert 0 < apart(found, wanted) < NEAR[kind]
    assert slopes.keys() == other.keys() == whole.encoder.widths.keys()
    for key, slope in slopes.items():
        assert apart(other[key], slope) < 2 * NEAR[kind]
    for key in whole.encoder.widths:  # the space that rows live in is the same
        tables = (one.encoder.token_embedding(key) for one in (whole, fewer))
        assert torch.equal(*tables)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_counted_before_anything_is_loaded(folder: Path, kind: Any) -> None:
    whole, fewer = load_checkpoint(folder), load_checkpoint(folder, Options(quantize=kind))
    plain, held = whole.denoiser.modules[0], fewer.denoiser.modules[0]
    counted = bytes_of(plain, torch.float32, kind)
    assert counted < bytes_of(plain, torch.float32)
    stored = sum(stored_bytes(parameter) for parameter in held.parameters())
    assert stored == pytest.approx(counted, rel=0.1)
    assert (whole_block(plain, torch.float32, kind) > 0) == (kind != "nf4")


def stored_bytes(parameter: Any) -> int:
    """Of a weight as it is held: what a quantized one has inside."""
    if hasattr(parameter, "qdata"):
        return parameter.qdata.nbytes + parameter.scale.nbytes
    return parameter.untyped_storage().nbytes()


def test_checkpointing_in_the_encoder_changes_no_gradient(folder: Path) -> None:
    plain = predicted(load_checkpoint(folder))
    again = predicted(load_checkpoint(folder, Options(checkpointing=True)))
    torch.testing.assert_close(again[0], plain[0])
    for key, slope in plain[1].items():
        torch.testing.assert_close(again[1][key], slope)


def test_learned_resumed_and_drawn(folder: Path, tmp_path: Path, capsys: Any) -> None:
    """From the command line: quantized again when a run goes on, to the bit."""
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    given = ["train", "--model", str(folder), "--names", str(tmp_path / "names.txt")]
    given += ["--quantize", "int8", "--size", "64", "--per-name", "1", "--draw-steps", "1"]
    given += ["--num-vectors", "4", "--num-suffix-vectors", "2", "--batch-identity", "1"]
    given += ["--batch-things", "1", "--batch-people", "1", "--device", "cpu"]
    given += ["--validate-every", "0", "--save-every", "1"]
    out, straight = tmp_path / "run", tmp_path / "straight"
    assert main([*given, "--steps", "1", "--out", str(out)]) == 0
    config = (out / "config.toml").read_text().replace("steps = 1\n", "steps = 2\n")
    (out / "config.toml").write_text(config)
    assert main(["resume", str(out)]) == 0
    assert main([*given, "--steps", "2", "--out", str(straight)]) == 0
    wanted, found = (read_prefix(one / "prefix.safetensors") for one in (straight, out))
    assert found.digest == wanted.digest
    drawn = ["generate", "--model", str(folder), "--quantize", "int8", "--size", "64"]
    drawn += ["--steps", "1", "--count", "1", "--prefix", str(out / "prefix.safetensors")]
    assert main([*drawn, "--out", str(tmp_path / "drawn.png"), TEXT]) == 0
    assert (tmp_path / "drawn.png").is_file()


def test_a_card_too_small_is_told_what_would_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, gpu = detect(folder), torch.device("cuda")
    monkeypatch.setattr("apl_trainer.checkpoints.presets._ROOM", 1.0)
    monkeypatch.setattr("apl_trainer.checkpoints.presets._SAFE", 0.0)
    empty, half = empty_pipeline(found), torch.bfloat16
    whole, fewer = (preset_for(found, 1, gpu, kind) for kind in (None, "nf4"))
    assert whole.checkpointing and fewer.checkpointing
    assert whole.micro == 1e9 - empty.bytes(half, None)
    assert fewer.micro == 1e9 - empty.bytes(half, "nf4") - empty.whole_block(half, "nf4")
    assert fewer.micro > whole.micro
    monkeypatch.setattr("apl_trainer.checkpoints.presets._ROOM", 2e9)
    with pytest.raises(ConfigError, match="--quantize int8, or nf4; or learn on texts alone"):
        preset_for(found, 1, gpu)


def test_nothing_is_computed_again_where_there_is_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples without checkpointing are counted at the size that is learned from."""
    found, gpu, half = detect(folder), torch.device("cuda"), torch.bfloat16
    empty = empty_pipeline(found)
    room, whole = 8e9 - empty.bytes(half, None), transformer_bytes(empty, 512, half)
    presets = [preset_for(found, 8, gpu, size=size) for size in (None, 2048)]
    assert not any(one.checkpointing for one in presets)
    counted = (whole, transformer_bytes(empty, 2048, half))
    assert [one.micro for one in presets] == [int(0.8 * room // one) for one in counted]
    plain, again = (transformer_cost(empty, 1, 512, half, kind) for kind in (False, True))
    assert again.peak <= whole and again.backward > plain.backward
    monkeypatch.setattr("apl_trainer.checkpoints.presets._SAFE", 0.99 * whole / room)
    assert preset_for(found, 8, gpu).checkpointing
    with pytest.raises(ConfigError, match="give a multiple of 64"):
        TrainingSetup.of(folder, device="cpu", vram=8, size=72)


def test_what_is_quantized_in_vain_or_cannot_be(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_file("sd1", stable_diffusion("sd1"), tmp_path / "sd1.safetensors")
    with pytest.raises(ConfigError, match="leave --quantize out"):
        TrainingSetup.of(checkpoint, device="cpu", quantize="int8")
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match="apl-prefix\\[quantize\\]"):
        TrainingSetup.of(folder, device="cpu", quantize="int8")
