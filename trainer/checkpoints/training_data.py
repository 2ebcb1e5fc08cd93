"""A dataset's folder as a training reads it: checked, encoded once, drawn from.

An identity picture's name stands in its text, and no other picture's text names anybody who is
named so. Held-out rows are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from apl_core.atomic import reason, write_bytes
from apl_core.captions import Names, alike
from apl_core.errors import AplError
from apl_core.example_kinds import KINDS, PERSON, Kind, Target
from apl_core.metadata import printable
from apl_core.objective import Example
from apl_core.training.config import TrainConfig
from apl_core.training.material import Material, Picture
from apl_core.training.parallel import Group
from apl_core.training.people import ListedPerson

from ..metadata_jsonl import CaptionedPicture, numbered_rows, refuse_all, refuse_lines
from ..models.vae import VaeLatents
from ..pictures import READING, read_picture
from ..word_swap import other_gender


def material_of(
    rows: Sequence[CaptionedPicture],
    people: Sequence[ListedPerson],
    latents: Callable[[str], Tensor],
    target: Target,
) -> Material:
    """A user's pictures as the learner takes them; captions that tell a man or a woman bring the
    other one as contrast.

    Captions that name somebody else too, held out or not, are not learned as they are.
    """
    listed = {alike(person.name): person for person in people}

    def picture(row: CaptionedPicture) -> Picture:
        if row.kind == "identity":
            neutral, person = neutral_of(row, target), listed.get(alike(row.name))
            alone = Names([row.name]).replaced(row.text, PERSON) == row.nameless
            return Picture(row.kind, row.text, person, neutral, own=alone)
        swapped = other_gender(row.text) if row.kind == "people" else ""
        contrast = swapped if swapped != row.text else ""
        return Picture(row.kind, row.text, contrast=contrast, own=True)

    files = [row.file_name for row in rows]
    return Material([picture(row) for row in rows], lambda place: latents(files[place]))


def neutral_of(row: CaptionedPicture, target: Target) -> str:
    """What the text of an identity picture is drawn to."""
    texts: dict[Target, str] = {"empty": "", "description": row.neutral, "person": row.nameless}
    return texts[target]


def read_data(folder: Path, config: TrainConfig) -> tuple[CaptionedPicture, ...]:
    """The rows to learn from, without held-out ones; a ConfigError tells all that is wrong."""
    asked = f"read the data in {printable(str(folder))}"
    everything = numbered_rows(folder)
    rows = {number: row for number, row in everything.items() if row.split != "heldout"}
    faults = {n: fault for n, row in rows.items() if (fault := _fault(folder, row, config))}
    refuse_lines(asked, faults)
    everybody = Names([row.name for row in everything.values() if row.name])
    refuse_lines(asked, dict(_naming(rows, everybody, config)))
    lacking = [
        f"there is no row of kind {kind} (or --set batch_{kind}=0)"
        for kind in KINDS
        if config.counts[kind] and not any(row.kind == kind for row in rows.values())
    ]
    refuse_all(asked, lacking)
    return tuple(
        replace(row, nameless=everybody.replaced(row.text, PERSON))
        if row.kind == "identity"
        else row
        for row in rows.values()
    )


def _naming(
    rows: Mapping[int, CaptionedPicture], everybody: Names, config: TrainConfig
) -> Iterator[tuple[int, str]]:
    """Texts that a prefix would learn to leave as they are, and that name somebody."""
    for number, row in rows.items():
        of_name = row.kind == "identity"
        kept = row.text if not of_name else row.neutral if config.target == "description" else ""
        for found in everybody.find(kept)[:1]:
            what = "its neutral text" if of_name else f"the text of a picture of {row.kind}"
            yield number, f"{what} names {printable(found.name, 60)!r}"


def heldout_names(folder: Path) -> list[str]:
    """Names that a data folder keeps to measure on, in its order."""
    rows = numbered_rows(folder).values()
    return list(dict.fromkeys(row.name for row in rows if row.split == "heldout" and row.name))


def _fault(folder: Path, row: CaptionedPicture, config: TrainConfig) -> str:
    """What keeps a training from using a row."""
    if row.kind == "identity":
        if row.name and not Names([row.name]).find(row.text):
            return f"the name {printable(row.name, 60)!r} does not stand in its text"
        if not row.name and config.target == "person":
            return "name is missing"
        if config.target == "description" and not row.neutral:
            return "neutral is missing (or --target person)"
    file = folder / row.file_name
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        there = file.is_file()
    except (OSError, ValueError):  # half a character, or a name that is too long
        inside = there = False
    if not inside:
        return "file_name leads out of the folder, or is none"
    return "" if there else f"there is no file {printable(row.file_name, 80)}"


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


class PlainSource:
    """Examples as the paper's recipe takes them: each picture with its own text.

    `latents` gives a picture's latent (C, h, w) by its `file_name`.
    """

    def __init__(
        self, rows: Sequence[CaptionedPicture], latents: Callable[[str], Tensor], target: Target
    ) -> None:
        self.by_kind: Mapping[str, list[CaptionedPicture]] = {
            kind: [row for row in rows if row.kind == kind] for kind in KINDS
        }
        self.latents = latents
        self.target: Target = target

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind, chosen by the generator's state alone."""
        rows = self.by_kind[kind]
        picks = torch.randint(len(rows), (count,), generator=random).tolist()
        return [
            Example(
                kind,
                self.latents(rows[i].file_name),
                rows[i].text,
                rows[i].text if kind != "identity" else neutral_of(rows[i], self.target),
            )
            for i in picks
        ]
