"""`apl bench ...`: measurements that compare within one run."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from apl_core.errors import ConfigError
from apl_trainer.cli import arguments
from apl_trainer.cli.common import Verbs, add_model, load_model, read_fitting, verb

from .steps_cli import add_steps, say
from .studies_cli import add_studies, seeds

ROOT = Path(__file__).parents[1]
"""The clone: benchmarks are in no wheel."""


def add(verbs: Verbs) -> None:
    """Add `bench` with its own verbs."""
    bench = verbs.add_parser("bench", help="measure speed, memory and overhead")
    inner = bench.add_subparsers(metavar="WHAT", required=True)
    speed = verb(
        inner,
        "speed",
        run_speed,
        "this recipe against the authors': step cost, time to quality",
        "apl bench speed --minutes 10 --out bench/speed",
    )
    add_model(speed)
    speed.add_argument(
        "--minutes", type=arguments.minutes, default=10.0, help="most time for each recipe"
    )
    speed.add_argument(
        "--out", type=arguments.out_folder, default="bench/speed", help="folder for the figures"
    )
    host = verb(
        inner,
        "host",
        run_host,
        "what the prefix costs in a host, in the host's own process",
        "apl bench host comfyui",
    )
    host.add_argument("host", choices=("comfyui", "a1111"), help="a host as the tests find it")
    host.add_argument(
        "--out", type=arguments.out_folder, default="bench", help="folder for the figures"
    )
    add_steps(inner)
    add_studies(inner)
    fuzz = verb(
        inner,
        "fuzz",
        run_fuzz,
        "broken files of every kind, against limits of time and memory",
        "apl bench fuzz --files 200000 --out bench/fuzz",
    )
    fuzz.add_argument(
        "--files", type=arguments.whole(1, 10**9), default=200_000, help="broken files in all"
    )
    fuzz.add_argument(
        "--seed", type=arguments.seed, default=0, help="number of the first file of a kind"
    )
    fuzz.add_argument(
        "--out", type=arguments.out_folder, default="bench/fuzz", help="folder for the figures"
    )
    kill = verb(
        inner,
        "kill",
        run_kill,
        "trainings killed at random moments, and on full disks",
        "apl bench kill --kills 100 --out bench/kill",
    )
    add_model(kill)
    kill.add_argument("--kills", type=arguments.whole(1, 10**6), default=100, help="kills in all")
    kill.add_argument("--seed", type=arguments.seed, default=0, help="seed of the random moments")
    kill.add_argument(
        "--out", type=arguments.out_folder, default="bench/kill", help="folder for the figures"
    )
    negative = verb(
        inner,
        "negative",
        run_negative,
        "the prefix in negative and empty prompts too: what it changes on the pocket model",
        "apl bench negative --seeds 0,1,2 --out bench/negative",
    )
    add_model(negative)
    negative.add_argument(
        "--seeds", type=seeds, default="0,1,2", help="a prefix is learned of each"
    )
    negative.add_argument(
        "--prefix", type=Path, nargs="+", help="prefix files to measure; none is learned then"
    )
    negative.add_argument(
        "--guidance", type=_guidances, default="3,1,2,4,7,12", help="CFG scales to draw with"
    )
    kinds = ("empty", "hat", "name")
    negative.add_argument(
        "--negative", nargs="+", choices=kinds, default=kinds, help="what stands in the negative"
    )
    negative.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe"
    )
    negative.add_argument(
        "--names", type=arguments.whole(1, 64), default=48, help="names a group, each drawn twice"
    )
    negative.add_argument(
        "--free", type=arguments.whole(1, 10_000), default=96, help="name-free prompts a group"
    )
    negative.add_argument(
        "--out", type=arguments.out_folder, default="bench/negative", help="folder; goes on in it"
    )
    negative.add_argument(
        "--workers", type=arguments.whole(1, 1024), default=None, help="processes (one per core)"
    )
    negative.add_argument("--json", action="store_true", help="print figures.json, not the table")
    paper = verb(
        inner,
        "paper",
        run_paper,
        "the paper's five experiments, beside baselines and an eraser",
        "apl bench paper --quick --out bench/paper",
    )
    add_model(paper)
    paper.add_argument("--prefix", type=Path, help="a prefix file (one is learned)")
    paper.add_argument("--quick", action="store_true", help="minutes: few names, short trainings")
    paper.add_argument(
        "--no-ablations", action="store_true", help="leave out the prefixes of changed settings"
    )
    paper.add_argument(
        "--out", type=arguments.out_folder, default="bench/paper", help="folder; goes on in it"
    )
    paper.add_argument(
        "--workers", type=arguments.whole(1, 1024), default=None, help="processes (one per core)"
    )
    arguments.add_shards(paper)
    paper.add_argument("--json", action="store_true", help="print figures.json instead of tables")
    _add_pages(inner)


def _add_pages(inner: Verbs) -> None:
    results = verb(
        inner,
        "results",
        run_results,
        "write sections of docs/results.md from finished runs",
        "apl bench results --demo runs/demo",
    )
    for name in ("demo", "speed", "paper"):
        results.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"a finished {name} run")
    results.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "results.md", help="the page to write into"
    )
    verb(
        inner,
        "house",
        run_house,
        "write docs/img/house.svg and the map of rooms in CONTRIBUTING.md",
        "apl bench house",
    )
    verb(
        inner,
        "settings",
        run_settings,
        "write the table of settings in docs/training.md",
        "apl bench settings",
    )
    verb(
        inner,
        "families",
        run_families,
        "count memory and time on today's families at their real sizes, into docs/training.md",
        "apl bench families",
    )


def run_speed(given: argparse.Namespace) -> int:
    """Run `bench speed`."""
    from .speed import run

    found = run(load_model(given.model), given.out, given.minutes, say)
    print(json.dumps(found, indent=1, sort_keys=True))
    return 0


def run_host(given: argparse.Namespace) -> int:
    """Run `bench host`."""
    from . import host_a1111, host_comfyui

    hosts = {"a1111": host_a1111.run, "comfyui": host_comfyui.run}
    out = given.out / given.host
    out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(hosts[given.host](out), indent=1, sort_keys=True))
    return 0


def run_fuzz(given: argparse.Namespace) -> int:
    """Run `bench fuzz`; 1 if a file did what no file may do."""
    from .fuzz import run

    return _with_failures(run(given.out, given.files, given.seed, say), given.out)


def run_kill(given: argparse.Namespace) -> int:
    """Run `bench kill`; 1 if a run did not come out as it should."""
    from .kill import run

    found = run(load_model(given.model), given.out, given.kills, given.seed, say)
    return _with_failures(found, given.out)


def _with_failures(figures: dict[str, float], out: Path) -> int:
    print(json.dumps(figures, indent=1, sort_keys=True))
    failures = figures.get("failures", figures.get("all.failures", 0))
    if failures:
        say(f"{failures:.0f} failures, see {out}")
    return 1 if failures else 0


def _guidances(text: str) -> list[float]:
    return [arguments.guidance(part) for part in text.split(",")]


def run_negative(given: argparse.Namespace) -> int:
    """Run `bench negative`."""
    from apl_core.training.config import TrainConfig
    from apl_trainer.cli.setting_flags import settings_of

    from .negative import Size, cells, learn, run

    config = TrainConfig.from_mapping(settings_of(given.set))
    model, size = load_model(given.model), Size(given.names, free=given.free)
    if given.prefix:
        files = enumerate(given.prefix, 1)
        prefixes = {f"prefix-{number}": read_fitting(file, model) for number, file in files}
    else:
        prefixes = learn(model, config, given.seeds, given.out)
    workers = (os.cpu_count() or 1) if given.workers is None else given.workers
    say = (lambda text: None) if given.json else print
    every = cells(model.world, given.guidance, given.negative)
    found = run(model, given.out, prefixes, every, size, workers, say)
    if given.json:
        print(json.dumps(found, indent=1, sort_keys=True))
    return 0


def run_paper(given: argparse.Namespace) -> int:
    """Run `bench paper`."""
    from .paper.plan import FULL, QUICK
    from .paper.run import Share, missing_parts, run_paper
    from .paper.targets import TARGETS

    arguments.check_shard(given)
    model, plan = load_model(given.model), QUICK if given.quick else FULL
    if given.prefix:
        read_fitting(given.prefix, model)
    workers = (os.cpu_count() or 1) if given.workers is None else given.workers
    command = "apl bench paper" + " --quick" * given.quick
    if given.no_ablations:
        plan, command = replace(plan, ablations=()), command + " --no-ablations"
    share = Share(given.shard, given.num_shards)
    flat = run_paper(model, given.out, plan, given.prefix, workers, share, command)
    if flat is None:
        left = ", ".join(missing_parts(given.out, plan))
        print(
            f"this share is done. Parts that are left to others: {left}\n"
            f"Once {given.out / 'parts'} holds all, {command} writes the report."
        )
        return 0
    if given.json:
        print(json.dumps(flat, indent=1))
        return 0
    print((given.out / "tables.md").read_text(encoding="utf-8"))
    print("\n".join(f"- {t.words(flat)}" for t in TARGETS))
    print(f"\nlook at   {given.out / 'report.html'}")
    return 0


def run_results(given: argparse.Namespace) -> int:
    """Run `bench results`."""
    from .results import write_sections

    runs = {n: getattr(given, n) for n in ("demo", "speed", "paper") if getattr(given, n)}
    if not runs:
        raise ConfigError(
            "write measured results", "no run is given", "give --demo, --speed or --paper DIR"
        )
    write_sections(given.page, runs)
    print(f"wrote {', '.join(runs)} into {given.page}")
    return 0


def run_house(given: argparse.Namespace) -> int:
    """Run `bench house`."""
    from .house import run

    run(ROOT)
    return 0


def run_settings(given: argparse.Namespace) -> int:
    """Run `bench settings`."""
    from .settings import run

    run(ROOT)
    return 0


def run_families(given: argparse.Namespace) -> int:
    """Run `bench families`."""
    from .families import run

    print(run(ROOT, (256, 512, 1024), say), end="")
    return 0
