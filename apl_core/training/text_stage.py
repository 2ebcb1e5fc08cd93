"""The text stage: before any denoiser runs, prefixed prompts learn to encode as their targets do.

A prompt c with the prefix P and its neutral prompt c2 without have the same words before and behind
the name. Every hidden state of P + c is drawn to the state of c2 that means the same:

    |tau(P + c)[p] - tau(c2)[at(p)]|^2 / u

at(p) is the same word before and behind the name, the place of the words that replace the name,
what stands before the text for the rows in front, and what stands after it for those behind. u is
what another caption changes, the mean over all places. Name-free prompts are drawn to themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..objective import Example, encode_unique, example_weights
from ..ports import Conditioning, TextEncoderPort
from ..prefix import Rows
from ..tokens import room
from .batches import BatchSampler
from .callbacks import PhaseReport
from .config import TrainConfig
from .scale import embedding_lengths
from .schedules import learning_rate, new_optimizer, set_rate

FROM_TEXTS = "learning from texts"
"""What the stage's progress is called."""

_REUSE = 4
"""Steps that learn from the same prompts."""


def text_stage(
    config: TrainConfig,
    encoder: TextEncoderPort,
    batches: BatchSampler,
    rows: Rows,
    progress: PhaseReport,
    ended: Callable[[], bool] = lambda: False,
) -> Rows:
    """Rows after `text_steps` steps on hidden states alone, or fewer where `ended` says so.

    Prompts of one chunk only.
    """
    lengths = embedding_lengths(config, encoder)
    leaves = {k: v.detach().clone().requires_grad_() for k, v in rows.vectors.items()}
    live = Rows(leaves, rows.behind)
    optimizer = new_optimizer(config, leaves)
    for begin in range(0, config.text_steps, _REUSE):
        examples = batches.examples(config.counts, "text", begin // _REUSE)
        lesson = _Lesson.of(config, encoder, examples, rows)
        for step in range(begin, min(begin + _REUSE, config.text_steps)):
            set_rate(optimizer, learning_rate(config, step, config.text_steps), lengths)
            optimizer.zero_grad()
            lesson.loss(encoder, live).backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            progress(FROM_TEXTS, step + 1, config.text_steps)
            if ended():
                return Rows({k: v.detach() for k, v in leaves.items()}, rows.behind)
    return Rows({k: v.detach() for k, v in leaves.items()}, rows.behind)


class _Lesson:
    """Prompts with the states (B, N, width) and pooled outputs that they are drawn to."""

    def __init__(
        self, prompts: Sequence[str], target: Conditioning, units: list[float], weights: Tensor
    ) -> None:
        self.prompts, self.target, self.units, self.weights = prompts, target, units, weights

    @staticmethod
    @torch.no_grad()
    def of(
        config: TrainConfig, encoder: TextEncoderPort, examples: Sequence[Example], rows: Rows
    ) -> _Lesson:
        """Of the examples whose prompts fit into one chunk with the rows."""
        space = room(config.num_vectors)
        pieces = {e.prompt: encoder.pieces(e.prompt) for e in examples}
        fitting = [e for e in examples if e.prompt and len(pieces[e.prompt]) <= space]
        chosen = fitting or examples[:1]
        plain = encode_unique(encoder, [e.neutral for e in chosen], None)
        at = [encoder.aligned(e.prompt, e.neutral, rows) for e in chosen]
        found = Conditioning.padded(
            [states[list(places)] for states, places in zip(plain.cross, at, strict=True)]
        )
        target = replace(found, pooled=plain.pooled)
        units = [_mean_change(states) for states in _parts(plain)]
        weights = torch.tensor(example_weights([e.kind for e in chosen], config.weights))
        return _Lesson([e.prompt for e in chosen], target, units, weights)

    def loss(self, encoder: TextEncoderPort, rows: Rows) -> Tensor:
        """The weighted mean error in units of what another caption changes."""
        found = _parts(encode_unique(encoder, self.prompts, rows))
        seen = self.target.mask
        total = torch.zeros(())
        for states, wanted, unit in zip(found, _parts(self.target), self.units, strict=True):
            if wanted.dim() == 3 and seen is not None:
                each = (states[:, : seen.shape[1]].float() - wanted.float()).square().mean(2)
                each = (each * seen).sum(1) / seen.sum(1)
            else:
                each = (states.float() - wanted.float()).square().mean(1)
            total = total + (each.cpu() * self.weights).sum() / unit
        return total


def _parts(states: Conditioning) -> list[Tensor]:
    return [states.cross] if states.pooled is None else [states.cross, states.pooled]


def _mean_change(states: Tensor) -> float:
    """Mean square of the difference to the next caption's states; 1 if there is none."""
    change = float((states.float() - states.float().roll(1, 0)).square().mean())
    return change or 1.0
