"""Forge and Forge Neo: their own text engine, found by what it can do.

Neo renames modules and classes from time to time; what an engine can do has stayed. Every text
encoder of a checkpoint has to be run by an engine for CLIP, or by one for a language model or T5
that is known (language.py), or the checkpoint is refused.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from apl_core.errors import HostError
from apl_core.trace import Tally

from . import language
from .host import unknown_encoder
from .webui import exists, module

_PACKAGES = ("backend", "modules_forge")
_SPACES = "modules_forge.forge_space"
_READER = ("tokenize", "__call__")
"""Methods of everything that reads texts for a checkpoint."""
_ENGINE = (*_READER, "process_texts", "process_tokens", "empty_chunk")
"""Methods of an engine that turns texts into chunks of BOS, tokens and EOS, and those into rows."""
_NOTED = "last_extra_generation_params"
_LAYER = ("wrapped", "embeddings")
"""First arguments of the layer that writes embeddings over looked-up rows."""
_REMOTE = "_process_images_via_api"
"""A function of some Neos that has a picture drawn by a service on the network."""


class Forge:
    """Forge, or Forge Neo; HostError if its text engine cannot be found."""

    lends_its_model = False  # it runs in inference mode, whose tensors no gradient goes through

    def __init__(self) -> None:
        self.tally = Tally()
        found = list(_engines())
        if len(found) != 1:
            raise HostError(
                "load APL Prefix",
                f"this Forge has {len(found)} text engines for CLIP that can do what the known "
                "ones can, instead of one",
                "use Forge, or Forge Neo 2.26; nothing is anonymized here, prompt tags included",
            )
        self._engine, self._layer = found[0]
        self.name = "Neo" if _noted_in_arguments() else "Forge"

    def engine_class(self) -> type:
        return self._engine

    def embedding_class(self) -> type:
        return self._layer

    def denoiser_class(self) -> type:
        return module("sd_samplers_cfg_denoiser").CFGDenoiser

    def key(self, engine: Any) -> str:
        return engine.embedding_key

    def engines(self, model: Any) -> Sequence[Any]:
        clips, others = self._engines_of(model)
        run = [*clips, *others]
        encoders = list(_encoders(model))
        unread = [one for one in encoders if not any(language.runs(engine, one) for engine in run)]
        if not run or unread or len(encoders) != len(run):
            raise unknown_encoder(type(model).__name__)
        return clips

    def _engines_of(self, model: Any) -> tuple[list[Any], list[Any]]:
        """(engines for CLIP, other engines) of a loaded checkpoint; HostError for an odd one."""
        reading = [one for one in vars(model).values() if _reads_texts(one)]
        clips = [one for one in reading if isinstance(one, self._engine)]
        others = [one for one in reading if not isinstance(one, self._engine)]
        if not all(_does(type(one), language.METHODS) for one in others):
            raise unknown_encoder(type(model).__name__)
        return clips, others

    def readers(self) -> Sequence[type]:
        kinds = [one for one in _classes() if _does(one, language.METHODS)]
        return [one for one in kinds if one is not self._engine]

    def reading(self, model: Any) -> Mapping[int, Any]:
        clips = self.engines(model)
        _, others = self._engines_of(model)
        found = language.readers(model, others, map(self.key, clips))
        return {id(one.engine): one for one in found}

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
            said = self._noted()
        listed = str(said.pop("TI", "")).split(", ")
        written = name.replace(":", "").replace(",", "")
        if others := [one for one in listed if one not in ("", written)]:
            said["TI"] = ", ".join(others)

    def _noted(self) -> dict[str, Any]:
        """What the engines noted for the picture: they list used embeddings in it."""
        held = sys.modules[self._engine.__module__]
        owner: Any = _arguments() if _noted_in_arguments() else held
        return cast("dict[str, Any]", getattr(owner, _NOTED, {}))

    def closed(self) -> Sequence[tuple[Any, str]]:
        covered = {self._engine, *self.readers()}
        others = [one for one in _classes() if _does(one, _READER) and one not in covered]
        found: list[tuple[Any, str]] = [(one, "__call__") for one in others]
        if exists(_SPACES):
            space = importlib.import_module(_SPACES).ForgeSpace
            found += [(space, one) for one in ("run", "gradio_worker", "install")]
        return [*found, *self.remote()]

    def remote(self) -> Sequence[tuple[Any, str]]:
        processing = module("processing")
        return [(processing, _REMOTE)] if hasattr(processing, _REMOTE) else []

    def refuse_settings(self) -> None:
        return None


def is_here() -> bool:
    """Whether this webui is a Forge, of whatever version."""
    return all(map(exists, _PACKAGES))


def _classes() -> Iterator[type]:
    """The classes of Forge's own engines; a running one has imported them all."""
    for name, held in sorted(sys.modules.items()):
        if name.startswith(f"{_PACKAGES[0]}."):
            yield from (
                one
                for one in vars(held).values()
                if isinstance(one, type) and one.__module__ == name
            )


def _engines() -> Iterator[tuple[type, type]]:
    """Classes of engines for CLIP, each with the class of its embedding layer."""
    for engine in _classes():
        if _does(engine, _ENGINE):
            held = vars(sys.modules[engine.__module__]).values()
            yield from ((engine, one) for one in held if _overwrites(one))


def _does(found: type, methods: Collection[str]) -> bool:
    defined = {name for base in found.__mro__ for name in vars(base)}
    return defined.issuperset(methods)


def _overwrites(found: Any) -> bool:
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        return False
    return tuple(inspect.signature(found).parameters)[: len(_LAYER)] == _LAYER


def _reads_texts(found: Any) -> bool:
    return _does(type(found), _READER) and hasattr(found, "text_encoder")


def _encoders(model: Any) -> Iterable[nn.Module]:
    """The text encoders of a loaded checkpoint."""
    clip = getattr(getattr(model, "forge_objects", None), "clip", None)
    return () if clip is None else clip.cond_stage_model.children()


def _arguments() -> Any:
    return importlib.import_module("backend.args").dynamic_args


def _noted_in_arguments() -> bool:
    """Whether engines note used embeddings in the process's arguments, as Neo's do."""
    return hasattr(_arguments(), _NOTED)
