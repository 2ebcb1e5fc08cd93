# pyright: reportMissingImports=false
"""ComfyUI's loaded CLIP as the text encoder that the core's training loop sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apl_core.alignment import token_places
from apl_core.errors import HostError
from apl_core.prefix import Rows

from ..clips import readable, table_of, with_rows
from ..families import family_of, tokenizers
from ..guard import pads_of
from ..tokenizers import words
from .texts import Text, Texts
from .trainable import differentiable


class ComfyEncoder:
    """The text encoders of a CLIP of any family, weights in the text and clip skip included.

    Every text is read by itself, as the host does it, so that what is learned on is to the bit what
    APL Apply Prefix gives.
    """

    def __init__(self, clip: Any) -> None:
        self.family, self.clip = family_of(clip), clip.clone()
        self._tokenizer = clip.tokenizer
        self._tokenizers = dict(tokenizers(clip.tokenizer))
        self._tables: dict[str, Tensor] = {}
        if missing := [key for key in self._tokenizers if table_of(clip, key) is None]:
            raise HostError(
                "train on this CLIP",
                f"it has no text encoder {' and no '.join(missing)}, which {self.family.name} "
                "reads as well",
                "load all text encoders of the family",
            )

    @property
    def widths(self) -> Mapping[str, int]:
        """Token-embedding width per encoder."""
        return {key: int(table_of(self.clip, key).shape[-1]) for key in self._tokenizers}

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The text encoders."""
        return [self.clip.cond_stage_model]

    def token_embedding(self, key: str) -> Tensor:
        """The token embeddings (vocabulary, width) of one encoder, as they go into its layers.

        Where the table itself is packed, or is scaled when a token is looked up, all tokens are
        looked up, once.
        """
        table = table_of(self.clip, key)  # anew: leaving inference mode replaces it
        if readable(table) and not self.family.scaled:
            return table
        if key not in self._tables:
            embed = getattr(self.clip.cond_stage_model, key).transformer.get_input_embeddings()
            ids = torch.arange(len(table), device=self.clip.patcher.load_device)
            with torch.no_grad():
                looked_up = (embed(some, out_dtype=torch.float32) for some in ids.split(4096))
                self._tables[key] = torch.cat([some.to("cpu", torch.half) for some in looked_up])
        return self._tables[key]

    def pieces(self, text: str) -> Sequence[str]:
        """The tokens of a text by the first encoder's tokenizer, as strings."""
        tokenizer = next(iter(self._tokenizers.values()))
        chunks = tokenizer.tokenize_with_weights(text, return_word_ids=True)
        tokens = [entry[0] for chunk in chunks for entry in words(chunk)]
        found = [str(tokenizer.inv_vocab.get(token, "")) for token in tokens]
        return [piece.removesuffix("</w>").strip("Ġ▁Ċ") for piece in found]

    def aligned(self, prompt: str, neutral: str, rows: Rows) -> list[int]:
        """For each state of a prefixed prompt, the one of the neutral prompt."""
        if not self.family.states_of(self._tokenizers):
            raise HostError(
                f"learn on texts alone for {self.family.name}",
                "its text encoders give states that cannot be compared token by token",
                "set text_steps to 0 and connect a MODEL and a VAE",
            )
        found: list[int] = []
        start = 0
        prefixed, plain = self._tokens(prompt, rows), self._tokens(neutral, None)
        for key in self.family.states_of(self._tokenizers):
            pads = pads_of(getattr(self.clip.cond_stage_model, key), self._tokenizers[key])
            one, two = ([_id(token) for token in tokens[key]] for tokens in (prefixed, plain))
            other = [token for token in two if token is not None]
            found += (start + place for place in token_places(one, other, rows, pads))
            start += len(two)
        cut = self._cut(plain, neutral)
        return [max(place - cut, 0) for place in found[cut:]]

    def _cut(self, plain: Mapping[str, list[Any]], neutral: str) -> int:
        """How many tokens in front of a text no denoiser sees: its states are fewer by them."""
        with torch.no_grad():
            seen = self.encode([neutral], None).cross.shape[1]
        return sum(len(plain[key]) for key in self.family.states_of(self._tokenizers)) - seen

    def _tokens(self, text: str, rows: Rows | None) -> dict[str, list[Any]]:
        """Tokens of a text by encoder, all chunks joined."""
        tokens = self._tokenized(text, rows)
        named = {key.removeprefix("clip_"): chunks for key, chunks in tokens.items()}
        found = {key: named[key.removeprefix("clip_")] for key in self._tokenizers}
        return {
            key: [entry[0] for chunk in chunks for entry in chunk] for key, chunks in found.items()
        }

    def _tokenized(self, text: str, rows: Rows | None) -> Any:
        plain = self._tokenizer
        self.clip.tokenizer = plain if rows is None else with_rows(plain, rows, self.family)
        return self.clip.tokenize(self.family.written(text))

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Texts:
        """Encode texts as the host does; shorter ones are padded in `cross`, and masked."""
        return Texts.of([self._run(self._tokenized(text, rows)) for text in texts])

    def _run(self, tokens: Any) -> Text:
        """One text through the encoders, which stay loaded as they are."""
        network = self.clip.cond_stage_model
        network.reset_clip_options()
        if self.clip.layer_idx is not None:
            network.set_clip_options({"layer": self.clip.layer_idx})
        network.set_clip_options({"execution_device": self.clip.patcher.load_device})
        try:
            with differentiable():
                states, pooled, *more = network.encode_token_weights(tokens)
        finally:
            network.reset_clip_options()
        return states, {"pooled_output": pooled, **(more[0] if more else {})}


def _id(token: Any) -> int | None:
    """A token's number, or None for a row."""
    return None if isinstance(token, Tensor | Mapping) else int(token)
