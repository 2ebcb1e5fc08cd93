"""The families of checkpoints that are known, and what is said of one that was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apl_core.metadata import printable
from apl_core.prefix import FAMILIES, WIDTHS, describe
from apl_core.schedule import Prediction

from .ldm_configs import pooled_width
from .safetensors_index import Contents, refuse

SCALING = {"SD 1.x": 0.18215, "SD 2.x": 0.18215, "SDXL": 0.13025}
"""Factor of a family's latents."""

BETAS = (1000, 0.00085, 0.012)
"""Steps, first and last beta of Stable Diffusion's schedule, linear in their square root."""

KEYS = {width: key for key, width in WIDTHS.items() if key.startswith("clip_")}
"""Text encoders by the width of their token embeddings."""

_FLOATS = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64"}
_CHANNELS = {
    9: "an inpainting model (9 input channels)",
    8: "a model that edits pictures (8 input channels)",
    7: "an upscaler (7 input channels)",
    5: "a depth model (5 input channels)",
}


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
class CheckpointInfo:
    """A checkpoint that can be used, and all that is needed to load it.

    `guidance` and `steps` are those that it is sampled with; `shift` is that of a flow's levels.
    """

    path: Path
    family: str
    texts: tuple[Text, ...]
    unet: Network
    vae: Network
    prediction: Prediction
    stored: str
    betas: tuple[int, float, float] = BETAS
    zero_snr: bool = False
    shift: float = 1.0
    guidance: float = 7.0
    steps: int = 20

    @property
    def card_family(self) -> str:
        """What a prefix's card says of the family: nothing, its encoders tell it."""
        return ""

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
            f"{printable(self.path.name)}: {describe(self.widths)}, {layout}, {self.stored}, "
            f"predicts {self.prediction}{flat}"
        )

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels, that the family was trained on."""
        if self.family == "SDXL":
            return 1024
        return 768 if self.prediction == "v" else 512


def check_channels(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a U-Net that is given more than a noised latent."""
    channels = int(config["in_channels"])
    if channels != 4:
        kind = _CHANNELS.get(channels, f"a model with {channels} input channels")
        raise refuse(path, f"it is {kind}", "give the model that it was made from")


def family_of(path: Path, keys: Sequence[str]) -> str:
    """The family that has these text encoders; AplError if none has."""
    if list(keys) == ["clip_g"]:
        fix = "give the SDXL base checkpoint, which draws what the prompt asks for"
        raise refuse(path, "it is an SDXL refiner, with clip_g alone", fix)
    if not keys:
        raise refuse(path, "it is a U-Net without its text encoder", "give a whole checkpoint")
    family = FAMILIES.get(frozenset(keys))
    if family is None or len(set(keys)) != len(keys):
        raise refuse(path, f"no known family has the encoders {', '.join(keys)}")
    return family


def check_family(path: Path, texts: Sequence[Text], config: Mapping[str, Any]) -> str:
    """The family that has these text encoders and this U-Net; AplError if none has."""
    family = family_of(path, [text.key for text in texts])
    width = sum(int(text.config["hidden_size"]) for text in texts)
    if width != config["cross_attention_dim"]:
        found = f"its U-Net wants texts of width {config['cross_attention_dim']}, not {width}"
        raise refuse(path, found)
    wanted = pooled_width(config)
    given = next((int(t.config["projection_dim"]) for t in texts if t.projected), None)
    if wanted != given:
        raise refuse(path, f"its U-Net wants pooled texts of width {wanted}, not {given}")
    return family


def stored_as(contents: Contents, prefix: str) -> str:
    """fp16, bf16 or fp32; AplError when the weights are quantized."""
    kinds = {contents.dtypes[name] for name in contents.names(prefix) if contents.shapes[name]}
    odd = sorted(kinds - set(_FLOATS) - {"I64"})
    marks = (".scale_weight", ".weight_scale", "comfy_quant", ".absmax", "scaled_fp8")
    if odd or any(name.endswith(marks) for name in contents.shapes):
        found = f"its weights are quantized ({', '.join(odd) or 'scaled'})"
        raise refuse(contents.path, found, "give the fp16, bf16 or fp32 file that it was made from")
    names = sorted(_FLOATS[kind] for kind in kinds if kind in _FLOATS)
    return " and ".join(names) or "no weights"
