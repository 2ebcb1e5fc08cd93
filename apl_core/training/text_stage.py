"""The text stage: before any denoiser runs, prefixed prompts learn to encode as their targets do.

A prompt c with the prefix P and its neutral prompt c2 without have the same words before and behind
the name. Every hidden state of P + c is drawn to the state of c2 that means the same:

    |tau(P + c)[p] - tau(c2)[at(p)]|^2 / u

at(p) is the same word before and behind the name, the place of the words that replace the name, BOS
for the rows in front, and EOS or padding for what stands behind the text. u is what another caption
changes, the mean over all places. Name-free prompts are drawn to themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..objective import Example, encode_unique, example_weights
from ..ports import Conditioning, TextEncoderPort
from ..prefix import Rows
from ..tokens import LENGTH, room
from .batches import BatchSampler
from .callbacks import PhaseReport
from .config import TrainConfig
from .scale import embedding_lengths
from .schedules import learning_rate, new_optimizer, set_rate

_REUSE = 4
"""Steps that learn from the same prompts."""


def text_stage(
    config: TrainConfig,
    encoder: TextEncoderPort,
    batches: BatchSampler,
    rows: Rows,
    progress: PhaseReport,
) -> Rows:
    """Rows after `text_steps` steps on hidden states alone; prompts of one chunk only."""
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
            progress("learning from texts", step + 1, config.text_steps)
    return Rows({k: v.detach() for k, v in leaves.items()}, rows.behind)


class _Lesson:
    """Prompts with the states (B, 77, width) and pooled outputs that they are drawn to."""

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
        front = config.num_vectors - rows.behind
        at = [
            aligned(pieces[e.prompt], encoder.pieces(e.neutral), front, rows.behind) for e in chosen
        ]
        places = torch.tensor(at, device=plain.cross.device)
        cross = plain.cross[torch.arange(len(chosen), device=places.device)[:, None], places]
        target = Conditioning(cross, plain.pooled)
        units = [_mean_change(states) for states in _parts(plain)]
        weights = torch.tensor(example_weights([e.kind for e in chosen], config.weights))
        return _Lesson([e.prompt for e in chosen], target, units, weights)

    def loss(self, encoder: TextEncoderPort, rows: Rows) -> Tensor:
        """The weighted mean error in units of what another caption changes."""
        found = _parts(encode_unique(encoder, self.prompts, rows))
        total = torch.zeros(())
        for states, wanted, unit in zip(found, _parts(self.target), self.units, strict=True):
            each = (states[:, :LENGTH].float() - wanted.float()).square().flatten(1).mean(1).cpu()
            total = total + (each * self.weights).sum() / unit
        return total


def aligned(prompt: Sequence[str], neutral: Sequence[str], front: int, behind: int) -> list[int]:
    """For each of a chunk's 77 places with the prefix, the place in the neutral prompt's chunk.

    The pieces that both begin and end with are the same words; what differs between is the name.
    """
    most = min(len(prompt), len(neutral))
    before = next((i for i in range(most) if prompt[i] != neutral[i]), most)
    after = next(
        (i for i in range(most - before) if prompt[-1 - i] != neutral[-1 - i]), most - before
    )
    name, words = len(prompt) - before - after, len(neutral) - before - after
    text = [
        *range(before),
        *(before + min(i * words // name, words - 1) if words else before for i in range(name)),
        *range(before + words, len(neutral)),
    ]
    end = min(1 + len(neutral), LENGTH - 1)
    places = [0, *[0] * front, *(min(1 + i, LENGTH - 1) for i in text), *[end] * behind, end]
    pads = range(end + 1, end + 1 + LENGTH)
    places += [min(pad, LENGTH - 1) for pad in pads]
    return places[:LENGTH]


def _parts(states: Conditioning) -> list[Tensor]:
    return [states.cross] if states.pooled is None else [states.cross, states.pooled]


def _mean_change(states: Tensor) -> float:
    """Mean square of the difference to the next caption's states; 1 if there is none."""
    change = float((states.float() - states.float().roll(1, 0)).square().mean())
    return change or 1.0
