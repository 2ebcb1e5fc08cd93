"""Prefixes on ComfyUI's CLIP objects: does one fit, apply it, encode a text with it."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from apl_core.errors import HostError
from apl_core.families import Family
from apl_core.fit import EncoderFace, FitReport, check_fit, fingerprint
from apl_core.prefix import Prefix, Rows

from .families import METHOD, attributes, family_of, key_of, tokenizers
from .guard import guard
from .tokenizers import CLIP, held_tokenizer, prefixed_tokenizer, prefixes_of

LOG = logging.getLogger("apl")

Conditioning = list[list[Any]]

GATE = "apl_gate"
"""Marks the host's tokenizing method where an operator's prefix is put into every text."""

_PLAIN = (torch.float32, torch.float16, torch.bfloat16)


def apply_prefix(clip: Any, prefix: Prefix) -> Any:
    """A copy of `clip` in which `prefix` stands in every chunk; the same object if it already does.

    Where a server enforces a prefix, that one stands there and no other: the same object again.

    Raises FitError for a CLIP of another family or with an encoder that the prefix has no vectors
    for, HostError where no CLIP is connected or another pack has taken its tokenizer over.
    """
    report = fit(clip, prefix)
    LOG.info("%s", report.sentence)
    if all(_has(tokenizer, prefix) for _, tokenizer in tokenizers(clip.tokenizer)):
        return clip
    patched = clip.clone()
    patched.__class__ = _prefixed_class(type(clip))
    patched.tokenizer = with_rows(clip.tokenizer, prefix, family_of(clip))
    for key, tokenizer in tokenizers(patched.tokenizer):
        guard(patched, key, tokenizer)
    return patched


def enforces(clip: Any) -> bool:
    """Whether an operator's prefix stands in every text of this process."""
    return any(_gated(tokenizer) for _, tokenizer in tokenizers(clip.tokenizer))


def with_rows(tokenizer: Any, prefix: Prefix | Rows, family: Family = CLIP) -> Any:
    """A copy of a CLIP's tokenizer that puts the rows into every chunk of every encoder."""
    outer = held_tokenizer(tokenizer)
    for attribute, inner in attributes(tokenizer):
        taken = prefixed_tokenizer(inner, key_of(attribute), prefix, family)
        setattr(outer, attribute, taken)
    return outer


def encode(clip: Any, text: str) -> Conditioning:
    """The conditioning of a text, as the host's CLIPTextEncode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def fit(clip: Any, prefix: Prefix) -> FitReport:
    """How well the prefix fits this CLIP; FitError if it does not, HostError without a CLIP."""
    if clip is None:
        raise HostError(
            "apply a prefix",
            "no CLIP is connected, or the checkpoint has no text encoder",
            "connect the CLIP of a checkpoint, or of a CLIP loader",
        )
    family = family_of(clip)
    return check_fit(prefix, faces(clip, fingerprints=True), family.name)


def faces(clip: Any, *, fingerprints: bool = False) -> list[EncoderFace]:
    """What is known of each text encoder of a CLIP."""
    found: list[EncoderFace] = []
    for key, tokenizer in tokenizers(clip.tokenizer):
        table = table_of(clip, key)
        width = tokenizer.embedding_size if table is None else int(table.shape[-1])
        known = fingerprints and table is not None and readable(table)
        mark = fingerprint(table) if known and table is not None else None
        found.append(EncoderFace(key, width, mark))
    return found


def tables(clip: Any) -> dict[str, Tensor]:
    """The token-embedding table (vocabulary, width) of every encoder that has a plain one."""
    found = {key: table_of(clip, key) for key, _ in tokenizers(clip.tokenizer)}
    return {key: table for key, table in found.items() if table is not None and readable(table)}


def table_of(clip: Any, key: str) -> Tensor | None:
    """The weight of one encoder's token embeddings, plain or packed; None without the encoder."""
    transformer = getattr(getattr(clip.cond_stage_model, key, None), "transformer", None)
    return None if transformer is None else transformer.get_input_embeddings().weight


def readable(table: Tensor) -> bool:
    """Whether the numbers of a table can be read; those of quantized ones are packed."""
    return table.dtype in _PLAIN and table.dim() == 2 and not table.is_meta


class _PrefixedClip:
    """A CLIP whose weights alone would lose the prefix: they are not merged or saved as they are.

    Merging takes the weights of one CLIP into another, saving writes weights to a file; what comes
    of it would encode texts bare, behind a node that says they are covered.
    """

    def clone(self, *args: Any, **options: Any) -> Any:
        """A copy, which is as careful."""
        host: Any = super()
        copied = host.clone(*args, **options)
        copied.__class__ = type(self)
        return copied

    def get_key_patches(self, *_: Any) -> Any:
        """What merging nodes ask for; HostError."""
        raise _weights_alone("merge this CLIP into another one")

    def get_sd(self, *_: Any) -> Any:
        """What saving nodes ask for; HostError."""
        raise _weights_alone("save this CLIP")

    state_dict_for_saving = get_sd


@cache
def _prefixed_class(base: type) -> type:
    if issubclass(base, _PrefixedClip):
        return base
    return type(f"Prefixed{base.__name__}", (_PrefixedClip, base), {})


def _weights_alone(asked: str) -> HostError:
    return HostError(
        asked,
        "it carries a prefix, which is not in its weights, so the result would encode bare",
        "put APL Apply Prefix behind the node that merges, and save the CLIP without the prefix",
    )


def _has(tokenizer: Any, prefix: Prefix) -> bool:
    return _gated(tokenizer) or any(
        isinstance(one, Prefix) and one.digest == prefix.digest for one in prefixes_of(tokenizer)
    )


def _gated(tokenizer: Any) -> bool:
    return bool(getattr(getattr(type(tokenizer), METHOD), GATE, False))
