"""Verbs that study the recipe on a pocket model: `apl bench recipe` and `apl bench name-left`."""

from __future__ import annotations

import argparse

from apl_trainer.cli import arguments
from apl_trainer.cli.common import Verbs, add_model, load_model, verb


def seeds(text: str) -> list[int]:
    """Training seeds with commas between."""
    return [arguments.run_seed(part) for part in text.split(",")]


def add_runs(verb: argparse.ArgumentParser) -> None:
    """The options of runs that are learned and measured."""
    verb.add_argument("--seeds", type=seeds, default=[0, 1, 2], help="training seeds (0,1,2)")
    verb.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting over the recipe"
    )
    add_workers(verb)


def add_snapshots(verb: argparse.ArgumentParser) -> None:
    """The options of runs that leave rows behind at every few steps."""
    verb.add_argument("--steps", type=arguments.steps, default=120, help="steps of a run")
    verb.add_argument(
        "--every", type=arguments.whole(1, 10_000), default=12, help="steps between snapshots"
    )
    verb.add_argument(
        "--names", type=arguments.whole(4, 64), default=64, help="names of a group to draw"
    )
    verb.add_argument(
        "--free", type=arguments.whole(4, 1000), default=96, help="name-free prompts of a kind"
    )


def add_workers(verb: argparse.ArgumentParser) -> None:
    """The option that says how many processes draw."""
    verb.add_argument("--workers", type=arguments.whole(1, 1024), help="processes that draw")


def workers(given: argparse.Namespace) -> int:
    """As many processes as were asked for, or as there are cores."""
    from apl_trainer.pocket.multiprocess import cores

    return cores() if given.workers is None else given.workers


def add_studies(inner: Verbs) -> None:
    """Add them."""
    recipe = verb(
        inner,
        "recipe",
        run_recipe,
        "what the recipe reaches on a pocket model over training seeds, and variants beside it",
        "apl bench recipe --seeds 0,1,2 --out bench/recipe",
    )
    add_model(recipe)
    add_runs(recipe)
    recipe.add_argument(
        "--variants",
        choices=("recipe", "stages", "scales"),
        default="recipe",
        help="the recipe; the text stage alone, first and not; embeddings 10 times shorter, longer",
    )
    recipe.add_argument(
        "--text-steps", type=arguments.steps, default=125, help="of the text stage (125)"
    )
    recipe.add_argument(
        "--out", type=arguments.out_folder, default="bench/recipe", help="folder for the figures"
    )
    left = verb(
        inner,
        "name-left",
        run_name_left,
        "is the measure without a recognizer right? Correlations on the pocket model",
        "apl bench name-left --out bench/name-left",
    )
    add_model(left)
    left.add_argument(
        "--seeds", type=arguments.seed, nargs="+", default=[0], help="runs of each are measured"
    )
    add_snapshots(left)
    left.add_argument(
        "--out", type=arguments.out_folder, default="bench/name-left", help="folder for the figures"
    )


def run_recipe(given: argparse.Namespace) -> int:
    """Run `bench recipe`."""
    from apl_core.training.config import TrainConfig
    from apl_trainer.cli.setting_flags import settings_of

    from .recipe import Variant, run, scales, stages

    config = TrainConfig.from_mapping(settings_of(given.set))
    variants = {
        "recipe": lambda: {"recipe": Variant(config)},
        "stages": lambda: stages(config, given.text_steps),
        "scales": lambda: scales(config),
    }[given.variants]()
    run(load_model(given.model), variants, given.seeds, given.out, workers(given), print)
    return 0


def run_name_left(given: argparse.Namespace) -> int:
    """Measure snapshots of runs with and without the recognizer."""
    from apl_core.training.config import TrainConfig
    from apl_trainer.pocket.multiprocess import cores

    from .name_left import Size, run

    size = Size(given.steps, given.every, given.names, given.free)
    run(load_model(given.model), TrainConfig(), given.seeds, size, given.out, cores(), print)
    return 0
