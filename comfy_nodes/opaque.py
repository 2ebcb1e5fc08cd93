"""IMAGE tensors as RGB: what is transparent becomes white, gray gets three channels."""

from __future__ import annotations

from torch import Tensor


def opaque(pictures: Tensor) -> Tensor:
    """Pictures (..., C) in [0, 1] of 1 to 4 channels as (..., 3), on white where transparent."""
    colors, alpha = pictures, None
    if pictures.shape[-1] in (2, 4):
        colors, alpha = pictures[..., :-1], pictures[..., -1:]
    if colors.shape[-1] == 1:
        colors = colors.expand(*colors.shape[:-1], 3)
    return colors[..., :3] if alpha is None else colors * alpha + (1 - alpha)
