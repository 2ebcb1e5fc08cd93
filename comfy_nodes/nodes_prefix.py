# pyright: reportMissingImports=false
"""The nodes that use a prefix: load it, look at it, put it into a CLIP, encode a text with it."""

from __future__ import annotations

import hashlib
from typing import Any

from comfy_api.latest import io, ui

from apl_core.errors import AplError, HostError
from apl_core.prefix import Prefix

from . import clips
from .files import library
from .info_text import card, norms

PrefixType = io.Custom("APL_PREFIX")
CATEGORY = "APL"
ALIASES = ("anonymize", "anonymous", "face", "privacy", "celebrity", "identity", "prompt prefix")


def found_by(*words: str) -> dict[str, list[str]]:
    """More words under which the page's search finds a node, where the host has such a list."""
    knows = "search_aliases" in getattr(io.Schema, "__dataclass_fields__", {})
    return {"search_aliases": [*words, *ALIASES]} if knows else {}


class LoadPrefix(io.ComfyNode):
    """A prefix from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="APL_LoadPrefix",
            display_name="APL Load Prefix",
            category=CATEGORY,
            **found_by("load prefix"),
            description="Loads an anonymization prefix from models/apl.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=library().names(),
                    tooltip="A .safetensors file in models/apl or an extra model path named apl: a "
                    "prefix, or a textual inversion.",
                )
            ],
            outputs=[
                PrefixType.Output("prefix", display_name="prefix", tooltip="The prefix."),
                io.String.Output("card", display_name="card", tooltip="What the file says."),
            ],
            hidden=[io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool:
        """True; LibraryError or PrefixFileError for a file that cannot be read.

        ComfyUI's page shows what is raised here at once, and hides a sentence that is returned.
        None comes from a link.
        """
        if file is not None:
            library().load(file)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str | float:
        """The hash of the file, so that a replaced file is read anew; NaN (always) for a link."""
        if file is None:
            return float("nan")
        return hashlib.sha256(library().resolve(file).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """The prefix and its card; pictures are told the digest of what was read here."""
        prefix = library().load(file)
        said = cls.hidden.extra_pnginfo if cls.hidden else None
        noted = said.get("apl_prefixes") if isinstance(said, dict) else None
        if isinstance(noted, dict) and file in noted:  # the file was replaced while it was queued
            noted[file] = prefix.short_digest
        return io.NodeOutput(prefix, card(prefix))


class PrefixInfo(io.ComfyNode):
    """A prefix in plain words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="APL_PrefixInfo",
            display_name="APL Prefix Info",
            category=CATEGORY,
            **found_by("prefix card"),
            description="Shows what a prefix is, what its file says of it, and whether it fits.",
            inputs=[
                PrefixType.Input("prefix", tooltip="The prefix to look at."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="A CLIP to compare with: does the prefix fit?"
                ),
            ],
            outputs=[io.String.Output("text", display_name="text", tooltip="The same as text.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, prefix: Prefix, clip: Any = None) -> io.NodeOutput:
        """The card, shown on the node."""
        text = card(connected(prefix))
        if clip is not None:
            try:
                text += f"\n{clips.fit(clip, prefix).sentence}\n{norms(prefix, clips.tables(clip))}"
            except AplError as error:  # here a misfit is the answer, not a failure
                text += f"\n{error}"
        return io.NodeOutput(text, ui=ui.PreviewText(text))


class ApplyPrefix(io.ComfyNode):
    """A CLIP that prefixes every text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="APL_ApplyPrefix",
            display_name="APL Apply Prefix",
            category=CATEGORY,
            **found_by("clip", "text encoder"),
            description="Returns a CLIP with which every text is anonymized, in every chunk. Use "
            "it for the positive prompt, and for a negative one that can draw (CFG below 1). An "
            "empty text stays as it is.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of your checkpoint; it is not changed."),
                PrefixType.Input("prefix", tooltip="The prefix; it has to fit the checkpoint."),
            ],
            outputs=[
                io.Clip.Output(
                    "prefixed_clip",
                    display_name="CLIP",
                    tooltip="The CLIP for the positive prompt, with any text encode node.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, prefix: Prefix) -> io.NodeOutput:
        """The patched copy."""
        return io.NodeOutput(clips.apply_prefix(clip, connected(prefix)))


class PrefixConditioning(io.ComfyNode):
    """A text as conditioning, with the prefix in place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="APL_PrefixConditioning",
            display_name="APL Prefix Conditioning",
            category=CATEGORY,
            **found_by("prompt", "encode text"),
            description="What CLIP Text Encode does, with an anonymization prefix in every chunk.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of your checkpoint; it is not changed."),
                PrefixType.Input("prefix", tooltip="The prefix; it has to fit the checkpoint."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The positive prompt. Weights and embeddings work as everywhere.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Share of the sampling after which the prefix begins; before it the "
                    "prompt is NOT anonymized. Leave it at 0 to be protected throughout.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Share of the sampling after which the prefix ends; after it the "
                    "prompt is NOT anonymized. Leave it at 1 to be protected throughout.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="CONDITIONING",
                    tooltip="For the positive input of a sampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, prefix: Prefix, text: str, start: float = 0.0, end: float = 1.0
    ) -> io.NodeOutput:
        """The conditioning; the plain text outside the range of steps."""
        if start >= end:
            raise HostError(
                f"anonymize the steps from {start:g} to {end:g}",
                "there is none in this range",
                "choose a start below the end",
            )
        prefixed = clips.encode(clips.apply_prefix(clip, connected(prefix)), text)
        if (start, end) == (0.0, 1.0):
            return io.NodeOutput(prefixed)
        plain = clips.encode(clip, text)
        parts = [*_during(plain, 0.0, start), *_during(prefixed, start, end)]
        return io.NodeOutput([*parts, *_during(plain, end, 1.0)])


def connected(prefix: Prefix | None) -> Prefix:
    """The prefix; HostError if the input carries none (a bypassed or muted node)."""
    if isinstance(prefix, Prefix):
        return prefix
    raise HostError(
        "use a prefix",
        "the input carries no prefix",
        "connect APL Load Prefix or APL Train Prefix, and see that it is not bypassed",
    )


def _during(conditioning: clips.Conditioning, start: float, end: float) -> clips.Conditioning:
    """The conditioning for a part of the sampling, as ComfyUI writes it down; [] for none."""
    if start >= end:
        return []
    when = {"start_percent": start, "end_percent": end}
    return [[states, {**facts, **when}] for states, facts in conditioning]
