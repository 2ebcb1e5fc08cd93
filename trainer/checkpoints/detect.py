"""What a checkpoint is, said from names and shapes alone: nothing of its weights is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apl_core.metadata import shown
from apl_core.prefix import FAMILIES, WIDTHS, describe
from apl_core.schedule import Prediction

from .ldm_configs import UNET, VAE, pooled_width, unet_config, vae_config
from .safetensors_index import FIX, Contents, refuse, sound
from .text_encoders import plain_names, text_config

SCALING = {"SD 1.x": 0.18215, "SD 2.x": 0.18215, "SDXL": 0.13025}
"""Factor of a family's latents."""

BETAS = (1000, 0.00085, 0.012)
"""Steps, first and last beta of Stable Diffusion's schedule, linear in their square root."""

_BY_WIDTH = {width: key for key, width in WIDTHS.items() if key != "pocket"}
_FLOATS = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64"}
_TEXTS = (
    "cond_stage_model.transformer.",  # SD 1.x; old merges leave `text_model.` out
    "cond_stage_model.model.",  # SD 2.x
    "conditioner.embedders.0.transformer.",  # SDXL
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",  # the refiner
)
_CHANNELS = {
    9: "an inpainting model (9 input channels)",
    8: "a model that edits pictures (8 input channels)",
    7: "an upscaler (7 input channels)",
    5: "a depth model (5 input channels)",
}
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
_V_SPREAD = 0.09


@dataclass(frozen=True)
class Text:
    """One text encoder: where its weights are, how it is built, and what of it is used.

    `skip` layers from the end are left out; `norm` says whether the final norm comes after that;
    `projected`: its pooled output counts.
    """

    key: str
    contents: Contents
    prefix: str
    config: Mapping[str, Any]
    skip: int
    norm: bool
    projected: bool


@dataclass(frozen=True)
class Network:
    """A U-Net or VAE: its weights' names begin with `prefix`; none in a diffusers folder."""

    contents: Contents
    prefix: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Recognised:
    """A checkpoint that can be used, and all that is needed to load it."""

    path: Path
    family: str
    texts: tuple[Text, ...]
    unet: Network
    vae: Network
    prediction: Prediction
    stored: str
    betas: tuple[int, float, float] = BETAS
    zero_snr: bool = False

    @property
    def widths(self) -> dict[str, int]:
        """Width of the token embeddings of each encoder."""
        return {text.key: int(text.config["hidden_size"]) for text in self.texts}

    @property
    def sentence(self) -> str:
        """One line for a user."""
        layout = "single file" if self.unet.prefix else "diffusers folder"
        flat = ", zero terminal SNR" if self.zero_snr else ""
        return (
            f"{shown(self.path.name)}: {describe(self.widths)}, {layout}, {self.stored}, "
            f"predicts {self.prediction}{flat}"
        )

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels, that the family was trained on."""
        if self.family == "SDXL":
            return 1024
        return 768 if self.prediction == "v" else 512


def recognise(path: Path, prediction: Prediction | None = None) -> Recognised:
    """Say what a checkpoint is; AplError with one sentence if it cannot be used."""
    if path.is_dir():
        from .diffusers_folder import recognise_folder

        return recognise_folder(path, prediction)
    with sound(path):
        return _recognised(path, prediction)


def _recognised(path: Path, prediction: Prediction | None) -> Recognised:
    contents = Contents.of(path, [path])
    _refuse_foreign(contents)
    config = unet_config(contents)
    check_channels(path, config)
    found = [_text(contents, prefix) for prefix in _TEXTS if _has_text(contents, prefix)]
    texts = check_family(path, found, config)
    family = FAMILIES[frozenset(text.key for text in texts)]
    said = prediction or _prediction(contents, family)
    vae = Network(contents, VAE, vae_config(contents, SCALING[family]))
    return Recognised(
        path,
        family,
        texts,
        Network(contents, UNET, config),
        vae,
        said,
        stored_as(contents, UNET),
        zero_snr="ztsnr" in contents.shapes,
    )


def check_channels(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a U-Net that is given more than a noised latent."""
    channels = int(config["in_channels"])
    if channels != 4:
        kind = _CHANNELS.get(channels, f"a model with {channels} input channels")
        raise refuse(path, f"it is {kind}", "give the model that it was made from")


