"""A prefix in plain words, for the nodes that show one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from apl_core.metadata import plain_words
from apl_core.prefix import Prefix


def card(prefix: Prefix) -> str:
    """What the prefix is, where its vectors stand, and what its file says."""
    stands = f"{prefix.rows_in_front} in front of the text"
    if prefix.behind:
        stands += f", {prefix.behind} behind it"
    lines = [
        f"For {prefix.described}",
        f"{prefix.n} vectors: {stands}",
        f"Digest {prefix.short_digest}",
        plain_words(prefix.card),
    ]
    return "\n".join(lines)


def norms(prefix: Prefix, tables: Mapping[str, Tensor]) -> str:
    """Lengths of the prefix's vectors beside those of the encoder's own tokens (sampled)."""
    return "\n".join(
        f"Length of vectors, {key}: {_span(rows)}; of the encoder's tokens: {_span(tables[key])}"
        for key, rows in prefix.vectors.items()
        if key in tables
    )


def _span(rows: Tensor) -> str:
    sample = rows[:: max(1, len(rows) // 2000)].detach().to("cpu", torch.float32)
    lengths = sample.norm(dim=1)
    return f"{lengths.min():.2f} to {lengths.max():.2f}"
