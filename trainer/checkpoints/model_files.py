"""What a file of a model holds, as ComfyUI's users have them; told by names and shapes, no torch.

A transformer's file alone is no model: `needed` says which files have to stand beside it. A file
that holds a whole model brings some of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from apl_core.errors import AplError
from apl_core.families import TABLE
from apl_core.metadata import printable

Shapes = Mapping[str, tuple[int, ...]]

MARKS: Mapping[str, str] = {
    "SD 3.5": "joint_blocks.0.",
    "Flux.2": "single_stream_modulation.lin",
    "Chroma": "distilled_guidance_layer.",
    "Flux.1": "double_blocks.0.",
    "Krea 2": "txtfusion.",
    "Qwen-Image": "txt_norm.weight",
    "Z-Image": "cap_pad_token",
    "Lumina 2": "cap_embedder.",
}
"""How names in a transformer's file begin, in the order in which they are asked for: kin have marks
in common."""

NETWORK = ("model.diffusion_model.", "transformer.")
"""What stands in front of a transformer's names in some files."""

TEXTS, _VAES = "text_encoders.", ("vae.", "first_stage_model.")
"""How the names of other parts begin, where a file holds a whole model."""

INSIDE = ("spiece_model", "tekken_model")
"""What a text encoder's file calls a tokenizer that it brings: sentencepiece's or Mistral's."""

_CAPTIONS = "cap_embedder.0.weight"
_READS: Mapping[str, tuple[str, Mapping[int, str]]] = {
    "Flux.2": (
        "txt_in.weight",
        {3 * 2560: "Flux.2 Klein 4B", 3 * 4096: "Flux.2 Klein 9B", 3 * 5120: "Flux.2 dev"},
    ),
    "Z-Image": (_CAPTIONS, {2560: "Z-Image"}),
    "Lumina 2": (_CAPTIONS, {2304: "Lumina 2"}),
}
"""Where a transformer reads the states of its text encoder, and which family is so wide there."""

_CLIPS = {768: "clip_l", 1280: "clip_g"}

TEXT, VAE, TOKENIZER = "Text encoder", "VAE", "Tokenizer"
"""What a piece is."""

_TEXTS = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "t5xxl": "t5xxl_fp16",
    "qwen3_4b": "qwen_3_4b",
    "qwen3_8b": "qwen_3_8b",
    "qwen25_7b": "qwen_2.5_vl_7b",
    "qwen3vl_4b": "qwen3vl_4b",
    "gemma2_2b": "gemma_2_2b_fp16",
    "mistral3_24b": "mistral_3_small_flux2_bf16",
}
_LANGUAGE = {
    (2560, True, False): "qwen3_4b",
    (4096, True, False): "qwen3_8b",
    (3584, False, True): "qwen25_7b",
    (3584, False, False): "qwen25_7b",
    (2560, True, True): "qwen3vl_4b",
    (2304, False, False): "gemma2_2b",
    (5120, False, False): "mistral3_24b",
    (5120, False, True): "mistral3_24b",
}
"""By width, whether queries are normed, and whether pictures are seen."""

_WIDE_VAES = {"Qwen-Image": "qwen_image_vae", "Krea 2": "qwen_image_vae", "Flux.2": "flux2-vae"}
_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Piece:
    """A file or folder that a transformer needs beside it; `name` as ComfyUI's files have it.

    `kind` is what `kind_of_file` or `kind_of_folder` says of one that can be taken.
    """

    what: str
    name: str
    kind: str

    @property
    def label(self) -> str:
        """For a list to choose from."""
        return f"{self.what}: {self.name}"


def shapes_of(path: Path) -> Shapes:
    """Names and shapes of a safetensors file, {} of one that cannot be read."""
    found: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(path, framework="numpy") as stream:
            for name in stream.keys():  # noqa: SIM118
                found[name] = tuple(stream.get_slice(name).get_shape())
    except (SafetensorError, OSError, ValueError):
        return {}
    return found


def bare(name: str) -> str:
    """A transformer's name without what stands in front of all of them."""
    for prefix in NETWORK:
        name = name.removeprefix(prefix)
    return name


def transformer_of(names: Iterable[str]) -> str | None:
    """The family of a transformer by the names in its file, "Flux.2" for all of Flux.2."""
    found = [bare(name) for name in names]
    return next(
        (name for name, mark in MARKS.items() if any(one.startswith(mark) for one in found)), None
    )


def text_key(shapes: Shapes) -> str | None:
    """The key of a text encoder by its weights, None for what is none."""
    if "shared.weight" in shapes or "encoder.embed_tokens.weight" in shapes:
        return "t5xxl"
    if any(name.startswith("text_model.") for name in shapes):
        table = next((s for n, s in shapes.items() if n.endswith("token_embedding.weight")), (0, 0))
        return _CLIPS.get(table[-1])
    plain = {language_name(name): shape for name, shape in shapes.items()}
    width = plain.get("embed_tokens.weight", (0, 0))[-1]
    normed = "layers.0.self_attn.q_norm.weight" in plain
    sees = any("visual." in name or "vision_" in name for name in shapes)
    return _LANGUAGE.get((width, normed, sees))


