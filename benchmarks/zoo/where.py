"""Where a name lives in what a denoiser reads, and whose names a prefix leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from torch import Tensor

from apl_core.encoding import ReferenceEncoder
from apl_core.ports import Conditioning, TextEncoderPort
from apl_core.prefix import Rows
from apl_core.training.validation import PromptValidator
from apl_trainer.models.joint import JointEncoder
from apl_trainer.pocket.model import WorldModel
from apl_trainer.pocket.validation import validation_examples
from apl_trainer.pocket.world import Person
from apl_trainer.report.page import Table

from .kinds import tokens_of

_PART = 8  # of the directions that token embeddings have, those that count as few
_FREE = 2  # name-free prompts of each kind: what another caption changes is measured on them
_NONE, _FEW = "all tokens met", "at most a third not met"


@dataclass(frozen=True)
class Part:
    """A part of a Conditioning: some of its states' width, or its pooled state."""

    title: str
    states: slice | None = None

    def of(self, read: Conditioning, rest: Conditioning) -> Conditioning:
        """This part of `read`, and the others of `rest`, which is as long where it is split."""
        if self.states is None:
            return Conditioning(rest.cross, read.pooled, rest.mask)
        if self.states == slice(None):
            return Conditioning(read.cross, rest.pooled, read.mask)
        cross = rest.cross.clone()
        cross[..., self.states] = read.cross[..., self.states]
        return Conditioning(cross, rest.pooled, rest.mask)


def parts_of(encoder: Any) -> list[Part]:
    """What a denoiser reads of a text by several encoders; of one alone it is a single part."""
    pooled = [Part("pooled state")]
    if isinstance(encoder, JointEncoder):
        return [Part(f"states of {encoder.t5.key}", slice(None)), *pooled]
    if isinstance(encoder, ReferenceEncoder) and len(encoder.towers) > 1:
        ends = pairwise(accumulate(encoder.widths.values(), initial=0))
        named = zip(encoder.widths, ends, strict=True)
        return [*(Part(f"states of {key}", slice(*two)) for key, two in named), *pooled]
    return [Part("states", slice(None))]


class PartReads:
    """An encoder of whose states one part reads the text, or has the rows, and the rest does not.

    The rest reads `instead` in a text's place, where there is something, and has no rows.
    """

    def __init__(self, encoder: TextEncoderPort, part: Part, instead: Mapping[str, str]) -> None:
        self._encoder, self._part, self._instead = encoder, part, instead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Encode texts as the encoder does; only the one part is as asked."""
        other = [self._instead.get(text, text) for text in texts]
        return self._part.of(self._encoder.encode(texts, rows), self._encoder.encode(other, None))


def measure(model: WorldModel, rows: Rows) -> Iterator[Table]:
    """What tokens of names have in common, where names live, and whose names rows leave."""
    yield in_common(model)
    yield by_part(model, model.world.group("heldout"), rows)
    yield by_tokens(model, rows)


def by_part(model: WorldModel, people: Sequence[Person], rows: Rows) -> Table:
    """`name_left` where one part alone reads the name, and where it alone has the prefix."""
    examples = validation_examples(model, people, len(people), _FREE)
    validator = PromptValidator(model.encoder, model.denoiser, examples)
    whole = [_left(validator, None), _left(validator, rows)]
    neutral = {one.prompt: one.neutral for one in examples if one.kind == "identity"}
    parts, lines = parts_of(model.encoder), [["all of it", *whole]]
    for part in parts:
        if len(parts) == 1:
            lines.append([part.title, *whole])
            continue
        named, prefixed = (PartReads(model.encoder, part, other) for other in (neutral, {}))
        cells: list[str] = []
        for port, given in ((named, None), (prefixed, rows)):
            validator.encoder = cast(TextEncoderPort, port)
            cells.append(_left(validator, given))
        lines.append([part.title, *cells])
    about = f"Percent of what {len(people)} held-out names change, +- its 95 % interval."
    titles = ("part", "it alone reads the name", "it alone has the prefix")
    return Table("Where names live", about, titles, lines)


def by_tokens(model: WorldModel, rows: Rows) -> Table:
    """`name_left` of names by whether their tokens stand in names that were learned from."""
    tokens = tokens_of(model.encoder)
    trained, heldout = (list(model.world.group(split)) for split in ("train", "heldout"))
    met = _tokens(trained, tokens)
    lines: list[list[str]] = []
    for title, people in {"learned from": trained, **_groups(heldout, met, tokens)}.items():
        examples = validation_examples(model, people, len(people), _FREE)
        validator = PromptValidator(model.encoder, model.denoiser, examples)
        left = _left(validator, rows) if people else "-"
        lines.append([title, str(len(people)), left])
    about = "Percent of what a name changes; tokens of held-out names in names learned from."
    return Table("Whose names are left", about, ("names", "how many", "left"), lines)


def in_common(model: WorldModel) -> Table:
    """How much of the token embeddings of names lies in few directions.

    Those are the first principal directions of tokens of names that were learned from. Where tokens
    of other names lie in them no more than by chance, an embedding says nothing but which token it
    is, and what rows have learned of some tokens says nothing about others.
    """
    groups = [model.world.group(split) for split in ("train", "heldout")]
    lines: list[list[str]] = []
    for key, tokens in _vocabularies(model.encoder).items():
        known, other = (_tokens(people, tokens) for people in groups)
        table = model.encoder.token_embedding(key).detach().float()
        met, unmet = (table[sorted(ids)] for ids in (known, other - known))
        middle = met.mean(0)
        _, _, directions = torch.linalg.svd(met - middle, full_matrices=False)
        few = directions[: table.shape[1] // _PART]
        cells = [_inside(some - middle, few) for some in (met, unmet)]
        lines.append([key, str(len(known)), str(len(other - known)), *cells])
    about = f"Percent of the variance in an eighth of the directions; by chance {100 / _PART:.1f}."
    titles = ("encoder", "tokens met", "not met", "of those met", "of those not met")
    return Table("What tokens of names have in common", about, titles, lines)


def _vocabularies(encoder: Any) -> dict[str, Callable[[str], list[int]]]:
    """What makes tokens of a text, for each text encoder."""
    if isinstance(encoder, JointEncoder):
        return {**_vocabularies(encoder.clip), encoder.t5.key: tokens_of(encoder)}
    if isinstance(encoder, ReferenceEncoder):
        return {tower.key: tower.tokenize for tower in encoder.towers}
    return {key: tokens_of(encoder) for key in encoder.widths}


def _tokens(people: Sequence[Person], tokens: Callable[[str], list[int]]) -> set[int]:
    return {token for person in people for token in tokens(person.name)}


def _inside(vectors: Tensor, directions: Tensor) -> str:
    share = (vectors @ directions.T).square().sum() / vectors.square().sum()
    return f"{100 * float(share):.1f}"


def _groups(
    people: Sequence[Person], met: set[int], tokens: Callable[[str], list[int]]
) -> dict[str, list[Person]]:
    found: dict[str, list[Person]] = {_NONE: [], _FEW: [], "more": []}
    for person in people:
        ids = tokens(person.name)
        new = sum(token not in met for token in ids) / len(ids)
        found[_NONE if not new else _FEW if new <= 1 / 3 else "more"].append(person)
    return {f"held out, {title}": some for title, some in found.items()}


def _left(validator: PromptValidator, rows: Rows | None) -> str:
    figures = validator(rows).figures
    off = figures.get("name_left_off", math.nan)
    return f"{100 * figures['name_left']:.1f} +- {100 * off:.1f}"
