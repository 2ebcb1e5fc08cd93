"""A model's files as ComfyUI has them, made into a folder: one file, or one for each part.

What comes out is the folder of a diffusers pipeline, in half precision but for the VAE: every other
command takes it. Weights are renamed by diffusers' own tables; scaled fp8 is turned back into
numbers.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders import single_file_utils as renaming

from apl_core.errors import AplError, ConfigError
from apl_core.metadata import printable

from .import_texts import imported_text, require_tokenizer
from .import_weights import config_of, filled, read_weights
from .ldm_configs import vae_config
from .model_files import NETWORK, bare, refuse_edits, texts_inside, transformer_of, vae_inside
from .pipelines import FAMILIES, KREA_LAYERS, Family
from .safetensors_index import Contents, refuse
from .transformer_configs import TRANSFORMERS


@dataclass(frozen=True)
class _Kind:
    """A transformer in a file: its class, diffusers' table, and its noise levels."""

    network: str
    rename: str
    scheduler: Mapping[str, Any]
    scaling: tuple[float, float] = (0.3611, 0.1159)


def _dynamic(least: float, most: float, longest: int) -> Mapping[str, Any]:
    return {
        "use_dynamic_shifting": True,
        "base_shift": least,
        "max_shift": most,
        "base_image_seq_len": 256,
        "max_image_seq_len": longest,
    }


_SUFFIX = "_checkpoint_to_diffusers"
_KINDS: Mapping[str, _Kind] = {
    "SD 3.5": _Kind(
        "SD3Transformer2DModel",
        "convert_sd3_transformer" + _SUFFIX,
        {"shift": 3.0},
        (1.5305, 0.0609),
    ),
    "Flux.2": _Kind(
        "Flux2Transformer2DModel",
        "convert_flux2_transformer" + _SUFFIX,
        {"use_dynamic_shifting": True},
    ),
    "Chroma": _Kind(
        "ChromaTransformer2DModel", "convert_chroma_transformer" + _SUFFIX, {"shift": 1.0}
    ),
    "Flux.1": _Kind(
        "FluxTransformer2DModel", "convert_flux_transformer" + _SUFFIX, _dynamic(0.5, 1.15, 4096)
    ),
    "Krea 2": _Kind(
        "Krea2Transformer2DModel", "convert_krea2_transformer" + _SUFFIX, _dynamic(0.5, 1.15, 6400)
    ),
    "Qwen-Image": _Kind("QwenImageTransformer2DModel", "", _dynamic(0.5, 0.9, 8192)),
    "Z-Image": _Kind(
        "ZImageTransformer2DModel", "convert_z_image_transformer" + _SUFFIX, {"shift": 3.0}
    ),
    "Lumina 2": _Kind("Lumina2Transformer2DModel", "convert_lumina2_to_diffusers", {"shift": 6.0}),
}


@dataclass(frozen=True)
class Files:
    """The files of a model; what the transformer's file brings itself may be left out.

    `tokenizer` is that of its language model or T5, for those that bring none.
    """

    network: Path
    texts: Sequence[Path] = ()
    vae: Path | None = None
    tokenizer: Path | None = None


