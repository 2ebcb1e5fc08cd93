"""The families whose text encoder is a language model or T5, as diffusers' pipelines have them.

Where ComfyUI reads a prompt in another way than diffusers does, ComfyUI's is learned: it is what a
prefix is used in. Templates, layers and lengths were checked against both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apl_core import families
from apl_core.metadata import printable
from apl_core.prefix import WIDTHS, describe, ordered
from apl_core.schedule import Prediction, Schedule

from ..models.joint import Join, one_behind_the_other, pooled_alone
from ..models.language import Template
from ..models.transformer import (
    Call,
    chroma,
    flux,
    flux2,
    flux2_dev,
    krea2,
    lumina2_velocity,
    qwen_image,
    sd3,
    z_image,
)

_WRITTEN = {family.name: family for family in families.TABLE}
_T5 = "t5xxl"
_BEGINS = {"gemma2_2b": "<bos>", "mistral3_24b": "<s>"}
"""The mark that begins every text of a language model, of those that have one."""


@dataclass(frozen=True)
class Family:
    """A family of diffusion transformers that learned by flow matching.

    `layers` are those whose states are read, `fill` and `cuts` how: texts are filled up to so many
    tokens; no denoiser sees what stands in front of the text. `pixels` on a side of a picture are
    one place of a latent; `guidance` and `steps` are what it is sampled with, `distilled` the steps
    of a distilled one, which is sampled without guidance.
    """

    name: str
    pipeline: str
    call: Call
    layers: tuple[int, ...]
    guidance: float
    steps: int
    distilled: int = 8
    fill: int = 0
    cuts: bool = False
    join: Join | None = None
    channels: int = 16
    pixels: int = 8

    @property
    def encoders(self) -> Mapping[str, str]:
        """The key of each text encoder by its part of the folder; the last is no CLIP."""
        keys = _WRITTEN[self.name].encoders
        return {f"text_encoder_{i}" if i > 1 else "text_encoder": k for i, k in enumerate(keys, 1)}

    @property
    def key(self) -> str:
        """The key of the language model or T5."""
        return list(self.encoders.values())[-1]

    @property
    def part(self) -> str:
        """Where the language model or T5 lies in the folder."""
        return list(self.encoders)[-1]

    @property
    def clips(self) -> Mapping[str, str]:
        """The CLIP encoders by their parts of the folder."""
        return {part: key for part, key in self.encoders.items() if key != self.key}

    @property
    def pools(self) -> bool:
        """Whether all that is read of CLIP is its pooled state."""
        return self.join is pooled_alone

    @property
    def scaled(self) -> bool:
        """Whether token embeddings are scaled where they are looked up, so that rows are not."""
        return _WRITTEN[self.name].scaled

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of `size` pixels."""
        side = size // self.pixels
        return self.channels, side, side

    @property
    def template(self) -> Template:
        """How the language model or T5 is read; T5 ends a text by itself, and sees padding.

        Of Gemma's the blank in front of the text is the text's.
        """
        before, after = _WRITTEN[self.name].around[0]
        t5, gemma = self.key == _T5, self.key == "gemma2_2b"
        return Template(
            _BEGINS.get(self.key, "") + before,
            after + "</s>" * t5,
            self.layers,
            fill=self.fill,
            attends=t5,
            lead=" " * gemma,
        )


def _klein(name: str) -> Family:
    layers = (9, 18, 27)
    return Family(name, _KLEIN, flux2, layers, 4.0, 28, 4, 512, channels=128, pixels=16)


_KLEIN, _FLUX2 = "Flux2KleinPipeline", "Flux2Pipeline"

