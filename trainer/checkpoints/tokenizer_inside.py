"""The tokenizer that a text encoder's file brings: sentencepiece's (Gemma) or Mistral's Tekken."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from apl_core.errors import AplError
from apl_core.metadata import printable

from .model_files import INSIDE

_NORMAL, _UNKNOWN, _CONTROL, _OWN = 1, 2, 3, 4
"""Types of sentencepiece's pieces; `_OWN` are kept whole, whatever stands beside them."""

_TURNS = ("<start_of_turn>", "<end_of_turn>")

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How ComfyUI splits a text before Tekken's ranks: not as the file says, but as Llama 3 does."""


def tokenizer_inside(path: Path, found: Mapping[str, Tensor]) -> Any | None:
    """The tokenizer among a file's tensors (bytes under one of `INSIDE`), None without one.

    AplError if it is broken, or if protobuf is not there to read it with.
    """
    name = next((name for name in INSIDE if name in found), None)
    if name is None:
        return None
    asked = f"read the tokenizer in {printable(path.name)}"
    try:
        inner, marks = _READ[name](found[name].contiguous().numpy().tobytes())
    except ImportError as error:
        fix = "install it with `pip install protobuf`"
        raise AplError(asked, "protobuf is not installed", fix) from error
    except Exception as error:  # broken bytes raise anything
        why = printable(str(error), 120)
        raise AplError(asked, why, "download the file again") from error
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **marks)


def _gemma(data: bytes) -> tuple[Tokenizer, dict[str, Any]]:
    """sentencepiece's BPE, the best scored of all that two pieces make first."""
    from transformers.convert_slow_tokenizer import import_protobuf

    protobuf: Any = import_protobuf()
    proto = protobuf.ModelProto.FromString(data)
    spec, rules = proto.trainer_spec, proto.normalizer_spec
    if spec.model_type != 2 or rules.add_dummy_prefix or rules.remove_extra_whitespaces:
        raise ValueError("it is not made as Gemma's is")
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scores = {piece.piece: -piece.score for piece in proto.pieces if piece.type == _NORMAL}
    model = BPE(
        ids,
        _merges(scores),
        unk_token=spec.unk_piece,
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
        ignore_merges=True,  # a piece that is kept whole is no merge of others
    )
    inner = Tokenizer(model)
    inner.normalizer = normalizers.Replace(" ", "▁")
    kept = sorted((p.piece for p in proto.pieces if p.type == _OWN), key=len, reverse=True)
    if kept:
        inner.pre_tokenizer = pre_tokenizers.Split(
            Regex("|".join(map(re.escape, kept))), "isolated"
        )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = [p.piece for p in proto.pieces if p.type in (_CONTROL, _UNKNOWN)]
    marks = {"bos_token": spec.bos_piece, "eos_token": spec.eos_piece, "pad_token": spec.pad_piece}
    return _begun(inner, [*control, *(mark for mark in _TURNS if mark in ids)], marks)


def _mistral(data: bytes) -> tuple[Tokenizer, dict[str, Any]]:
    """Tekken's ranks, which special tokens stand before; bytes are written as letters (GPT-2's)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters: Any = bytes_to_unicode()
    said = json.loads(data)
    first = int(said["config"]["default_num_special_tokens"])
    count = int(said["config"]["default_vocab_size"]) - first
    ranks = {
        "".join(letters[byte] for byte in base64.b64decode(one["token_bytes"])): one["rank"] + first
        for one in said["vocab"]
        if one["rank"] < count
    }
    special = {str(one["token_str"]): int(one["rank"]) for one in said["special_tokens"]}
    inner = Tokenizer(BPE(special | ranks, _merges(ranks)))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return _begun(inner, sorted(special, key=special.__getitem__), marks)


_READ: Mapping[str, Callable[[bytes], tuple[Tokenizer, dict[str, Any]]]] = dict(
    zip(INSIDE, (_gemma, _mistral), strict=True)
)


def _begun(
    inner: Tokenizer, special: Sequence[str], marks: dict[str, str]
) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer that knows its special tokens; one of them begins every text."""
    inner.add_special_tokens([AddedToken(mark, normalized=False) for mark in special])
    begin = marks["bos_token"]
    inner.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, inner.token_to_id(begin))]
    )
    return inner, {**marks, "additional_special_tokens": list(special)}


def _merges(order: Mapping[str, float]) -> list[tuple[str, str]]:
    """Pairs of tokens that make a token: first those that make the first of the order."""
    pairs = [
        (order[token], (token[:cut], token[cut:]))
        for token in order
        for cut in range(1, len(token))
        if token[:cut] in order and token[cut:] in order
    ]
    return [pair for _, pair in sorted(pairs, key=lambda one: one[0])]
