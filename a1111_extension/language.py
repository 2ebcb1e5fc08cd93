"""Language models and T5 as text engines (Forge Neo): which family reads a text, and how.

Told by what an engine does with a text, and by the names and widths of the checkpoint's encoders;
a family that is not known by all of these is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from apl_core.errors import PromptError
from apl_core.families import TABLE, TEXT, Family
from apl_core.prefix import WIDTHS

from .host import unknown_encoder

METHODS = ("tokenize", "__call__", "tokenize_line", "process_tokens")
"""Methods of an engine that turns a line into lists of tokens, and those into rows."""

_ELSEWHERE = frozenset({"Mage-Flow"})
"""Families that read as one of Neo's does, and that Neo does not load."""

_WORD = "a"


@dataclass(frozen=True)
class Reader:
    """An engine, and where it puts the user's text.

    `head` and `tail` are the tokens that it writes around each part of a line; `own` says that
    there are any, so that every part is a text of its own, as a turn of a chat is.
    """

    engine: Any
    key: str
    family: Family
    head: tuple[int, ...]
    tail: tuple[int, ...]

    @property
    def own(self) -> bool:
        return bool(self.head or self.tail)

    @property
    def layer(self) -> nn.Module:
        """The encoder's table of token embeddings."""
        return table_of(self.engine)

    @cached_property
    def scale(self) -> float:
        """What the encoder multiplies all embeddings by that it is given, rows too."""
        network = getattr(self.engine.text_encoder, "model", None)
        if not getattr(network, "normalize_in", False):
            return 1.0
        return float(WIDTHS[self.key]) ** 0.5

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, and of nothing around it."""
        return plain_ids(self.engine, text)

    def parts(self, line: str) -> tuple[str, str]:
        """(what the host wrote in front of the user's text, the user's text) of a line."""
        return ("", line) if self.own else self.family.parts(line)[:2]

    def text(self, text: str) -> list[int]:
        """The tokens of a user's text; PromptError if it spells one that only a template may."""
        ids = self.ids(text)
        if found := self.controls.intersection(ids):
            pieces = tokenizer_of(self.engine).convert_ids_to_tokens(sorted(found))
            raise PromptError(
                f"apply the prefix to this prompt for {self.family.name}",
                f"it spells out {' and '.join(map(str, pieces))}, at which the text encoder ends a "
                "text or begins a turn",
                "remove it from the prompt",
            )
        return ids

    def is_blank(self, ids: Sequence[int]) -> bool:
        """Whether tokens say nothing."""
        return not tokenizer_of(self.engine).decode(list(ids)).strip()

    @cached_property
    def place(self) -> int:
        """The token that stands where a row will be written: an ordinary word."""
        return self.ids(_WORD)[0]

    @cached_property
    def pads(self) -> frozenset[int]:
        """What fills a text up."""
        said = (getattr(self.engine, name, None) for name in ("id_pad", "pad_token"))
        return frozenset(one for one in said if isinstance(one, int))

    @cached_property
    def marks(self) -> frozenset[int]:
        """What begins and ends a text."""
        said = (getattr(self.engine, name, None) for name in ("id_start", "id_end", "end_token"))
        tokenizer = tokenizer_of(self.engine)
        known = (*said, tokenizer.bos_token_id, tokenizer.eos_token_id)
        return frozenset(one for one in known if isinstance(one, int))

    @cached_property
    def controls(self) -> frozenset[int]:
        """The tokens that no text may have."""
        tokenizer = tokenizer_of(self.engine)
        spelled = set(tokenizer.convert_tokens_to_ids(self.family.controls.split()))
        found = spelled.union(tokenizer.all_special_ids) - {tokenizer.unk_token_id, None}
        return frozenset(found | self.marks | self.pads)

    @cached_property
    def heads(self) -> list[list[int]]:
        """The tokens of what a host may have written in front of a user's text."""
        return [[]] if self.own else [self.ids(before) for before, _ in self.family.around]


