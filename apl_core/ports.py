"""What the training loop needs of a model: three Protocols that every host can offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .prefix import Rows
from .schedule import Schedule


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded prompts: `cross` (B, 77 * chunks, width) and, for SDXL, `pooled` (B, width).

    Encoders whose texts differ in length give `mask` (B, N): false where `cross` (B, N, width) is
    padding that no denoiser may see.
    """

    cross: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return self.cross.shape[0]

    def pick(self, rows: Tensor) -> Conditioning:
        """The prompts at `rows` (N,)."""
        rest = (None if x is None else x[rows] for x in (self.pooled, self.mask))
        return Conditioning(self.cross[rows], *rest)

    @staticmethod
    def padded(states: Sequence[Tensor]) -> Conditioning:
        """Texts of different lengths, (N, width) each, filled up to the longest."""
        cross = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        lengths = torch.tensor([len(one) for one in states], device=cross.device)
        places = torch.arange(cross.shape[1], device=cross.device)
        return Conditioning(cross, mask=places < lengths[:, None])

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """One batch out of several of the same length."""
        pooled = [p.pooled for p in parts if p.pooled is not None]
        masks = [p.mask for p in parts if p.mask is not None]
        rest = (torch.cat(some) if some else None for some in (pooled, masks))
        return Conditioning(torch.cat([p.cross for p in parts]), *rest)


class TextEncoderPort(Protocol):
    """One or more CLIP text encoders that can run with prefix rows in place."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Token-embedding width per encoder key, such as {"clip_l": 768}."""
        ...

    @property
    def modules(self) -> Sequence[nn.Module]:
        """What has to be frozen while a prefix is learned."""
        ...

    def token_embedding(self, key: str) -> Tensor:
        """The token-embedding table (vocabulary, width) of one encoder."""
        ...

    def pieces(self, text: str) -> Sequence[str]:
        """The tokens of a text by the first encoder's tokenizer, as strings without its marks."""
        ...

    def aligned(self, prompt: str, neutral: str, rows: Rows) -> Sequence[int]:
        """For each place of `cross` of a prompt with rows, that of the neutral one without."""
        ...

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Encode texts, every chunk with the rows in place; empty texts stay without them."""
        ...


class DenoiserPort(Protocol):
    """A diffusion U-Net with its noise schedule."""

    @property
    def schedule(self) -> Schedule:
        """The noise levels that the network was trained on."""
        ...

    @property
    def modules(self) -> Sequence[nn.Module]:
        """What has to be frozen while a prefix is learned."""
        ...

    @property
    def device(self) -> torch.device:
        """Where x_t is expected."""
        ...

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Noise prediction (B, C, H, W) for x_t (B, C, H, W) at steps t (B,)."""
        ...


class LatentPort(Protocol):
    """The way between pictures and latents."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures (B, 3, H, W) in [0, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents."""
        ...
