"""Builds a member of the zoo: its people's names, its captions' states, and its painter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apl_core.atomic import write_text
from apl_core.errors import AplError, ConfigError
from apl_trainer.models.unet import UnetDenoiser
from apl_trainer.pocket.model import WorldModel, load_pocket
from apl_trainer.pocket.world import World, invented_names

from ..pocket_build.build import halved
from ..pocket_build.timed_trainer import TimedTrainer
from .material import COUNTS, Counts, Lesson, Texts, lesson, states
from .members import CLIP_UNET, Member, member
from .own import OwnTexts, ReadingTexts, TrainedStates
from .painter import begin_as, matrices, only, painter_loss
from .people import ordinary_names, renamed
from .places import Place

_RATE = 1e-3
_READING = 0.1  # of the time, for text encoders of a member's own, before there is a painter
TEXT, PAINTER = "texts", "painter"
_TOLD = "member.json"
VOCABULARIES = "vocabularies"
"""Folder of the vocabularies of a member's own text encoders."""


def build(name: str, out: Path, minutes: float, seed: int, counts: Counts = COUNTS) -> None:
    """Make a member in `out`; killed and called again, it goes on where it was."""
    if name == CLIP_UNET:
        out.mkdir(parents=True, exist_ok=True)
        _tell(out, {"member": name})
        return
    chosen, teacher = member(name), load_pocket()
    work = out / "build"
    work.mkdir(parents=True, exist_ok=True)
    found = lesson(teacher, names_of(chosen, teacher.world), work, counts)
    taught = states(teacher.encoder, [*found.taught, ""], work / "taught")
    torch.manual_seed(seed)
    network, texts, left = nn.ModuleDict(), chosen.encoder, 60 * minutes
    if isinstance(texts, OwnTexts):
        network[TEXT], read = _taught_to_read(texts, found, teacher.world, out, left * _READING)
        left -= left * _READING
    else:
        read = states(texts("tokens"), [*found.own, ""], work)
    denoiser = chosen.denoiser()
    network[PAINTER] = only(denoiser)
    if isinstance(denoiser, UnetDenoiser):
        begin_as(denoiser, teacher.denoiser.unet)
    trainer = TimedTrainer(PAINTER, network, work, left, _RATE, matrices=matrices(network))
    trainer.run(painter_loss(denoiser, teacher, found, read, taught))
    weights = {key.removeprefix(f"{PAINTER}."): w for key, w in network.state_dict().items()}
    save_file(packed(weights), out / "model.safetensors")
    _tell(out, {"member": name, "seed": seed, "minutes": minutes})


def _tell(out: Path, what: Mapping[str, object]) -> None:
    write_text(out / _TOLD, json.dumps(what) + "\n")


def _taught_to_read(
    texts: OwnTexts, found: Lesson, world: World, out: Path, seconds: float
) -> tuple[nn.ModuleDict, Texts]:
    """A member's own text encoders after `seconds` of reading, and states of a lesson's captions.

    A painter that was begun takes them along, so that behind it none are read with again.
    """
    work, folder = out / "build", out / VOCABULARIES
    if not folder.exists():
        made = work / folder.name
        made.mkdir(exist_ok=True)
        if texts.vocabularies is not None:
            texts.vocabularies([*found.own, *invented_names(world.seed, 3000) * 4], made)
        made.replace(folder)
    networks = texts.networks(folder)
    ports = texts.ports(networks, folder)
    if not (work / f"{PAINTER}.safetensors").exists():
        reading = ReadingTexts(networks, ports[0], world)
        trained = matrices(reading)
        stage = TimedTrainer("reading", reading, work, seconds, _RATE, matrices=trained)
        stage.run(reading.loss())
    return networks.requires_grad_(True), TrainedStates(ports, [*found.own, ""])


def names_of(chosen: Member, world: World) -> tuple[str, ...]:
    """Ordinary names where the text encoder has read such before; the world's own where not."""
    if isinstance(chosen.encoder, OwnTexts):
        return tuple(person.name for person in world.people)
    return ordinary_names(world)


_SCALE = ".scale"  # behind a matrix's name: what its rows of bytes are counted in


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as a member's file has them: matrices in bytes with a scale a row, others halved."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.dim() > 1:
            places = tuple(range(1, value.dim()))
            scale = value.abs().amax(places, keepdim=True).clamp_min(1e-8) / 127
            found[key], found[key + _SCALE] = (value / scale).round().to(torch.int8), scale
        else:
            found[key] = value
    return halved(found)


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32 of a file as `packed` makes it, or of an older one in float16."""
    one = torch.ones(1)
    return {
        key: value.float() * stored.get(key + _SCALE, one).float()
        for key, value in stored.items()
        if not key.endswith(_SCALE)
    }


def _name(folder: Path) -> str | None:
    file = folder / _TOLD
    return json.loads(file.read_text(encoding="utf-8"))["member"] if file.is_file() else None


@dataclass(frozen=True)
class Loader:
    """Loads members with a prefix's rows in one place; workers take it along.

    `edited` is a file of weights to put over a member's own.
    """

    place: Place = "tokens"
    edited: Path | None = None

    def __call__(self, folder: Path) -> WorldModel:
        """A member that was built; AplError if it is not finished."""
        name = _name(folder)
        if name == CLIP_UNET:
            self._tokens_only(name)
            return replace(load_pocket(), folder=folder)
        missing = [n for n in (_TOLD, "model.safetensors") if not (folder / n).is_file()]
        if name is None or missing:
            raise AplError(
                f"load the member of the zoo in {folder}",
                f"{', '.join(missing)} is missing",
                f"build it: apl zoo build {folder.name} --models {folder.parent}",
            )
        chosen, teacher = member(name), load_pocket()
        denoiser, texts = chosen.denoiser(), chosen.encoder
        weights = unpacked(load_file(folder / "model.safetensors"))
        if self.edited is not None:
            weights |= load_file(self.edited)
        if isinstance(texts, OwnTexts):
            self._tokens_only(name)
            own = texts.networks(folder / VOCABULARIES).eval().requires_grad_(False)
            known = [key for key in weights if key.startswith(f"{TEXT}.")]
            own.load_state_dict({key.removeprefix(f"{TEXT}."): weights.pop(key) for key in known})
            encoder = texts.ports(own, folder / VOCABULARIES)[-1]
        else:
            encoder = texts(self.place)
        only(denoiser).load_state_dict(weights)
        only(denoiser).eval().requires_grad_(False)
        world = renamed(teacher.world, names_of(chosen, teacher.world))
        return WorldModel(folder, world, encoder, denoiser, teacher.recognizer)

    def _tokens_only(self, name: str) -> None:
        if self.place != "tokens":
            raise ConfigError(
                f"put rows of {name} at {self.place!r}",
                "only frozen text encoders of the zoo have other places for rows",
                "use --rows tokens",
            )
