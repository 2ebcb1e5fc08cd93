# pyright: reportMissingImports=false
"""The node that draws one prompt twice, without and with a prefix, and puts both side by side."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import nodes
import torch
from comfy_api.latest import io
from torch import Tensor

from apl_core.errors import HostError
from apl_core.prefix import Prefix

from . import clips
from .nodes_prefix import CATEGORY, PrefixType, connected, found_by

BOTH = "Left: the prompt as it is. Right: the same prompt and seed with the prefix."
ONE = (
    "This server enforces a prefix, so there is no picture without it: all three outputs are the "
    "one anonymized picture."
)
SIZES = {"min": 64, "max": 8192, "step": 16}


class BeforeAfter(io.ComfyNode):
    """One prompt without and with a prefix."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        samplers = comfy.samplers.KSampler
        return io.Schema(
            node_id="APL_BeforeAfter",
            display_name="APL Before and After",
            category=CATEGORY,
            **found_by("compare", "side by side", "preview"),
            description="Draws one prompt twice with the same seed, without and with the prefix, "
            "and puts both pictures side by side. The left one is NOT anonymized.",
            inputs=[
                io.Model.Input("model", tooltip="The model to draw with."),
                io.Clip.Input("clip", tooltip="Its CLIP, without a prefix; it is not changed."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                PrefixType.Input("prefix", tooltip="The prefix; it has to fit the model."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt of both pictures.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    tooltip="The negative prompt of both pictures; without the prefix in both. It "
                    "does nothing at a CFG of 1.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="The noise of both pictures.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Steps of sampling."),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance, as your model wants it: 1 for distilled ones (Turbo, Klein)."
                    " Below 1 the negative prompt would draw, so that is not offered.",
                ),
                io.Combo.Input(
                    "sampler_name", options=samplers.SAMPLERS, tooltip="As in KSampler."
                ),
                io.Combo.Input("scheduler", options=samplers.SCHEDULERS, tooltip="As in KSampler."),
                io.Int.Input("width", default=1024, tooltip="Pixels of each picture.", **SIZES),
                io.Int.Input("height", default=1024, tooltip="Pixels of each picture.", **SIZES),
            ],
            outputs=[
                io.Image.Output(
                    "both", display_name="side by side", tooltip="Left without, right with it."
                ),
                io.Image.Output("before", display_name="before", tooltip="Without the prefix."),
                io.Image.Output("after", display_name="after", tooltip="With the prefix."),
                io.String.Output("text", display_name="text", tooltip="What is to be seen."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        prefix: Prefix,
        prompt: str,
        negative: str,
        width: int,
        height: int,
        **sampling: Any,
    ) -> io.NodeOutput:
        """Both pictures; the anonymized one alone where a prefix is enforced."""
        prefixed = clips.apply_prefix(clip, connected(prefix))
        enforced = clips.enforces(clip)
        if prefixed is clip and not enforced:
            raise HostError(
                "draw a picture without the prefix",
                "the connected CLIP has this prefix already",
                "connect the CLIP of the checkpoint, in front of APL Apply Prefix",
            )
        pushed = clips.encode(clip, negative)

        def drawn(by: Any) -> Tensor:
            latent = nodes.EmptyLatentImage().generate(width, height)[0]
            positive = clips.encode(by, prompt)
            (sampled,) = nodes.common_ksampler(
                model, positive=positive, negative=pushed, latent=latent, **sampling
            )
            return nodes.VAEDecode().decode(vae, sampled)[0]

        after = drawn(prefixed)
        if enforced:
            return io.NodeOutput(after, after, after, ONE)
        before = drawn(clip)
        return io.NodeOutput(torch.cat([before, after], dim=2), before, after, BOTH)