def readers(model: Any, engines: Iterable[Any], clips: Iterable[str]) -> list[Reader]:
    """How the language models of a checkpoint read texts, beside the `clips`; HostError."""
    named = [(engine, _key(model, engine)) for engine in engines]
    keys = {*clips, *(key for _, key in named)}
    return [_reader(model, engine, key, keys) for engine, key in named]


def _reader(model: Any, engine: Any, key: str, keys: set[str]) -> Reader:
    said = engine.tokenize([_WORD])
    if isinstance(said, tuple):
        raise unknown_encoder(
            type(model).__name__, "it reads a prompt twice, one time in its own network"
        )
    found = list(map(int, said[0]))
    for family in TABLE:
        if set(family.encoders) == keys and family.name not in _ELSEWHERE:
            for before, after in family.around:
                reader = _around(engine, key, family, found, before, after)
                if reader is not None:
                    return _scaled(reader)
    raise unknown_encoder(type(model).__name__)


def _scaled(reader: Reader) -> Reader:
    """The reader, if it is known what its family's scale does to rows; HostError."""
    own = type(reader.layer).__name__ == "ScaledEmbedding"
    if reader.family.scaled and reader.scale == 1 and not own:
        raise unknown_encoder(reader.family.name, "it is not known how it scales embeddings")
    return reader


def _around(
    engine: Any, key: str, family: Family, found: list[int], before: str, after: str
) -> Reader | None:
    """The reader of a family, if the tokens of a word stand between those of this template."""
    word = plain_ids(engine, _WORD)
    reader = Reader(engine, key, family, (), ())
    head, tail = (reader.ids(part) if part else [] for part in (before, after))
    if family.templates == (TEXT,):  # its tokenizer may begin and end each text
        at = next((i for i in range(len(found)) if found[i : i + len(word)] == word), 0)
        head, tail = found[:at], found[at + len(word) :]
        if not reader.marks.issuperset([*head, *tail]):
            return None
    if found != [*head, *word, *tail]:
        return None
    return replace(reader, head=tuple(head), tail=tuple(tail))


def _key(model: Any, engine: Any) -> str:
    """The name of an engine's encoder; HostError if a checkpoint of ours has none such."""
    joint = model.forge_objects.clip.cond_stage_model
    held = [name for name, child in joint.named_children() if runs(engine, child)]
    name = held[0] if held else ""
    width = getattr(table_of(engine), "embedding_dim", 0)
    if WIDTHS.get(name) == width:
        return name
    fitting = [one for one, known in WIDTHS.items() if one.startswith(f"{name}_")]
    fitting = [one for one in fitting if WIDTHS[one] == width]
    if not name or len(fitting) != 1:
        raise unknown_encoder(f"{type(model).__name__}, {name or 'none'} of width {width}")
    return fitting[0]


def runs(engine: Any, encoder: nn.Module) -> bool:
    """Whether an engine runs this encoder, or the network in it."""
    return engine.text_encoder in (encoder, getattr(encoder, "transformer", None))


def table_of(engine: Any) -> Any:
    """An engine's table of token embeddings; HostError where nobody knows it."""
    encoder = engine.text_encoder
    found = getattr(encoder, "shared", None)
    if hasattr(encoder, "get_input_embeddings"):
        found = encoder.get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise unknown_encoder(type(encoder).__name__)
    return found


def tokenizer_of(engine: Any) -> Any:
    """An engine's tokenizer, or the one inside a processor for texts and pictures."""
    return getattr(engine.tokenizer, "tokenizer", engine.tokenizer)


def plain_ids(engine: Any, text: str) -> list[int]:
    """The tokens of a text, and of nothing around it."""
    said: Mapping[str, list[int]] = tokenizer_of(engine)(text, add_special_tokens=False)
    return list(said["input_ids"])
