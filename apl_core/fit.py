"""Does a prefix fit the loaded checkpoint? Encoders, widths, and how alike the encoders are.

A fingerprint is a SimHash (Charikar 2002) of the token-embedding table: the signs of 256
projections of a sample of its rows onto fixed +-1 directions. Storing the table as fp16 or bf16
turns the sample by about 1e-3 rad and so flips at most a bit or two; the share of equal bits of
two tables estimates the angle between them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import FitError
from .metadata import printable
from .prefix import Prefix, describe

BITS = 256
SAME_UP_TO = 4
"""Bits that may differ between two stored forms of one table."""

_SAMPLE_ROWS = 512
_STRIDE = 31  # 512 rows of 49,408; a token added at the end of the table changes none of them
_PATTERN = re.compile(r"s1:([0-9a-f]{64})")


@dataclass(frozen=True)
class EncoderFace:
    """What is known of one text encoder of a loaded checkpoint."""

    key: str
    width: int
    fingerprint: str | None = None


@dataclass(frozen=True)
class FitReport:
    """A prefix that fits; None means that a fingerprint is missing on one side."""

    same_encoder: bool | None
    closeness: float | None
    sentence: str


def fingerprint(token_embedding: Tensor) -> str:
    """Fingerprint of a token-embedding table (vocabulary, width), the same for fp32/fp16/bf16."""
    if token_embedding.dim() != 2 or token_embedding.shape[0] < 2:
        raise ValueError(f"a (vocabulary, width) table is needed, not {token_embedding.shape}")
    vocabulary, width = token_embedding.shape
    stride = _STRIDE if vocabulary >= 16 * _STRIDE else 1
    picked = torch.arange(0, vocabulary, stride)[:_SAMPLE_ROWS].to(token_embedding.device)
    sample = token_embedding.detach().index_select(0, picked).to("cpu", torch.float64)
    sample = sample - sample.mean(0)  # the mean row is what tables of one kind share anyway
    over_rows = _signs("rows", _SAMPLE_ROWS)[:, : len(picked)]
    projections = ((over_rows @ sample) * _signs("columns", width)).sum(1)
    bits = "".join("1" if projection > 0 else "0" for projection in projections)
    return f"s1:{int(bits, 2):0{BITS // 4}x}"


def closeness(fp_a: str, fp_b: str) -> float:
    """Estimated cosine of two tables from their fingerprints, 0 (unrelated) to 1 (the same)."""
    return max(0.0, math.cos(math.pi * _distance(fp_a, fp_b) / BITS))


def check_fit(prefix: Prefix, faces: Sequence[EncoderFace], family: str = "") -> FitReport:
    """How the prefix fits these encoders; FitError, naming both sides, if it does not.

    `family` is the kind of model that the encoders belong to, where the host tells: one text
    encoder serves several, and a prefix has to be of the same. Files for CLIP need not say theirs.
    """
    widths = {face.key: face.width for face in faces}
    if widths != prefix.widths:
        raise FitError(
            "use this prefix",
            f"this prefix is for {prefix.described}; "
            f"the loaded checkpoint is {describe(widths, family)}",
            "choose a prefix for this checkpoint, or load a checkpoint of the prefix's family",
        )
    if family:
        _refuse_other_family(prefix, family)
    said = prefix.described
    known: list[int] = []
    for face in faces:
        trained = prefix.card.fingerprints.get(face.key)
        if face.fingerprint and trained and _PATTERN.fullmatch(trained):
            known.append(_distance(trained, face.fingerprint))
    worst = max(known, default=None)
    alike = None if worst is None else max(0.0, math.cos(math.pi * worst / BITS))
    if worst is not None and worst > SAME_UP_TO:
        return FitReport(False, alike, _other_encoder(prefix, alike or 0.0))
    if len(known) < len(faces):
        return FitReport(
            None, alike, f"Fits {said}; whether it was trained on this encoder is not known."
        )
    return FitReport(True, alike, f"Fits {said}: the encoder it was trained on.")


def _refuse_other_family(prefix: Prefix, family: str) -> None:
    said = printable(prefix.card.family, 40)
    if said == family or (not said and all(key.startswith("clip_") for key in prefix.keys)):
        return
    encoders = " + ".join(prefix.keys)
    raise FitError(
        f"use this prefix with {family}",
        f"it was learned through {said}, which reads its text encoder ({encoders}) in another way"
        if said
        else f"its file does not say what it was learned through, and {encoders} serves several",
        f"choose a prefix that was learned through {family}",
    )


def _other_encoder(prefix: Prefix, alike: float) -> str:
    base = f" ({prefix.card.base_model})" if prefix.card.base_model else ""
    return (
        f"Fits {prefix.described}, but was trained on another text encoder{base}: the token "
        f"tables are {alike:.0%} alike. It is applied; expect less the further apart they are."
    )


def _distance(fp_a: str, fp_b: str) -> int:
    """Bits that differ; ValueError if one is not a fingerprint of this version."""
    found = [_PATTERN.fullmatch(text) for text in (fp_a, fp_b)]
    if found[0] is None or found[1] is None:
        raise ValueError(f"not two fingerprints: {fp_a!r}, {fp_b!r}")
    return (int(found[0][1], 16) ^ int(found[1][1], 16)).bit_count()


def _signs(purpose: str, count: int) -> Tensor:
    """Fixed +-1 directions (BITS, count), from SHAKE-256, so from no library's random numbers."""
    stream = hashlib.shake_256(f"apl fingerprint s1 {purpose}".encode())
    data = bytearray(stream.digest(BITS * count // 8))
    packed = torch.frombuffer(data, dtype=torch.uint8)
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.reshape(BITS, count).to(torch.float64) * 2 - 1
