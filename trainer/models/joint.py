"""CLIP and T5 side by side, as Flux.1 and SD 3.5 read a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from apl_core.encoding import ReferenceEncoder, refuse_misfit
from apl_core.ports import Conditioning
from apl_core.prefix import Rows, ordered

from .language import LanguageEncoder

Join = Callable[[Conditioning, Conditioning], Conditioning]
"""What a denoiser gets of a text's states by CLIP and by T5."""


class JointEncoder:
    """A TextEncoderPort over CLIP towers and a T5; every encoder has rows of its own.

    `behind` says that a denoiser sees CLIP's states too, in front of T5's.
    """

    def __init__(
        self, clip: ReferenceEncoder, t5: LanguageEncoder, join: Join, behind: bool
    ) -> None:
        self.clip, self.t5, self._join, self._behind = clip, t5, join, behind

    @property
    def widths(self) -> Mapping[str, int]:
        """Token-embedding width per encoder."""
        found = {**self.clip.widths, **self.t5.widths}
        return {key: found[key] for key in ordered(found)}

    @property
    def modules(self) -> Sequence[nn.Module]:
        """All networks."""
        return [*self.clip.modules, *self.t5.modules]

    def token_embedding(self, key: str) -> Tensor:
        """The token-embedding table (vocabulary, width) of one encoder."""
        return (self.t5 if key == self.t5.key else self.clip).token_embedding(key)

    def pieces(self, text: str) -> list[str]:
        """CLIP's tokens of a text as strings."""
        return self.clip.pieces(text)

    def check(self, texts: Iterable[str]) -> None:
        """PromptError if one of the texts could not be encoded: told before the work begins."""
        given = list(texts)
        self.clip.check(given)
        self.t5.check(given)

    def aligned(self, prompt: str, neutral: str, rows: Rows) -> list[int]:
        """For each state that a denoiser sees of a prefixed prompt, the one of the neutral one."""
        read = self.t5.aligned(prompt, neutral, rows)
        if not self._behind:
            return read
        chunk = self.clip.aligned(prompt, neutral, rows)
        return list(chain(chunk, (len(chunk) + place for place in read)))

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Encode texts by all encoders; FitError, PromptError as each of them."""
        refuse_misfit(rows, self.widths)
        clip = self.clip.encode(texts, _for(rows, self.clip.widths))
        return self._join(clip, self.t5.encode(texts, _for(rows, self.t5.widths)))


def pooled_alone(clip: Conditioning, t5: Conditioning) -> Conditioning:
    """Flux.1: T5's states, and CLIP's pooled one."""
    return Conditioning(t5.cross, clip.pooled, t5.mask)


def one_behind_the_other(clip: Conditioning, t5: Conditioning) -> Conditioning:
    """SD 3.5: CLIP's states, filled up with zeros to T5's width, and T5's behind them."""
    filled = pad(clip.cross, (0, t5.cross.shape[-1] - clip.cross.shape[-1]))
    mask = t5.mask
    if mask is not None:
        mask = torch.cat([mask.new_ones(filled.shape[:2]), mask], 1)
    return Conditioning(torch.cat([filled, t5.cross], 1), clip.pooled, mask)


def _for(rows: Rows | None, keys: Iterable[str]) -> Rows | None:
    if rows is None:
        return None
    return Rows({key: rows.vectors[key] for key in keys}, rows.behind, rows.everywhere)
