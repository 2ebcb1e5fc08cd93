"""A diffusers pipeline's folder: its configs say how it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apl_core.metadata import printable
from apl_core.schedule import Prediction
from apl_core.texts import read_text

from ..settings import parse_json
from .family import (
    BETAS,
    KEYS,
    CheckpointInfo,
    Network,
    Text,
    check_channels,
    check_family,
    stored_as,
)
from .ldm_configs import check_layers
from .pipelines import NAMES, PipelineInfo, family_of, family_part
from .safetensors_index import Contents, refuse
from .text_encoders import plain_names

TEXT_PARTS = ("text_encoder", "text_encoder_2")
_PIPELINES = ("StableDiffusion", "StableDiffusionXL")
_ENDINGS = ("Pipeline", "Img2ImgPipeline")
_FROM_PICTURES = ("Edit", "Inpaint", "Kontext", "Fill", "ControlNet", "Redux", "Omni", "Upscale")
_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "flow_prediction": "flow",
}


_RENAMED = {"Lumina2Text2ImgPipeline": "Lumina2Pipeline"}
"""Pipelines by the names that diffusers had for them before."""


def detect_folder(path: Path, prediction: Prediction | None) -> CheckpointInfo | PipelineInfo:
    """Say what a diffusers folder holds; AplError if it cannot be used."""
    index = _json(path, "model_index.json")
    name = str(index.get("_class_name"))
    name = _RENAMED.get(name, name)
    if name in NAMES:
        return _transformer(path, name, index)
    if any(word in name for word in _FROM_PICTURES):
        raise refuse(
            path,
            f"it is a {printable(name, 60)}, which starts from a picture: a face in it comes from "
            "there, and no prefix of a prompt reaches it",
            "give the pipeline that draws from a prompt alone",
        )
    if name not in [family + ending for family in _PIPELINES for ending in _ENDINGS]:
        raise refuse(path, f"it is a {printable(name, 60)}, of a family that is not known")
    unet, vae = _network(path, "unet"), _network(path, "vae")
    check_channels(path, unet.config)
    texts = tuple(_text(path, part) for part in TEXT_PARTS if (path / part).is_dir())
    family = check_family(path, texts, unet.config)
    scheduler = _json(path, "scheduler/scheduler_config.json")
    if scheduler.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise refuse(
            path, f"its noise schedule is {printable(str(scheduler['beta_schedule']), 40)}"
        )
    flows = str(scheduler.get("_class_name")).startswith("FlowMatch")
    usual = "flow_prediction" if flows else "epsilon"
    kind = _PREDICTIONS.get(str(scheduler.get("prediction_type", usual)))
    if kind is None and prediction is None:
        said = printable(str(scheduler["prediction_type"]), 40)
        raise refuse(path, f"its U-Net predicts {said}", "say what it is with --prediction")
    steps, start, end = BETAS
    betas = (
        int(scheduler.get("num_train_timesteps", steps)),
        float(scheduler.get("beta_start", start)),
        float(scheduler.get("beta_end", end)),
    )
    return CheckpointInfo(
        path,
        family,
        texts,
        unet,
        vae,
        prediction or kind or "eps",
        stored_as(unet.contents, ""),
        betas,
        bool(scheduler.get("rescale_betas_zero_snr")),
        float(scheduler.get("shift") or scheduler.get("flow_shift") or 1.0),
    )


def _transformer(path: Path, name: str, index: dict[str, Any]) -> PipelineInfo:
    """A pipeline of a diffusion transformer."""
    if not (path / "transformer").is_dir():
        raise refuse(path, "there is no transformer in it", "give the whole folder of the pipeline")
    part = family_part(name)
    config = _json(path, f"{part}/config.json")
    width = int(config.get("text_config", config).get("hidden_size") or config.get("d_model", 0))
    kind = family_of(name, width)
    if kind is None:
        raise refuse(path, f"its text encoder is {width} wide, which is no {NAMES[name]}'s")
    contents = Contents.of(path, weight_files(path, "transformer", "diffusion_pytorch_model"))
    for encoder in kind.encoders:
        Contents.of(path, weight_files(path, encoder, "model"))  # refused now, not after an hour
    network = _json(path, "transformer/config.json")
    schedule = _json(path, "scheduler/scheduler_config.json")
    levels = kind.distilled if _distilled(path, name, index, network) else 0
    stored = stored_as(contents, "")
    return PipelineInfo(path, kind, stored, index, schedule, levels)


_DISTILLED = ("turbo", "schnell", "lightning", "distilled")
"""What names of models say that are sampled in a few steps."""


def _distilled(path: Path, name: str, index: dict[str, Any], network: dict[str, Any]) -> bool:
    """Whether a model is sampled in a few steps: its index, its network or its name tells."""
    if "is_distilled" in index:
        return bool(index["is_distilled"])
    if name == "FluxPipeline":
        return not network.get("guidance_embeds")
    return any(word in path.name.lower() for word in _DISTILLED)


def _text(path: Path, part: str) -> Text:
    contents = Contents.of(path, weight_files(path, part, "model"))
    stored_as(contents, "")
    config = _json(path, f"{part}/config.json")
    check_layers(config)
    config = {k: v for k, v in config.items() if k not in ("architectures", "torch_dtype", "dtype")}
    table = plain_names(contents.sketch()).get("embeddings.token_embedding.weight")
    if table is None:
        raise refuse(path, f"{part} is not a CLIP text encoder")
    width = table.shape[1]
    config = {**config, "hidden_size": width}
    config.setdefault("projection_dim", width)
    key = KEYS.get(width, f"one of width {width}")
    double = (path / "text_encoder_2").is_dir()
    # the folder of an SD 2.x has left the last layer out already
    return Text(
        key, contents, "", config, int(double), not double, double and part == "text_encoder_2"
    )


def _network(path: Path, part: str) -> Network:
    contents = Contents.of(path, weight_files(path, part, "diffusion_pytorch_model"))
    config = _json(path, f"{part}/config.json")
    check_layers(config)
    return Network(contents, "", config)


def weight_files(path: Path, part: str, stem: str) -> list[Path]:
    """The safetensors of a part: whole, or in shards, fp32 before fp16; AplError without any."""
    for variant in ("", ".fp16"):
        whole = path / part / f"{stem}{variant}.safetensors"
        if whole.is_file():
            return [whole]
        index = path / part / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            places = _json(path, str(index.relative_to(path))).get("weight_map", {})
            named = sorted(set(places.values()))
            return [path / part / Path(str(name)).name for name in named]
    raise refuse(path, f"there is no {stem}.safetensors in its {part}")


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        found = parse_json(read_text(path / name))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise refuse(
            path,
            f"{name} is missing or broken ({printable(str(error), 80)})",
            "give the whole folder of a diffusers pipeline",
        ) from error
    return found
