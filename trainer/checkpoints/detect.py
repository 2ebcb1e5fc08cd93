"""What a checkpoint is, said from names and shapes alone: nothing of its weights is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from apl_core.metadata import printable
from apl_core.schedule import Prediction

from .diffusers_folder import detect_folder
from .family import (
    KEYS,
    SCALING,
    CheckpointInfo,
    Network,
    Text,
    check_channels,
    check_family,
    stored_as,
)
from .ldm_configs import UNET, VAE, unet_config, vae_config
from .model_files import needed
from .pipelines import PipelineInfo
from .safetensors_index import FIX, Contents, refuse, sound
from .text_encoders import plain_names, text_config

TEXTS = (
    "cond_stage_model.transformer.",  # SD 1.x; old merges leave `text_model.` out
    "cond_stage_model.model.",  # SD 2.x
    "conditioner.embedders.0.transformer.",  # SDXL
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",  # the refiner
)
"""Where a single file's text encoders are, in their order."""
_FOREIGN = (
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux or one of its kin"),
    ("transformer_blocks.0.attn.add_q_proj", "Stable Diffusion 3 or Flux"),
    ("text_encoders.", "a model with other text encoders, such as Stable Diffusion 3"),
    ("lora_", "a LoRA, a change to a model and no model"),
    (".lora_A.", "a LoRA, a change to a model and no model"),
    ("hada_w1", "a LoRA, a change to a model and no model"),
    ("control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
)
_PARTS = (
    (r"emb_params|string_to_", "a textual inversion"),
    (r"(first_stage_model\.)?decoder\.", "a VAE alone"),
    (r"(down|input)_blocks\.", "a U-Net alone"),
    (r".*token_embedding\.weight$", "a text encoder alone"),
)
_V_SPREAD = 0.09


def detect(path: Path, prediction: Prediction | None = None) -> CheckpointInfo | PipelineInfo:
    """Say what a checkpoint is; AplError with one sentence if it cannot be used."""
    with sound(path):
        return (detect_folder if path.is_dir() else _detect_file)(path, prediction)


def _detect_file(path: Path, prediction: Prediction | None) -> CheckpointInfo:
    contents = Contents.of(path, [path])
    _refuse_transformer(contents)
    refuse_foreign(contents)
    config = unet_config(contents)
    check_channels(path, config)
    texts = tuple(_text(contents, prefix) for prefix in TEXTS if contents.token_embedding(prefix))
    family = check_family(path, texts, config)
    said = prediction or _prediction(contents, family)
    vae = Network(contents, VAE, vae_config(contents, SCALING[family]))
    return CheckpointInfo(
        path,
        family,
        texts,
        Network(contents, UNET, config),
        vae,
        said,
        stored_as(contents, UNET),
        zero_snr="ztsnr" in contents.shapes,
    )


def _refuse_transformer(contents: Contents) -> None:
    """AplError for a file with a diffusion transformer: what makes a folder of it."""
    lone = needed(contents.path, contents.shapes)
    if lone is None:
        return
    family, pieces = lone
    options = [
        f"--{piece.what.lower().replace(' ', '-')} {'FILE' if ' ' in piece.name else piece.name}"
        for piece in pieces  # SD 3.5's VAE has no usual name
    ]
    found = f"it is {family} as ComfyUI has it, and is read as a folder"
    command = " ".join(["apl import", printable(str(contents.path)), *options, "--out FOLDER"])
    raise refuse(contents.path, found, f"make the folder with `{command}`")


def refuse_foreign(contents: Contents) -> None:
    """AplError for a single file that is not a checkpoint with a U-Net of Stable Diffusion."""
    names = contents.shapes
    for mark, kind in _FOREIGN:
        if any(name.startswith(mark) or mark in name for name in names):
            raise refuse(contents.path, f"it is {kind}")
    if contents.names(UNET):
        stored_as(contents, "")
        return
    for pattern, kind in _PARTS:
        if any(re.match(pattern, name) for name in names):
            raise refuse(contents.path, f"it is {kind}", "give a whole checkpoint")
    some = ", ".join(printable(name, 60) for name in list(names)[:3]) or "nothing"
    raise refuse(contents.path, f"it is not a known kind of checkpoint (it begins with {some})")


def _text(contents: Contents, prefix: str) -> Text:
    weights = plain_names(contents.sketch(prefix))
    try:
        width = weights["embeddings.token_embedding.weight"].shape[1]
        key = KEYS.get(width, f"one of width {width}")
        config = text_config(weights, quick=key == "clip_l")
    except (KeyError, IndexError, ValueError) as error:
        found = f"weights of its text encoder are missing ({printable(str(error), 80)})"
        raise refuse(contents.path, found, "download it again") from error
    double = prefix.startswith("conditioner.")
    # SDXL reads both encoders before the last layer, without norm; SD 2.x there, with the norm
    skip = 1 if double or key == "clip_h" else 0
    projected = double and key == "clip_g"
    return Text(key, contents, prefix, config, skip, not double, projected)


def _prediction(contents: Contents, family: str) -> Prediction:
    """What the file says, or for SD 2.x what its last block tells.

    SD 2.x models that predict v have far more scattered biases in their last norm than those that
    predict eps, which is what ComfyUI goes by as well.
    """
    said = contents.metadata.get("modelspec.prediction_type", "").lower()
    if "v_pred" in contents.shapes or said in ("v", "v_prediction"):
        return "v"
    if said in ("flow", "rectified_flow"):
        return "flow"
    if "edm_mean" in contents.shapes or said == "edm":
        raise refuse(contents.path, "it is trained on another noise schedule (EDM)", FIX)
    last = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if family == "SD 2.x" and not said and last in contents.shapes:
        bias = contents.load(last)[last]
        if float(bias.float().std(correction=0)) > _V_SPREAD:
            return "v"
    return "eps"
