"""Language models and other encoders of whole texts as the core's text encoder port.

A text stands in its template, the rows around the text. What a denoiser reads are the states behind
chosen layers, without what the family cuts off in front (as Z-Image, Lumina 2, Flux.2 and
Qwen-Image do it).
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from apl_core.alignment import same_words
from apl_core.encoding import embed, refuse_misfit, row_marks
from apl_core.errors import FitError, PromptError
from apl_core.ports import Conditioning
from apl_core.prefix import Rows

from .clip_text import ids_of

_TOGETHER = 8
"""Texts that run together: of like length, so that little is padding."""


@dataclass(frozen=True)
class Template:
    """What stands around a text, and how many tokens in front no denoiser sees.

    `layers` are numbers of layers passed, whose states are joined along the width; that of all
    layers (-1; the last but one is -2) is normalized as the model does it, others are not.
    Texts of fewer than `fill` tokens are filled up to as many, which the denoiser sees; the encoder
    does if `attends`. `lead` is a blank in front of the text that belongs to its first word.
    """

    before: str
    after: str
    layers: tuple[int, ...]
    cut: int = 0
    fill: int = 0
    attends: bool = False
    lead: str = ""


class Reader:
    """The layers of one frozen transformer up to the last that is read; the model stays as it is.

    With `checkpointing` the way back computes each layer again instead of keeping what it made.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[int], checkpointing: bool = False
    ) -> None:
        whole = len(_blocks(model)[2])
        self._normed = -1 in layers
        self._layers = [n if n >= 0 else whole + 1 + n for n in layers]
        self.checkpointing = checkpointing
        self.model = _shortened(model, max(self._layers), checkpointing)
        _, name, self.blocks = _blocks(self.model)
        self.causal = name == "layers"
        takes = inspect.signature(self.model.forward).parameters
        self._cache = "cache" if "cache" in takes else "past_key_values"
        self._alone = {"use_cache": False} if "use_cache" in takes else {}

    def states(self, embeddings: Tensor, mask: Tensor | None, cache: Any = None) -> Tensor:
        """States (B, N, width * layers) behind the chosen layers, of embeddings (B, N, width)."""
        model: Any = self.model
        # a cache would be filled once more by what is computed again on the way back
        more = self._alone if cache is None else {self._cache: cache, "use_cache": True}
        with _outputs(self.blocks) as behind:
            out = model(inputs_embeds=embeddings, attention_mask=mask, **more)
        last = max(self._layers) if self._normed else None
        found = [
            out.last_hidden_state if number == last else behind[number - 1]
            for number in self._layers
        ]
        return torch.cat(found, -1)


