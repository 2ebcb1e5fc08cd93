"""`apl pocket train`: a prefix for a pocket model."""

from __future__ import annotations

import argparse

from .common import Verbs, add_model, pocket_of, verb
from .setting_flags import settings_from
from .training import add_training, begin


def add(verbs: Verbs) -> None:
    """Add `pocket train`."""
    train = verb(
        verbs,
        "train",
        run,
        "learn a prefix for a pocket model into a run folder",
        "apl pocket train --out runs/mine",
    )
    add_model(train)
    add_training(train, "print the settings and stop")


def run(given: argparse.Namespace) -> int:
    """Learn a prefix from the beginning."""
    from apl_core.training.config import TrainConfig

    from ..names import read_names
    from ..pocket.train import PocketOrigin, PocketRun, chosen_people

    config = TrainConfig.from_mapping(settings_from(given))
    names = None if given.names is None else read_names(given.names)
    model = pocket_of(given)
    if given.dry_run:
        print(config.to_toml(), end="")
        return 0
    chosen_people(model.world, names)
    return begin(given, config, PocketRun(PocketOrigin(str(model.folder), names), model))
