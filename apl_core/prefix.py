"""The prefix: a few rows in the token-embedding space of each text encoder, an immutable value."""

from __future__ import annotations

import array
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from .errors import PrefixFileError
from .metadata import PrefixCard, printable
from .tokens import FEWER, MAX_ROWS, NO_ROOM

WIDTHS: Mapping[str, int] = MappingProxyType(
    {
        "clip_l": 768,
        "clip_g": 1280,
        "clip_h": 1024,
        "pocket": 128,
        "smollm2": 576,
        "minilm": 384,
        "zoo_clip": 96,
        "zoo_clip_wide": 128,
        "zoo_t5": 128,
        "t5xxl": 4096,
        "umt5xxl": 4096,
        "qwen3_4b": 2560,
        "qwen3_8b": 4096,
        "qwen3vl_4b": 2560,
        "qwen25_7b": 3584,
        "gemma2_2b": 2304,
        "mistral3_24b": 5120,
        "ministral3_3b": 3072,
        "llama": 4096,
    }
)
"""Width of the token embeddings of every text encoder that a prefix can be made for.

SmolLM2 and MiniLM are the zoo's (`apl zoo`), real language models behind small denoisers, and so
are small encoders that are trained for it. The keys behind them are ComfyUI's names of encoders
(`embedding_key`).
"""

FAMILIES: Mapping[frozenset[str], str] = MappingProxyType(
    {
        frozenset({"clip_l"}): "SD 1.x",
        frozenset({"clip_h"}): "SD 2.x",
        frozenset({"clip_l", "clip_g"}): "SDXL",
        frozenset({"pocket"}): "pocket model",
        frozenset({"smollm2"}): "zoo, SmolLM2",
        frozenset({"minilm"}): "zoo, MiniLM",
        frozenset({"zoo_clip"}): "zoo, a deep CLIP",
        frozenset({"zoo_clip", "zoo_clip_wide"}): "zoo, two CLIPs",
        frozenset({"zoo_clip", "zoo_t5"}): "zoo, T5 and CLIP",
        frozenset({"clip_l", "t5xxl"}): "Flux.1",
        frozenset({"clip_l", "clip_g", "t5xxl"}): "SD 3.5",
        frozenset({"t5xxl"}): "Chroma or PixArt",
        frozenset({"umt5xxl"}): "Wan",
        frozenset({"qwen3_4b"}): "Z-Image or Flux.2 Klein 4B",
        frozenset({"qwen3_8b"}): "Flux.2 Klein 9B",
        frozenset({"qwen3vl_4b"}): "Krea 2 or Mage-Flow",
        frozenset({"qwen25_7b"}): "Qwen-Image",
        frozenset({"gemma2_2b"}): "Lumina 2",
        frozenset({"mistral3_24b"}): "Flux.2 dev",
        frozenset({"ministral3_3b"}): "ERNIE",
        frozenset({"clip_l", "clip_g", "t5xxl", "llama"}): "HiDream I1",
    }
)
"""Checkpoint families by the set of their text encoders; the card names one of several."""


def describe(widths: Mapping[str, int], family: str = "") -> str:
    """Words for a set of encoders, e.g. "SDXL (clip_l 768 + clip_g 1280)"."""
    parts = " + ".join(f"{key} {widths[key]}" for key in ordered(widths))
    family = family or FAMILIES.get(frozenset(widths), "")
    return f"{family} ({parts})" if family else f"({parts or 'no text encoder'})"


def ordered(keys: Mapping[str, object]) -> list[str]:
    """The keys in the order of WIDTHS, unknown ones after them by name."""
    rank = {key: place for place, key in enumerate(WIDTHS)}
    return sorted(keys, key=lambda key: (rank.get(key, len(rank)), key))


