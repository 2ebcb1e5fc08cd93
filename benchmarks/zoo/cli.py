"""`apl zoo`: members to list, build and measure prefixes on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import ConfigError
from apl_trainer.cli import arguments
from apl_trainer.cli.common import Verbs, verb

from ..studies_cli import add_runs, add_snapshots, add_workers, workers

if TYPE_CHECKING:
    from apl_core.prefix import Rows
    from apl_trainer.pocket.model import WorldModel

BUILT = Path(__file__).parent / "weights"
"""Members that the repository holds."""


def add(verbs: Verbs) -> None:
    """Add `zoo` with its own verbs."""
    zoo = verbs.add_parser("zoo", help="small models with real, frozen text encoders, to judge on")
    inner = zoo.add_subparsers(metavar="VERB", required=True)
    listed = verb(inner, "list", run_list, "the members, and what they draw", "apl zoo list")
    _add_models(listed)
    build = verb(
        inner,
        "build",
        run_build,
        "make a member; killed and called again, it goes on",
        "apl zoo build smollm-dit --minutes 60",
    )
    _add_member(build)
    build.add_argument("--seed", type=arguments.seed, default=0, help="seed of its weights")
    build.add_argument(
        "--minutes", type=arguments.minutes, default=60.0, help="time to train, on one core"
    )
    add_workers(build)
    second = verb(
        inner,
        "recognizer",
        run_recognizer,
        "make the second recognizer, which reads the figures of `apl zoo bench` again",
        "apl zoo recognizer --minutes 20",
    )
    second.add_argument(
        "--minutes", type=arguments.minutes, default=20.0, help="time to train, on one core"
    )
    _add_models(second)
    bench = verb(
        inner,
        "bench",
        run_bench,
        "learn a prefix on members with one recipe and count who is recognized",
        "apl zoo bench smollm-dit --seeds 0,1,2 --out bench/zoo",
    )
    bench.add_argument("names", nargs="*", help="members (all that are built)")
    add_runs(bench)
    bench.add_argument(
        "--rows",
        choices=("tokens", "hidden", "layers", "behind"),
        default="tokens",
        help="among the tokens of the text; hidden from the denoiser; at four depths; behind",
    )
    bench.add_argument(
        "--eraser", action="store_true", help="measure the closed-form eraser as well"
    )
    bench.add_argument(
        "--out", type=arguments.out_folder, default="bench/zoo", help="folder for the figures"
    )
    _add_models(bench)

    left = verb(
        inner,
        "name-left",
        run_name_left,
        "is the measure without a recognizer right? Correlations on a member",
        "apl zoo name-left minilm-dit --out bench/zoo-name-left",
    )
    _add_member(left)
    add_snapshots(left)
    add_workers(left)
    left.add_argument(
        "--out", type=arguments.out_folder, default="bench/zoo-name-left", help="folder"
    )
    start = verb(
        inner,
        "starts",
        run_starts,
        "what rows of random words and of prompts do before anything is learned",
        "apl zoo starts smollm-dit",
    )
    _add_member(start)
    where = verb(
        inner,
        "where",
        run_where,
        "where a name lives in what the denoiser reads, and whose names a prefix leaves",
        "apl zoo where t5-mmdit --prefix my-prefix.safetensors",
    )
    _add_member(where)
    where.add_argument("--prefix", type=Path, required=True, help="the prefix that is in place")
    kinds = verb(
        inner,
        "kinds",
        run_kinds,
        "who is recognized in prompts as people really type them",
        "apl zoo kinds minilm-dit --prefix my-prefix.safetensors",
    )
    _add_member(kinds)
    kinds.add_argument("--prefix", type=Path, required=True, help="the prefix that is in place")
    kinds.add_argument("--names", type=arguments.whole(2, 64), default=64, help="held-out names")
    add_workers(kinds)
    attack = verb(
        inner,
        "attack",
        run_attack,
        "how many steps of a search bring a held-out person back past a prefix, or an eraser",
        "apl zoo attack minilm-dit --prefix my-prefix.safetensors --search words",
    )
    _add_member(attack)
    attack.add_argument("--prefix", type=Path, help="the prefix that is in place")
    attack.add_argument(
        "--erased", type=Path, metavar="FILE", help="weights that `bench --eraser` has written"
    )
    attack.add_argument(
        "--search",
        choices=("rows", "words"),
        default="rows",
        help="for rows (textual inversion), or for words of the vocabulary (greedy)",
    )
    attack.add_argument("--people", type=arguments.whole(1, 64), default=8, help="held-out people")
    attack.add_argument("--steps", type=arguments.steps, default=200, help="most steps of each")
    attack.add_argument(
        "--every", type=arguments.whole(1, 1000), default=20, help="steps between two looks"
    )


def _add_member(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the member")
    _add_models(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, default=BUILT, help="folder of the built members")


def run_list(given: argparse.Namespace) -> int:
    """Print the members."""
    from apl_trainer.report.page import Table

    from .card import missed, read_card
    from .members import ABOUT

    rows: list[list[str]] = []
    for name, told in ABOUT.items():
        card = read_card(given.models / name)
        lacking = ", ".join(missed(card))
        fit = "not built" if not card else f"misses {lacking}" if lacking else "may judge"
        rows.append([name, *told, fit])
    print(Table("", "", ("member", "stands for", "what it is", ""), rows).text())
    return 0


def run_build(given: argparse.Namespace) -> int:
    """Build a member and measure it."""
    import torch

    from .build import build
    from .card import missed, write_card

    torch.set_num_threads(1)
    folder = given.models / given.name
    build(given.name, folder, given.minutes, given.seed)
    card = write_card(folder, workers(given))
    for key, value in card.items():
        print(f"{key}: {100 * value:.1f} %")
    if lacking := missed(card):
        print(f"It may not judge a prefix yet: {', '.join(lacking)}. Give it more --minutes.")
    return 0


def run_recognizer(given: argparse.Namespace) -> int:
    """Build the second recognizer, and say how often it is right."""
    import torch

    from apl_trainer.pocket.model import load_pocket

    from ..pocket_build.card import read_renders
    from .second import build

    torch.set_num_threads(1)
    world = load_pocket().world
    found = read_renders(build(world, given.models, given.minutes), world)
    print("Right on renders that it never saw, percent:")
    print(", ".join(f"{head} {mean.percent()}" for head, mean in found.items()))
    return 0


def run_bench(given: argparse.Namespace) -> int:
    """Learn and measure on members."""
    from apl_core.training.config import TrainConfig
    from apl_trainer.cli.setting_flags import settings_of

    from ..recipe import Variant, run
    from .build import Loader
    from .card import read_card
    from .members import ABOUT
    from .second import is_built
    from .second import load as load_second

    built = [name for name in ABOUT if read_card(given.models / name)]
    if lacking := [name for name in given.names if name not in built]:
        raise ConfigError(
            f"bench {', '.join(lacking)}",
            f"built in {given.models}: {', '.join(built) or 'none'}",
            f"build it: apl zoo build {lacking[0]}",
        )
    variants = {"recipe": Variant(TrainConfig.from_mapping(settings_of(given.set)))}
    for name in given.names or built:
        print(name)
        load = Loader(given.rows)
        model, out = load(given.models / name), given.out / name / given.rows
        again = load_second(model.world, given.models) if is_built(given.models) else None
        run(model, variants, given.seeds, out, workers(given), print, load, again)
        if given.eraser:
            from .eraser import measured

            found = measured(model, given.out / name / "eraser", workers(given), again)
            seconds = found.pop("seconds")
            print(f"eraser, {seconds:.0f} s:", {k: round(100 * v, 1) for k, v in found.items()})
    return 0


def run_name_left(given: argparse.Namespace) -> int:
    """Measure snapshots of runs on a member with and without the recognizer."""
    from apl_core.training.config import TrainConfig

    from ..name_left import Size, run
    from .build import Loader

    load, size = Loader(), Size(given.steps, given.every, given.names, given.free)
    model = load(given.models / given.name)
    run(model, TrainConfig(), [0], size, given.out / given.name, workers(given), print, load)
    return 0


def run_starts(given: argparse.Namespace) -> int:
    """Measure rows as they are before learning."""
    import torch

    from .starts import measure

    torch.set_num_threads(1)
    print(measure(given.models / given.name).text())
    return 0


def run_where(given: argparse.Namespace) -> int:
    """Measure parts of what a denoiser reads, and groups of names."""
    import torch

    from apl_core.formats import read_prefix

    from .build import Loader
    from .where import measure

    torch.set_num_threads(1)
    model, rows = Loader()(given.models / given.name), read_prefix(given.prefix).rows()
    for table in measure(model, rows):
        print(f"{table.title}\n{table.about}\n{table.text()}\n", flush=True)
    return 0


def run_kinds(given: argparse.Namespace) -> int:
    """Draw held-out people in every kind of prompt."""
    from apl_core.formats import read_prefix

    from .build import Loader
    from .kinds import measure
    from .second import is_built
    from .second import load as load_second

    model = Loader()(given.models / given.name)
    again = load_second(model.world, given.models) if is_built(given.models) else None
    rows = read_prefix(given.prefix).rows()
    print(measure(model, rows, given.names, workers(given), again).text())
    return 0


def run_attack(given: argparse.Namespace) -> int:
    """Bring held-out people back: as the model is, past a prefix, and past an eraser."""
    import statistics

    import torch

    from apl_core.formats import read_prefix

    from .attack import Attack, Effort
    from .build import Loader
    from .card import read_card

    torch.set_num_threads(1)
    folder = given.models / given.name
    wanted = read_card(folder)["identity_top1.heldout"] / 2
    plain, effort = Loader()(folder), Effort(steps=given.steps, every=given.every)
    cases: list[tuple[str, WorldModel, Rows | None]] = [("as the model is", plain, None)]
    if given.prefix is not None:
        cases.append(("with the prefix", plain, read_prefix(given.prefix).rows()))
    if given.erased is not None:
        cases.append(("with the eraser", Loader(edited=given.erased)(folder), None))
    for title, model, rows in cases:
        people = model.world.group("heldout")[: given.people]
        found = [
            Attack(model, person, rows, effort, number).steps(given.search, wanted)
            for number, person in enumerate(people)
        ]
        print(f"{title}: {', '.join(f'{steps:.0f}' for steps in found)} steps, ", end="")
        print(f"median {statistics.median(found):.0f} (inf: not in {given.steps})", flush=True)
    return 0
