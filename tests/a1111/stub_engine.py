"""A text engine with the shapes of A1111's and Forge's: one token a letter, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BOS, EOS = 1000, 1001
WIDTH = 768


@dataclass
class Chunk:
    tokens: list[int] = field(default_factory=list[int])
    multipliers: list[float] = field(default_factory=list[float])
    fixes: list[Any] = field(default_factory=list[Any])


class Engine:
    """Splits letters into chunks ("|" is BREAK); capital letters weigh 2."""

    def __init__(self) -> None:
        self.chunk_length = 75
        self.id_start, self.id_end = BOS, EOS
        self.fixes: list[Any] = []
        self.embedding: Any = None
        """What "@" stands for: something with `vectors` and `vec`."""

    def empty_chunk(self) -> Chunk:
        return self.chunk([], [], [])

    def chunk(self, tokens: list[int], weights: list[float], fixes: list[Any]) -> Chunk:
        filling = self.chunk_length - len(tokens)
        return Chunk(
            [self.id_start, *tokens, *[self.id_end] * filling, self.id_end],
            [1.0, *weights, *[1.0] * filling, 1.0],
            fixes,
        )

    def process_texts(self, texts: list[str]) -> tuple[list[list[Chunk]], int]:
        return [self.split(text) for text in texts], max(map(len, texts))

    def split(self, text: str) -> list[Chunk]:
        chunks: list[Chunk] = []
        tokens: list[int] = []
        weights: list[float] = []
        fixes: list[Any] = []

        def close() -> None:
            chunks.append(self.chunk(list(tokens), list(weights), list(fixes)))
            for one in (tokens, weights, fixes):
                one.clear()

        for letter in text:
            if letter == "|" or len(tokens) >= self.chunk_length:
                close()
            if letter == "@":
                fixes.append((len(tokens), self.embedding))
                tokens += [0] * self.embedding.vectors
                weights += [1.0] * self.embedding.vectors
            elif letter != "|":
                tokens.append(EOS if letter == "$" else ord(letter))
                weights.append(2.0 if letter.isupper() else 1.0)
        if tokens or not chunks:
            close()
        return chunks

    def process_tokens(self, tokens: list[list[int]], multipliers: list[list[float]]) -> Tensor:
        """Looked-up rows (B, T, width) with the fixes written in, times the multipliers."""
        rows = torch.tensor(tokens, dtype=torch.float32)[..., None].repeat(1, 1, WIDTH)
        for row, fixes in enumerate(self.fixes):
            for offset, embedding in fixes:
                vectors = embedding.vec
                rows[row, offset + 1 : offset + 1 + len(vectors)] = vectors
        self.fixes = []
        return rows * torch.tensor(multipliers)[..., None]


def run(engine: Engine, chunks: list[Chunk], process_tokens: Any = None) -> Tensor:
    """The engine's output for one chunk of every text, as a webui's forward pass asks for it."""
    engine.fixes = [chunk.fixes for chunk in chunks]
    tokens = [chunk.tokens for chunk in chunks]
    return (process_tokens or engine.process_tokens)(tokens, [one.multipliers for one in chunks])
