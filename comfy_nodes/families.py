"""ComfyUI's model families: their classes, and where the user's text stands in their templates.

A prefix stands directly around the user's text, behind what the template writes in front of it.
Families of CLIP encoders alone have no template and are told by their encoders; any other has to be
in the table, by the host's own classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from apl_core.errors import HostError
from apl_core.prefix import FAMILIES, WIDTHS

METHOD = "tokenize_with_weights"
"""Turns a text into lists of tokens, in every tokenizer of ComfyUI."""

TEXT = "{}"
"""Where the user's text stands in a template."""


@dataclass(frozen=True)
class Family:
    """A family of models as ComfyUI has it.

    `tokenizer` and `encoder` are the classes over all encoders, below `comfy.text_encoders`.
    `templates` are what a language model reads; of several the first that matches counts.
    `controls` are tokens that end a text or begin a turn, so that no prompt may spell them.
    `scaled`: embeddings are scaled where they are looked up, so that rows are not.
    """

    name: str
    tokenizer: str = ""
    encoder: str = ""
    templates: tuple[str, ...] = (TEXT,)
    controls: str = ""
    scaled: bool = False

    def parts(self, text: str) -> tuple[str, str, str]:
        """(before, the user's text, after); HostError for a text that is in no template."""
        for template in self.templates:
            before, _, after = template.partition(TEXT)
            if len(text) >= len(before) + len(after):
                inside = text[len(before) : len(text) - len(after)]
                if before + inside + after == text:
                    return before, inside, after
        raise HostError(
            f"put a prefix around this text for {self.name}",
            "it does not stand in the family's own template: it begins a turn of its own, or its "
            "node brings pictures or another template, as nodes that edit pictures do",
            "encode a plain prompt with CLIP Text Encode; no prefix reaches a face in a picture",
        )

    @property
    def around(self) -> list[tuple[str, str]]:
        """(before, after) of each template."""
        return [(one.partition(TEXT)[0], one.partition(TEXT)[2]) for one in self.templates]


_QWEN = """<|im_start|> <|im_end|> <|endoftext|> <|object_ref_start|> <|object_ref_end|>
    <|box_start|> <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|>
    <|vision_pad|> <|image_pad|> <|video_pad|>"""
_T5 = "</s> <pad>"
_USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_DESCRIBE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity,"
    " text, spatial relationships of the objects and background:<|im_end|>\n" + _USER
)
_NO_THINKING = _USER + "<think>\n\n</think>\n\n"
_GEMMA = "<start_of_turn> <end_of_turn>"
_SUPERIOR = (
    "You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts. <Prompt Start>"
)
_ALIGNED = (
    "You are an assistant designed to generate high-quality images with the highest degree of "
    "image-text alignment based on textual prompts. <Prompt Start>"
)
_LUMINA = (_SUPERIOR + TEXT, _ALIGNED + TEXT, TEXT)
"""The blank behind `<Prompt Start>` is the text's: Gemma's tokens begin with it."""

_MISTRAL = (
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured "
    "responses focusing on object relationships, object\nattribution and actions without "
    "speculation.[/SYSTEM_PROMPT][INST]{}[/INST]"
)
_MISTRAL_MARKS = "<unk> <s> </s> <pad> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [IMG]"
_LLAMA = """</s> <pad> <|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|>
    <|eot_id|> <|eom_id|> <|finetune_right_pad_id|>"""

TABLE = (
    Family("Z-Image", "z_image.ZImageTokenizer", "z_image.ZImageTEModel", (_USER,), _QWEN),
    Family(
        "Qwen-Image",
        "qwen_image.QwenImageTokenizer",
        "qwen_image.QwenImageTEModel",
        (_DESCRIBE,),
        _QWEN,
    ),
    Family("Krea 2", "krea2.Krea2Tokenizer", "krea2.Krea2TEModel", (_DESCRIBE,), _QWEN),
    Family(
        "Mage-Flow", "mage_flow.MageFlowTokenizer", "mage_flow.MageFlowTEModel", (_DESCRIBE,), _QWEN
    ),
    Family("Flux.2 Klein 4B", "flux.KleinTokenizer", "flux.Flux2TEModel", (_NO_THINKING,), _QWEN),
    Family("Flux.2 Klein 9B", "flux.KleinTokenizer8B", "flux.Flux2TEModel", (_NO_THINKING,), _QWEN),
    Family("Flux.1", "flux.FluxTokenizer", "flux.FluxClipModel", controls=_T5),
    Family("Chroma", "pixart_t5.PixArtTokenizer", "pixart_t5.PixArtT5XXL", controls=_T5),
    Family("SD 3.5", "sd3_clip.SD3Tokenizer", "sd3_clip.SD3ClipModel", controls=_T5),
    Family("Lumina 2", "lumina2.LuminaTokenizer", "lumina2.LuminaModel", _LUMINA, _GEMMA, True),
    Family("Flux.2 dev", "flux.Flux2Tokenizer", "flux.Flux2TEModel", (_MISTRAL,), _MISTRAL_MARKS),
    Family("Wan", "wan.WanT5Tokenizer", "wan.WanT5Model", controls=_T5),
    Family("HiDream I1", "hidream.HiDreamTokenizer", "hidream.HiDreamTEModel", controls=_LLAMA),
    Family("ERNIE", "ernie.ErnieTokenizer", "ernie.ErnieTEModel", controls=_MISTRAL_MARKS),
)


def family_of(clip: Any) -> Family:
    """The family of a CLIP; HostError for one that no prefix can be put into."""
    outer = named(host_class(clip.tokenizer))
    for family in TABLE:
        if family.tokenizer == outer:
            encoder = named(_written(type(clip.cond_stage_model)))
            if encoder != family.encoder:
                raise _unknown(f"the tokenizer of {family.name} with the encoder {encoder}")
            if family.scaled:
                _refuse_scaled_rows(clip, family)
            return family
    keys = frozenset(key for key, _ in tokenizers(clip.tokenizer))
    if reason := _REFUSED.get(outer):
        raise HostError("apply a prefix to this model", reason, _OTHER)
    if all(key.startswith("clip_") for key in keys) and keys in FAMILIES:
        return Family(FAMILIES[keys])
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
