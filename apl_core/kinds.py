"""What tensors are by their names and shapes: vectors of an embedding, or parts of something else.

Trainers write one embedding in many spellings; which encoder a tensor is for is told by its width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from .errors import PrefixFileError
from .metadata import printable
from .prefix import FAMILIES, WIDTHS, check_count, describe

USE = "use a prefix that `apl train` wrote, or a textual inversion in safetensors"
BY_WIDTH = {
    WIDTHS[key]: key for key in ("clip_l", "clip_g", "clip_h", "pocket", "smollm2", "minilm")
}
"""Encoders that a width alone tells; a prefix for others names them."""

_OUTPUT = re.compile(r"(clip_[a-z]|emb_params|t5\w*|text_encoders?(_\d+)?)_[a-z]\w*")
_NUMBER = re.compile(r"_?([0-9]{1,4})(?=>?$)")

_LORA = (
    r"^(lora|lycoris)_\w+\.|[._](lora|loha|lokr|hada|dora|oft|boft|glora)_\w|lora\d*\.(up|down)\."
    r"|\.lora\.|:(up|down)$"
)
_PARTS = tuple(
    (what, re.compile(pattern, re.MULTILINE))
    for what, pattern in (
        ("a LoRA", _LORA),
        ("the state of an `apl train` run", r"^(rows|best|moments)\.\w+"),
        ("an SDXL checkpoint", r"^conditioner\.embedders\."),
        ("an SD 1.x or SD 2.x checkpoint", r"^cond_stage_model\."),
        ("a ControlNet", r"(^|\.)(control_model|controlnet|input_hint_block|controlnet_\w+)\."),
        ("an IP-Adapter", r"(^|\.)(ip_adapter|image_proj)\."),
        ("a motion module", r"(^|\.)motion_modules\."),
        ("a model of Stable Diffusion 3", r"(^|\.)joint_blocks\."),
        ("a model of Flux or one of its kin", r"(^|\.)(double|single)_(transformer_)?blocks\."),
        ("a diffusion model", r"(^|\.)((down|up|input|transformer)_blocks|diffusion_model)\."),
        ("a VAE", r"(^|\.)(first_stage_model|(en|de)coder\.(conv_in|mid|up|down))[._]"),
        ("a text encoder", r"(^|\.)(text_model|(token|position)_embedding|resblocks|shared)\."),
        ("a network's weights", r"\.(weight|bias|alpha|scale|running_mean)$"),
    )
)
_BUNDLED = re.compile(r"^bundle_emb\.([^.\n]*)", re.MULTILINE)


def what_it_is(names: Iterable[str]) -> str:
    """What a file with tensors of these names is, e.g. "a LoRA"; empty if nothing is known."""
    lines = "\n".join(name.replace("\n", " ") for name in names)
    found = next((what for what, pattern in _PARTS if pattern.search(lines)), "")
    if (bundled := _BUNDLED.search(lines)) is None:
        return found
    return f"{found or 'a bundle'} with the embedding {printable(bundled[1], 40)!r} bundled in"


def find_vectors(
    shapes: Mapping[str, tuple[int, ...]], choice: str | None = None
) -> dict[str, tuple[str, ...]]:
    """Encoder -> names of the tensors whose rows, one after another, are its vectors.

    `shapes` are all tensors of a file; `choice` names one of several embeddings. PrefixFileError
    says what else the file is: half an embedding, several ones, a LoRA.
    """
    if what := what_it_is(shapes):
        raise _no(f"this is {what}, not a prefix", USE)
    grouped = _by_encoder(shapes)
    several = f"it holds {_listed(shapes)}"
    if choice is not None and choice not in shapes:
        raise _no(f"{several}, and none is called {printable(choice, 40)!r}", "name one of them")
    if set(grouped) == {"clip_g"}:
        half = "it holds clip_g (1280) alone, which is one half of an SDXL embedding"
        raise _no(half, "choose another file, with both clip_l and clip_g")
    if frozenset(grouped) not in FAMILIES:
        both = describe({key: WIDTHS[key] for key in grouped})
        raise _no(f"{several}, for encoders that no model has together {both}", USE)
    if choice is not None:
        if len(grouped) > 1:
            raise _no(f"{several}, which belong together", "leave --placeholder out")
        return {key: (choice,) for key in grouped}
    parts = {key: _in_order(names) for key, names in grouped.items()}
    if len({len(names) for names in parts.values()}) > 1 or not all(parts.values()):
        tokens = ", ".join(repr(printable(name, 40)) for name in list(shapes)[:8])
        choose = "choose one with `apl convert IN OUT --placeholder NAME`"
        raise _no(f"it holds embeddings for different tokens: {tokens}", choose)
    return parts


def check_vectors(
    shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, Sequence[str]]
) -> None:
    """PrefixFileError if the tensors that `find_vectors` named have too many rows, or none."""
    for parts in names.values():
        check_count(sum(shapes[name][0] if len(shapes[name]) == 2 else 1 for name in parts))


def _by_encoder(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """The names by the encoder whose width their tensors have."""
    grouped: dict[str, list[str]] = {}
    if not shapes:
        raise _no("it holds nothing (0 tensors), no prefix", USE)
    for name, shape in shapes.items():
        width = shape[-1] if len(shape) in (1, 2) else 0
        key = name if name in WIDTHS else BY_WIDTH.get(width)
        said = f"its tensor {printable(name, 40)!r} is {'x'.join(map(str, shape)) or 'a scalar'}"
        if _OUTPUT.fullmatch(name):
            fix = "use an embedding without an output part"
            raise _no(f"{said}, to be added behind the text encoder: no prefix", fix)
        if key is None:
            known = ", ".join(f"{name} {width}" for width, name in BY_WIDTH.items())
            raise _no(f"it holds {_listed(shapes)}; {said}, no known encoder's ({known})", USE)
        if width != WIDTHS[key]:
            raise _no(f"{said}, expected (n, {WIDTHS[key]})", USE)
        grouped.setdefault(key, []).append(name)
    return grouped


def _in_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names by their numbers if they are parts of one (<s0> <s1>, x x_1 x_2), else nothing."""
    numbers: dict[int, str] = {}
    for name in names:
        number = _NUMBER.search(name)
        numbers[int(number[1]) if number else 0] = name
    first = min(numbers)
    whole = first < 2 and sorted(numbers) == list(range(first, first + len(names)))
    if len(names) > 1 and not (whole and len({_NUMBER.sub("", name) for name in names}) == 1):
        return ()
    return tuple(numbers[number] for number in sorted(numbers))


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    some = ", ".join(printable(name, 40) for name in every[:5]) + ", ..." * (len(every) > 5)
    return f"{some} ({len(every)} tensor{'s' * (len(every) != 1)})"


def _no(found: str, fix: str) -> PrefixFileError:
    return PrefixFileError("find the vectors of a prefix", found, fix)
