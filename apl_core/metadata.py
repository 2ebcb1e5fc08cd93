"""What a prefix file says about itself: the card, and its flat form in safetensors metadata."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from .errors import PrefixFileError

FORMAT_VERSION = 1
MODELSPEC_VERSION = "1.0.1"
ARCHITECTURES: Mapping[frozenset[str], str] = MappingProxyType(
    {
        frozenset({"clip_l"}): "stable-diffusion-v1",
        frozenset({"clip_h"}): "stable-diffusion-v2-512",
        frozenset({"clip_l", "clip_g"}): "stable-diffusion-xl-v1-base",
        frozenset({"pocket"}): "apl-pocket-v1",
    }
)
"""ModelSpec architecture of the checkpoints with these text encoders."""

_TEXTS = {
    "title": "modelspec.title",
    "author": "modelspec.author",
    "description": "modelspec.description",
    "date": "modelspec.date",
    "base_model": "apl.base_model",
    "recipe": "apl.recipe",
    "family": "apl.family",
}
CARD_KEYS = frozenset(_TEXTS.values())
"""The metadata that a card's texts are read from."""

_COUNTS = {"steps": "apl.steps", "seed": "apl.seed", "names_trained": "apl.names_trained"}
_FINGERPRINT = "apl.fingerprint."
_INTEGER = re.compile(r"-?[0-9]{1,20}")


@dataclass(frozen=True)
class PrefixCard:
    """Facts about a prefix; empty text and None mean "not said". Never holds a trained name.

    `family` is the kind of model that it was learned through, e.g. "Z-Image": one text encoder
    serves several, which read other layers of it.
    """

    title: str = ""
    author: str = ""
    description: str = ""
    date: str = ""
    base_model: str = ""
    recipe: str = ""
    family: str = ""
    steps: int | None = None
    seed: int | None = None
    names_trained: int | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict[str, str])
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        figures = {name: float(value) for name, value in self.figures.items()}
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if wrong:
            raise _unreadable("figures", f"{wrong[0]!r} is not a finite number")
        object.__setattr__(self, "figures", MappingProxyType(figures))
        object.__setattr__(self, "fingerprints", MappingProxyType(dict(self.fingerprints)))

    def __reduce__(self) -> tuple[object, ...]:
        texts = [getattr(self, name) for name in (*_TEXTS, *_COUNTS)]
        rest = (dict(self.fingerprints), dict(self.figures), self.format_version)
        return PrefixCard, (*texts, *rest)


def to_metadata(
    card: PrefixCard, *, keys: Iterable[str], behind: int, tensors_sha256: str
) -> dict[str, str]:
    """The flat metadata of a file with these encoders; `tensors_sha256` as ModelSpec defines it."""
    architecture = ARCHITECTURES.get(frozenset(keys), "unknown")
    flat = {
        "modelspec.sai_model_spec": MODELSPEC_VERSION,
        "modelspec.architecture": f"{architecture}/textual-inversion",
        "modelspec.implementation": "diffusers",
        "modelspec.hash_sha256": f"0x{tensors_sha256}",
        "modelspec.title": card.title,
        "apl.format": str(card.format_version),
        "apl.behind": str(behind),
        "apl.stands": "bracket" if behind else "front",
    }
    for name, key in _TEXTS.items():
        if value := getattr(card, name):
            flat[key] = value
    for name, key in _COUNTS.items():
        if (value := getattr(card, name)) is not None:
            flat[key] = str(value)
    flat.update({_FINGERPRINT + key: value for key, value in card.fingerprints.items()})
    if card.figures:
        flat["apl.figures"] = json.dumps(dict(card.figures), ensure_ascii=False, allow_nan=False)
    return flat


