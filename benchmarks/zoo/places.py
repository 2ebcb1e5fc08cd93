"""Other places for a prefix's rows than among the tokens of the text, to compare.

Among the tokens (`LanguageEncoder`) a denoiser sees the states that the rows become; hidden, it
does not. Rows that enter deeper are hidden too; rows behind the encoder are nothing but more tokens
for the denoiser, and change no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from apl_core.encoding import refuse_misfit, row_marks
from apl_core.errors import ConfigError
from apl_core.ports import Conditioning
from apl_core.prefix import Rows
from apl_trainer.models.language import LanguageEncoder, Template

Place = Literal["tokens", "hidden", "layers", "behind"]

_SAMPLE = ("a photo of a person", "a red circle on a blue background")


def frozen(encoder: object) -> LanguageEncoder:
    """The frozen text encoder of a member; ConfigError for one whose encoders were trained here."""
    if isinstance(encoder, LanguageEncoder):
        return encoder
    raise ConfigError(
        "study what stands in front of this member's text",
        "it has more than one text encoder, or a CLIP, of its own",
        "take a member with a frozen one: minilm-dit, smollm-dit, smollm-cut",
    )


class RowsBehind(LanguageEncoder):
    """Rows that join the states behind the encoder, behind those of the text."""

    def __init__(self, key: str, model: nn.Module, tokenizer: Any, template: Template) -> None:
        super().__init__(key, model, tokenizer, template)
        plain = super().encode(_SAMPLE, None)
        self._scale = _length(plain.cross[cast(Tensor, plain.mask)]) / _length(
            self.token_embedding(key)
        )

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Encode texts; the rows, as long as states are, stand behind all that are not empty."""
        refuse_misfit(rows, self.widths)
        plain = super().encode(texts, None)
        if rows is None or plain.mask is None:
            return plain
        learned = rows.vectors[self.key] * self._scale
        found: list[Tensor] = []
        for text, states, mask in zip(texts, plain.cross, plain.mask, strict=True):
            has_rows = any(row_marks(self._ids(text), rows))
            found.append(torch.cat([states[mask], learned]) if has_rows else states[mask])
        return Conditioning.padded(found)


class RowsAtLayers(LanguageEncoder):
    """A quarter of the rows at the input, and a quarter each at three deeper layers.

    There they take the place of what the rows before have become (prefix tuning, arXiv 2101.00190;
    P-tuning v2, arXiv 2110.07602, at every layer). No denoiser sees them.
    """

    def __init__(self, key: str, model: nn.Module, tokenizer: Any, template: Template) -> None:
        super().__init__(key, model, tokenizer, template, hidden=True)
        last = max(template.layers)
        self._entries = [last * quarter // 4 for quarter in (1, 2, 3)]
        whole = Template(template.before, template.after, tuple(self._entries))
        states = self._sampled(whole)
        table = _length(self.token_embedding(key))
        self._scales = [_length(one) / table for one in states]

    def _sampled(self, template: Template) -> list[Tensor]:
        own, self.template = self.template, template
        try:
            plain = super().encode(_SAMPLE, None)
        finally:
            self.template = own
        return list(plain.cross[cast(Tensor, plain.mask)].chunk(len(template.layers), -1))

    def _groups(self, rows: Rows) -> list[Rows]:
        parts = len(self._entries) + 1  # those that are left over stand nowhere
        front, back = (
            some[: len(some) // parts * parts].chunk(parts)
            for some in (rows.front(self.key), rows.back(self.key))
        )
        return [
            Rows({self.key: torch.cat(both)}, len(both[1]), rows.everywhere)
            for both in zip(front, back, strict=True)
        ]

    def _placed(self, text: str, rows: Rows | None) -> list[int]:
        return super()._placed(text, None if rows is None else self._groups(rows)[0])

    def _states(self, placed: Sequence[Sequence[int]], rows: Rows | None) -> list[Tensor]:
        if rows is None:
            return super()._states(placed, None)
        first, *deeper = self._groups(rows)
        longest = max(len(one) for one in placed)
        places = torch.tensor([[*one, *[0] * (longest - len(one))] for one in placed])
        with self._entering(places, [group.vectors[self.key] for group in deeper]):
            return super()._states(placed, first)

    def _shared(self, placed: Sequence[Sequence[int]]) -> int:
        return 0  # rows enter whole texts, by their places

    @contextmanager
    def _entering(self, places: Tensor, groups: Sequence[Tensor]) -> Iterator[None]:
        at, marks = (places < 0)[..., None], (-1 - places).clamp_min(0)

        def replaced(learned: Tensor) -> Any:
            def hook(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
                states, *rest = given
                return (torch.where(at, learned[marks], states), *rest)

            return hook

        handles = [
            self.reader.blocks[entry].register_forward_pre_hook(replaced(group * scale))
            for entry, group, scale in zip(self._entries, groups, self._scales, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _length(states: Tensor) -> float:
    norms = cast(Tensor, states.detach().float().norm(dim=-1))  # pyright: ignore[reportUnknownMemberType]
    return float(norms.median())
