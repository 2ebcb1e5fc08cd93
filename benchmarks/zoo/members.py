"""The members of the zoo: which text encoder, which denoiser, and what people run that is alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import (
    FluxTransformer2DModel,
    Lumina2Transformer2DModel,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn.functional import pad

from apl_core.errors import ConfigError
from apl_core.ports import Conditioning, TextEncoderPort
from apl_core.schedule import Schedule
from apl_trainer.models.language import Template
from apl_trainer.models.transformer import Call, FlowDenoiser, flux, lumina2, pixart
from apl_trainer.models.unet import UnetDenoiser
from apl_trainer.pocket.networks import LATENT_CHANNELS, LATENT_SIZE, new_unet
from apl_trainer.pocket.networks import SCHEDULE as POCKET_SCHEDULE

from .own import DEEP_CLIP, T5_AND_CLIP, TWO_CLIPS, OwnTexts
from .places import Place
from .pretrained import minilm, smollm

SCHEDULE = Schedule.rectified_flow(most=0.985)
"""Noise levels of the flow members: nearly as far as the pocket model's own go."""

_PATCH = 2  # of the latent's 8 x 8 places: 16 tokens a picture
_TURN = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
_SYSTEM = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
)


CUT = 34
"""Tokens of the system turn and of the user turn's first words."""


@dataclass(frozen=True)
class Member:
    """One member: how its text encoder is made, a frozen one or one of its own, and its denoiser.

    A denoiser is made as it is before training.
    """

    stands_for: str
    about: str
    encoder: Callable[[Place], TextEncoderPort] | OwnTexts
    denoiser: Callable[[], FlowDenoiser | UnetDenoiser]


def _flow(network: nn.Module, call: Call) -> FlowDenoiser:
    """A transformer that predicts the clean latent."""
    return FlowDenoiser(network, SCHEDULE, call, "x0")


def _lumina(width: int, layers: int = 4, size: int = 192) -> Lumina2Transformer2DModel:
    heads = size // 32
    return Lumina2Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=_PATCH,
        in_channels=LATENT_CHANNELS,
        hidden_size=size,
        num_layers=layers,
        num_refiner_layers=1,
        num_attention_heads=heads,
        num_kv_heads=heads,
        multiple_of=64,
        axes_dim_rope=(8, 12, 12),
        axes_lens=(512, LATENT_SIZE, LATENT_SIZE),
        cap_feat_dim=width,
    )


def _pixart(width: int, layers: int = 6, size: int = 192) -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        num_attention_heads=size // 32,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        cross_attention_dim=size,
        sample_size=LATENT_SIZE,
        patch_size=_PATCH,
        caption_channels=width,
        use_additional_conditions=False,
    )


def _flux(width: int, pooled: int, size: int = 192) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=_PATCH**2 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=size // 32,
        joint_attention_dim=width,
        pooled_projection_dim=pooled,
        axes_dims_rope=(8, 12, 12),
    )


def _unet(width: int, pooled: int = 0) -> UNet2DConditionModel:
    """The pocket model's U-Net for other states; with `pooled` ones it takes sizes as well."""
    if not pooled:
        return new_unet(width)
    return new_unet(
        width,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=pooled + 6 * 32,
    )


def masked_flux(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Flux.1's transformer; where one text is longer than the others, those have masked places.

    Its own pipeline fills texts up to so many tokens that this does not happen.
    """
    if texts.mask is None or bool(texts.mask.all()):
        return flux(network, x_t, noise, texts)
    seen = pad(texts.mask, (0, x_t[0, 0].numel() // _PATCH**2), value=True)[:, None, None]

    class Masked:
        config = network.config

        def __call__(self, **given: Any) -> Any:
            return network(**given, joint_attention_kwargs={"attention_mask": seen})

    return flux(Masked(), x_t, noise, Conditioning(texts.cross, texts.pooled))


CLIP_UNET = "clip-unet"
"""The pocket model as a member: `apl pocket build` has made it, and nothing is left to build."""

MEMBERS: Mapping[str, Member] = {
    "minilm-dit": Member(
        "PixArt, Chroma",
        "frozen MiniLM; cross-attention transformer, flow",
        lambda place: minilm(Template("[CLS]", "[SEP]", (6,)), place),
        lambda: _flow(_pixart(384), pixart),
    ),
    "smollm-dit": Member(
        "Z-Image, Lumina 2",
        "frozen SmolLM2, chat template, last but one layer; single-stream transformer, flow",
        lambda place: smollm(Template(*_TURN, (29,)), place),
        lambda: _flow(_lumina(576), lumina2),
    ),
    "smollm-cut": Member(
        "Qwen-Image, Krea 2, Flux.2",
        "frozen SmolLM2, system turn cut off, layers 8, 15 and 22 joined; single-stream "
        "transformer, flow",
        lambda place: smollm(Template(_SYSTEM + _TURN[0], _TURN[1], (8, 15, 22), cut=CUT), place),
        lambda: _flow(_lumina(3 * 576), lumina2),
    ),
    "t5-mmdit": Member(
        "Flux.1, SD 3.5",
        "T5 and a pooled CLIP, trained here; double-stream transformer, flow",
        T5_AND_CLIP,
        lambda: _flow(_flux(128, 96), masked_flux),
    ),
    "clip-deep": Member(
        "SD 2.x",
        "CLIP, 12 layers, the last but one read, trained here; U-Net",
        DEEP_CLIP,
        lambda: UnetDenoiser(_unet(96), POCKET_SCHEDULE, "x0"),
    ),
    "dual-clip": Member(
        "SDXL",
        "two CLIPs of different width and vocabulary, pooled, sizes, trained here; U-Net",
        TWO_CLIPS,
        lambda: UnetDenoiser(_unet(96 + 128, pooled=128), Schedule.scaled_linear(), "x0"),
    ),
}

ABOUT: Mapping[str, tuple[str, str]] = {
    CLIP_UNET: ("SD 1.x", "the pocket model: CLIP, 3 layers, trained here; U-Net"),
    **{name: (member.stands_for, member.about) for name, member in MEMBERS.items()},
}
"""What each member stands for, and what it is; the pocket model among them."""


def member(name: str) -> Member:
    """A member by its name; ConfigError tells those that there are."""
    if name not in MEMBERS:
        known = ", ".join(ABOUT)
        raise ConfigError("find a member of the zoo", f"there is no {name!r}", f"known: {known}")
    return MEMBERS[name]
