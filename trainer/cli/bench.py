"""`apl bench ...`: measurements that compare within one run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .common import Verbs, add_model, load_model, verb


def add(verbs: Verbs) -> None:
    """Add `bench` with its own verbs."""
    bench = verbs.add_parser("bench", help="measure speed, memory and overhead")
    inner = bench.add_subparsers(metavar="WHAT", required=True)
    speed = verb(
        inner, "speed", run_speed, "this recipe against the authors': step cost, time to quality",
        "apl bench speed --minutes 10 --out bench/speed",
    )  # fmt: skip
    add_model(speed)
    speed.add_argument("--minutes", type=float, default=10.0, help="most time for each recipe")
    speed.add_argument(
        "--out", type=Path, default=Path("bench/speed"), help="folder for the figures"
    )
    host = verb(
        inner, "host", run_host, "what the prefix costs in a host, in the host's own process",
        "apl bench host comfyui",
    )  # fmt: skip
    host.add_argument("host", choices=("comfyui", "a1111"), help="a host as the tests find it")
    host.add_argument("--out", type=Path, default=Path("bench"), help="folder for the figures")
    fuzz = verb(
        inner, "fuzz", run_fuzz, "broken files of every kind, against limits of time and memory",
        "apl bench fuzz --files 200000 --out bench/fuzz",
    )  # fmt: skip
    fuzz.add_argument("--files", type=_count, default=200_000, help="broken files in all")
    fuzz.add_argument("--seed", type=_count, default=0, help="number of the first file of a kind")
    fuzz.add_argument("--out", type=Path, default=Path("bench/fuzz"), help="folder for the figures")
    kill = verb(
        inner, "kill", run_kill, "trainings killed at random moments, and on full disks",
        "apl bench kill --kills 100 --out bench/kill",
    )  # fmt: skip
    add_model(kill)
    kill.add_argument("--kills", type=_count, default=100, help="kills in all")
    kill.add_argument("--seed", type=_count, default=0, help="seed of the random moments")
    kill.add_argument("--out", type=Path, default=Path("bench/kill"), help="folder for the figures")


def run_speed(given: argparse.Namespace) -> int:
    """Run `bench speed`."""
    from ..bench.speed import run

    found = run(load_model(given.model), given.out, given.minutes, _say)
    print(json.dumps(found, indent=1, sort_keys=True))
    return 0


def run_host(given: argparse.Namespace) -> int:
    """Run `bench host`."""
    from ..bench import host_a1111, host_comfyui

    hosts = {"a1111": host_a1111.run, "comfyui": host_comfyui.run}
    out = given.out / given.host
    out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(hosts[given.host](out), indent=1, sort_keys=True))
    return 0


def run_fuzz(given: argparse.Namespace) -> int:
    """Run `bench fuzz`; 1 if a file did what no file may do."""
    from ..bench.fuzz import run

    return _with_holes(run(given.out, given.files, given.seed, _say), given.out)


def run_kill(given: argparse.Namespace) -> int:
    """Run `bench kill`; 1 if a run did not come out as it should."""
    from ..bench.kill import run

    found = run(load_model(given.model), given.out, given.kills, given.seed, _say)
    return _with_holes(found, given.out)


def _with_holes(figures: dict[str, float], out: Path) -> int:
    print(json.dumps(figures, indent=1, sort_keys=True))
    holes = figures.get("holes", figures.get("all.holes", 0))
    if holes:
        _say(f"{holes:.0f} holes, see {out}")
    return 1 if holes else 0


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr)
