"""A recognized folder of a diffusers pipeline, loaded offline behind the core's ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from apl_core.encoding import ReferenceEncoder
from apl_core.errors import ConfigError
from apl_core.metadata import printable
from apl_core.tokens import refuse_marks

from ..models.clip_text import ClipTower, ids_of
from ..models.joint import JointEncoder
from ..models.language import LanguageEncoder, Reader, SpecialTokens
from ..models.transformer import FlowDenoiser
from ..models.vae import latents_of
from .cost import EmptyPipeline
from .loaded import CheckpointModel, Encoder, Options
from .pipelines import PipelineInfo
from .quantize import check_quantize, quantize
from .safetensors_index import refuse


def load_pipeline(found: PipelineInfo, options: Options) -> CheckpointModel:
    """Load a folder of a diffusers pipeline; AplError if anything of it does not fit."""
    refuse_clip_skip(found, options.clip_skip)
    check_quantize(options.quantize)
    encoder = load_encoder(found, options)
    network = _placed(_network(found, "transformer", options.dtype), options)
    vae = _network(found, "vae", torch.float32).to(options.device)
    denoiser = FlowDenoiser(network, found.schedule(options.size), found.kind.call)
    return CheckpointModel(found, encoder, denoiser, latents_of(vae))


def refuse_clip_skip(found: PipelineInfo, clip_skip: int | None) -> None:
    """ConfigError where a clip skip is asked for: these families have layers of their own."""
    if clip_skip is not None:
        raise ConfigError(
            "set clip skip",
            f"the text encoders of {found.family} are read at layers of their own",
            "leave it out",
        )


def load_encoder(found: PipelineInfo, options: Options) -> Encoder:
    """The text encoders alone; what a language model sees pictures with is left away."""
    kind = found.kind
    language = _language(found, options)
    if kind.join is None:
        return language
    towers = [_tower(found, part, key, options) for part, key in kind.clips.items()]
    return JointEncoder(ReferenceEncoder(towers), language, kind.join, behind=not kind.pools)


def check_pipeline_texts(found: PipelineInfo, tokenizer: Path | None, texts: Iterable[str]) -> None:
    """PromptError if one of the texts could not be encoded: told before weights are read."""
    given = list(texts)
    words = _tokenizer(tokenizer or _beside(found.path / found.kind.part))
    special = SpecialTokens.of(words)
    for text in given:
        special.refuse(text, ids_of(words, text))
    for part in found.kind.clips:
        clip = _tokenizer(_beside(found.path / part))
        for text in given:
            refuse_marks(ids_of(clip, text), clip.bos_token_id, clip.eos_token_id)


def _language(found: PipelineInfo, options: Options) -> LanguageEncoder:
    key, folder = found.kind.key, found.path / found.kind.part
    model = _placed(_text_model(found, found.kind.part, options.text_dtype), options)
    tokenizer = _tokenizer(options.tokenizer or _beside(folder))
    template = found.template
    if found.kind.cuts:
        before = tokenizer(template.before, add_special_tokens=False).input_ids
        template = replace(template, cut=len(before))
    return LanguageEncoder(key, model, tokenizer, template, checkpointing=options.checkpointing)


def _tower(found: PipelineInfo, part: str, key: str, options: Options) -> ClipTower:
    model = _text_model(found, part, options.text_dtype).to(options.device)
    tokenizer = _tokenizer(_beside(found.path / part))
    pad, pools = tokenizer.eos_token_id if key == "clip_l" else 0, found.kind.pools
    return ClipTower(key, model, tokenizer, pad, skip=0 if pools else 1, pools=pools)


def _beside(folder: Path) -> Path:
    """Where the tokenizer of a text encoder is: "tokenizer_2" of "text_encoder_2"."""
    return folder.with_name(folder.name.replace("text_encoder", "tokenizer"))


def _tokenizer(folder: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise refuse(
            folder, "the vocabulary of its text encoder is missing or broken", _WHOLE
        ) from error


def _text_model(found: PipelineInfo, part: str, dtype: torch.dtype) -> nn.Module:
    """A frozen text model; of one that sees pictures, the part that reads."""
    model = _read(found, _text_kind(found, part), found.path / part, dtype)
    reading = getattr(model, "language_model", model).eval().requires_grad_(False)
    if found.kind.scaled:
        _scale_table(found, reading)
    return reading


def _scale_table(found: PipelineInfo, model: Any) -> None:
    """Scale a table of token embeddings once, instead of each time that a token is looked up.

    Rows stand among what was looked up, and are not scaled (as in ComfyUI).
    """
    table = model.get_input_embeddings()
    scale = getattr(table, "embed_scale", None)
    if scale is None:  # transformers before 5 scales whatever it is given
        raise refuse(
            found.path,
            f"transformers {transformers.__version__} scales a prefix's rows with the words",
            "update it with `pip install -U transformers`",
        )
    table.weight.data *= scale.to(table.weight.dtype)
    scale.fill_(1.0)


def _text_kind(found: PipelineInfo, part: str) -> Any:
    """The class of transformers that a text encoder is of."""
    if part in found.kind.clips:
        pools = found.kind.pools
        return transformers.CLIPTextModel if pools else transformers.CLIPTextModelWithProjection
    return transformers.T5EncoderModel if found.kind.key == "t5xxl" else transformers.AutoModel


def _placed(module: nn.Module, options: Options) -> nn.Module:
    """A network on its device, in fewer bits if asked."""
    if options.quantize is None:
        return module.to(options.device)
    return quantize(module, options.quantize, options.device)


def _network(found: PipelineInfo, part: str, dtype: torch.dtype) -> nn.Module:
    kind = _kind(found, part)
    return _read(found, kind, found.path / part, dtype).eval().requires_grad_(False)


def empty_pipeline(found: PipelineInfo, checkpointing: bool = False) -> EmptyPipeline:
    """Its networks on the meta device; with `checkpointing` the reader computes layers again."""
    of_network = _kind(found, "transformer")
    with torch.device("meta"):
        network = of_network.from_config(of_network.load_config(found.path / "transformer"))
    made: dict[str, nn.Module] = {}
    for part, key in found.kind.encoders.items():
        kind = _text_kind(found, part)
        config = transformers.AutoConfig.from_pretrained(found.path / part, local_files_only=True)
        with torch.device("meta"):
            whole: Any = getattr(kind, "from_config", kind)(config)
        made[key] = getattr(whole, "language_model", whole)
    reader = Reader(made.pop(found.kind.key), found.template.layers, checkpointing)
    return EmptyPipeline(found.kind, network, list(made.values()), reader)


def _kind(found: PipelineInfo, part: str) -> Any:
    """The class of diffusers that a part is of; AplError if this version has none."""
    name = str(found.index[part][1])
    kind: Any = getattr(diffusers, name, None)
    if kind is None:
        raise refuse(
            found.path,
            f"diffusers {diffusers.__version__} has no {name}",
            "update it with `pip install -U diffusers`",
        )
    return kind


def _read(found: PipelineInfo, kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model in a folder; AplError where a weight is missing or of another shape."""
    dtypes = {_dtype_name(kind): dtype}
    try:
        with _quiet():
            model, about = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **dtypes,
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        why = printable(str(error).strip().split("\n")[0], 120)
        raise refuse(found.path, f"its {folder.name} cannot be read ({why})", _WHOLE) from error
    lacking = [*about["missing_keys"], *(str(one) for one in about.get("mismatched_keys", ()))]
    if lacking:
        raise refuse(
            found.path, f"its {folder.name} is incomplete ({lacking[0]} is missing)", _WHOLE
        )
    return model


def _dtype_name(kind: Any) -> str:
    """What a class calls the dtype to load in: transformers since 4.56 by a name of its own."""
    version = tuple(int(number) for number in transformers.__version__.split(".")[:2])
    old = kind.__module__.startswith("diffusers.") or version < (4, 56)
    return "torch_dtype" if old else "dtype"


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither bars nor reports of weights that are left out on purpose."""
    told = transformers.utils.logging
    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()


_WHOLE = "download the whole folder of the pipeline again"
