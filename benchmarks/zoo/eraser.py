"""The closed-form eraser of the paper's bench on a member of the zoo, for comparison.

Every key and value of a text comes out of the one layer that reads the encoder's states, so that
one is edited: on the states of a listed name it says what it says on those of "a person" in its
place, and on those of name-free prompts what it said before (`benchmarks/paper/eraser.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from apl_core.errors import ConfigError
from apl_core.example_kinds import PERSON
from apl_core.prefix import Rows
from apl_trainer.models.transformer import FlowDenoiser
from apl_trainer.pocket.captions import TEMPLATES
from apl_trainer.pocket.eval_prompts import people_prompts, things_prompts
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.model import WorldModel
from apl_trainer.pocket.networks import LATENT_CHANNELS, LATENT_SIZE
from apl_trainer.pocket.recognizer import Reading
from apl_trainer.pocket.render_pool import RenderPool

from ..paper.eraser import Moments, edit
from ..recipe import Measure, Record
from .build import Loader

_KEPT = 90_000  # seeds of prompts that nothing else asks


def reader(network: nn.Module) -> tuple[str, nn.Linear]:
    """The layer that reads the encoder's states, and its name: Lumina 2's or PixArt's."""
    for name in ("time_caption_embed.caption_embedder.1", "caption_projection.linear_1"):
        try:
            return name, cast(nn.Linear, network.get_submodule(name))
        except AttributeError:
            continue
    raise ConfigError(
        "edit this member",
        f"{type(network).__name__} has no one layer that reads all of a text's states",
        "take a member with a frozen text encoder, or `apl bench paper` for the pocket model",
    )


def measured(
    model: WorldModel, out: Path, workers: int, second: Callable[[Tensor], Reading] | None = None
) -> dict[str, float]:
    """The figures of a member whose train names are erased; the edit is kept in `out`.

    A `second` recognizer reads the same pictures.
    """
    record = Record(out / "figures.json")

    def made() -> dict[str, float]:
        asked = (*people_prompts(model.world, 256, _KEPT), *things_prompts(model.world, 256, _KEPT))
        keep = [question.request().prompt for question in asked]
        names = [person.name for person in model.world.group("train")]
        began = time.perf_counter()
        weights = erased(model, names, keep)
        seconds = time.perf_counter() - began
        out.mkdir(parents=True, exist_ok=True)
        save_file(weights, out / "edited.safetensors")
        load = Loader(edited=out / "edited.safetensors")
        with RenderPool(model.folder, EVALUATION_STEPS, workers, load) as renderer:
            return Measure.of(model.world, second)(renderer, None) | {"seconds": seconds}

    record.get("eraser", made)
    return record.found["eraser"]


@torch.no_grad()
def erased(model: WorldModel, names: Sequence[str], keep: Sequence[str]) -> dict[str, Tensor]:
    """The edited weight by its name: listed names read as "a person", `keep` as before."""
    denoiser = model.denoiser
    assert isinstance(denoiser, FlowDenoiser)
    name, layer = reader(denoiser.network)
    old: list[Tensor] = []
    new: list[Tensor] = []
    nothing = Rows({key: torch.zeros(0, width) for key, width in model.encoder.widths.items()})
    for template in TEMPLATES:
        neutral = template.format(PERSON)
        wanted = _read(model, layer, neutral)
        for who in names:
            prompt = template.format(who)
            old.append(_read(model, layer, prompt))
            new.append(wanted[list(model.encoder.aligned(prompt, neutral, nothing))])
    kept = torch.cat([_read(model, layer, text) for text in keep])
    moments = Moments.of(torch.cat(old), torch.cat(new)), Moments.of(kept, kept)
    return {f"{name}.weight": edit(layer.weight, *moments, preserve=0.5, ridge=1e-3)}


def _read(model: WorldModel, layer: nn.Linear, text: str) -> Tensor:
    """What the layer reads of a text, (N, width)."""
    found: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Any, ...]) -> None:
        found.append(given[0][0])

    handle = layer.register_forward_pre_hook(keep)
    try:
        x = torch.zeros(1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        model.denoiser.predict_noise(x, torch.tensor([0]), model.encoder.encode([text], None))
    finally:
        handle.remove()
    return found[0]
