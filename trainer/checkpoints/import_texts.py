"""Text encoders out of files as ComfyUI has them, and their tokenizers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from apl_core.errors import AplError, ConfigError
from apl_core.metadata import printable
from apl_core.prefix import WIDTHS

from .import_weights import Weights, config_of, filled, read_weights
from .model_files import INSIDE, TEXTS, language_name, text_key
from .safetensors_index import Contents, refuse
from .text_encoders import new_text_model, own_names, plain_names, text_config
from .tokenizer import openai_tokenizer
from .tokenizer_inside import tokenizer_inside
from .transformer_configs import language_config, t5_config


@dataclass(frozen=True)
class ImportedText:
    """A text encoder, and the tokenizer that its file brings, if it does."""

    key: str
    model: Any
    tokenizer: Any | None = None

    def words(self, given: Path | None) -> Any:
        """Its tokenizer: that of its file, CLIP's, or the one in a folder; AplError."""
        if self.tokenizer is not None:
            return self.tokenizer
        if self.key.startswith("clip_"):
            clip = copy.deepcopy(openai_tokenizer())  # others share it
            clip.pad_token = "<|endoftext|>" if self.key == "clip_l" else "!"
            return clip
        if given is None:
            raise _wordless(f"import the text encoder {self.key}")
        try:
            return transformers.AutoTokenizer.from_pretrained(given, local_files_only=True)
        except (OSError, ValueError) as error:
            raise AplError(
                f"read the tokenizer in {printable(str(given))}",
                printable(str(error), 120),
                f"give a folder with the tokenizer of the language model. {_WHERE}",
            ) from error


def require_tokenizer(files: Iterable[Path]) -> None:
    """ConfigError if none of the files brings one: told before weights are read."""
    for path in files:
        if any(name.endswith(INSIDE) for name in Contents.of(path, [path]).shapes):
            return
    raise _wordless("import a text encoder")


def _wordless(asked: str) -> ConfigError:
    fix = f"give a folder with it: --tokenizer DIR. {_WHERE}"
    return ConfigError(asked, "its file brings no tokenizer", fix)


def imported_text(path: Path, begin: str = "") -> ImportedText:
    """The text encoder in a file whose names have `begin` in front."""
    contents = Contents.of(path, [path])
    weights = read_weights(contents, begin=begin)
    if "shared.weight" in weights or "encoder.embed_tokens.weight" in weights:
        return ImportedText(*_t5(path, weights))
    if any(name.startswith("text_model.") for name in weights):
        return ImportedText(*_clip(path, weights))
    places = dict.fromkeys((begin, TEXTS * bool(begin)))
    own = {name: contents.load(f"{at}{name}") for at in places for name in INSIDE}
    found = {name: value for name, some in own.items() for value in some.values()}
    return ImportedText(*_language(path, weights), tokenizer_inside(path, found))


def _t5(path: Path, weights: Weights) -> tuple[str, Any]:
    table = weights.pop("encoder.embed_tokens.weight", None)
    if table is not None:
        weights.setdefault("shared.weight", table)
    config = config_of(path, "T5", t5_config, weights)
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    model = _empty(transformers.T5EncoderModel, config)
    return "t5xxl", filled(path, "T5", model, weights)


def _clip(path: Path, weights: Weights) -> tuple[str, Any]:
    plain = plain_names(weights)
    config = config_of(path, "CLIP", lambda _: text_config(plain, quick=True), plain)
    key = {WIDTHS[k]: k for k in ("clip_l", "clip_g")}.get(config["hidden_size"], "clip")
    config["hidden_act"] = "quick_gelu" if key == "clip_l" else "gelu"
    model = new_text_model(config, "text_projection.weight" in plain)
    return key, filled(path, "CLIP", model, own_names(model, plain))


def _language(path: Path, weights: Weights) -> tuple[str, Any]:
    """A language model; what it sees pictures with, and its output layer, are left away.

    Of Mistral's the file for Flux.2 has the 30 layers that are read, and no norm behind them.
    """
    read = {
        language_name(name): value
        for name, value in weights.items()
        if not name.removeprefix("model.").startswith(_UNREAD)
    }
    key = text_key({name: tuple(value.shape) for name, value in weights.items()})
    if key is None:
        fix = "give a Qwen, Gemma, Mistral, T5 or CLIP file"
        raise refuse(path, "it is not a text encoder that is known", fix)
    if key == "mistral3_24b":
        read.setdefault("norm.weight", torch.ones(5120, dtype=torch.bfloat16))
    config = config_of(path, key, lambda shapes: language_config(key, shapes), read)
    model = _empty(transformers.AutoModel.from_config, config)
    return key, filled(path, key, model, read)


_UNREAD = ("visual.", "vision_", "multi_modal_projector.", "lm_head.")


def _empty(kind: Any, config: dict[str, Any]) -> Any:
    """A text model without its weights, on the meta device."""
    made = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        return kind(made)


_WHERE = (
    "ComfyUI has Qwen's and T5's in comfy/text_encoders/qwen25_tokenizer and t5_tokenizer; files "
    "of Gemma and Mistral that ComfyUI's examples name bring their own"
)
