"""Families of models: where the user's text stands in their templates, and what no text may spell.

A prefix stands directly around the user's text, behind what the template writes in front of it.
Families of CLIP encoders alone have no template and are told by their encoders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import HostError

TEXT = "{}"
"""Where the user's text stands in a template."""


@dataclass(frozen=True)
class Family:
    """A family of models.

    `encoders` are the keys of its text encoders, where it is not told by them alone.
    `templates` are what a language model reads; of several the first that matches counts.
    `controls` are tokens that end a text or begin a turn, so that no prompt may spell them.
    `scaled`: embeddings are scaled where they are looked up, so that rows are not.
    `cfg` is the guidance that pictures to learn on are drawn with; 1 where most people's files are
    distilled. `states` are the encoders whose states the conditioning joins token by token: the
    last one if it is None, and none where they cannot be told apart.
    """

    name: str
    encoders: tuple[str, ...] = ()
    templates: tuple[str, ...] = (TEXT,)
    controls: str = ""
    scaled: bool = False
    cfg: float = 4.0
    states: tuple[str, ...] | None = None

    def states_of(self, encoders: Iterable[str]) -> tuple[str, ...]:
        """Those of a model's encoders whose tokens the states of its conditioning stand for."""
        keys = tuple(encoders)
        if self.states is not None:
            return self.states
        return keys[:1] if all(key.startswith("clip_") for key in keys) else keys[-1:]

    def written(self, text: str) -> str:
        """A text as the family's users write it: in a template that no tokenizer adds, if any."""
        begins = self.templates[0].removesuffix(TEXT)
        alone = TEXT in self.templates[1:] and text.strip() != ""
        return f"{begins} {text}" if alone else text

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
_ANIME = (
    "You are an assistant designed to generate anime images with the highest degree of image-text "
    "alignment based on danbooru tags. <Prompt Start>"
)
_LOW = (
    "You are an assistant designed to generate low-quality images based on textual prompts. "
    "<Prompt Start>"
)
_LUMINA = (_SUPERIOR + TEXT, _ALIGNED + TEXT, _ANIME + TEXT, _LOW + TEXT, TEXT)
"""Lumina's own, and those that Forge Neo writes. The blank or line end behind `<Prompt Start>` is
the text's: Gemma's tokens begin with it."""

_MISTRAL = (
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured "
    "responses focusing on object relationships, object\nattribution and actions without "
    "speculation.[/SYSTEM_PROMPT][INST]{}[/INST]"
)
_MISTRAL_MARKS = "<unk> <s> </s> <pad> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [IMG]"
_LLAMA = """</s> <pad> <|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|>
    <|eot_id|> <|eom_id|> <|finetune_right_pad_id|>"""

TABLE = (
    Family("Z-Image", ("qwen3_4b",), (_USER,), _QWEN, cfg=1),
    Family("Qwen-Image", ("qwen25_7b",), (_DESCRIBE,), _QWEN),
    Family("Krea 2", ("qwen3vl_4b",), (_DESCRIBE,), _QWEN, cfg=1),
    Family("Mage-Flow", ("qwen3vl_4b",), (_DESCRIBE,), _QWEN),
    Family("Flux.2 Klein 4B", ("qwen3_4b",), (_NO_THINKING,), _QWEN, cfg=1),
    Family("Flux.2 Klein 9B", ("qwen3_8b",), (_NO_THINKING,), _QWEN, cfg=1),
    Family("Flux.1", ("clip_l", "t5xxl"), controls=_T5, cfg=1),
    Family("Chroma", ("t5xxl",), controls=_T5),
    Family("SD 3.5", ("clip_l", "clip_g", "t5xxl"), controls=_T5, states=("clip_l", "t5xxl")),
    Family("Lumina 2", ("gemma2_2b",), _LUMINA, _GEMMA, scaled=True),
    Family("Flux.2 dev", ("mistral3_24b",), (_MISTRAL,), _MISTRAL_MARKS, cfg=1),
    Family("Wan", ("umt5xxl",), controls=_T5, cfg=6),
    Family("HiDream I1", ("clip_l", "clip_g", "t5xxl", "llama"), controls=_LLAMA, cfg=5, states=()),
    Family("ERNIE", ("ministral3_3b",), controls=_MISTRAL_MARKS),
)
"""Families with an encoder beside CLIP, by their names; a prefix's card says through which one it
was learned."""
