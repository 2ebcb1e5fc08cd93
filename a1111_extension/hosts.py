"""What differs between A1111 (and reForge) and Forge: their text engines."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast

from torch import Tensor

from apl_core.errors import FitError, HostError
from apl_core.fit import EncoderFace, check_fit, fingerprint
from apl_core.prefix import Prefix
from apl_core.trace import Tally

from .webui import module

_A1111_ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "FrozenCLIPEmbedderWithCustomWords": "clip_l",
        "FrozenCLIPEmbedderForSDXLWithCustomWords": "clip_l",
        "FrozenOpenCLIPEmbedderWithCustomWords": "clip_h",
        "FrozenOpenCLIPEmbedder2WithCustomWords": "clip_g",
        # reForge: ComfyUI's encoders in A1111's wrapper (read in its modules_forge, never run)
        "CLIP_SD_15_L": "clip_l",
        "CLIP_SD_XL_L": "clip_l",
        "CLIP_SD_21_H": "clip_h",
        "CLIP_SD_XL_G": "clip_g",
    }
)
_FORGE_ENGINE = "backend.text_processing.classic_engine"
_NEO_ENGINE = "backend.text_processing.sd_engine"
_FORGE_ENGINES = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")


class Host(Protocol):
    """One webui's text side, and what was done with it."""

    name: str
    tally: Tally
    lends_its_model: bool
    """Whether a prefix can be learned on the loaded checkpoint itself."""

    def engine_class(self) -> type:
        """The class that turns texts into chunks and chunks into conditioning."""
        ...

    def embedding_class(self) -> type:
        """The class whose `forward(ids)` looks rows up and writes `fixes` over them."""
        ...

    def denoiser_class(self) -> type:
        """The class whose `forward` makes every sampling step."""
        ...

    def key(self, engine: Any) -> str:
        """Which text encoder an engine runs, e.g. "clip_l"; HostError if it is none we know."""
        ...

    def engines(self, model: Any) -> Sequence[Any]:
        """The text engines of a loaded checkpoint; HostError if there is one we do not know."""
        ...

    def layer(self, engine: Any) -> Any:
        """An engine's embedding layer, which is an `embedding_class` in a checkpoint in use."""
        ...

    def table(self, engine: Any) -> Tensor:
        """An engine's token embeddings (vocabulary, width)."""
        ...

    def written(self, rows: Tensor, among: Tensor) -> Tensor:
        """Rows (n, width) as the embedding layer writes them among embedded ones."""
        ...

    def fixes(self, engine: Any) -> Sequence[Sequence[Any]]:
        """The rows that the engine's next run will write, for every text of the batch."""
        ...

    def emphasis(self, engine: Any) -> Any:
        """A fresh object that weights an encoder's output as the user's settings say."""
        ...

    def device(self) -> Any:
        """Where prefix rows have to lie, or None where the host moves them itself."""
        ...

    def forget(self, name: str, said: dict[str, Any] | None = None) -> None:
        """Take inserted rows of this name out of what a picture says about its embeddings."""
        ...

    def closed(self) -> Sequence[tuple[Any, str]]:
        """Functions (owner, name) that encode texts where no prefix can be put in."""
        ...

    def refuse_settings(self) -> None:
        """HostError if a setting sends prompts past the engine."""
        ...


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
            raise _unknown(type(engine).__name__)
        return key

    def engines(self, model: Any) -> Sequence[Any]:
        conditioner = getattr(model, "conditioner", None)
        if conditioner is None:
            found = [model.cond_stage_model]
        else:
            found = [one for one in conditioner.embedders if hasattr(one, "process_texts")]
        if not found or getattr(model, "is_sd3", False):
            raise _unknown(type(model).__name__)
        return found

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

    def refuse_settings(self) -> None:
        if module("shared").opts.use_old_emphasis_implementation:
            raise HostError(
                "anonymize this image",
                'the setting "Use old emphasis implementation" is on, which encodes prompts '
                "without chunks",
                "switch it off in Settings > Compatibility",
            )