FAMILIES: Sequence[Family] = (
    Family("Z-Image", "ZImagePipeline", z_image, (-2,), 5.0, 28),
    Family("Qwen-Image", "QwenImagePipeline", qwen_image, (-1,), 4.0, 30, cuts=True),
    Family("Krea 2", "Krea2Pipeline", krea2, (), 5.5, 28, cuts=True),
    _klein("Flux.2 Klein 4B"),
    _klein("Flux.2 Klein 9B"),
    Family("Flux.2 dev", _FLUX2, flux2_dev, (10, 20, 30), 1.0, 28, channels=128, pixels=16),
    Family("Flux.1", "FluxPipeline", flux, (-1,), 1.0, 28, 4, 256, join=pooled_alone),
    Family("Chroma", "ChromaPipeline", chroma, (-1,), 4.0, 28),
    Family(
        "SD 3.5", "StableDiffusion3Pipeline", sd3, (-1,), 5.0, 28, 4, 77, join=one_behind_the_other
    ),
    Family("Lumina 2", "Lumina2Pipeline", lumina2_velocity, (-2,), 4.0, 30),
)


@dataclass(frozen=True)
class PipelineInfo:
    """A folder of a diffusers pipeline that can be used, and all that is needed to load it.

    `levels` is the number of noise levels that a distilled model is sampled at, else 0.
    """

    path: Path
    kind: Family
    stored: str
    index: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    levels: int = 0
    prediction: Prediction = "flow"
    size: int = 1024

    @property
    def family(self) -> str:
        """Its name."""
        return self.kind.name

    @property
    def card_family(self) -> str:
        """What a prefix's card says of the family: one text encoder serves several."""
        return self.kind.name

    @property
    def widths(self) -> dict[str, int]:
        """Width of the token embeddings of each encoder."""
        return {key: WIDTHS[key] for key in ordered(dict.fromkeys(self.kind.encoders.values()))}

    @property
    def guidance(self) -> float:
        """Scale of classifier-free guidance that it is sampled with; 1 is without."""
        return 1.0 if self.levels else self.kind.guidance

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return self.levels or self.kind.steps

    @property
    def sentence(self) -> str:
        """One line for a user."""
        few = f", distilled to {self.levels} steps" if self.levels else ""
        return (
            f"{printable(self.path.name)}: {describe(self.widths, self.family)}, diffusers folder, "
            f"{self.stored}, flow matching{few}"
        )

    @property
    def template(self) -> Template:
        """How its language model is read."""
        template = self.kind.template
        layers = template.layers or tuple(self.index["text_encoder_select_layers"])
        return replace(template, layers=layers)

    def schedule(self, size: int | None = None) -> Schedule:
        """Its noise levels for pictures of `size` pixels, those of a distilled model alone."""
        shift = self._shift(((size or self.size) // _TOKEN) ** 2)
        return Schedule.rectified_flow(self.levels or 1000, shift=shift)

    def _shift(self, tokens: int) -> float:
        """How far noise levels are shifted for a picture of so many tokens."""
        given = self.scheduler
        if self.kind.pipeline in (_KLEIN, _FLUX2):
            from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

            return math.exp(compute_empirical_mu(tokens, self.steps))
        if not given.get("use_dynamic_shifting"):
            return float(given.get("shift", 1.0))
        if self.kind.pipeline == "Krea2Pipeline" and self.levels:
            return math.exp(_KREA_DISTILLED)
        low, high = (
            given.get(f"{end}_image_seq_len", n) for end, n in (("base", 256), ("max", 4096))
        )
        from_, to = (given.get(f"{end}_shift", n) for end, n in (("base", 0.5), ("max", 1.15)))
        mu = from_ + (to - from_) * (tokens - low) / (high - low)
        return mu if given.get("time_shift_type") == "linear" else math.exp(mu)


_TOKEN = 16
"""Pixels on a side of a picture for one token of it, in every family."""

KREA_LAYERS = tuple(range(2, 36, 3))
"""Layers that Krea 2 reads; a folder says them itself."""

_KREA_DISTILLED = 1.15
"""mu of a distilled Krea 2 at every size, as its pipeline has it."""

NAMES: Mapping[str, str] = {family.pipeline: family.name for family in FAMILIES}


def family_of(pipeline: str, width: int) -> Family | None:
    """The family of a pipeline whose language model is `width` wide."""
    found = [one for one in FAMILIES if one.pipeline == pipeline]
    return next((one for one in found if WIDTHS[one.key] == width), None)


def family_part(pipeline: str) -> str:
    """Where the language model of a pipeline lies in its folder."""
    return next(one.part for one in FAMILIES if one.pipeline == pipeline)
