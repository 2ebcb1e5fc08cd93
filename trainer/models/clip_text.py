"""CLIP text transformers of the transformers library as towers of the core's reference encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text by a tokenizer of transformers, without BOS and EOS, of any length."""
    encoded = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
    return list(encoded.input_ids)


class ClipTower:
    """One CLIPTextModel (with or without projection) and its tokenizer.

    `skip` layers are left out at the end. With all of them the final norm always comes after; with
    fewer only if `norm` says so, as SD 1.x and 2.x have it; SDXL does without. The pooled output is
    the projected one, if the model has a projection; with `pools` the normed state at EOS else, as
    Flux.1 reads it. The token embedding's output is replaced by a forward hook while the tower
    runs, which works alike in every version of transformers.
    """

    def __init__(
        self,
        key: str,
        model: nn.Module,
        tokenizer: Any,
        pad: int,
        skip: int = 0,
        norm: bool = False,
        pools: bool = False,
    ) -> None:
        self.key, self.module, self.tokenizer, self.skip = key, model, tokenizer, skip
        self._pooled = "pooler_output" if pools else "text_embeds"
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, pad
        self.norm = norm

    @property
    def _inner(self) -> Any:
        return getattr(self.module, "text_model", self.module)

    @property
    def _lookup(self) -> nn.Embedding:
        return self._inner.embeddings.token_embedding

    @property
    def table(self) -> Tensor:
        """Token embeddings (vocabulary, width)."""
        return self._lookup.weight

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without BOS and EOS, of any length."""
        return ids_of(self.tokenizer, text)

    def pieces(self, text: str) -> list[str]:
        """The same tokens as strings, without the marks of a word's end."""
        tokens = self.tokenizer.convert_ids_to_tokens(self.tokenize(text))
        return [token.removesuffix("</w>") for token in tokens]

    def run(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, 77, width) and the pooled output (B, width), if there is one."""
        with self._embedding_gives(rows):
            out = self.module(input_ids=ids, output_hidden_states=self.skip > 0)
        pooled = getattr(out, self._pooled, None)
        if not self.skip:
            return out.last_hidden_state, pooled
        states = out.hidden_states[-1 - self.skip]
        return self._inner.final_layer_norm(states) if self.norm else states, pooled

    @contextmanager
    def _embedding_gives(self, rows: Tensor) -> Iterator[None]:
        def replaced(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
            return rows.reshape(output.shape)

        handle = self._lookup.register_forward_hook(replaced)
        try:
            yield
        finally:
            handle.remove()
