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


def _say(text: str) -> None:
    print(text, file=sys.stderr)