def check_family(path: Path, texts: list[Text], config: Mapping[str, Any]) -> tuple[Text, ...]:
    """The encoders, if they make up a known family that fits the U-Net."""
    keys = frozenset(text.key for text in texts)
    if keys == {"clip_g"}:
        fix = "give the SDXL base checkpoint, which draws what the prompt asks for"
        raise refuse(path, "it is an SDXL refiner, with clip_g alone", fix)
    if not texts:
        raise refuse(path, "it is a U-Net without its text encoder", "give a whole checkpoint")
    if len(keys) != len(texts) or keys not in FAMILIES:
        raise refuse(path, f"no known family has the encoders {', '.join(t.key for t in texts)}")
    width = sum(int(text.config["hidden_size"]) for text in texts)
    if width != config["cross_attention_dim"]:
        found = f"its U-Net wants texts of width {config['cross_attention_dim']}, not {width}"
        raise refuse(path, found)
    wanted = pooled_width(config)
    given = next((int(t.config["projection_dim"]) for t in texts if t.projected), None)
    if wanted != given:
        raise refuse(path, f"its U-Net wants pooled texts of width {wanted}, not {given}")
    return tuple(texts)


def stored_as(contents: Contents, prefix: str) -> str:
    """fp16, bf16 or fp32; AplError when the weights are quantised."""
    kinds = {contents.dtypes[name] for name in contents.names(prefix) if contents.shapes[name]}
    odd = sorted(kinds - set(_FLOATS) - {"I64"})
    marks = (".scale_weight", ".weight_scale", "comfy_quant", ".absmax", "scaled_fp8")
    if odd or any(name.endswith(marks) for name in contents.shapes):
        found = f"its weights are quantised ({', '.join(odd) or 'scaled'})"
        raise refuse(contents.path, found, "give the fp16, bf16 or fp32 file that it was made from")
    names = sorted(_FLOATS[kind] for kind in kinds if kind in _FLOATS)
    return " and ".join(names) or "no weights"


def _refuse_foreign(contents: Contents) -> None:
    names = contents.shapes
    for mark, kind in _FOREIGN:
        if any(name.startswith(mark) or mark in name for name in names):
            raise refuse(contents.path, f"it is {kind}")
    if contents.names(UNET):
        stored_as(contents, "")
        return
    if any(name.startswith(("emb_params", "string_to_")) for name in names):
        raise refuse(contents.path, "it is a textual inversion")
    if any(name.startswith(("decoder.", "first_stage_model.decoder.")) for name in names):
        raise refuse(contents.path, "it is a VAE alone", "give a whole checkpoint")
    if any(name.startswith(("down_blocks.", "input_blocks.")) for name in names):
        raise refuse(contents.path, "it is a U-Net alone", "give a whole checkpoint")
    if any(name.endswith("token_embedding.weight") for name in names):
        raise refuse(contents.path, "it is a text encoder alone", "give a whole checkpoint")
    some = ", ".join(shown(name, 60) for name in list(names)[:3]) or "nothing"
    raise refuse(contents.path, f"it is no checkpoint that is known here (it begins with {some})")


def _has_text(contents: Contents, prefix: str) -> bool:
    return any(name.endswith("token_embedding.weight") for name in contents.names(prefix))


def _text(contents: Contents, prefix: str) -> Text:
    weights = plain_names(contents.sketch(prefix))
    try:
        width = weights["embeddings.token_embedding.weight"].shape[1]
        key = _BY_WIDTH.get(width, f"one of width {width}")
        config = text_config(weights, quick=key == "clip_l")
    except (KeyError, IndexError, ValueError) as error:
        found = f"weights of its text encoder are missing ({shown(str(error), 80)})"
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
    if "edm_mean" in contents.shapes or said == "edm":
        raise refuse(contents.path, "it is trained on another noise schedule (EDM)", FIX)
    last = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if family == "SD 2.x" and not said and last in contents.shapes:
        bias = contents.load(last)[last]
        if float(bias.float().std(correction=0)) > _V_SPREAD:
            return "v"
    return "eps"


def dtype_of(name: str) -> torch.dtype:
    """The dtype called fp32, bf16 or fp16."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
