"""A folder of pictures (or latents) with `metadata.jsonl`: read, checked, encoded once, drawn from.

A row is a JSON object: `file_name` (a picture, or a .safetensors with a tensor `latent`), `text`
(the prompt that shows it), `kind` (identity, things or people); an identity row also has `name`,
which stands in its text, and may have `neutral`, the text with the name described away. No other
row names anybody who is named so. What `apl dataset` writes is read, with `file` and `prompt` for
the first two; rows with `split` "heldout" are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from apl_core.atomic import reason, write_bytes
from apl_core.captions import Names
from apl_core.errors import AplError, ConfigError
from apl_core.example_kinds import KINDS, Kind, Target
from apl_core.metadata import printable
from apl_core.objective import Example
from apl_core.texts import read_text
from apl_core.training.config import TrainConfig
from apl_core.training.parallel import Group

from ..models.vae import VaeLatents
from ..pictures import READING, read_picture
from ..settings import parse_json
from ..word_swap import other_gender

METADATA = "metadata.jsonl"
PERSON = "a person"
_SHOWN_FAULTS = 12
_OTHER_FACE = 0.5


@dataclass(frozen=True)
class TrainingRow:
    """One picture and what is said about it; `nameless` is its text without names."""

    file: Path
    text: str
    kind: Kind
    name: str = ""
    neutral: str = ""
    nameless: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What is said about the picture, with the name and without."""
        return self.text, self.neutral

    def example(self, latent: Tensor, target: Target) -> Example:
        """What the prefix learns of it; only name prompts have another target than themselves.

        A caption that tells a man or a woman brings the other one as contrast.
        """
        if self.kind != "identity":
            swapped = other_gender(self.text) if self.kind == "people" else ""
            contrast = swapped if swapped != self.text else ""
            return Example(self.kind, latent, self.text, self.text, contrast)
        texts: dict[Target, str] = {
            "empty": "",
            "description": self.neutral,
            "person": self.nameless,
        }
        return Example(self.kind, latent, self.text, texts[target])


def read_data(folder: Path, config: TrainConfig) -> tuple[TrainingRow, ...]:
    """The rows of a data folder; a ConfigError tells everything that is wrong with them."""
    asked = f"read the data in {printable(str(folder))}"
    path = folder / METADATA
    try:
        lines = read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(
            asked,
            f"{METADATA} is missing or unreadable ({printable(str(error), 80)})",
            "give a folder with pictures and a metadata.jsonl",
        ) from error
    rows: dict[int, TrainingRow] = {}
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found = _row(folder, line, config)
            if isinstance(found, TrainingRow):
                rows[number] = found
            elif found:
                faults.append(f"line {number} of {METADATA}: {found}")
    if not faults:
        everybody = Names([row.name for row in rows.values() if row.name] + heldout_names(folder))
        faults += _naming(rows, everybody, config)
        for kind in KINDS:
            if config.counts[kind] and not any(row.kind == kind for row in rows.values()):
                faults.append(f"there is no row of kind {kind} (or --set batch_{kind}=0)")
        for number, row in rows.items():
            if row.kind == "identity":
                rows[number] = replace(row, nameless=everybody.replaced(row.text, PERSON))
    refuse_all(asked, faults)
    return tuple(rows.values())


def _naming(
    rows: Mapping[int, TrainingRow], everybody: Names, config: TrainConfig
) -> Iterator[str]:
    """Texts that a prefix would learn to leave as they are, and that name somebody."""
    for number, row in rows.items():
        of_name = row.kind == "identity"
        kept = row.text if not of_name else row.neutral if config.target == "description" else ""
        for found in everybody.find(kept)[:1]:
            what = "its neutral text" if of_name else f"the text of a picture of {row.kind}"
            yield f"line {number} of {METADATA}: {what} names {printable(found.name, 60)!r}"


def heldout_names(folder: Path) -> list[str]:
    """Names that a readable data folder keeps to measure on, in its order."""
    names: dict[str, None] = {}
    for line in read_text(folder / METADATA).split("\n"):
        given = parse_json(line) if line.strip() else None
        if isinstance(given, dict) and given.get("split") == "heldout" and given.get("name"):
            names[str(given["name"])] = None
    return list(names)


def refuse_all(asked: str, faults: Sequence[str]) -> None:
    """Raise one ConfigError for all faults, the first dozen of them in words."""
    if faults:
        told = [
            ConfigError(asked, fault, f"correct it in {METADATA}")
            for fault in faults[:_SHOWN_FAULTS]
        ]
        if len(faults) > len(told):
            more = f"and {len(faults) - len(told)} more like these"
            told.append(ConfigError(asked, more, "correct these first"))
        raise ConfigError.of(asked, told)