@dataclass(frozen=True, eq=False)
class Rows:
    """Live rows on their way into an encoder, each (n, width); gradients are kept.

    `everywhere` puts them into empty texts as well, and a sampler into negative prompts.
    """

    vectors: Mapping[str, Tensor]
    behind: int = 0
    everywhere: bool = False

    def __reduce__(self) -> tuple[object, ...]:
        """To another process as plain copies on the CPU: no gradient goes along."""
        plain = {key: rows.detach().cpu().clone() for key, rows in self.vectors.items()}
        return Rows, (plain, self.behind, self.everywhere)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over keys, shapes, rows in float32 and `behind`."""
        state = hashlib.sha256(f"apl prefix behind={self.behind}".encode())
        for key in ordered(self.vectors):
            rows = _frozen_copy(self.vectors[key])
            state.update(f"|{key} {rows.shape[0]}x{rows.shape[1]}|".encode())
            state.update(_little_endian(rows))
        return state.hexdigest()

    @property
    def n(self) -> int:
        """Rows altogether, the same for every encoder."""
        return next(iter(self.vectors.values())).shape[0]

    def front(self, key: str) -> Tensor:
        """The rows (n - behind, width) that stand after BOS."""
        return self.vectors[key][: self.n - self.behind]

    def back(self, key: str) -> Tensor:
        """The rows (behind, width) that stand right before EOS."""
        return self.vectors[key][self.n - self.behind :]


@dataclass(frozen=True, eq=False)
class Prefix:
    """A finished prefix: checked float32 rows (n, width) on the CPU, and a card about them.

    The last `behind` rows stand behind the text, the others in front of it. The tensors are the
    prefix's own copies: read them, do not write to them. Raises PrefixFileError.
    """

    vectors: Mapping[str, Tensor]
    behind: int = 0
    card: PrefixCard = field(default_factory=PrefixCard)

    def __post_init__(self) -> None:
        _check(self.vectors, self.behind)
        own = {key: _frozen_copy(self.vectors[key]) for key in ordered(self.vectors)}
        for key, rows in own.items():
            if not bool(torch.isfinite(rows).all()):
                raise _wrong(f"{key} holds values that are not finite (NaN or infinity)")
        object.__setattr__(self, "vectors", MappingProxyType(own))

    def __reduce__(self) -> tuple[object, ...]:
        return Prefix, (dict(self.vectors), self.behind, self.card)

    @property
    def n(self) -> int:
        """Rows altogether, the same for every encoder."""
        return self.rows().n

    @property
    def rows_in_front(self) -> int:
        """Rows that stand after BOS."""
        return self.n - self.behind

    @property
    def keys(self) -> tuple[str, ...]:
        """The encoders, in the order of WIDTHS."""
        return tuple(self.vectors)

    @property
    def widths(self) -> dict[str, int]:
        """Width of the rows of every encoder."""
        return {key: rows.shape[1] for key, rows in self.vectors.items()}

    @property
    def family(self) -> str:
        """The family in words, e.g. "SD 1.x"; "unknown family" for other sets of encoders."""
        said = printable(self.card.family, 40)
        return said or FAMILIES.get(frozenset(self.vectors), "unknown family")

    @property
    def described(self) -> str:
        """Words for what it is for, e.g. "Z-Image (qwen3_4b 2560)"."""
        return describe(self.widths, printable(self.card.family, 40))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over keys, shapes, rows and `behind`; the card has no part in it."""
        return self.rows().digest

    @property
    def short_digest(self) -> str:
        """The first ten hex digits of the digest, for people and picture metadata."""
        return self.digest[:10]

    def rows(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Rows:
        """The rows on a device and in a dtype, ready for an encoder."""
        moved = {key: rows.to(device=device, dtype=dtype) for key, rows in self.vectors.items()}
        return Rows(moved, self.behind)

    def front(self, key: str) -> Tensor:
        """The rows (n - behind, width) that stand after BOS."""
        return self.rows().front(key)

    def back(self, key: str) -> Tensor:
        """The rows (behind, width) that stand right before EOS."""
        return self.rows().back(key)


def check_count(n: int) -> None:
    """PrefixFileError for a number of rows that no prefix can have."""
    if n < 1:
        raise _wrong(f"it has {n} vectors, expected 1 to {MAX_ROWS}")
    if n > MAX_ROWS:
        raise PrefixFileError("make a prefix", f"it has {n} vectors: {NO_ROOM} beside them", FEWER)


def _check(vectors: Mapping[str, Tensor], behind: int) -> None:
    if not vectors:
        raise _wrong("it has no vectors")
    counts: dict[str, int] = {}
    for key, rows in vectors.items():
        if key not in WIDTHS:
            raise _wrong(f"unknown text encoder {key!r} (known: {', '.join(WIDTHS)})")
        if rows.dim() != 2 or rows.shape[1] != WIDTHS[key] or not rows.is_floating_point():
            raise _wrong(
                f"{key} is {tuple(rows.shape)} {rows.dtype}, expected (n, {WIDTHS[key]}) floats"
            )
        counts[key] = rows.shape[0]
    if len(set(counts.values())) > 1:
        raise _wrong(f"the encoders have different numbers of vectors: {counts}")
    n = next(iter(counts.values()))
    check_count(n)
    if isinstance(behind, bool) or not isinstance(behind, int) or not 0 <= behind <= n:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong(f"{behind!r} vectors behind the text, expected 0 to {n}")


def _wrong(found: str) -> PrefixFileError:
    return PrefixFileError("make a prefix", found, "use a file that `apl train` or `convert` wrote")


def _frozen_copy(rows: Tensor) -> Tensor:
    return rows.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()


def _little_endian(rows: Tensor) -> bytes:
    values = array.array("f", cast("list[float]", rows.flatten().tolist()))  # pyright: ignore[reportUnknownMemberType]
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
