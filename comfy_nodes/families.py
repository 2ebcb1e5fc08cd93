"""ComfyUI's model families, told by the host's own classes; of CLIP alone by their encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from apl_core.errors import HostError
from apl_core.families import TABLE, Family
from apl_core.prefix import FAMILIES, WIDTHS

METHOD = "tokenize_with_weights"
"""Turns a text into lists of tokens, in every tokenizer of ComfyUI."""

CLASSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "Z-Image": ("z_image.ZImageTokenizer", "z_image.ZImageTEModel"),
        "Qwen-Image": ("qwen_image.QwenImageTokenizer", "qwen_image.QwenImageTEModel"),
        "Krea 2": ("krea2.Krea2Tokenizer", "krea2.Krea2TEModel"),
        "Mage-Flow": ("mage_flow.MageFlowTokenizer", "mage_flow.MageFlowTEModel"),
        "Flux.2 Klein 4B": ("flux.KleinTokenizer", "flux.Flux2TEModel"),
        "Flux.2 Klein 9B": ("flux.KleinTokenizer8B", "flux.Flux2TEModel"),
        "Flux.1": ("flux.FluxTokenizer", "flux.FluxClipModel"),
        "Chroma": ("pixart_t5.PixArtTokenizer", "pixart_t5.PixArtT5XXL"),
        "SD 3.5": ("sd3_clip.SD3Tokenizer", "sd3_clip.SD3ClipModel"),
        "Lumina 2": ("lumina2.LuminaTokenizer", "lumina2.LuminaModel"),
        "Flux.2 dev": ("flux.Flux2Tokenizer", "flux.Flux2TEModel"),
        "Wan": ("wan.WanT5Tokenizer", "wan.WanT5Model"),
        "HiDream I1": ("hidream.HiDreamTokenizer", "hidream.HiDreamTEModel"),
        "ERNIE": ("ernie.ErnieTokenizer", "ernie.ErnieTEModel"),
    }
)
"""Classes (tokenizer, encoder) over all encoders of a family, below `comfy.text_encoders`."""


def family_of(clip: Any) -> Family:
    """The family of a CLIP; HostError for one that no prefix can be put into."""
    outer = named(host_class(clip.tokenizer))
    for family in TABLE:
        tokenizer, own = CLASSES[family.name]
        if tokenizer == outer:
            encoder = named(_written(type(clip.cond_stage_model)))
            if encoder != own:
                raise _unknown(f"the tokenizer of {family.name} with the encoder {encoder}")
            if family.scaled:
                _refuse_scaled_rows(clip, family)
            return family
    keys = frozenset(key for key, _ in tokenizers(clip.tokenizer))
    if reason := _REFUSED.get(outer):
        raise HostError("apply a prefix to this model", reason, _OTHER)
    if all(key.startswith("clip_") for key in keys) and keys in FAMILIES:
        return Family(FAMILIES[keys], cfg=7)
    if any(key in WIDTHS for key in keys) or not keys:
        raise _unknown(f"{outer}, with {', '.join(sorted(keys)) or 'no encoder'}")
    raise _unknown(outer)


_OTHER = "use a model of a family that docs/comfyui-models.md lists"
_REFUSED = {
    "anima.AnimaTokenizer": "Anima reads the prompt a second time, as T5 tokens in its own network,"
    " where a prefix cannot stand: the name would stay in it",
    "hidream_o1.HiDreamO1Tokenizer": "HiDream-O1 has no text encoder: its own network reads the "
    "prompt's tokens, and a prefix cannot stand there",
}


def _refuse_scaled_rows(clip: Any, family: Family) -> None:
    for key, _ in tokenizers(clip.tokenizer):
        table = getattr(clip.cond_stage_model, key).transformer.get_input_embeddings()
        if type(table).__name__ != "ScaledEmbedding":
            raise HostError(
                f"put a prefix into {family.name}",
                "this ComfyUI scales the prefix's vectors as well, as versions before 0.21 do",
                "update ComfyUI",
            )


def _unknown(found: str) -> HostError:
    return HostError(
        "apply a prefix to this model", f"it is of a family without prefixes ({found})", _OTHER
    )


def tokenizers(outer: Any) -> Iterator[tuple[str, Any]]:
    """(encoder key, tokenizer) of every encoder of a CLIP."""
    for attribute, value in attributes(outer):
        yield key_of(attribute), value


def attributes(outer: Any) -> Iterator[tuple[str, Any]]:
    """(attribute, tokenizer) of every encoder, as ComfyUI keeps them."""
    for attribute, value in vars(outer).items():
        if hasattr(type(value), METHOD) and hasattr(value, "embedding_size"):
            yield attribute, value


def key_of(attribute: str) -> str:
    """The encoder's own name; some tokenizers hang under `clip_t5xxl` for the encoder `t5xxl`."""
    bare = attribute.removeprefix("clip_")
    return bare if bare in WIDTHS else attribute


def host_class(tokenizer: Any) -> type:
    """The host's own class of a tokenizer, also below our hold on it."""
    return getattr(type(tokenizer), "apl_base", type(tokenizer))


def named(kind: type) -> str:
    """A class by its module's last name and its own, e.g. "z_image.ZImageTokenizer"."""
    package, _, module = kind.__module__.rpartition(".")
    own = package in ("comfy.text_encoders", "comfy")
    return f"{module if own else kind.__module__}.{kind.__qualname__}"


def _written(kind: type) -> type:
    """The nearest class that stands in a module; the host derives ones inside functions."""
    return next(one for one in kind.__mro__ if "<locals>" not in one.__qualname__)
