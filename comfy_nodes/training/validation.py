"""Judges a prefix while it is learned, by its loss on names that it does not learn from."""

from __future__ import annotations

import dataclasses
from typing import cast

from apl_core.example_kinds import KINDS, Weighting
from apl_core.objective import example_weights, per_example_loss
from apl_core.ports import DenoiserPort, TextEncoderPort
from apl_core.prefix import Rows
from apl_core.training.batches import BatchSampler, Source
from apl_core.training.callbacks import ValidationResult
from apl_core.training.config import TrainConfig
from apl_core.training.micro import MicroBatch
from apl_core.training.parallel import Group

_EXAMPLES = 12
"""Of each kind: enough to tell steps apart, few beside what a preview costs."""


class HeldOut:
    """The training loss on fixed examples of a source: held-out names, and what has to stay."""

    def __init__(
        self, encoder: TextEncoderPort, denoiser: DenoiserPort, config: TrainConfig, source: Source
    ) -> None:
        sizes = {f"batch_{kind}": _EXAMPLES * bool(config.counts[kind]) for kind in KINDS}
        own = dataclasses.replace(config, recipe="apl", target_cache=0, **sizes)
        self.encoder, self.denoiser, self.config = encoder, denoiser, config
        self.batch = BatchSampler(own, encoder, denoiser, source, Group(), lambda *_: None).batch(0)

    def __call__(self, rows: Rows) -> ValidationResult:
        """Sum over kinds of weight times mean error; the errors themselves as figures."""
        found = [0.0] * len(self.batch)

        def run(part: list[int]) -> None:
            weighting = cast(Weighting, self.config.weighting)
            given = self.batch.pick(part)
            each = per_example_loss(self.encoder, self.denoiser, given, rows, weighting)
            for place, error in zip(part, each.tolist(), strict=True):
                found[place] = error

        MicroBatch(self.config.micro_batch).each(range(len(found)), run)
        kinds = self.batch.kinds
        weights = example_weights(kinds, self.config.weights)
        figures = {
            f"held-out {kind} error": sum(
                error for error, own in zip(found, kinds, strict=True) if own == kind
            )
            / kinds.count(kind)
            for kind in dict.fromkeys(kinds)
        }
        each = tuple(w * e for w, e in zip(weights, found, strict=True))
        return ValidationResult(sum(each), figures, each)
