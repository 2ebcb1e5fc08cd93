"""The members of the zoo: which text encoder, which denoiser, and what people run that is alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diffusers import Lumina2Transformer2DModel, PixArtTransformer2DModel
from torch import nn

from apl_core.errors import ConfigError
from apl_core.ports import TextEncoderPort
from apl_core.schedule import Schedule
from apl_trainer.models.language import Template
from apl_trainer.models.transformer import Call, FlowDenoiser, lumina2, pixart
from apl_trainer.pocket.networks import LATENT_CHANNELS, LATENT_SIZE

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
    """One member; `encoder` makes its frozen text encoder, `network` a denoiser, untrained."""

    stands_for: str
    about: str
    encoder: Callable[[Place], TextEncoderPort]
    network: Callable[[], nn.Module]
    call: Call

    def denoiser(self) -> FlowDenoiser:
        """The denoiser as it is before training; it predicts the clean latent."""
        return FlowDenoiser(self.network(), SCHEDULE, self.call, "x0")


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


MEMBERS: Mapping[str, Member] = {
    "minilm-dit": Member(
        "PixArt, Chroma",
        "frozen MiniLM; cross-attention transformer, flow",
        lambda place: minilm(Template("[CLS]", "[SEP]", (6,)), place),
        lambda: _pixart(384),
        pixart,
    ),
    "smollm-dit": Member(
        "Z-Image, Lumina 2",
        "frozen SmolLM2, chat template, last but one layer; single-stream transformer, flow",
        lambda place: smollm(Template(*_TURN, (29,)), place),
        lambda: _lumina(576),
        lumina2,
    ),
    "smollm-cut": Member(
        "Qwen-Image, Krea 2, Flux.2",
        "frozen SmolLM2, system turn cut off, layers 8, 15 and 22 joined; single-stream "
        "transformer, flow",
        lambda place: smollm(Template(_SYSTEM + _TURN[0], _TURN[1], (8, 15, 22), cut=CUT), place),
        lambda: _lumina(3 * 576),
        lumina2,
    ),
}


def member(name: str) -> Member:
    """A member by its name; ConfigError tells those that there are."""
    if name not in MEMBERS:
        known = ", ".join(MEMBERS)
        raise ConfigError("find a member of the zoo", f"there is no {name!r}", f"known: {known}")
    return MEMBERS[name]
