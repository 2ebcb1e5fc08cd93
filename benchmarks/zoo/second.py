"""A second recognizer, which reads final figures again: a vision transformer (arXiv 2010.11929).

The first is a convolutional network. The two have nothing in common but the renders that they
learned from, so that what is said of a prefix does not hang on one network's blind spots.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ViTConfig, ViTModel

from apl_core.errors import AplError
from apl_trainer.pocket.recognizer import Reader, Reading
from apl_trainer.pocket.world import World

from ..pocket_build.build import draw_once, halved
from ..pocket_build.dataset import invent
from ..pocket_build.losses import recognizer_loss
from ..pocket_build.timed_trainer import TimedTrainer

NAME = "second-recognizer.safetensors"
COUNTS = (64, 11_000, 9_000)
"""Renders of each person, of people without a name, and of things."""

_WIDTH, _RATE = 96, 1e-3


class SecondRecognizer(Reader):
    """Four layers of attention over the 64 patches of a picture (B, 3, 32, 32) in [0, 1]."""

    def __init__(self, people: int) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=2 * _WIDTH,
            image_size=32,
            patch_size=4,
        )
        self.body = ViTModel(config, add_pooling_layer=False)
        self.add_heads(_WIDTH, people)

    def forward(self, pictures: Tensor) -> Reading:
        """What is seen, as the first recognizer says it."""
        return self.read(self.body(pixel_values=pictures * 2 - 1).last_hidden_state.mean(1))


def build(
    world: World, folder: Path, minutes: float, counts: tuple[int, int, int] = COUNTS
) -> SecondRecognizer:
    """Train it on renders of its own; killed and called again, it goes on where it was."""
    work = folder / "build"
    work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([world.seed, 91])
    per_person, anonymous, things = counts
    some = (per_person * len(world.people), anonymous, things)
    subjects = invent(world, world.people, some, rng)
    pictures = draw_once(subjects, work / "second-pictures.safetensors", rng)
    torch.manual_seed(world.seed)
    network = SecondRecognizer(len(world.people))
    loss_of = recognizer_loss(network, pictures, subjects.labels())
    TimedTrainer("second", network, work, 60 * minutes, _RATE).run(loss_of)
    save_file(halved(network.state_dict()), folder / NAME)
    return load(world, folder)


def load(world: World, folder: Path) -> SecondRecognizer:
    """The trained one in a folder, frozen; AplError if there is none."""
    if not is_built(folder):
        raise AplError(
            f"load the second recognizer in {folder}",
            f"there is no {NAME}",
            f"build it: apl zoo recognizer --models {folder}",
        )
    network = SecondRecognizer(len(world.people))
    weights = load_file(folder / NAME)
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    return network.eval().requires_grad_(False)


def is_built(folder: Path) -> bool:
    """Whether there is one in a folder."""
    return (folder / NAME).is_file()
