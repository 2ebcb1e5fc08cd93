"""A recognized checkpoint, loaded behind the core's ports; strict about every weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from torch import Tensor, nn

from apl_core.encoding import ReferenceEncoder
from apl_core.errors import AplError, ConfigError
from apl_core.metadata import printable
from apl_core.schedule import Schedule
from apl_core.tokens import refuse_marks

from ..models.clip_text import ClipTower, ids_of
from ..models.unet import UnetDenoiser
from ..models.vae import VaeLatents
from .detect import CheckpointInfo, Network, Text, detect
from .loaded import CheckpointModel, Encoder, Info, Options
from .pipeline_load import check_pipeline_texts, load_encoder, load_pipeline, refuse_clip_skip
from .pipelines import PipelineInfo
from .quantize import Quantize, check_quantize
from .safetensors_index import FIX, refuse, sound
from .text_encoders import new_text_model, own_names, plain_names
from .tokenizer import find_tokenizer

Diffuser = TypeVar("Diffuser", UNet2DConditionModel, AutoencoderKL)
Filled = TypeVar("Filled", bound=nn.Module)

_OLD_ATTENTION = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


def load_checkpoint(
    path: Path, options: Options | None = None, say: Callable[[str], None] = lambda _: None
) -> CheckpointModel:
    """Recognize a checkpoint and load it, offline; AplError if anything of it does not fit."""
    options = options or Options()
    return load_detected(detect(path, options.prediction), options, say)


def load_detected(
    found: Info, options: Options, say: Callable[[str], None] = lambda _: None
) -> CheckpointModel:
    """Load a checkpoint that was recognized before; what it predicts is said by `found`."""
    say(found.sentence)
    with sound(found.path):
        if isinstance(found, PipelineInfo):
            return load_pipeline(found, options)
        refuse_quantize(found, options.quantize)
        encoder = load_texts(found, options)
        weights = _unet_weights(found.unet, options.dtype)
        unet = fill(found.path, "U-Net", empty(UNet2DConditionModel, found.unet), weights)
        vae = fill(found.path, "VAE", empty(AutoencoderKL, found.vae), _vae_weights(found.vae))
        denoiser = UnetDenoiser(unet, schedule_of(found), found.prediction)
    networks: list[nn.Module] = [unet, vae]
    for network in networks:
        network.eval().requires_grad_(False).to(options.device)
    latents = VaeLatents(vae)
    denoiser.pixels = latents.pixels
    return CheckpointModel(found, encoder, denoiser, latents)


def load_texts(found: Info, options: Options) -> Encoder:
    """The text encoders of a recognized checkpoint alone, frozen, on their device."""
    if isinstance(found, PipelineInfo):
        return load_encoder(found, options)
    towers = [load_tower(found, text, options) for text in found.texts]
    for tower in towers:
        tower.module.eval().requires_grad_(False).to(options.device)
    return ReferenceEncoder(towers)


def refuse_quantize(found: Info, kind: Quantize | None) -> None:
    """ConfigError where quantizing is asked for in vain, or its library is missing."""
    if kind is not None and not isinstance(found, PipelineInfo):
        raise ConfigError(
            f"quantize {found.family} to {kind}",
            "its weights are small beside what learning takes",
            "leave --quantize out; --vram 4 to 8 saves memory otherwise",
        )
    check_quantize(kind)


def schedule_of(found: CheckpointInfo) -> Schedule:
    """The noise levels that a checkpoint was trained on."""
    if found.prediction == "flow":
        return Schedule.rectified_flow(shift=found.shift)
    schedule = Schedule.scaled_linear(*found.betas)
    return schedule.to_zero_snr() if found.zero_snr else schedule


def empty(kind: type[Diffuser], network: Network) -> Diffuser:
    """A U-Net or VAE without its weights, on the meta device."""
    with torch.device("meta"):
        return cast(Any, kind).from_config(dict(network.config))


def _unet_weights(network: Network, dtype: torch.dtype) -> dict[str, Tensor]:
    weights = network.contents.load(network.prefix, dtype)
    if not network.prefix:
        return weights
    converted = convert_ldm_unet_checkpoint(weights, dict(network.config))
    if len(converted) != len(weights):  # what it does not know it leaves out without a word
        more = abs(len(weights) - len(converted))
        found = f"its U-Net is incomplete or of another build ({more} weights have no place)"
        raise refuse(network.contents.path, found)
    return converted


def _vae_weights(network: Network) -> dict[str, Tensor]:
    weights = network.contents.load(network.prefix, torch.float32)
    if network.prefix:
        return convert_ldm_vae_checkpoint(weights, dict(network.config))
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        for old, new in _OLD_ATTENTION:
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def load_tower(found: CheckpointInfo, text: Text, options: Options) -> ClipTower:
    """One text encoder with its tokenizer."""
    weights = {
        name.removeprefix(text.prefix): value
        for name, value in text.contents.load(text.prefix, options.text_dtype).items()
    }
    plain = plain_names(weights)
    if not text.projected:
        plain.pop("text_projection.weight", None)
    model = new_text_model(text.config, text.projected)
    fill(found.path, f"text encoder {text.key}", model, own_names(model, plain))
    tokenizer = find_tokenizer(options.tokenizer, found.path)
    rows = int(text.config["vocab_size"])
    if len(tokenizer) > rows:
        raise AplError(
            f"read the checkpoint {printable(str(found.path))}",
            f"its vocabulary has {len(tokenizer)} tokens, {text.key} knows {rows}",
            "give the tokenizer that belongs to it with --tokenizer",
        )
    pad = cast(int, tokenizer.eos_token_id) if text.key == "clip_l" else 0
    skip = skip_of(text, found.family, options.clip_skip)
    return ClipTower(text.key, model, tokenizer, pad, skip, text.norm)


def skip_of(text: Text, family: str, clip_skip: int | None) -> int:
    """Layers left out at the end for a clip skip as hosts count it; ConfigError if too many."""
    usual = 1 if family == "SD 1.x" else 2
    skip = text.skip if clip_skip is None else text.skip + clip_skip - usual
    if not 0 <= skip < int(text.config["num_hidden_layers"]):
        raise ConfigError(
            "set clip skip",
            f"{clip_skip} is not possible for {text.key} of this {family} model",
            f"leave it out, which means {usual}, or give {usual - text.skip} to "
            f"{usual - text.skip + int(text.config['num_hidden_layers']) - 1}",
        )
    return skip


def check_reading(
    found: Info, tokenizer: Path | None, clip_skip: int | None, texts: Iterable[str]
) -> None:
    """AplError if texts could not be encoded as asked for: told before weights are read."""
    if isinstance(found, PipelineInfo):
        refuse_clip_skip(found, clip_skip)
        check_pipeline_texts(found, tokenizer, texts)
        return
    for text in found.texts:
        skip_of(text, found.family, clip_skip)
    reader = find_tokenizer(tokenizer, found.path)
    bos, eos = cast(int, reader.bos_token_id), cast(int, reader.eos_token_id)
    for text in texts:
        refuse_marks(ids_of(reader, text), bos, eos)


def fill(path: Path, what: str, model: Filled, weights: Mapping[str, Tensor]) -> Filled:
    """Put weights into an empty module, its places too; AplError as `placed`."""
    placed(path, what, model, weights)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:  # not stored with the weights: the places 0, 1, 2 ... of a chunk
            owner, _, last = name.rpartition(".")
            assert last == "position_ids", name
            places = torch.arange(buffer.shape[-1]).expand(buffer.shape)
            cast(Any, model.get_submodule(owner)).register_buffer(last, places, persistent=False)
    return model


def placed(
    path: Path, what: str, model: Filled, weights: Mapping[str, Tensor], fix: str = FIX
) -> Filled:
    """Put weights into an empty module; AplError if one is missing, left over or misshapen."""
    try:
        model.load_state_dict(dict(weights), strict=True, assign=True)
    except RuntimeError as error:
        fault = printable(str(error).split("\n")[1].strip(), 120)
        raise refuse(
            path, f"its {what} is incomplete or of another build ({fault})", fix
        ) from error
    return model