class Forge:
    """Forge: its own text engine; Flux, SD 3.5 and everything else with T5 is refused."""

    name = "Forge"
    lends_its_model = False  # it runs in inference mode, whose tensors no gradient goes through

    def __init__(self) -> None:
        self.tally = Tally()

    def engine_class(self) -> type:
        return importlib.import_module(_FORGE_ENGINE).ClassicTextProcessingEngine

    def embedding_class(self) -> type:
        return importlib.import_module(_FORGE_ENGINE).CLIPEmbeddingForTextualInversion

    def denoiser_class(self) -> type:
        return module("sd_samplers_cfg_denoiser").CFGDenoiser

    def key(self, engine: Any) -> str:
        return engine.embedding_key

    def engines(self, model: Any) -> Sequence[Any]:
        found = [getattr(model, name) for name in _FORGE_ENGINES if hasattr(model, name)]
        if not found or hasattr(model, "text_processing_engine_t5"):
            raise _unknown(type(model).__name__)
        return found

    def layer(self, engine: Any) -> Any:
        return engine.text_encoder.transformer.text_model.embeddings.token_embedding

    def table(self, engine: Any) -> Tensor:
        return self.layer(engine).weight

    def written(self, rows: Tensor, among: Tensor) -> Tensor:
        return rows.to(among)

    def fixes(self, engine: Any) -> Sequence[Sequence[Any]]:
        return engine.embeddings.fixes

    def emphasis(self, engine: Any) -> Any:
        return type(engine.emphasis)()

    def device(self) -> Any:
        return None

    def forget(self, name: str, said: dict[str, Any] | None = None) -> None:
        if said is None:
            said = cast(
                "dict[str, Any]",
                importlib.import_module(_FORGE_ENGINE).last_extra_generation_params,
            )
        listed = str(said.pop("TI", "")).split(", ")
        written = name.replace(":", "").replace(",", "")
        if others := [one for one in listed if one not in ("", written)]:
            said["TI"] = ", ".join(others)

    def closed(self) -> Sequence[tuple[Any, str]]:
        space = importlib.import_module("modules_forge.forge_space").ForgeSpace
        other = importlib.import_module("backend.text_processing.t5_engine").T5TextProcessingEngine
        return [(space, "run"), (space, "gradio_worker"), (space, "install"), (other, "__call__")]

    def refuse_settings(self) -> None:
        return None


def choose_host() -> Host:
    """The webui that this process is; HostError if it is neither."""
    # Forge keeps an empty modules/sd_hijack_clip.py, so its own engine has to be asked for first
    if _exists(_NEO_ENGINE) or (_exists(_FORGE_ENGINE) and not _said_in_the_engine()):
        raise HostError(
            "load APL Prefix",
            "this webui is Forge Neo, whose text engine is not supported yet",
            "use AUTOMATIC1111 1.10 or Forge; nothing is anonymized here, prompt tags included",
        )
    if _exists(_FORGE_ENGINE):
        return Forge()
    if _exists("modules.sd_hijack_clip"):
        return A1111()
    raise HostError(
        "load APL Prefix",
        "this webui has neither A1111's nor Forge's text engine",
        "use AUTOMATIC1111 1.10 or Forge; SD.Next is not supported",
    )


def faces(host: Host, model: Any, *, fingerprints: bool) -> list[EncoderFace]:
    """The text encoders of a loaded checkpoint; HostError if it has one we do not know."""
    found: list[EncoderFace] = []
    for engine in host.engines(model):
        table = host.table(engine)
        mark = fingerprint(table) if fingerprints else None
        found.append(EncoderFace(host.key(engine), table.shape[1], mark))
    return found


def require_fit(host: Host, name: str, prefix: Prefix, model: Any) -> None:
    """FitError, in a user's words, if the prefix of that name is not for this checkpoint."""
    try:
        check_fit(prefix, faces(host, model, fingerprints=False))
    except FitError as error:
        found = error.found.replace("this prefix is for", "it is for")
        raise FitError(f"anonymize with the prefix {name!r}", found, error.fix) from error


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _said_in_the_engine() -> bool:
    """Whether Forge's engine notes used embeddings in itself; Forge Neo notes them elsewhere."""
    return hasattr(importlib.import_module(_FORGE_ENGINE), "last_extra_generation_params")


def _unknown(what: str) -> HostError:
    return HostError(
        "anonymize with this checkpoint",
        f"its text encoder ({what}) is not one that a prefix can be put into",
        "load a checkpoint of SD 1.x, SD 2.x or SDXL",
    )