class LanguageEncoder:
    """A TextEncoderPort over one frozen transformer with relative or absolute positions.

    With `hidden` the rows' own states are taken out again: a denoiser sees as many tokens as
    without a prefix. `checkpointing` as in `Reader`.
    """

    def __init__(
        self,
        key: str,
        model: nn.Module,
        tokenizer: Any,
        template: Template,
        hidden: bool = False,
        checkpointing: bool = False,
    ) -> None:
        self.key, self.tokenizer, self.template, self.hidden = key, tokenizer, template, hidden
        self.reader = Reader(model, template.layers, checkpointing)
        self._before, self._after = (
            self._ids(words) for words in (template.before, template.after)
        )
        self._special = SpecialTokens.of(tokenizer)
        self._pad = tokenizer.pad_token_id

    def _ids(self, text: str) -> list[int]:
        return ids_of(self.tokenizer, text)

    @property
    def widths(self) -> Mapping[str, int]:
        """Token-embedding width of the encoder."""
        return {self.key: self.token_embedding(self.key).shape[1]}

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The transformer."""
        return [self.reader.model]

    def token_embedding(self, key: str) -> Tensor:
        """The token-embedding table (vocabulary, width)."""
        model: Any = self.reader.model
        return model.get_input_embeddings().weight

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text as strings, without the marks of words and their parts."""
        tokens = self.tokenizer.convert_ids_to_tokens(self._ids(text))
        return [token.removeprefix("##").removesuffix("</w>").strip("Ġ▁Ċ") for token in tokens]

    def aligned(self, prompt: str, neutral: str, rows: Rows) -> list[int]:
        """For each state that a denoiser sees of a prefixed prompt, the one of the neutral one."""
        said = self.pieces(self._led(neutral))
        words = same_words(self.pieces(self._led(prompt)), said)
        start = len(self._before) - self.template.cut
        end = start + len(said)
        seen = not self.hidden
        front = [max(start - 1, 0)] * (rows.n - rows.behind) * seen
        behind = [end if self._after else end - 1] * rows.behind * seen
        text = (start + i for i in words)
        places = [*range(start), *front, *text, *behind, *range(end, end + len(self._after))]
        fill, pad = self.template.fill - self.template.cut, end + len(self._after)
        return [*places, *(min(pad + i, fill - 1) for i in range(fill - len(places)))]

    def check(self, texts: Iterable[str]) -> None:
        """PromptError if one of the texts could not be encoded: told before the work begins."""
        for text in texts:
            self._placed(text, None)

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Encode texts, filled up to the longest; FitError if the rows are for another encoder.

        PromptError if a text spells out a token that ends it or opens a turn of its own.
        """
        refuse_misfit(rows, self.widths)
        placed = [self._placed(text, rows) for text in texts]
        found: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda i: len(placed[i]))
        for start in range(0, len(order), _TOGETHER):
            some = order[start : start + _TOGETHER]
            found |= zip(some, self._states([placed[i] for i in some], rows), strict=True)
        return Conditioning.padded([found[i] for i in range(len(texts))])

    def _states(self, placed: Sequence[Sequence[int]], rows: Rows | None) -> list[Tensor]:
        """What a denoiser sees of each text, (N, width * layers): of texts of like length."""
        table = self.token_embedding(self.key)
        filled = [[*one, *self._fill(one)] for one in placed]
        places = _padded(filled, self._pad, table.device)
        attended = filled if self.template.attends else placed
        mask = _padded([[1] * len(one) for one in attended], 0, table.device).bool()
        mask = nn.functional.pad(mask, (0, places.shape[1] - mask.shape[1]))
        states = self._run(embed(places, table, rows, self.key), mask, self._shared(placed))
        cut, hidden = self.template.cut, self.hidden
        seen = ([i for i in range(cut, len(one)) if not (hidden and one[i] < 0)] for one in filled)
        return [some[index] for some, index in zip(states, seen, strict=True)]

    def _fill(self, placed: Sequence[int]) -> list[int]:
        return [self._pad] * (self.template.fill - len(placed))

    def _placed(self, text: str, rows: Rows | None) -> list[int]:
        """Token ids of a text in its template, with marks where rows stand."""
        ids = self._ids(self._led(text))
        self._special.refuse(text, ids)
        front, behind = row_marks(ids, rows)
        return [*self._before, *front, *ids, *behind, *self._after]

    def _led(self, text: str) -> str:
        return self.template.lead + text if text.strip() else text

    def _shared(self, placed: Sequence[Sequence[int]]) -> int:
        """How many tokens all texts begin with, the template's and the rows, if they run once."""
        again = self.reader.checkpointing and torch.is_grad_enabled()
        if again or not self.reader.causal or len(placed) < 2:  # a cache is filled only once
            return 0
        alike = (len(set(some)) == 1 for some in zip(*placed, strict=False))
        count = len(list(itertools.takewhile(bool, alike)))
        return min(count, *(len(one) - 1 for one in placed))

    def _run(self, embeddings: Tensor, mask: Tensor, shared: int) -> Tensor:
        """States (B, N, width * layers) behind the chosen layers."""
        given = None if bool(mask.all()) else mask.long()
        if not shared:
            return self.reader.states(embeddings, given)
        from transformers import DynamicCache

        cache = DynamicCache()
        front = self.reader.states(embeddings[:1, :shared], None, cache)
        cache.batch_repeat_interleave(len(embeddings))
        rest = self.reader.states(embeddings[:, shared:], given, cache)
        return torch.cat([front.expand(len(embeddings), -1, -1), rest], 1)


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens at which a text encoder ends a text or begins a turn: no text may have one.

    `unknown` (its text and id) is the token of letters that a vocabulary lacks, as T5's lacks
    Cyrillic: special, and refused only where it is spelled out.
    """

    ids: frozenset[int]
    unknown: tuple[str, int] | None

    @staticmethod
    def of(tokenizer: Any) -> SpecialTokens:
        """Those of a tokenizer of transformers; of some, the unknown token ends texts as well."""
        ids, token = frozenset[int](tokenizer.all_special_ids), tokenizer.unk_token
        if token is None or token in (
            tokenizer.bos_token,
            tokenizer.eos_token,
            tokenizer.pad_token,
        ):
            return SpecialTokens(ids, None)
        return SpecialTokens(ids, (token, tokenizer.unk_token_id))

    def refuse(self, text: str, ids: Sequence[int]) -> None:
        """PromptError if a text's tokens have a special one among them."""
        found = self.ids.intersection(ids)
        if self.unknown is not None and self.unknown[0] not in text:
            found -= {self.unknown[1]}
        if not found:
            return
        raise PromptError(
            "encode this prompt",
            "it spells out a token at which the text encoder ends a text or begins a turn",
            "remove it from the prompt",
        )


def _blocks(model: Any) -> tuple[nn.Module, str, nn.ModuleList]:
    """A transformer's layers (Llama, Qwen, Gemma, Mistral; BERT; T5's encoder) and who has them."""
    inner = getattr(model, "encoder", model)
    for name in ("layers", "layer", "block"):
        if isinstance(found := getattr(inner, name, None), nn.ModuleList):
            return inner, name, found
    raise FitError(
        "find the layers of a text encoder",
        f"{type(model).__name__} has none that is known",
        "use a Llama, Qwen, Gemma, Mistral, BERT or T5 encoder",
    )


def _shortened(model: nn.Module, count: int, checkpointing: bool) -> nn.Module:
    """The first `count` layers of a model, with the weights that it has."""
    inner, name, blocks = _blocks(model)
    short = _copied(inner)
    kept = list(blocks)[:count]
    setattr(short, name, nn.ModuleList(map(checkpoint_wrapper, kept) if checkpointing else kept))
    if inner is model:
        return short
    whole: Any = _copied(model)
    whole.encoder = short
    return whole


def _copied(module: nn.Module) -> nn.Module:
    """A module of its own with the same parts in it."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made


@contextmanager
def _outputs(blocks: nn.ModuleList) -> Iterator[dict[int, Tensor]]:
    """What comes out of each layer while a model runs."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [block.register_forward_hook(keep(i)) for i, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _padded(lists: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    longest = max(len(one) for one in lists)
    return torch.tensor([[*one, *[pad] * (longest - len(one))] for one in lists], device=device)
