"""`apl import`: a model's files as ComfyUI has them become the folder that they came from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from slim_checkpoints import ldm_vae
from slim_pipelines import pipeline
from torch import Tensor, nn

from apl_core.formats import read_prefix
from apl_trainer.checkpoints.load import load_checkpoint
from apl_trainer.checkpoints.transformer_configs import TRANSFORMERS
from apl_trainer.cli import main
from apl_trainer.ui.controller import Controller
from apl_trainer.ui.model_index import ModelIndex
from apl_trainer.ui.run_status import read_run
from apl_trainer.ui.worker_main import run

TEXTS = ["a portrait of anna brill, smiling", "a red circle"]
FAMILIES = ("Z-Image", "Qwen-Image")
LITTLE = "size = 64\nnum_vectors = 2\nnum_suffix_vectors = 1\nsteps = 1\nper_name = 1\n"
LITTLE += "draw_steps = 1\nbatch_identity = 1\nbatch_things = 1\nbatch_people = 0\n"


class Nobody:
    """A runner that takes orders and leaves the work to the test."""

    def start(self, folder: Path) -> int:
        return 1

    def reap(self) -> None:
        return None


@pytest.fixture(scope="module", params=FAMILIES)
def written(request: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """(family, pipeline with weights that bf16 holds, folder with its files)."""
    folder = tmp_path_factory.mktemp("files")
    pipe = pipeline(request.param)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.bfloat16().float()
    z_image = request.param == "Z-Image"
    network = pipe.transformer.state_dict()
    stored(z_image_names(network) if z_image else network, folder / "network.safetensors")
    text = {n.replace("model.language_model", "model"): v for n, v in words(pipe).items()}
    stored(text, folder / "text.safetensors")
    vae = ldm_vae(pipe.vae) if z_image else pipe.vae.state_dict()
    stored(vae, folder / "vae.safetensors")
    pipe.tokenizer.save_pretrained(folder / "words")
    yield request.param, pipe, folder
    shutil.rmtree(folder)  # disks of CI machines are small


def words(pipe: Any) -> dict[str, Tensor]:
    return {n: v for n, v in pipe.text_encoder.state_dict().items() if n != "lm_head.weight"}


def stored(weights: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.bfloat16().contiguous() for name, value in weights.items()}, path)


def z_image_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the published file: attention in one matrix, layers under their old names."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".to_k." in name or ".to_v." in name:
            continue
        if ".to_q." in name:
            parts = [weights[name.replace("to_q", part)] for part in ("to_q", "to_k", "to_v")]
            name, value = name.replace("to_q", "qkv"), torch.cat(parts)
        for new, old in (
            ("all_final_layer.2-1.", "final_layer."),
            ("all_x_embedder.2-1.", "x_embedder."),
            ("to_out.0", "out"),
            ("norm_k", "k_norm"),
            ("norm_q", "q_norm"),
        ):
            name = name.replace(new, old)
        found[f"model.diffusion_model.{name}"] = value
    return found


def given(folder: Path, out: Path, text: str = "text") -> list[str]:
    files = ["--vae", str(folder / "vae.safetensors"), "--tokenizer", str(folder / "words")]
    text_file = ["--text-encoder", str(folder / f"{text}.safetensors")]
    return ["import", str(folder / "network.safetensors"), *text_file, *files, "--out", str(out)]


def test_the_folder_draws_what_the_pipeline_draws(
    written: Any, tmp_path: Path, capsys: Any
) -> None:
    family, pipe, folder = written
    out = tmp_path / "imported"
    assert main(given(folder, out)) == 0
    assert f"{family} (" in capsys.readouterr().out
    pipe.save_pretrained(tmp_path / "own")
    found, wanted = load_checkpoint(out), load_checkpoint(tmp_path / "own")
    mine, theirs = (model.encoder.encode(TEXTS, None) for model in (found, wanted))
    torch.testing.assert_close(mine.cross, theirs.cross)
    torch.manual_seed(0)
    x_t, t = torch.randn(2, *wanted.latent_shape(64)), torch.tensor([700, 300])
    torch.testing.assert_close(
        found.denoiser.predict_noise(x_t, t, mine), wanted.denoiser.predict_noise(x_t, t, theirs)
    )
    torch.testing.assert_close(found.latents.decode(x_t), wanted.latents.decode(x_t))
    assert main(given(folder, out)) == 2, "a folder that is there is not written over"


@pytest.mark.parametrize("written", FAMILIES[:1], indirect=True)
def test_one_file_with_all_parts_needs_no_other(written: Any, tmp_path: Path, capsys: Any) -> None:
    _, _, folder = written
    whole = load_file(folder / "network.safetensors")
    whole |= renamed(folder / "text.safetensors", "text_encoders.qwen3_4b.transformer.")
    whole |= renamed(folder / "vae.safetensors", "first_stage_model.")
    save_file(whole, tmp_path / "whole.safetensors")
    command = ["import", str(tmp_path / "whole.safetensors"), "--out", str(tmp_path / "one")]
    assert main(command) == 2 and "--tokenizer DIR" in capsys.readouterr().err
    assert main([*command, "--tokenizer", str(folder / "words")]) == 0
    assert main(given(folder, tmp_path / "three")) == 0
    for file in sorted((tmp_path / "three").rglob("*.safetensors")):
        own, wanted = (
            load_file(tmp_path / "one" / file.relative_to(tmp_path / "three")),
            load_file(file),
        )
        assert own.keys() == wanted.keys()
        assert all(torch.equal(own[name], value) for name, value in wanted.items())
    lacking = {name: value for name, value in whole.items() if not name.startswith("first_")}
    save_file(lacking, tmp_path / "whole.safetensors")
    assert main([*command[:-1], str(tmp_path / "two"), *command[2:2]]) == 2
    assert "--vae FILE" in capsys.readouterr().err


def renamed(path: Path, begin: str) -> dict[str, Tensor]:
    return {begin + name: value for name, value in load_file(path).items()}


def test_scaled_fp8_becomes_numbers(written: Any, tmp_path: Path) -> None:
    _, pipe, folder = written
    weights = {n.replace("model.language_model", "model"): v for n, v in words(pipe).items()}
    name = next(n for n in weights if n.endswith("layers.0.mlp.up_proj.weight"))
    small = weights[name].to(torch.float8_e4m3fn)
    kept = {n: v.bfloat16().contiguous() for n, v in weights.items()}
    kept |= {name: small, name.replace("weight", "scale_weight"): torch.tensor(0.5)}
    save_file(
        kept | {"scaled_fp8": torch.tensor([], dtype=torch.float8_e4m3fn)}, folder / "8.safetensors"
    )
    assert main(given(folder, tmp_path / "imported", "8")) == 0
    model = load_checkpoint(tmp_path / "imported").encoder.modules[0]
    found = model.get_submodule("layers.0.mlp.up_proj").weight
    assert torch.equal(found, (small.float() * 0.5).bfloat16().float())


def test_what_does_not_belong_is_refused(written: Any, tmp_path: Path, capsys: Any) -> None:
    family, _, folder = written
    network = str(folder / "network.safetensors")
    for wrong, said in (
        (given(folder, tmp_path / "a", "vae"), "not a text encoder that is known"),
        (
            ["import", str(folder / "vae.safetensors"), *given(folder, tmp_path / "b")[2:]],
            "transformer",
        ),
        (
            [*given(folder, tmp_path / "c"), "--text-encoder", str(folder / "text.safetensors")],
            family,
        ),
        ([w.replace(network, network[:-9]) for w in given(folder, tmp_path / "d")], "there is no"),
        (["import", "qwen_image_edit.safetensors", *given(folder, tmp_path / "e")[2:]], "edits"),
    ):
        assert main(wrong) != 0
        assert said in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir()]


@pytest.mark.parametrize("written", FAMILIES[:1], indirect=True)
def test_the_page_finds_the_pieces_makes_the_folder_and_learns(
    written: Any, tmp_path: Path
) -> None:
    family, _, folder = written
    index = ModelIndex(tmp_path / "runs", (folder.parent,))
    desk = Controller(index, Nobody())
    title = f"{folder.name}/network.safetensors"
    found = desk.about(title)
    assert found.said == family and all(titles for _, titles in found.pieces)
    picked = [titles[0] for _, titles in found.pieces]
    for name in ("one", "two"):
        desk.start(title, "Ann Lee\nBo Li\nCy Mo\nDi Nu", "quick", LITTLE, name, False, *picked)
        assert run(tmp_path / "runs" / name) == 0, read_run(tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "status.json").write_text('{"state": "done"}')
    prefix = read_prefix(tmp_path / "runs" / "one" / "prefix.safetensors")
    assert prefix.card.family == family
    assert [path.name for path in (tmp_path / "runs" / "models").iterdir()] == ["network"]
    assert "network" in index.models()


def test_a_disk_without_room_is_told_before_weights_are_read(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    _, _, folder = written
    room = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=10**6))
    assert main(given(folder, tmp_path / "imported")) == 1
    said = capsys.readouterr().err
    assert "GB, and 0.0 are free" in said and "another disk" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "family",
    [
        *("Z-Image", "Qwen-Image", "Krea 2", "Flux.2 Klein 4B", "Flux.2 dev"),
        *("Flux.1", "Chroma", "SD 3.5", "Lumina 2"),
    ],
)
def test_shapes_tell_how_a_transformer_is_built(family: str) -> None:
    network = pipeline(family).transformer
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = TRANSFORMERS[type(network).__name__](shapes)
    own = {name: network.config[name] for name in found}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()} == found
