# pyright: reportMissingImports=false
"""Operator mode: ComfyUI's text encoders let nothing pass without the operator's prefix.

The gate stands in the host's own classes, for the whole process: where texts become tokens the
prefix is put in, where tokens become embeddings it has to be there, row for row. So nothing has to
be known of graphs, links, weights or sides of the guidance: whatever becomes a conditioning, also
a negative or an empty text, was read with the prefix, or the run ended.

Each family has a prefix of its own. Which one a text gets is told by the CLIP that is asked for
tokens or for a conditioning; tokens that were made for another family do not pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from comfy import sd, sd1_clip
from torch import Tensor

from apl_core.enforced import Enforced
from apl_core.errors import FitError, HostError
from apl_core.families import Family
from apl_core.fit import check_fit

from . import marks
from .clips import GATE, faces
from .families import family_of, tokenizers
from .guard import Frame, Turn, lists, pads_of
from .tokenizers import CLIP, covered, given, rows_around

_CLIP = {"start": 49406, "end": 49407}
"""What all of CLIP's text encoders begin and end a chunk with."""


@dataclass(frozen=True)
class _Reading:
    """The CLIP that is asked for tokens or a conditioning, and the prefix of its family."""

    family: Family
    enforced: Enforced
    keys: Mapping[int, str]
    tokenizers: Mapping[str, Any]


_reading: ContextVar[_Reading | None] = ContextVar("apl_gate_reading", default=None)


class Gate:
    """The prefixes, read once, that every text of this process is encoded with."""

    def __init__(self, prefixes: Mapping[str, Enforced]) -> None:
        self.prefixes = prefixes
        self._tokenize: Any = None
        self._frames: dict[tuple[str, str], Frame | Turn] = {}

    def install(self) -> None:
        """Put the gate into the host's classes; once per process, and for all of its life."""
        tokenizer, encoder = sd1_clip.SDTokenizer, sd1_clip.SDClipModel
        self._tokenize = tokenizer.tokenize_with_weights
        tokenizer.tokenize_with_weights = self._covering(self._tokenize)
        encoder.process_tokens = self._checking(encoder.process_tokens)
        sd.CLIP.tokenize = self._asking(sd.CLIP.tokenize)
        for name in ("encode_from_tokens", "encode_from_tokens_scheduled"):
            setattr(sd.CLIP, name, self._fitting(getattr(sd.CLIP, name)))

    def _covering(self, original: Any) -> Any:
        """The host's `tokenize_with_weights` with the prefix in every chunk of every text."""

        @wraps(original)
        def tokenize_with_weights(
            tokenizer: Any, text: str, return_word_ids: bool = False, *args: Any, **options: Any
        ) -> Any:
            family, enforced, key = self._of_tokenizer(tokenizer)
            front, behind = rows_around((enforced.prefix,), key)
            more = {"tokenize": original, "everywhere": True, **options}
            found = covered(tokenizer, text, front, behind, family, *args, **more) or []
            return given(found, return_word_ids)

        setattr(tokenize_with_weights, GATE, True)
        return tokenize_with_weights

    def _checking(self, original: Any) -> Any:
        """The host's `process_tokens`, whose embeddings have to hold the prefix in every chunk."""

        @wraps(original)
        def process_tokens(encoder: Any, tokens: Any, *args: Any, **options: Any) -> Any:
            enforced, looked_for = self._looked_for(encoder)
            chunks = [_filled(looked_for, chunk) for chunk in lists(tokens)]
            result = original(encoder, chunks, *args, **options)
            embedded = result[0] if isinstance(result, tuple) else result
            for chunk, rows in zip(chunks, embedded, strict=True):
                if not _stands(looked_for, chunk, rows):
                    raise _bare("the text encoder read a chunk without the prefix")
            marks.read(enforced.digest)
            return result

        return process_tokens

    def _asking(self, original: Any) -> Any:
        """A method of the host that makes tokens with all tokenizers of a CLIP."""

        @wraps(original)
        def tokenize(clip: Any, *args: Any, **options: Any) -> Any:
            with self._of(clip):
                return original(clip, *args, **options)

        return tokenize

    def _fitting(self, original: Any) -> Any:
        """A method of the host that encodes with all encoders of a CLIP, which have to fit."""

        @wraps(original)
        def encode(clip: Any, *args: Any, **options: Any) -> Any:
            with self._of(clip) as enforced, marks.reading() as digests:
                result = original(clip, *args, **options)
            if enforced.digest not in digests:
                raise _bare("this text encoder does not turn tokens into embeddings as others do")
            return result

        return encode

    @contextmanager
    def _of(self, clip: Any) -> Iterator[Enforced]:
        """The prefix of a CLIP's family, for what is done with the CLIP inside."""
        family = family_of(clip)
        enforced = self.prefixes.get(family.name) or self._only()
        if enforced is None:
            raise self._misfit(family.name)
        check_fit(enforced.prefix, faces(clip), family.name)
        keys: dict[int, str] = {}
        found = dict(tokenizers(clip.tokenizer))
        for key, tokenizer in found.items():
            keys[id(tokenizer)] = keys[id(getattr(clip.cond_stage_model, key, None))] = key
        keys.pop(id(None), None)
        token = _reading.set(_Reading(family, enforced, keys, found))
        try:
            yield enforced
        finally:
            _reading.reset(token)

    def _of_tokenizer(self, tokenizer: Any) -> tuple[Family, Enforced, str]:
        reading = _reading.get()
        if reading is not None and id(tokenizer) in reading.keys:
            key = reading.keys[id(tokenizer)]
            return CLIP if key.startswith("clip_") else reading.family, reading.enforced, key
        only, key = self._only(), str(getattr(tokenizer, "embedding_key", ""))
        if only is None or key not in only.prefix.vectors or not key.startswith("clip_"):
            raise self._misfit(key)
        return CLIP, only, key

    def _only(self) -> Enforced | None:
        """The one prefix that there is, where there is but one."""
        return next(iter(self.prefixes.values())) if len(self.prefixes) == 1 else None

    def _looked_for(self, encoder: Any) -> tuple[Enforced, Frame | Turn]:
        """The prefix of one of the host's text encoders and where it has to stand; FitError."""
        reading = _reading.get()
        if reading is not None and id(encoder) in reading.keys:
            enforced, key = reading.enforced, reading.keys[id(encoder)]
        else:
            width = int(encoder.transformer.get_input_embeddings().weight.shape[-1])
            enforced = self._only()
            widths = enforced.prefix.widths if enforced else {}
            key = next((key for key, known in widths.items() if known == width), "")
            if enforced is None or not key.startswith("clip_"):
                raise self._misfit(f"of width {width}")
        special: Mapping[str, int] = encoder.special_tokens
        if key.startswith("clip_") and any(special.get(k) != one for k, one in _CLIP.items()):
            raise self._misfit(key)
        place = enforced.family, key
        if place not in self._frames:
            front, behind = (
                [entry[0] for entry in side] for side in rows_around((enforced.prefix,), key)
            )
            if key.startswith("clip_") or reading is None:
                self._frames[place] = Frame(front, behind, _CLIP["end"])
            else:
                tokenizer = reading.tokenizers[key]
                pads = pads_of(encoder, tokenizer)
                family, run = reading.family, self._tokenize
                turn = Turn(front, behind, tokenizer, family, pads, everywhere=True, run=run)
                self._frames[place] = turn
        return enforced, self._frames[place]

    def _misfit(self, encoder: str) -> FitError:
        said = " and ".join(one.prefix.described for one in self.prefixes.values())
        return FitError(
            "encode a text on this server",
            f"it enforces a prefix for {said}, and this model has a text encoder ({encoder}) that "
            "the prefix has no vectors for",
            "use a checkpoint of the family that the prefix is for",
        )