def language_name(name: str) -> str:
    """A language model's name without what stands in front of it in some files."""
    return name.removeprefix("model.").removeprefix("language_model.")


def kind_of_file(path: Path) -> str:
    """What a file may be taken for: the key of a text encoder, a VAE's kind, or nothing."""
    shapes = shapes_of(path)
    if transformer_of(shapes) is not None:
        return ""
    if "bn.running_mean" in shapes:
        return _vae_kind("Flux.2")
    first = next((shapes[n] for n in ("decoder.conv_in.weight", "conv2.weight") if n in shapes), ())
    if len(first) == 5:
        return _vae_kind("Qwen-Image")
    if len(first) == 4 and first[1] == 16:
        return _vae_kind("")
    return text_key(shapes) or ""


def kind_of_folder(path: Path) -> str:
    """What tokenizer a folder holds: T5's, a language model's, or nothing of use."""
    try:
        said = json.loads((path / _CONFIG).read_bytes())
        kind = str(said.get("tokenizer_class"))
    except (OSError, ValueError, RecursionError, AttributeError):
        return ""
    if kind.startswith(("CLIP", "Bert", "ByT5", "Llama", "Gemma")):
        return ""
    return _tokenizer_kind("t5xxl" if kind.startswith("T5") else "qwen")


def needed(path: Path, shapes: Shapes | None = None) -> tuple[str, list[Piece]] | None:
    """(family, what has to stand beside it) of a transformer's file; None for other files.

    Nothing has to beside a file that brings all. `shapes` are the file's, if they are read already.
    AplError for a transformer that no prefix of a prompt can be learned on.
    """
    shapes = shapes_of(path) if shapes is None else shapes
    name = _family(shapes)
    if name is None:
        return None
    refuse_edits(path)
    keys = next(family.encoders for family in TABLE if family.name == name)
    brought = texts_inside(shapes)
    pieces = [Piece(TEXT, f"{_TEXTS[key]}.safetensors", key) for key in keys if key not in brought]
    if not vae_inside(shapes):
        vae = "SD 3.5's own" if name == "SD 3.5" else f"{_usual_vae(name)}.safetensors"
        pieces.append(Piece(VAE, vae, _vae_kind(name)))
    if keys[-1] not in ("gemma2_2b", "mistral3_24b"):  # whose own files bring it
        words = "t5_tokenizer" if "t5xxl" in keys else "qwen25_tokenizer"
        pieces.append(Piece(TOKENIZER, f"comfy/text_encoders/{words}", _tokenizer_kind(keys[-1])))
    return name, pieces


def texts_inside(shapes: Shapes) -> Mapping[str, str]:
    """How the names of each text encoder in a whole model's file begin, by its key."""
    begin = dict.fromkeys(
        name.partition(_IN_TEXTS)[0] + _IN_TEXTS
        for name in shapes
        if name.startswith(TEXTS) and _IN_TEXTS in name
    )
    keys = {
        text_key({n.removeprefix(one): s for n, s in shapes.items() if n.startswith(one)}): one
        for one in begin
    }
    return {key: one for key, one in keys.items() if key is not None}


def vae_inside(shapes: Shapes) -> str:
    """How the names of the VAE in a whole model's file begin, "" for a file without one."""
    return next((one for one in _VAES if any(name.startswith(one) for name in shapes)), "")


_IN_TEXTS = ".transformer."


def _family(shapes: Shapes) -> str | None:
    """The family of the transformer in a file, if a prefix can be for it."""
    name, sizes = transformer_of(shapes), {bare(n): shape for n, shape in shapes.items()}
    if name is None or name not in _READS:
        return name
    where, families = _READS[name]
    return families.get(sizes.get(where, (0,))[-1])


def refuse_edits(path: Path) -> None:
    """AplError for a transformer whose name says that it edits pictures."""
    if "edit" in path.name.lower():
        raise AplError(
            f"read the checkpoint {printable(str(path))}",
            "its name says that it edits pictures: a face in them comes from there, and no prefix "
            "of a prompt reaches it",
            "give the model that draws from a prompt alone",
        )


def _usual_vae(family: str) -> str:
    return next((vae for start, vae in _WIDE_VAES.items() if family.startswith(start)), "ae")


def _vae_kind(family: str) -> str:
    return f"{VAE} {_usual_vae(family)}"


def _tokenizer_kind(key: str) -> str:
    return f"{TOKENIZER} {'t5' if key == 't5xxl' else 'qwen'}"
