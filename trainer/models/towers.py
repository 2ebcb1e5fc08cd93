"""CLIP text transformers of the transformers library as towers of the core's reference encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class ClipTower:
    """One CLIPTextModel (with or without projection) and its tokenizer.

    `skip` is the clip skip: 0 takes the last layer after the final norm, n > 0 the n-th last but
    one without it. The token embedding's output is replaced by a forward hook while the tower
    runs, which works alike in every version of transformers.
    """

    def __init__(self, key: str, model: nn.Module, tokenizer: Any, pad: int, skip: int = 0) -> None:
        self.key, self.module, self.tokenizer, self.skip = key, model, tokenizer, skip
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, pad

    @property
    def _lookup(self) -> nn.Embedding:
        inner: Any = getattr(self.module, "text_model", self.module)
        return inner.embeddings.token_embedding

    @property
    def table(self) -> Tensor:
        """Token embeddings (vocabulary, width)."""
        return self._lookup.weight

    def tokenise(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS, of any length."""
        encoded = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        return list(encoded.input_ids)

    def run(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, 77, width) and the pooled output, if the model has a projection."""
        with self._embedding_gives(rows):
            out = self.module(input_ids=ids, output_hidden_states=self.skip > 0)
        states = out.hidden_states[-1 - self.skip] if self.skip else out.last_hidden_state
        return states, getattr(out, "text_embeds", None)

    @contextmanager
    def _embedding_gives(self, rows: Tensor) -> Iterator[None]:
        def replaced(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
            return rows.reshape(output.shape)

        handle = self._lookup.register_forward_hook(replaced)
        try:
            yield
        finally:
            handle.remove()
