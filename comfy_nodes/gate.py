# pyright: reportMissingImports=false
"""Operator mode: ComfyUI's text encoders let nothing pass without the operator's prefix.

The gate stands in the host's own classes, for the whole process: where texts become tokens the
prefix is put in, where tokens become embeddings it has to be there, row for row. So nothing has to
be known of graphs, links, weights or sides of the guidance: whatever becomes a conditioning, also
a negative or an empty text, was read with the prefix, or the run ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from comfy import sd, sd1_clip
from torch import Tensor

from apl_core.errors import FitError, HostError
from apl_core.fit import EncoderFace, check_fit
from apl_core.prefix import Prefix

from . import marks
from .clips import GATE
from .families import tokenizers
from .guard import Frame, lists
from .tokenizers import CLIP, frame, narrowed, refuse, rows_around, words

_CLIP = {"start": 49406, "end": 49407}
"""What all of CLIP's text encoders begin and end a chunk with."""


@dataclass(frozen=True)
class Gate:
    """The prefix `name`, read once, that every text of this process is encoded with."""

    name: str
    prefix: Prefix
    digest: str
    _frames: dict[str, Frame] = field(default_factory=dict[str, Frame], init=False)

    @classmethod
    def of(cls, name: str, prefix: Prefix) -> Gate:
        """The gate for a prefix, whose digest is taken here and never again."""
        return cls(name, prefix, prefix.digest)

    def install(self) -> None:
        """Put the gate into the host's classes; once per process, and for all of its life."""
        tokenizer, encoder = sd1_clip.SDTokenizer, sd1_clip.SDClipModel
        tokenizer.tokenize_with_weights = self._covering(tokenizer.tokenize_with_weights)
        encoder.process_tokens = self._checking(encoder.process_tokens)
        for name in ("encode_from_tokens", "encode_from_tokens_scheduled"):
            setattr(sd.CLIP, name, self._fitting(getattr(sd.CLIP, name)))

    def _covering(self, original: Any) -> Any:
        """The host's `tokenize_with_weights` with the prefix in every chunk of every text."""

        @wraps(original)
        def tokenize_with_weights(
            tokenizer: Any, text: str, return_word_ids: bool = False, *args: Any, **options: Any
        ) -> Any:
            key = str(getattr(tokenizer, "embedding_key", ""))
            if key not in self.prefix.vectors:
                raise self._misfit(key)
            plain = narrowed(tokenizer, self.prefix.n)
            chunks = original(plain, text, True, *args, **options)
            refuse([one[0] for chunk in chunks for one in words(chunk)], tokenizer, CLIP)
            front, behind = rows_around((self.prefix,), key)
            found = [frame(chunk, front, behind, tokenizer.start_token) for chunk in chunks]
            return found if return_word_ids else [[one[:2] for one in chunk] for chunk in found]

        setattr(tokenize_with_weights, GATE, True)
        return tokenize_with_weights

    def _checking(self, original: Any) -> Any:
        """The host's `process_tokens`, whose embeddings have to hold the prefix in every chunk."""

        @wraps(original)
        def process_tokens(encoder: Any, tokens: Any, *args: Any, **options: Any) -> Any:
            frame = self._frame(encoder)
            chunks = [_filled(frame, chunk) for chunk in lists(tokens)]
            result = original(encoder, chunks, *args, **options)
            embedded = result[0] if isinstance(result, tuple) else result
            for chunk, rows in zip(chunks, embedded, strict=True):
                if not _stands(frame, chunk, rows):
                    raise _bare("the text encoder read a chunk without the prefix")
            marks.read(self.digest)
            return result

        return process_tokens

    def _fitting(self, original: Any) -> Any:
        """A method of the host that encodes with all encoders of a CLIP, which have to fit."""

        @wraps(original)
        def encode(clip: Any, *args: Any, **options: Any) -> Any:
            found = [
                EncoderFace(key, one.embedding_size) for key, one in tokenizers(clip.tokenizer)
            ]
            check_fit(self.prefix, found)
            with marks.reading() as digests:
                result = original(clip, *args, **options)
            if self.digest not in digests:
                raise _bare("this text encoder does not turn tokens into embeddings as others do")
            return result

        return encode

    def _frame(self, encoder: Any) -> Frame:
        """Where the rows belong in the chunks of one of the host's text encoders; FitError."""
        width = int(encoder.transformer.get_input_embeddings().weight.shape[-1])
        special: Mapping[str, int] = encoder.special_tokens
        key = next((key for key, known in self.prefix.widths.items() if known == width), "")
        if not key or any(special.get(name) != token for name, token in _CLIP.items()):
            raise self._misfit(f"of width {width}")
        if key not in self._frames:
            front, behind = rows_around((self.prefix,), key)
            self._frames[key] = Frame(
                [entry[0] for entry in front], [entry[0] for entry in behind], _CLIP["end"]
            )
        return self._frames[key]

    def _misfit(self, encoder: str) -> FitError:
        return FitError(
            "encode a text on this server",
            f"it enforces a prefix for {self.prefix.described}, and this model has a text "
            f"encoder ({encoder}) that the prefix has no vectors for",
            "use a checkpoint of the family that the prefix is for",
        )


def _filled(frame: Frame, chunk: Sequence[Any]) -> Sequence[Any]:
    """A chunk with its rows: kept where it has text, put in where the host made an empty one.

    ComfyUI encodes an empty text of its own beside every weighted one, past its tokenizer.
    """
    last = frame.last(chunk)
    if any(isinstance(one, Tensor | Mapping) for one in chunk[last:]) or len(
        set(map(int, chunk[last + 1 :])) - {_CLIP["end"], 0}
    ):
        raise _bare("a chunk goes on behind its end")
    if last > 1:
        return frame.kept(chunk)
    rows = [*frame.front, *frame.behind]
    if len(chunk) < len(rows) + 2:
        raise _bare("an empty text is shorter than the prefix")
    return [chunk[0], *rows, *chunk[1 : len(chunk) - len(rows)]]


def _stands(frame: Frame, chunk: Sequence[Any], embedded: Tensor) -> bool:
    """Whether the embeddings (places, width) of a chunk hold the frame's rows, to the bit."""
    wanted = frame.places(frame.last(chunk))
    if len(embedded) != len(chunk):
        return False
    rows = torch.stack(list(wanted.values())).to(embedded)
    return torch.equal(embedded[list(wanted)], rows)


def _bare(found: str) -> HostError:
    return HostError(
        "encode a text on this server, which enforces a prefix",
        found,
        "encode it with ComfyUI's own nodes, on a checkpoint of SD 1.x, SD 2.x or SDXL",
    )
