"""Text-space warm start: before any denoiser runs, prefixed prompts learn to encode like targets.

Prompts with and without the prefix have their words at different places, so the hidden states of
P + c are drawn to those of c2 where the places mean the same whatever the prompt: the last ones,
which are padding that has seen everything, and their mean over all places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..objective import encode_unique, example_weights
from ..ports import Conditioning, TextEncoderPort
from ..prefix import Rows
from .batches import BatchSampler
from .callbacks import PhaseReport
from .config import TrainConfig
from .scale import embedding_lengths

_REUSE, _LAST = 8, 8


def warm_start(
    config: TrainConfig,
    encoder: TextEncoderPort,
    batches: BatchSampler,
    rows: Rows,
    progress: PhaseReport,
) -> Rows:
    """Rows after `warm_start_steps` Adam steps on hidden states; prompts of one chunk only."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in rows.vectors.items()}
    live = Rows(leaves, rows.behind)
    lengths = embedding_lengths(config, encoder)
    groups = [
        {"params": [leaf], "lr": config.learning_rate * lengths[key]}
        for key, leaf in leaves.items()
    ]
    optimizer = torch.optim.Adam(groups)
    for begin in range(0, config.warm_start_steps, _REUSE):
        examples = batches.examples(config.counts, "warm", begin // _REUSE)
        weights = torch.tensor(example_weights([e.kind for e in examples], config.weights))
        with torch.no_grad():
            target = _summary(encode_unique(encoder, [e.neutral for e in examples], None))
        for step in range(begin, min(begin + _REUSE, config.warm_start_steps)):
            optimizer.zero_grad()
            found = _summary(encode_unique(encoder, [e.prompt for e in examples], live))
            each = (found - target).square().flatten(1).mean(1)
            (each * weights.to(each.device)).sum().backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            progress("text-space warm start", step + 1, config.warm_start_steps)
    return Rows({k: v.detach() for k, v in leaves.items()}, rows.behind)


def _summary(conditioning: Conditioning) -> Tensor:
    states = conditioning.cross
    return torch.cat([states[:, -_LAST:], states.mean(1, keepdim=True)], 1)
