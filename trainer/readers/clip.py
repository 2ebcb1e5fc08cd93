"""CLIP score and CLIP's look at pictures, through open_clip (an optional extra).

Weights are a file that the user gives; nothing is downloaded. Tried with random weights only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from apl_core.errors import AplError

_MISSING = 'python -m pip install "apl-prefix[evaluate]"'
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEPTHS = 4
_STD = (0.26862954, 0.26130258, 0.27577711)


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Keep open_clip from warning that it has no weights, which are about to be loaded."""
    root, silent = logging.getLogger(), (lambda record: not wanted)
    root.addFilter(silent)
    try:
        yield
    finally:
        root.removeFilter(silent)


class OpenClip:
    """A TextMatcher and FeatureReader: one of open_clip's models, by its name there.

    Such as `ViT-B-32`; only vision transformers have `maps`.
    """

    def __init__(
        self, name: str, weights: Path | None, device: str = "cpu", batch: int = 32
    ) -> None:
        """Load `weights` (safetensors), or start at random with None; AplError if they misfit."""
        try:
            import open_clip  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            found = f"open_clip is not installed ({error})"
            raise AplError("score pictures with CLIP", found, _MISSING) from error
        if name not in open_clip.list_models():
            raise AplError(
                f"score pictures with CLIP {name}",
                "open_clip has no model of this name",
                "take one of open_clip.list_models(), such as ViT-B-32",
            )
        with _quiet(weights is not None):
            self.model: Any = open_clip.create_model(name, device=device).eval()
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        size = self.model.visual.image_size
        self.size = int(size[0] if isinstance(size, tuple | list) else size)
        self.device, self.batch = device, batch
        if weights is not None:
            try:
                self.model.load_state_dict(load_file(weights))
            except Exception as error:  # a broken file raises anything
                raise AplError(
                    f"load {weights}",
                    f"it is not {name}: {str(error).splitlines()[0]}",
                    "give that model's weights as safetensors",
                ) from error

    @torch.no_grad()
    def look(self, pictures: Tensor) -> Tensor:
        """Picture embeddings (B, D) of unit length."""
        parts = [
            self.model.encode_image(self._prepared(part)) for part in pictures.split(self.batch)
        ]
        return F.normalize(torch.cat(parts).float(), dim=1).cpu()

    def features(self, pictures: Tensor) -> Tensor:
        """Picture embeddings (B, D) of length D ** 0.5, for FID and KID."""
        seen = self.look(pictures)
        return seen * seen.shape[1] ** 0.5

    @torch.no_grad()
    def maps(self, pictures: Tensor) -> list[Tensor]:
        """What four depths of the vision transformer hold at each patch: (B, D, h, w) each."""
        blocks = list(self.model.visual.transformer.resblocks)
        chosen = [blocks[len(blocks) * (i + 1) // _DEPTHS - 1] for i in range(_DEPTHS)]
        found: list[Tensor] = []
        hooks = [b.register_forward_hook(lambda m, i, out: found.append(out)) for b in chosen]
        parts: list[list[Tensor]] = []
        try:
            for part in pictures.split(self.batch):
                found.clear()
                self.model.encode_image(self._prepared(part))
                parts.append([self._places(out, len(part)) for out in found])
        finally:
            for hook in hooks:
                hook.remove()
        return [torch.cat(depth) for depth in zip(*parts, strict=True)]

    def match(self, pictures: Tensor, texts: Sequence[str]) -> Tensor:
        """CLIP score: cosine (B,) of each picture with its text."""
        unique = list(dict.fromkeys(texts))
        chosen = self.words(unique)[[unique.index(t) for t in texts]]
        return (self.look(pictures) * chosen).sum(1)

    @torch.no_grad()
    def words(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (B, D) of unit length."""
        parts = [
            self.model.encode_text(self.tokenizer(list(texts[i : i + self.batch])).to(self.device))
            for i in range(0, len(texts), self.batch)
        ]
        return F.normalize(torch.cat(parts).float(), dim=1).cpu()

    def _places(self, tokens: Tensor, count: int) -> Tensor:
        """Patches (count, D, h, w) of a block's output, its class token left out."""
        if not getattr(self.model.visual.transformer, "batch_first", len(tokens) == count):
            tokens = tokens.transpose(0, 1)
        side = round((tokens.shape[1] - 1) ** 0.5)
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side)).float().cpu()

    def _prepared(self, pictures: Tensor) -> Tensor:
        """The shorter side scaled to the model's size, the middle cut out, CLIP's normalization."""
        x = pictures.float().to(self.device)
        height, width = x.shape[-2:]
        scale = self.size / min(height, width)
        sides = max(round(height * scale), self.size), max(round(width * scale), self.size)
        x = F.interpolate(x, sides, mode="bicubic", antialias=True, align_corners=False)
        top, left = (sides[0] - self.size) // 2, (sides[1] - self.size) // 2
        x = x[..., top : top + self.size, left : left + self.size].clamp(0, 1)
        mean, std = (x.new_tensor(v).reshape(1, 3, 1, 1) for v in (_MEAN, _STD))
        return (x - mean) / std
