"""`apl pocket build` and `apl pocket card`: whole worlds from other seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

from apl_core.errors import ConfigError
from apl_trainer.cli import arguments
from apl_trainer.cli.common import Verbs, load_model, verb


def add(inner: Verbs) -> None:
    """Add `build` and `card` to the verbs of `apl pocket`."""
    build = verb(
        inner,
        "build",
        run,
        "make a pocket world from a seed; killed and called again, it goes on",
        "apl pocket build --seed 1 --minutes 112 --out worlds/1",
    )
    build.add_argument(
        "--seed", type=arguments.seed, required=True, help="seed of people, names and weights"
    )
    build.add_argument(
        "--minutes", type=arguments.minutes, default=112.0, help="time to train, on one core"
    )
    build.add_argument("--out", type=arguments.out_folder, required=True, help="the model's folder")
    build.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="DIR",
        help="train the networks of this finished build of the same world for longer",
    )
    card = verb(
        inner,
        "card",
        run_card,
        "measure a pocket model without prefix and write its card",
        "apl pocket card --model worlds/1",
    )
    card.add_argument("--model", type=Path, required=True, help="the model's folder")


def run(given: argparse.Namespace) -> int:
    """Build a world."""
    import torch

    from .build import build

    torch.set_num_threads(1)
    if given.start is not None and (world := load_model(given.start).world.seed) != given.seed:
        raise ConfigError(
            f"build world {given.seed} from {given.start}",
            f"that is world {world}",
            f"give --seed {world}, or leave --from out",
        )
    build(given.out, given.seed, given.minutes, given.start)
    given.model = given.out
    return run_card(given)


def run_card(given: argparse.Namespace) -> int:
    """Measure a world."""
    from .card import write_card

    path = write_card(given.model)
    print(path.read_text(encoding="utf-8"))
    return 0
