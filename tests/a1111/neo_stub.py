"""A stand-in for Forge Neo's engines of autumn 2026, written from what was read in its repository.

It was never run: the whole webui of that time is not to be had. Read were `sd_engine.py`
(`ClipEngine`), `emphasis.py` (an emphasis is called), `flux_engine.py` and the `Flux` and
`StableDiffusionXL` of `backend/diffusion_engine`. Words are letters, as in stub_engine.py.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from stub_engine import Engine
from torch import Tensor, nn

SD_ENGINE, FLUX_ENGINE = "backend.text_processing.sd_engine", "backend.text_processing.flux_engine"


class Emphasis:
    """Normalizes over all that it sees, in place, as Neo's "Original" does."""

    def __call__(self, z: Tensor, multipliers: Tensor) -> Tensor:
        before = z.mean()
        z *= multipliers[..., None]
        z *= before / z.mean()
        return z


class Layer(nn.Module):
    """Neo's `CLIPEmbeddingForTextualInversion`."""

    def __init__(self, wrapped: Any, embeddings: Any, textual_inversion_key: str = "clip_l"):
        super().__init__()
        self.wrapped, self.embeddings = wrapped, embeddings
        self.textual_inversion_key = textual_inversion_key
        self.weight = wrapped.weight


class ClipEngine(Engine):
    """Neo's engine for CLIP: its emphasis is made anew from the settings, and called."""

    def __init__(self, text_encoder: Any, embedding_key: str) -> None:
        super().__init__()
        self.text_encoder, self.embedding_key = text_encoder, embedding_key
        self.embeddings = SimpleNamespace(fixes=[])
        over = text_encoder.transformer.text_model.embeddings
        over.token_embedding = Layer(over.token_embedding, self.embeddings, embedding_key)

    @property
    def emphasis(self) -> Emphasis:
        return Emphasis()

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [list(map(ord, text)) for text in texts]

    def __call__(self, texts: list[str]) -> Tensor:
        raise NotImplementedError

    def process_tokens(self, tokens: list[list[int]], multipliers: list[list[float]]) -> Tensor:
        self.fixes = self.embeddings.fixes
        plain = super().process_tokens(tokens, [[1.0] * len(one) for one in tokens])
        return self.emphasis(plain, torch.tensor(multipliers))


class T5XXLEngine:
    """Neo's engine for T5."""

    def __init__(self, text_encoder: Any) -> None:
        self.text_encoder = text_encoder

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [list(map(ord, text)) for text in texts]

    def __call__(self, texts: list[str]) -> list[Tensor]:
        raise NotImplementedError


def install(monkeypatch: pytest.MonkeyPatch, **held: dict[str, Any]) -> ModuleType:
    """Let this process be such a Neo; `held` replaces modules of its `text_processing`.

    Returns its `modules.processing`.
    """
    parts = {"sd_engine": vars_of(ClipEngine, Layer), "flux_engine": vars_of(T5XXLEngine), **held}
    arguments = SimpleNamespace(last_extra_generation_params={})
    modules: dict[str, dict[str, Any]] = {
        "backend": {},
        "modules_forge": {},
        "modules": {},
        "backend.args": {"dynamic_args": arguments},
        "modules.processing": {},
        **{f"backend.text_processing.{name}": classes for name, classes in parts.items()},
    }
    for name, attributes in modules.items():
        made = ModuleType(name)
        made.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
        for key, value in attributes.items():
            if isinstance(value, type):
                monkeypatch.setattr(value, "__module__", name)
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)
    return sys.modules["modules.processing"]


def vars_of(*classes: type) -> dict[str, Any]:
    """Classes by their names."""
    return {one.__name__: one for one in classes}


class Encoder(nn.Module):
    """A text encoder with nothing but its table, where transformers has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        table = SimpleNamespace(token_embedding=nn.Embedding(8, width))
        self.transformer = SimpleNamespace(text_model=SimpleNamespace(embeddings=table))


def checkpoint(name: str, engines: dict[str, Any], unread: bool = False) -> Any:
    """A loaded checkpoint whose encoders are those of its engines, and one that none reads."""
    encoders: list[nn.Module] = [one.text_encoder for one in engines.values()]
    joint = nn.ModuleList([*encoders, nn.Linear(1, 1)] if unread else encoders)
    clip = SimpleNamespace(cond_stage_model=joint)
    model = type(name, (), {})()
    vars(model).update(engines, forge_objects=SimpleNamespace(clip=clip))
    return model