def from_metadata(flat: Mapping[str, str]) -> tuple[PrefixCard, int]:
    """(card, behind) of a file; unknown keys are ignored, unreadable values PrefixFileErrors."""
    version = _integer(flat, "apl.format")
    if version is not None and version != FORMAT_VERSION:
        raise PrefixFileError(
            "read the metadata",
            f"the file has format {version}, this version knows format {FORMAT_VERSION}",
            "update APL Prefix",
        )
    texts = {name: flat.get(key, "") for name, key in _TEXTS.items()}
    counts = {name: _integer(flat, key) for name, key in _COUNTS.items()}
    fingerprints = {
        key[len(_FINGERPRINT) :]: value
        for key, value in flat.items()
        if key.startswith(_FINGERPRINT)
    }
    card = PrefixCard(
        **cast("dict[str, Any]", texts | counts),
        fingerprints=fingerprints,
        figures=_figures(flat.get("apl.figures", "{}")),
    )
    return card, _integer(flat, "apl.behind") or 0


_MEASURED = {
    "name_left": "Left of a name",
    "drift_things": "Changed without a name, things",
    "drift_people": "Changed without a name, people",
    "swap": "Words turned into another",
    "names_known": "Names that the model knows, of those measured",
}
"""Figures of a prefix's validation (`training.validation`) in words; their `_off` go with them."""


def plain_words(card: PrefixCard) -> str:
    """The card as lines of plain words, safe to print; escape it before it goes into HTML."""
    lines = {
        "Title": card.title,
        "Author": card.author,
        "Date": card.date,
        "About": card.description,
        "Trained on": card.base_model,
        "Learned through": card.family,
        "Recipe": card.recipe,
        "Steps": card.steps,
        "Seed": card.seed,
        "Names in training": card.names_trained,
        **{f"Encoder {key}": value for key, value in card.fingerprints.items()},
        **_measured(card.figures),
    }
    said = [
        (printable(label), printable(str(v))) for label, v in lines.items() if v not in ("", None)
    ]
    return "\n".join(f"{label}: {value}" for label, value in said) or "The file says nothing more."


def _measured(figures: Mapping[str, float]) -> dict[str, str]:
    """Lines of a validation's figures with their intervals, and of others as they are."""
    lines: dict[str, str] = {}
    for name, value in figures.items():
        if name in _MEASURED:
            off = figures.get(f"{name}_off")
            lines[_MEASURED[name]] = f"{value:.1%}" + (f" ± {off:.1%}" if off is not None else "")
        elif name.removesuffix("_off") not in _MEASURED:
            lines[f"Figure {name}"] = f"{value:.6g}"
    if "name_left" in figures:
        lines["Measured"] = "by the denoiser, on names not learned from; no face recognizer looked"
    return lines


def printable(text: str, limit: int = 600) -> str:
    """`text` on one line without control and invisible characters, cut after `limit` of them."""
    text = " ".join(text[: 4 * limit].split())
    kept = "".join(c for c in text if unicodedata.category(c)[0] != "C")
    return kept if len(kept) <= limit else kept[:limit] + "…"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` for json that refuses a key that comes twice (ValueError)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def _integer(flat: Mapping[str, str], key: str) -> int | None:
    if key not in flat:
        return None
    if not _INTEGER.fullmatch(flat[key]):
        raise _unreadable(key, f"{printable(flat[key], 40)!r} is not a whole number")
    return int(flat[key])


def _figures(text: str) -> dict[str, float]:
    try:
        values = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise _unreadable("apl.figures", "it is not valid JSON") from error
    if not isinstance(values, dict):
        raise _unreadable("apl.figures", "it is not a table of numbers")
    figures: dict[str, float] = {}
    for name, value in cast("dict[str, object]", values).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unreadable("apl.figures", f"{printable(name, 40)!r} is not a number")
        try:
            figures[name] = float(value)
        except OverflowError as error:
            raise _unreadable("apl.figures", f"{printable(name, 40)!r} is too large") from error
    return figures


def _unreadable(key: str, found: str) -> PrefixFileError:
    return PrefixFileError(
        f"read the metadata {key}", found, "use the file as `apl train` wrote it"
    )
