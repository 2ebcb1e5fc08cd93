"""What a file of a model holds, and what a transformer's file needs beside it on the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slim_files import OTHERS, TRANSFORMERS, Z_IMAGE, written

from apl_core.errors import AplError, ConfigError
from apl_trainer.checkpoints.detect import detect
from apl_trainer.checkpoints.model_files import kind_of_file, kind_of_folder, needed
from apl_trainer.ui import markup
from apl_trainer.ui.controller import Controller, ModelFound
from apl_trainer.ui.model_index import ModelIndex
from apl_trainer.ui.run_request import RunRequest


def words(folder: Path, kind: str) -> None:
    folder.mkdir(parents=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformer_names_what_it_needs(family: str, prefix: str, tmp_path: Path) -> None:
    shapes, names = TRANSFORMERS[family]
    found = needed(written(tmp_path / "x.safetensors", shapes, prefix))
    assert found is not None and found[0] == family
    plain = [one.name.rpartition("/")[2].removesuffix(".safetensors") for one in found[1]]
    assert plain == names
    assert kind_of_file(tmp_path / "x.safetensors") == ""
    with pytest.raises(AplError, match="edits pictures"):
        needed(written(tmp_path / "x_edit.safetensors", shapes, prefix))


@pytest.mark.parametrize("kind", OTHERS)
def test_the_other_files_are_told_apart(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", OTHERS[kind])
    assert kind_of_file(path) == kind and needed(path) is None


def test_what_only_looks_like_a_transformer_alone(tmp_path: Path) -> None:
    for shapes in (
        {"cap_embedder.0.weight": (2560,)},  # NewBie reads Gemma 3
        {"single_stream_modulation.lin.weight": (4, 4), "txt_in.weight": (8, 7)},
        {"model.diffusion_model.input_blocks.0.0.weight": (4, 4), "vae.decoder.x": (4,)},
    ):
        assert needed(written(tmp_path / "x.safetensors", shapes)) is None
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 64)
    assert needed(tmp_path / "x.safetensors") is None and not kind_of_file(tmp_path)
    for kind, said in (("T5Tokenizer", "t5"), ("Qwen2Tokenizer", "qwen"), ("CLIPTokenizer", "")):
        words(tmp_path / kind, kind)
        assert kind_of_folder(tmp_path / kind).endswith(said)
        assert bool(kind_of_folder(tmp_path / kind)) == bool(said)
    (tmp_path / "T5Tokenizer" / "tokenizer_config.json").write_text("[" * 10**5)
    assert kind_of_folder(tmp_path / "T5Tokenizer") == ""


def test_a_whole_model_needs_what_it_does_not_bring(tmp_path: Path) -> None:
    shapes = {f"model.diffusion_model.{n}": s for n, s in TRANSFORMERS["Flux.1"][0].items()}
    shapes |= {f"text_encoders.t5xxl.transformer.{n}": s for n, s in OTHERS["t5xxl"].items()}
    path, clip = tmp_path / "x.safetensors", OTHERS["clip_l"]
    found = needed(written(path, shapes))
    assert found and [p.name for p in found[1]][:2] == ["clip_l.safetensors", "ae.safetensors"]
    shapes |= {f"text_encoders.clip_l.transformer.{name}": s for name, s in clip.items()}
    found = needed(written(path, shapes | {"vae.decoder.conv_in.weight": (4, 16, 3, 3)}))
    assert found and [piece.what for piece in found[1]] == ["Tokenizer"]
    shapes["first_stage_model.decoder.conv_in.weight"] = (4, 16, 3, 3)  # as SD 3.5's call it
    found = needed(written(path, shapes))
    assert found and [piece.what for piece in found[1]] == ["Tokenizer"]
    lumina = {f"model.diffusion_model.{n}": s for n, s in TRANSFORMERS["Lumina 2"][0].items()}
    gemma = {f"text_encoders.gemma2_2b.transformer.{n}": s for n, s in OTHERS["gemma2_2b"].items()}
    whole = written(path, {**lumina, **gemma, "vae.decoder.conv_in.weight": (4, 16, 3, 3)})
    assert needed(whole) == ("Lumina 2", [])
    with pytest.raises(AplError, match=r"apl import .*x\.safetensors --out"):
        detect(whole)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder as ComfyUI's users have it."""
    models = tmp_path / "ComfyUI"
    written(models / "models/diffusion_models/z_image.safetensors", Z_IMAGE)
    for name in ("other", "qwen_3_4b"):
        path = models / f"models/text_encoders/{name}.safetensors"
        written(path, OTHERS["qwen3_4b"])
    written(models / "models/vae/ae.safetensors", OTHERS["VAE ae"])
    words(models / "comfy/text_encoders/qwen25_tokenizer", "Qwen2Tokenizer")
    words(models / "comfy/text_encoders/t5_tokenizer", "T5Tokenizer")
    written(tmp_path / "outside.safetensors", OTHERS["qwen3_4b"])
    (models / "models/text_encoders/link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    return models


class Nobody:
    """A runner that takes orders and does nothing."""

    def start(self, folder: Path) -> int:
        return 1

    def reap(self) -> None:
        return None


def test_pieces_are_found_below_the_roots_and_asked_for_by_name(
    models: Path, tmp_path: Path
) -> None:
    controller = Controller(ModelIndex(tmp_path / "runs", (models,)), Nobody())
    title = "models/diffusion_models/z_image.safetensors"
    found = controller.about(title)
    assert found.said == "Z-Image"
    assert [titles for _, titles in found.pieces] == [
        ["models/text_encoders/qwen_3_4b.safetensors", "models/text_encoders/other.safetensors"],
        ["models/vae/ae.safetensors"],
        ["comfy/text_encoders/qwen25_tokenizer"],
    ]
    assert "Not found" not in markup.model(found) and "Z-Image" in markup.model(found)
    given = title, "Ann\nBo\nCy\nDi", "quick", "", "one", False
    with pytest.raises(ConfigError) as refused:
        controller.start(*given, "models/vae/ae.safetensors", "", str(tmp_path))
    said = str(refused.value)
    assert "Text encoder" in said and "VAE" in said and "Tokenizer" in said
    assert not (tmp_path / "runs").exists()
    picked = [titles[0] for _, titles in found.pieces]
    assert controller.start(*given, *picked) == "one"
    order = RunRequest.of(tmp_path / "runs" / "one")
    assert order.pieces is not None and [Path(p).name for p in order.pieces] == [
        "qwen_3_4b.safetensors",
        "ae.safetensors",
        "qwen25_tokenizer",
    ]
    assert order.into == str(tmp_path / "runs" / "models")


def test_what_is_nowhere_is_named(models: Path, tmp_path: Path) -> None:
    (models / "models/vae/ae.safetensors").unlink()
    controller = Controller(ModelIndex(tmp_path / "runs", (models,)), Nobody())
    shown = markup.model(controller.about("models/diffusion_models/z_image.safetensors"))
    assert "VAE: ae.safetensors" in shown and "apl ui --models" in shown
    assert "Tokenizer" not in shown
    assert "&lt;b&gt;" in markup.model(ModelFound("<b>"))


def test_a_file_that_cannot_be_used_is_refused_in_words(models: Path, tmp_path: Path) -> None:
    controller = Controller(ModelIndex(tmp_path / "runs", (models,)), Nobody())
    for name, said in (("text_encoders/qwen_3_4b", "known kind"), ("vae/ae", "a VAE alone")):
        with pytest.raises(AplError, match=said):
            controller.about(f"models/{name}.safetensors")


def test_a_transformer_is_recognized_without_torch(models: Path) -> None:
    code = """if True:
        import pathlib, sys
        from apl_trainer.ui.controller import Controller
        from apl_trainer.ui.model_index import ModelIndex
        index = ModelIndex(pathlib.Path("runs"), (pathlib.Path(sys.argv[1]),))
        print(Controller(index, None).about(sys.argv[2]).said)
        sys.exit("torch" in sys.modules)
        """
    given = [str(models), "models/diffusion_models/z_image.safetensors"]
    done: Any = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, check=False
    )
    assert done.returncode == 0 and done.stdout.decode().strip() == "Z-Image", done.stderr