def import_files(files: Files, out: Path, say: Callable[[str], None] = lambda _: None) -> None:
    """Write the folder of a diffusers pipeline; AplError if anything does not fit.

    A killed import leaves `OUT.part`, which the next one replaces.
    """
    refuse_edits(files.network)
    contents = Contents.of(files.network, [files.network])
    name = transformer_of(contents.shapes)
    if name is None:
        raise refuse(
            contents.path,
            "it is not a diffusion transformer that is known",
            f"known: {', '.join(_KINDS)}",
        )
    kind = _KINDS[name]
    of_vae = _vae_contents(files, contents)
    if files.tokenizer is None:
        require_tokenizer([files.network, *files.texts])
    _check_room(files, out)
    say(f"{printable(files.network.name)}: the transformer of {name}")
    network = _network(contents, kind)
    texts = [imported_text(path) for path in files.texts]
    given = [text.key for text in texts]
    inside = texts_inside(contents.shapes)
    texts += [
        imported_text(files.network, begin) for key, begin in inside.items() if key not in given
    ]
    family = _belonging(files, name, [text.key for text in texts])
    parts = {key: part for part, key in family.encoders.items()}
    vae = _vae(of_vae, kind, name)
    index: dict[str, Any] = {
        "_class_name": family.pipeline,
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", kind.network],
        "vae": ["diffusers", type(vae).__name__],
    }
    if name == "Krea 2":
        index["text_encoder_select_layers"] = KREA_LAYERS
    if family.pipeline in ("Krea2Pipeline", "Flux2KleinPipeline"):
        index["is_distilled"] = "base" not in files.network.name.lower()
    tokenizers = [text.words(files.tokenizer) for text in texts]
    made = out.with_name(f"{out.name}.part")  # under its own name when it is whole
    shutil.rmtree(made, ignore_errors=True)
    say("writing the transformer and the VAE")
    network.save_pretrained(made / "transformer")
    vae.save_pretrained(made / "vae")
    diffusers.FlowMatchEulerDiscreteScheduler(**kind.scheduler).save_pretrained(made / "scheduler")
    for text, tokenizer in zip(texts, tokenizers, strict=True):
        say(f"writing the text encoder {text.key}")
        part = parts[text.key]
        words = part.replace("text_encoder", "tokenizer")
        index |= {
            part: ["transformers", type(text.model).__name__],
            words: ["transformers", "PreTrainedTokenizerFast"],
        }
        text.model.save_pretrained(made / part)
        tokenizer.save_pretrained(made / words)
    (made / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    made.rename(out)


def _check_room(files: Files, out: Path) -> None:
    """AplError where the disk has no room for the folder: told before weights are read."""
    bytes_of = dict.fromkeys((files.network, *files.texts), 2)
    if files.vae is not None:
        bytes_of[files.vae] = 4
    needed = sum(
        size * math.prod(shape)
        for path, size in bytes_of.items()
        for shape in Contents.of(path, [path]).shapes.values()
    )
    there = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise AplError(
            f"write the folder {printable(str(out))}",
            f"it needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free on the disk",
            "free some space, or name a folder on another disk",
        )


def _belonging(files: Files, name: str, keys: list[str]) -> Family:
    """The family of these text encoders: Klein's two differ in theirs."""
    wanted = [family for family in FAMILIES if family.name.startswith(name)]
    for family in wanted:
        if sorted(family.encoders.values()) == sorted(keys):
            return family
    needed = " or ".join(" + ".join(family.encoders.values()) for family in wanted)
    raise ConfigError(
        f"import {printable(files.network.name)}",
        f"{name} reads its prompts with {needed}; given: {' + '.join(keys) or 'none'}",
        "give a --text-encoder FILE for each",
    )


def _network(contents: Contents, kind: _Kind) -> Any:
    begin = NETWORK[0] if contents.names(NETWORK[0]) else ""
    weights = {bare(name): value for name, value in read_weights(contents, begin=begin).items()}
    if kind.network in _SCALES_OF_NORMS:
        weights = {_NORM.sub(r"\1.scale", name): value for name, value in weights.items()}
    rename: Any = getattr(renaming, kind.rename) if kind.rename else dict
    weights = rename(weights)
    config = config_of(contents.path, "transformer", TRANSFORMERS[kind.network], weights)
    with torch.device("meta"):
        network = getattr(diffusers, kind.network).from_config(config)
    return filled(contents.path, "transformer", network, weights)


_SCALES_OF_NORMS = ("FluxTransformer2DModel", "ChromaTransformer2DModel")
_NORM = re.compile(r"((?:query|key)_norm|distilled_guidance_layer\.norms\.\d+)\.weight$")
"""What a file that ComfyUI saved calls a norm's scale."""


def _vae_contents(files: Files, contents: Contents) -> tuple[Contents, str]:
    """Where the VAE's weights are, and how their names begin there."""
    if files.vae is not None:
        return Contents.of(files.vae, [files.vae]), ""
    begin = vae_inside(contents.shapes)
    if not begin:
        raise ConfigError(
            f"import {printable(files.network.name)}",
            "there is no VAE in it",
            "give the file of its VAE: --vae FILE",
        )
    return contents, begin


def _vae(given: tuple[Contents, str], kind: _Kind, name: str) -> Any:
    contents, begin = given
    path = contents.path
    weights = read_weights(contents, torch.float32, begin)  # as it runs
    if name in ("Qwen-Image", "Krea 2"):
        if "encoder.conv1.weight" in weights:  # in Wan's own names
            weights = renaming.convert_wan_vae_to_diffusers(weights)
        with torch.device("meta"):
            vae = diffusers.AutoencoderKLQwenImage(
                base_dim=weights["encoder.conv_in.weight"].shape[0]
            )
        return filled(path, "VAE", vae, weights)
    scaling, shift = kind.scaling
    config = {**vae_config(contents, scaling, begin), "shift_factor": shift}
    for side in ("quant_conv", "post_quant_conv"):
        config[f"use_{side}"] = f"{side}.weight" in weights
    renamed = renaming.convert_ldm_vae_checkpoint(dict(weights), config)
    of = diffusers.AutoencoderKL
    if name.startswith("Flux.2"):
        of = diffusers.AutoencoderKLFlux2
        config = {n: v for n, v in config.items() if n not in ("scaling_factor", "shift_factor")}
        renamed |= {n: v for n, v in weights.items() if n.startswith("bn.")}
    with torch.device("meta"):
        vae = of.from_config(config)
    return filled(path, "VAE", vae, renamed)
