"""Other programs' files: their spellings, their long metadata, and what is no embedding."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from apl_core import formats
from apl_core.errors import PrefixFileError
from apl_core.formats import inspect_file, read_prefix, write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import Prefix


def test_tensors_of_several_tokens_are_read_one_after_another(tmp_path: Path) -> None:
    path = tmp_path / "ti.safetensors"
    rows = torch.arange(3 * 768).reshape(3, 768).float()
    safetensors.torch.save_file({"<s1>": rows[1:].clone(), "<s0>": rows[0].clone()}, path)
    assert torch.equal(read_prefix(path).vectors["clip_l"], rows)
    assert "Tensors, one after another: <s0>, <s1>" in inspect_file(path).text()
    halves = {"text_encoders_1": torch.ones(2, 1280), "text_encoders_0": torch.ones(2, 768)}
    safetensors.torch.save_file(halves, path)
    assert read_prefix(path).keys == ("clip_l", "clip_g")
    safetensors.torch.save_file({"text_encoders_0": torch.ones(2, 1024)}, path)
    assert read_prefix(path).keys == ("clip_h",)


ROW_OF_768 = torch.ones(1, 768)


def test_an_old_prefix_that_leaves_no_room_is_refused_with_one_sentence(tmp_path: Path) -> None:
    path, said = tmp_path / "x.safetensors", {"apl.format": "1", "apl.behind": "5"}
    for n in (74, 75):
        safetensors.torch.save_file({"pocket": torch.ones(n, 128)}, path, said)
        report = inspect_file(path)
        assert report.kind == formats.PREFIX and (report.prefix is not None) is (n == 74)
    assert report.problem is not None
    assert "no text fits beside them. Fix: use a prefix of at most 74" in str(report.problem)


FOREIGN: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "kohya": ({"lora_unet_x.lora_down.weight": torch.ones(4, 9)}, "a LoRA"),
    "one tensor of a LoRA": ({"lora_te_x.lora_up.weight": ROW_OF_768}, "a LoRA"),
    "peft": ({"unet.a.to_k.lora_A.weight": torch.ones(4, 9)}, "a LoRA"),
    "diffusers": ({"unet.a.processor.to_q_lora.down.weight": torch.ones(4, 9)}, "a LoRA"),
    "lycoris": ({"lycoris_a.hada_w1_a": torch.ones(4, 9)}, "a LoRA"),
    "cloneofsimo": ({"unet:0:up": torch.ones(4, 9), "<s1>": ROW_OF_768}, "a LoRA"),
    "bundle": (
        {"lora_unet_x.alpha": torch.ones(1), "bundle_emb.me.string_to_param.*": ROW_OF_768},
        "a LoRA with the embedding 'me' bundled in",
    ),
    "bundle, SDXL": (
        {"bundle_emb.a.clip_l": ROW_OF_768, "bundle_emb.a.clip_g": torch.ones(1, 1280)},
        "a bundle with the embedding 'a' bundled in",
    ),
    "SD 1.x": ({"cond_stage_model.a.weight": ROW_OF_768}, "an SD 1.x or SD 2.x checkpoint"),
    "SDXL": (
        {"conditioner.embedders.0.a": ROW_OF_768, "model.diffusion_model.a": ROW_OF_768},
        "an SDXL checkpoint",
    ),
    "SD 3": ({"joint_blocks.0.a": ROW_OF_768, "b": ROW_OF_768}, "Stable Diffusion 3"),
    "Flux": ({"double_blocks.0.a": ROW_OF_768}, "Flux"),
    "U-Net": ({"down_blocks.0.a": ROW_OF_768}, "a diffusion model"),
    "VAE": ({"decoder.conv_in.weight": ROW_OF_768}, "a VAE"),
    "ControlNet": ({"control_model.a": ROW_OF_768}, "a ControlNet"),
    "text encoder": ({"text_model.final_layer_norm.weight": torch.ones(768)}, "a text encoder"),
    "weights": ({"norm.weight": torch.ones(768)}, "a network's weights"),
    "state": ({"rows.pocket": torch.ones(2, 128)}, "the state of an `apl train` run"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_another_file_is_told_for_what_it_is(tmp_path: Path, case: str) -> None:
    tensors, words = FOREIGN[case]
    path = tmp_path / "x.safetensors"
    for metadata in ({}, {"ss_tag_frequency": "x" * 2_000_000}):
        own = {name: one.clone() for name, one in tensors.items()}
        safetensors.torch.save_file(own, path, metadata)
        report = inspect_file(path)
        assert report.problem is not None and report.prefix is None
        assert f"this is {words}" in report.problem.found.replace("a model of ", "")
        assert "not a prefix" in report.problem.found and report.kind in report.problem.found
    cut = path.read_bytes()[:-1]
    path.write_bytes(cut)
    assert "cut off" in inspect_file(path).text() and report.kind in inspect_file(path).text()


@pytest.mark.parametrize(
    "tensors",
    [
        {"clip_l_out": ROW_OF_768},
        {"emb_params_out": ROW_OF_768},
        {"t5_out": ROW_OF_768},
        {"clip_l": ROW_OF_768, "clip_l_out": ROW_OF_768},
        {"clip_l": ROW_OF_768, "clip_g": torch.ones(1, 1280), "clip_g_out": torch.ones(1, 1280)},
    ],
    ids=lambda one: list(one)[-1],
)
def test_what_stands_behind_an_encoder_is_no_prefix(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({name: one.clone() for name, one in tensors.items()}, path)
    with pytest.raises(PrefixFileError, match=r"_out' is .* behind the text encoder: no prefix"):
        read_prefix(path)


TAGS = json.dumps({"10_x": {f'tag {i}, "deep" ü {i * 10**9}': i for i in range(9000)}})
LONG: dict[str, dict[str, str]] = {
    "thumbnail": {"modelspec.thumbnail": "data:image/png;base64," + "iVBO7" * 900_000},
    "tags": {"ss_tag_frequency": TAGS, "ss_datasets": json.dumps([TAGS])},
    "many": {f"ss_config_{i}": "[{" * 20_000 for i in range(60)},
    "digits": {"a": "7" * 5000},
    "backslashes": {"a": "\\" * 5000 + '"', "b": '"' * 9000, "c": "\\"},
    "description": {"modelspec.description": "x" * 70_000, "modelspec.title": "T" * 5000},
}


@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize("ours", [True, False])
def test_long_foreign_metadata_is_passed_over(tmp_path: Path, case: str, ours: bool) -> None:
    path = tmp_path / "x.safetensors"
    both = {"clip_l": torch.randn(3, 768), "clip_g": torch.randn(3, 1280)}
    prefix = Prefix(both, 2, PrefixCard(steps=7))
    write_prefix(prefix, path)
    metadata: dict[str, str] = {}
    if ours:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
    vectors = dict(prefix.vectors)
    safetensors.torch.save_file(vectors, path, {**metadata, "short": "kept", **LONG[case]})
    read, report = read_prefix(path), inspect_file(path)
    assert all(torch.equal(read.vectors[key], vectors[key]) for key in vectors)
    assert (read.behind, read.card.steps) == ((2, 7) if ours else (0, None))
    long = {key for key, value in LONG[case].items() if len(value) > 5000 or case == "digits"}
    assert set(report.passed_over) == long and report.metadata["short"] == "kept"
    assert all(key in report.text() for key in report.passed_over[:20])
    if case == "description":
        assert read.card.title == "T" * 5000 and read.card.description == "70000 bytes passed over"
