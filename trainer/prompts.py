"""Which prompts the pictures of a dataset are made from: the project's own lists, or a user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from apl_core.errors import ConfigError
from apl_core.metadata import printable
from apl_core.texts import decoded

from .names import read_names

LISTS = Path(__file__).with_name("lists")
General = Literal["things", "people"]
SLOT = "{}"
_MAX_BYTES = 4 * 1024 * 1024


class PromptSource(Protocol):
    """Makes prompts; the same generator gives the same prompt."""

    @property
    def negative(self) -> str:
        """What is kept out of every picture."""
        ...

    @property
    def digest(self) -> str:
        """Tells books apart that make other prompts."""
        ...

    def named(self, random: np.random.Generator) -> str:
        """A prompt with `{}` where the name goes."""
        ...

    def general(self, kind: General, random: np.random.Generator) -> str:
        """A prompt that names nobody."""
        ...


@dataclass(frozen=True)
class ListPrompts:
    """Prompts put together from lists; `whole` lists prompts that are taken as they are."""

    lists: Mapping[str, Mapping[str, Sequence[str]]]
    negative: str
    whole: Mapping[str, Sequence[str]]

    @property
    def digest(self) -> str:
        """SHA-256 of all lists, shortened."""
        told = repr(
            [
                sorted((k, sorted(v.items())) for k, v in self.lists.items()),
                sorted(self.whole.items()),
            ]
        )
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def named(self, random: np.random.Generator) -> str:
        """A template; half of the time with a scene behind it."""
        if "identity" in self.whole:
            return _pick(self.whole["identity"], random)
        template = _pick(self.lists["identity"]["templates"], random)
        scene = _pick(self.lists["identity"]["scenes"], random)
        return f"{template} {scene}" if random.random() < 0.5 else template

    def general(self, kind: General, random: np.random.Generator) -> str:
        """A subject in a template; people do something, things are somewhere."""
        if kind in self.whole:
            return _pick(self.whole[kind], random)
        lists = self.lists[kind]
        parts = [_pick(lists["subjects"], random)]
        if kind == "people":
            parts[0] += _pick(lists["features"], random)
            parts.append(_pick(lists["doings"], random))
        else:
            parts.append(_pick(lists["places"], random))
        return _pick(lists["templates"], random).replace(SLOT, " ".join(p for p in parts if p))


def built_in_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The project's own public figures: (to learn from, held out)."""
    return read_names(LISTS / "names-train.txt"), read_names(LISTS / "names-heldout.txt")


def list_book(
    templates: Path | None = None, things: Path | None = None, people: Path | None = None
) -> ListPrompts:
    """The project's lists, or a user's files with one prompt a line in their place."""
    raw = json.loads((LISTS / "prompts.json").read_text(encoding="utf-8"))
    whole: dict[str, Sequence[str]] = {}
    for kind, path in (("identity", templates), ("things", things), ("people", people)):
        if path is not None:
            whole[kind] = _lines(path)
    slotless = [line for line in whole.get("identity", ()) if line.count(SLOT) != 1]
    if slotless:
        raise ConfigError(
            f"read the templates in {printable(str(templates))}",
            f"{printable(slotless[0], 80)!r} does not hold {SLOT} once",
            "write {} where the name goes",
        )
    lists = {kind: raw[kind] for kind in ("identity", "people", "things")}
    return ListPrompts(lists, raw["negative"], whole)


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """A generator for one purpose: nothing to save, nothing that depends on an order."""
    return np.random.default_rng(number(seed, *purpose))


def number(seed: int, *purpose: object) -> int:
    """A number of 48 bits for one purpose."""
    told = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:6], "big")


def _pick(options: Sequence[str], random: np.random.Generator) -> str:
    return options[int(random.integers(len(options)))]


def _lines(path: Path) -> list[str]:
    asked = f"read the prompts in {printable(str(path))}"
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        text = decoded(data)
    except (OSError, ValueError) as error:
        raise ConfigError(asked, printable(str(error), 120), "give a UTF-8 text file") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or len(data) > _MAX_BYTES:
        found = "there is no prompt in it" if not lines else "it is larger than 4 MiB"
        raise ConfigError(asked, found, "write one prompt a line")
    return lines
