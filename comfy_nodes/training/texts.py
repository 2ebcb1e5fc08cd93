"""Encoded texts as ComfyUI has them: states, and whatever else the host says beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apl_core.ports import Conditioning

Text = tuple[Tensor, dict[str, Any]]
"""One text as a conditioning of the host: states (1, N, width), and what goes with them."""


@dataclass(frozen=True, eq=False)
class Texts(Conditioning):
    """A batch of texts, each of them as the host's text encoders give it."""

    each: tuple[Text, ...] = ()

    @staticmethod
    def of(each: Sequence[Text]) -> Texts:
        """A batch of one text or more."""
        padded = Conditioning.padded([states[0] for states, _ in each])
        pooled = [facts["pooled_output"] for _, facts in each]
        known = None if any(one is None for one in pooled) else torch.cat(pooled)
        return Texts(padded.cross, known, padded.mask, tuple(each))

    def pick(self, rows: Tensor) -> Texts:
        """The texts at `rows` (N,)."""
        return Texts.of([self.each[at] for at in rows.tolist()])
