"""`apl import` of files with a real ComfyUI's own names predicts and draws what ComfyUI does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfyui_probes
import pytest
import slim_pipelines
import torch
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apl_core.ports import Conditioning
from apl_trainer.checkpoints.load import load_checkpoint
from apl_trainer.cli import main

PROBE = "comfyui_import_probe.py"
FAMILIES = (
    *("Z-Image", "Qwen-Image", "Krea 2", "Flux.2 Klein 4B", "Flux.2 dev", "Lumina 2"),
    *("Flux.1", "Chroma", "SD 3.5"),
)
MADE = {
    "Krea 2": lambda: slim_pipelines._qwen3vl(36, 128),
    "Flux.2 Klein 4B": lambda: slim_pipelines._qwen3(28, 128),
    "Flux.2 dev": lambda: slim_pipelines._mistral(30, 128),
    "Lumina 2": lambda: slim_pipelines._gemma2(2, 256),
}
"""Language models as deep as is read, with heads of the released width."""


@pytest.fixture(scope="module")
def files(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one host wrote."""
    work = tmp_path_factory.mktemp("files")
    done = comfyui_probes.run(PROBE, source, work)
    assert done.returncode == 0, done.stderr[-3000:]
    return work


@pytest.mark.parametrize("family", FAMILIES)
def test_an_imported_model_predicts_what_the_host_does(
    family: str, files: Path, tmp_path: Path
) -> None:
    folder = files / family.replace(" ", "-")
    if not folder.is_dir():
        pytest.skip(f"this ComfyUI does not know {family}")
    out = tmp_path / "imported"
    pipe: Any = slim_pipelines.pipeline(family)
    texts = written_texts(family, pipe, tmp_path)
    command = ["import", str(folder / "network.safetensors"), *texts]
    assert main([*command, "--vae", str(folder / "vae.safetensors"), "--out", str(out)]) == 0
    model, said = load_checkpoint(out), load_file(folder / "said.safetensors")
    masked = "mask" in said and not family.startswith("Flux")  # which sees its padding
    mask = said["mask"].bool() if masked else None
    if family == "Chroma":
        as_deep_as_released(model.denoiser.modules[0])
    given = Conditioning(said["cross"], said.get("pooled"), mask)
    x, noise = flat(said["x"]), said["noise"]
    found = model.denoiser.output(x, noise, given)  # pyright: ignore[reportAttributeAccessIssue]
    wanted = (flat(said["eps"]) - x) / (1 - noise)
    away = float((found - wanted).norm() / wanted.norm())
    assert away < 1e-3, away
    picture = model.latents.decode(flat(said["latent"]))
    torch.testing.assert_close(
        picture, (flat(said["picture"]) / 2 + 0.5).clamp(0, 1), atol=1e-3, rtol=1e-3
    )


def as_deep_as_released(chroma: Any) -> None:
    """Number the last layer's modulations as behind 19 + 38 blocks, which the host takes for
    granted: 3 for each single block, 12 for each double one."""
    last = 38 * 3 + 19 * 12 + torch.arange(2)
    numbered = get_timestep_embedding(last * 1000, 32, True, 0)
    chroma.time_text_embed.mod_proj[-2:] = numbered


def flat(latent: Tensor) -> Tensor:
    """(B, C, h, w) of a latent or picture, a video's of one frame too."""
    return latent.squeeze(2) if latent.dim() == 5 else latent


def written_texts(family: str, pipe: Any, folder: Path) -> list[str]:
    """Options that name the text encoders' files and the tokenizer; they are written."""
    options: list[str] = []
    encoders = {name: part for name, part in pipe.components.items() if "text_encoder" in name}
    if family in MADE:
        encoders = {"text_encoder": MADE[family]()}
    for name, part in encoders.items():
        path = folder / f"{name}.safetensors"
        save_file(named(part), path)
        options += ["--text-encoder", str(path)]
    words = [one for name, one in pipe.components.items() if name.startswith("tokenizer")][-1]
    words.save_pretrained(folder / "words")
    return [*options, "--tokenizer", str(folder / "words")]


def named(module: nn.Module) -> dict[str, Tensor]:
    """Weights by the names that ComfyUI's files have."""
    clip = "CLIP" in type(module).__name__
    weights = {name: value for name, value in module.state_dict().items() if "lm_head" not in name}
    if clip and not any(name.startswith("text_model.") for name in weights):
        weights = {
            name if name.startswith("text_projection") else f"text_model.{name}": value
            for name, value in weights.items()
        }
    return {
        name.replace("model.language_model", "model"): value.bfloat16().contiguous()
        for name, value in weights.items()
    }