def _row(folder: Path, line: str, config: TrainConfig) -> TrainingRow | str:
    """A row, or what is wrong with it; nothing is wrong with a held-out one, and it is no row."""
    try:
        given = parse_json(line)
    except ValueError:
        return "no JSON"
    if not isinstance(given, dict):
        return "no JSON object"
    if given.get("split") == "heldout":
        return ""
    fields: dict[str, str] = {}
    for key, old in (
        ("file_name", "file"),
        ("text", "prompt"),
        ("kind", ""),
        ("name", ""),
        ("neutral", ""),
    ):
        value = given.get(key, given.get(old, ""))
        if not isinstance(value, str):
            return f"{key} is not text"
        fields[key] = value.strip()
    kind, name, text = fields["kind"], fields["name"], fields["text"]
    if kind not in KINDS:
        return f"kind is {printable(kind, 40)!r}, expected {', '.join(KINDS)}"
    if not text:
        return "text, the picture's caption, is missing"
    if kind == "identity" and name and not Names([name]).find(text):
        return f"the name {printable(name, 60)!r} does not stand in its text"
    if kind == "identity" and not name and config.target == "person":
        return "name is missing"
    if kind == "identity" and config.target == "description" and not fields["neutral"]:
        return "neutral is missing (or --target person)"
    file = folder / fields["file_name"]
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        there = file.is_file()
    except (OSError, ValueError):  # a NUL, half a character, or a name that is too long
        inside = there = False
    if not fields["file_name"] or not inside:
        return "file_name is missing, is none, or leads out of the folder"
    if not there:
        return f"there is no file {printable(fields['file_name'], 80)}"
    return TrainingRow(file, text, kind, name, fields["neutral"])


class LatentCache:
    """Latents of pictures on disk, found again by picture, size, reader and VAE encoder.

    They are float32, so a run on kept latents is equal to one that encodes anew.
    """

    def __init__(self, folder: Path, latents: VaeLatents, size: int) -> None:
        self.port, self.size = latents, size
        self.folder = folder / f"{encoder_digest(latents.vae)}-{size}-{READING}"
        side = size // latents.pixels
        self.shape = (latents.channels, side, side)
        self._paths: dict[Path, Path] = {}
        self._held: dict[Path, Tensor] = {}

    def prepare(
        self, files: Sequence[Path], progress: Callable[[str, int, int], None], group: Group
    ) -> None:
        """Encode what is not there yet, shared out among processes; ConfigError for bad files."""
        unique = list(dict.fromkeys(files))
        faults: list[str] = []
        for done, place in enumerate(group.share(len(unique)), 1):
            try:
                self._encode(unique[place])
            except ValueError as error:
                faults.append(str(error))
            progress("latents", done, len(group.share(len(unique))))
        refuse_all("read the pictures", faults)

    def get(self, file: Path) -> Tensor:
        """The latent (C, h, w) of a picture that `prepare` was given."""
        if file not in self._held:
            if file.suffix == ".safetensors":
                self._held[file] = self._given(file)
            else:
                self._held[file] = _tensor(self._path(file))
        return self._held[file]

    def _path(self, file: Path) -> Path:
        if file not in self._paths:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:32]
            self._paths[file] = self.folder / f"{digest}.safetensors"
        return self._paths[file]

    def _encode(self, file: Path) -> None:
        if file.suffix == ".safetensors":
            self._given(file)
            return
        path = self._path(file)
        if path.is_file():
            return
        latent = self.port.encode(read_picture(file, self.size)[None])[0].cpu()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save({"latent": latent.contiguous()}))
        except OSError as error:
            raise AplError(f"keep latents in {self.folder}", *reason(error)) from error

    def _given(self, file: Path) -> Tensor:
        found = _tensor(file)
        if tuple(found.shape) != self.shape or not bool(torch.isfinite(found).all()):
            raise ValueError(f"{file.name} is {tuple(found.shape)}, not a latent of {self.shape}")
        return found.float()


def _tensor(path: Path) -> Tensor:
    try:
        opened: Any = safe_open(path, "pt")
        with opened as stream:
            return stream.get_tensor("latent")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} holds no latent ({printable(str(error), 80)})") from error


def encoder_digest(vae: nn.Module) -> str:
    """Sixteen hex digits of a VAE's weights on the way into latents."""
    state = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.")):
            state.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return state.hexdigest()[:16]


class DataSource:
    """Examples out of a data folder, chosen by the generator's state alone.

    In this project's recipe half of the name prompts are learned on the picture of somebody else,
    as they meet it while a picture is being drawn under the prefix.
    """

    def __init__(
        self, rows: Sequence[TrainingRow], latents: Callable[[Path], Tensor], config: TrainConfig
    ) -> None:
        self.by_kind: Mapping[str, list[TrainingRow]] = {
            kind: [row for row in rows if row.kind == kind] for kind in KINDS
        }
        self.latents = latents
        self.target: Any = config.target
        self.others = _OTHER_FACE if config.recipe != "paper" else 0.0

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind."""
        rows, faces = self.by_kind[kind], self.by_kind["people"]
        picks = torch.randint(len(rows), (count,), generator=random).tolist()
        other = (torch.rand(count, generator=random) < self.others).tolist()
        faced = torch.randint(max(len(faces), 1), (count,), generator=random).tolist()
        examples: list[Example] = []
        for pick, swap, face in zip(picks, other, faced, strict=True):
            swapped = kind == "identity" and swap and faces
            file = faces[face].file if swapped else rows[pick].file
            examples.append(rows[pick].example(self.latents(file), self.target))
        return examples