def _filled(looked_for: Frame | Turn, chunk: Sequence[Any]) -> Sequence[Any]:
    """A chunk with its rows: kept where it has text, put in where the host made an empty one.

    ComfyUI encodes an empty text of its own beside every weighted one, past its tokenizer.
    """
    if isinstance(looked_for, Turn):
        return looked_for.filled(chunk)
    last = looked_for.last(chunk)
    if any(isinstance(one, Tensor | Mapping) for one in chunk[last:]) or len(
        set(map(int, chunk[last + 1 :])) - {_CLIP["end"], 0}
    ):
        raise _bare("a chunk goes on behind its end")
    if last > 1:
        return looked_for.kept(chunk)
    rows = [*looked_for.front, *looked_for.behind]
    if len(chunk) < len(rows) + 2:
        raise _bare("an empty text is shorter than the prefix")
    return [chunk[0], *rows, *chunk[1 : len(chunk) - len(rows)]]


def _stands(looked_for: Frame | Turn, chunk: Sequence[Any], embedded: Tensor) -> bool:
    """Whether the embeddings (places, width) of a chunk hold the rows, to the bit."""
    wanted = looked_for.places(chunk)
    if len(embedded) != len(chunk) or not wanted:
        return False
    rows = torch.stack(list(wanted.values())).to(embedded)
    return torch.equal(embedded[list(wanted)], rows)


def _bare(found: str) -> HostError:
    return HostError(
        "encode a text on this server, which enforces a prefix",
        found,
        "encode it with ComfyUI's own nodes, on a checkpoint of a family that has a prefix here",
    )
