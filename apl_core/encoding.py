"""The reference encoder run: prompts through CLIP text towers with prefix rows in every chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from .alignment import chunk_places
from .errors import FitError
from .ports import Conditioning
from .prefix import Rows, describe
from .tokens import CHUNK, arrange, refuse_marks, room, split


class Tower(Protocol):
    """One CLIP text transformer with its tokenizer."""

    key: str
    bos: int
    eos: int
    pad: int

    @property
    def module(self) -> nn.Module:
        """The network itself."""
        ...

    @property
    def table(self) -> Tensor:
        """Token embeddings (vocabulary, width)."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS, of any length."""
        ...

    def pieces(self, text: str) -> list[str]:
        """The same tokens as strings."""
        ...

    def run(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, 77, width) and pooled output of token embeddings rows (B, 77, width).

        `ids` (B, 77) tell where EOS is; positions are added by the tower.
        """
        ...


class ReferenceEncoder:
    """A TextEncoderPort over towers: hidden states, and pooled ones, joined along the width."""

    def __init__(self, towers: Sequence[Tower]) -> None:
        self.towers = tuple(towers)

    @property
    def widths(self) -> Mapping[str, int]:
        """Token-embedding width per encoder."""
        return {tower.key: tower.table.shape[1] for tower in self.towers}

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The towers' networks."""
        return [tower.module for tower in self.towers]

    def token_embedding(self, key: str) -> Tensor:
        """The token-embedding table (vocabulary, width) of one tower."""
        return next(tower.table for tower in self.towers if tower.key == key)

    def pieces(self, text: str) -> list[str]:
        """The first tower's tokens of a text as strings."""
        return self.towers[0].pieces(text)

    def aligned(self, prompt: str, neutral: str, rows: Rows) -> list[int]:
        """For each place of a prefixed prompt's chunk, the one of the neutral prompt's."""
        return chunk_places(self.pieces(prompt), self.pieces(neutral), rows)

    def check(self, texts: Iterable[str]) -> None:
        """PromptError if one of the texts could not be encoded: told before the work begins."""
        self._tokens(list(texts))

    def _tokens(self, texts: Sequence[str]) -> list[list[list[int]]]:
        per_tower = [[tower.tokenize(text) for text in texts] for tower in self.towers]
        for tower, tokens in zip(self.towers, per_tower, strict=True):
            for ids in tokens:
                refuse_marks(ids, tower.bos, tower.eos)
        return per_tower

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Encode texts in chunks of 75 places; FitError if the rows are for other encoders.

        PromptError if a text spells out BOS or EOS, with rows or without: the two are compared.
        Texts of a batch get the same number of chunks: the shorter ones are filled up with empty
        chunks, prefixed as all others are.
        """
        refuse_misfit(rows, self.widths)
        hidden: list[Tensor] = []
        pooled: list[Tensor] = []
        per_tower = self._tokens(texts)
        space = CHUNK if rows is None else room(rows.n)
        chunks = max(len(split(ids, space)) for tokens in per_tower for ids in tokens)
        for tower, tokens in zip(self.towers, per_tower, strict=True):
            places = torch.tensor(
                [row for ids in tokens for row in _layout(tower, ids, rows, chunks)],
                device=tower.table.device,
            )
            embeddings = embed(places, tower.table, rows, tower.key)
            states, pool = tower.run(places.clamp_min(0), embeddings)
            hidden.append(states.reshape(len(texts), chunks * states.shape[1], -1))
            if pool is not None:
                pooled.append(pool.reshape(len(texts), chunks, -1)[:, 0])
        return Conditioning(torch.cat(hidden, -1), torch.cat(pooled, -1) if pooled else None)


def _layout(tower: Tower, ids: list[int], rows: Rows | None, chunks: int) -> list[list[int]]:
    """Chunks of one text as token ids, with marks where rows stand."""
    front, behind = row_marks(ids, rows)
    parts = split(ids, room(len(front) + len(behind)))
    parts += [[]] * (chunks - len(parts))
    return [
        arrange(part, bos=tower.bos, eos=tower.eos, pad=tower.pad, front=front, behind=behind)
        for part in parts
    ]


def refuse_misfit(rows: Rows | None, widths: Mapping[str, int]) -> None:
    """FitError if rows are not for encoders of these widths."""
    if rows is None:
        return
    given = {key: vectors.shape[-1] for key, vectors in rows.vectors.items()}
    if given != dict(widths):
        raise FitError(
            "encode with a prefix",
            f"the prefix is for {describe(given)}, the model is {describe(widths)}",
            "use a prefix that was made for this kind of model",
        )


def row_marks(ids: Sequence[int], rows: Rows | None) -> tuple[list[int], list[int]]:
    """What stands for the rows before and behind a text's tokens: row k is written as -1 - k.

    None stand around an empty text, unless they are everywhere.
    """
    if rows is None or not (ids or rows.everywhere):
        return [], []
    marks, cut = [-1 - k for k in range(rows.n)], rows.n - rows.behind
    return marks[:cut], marks[cut:]


def embed(places: Tensor, table: Tensor, rows: Rows | None, key: str) -> Tensor:
    """Embeddings (B, N, width) of token ids (B, N) by one encoder's table, rows at their marks."""
    embeddings = nn.functional.embedding(places.clamp_min(0), table)
    if rows is None:
        return embeddings
    learned = rows.vectors[key].to(embeddings.device)
    marks = (-1 - places).clamp_min(0)
    mixed = torch.where((places < 0)[..., None], learned[marks], embeddings.to(learned.dtype))
    return mixed.to(embeddings.dtype)
