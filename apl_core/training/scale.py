"""What makes the recipe's numbers free of a model's scale: its own embeddings and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ..errors import RunError
from ..example_kinds import Weighting
from ..objective import Example, encode_unique, squared_error
from ..ports import DenoiserPort, TextEncoderPort
from .config import TrainConfig
from .micro import MicroBatch

CAPTIONS = 32
"""Examples of each kind that the change of another caption is measured on."""


def embedding_lengths(config: TrainConfig, encoder: TextEncoderPort) -> Mapping[str, float]:
    """Length of a token embedding of each encoder: the median row norm by the root of the width.

    A step size is counted in these. The paper's is absolute: 1 for each.
    """
    if config.recipe == "paper":
        return dict.fromkeys(encoder.widths, 1.0)
    return {key: token_length(encoder.token_embedding(key)) for key in encoder.widths}


def token_length(table: Tensor) -> float:
    """Median norm of a table's rows (vocabulary, width), by the root of the width."""
    norms = cast(Tensor, table.detach().float().norm(dim=1))  # pyright: ignore[reportUnknownMemberType]
    return float(norms.median()) / table.shape[1] ** 0.5


def next_of_kind(examples: Sequence[Example]) -> list[int]:
    """For each example the place of the next one of its kind, of the last one the first."""
    found = list(range(len(examples)))
    for kind in {example.kind for example in examples}:
        places = [i for i, example in enumerate(examples) if example.kind == kind]
        for place, following in zip(places, [*places[1:], *places[:1]], strict=True):
            found[place] = following
    return found


@torch.no_grad()
def caption_change(
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    examples: Sequence[Example],
    t: Tensor,
    noise: Tensor,
    weighting: Weighting,
    micro: MicroBatch,
) -> float:
    """Mean squared error that the caption of another example of the kind makes.

    Errors of the objective are counted in it, so that they mean the same on every model. `t` (B,)
    and `noise` (B, C, H, W) are those of the examples. RunError if no caption changes anything.
    """
    texts = [example.neutral for example in examples]
    others = [texts[i] for i in next_of_kind(examples)]
    found: list[Tensor] = []

    def run(part: list[int]) -> None:
        x0 = torch.stack([examples[i].latent for i in part]).to(denoiser.device)
        at = t[part].to(denoiser.device)
        x_t = denoiser.schedule.q_sample(x0, noise[part].to(denoiser.device), at)
        own, other = (
            denoiser.predict_noise(
                x_t, at, encode_unique(encoder, [some[i] for i in part], None)
            ).float()
            for some in (texts, others)
        )
        found.append(squared_error(denoiser.schedule, other - own, at, weighting).cpu())

    micro.each(range(len(examples)), run)
    change = float(torch.cat(found).double().mean())
    if not change > 0:
        raise RunError(
            "learn on this model",
            "another caption changes nothing that it draws",
            "look at pictures of two prompts: the text encoder may belong to another model",
        )
    return change
