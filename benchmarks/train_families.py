"""Our step beside the authors' recipe carried over to a family that reads with a language model.

The transformer and its text encoder have the published widths, random weights and fewer layers, so
that they fit on a machine without a GPU. What they have less of is counted: seconds are scaled by
the operations of the whole networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from apl_core.errors import ConfigError
from apl_core.schedule import Schedule
from apl_trainer.checkpoints.cost import EmptyPipeline, transformer_cost
from apl_trainer.checkpoints.pipelines import FAMILIES, KREA_LAYERS, Family
from apl_trainer.models.language import LanguageEncoder, Reader
from apl_trainer.models.transformer import FlowDenoiser

from .families import empty_pipeline, text_model, transformer
from .train import (
    Networks,
    Say,
    Words,
    filled,
    of_steps,
    random_network,
    step_figures,
    step_times,
    write_figures,
)

SHORT: Mapping[str, dict[str, int]] = {
    "Z-Image": {"n_layers": 2, "n_refiner_layers": 1},
    "Qwen-Image": {"num_layers": 1},
    "Krea 2": {"num_layers": 1},
    "Flux.2 Klein 4B": {"num_layers": 1, "num_single_layers": 2},
    "Chroma": {"num_layers": 1, "num_single_layers": 2},
    "Lumina 2": {"num_layers": 2, "num_refiner_layers": 1},
}
"""Layers that are left of each transformer that reads no CLIP; of language models two are."""

_LAYERS = 2


def family_named(name: str) -> Family:
    """A family that can be timed; ConfigError tells which can."""
    if name not in SHORT:
        raise ConfigError("time a step", f"there is no {name!r}", f"known: {', '.join(SHORT)}")
    return next(one for one in FAMILIES if one.name == name)


def short_networks(family: Family, size: int, device: torch.device) -> Networks:
    """Random networks of a family's widths and few layers, for pictures of `size` pixels."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    # not on the meta device: some keep tensors of places that are no buffers
    network = filled(transformer(family, SHORT[family.name]).to(device, dtype))
    text = random_network(lambda: text_model(family.key, _LAYERS), dtype, device)
    template = replace(family.template, layers=_read(family))
    encoder = LanguageEncoder(family.key, text, Words(), template)
    schedule = Schedule.rectified_flow(1000, shift=3.0)
    return Networks(
        encoder, FlowDenoiser(network, schedule, family.call), family.latent_shape(size)
    )


def _read(family: Family) -> tuple[int, ...]:
    """As many layers as the family reads, all of them the first ones."""
    return tuple(min(abs(one), _LAYERS - 1) for one in family.template.layers or KREA_LAYERS)


def short_pipeline(family: Family) -> EmptyPipeline:
    """The short networks on the meta device, to be counted."""
    with torch.device("meta"):
        network = transformer(family, SHORT[family.name])
    return EmptyPipeline(
        family, network, (), Reader(text_model(family.key, _LAYERS), _read(family))
    )


def operations(empty: EmptyPipeline, size: int) -> dict[str, float]:
    """Operations per sample of the authors' step and of ours."""
    ours = transformer_cost(empty, 1, size, torch.float32, checkpointing=False)
    theirs = transformer_cost(empty, 1, size, torch.float32, False, weight_gradients=True)
    return of_steps(ours, theirs)


def run(
    name: str,
    out: Path,
    size: int,
    batches: Sequence[int],
    rounds: int,
    device: torch.device,
    say: Say,
) -> dict[str, float]:
    """Time and count a family's steps; writes figures.json into `out`."""
    family = family_named(name)
    if device.type == "cpu":
        torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    networks = short_networks(family, size, device)
    say("networks are built")
    found = step_figures(step_times(networks, batches, rounds, say)) | {"size": float(size)}
    write_figures(out, found)
    say("counting operations")
    short = operations(short_pipeline(family), size)
    whole = operations(empty_pipeline(family, checkpointing=False), size)
    for one in ("authors", "ours"):
        seconds = found[f"seconds.step_per_sample.{one}"]
        found[f"flops.step_per_sample.{one}"] = whole[one]
        found[f"layers_left.{one}"] = short[one] / whole[one]
        found[f"seconds.whole_step_per_sample.{one}"] = seconds * whole[one] / short[one]
    found["flops_ratio"] = whole["ours"] / whole["authors"]
    write_figures(out, found)
    return found
