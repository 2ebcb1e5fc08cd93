"""A run that loads the text encoders of a checkpoint and nothing else: learned on texts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from apl_core.prefix import Prefix
from apl_core.training.callbacks import Callback, Control
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.learner import learner
from apl_core.training.loop import Model, Trainer
from apl_core.training.material import Material, pictures_to_draw

from .load import load_texts
from .loaded import Encoder
from .presets import TrainingSetup
from .safetensors_index import sound
from .train import CheckpointOrigin


@dataclass(frozen=True)
class TextRun:
    """A run of the text stage: no denoiser, no VAE, no picture, and so nothing that measures."""

    origin: CheckpointOrigin
    setup: TrainingSetup

    @property
    def compile(self) -> bool:
        """Whether torch.compile builds kernels: there is no denoiser to build them for."""
        return False

    def load(self, say: Callable[[str], None]) -> Encoder:
        """The text encoders, frozen, on the run's device."""
        found = self.setup.info
        say(f"{found.sentence}; the text encoders alone")
        with sound(found.path):
            return load_texts(found, self.origin.options(self.setup))

    def trainer(
        self,
        model: Encoder,
        config: TrainConfig,
        folder: RunFolder,
        callbacks: Sequence[Callback] = (),
        control: Control | None = None,
        start: Prefix | None = None,
    ) -> Trainer:
        """A trainer of the text stage."""
        found, people = self.setup.info, self.origin.people
        model.check(person.name for person in people)
        pictures = pictures_to_draw(people, self.origin.per_name, config.seed)
        return learner(
            config,
            Model(model, None, found.path.stem, found.card_family),
            Material(pictures, lambda _: torch.zeros(1, 1, 1)),
            people,
            folder,
            callbacks=callbacks,
            control=control,
            start=start,
        )

    def measured_by(self, prefix: Path) -> str:
        """The command that measures a prefix of this run."""
        return self.origin.measured_by(prefix)
