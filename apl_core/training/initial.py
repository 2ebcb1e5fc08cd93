"""Where the rows start, and how far they have moved from what the encoder has ever seen."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..ports import TextEncoderPort
from ..prefix import Rows
from .config import TrainConfig


def initial_rows(config: TrainConfig, encoder: TextEncoderPort, random: torch.Generator) -> Rows:
    """First values of the rows, on the CPU in float32.

    `words`: embeddings of random real tokens; `normal`: as scattered as real ones;
    `uniform`: [0, 1) as the authors' code, about forty times too long for a real CLIP.
    """
    vectors: dict[str, Tensor] = {}
    for key, width in encoder.widths.items():
        shape = (config.num_vectors, width)
        table = encoder.token_embedding(key).detach().float().cpu()
        if config.prefix_init == "uniform":
            vectors[key] = torch.rand(shape, generator=random)
        elif config.prefix_init == "normal":
            vectors[key] = table.mean(0) + table.std(0) * torch.randn(shape, generator=random)
        else:
            vectors[key] = table[torch.randint(len(table), (config.num_vectors,), generator=random)]
    return Rows(vectors, config.num_suffix_vectors)


def norm_ratio(rows: Rows, encoder: TextEncoderPort) -> float:
    """Longest row over the longest real token embedding; above 1 the encoder never saw such."""
    ratios = [
        _longest(vectors) / _longest(encoder.token_embedding(key))
        for key, vectors in rows.vectors.items()
    ]
    return max(ratios)


def _longest(rows: Tensor) -> float:
    lengths = cast(Tensor, rows.detach().float().norm(dim=1))  # pyright: ignore[reportUnknownMemberType]
    return float(lengths.max())
