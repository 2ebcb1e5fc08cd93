"""A training run on a pocket model: who is learned from, who decides, where it is written."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch

from apl_core.captions import alike
from apl_core.errors import ConfigError
from apl_core.example_kinds import Target
from apl_core.prefix import Prefix
from apl_core.training.callbacks import Callback, Control, phase_report
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer

from ..run_paths import BUILT_IN, read_origin, save_origin
from .model import WorldModel
from .source import PocketSource, training_people
from .validation import PocketPreviewer, pocket_validator
from .world import Person, World


@dataclass(frozen=True)
class PocketOrigin:
    """Where a run's model and names come from, kept beside its settings so that it can resume."""

    model: str
    names: tuple[str, ...] | None

    def save(self, folder: RunFolder) -> None:
        """Write `origin.json` into a run folder."""
        save_origin(folder, asdict(self), ("model",))

    @staticmethod
    def of(folder: RunFolder) -> PocketOrigin:
        """Read `origin.json`; RunError if it is missing or broken."""
        return read_origin(
            folder, ("model",), lambda data: PocketOrigin(str(data["model"]), data["names"])
        )


@dataclass(frozen=True)
class PocketRun:
    """A run on a pocket model that is loaded: as `CheckpointRun`, for the command line."""

    origin: PocketOrigin
    model: WorldModel
    compile: bool = False

    def load(self, say: Callable[[str], None]) -> WorldModel:
        """The run's model."""
        return self.model

    def trainer(
        self,
        model: WorldModel,
        config: TrainConfig,
        folder: RunFolder,
        callbacks: Sequence[Callback],
        control: Control,
        start: Prefix | None,
    ) -> Trainer:
        """A trainer of one thread: more are slower for networks this small."""
        torch.set_num_threads(1)
        return pocket_run(model, config, folder, self.origin, callbacks, control, start)

    def measured_by(self, prefix: Path) -> str:
        """The command that measures a prefix of this run."""
        model = "" if self.model.folder == BUILT_IN else f" --model {self.model.folder}"
        return f"apl pocket evaluate --prefix {prefix}{model}"


def chosen_people(world: World, names: Sequence[str] | None) -> list[Person]:
    """People to learn from: the train group, or those named; ConfigError names every misfit."""
    if names is None:
        return list(world.group("train"))
    by_name = {alike(p.name): p for p in world.people}
    problems: list[ConfigError] = []
    for name in names:
        person = by_name.get(alike(name))
        if person is None:
            near = difflib.get_close_matches(alike(name), by_name, 1)
            hint = (
                f"did you mean {by_name[near[0]].name}?" if near else "see the model's world.json"
            )
            problems.append(ConfigError(f"learn from {name!r}", "nobody has this name", hint))
        elif person.split != "train":
            problems.append(
                ConfigError(
                    f"learn from {name!r}",
                    "this person is held out for measuring",
                    "take the name off the list",
                )
            )
    if len(names) < 4:
        problems.append(
            ConfigError("learn from names", f"there are {len(names)}", "give 4 or more")
        )
    if problems:
        raise ConfigError.of("read the names", problems)
    return [by_name[alike(name)] for name in names]


def pocket_run(
    model: WorldModel,
    config: TrainConfig,
    folder: RunFolder,
    origin: PocketOrigin,
    callbacks: Sequence[Callback] = (),
    control: Control | None = None,
    start: Prefix | None = None,
) -> Trainer:
    """A trainer on a pocket model; an eighth of the people are kept for choosing the step."""
    people = chosen_people(model.world, origin.names)
    learned, validation = training_people(people)
    validator = previewer = None
    if config.validate_every:
        validator = pocket_validator(model, validation, phase_report(callbacks))
        previewer = PocketPreviewer(model, validation)
    source = PocketSource(model, learned, cast(Target, config.target), config.num_vectors)
    return Trainer(
        config,
        Model(model.encoder, model.denoiser, model.name),
        source,
        folder,
        validator=validator,
        previewer=previewer,
        callbacks=callbacks,
        control=control,
        start=start,
        names_trained=len(learned),
    )
