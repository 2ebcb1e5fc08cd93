"""Which webui this is, and the text side of A1111 (and reForge); forge.py has that of Forge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from apl_core.errors import FitError, HostError
from apl_core.fit import EncoderFace, FitReport, check_fit, fingerprint
from apl_core.prefix import FAMILIES, WIDTHS, Prefix
from apl_core.trace import Tally

from . import forge
from .host import Host, unknown_encoder
from .webui import exists, module

_A1111_ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "FrozenCLIPEmbedderWithCustomWords": "clip_l",
        "FrozenCLIPEmbedderForSDXLWithCustomWords": "clip_l",
        "FrozenOpenCLIPEmbedderWithCustomWords": "clip_h",
        "FrozenOpenCLIPEmbedder2WithCustomWords": "clip_g",
        # reForge: ComfyUI's encoders in A1111's wrapper
        "CLIP_SD_15_L": "clip_l",
        "CLIP_SD_XL_L": "clip_l",
        "CLIP_SD_21_H": "clip_h",
        "CLIP_SD_XL_G": "clip_g",
    }
)


_REFORGE = "modules_forge.forge_clip"
"""reForge's own wrappers of text encoders."""

_PLAIN = (torch.float32, torch.float16, torch.bfloat16)
"""Numbers that can be read; those of quantized tables are packed."""


class A1111:
    """AUTOMATIC1111 and the forks that keep its modules (reForge)."""

    name = "A1111"
    lends_its_model = True

    def __init__(self) -> None:
        self.tally = Tally()

    def engine_class(self) -> type:
        return module("sd_hijack_clip").TextConditionalModel

    def embedding_class(self) -> type:
        return module("sd_hijack").EmbeddingsWithFixes

    def denoiser_class(self) -> type:
        return module("sd_samplers_cfg_denoiser").CFGDenoiser

    def key(self, engine: Any) -> str:
        key = _A1111_ENGINES.get(type(engine).__name__)
        if key is None:
            raise unknown_encoder(type(engine).__name__)
        return key

    def engines(self, model: Any) -> Sequence[Any]:
        conditioner = getattr(model, "conditioner", None)
        if conditioner is None:
            found = [model.cond_stage_model]
        else:
            found = [one for one in conditioner.embedders if hasattr(one, "process_texts")]
        if not found or getattr(model, "is_sd3", False):
            raise unknown_encoder(type(model).__name__)
        return found

    def readers(self) -> Sequence[type]:
        return []

    def reading(self, model: Any) -> Mapping[int, Any]:
        return {}

    def layer(self, engine: Any) -> Any:
        inner = getattr(engine.wrapped, "transformer", None)
        return (
            engine.wrapped.model.token_embedding
            if inner is None
            else inner.text_model.embeddings.token_embedding
        )

    def table(self, engine: Any) -> Tensor:
        layer = self.layer(engine)
        return getattr(layer, "wrapped", layer).weight

    def written(self, rows: Tensor, among: Tensor) -> Tensor:
        return module("devices").cond_cast_unet(rows.to(among.device)).to(among.dtype)

    def fixes(self, engine: Any) -> Sequence[Sequence[Any]]:
        return engine.hijack.fixes

    def emphasis(self, engine: Any) -> Any:
        return module("sd_emphasis").get_current_option(module("shared").opts.emphasis)()

    def device(self) -> Any:
        return module("devices").device

    def forget(self, name: str, said: dict[str, Any] | None = None) -> None:
        return None

    def closed(self) -> Sequence[tuple[Any, str]]:
        return []

    def remote(self) -> Sequence[tuple[Any, str]]:
        return []

    def refuse_settings(self) -> None:
        if module("shared").opts.use_old_emphasis_implementation:
            raise HostError(
                "anonymize this image",
                'the setting "Use old emphasis implementation" is on, which encodes prompts '
                "without chunks",
                "switch it off in Settings > Compatibility",
            )


class ReForge(A1111):
    """reForge: A1111's modules over ComfyUI's networks, which do not learn where they are."""

    name = "reForge"
    lends_its_model = False


def choose_host() -> Host:
    """The webui that this process is; HostError if it is none whose text engine is known."""
    # Forge keeps an empty modules/sd_hijack_clip.py, so its own engine has to be asked for first
    if forge.is_here():
        return forge.Forge()
    if exists("modules.sd_hijack_clip"):
        return ReForge() if exists(_REFORGE) else A1111()
    raise HostError(
        "load APL Prefix",
        "this webui has neither A1111's nor Forge's text engine",
        "use AUTOMATIC1111 1.10, Forge or Forge Neo; SD.Next is not supported",
    )


def faces(host: Host, model: Any, *, fingerprints: bool) -> list[EncoderFace]:
    """The text encoders of a loaded checkpoint; HostError if it has one we do not know."""
    found: list[EncoderFace] = []
    for engine in host.engines(model):
        table = host.table(engine)
        mark = fingerprint(table) if fingerprints else None
        found.append(EncoderFace(host.key(engine), table.shape[1], mark))
    for reader in host.reading(model).values():
        table = reader.layer.weight
        plain = fingerprints and table.dtype in _PLAIN and table.dim() == 2
        mark = fingerprint(table) if plain else None
        found.append(EncoderFace(reader.key, WIDTHS[reader.key], mark))
    return found


def family(host: Host, model: Any) -> str:
    """The family of a loaded checkpoint, as prefixes say it; HostError."""
    reading = host.reading(model)
    keys = frozenset(map(host.key, host.engines(model)))
    return next((one.family.name for one in reading.values()), FAMILIES.get(keys, ""))


def report(host: Host, prefix: Prefix, model: Any, *, fingerprints: bool) -> FitReport:
    """How a prefix fits a loaded checkpoint; AplErrors if it does not."""
    found = faces(host, model, fingerprints=fingerprints)
    clip = all(face.key.startswith("clip_") for face in found)
    return check_fit(prefix, found, "" if clip else family(host, model))


def require_fit(host: Host, name: str, prefix: Prefix, model: Any) -> None:
    """FitError, in a user's words, if the prefix of that name is not for this checkpoint."""
    try:
        report(host, prefix, model, fingerprints=False)
    except FitError as error:
        found = error.found.replace("this prefix is for", "it is for")
        raise FitError(f"anonymize with the prefix {name!r}", found, error.fix) from error
