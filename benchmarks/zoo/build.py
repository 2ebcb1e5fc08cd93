"""Builds a member of the zoo: its people's names, its captions' states, and its painter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apl_core.atomic import write_text
from apl_core.errors import AplError
from apl_trainer.pocket.model import WorldModel, load_pocket

from ..pocket_build.build import halved
from ..pocket_build.timed_trainer import TimedTrainer
from .material import COUNTS, Counts, lesson, states
from .members import member
from .painter import matrices, painter_loss
from .people import ordinary_names, renamed
from .places import Place

_RATE = 1e-3


def build(name: str, out: Path, minutes: float, seed: int, counts: Counts = COUNTS) -> None:
    """Make a member in `out`; killed and called again, it goes on where it was."""
    chosen, teacher = member(name), load_pocket()
    work = out / "build"
    work.mkdir(parents=True, exist_ok=True)
    found = lesson(teacher, ordinary_names(teacher.world), work, counts)
    read = states(chosen.encoder("tokens"), [*found.own, ""], work)
    torch.manual_seed(seed)
    denoiser = chosen.denoiser()
    network = denoiser.network
    trainer = TimedTrainer(
        "painter", network, work, 60 * minutes, _RATE, matrices=matrices(network)
    )
    trainer.run(painter_loss(denoiser, teacher, found, read))
    save_file(packed(network.state_dict()), out / "model.safetensors")
    told = {"member": name, "seed": seed, "minutes": minutes}
    write_text(out / "member.json", json.dumps(told) + "\n")


_SCALE = ".scale"  # behind a matrix's name: what its rows of bytes are counted in


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as a member's file has them: matrices in bytes with a scale a row, others halved."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.dim() == 2:
            scale = value.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
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


@dataclass(frozen=True)
class Loader:
    """Loads members with a prefix's rows in one place; workers take it along.

    `edited` is a file of weights to put over a member's own.
    """

    place: Place = "tokens"
    edited: Path | None = None

    def __call__(self, folder: Path) -> WorldModel:
        """A member that was built; AplError if it is not finished."""
        missing = [n for n in ("member.json", "model.safetensors") if not (folder / n).is_file()]
        if missing:
            raise AplError(
                f"load the member of the zoo in {folder}",
                f"{', '.join(missing)} is missing",
                f"build it: apl zoo build {folder.name} --models {folder.parent}",
            )
        told = json.loads((folder / "member.json").read_text(encoding="utf-8"))
        chosen, teacher = member(told["member"]), load_pocket()
        denoiser = chosen.denoiser()
        weights = unpacked(load_file(folder / "model.safetensors"))
        if self.edited is not None:
            weights |= load_file(self.edited)
        denoiser.network.load_state_dict(weights)
        denoiser.network.eval().requires_grad_(False)
        return WorldModel(
            folder,
            renamed(teacher.world, ordinary_names(teacher.world)),
            chosen.encoder(self.place),
            denoiser,
            teacher.recognizer,
        )
