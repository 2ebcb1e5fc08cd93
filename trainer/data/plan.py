"""What a dataset is to hold: settings, who is held out, and which picture is drawn how."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from apl_core.atomic import reason, write_text
from apl_core.errors import ConfigError, RunError
from apl_core.example_kinds import Kind
from apl_core.metadata import printable
from apl_core.texts import read_text

from ..metadata_jsonl import Split
from ..names import check_apart
from ..prompts import SLOT, PromptSource, generator, number
from ..sampling import Request
from ..settings import parse_json

SETTINGS = "settings.json"
_MANY = 100_000


@dataclass(frozen=True)
class GenerationSettings:
    """What decides how a picture comes out; a folder is only ever continued with the same."""

    model: str
    fingerprints: Mapping[str, str]
    book: str
    faces: str
    attributes: str
    negative: str
    seed: int
    steps: int
    guidance: float
    size: int
    batch: int
    reading: str = ""

    def remember(self, folder: Path) -> None:
        """Write `settings.json`, or compare with it; ConfigError names every difference."""
        path = folder / SETTINGS
        mine = json.loads(json.dumps(asdict(self)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_text(path, json.dumps(mine, indent=1, ensure_ascii=False) + "\n")
                return
            theirs: Any = parse_json(read_text(path))
        except OSError as error:
            raise RunError(f"write {printable(str(path))}", *reason(error)) from error
        except ValueError as error:
            raise ConfigError(
                f"read {printable(str(path))}", "it is broken", "choose another --out folder"
            ) from error
        theirs = theirs if isinstance(theirs, dict) else {}
        fix = "use the same settings, or another --out folder"
        problems = [
            ConfigError(
                f"go on in {printable(str(folder))}",
                f"{key} was {printable(str(theirs.get(key)), 80)!r}, "
                f"now it is {printable(str(value), 80)!r}",
                fix,
            )
            for key, value in mine.items()
            if theirs.get(key) != value
        ]
        if problems:
            raise ConfigError.of(f"go on in {printable(str(folder))}", problems)


@dataclass(frozen=True)
class Amounts:
    """How much is made: pictures a name, draws at most for them, general pictures a kind."""

    count: int = 12
    tries: int = 36
    things: int = 200
    people: int = 200
    heldout_share: float = 0.2

    def __post_init__(self) -> None:
        problems = [
            ConfigError(f"--{name}", f"{value} is not within {low} to {_MANY}", "choose another")
            for name, value, low in (
                ("count", self.count, 1),
                ("tries", self.tries, self.count),
                ("things", self.things, 0),
                ("people", self.people, 0),
            )
            if not low <= value <= _MANY
        ]
        if not 0 <= self.heldout_share <= 0.9:
            found = f"{self.heldout_share} is not within 0 to 0.9"
            problems.append(ConfigError("--heldout-share", found, "choose another"))
        if problems:
            raise ConfigError.of("plan a dataset", problems)


@dataclass(frozen=True)
class Task:
    """Pictures that are made one after the other: of one name, or some general ones."""

    kind: Kind
    label: str
    wanted: int
    tries: int
    split: Split
    source: Path | None = None
    caption: str = ""
    files: str = field(init=False)

    def __post_init__(self) -> None:
        named = self.kind == "identity" or self.source is not None
        object.__setattr__(self, "files", slug(self.label) if named else self.label)

    @property
    def key(self) -> str:
        """The task's name in the logs."""
        return f"{'given' if self.source else self.kind}/{self.label}"

    def template(self, settings: GenerationSettings, book: PromptSource, index: int) -> str:
        """The prompt of a picture, with `{}` where the name goes."""
        if self.source is not None:
            return self.caption
        random = generator(settings.seed, self.key, index)
        return book.named(random) if self.kind == "identity" else book.general(self.kind, random)

    def request(self, settings: GenerationSettings, book: PromptSource, index: int) -> Request:
        """The picture to draw at a place of this task."""
        prompt = self.template(settings, book, index)
        if self.kind == "identity":
            prompt = prompt.replace(SLOT, self.label)
        return Request(prompt, self.seed(settings, index), settings.negative)

    def seed(self, settings: GenerationSettings, index: int) -> int:
        """The seed of a picture's noise, whatever else is drawn."""
        return number(settings.seed, "noise", self.key, index) % 2**32

    def file(self, index: int) -> str:
        """Where a picture lies, below the dataset's folder."""
        return f"images/{self.kind}/{self.files}/{index:04d}.png"


def split_names(
    names: Sequence[str], heldout: Sequence[str] | None, share: float, seed: int
) -> dict[str, Split]:
    """Who is learned from and who only measured on; ConfigError if there are too few of them.

    Without a list of held-out names a share of all is drawn, the same whatever their order.
    """
    if heldout is not None:
        check_apart(names, heldout)
        held = set(heldout)
        names = [*names, *heldout]
    else:
        order = sorted(names, key=lambda name: (number(seed, "heldout", name), name))
        count = max(round(share * len(names)), 1) if share > 0 else 0
        held = set(order[:count])
    if len(names) < 2 or len(names) == len(held):
        found = "there is only one name" if len(names) < 2 else "every name is held out"
        raise ConfigError(
            "learn a prefix for anybody from names",
            found,
            "give several names to learn from, better 100 than 10, or `--names builtin`",
        )
    return {name: "heldout" if name in held else "train" for name in names}


def name_tasks(splits: Mapping[str, Split], amounts: Amounts, filtered: bool) -> list[Task]:
    """A task for each name; without a face filter the first pictures are as good as any."""
    tries = amounts.tries if filtered else amounts.count
    return [Task("identity", n, amounts.count, tries, split) for n, split in splits.items()]


def general_tasks(amounts: Amounts, batch: int, seed: int) -> list[Task]:
    """Tasks of `batch` general pictures; the share of held-out names holds for them as well."""
    tasks: list[Task] = []
    kinds: tuple[tuple[Kind, int], ...] = (("things", amounts.things), ("people", amounts.people))
    for kind, count in kinds:
        for start in range(0, count, batch):
            label, size = f"{start // batch:05d}", min(batch, count - start)
            split = drawn_split(amounts, seed, f"{kind}/{label}") if start else "train"
            tasks.append(Task(kind, label, size, size, split))  # never all of a kind held out
    return tasks


def drawn_split(amounts: Amounts, seed: int, label: str) -> Split:
    """The group of a general picture."""
    lot = number(seed, "split", label) / 2**48
    return "heldout" if lot < amounts.heldout_share else "train"


def slug(text: str) -> str:
    """A file name for any text: readable, in ASCII, and unlike that of any other text."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40]
    return f"{words or 'name'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
