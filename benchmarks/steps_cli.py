"""Verbs that time a training step: `apl bench train` and `apl bench peers`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from apl_trainer.cli import arguments
from apl_trainer.cli.common import Verbs, verb


def add_steps(inner: Verbs) -> None:
    """Add them."""
    train = verb(
        inner,
        "train",
        run_train,
        "a training step on a full-size random SD 1.5, or on a family of today, and the authors'",
        "apl bench train --family Z-Image --side 16 --out bench/train",
    )
    train.add_argument(
        "--family", help="of today, of its widths and fewer layers (Z-Image); SD 1.5 without"
    )
    train.add_argument(
        "--side", type=_side, default=16, help="side of the latents: an eighth of a picture's"
    )
    train.add_argument(
        "--batch", type=arguments.whole(1, 4096), nargs="+", default=[4], help="our batches to try"
    )
    train.add_argument(
        "--rounds",
        type=arguments.whole(1, 1000),
        default=3,
        help="steps of each kind, medians count",
    )
    train.add_argument("--device", help="cuda, cpu ... (the GPU if there is one)")
    train.add_argument(
        "--out", type=arguments.out_folder, default="bench/train", help="folder for the figures"
    )
    peers = verb(
        inner,
        "peers",
        run_peers,
        "our training step beside the textual inversion of other trainers, on a random model",
        "apl bench peers --peers ~/.cache/apl-peers --out bench/peers",
    )
    peers.add_argument(
        "--peers",
        type=Path,
        default=Path(os.environ.get("APL_PEERS_DIR", "~/.cache/apl-peers")).expanduser(),
        help="folder of their checkouts and environments ($APL_PEERS_DIR)",
    )
    peers.add_argument("--family", choices=("sd15", "sdxl"), default="sd15", help="the model")
    peers.add_argument("--size", type=arguments.whole(64, 1024), default=128, help="of pictures")
    peers.add_argument("--batch", type=arguments.whole(3, 64), default=3, help="samples of a step")
    peers.add_argument(
        "--steps",
        type=arguments.whole(1, 1000),
        nargs=2,
        default=[2, 6],
        help="of the short and of the long run",
    )
    peers.add_argument(
        "--out", type=arguments.out_folder, default="bench/peers", help="folder for the figures"
    )


def run_train(given: argparse.Namespace) -> int:
    """Run `bench train`."""
    from apl_trainer.checkpoints.presets import own_device

    from .train import run

    device = own_device(given.device)
    if given.family:
        from .train_families import run as run_family

        size = 8 * given.side
        found = run_family(given.family, given.out, size, given.batch, given.rounds, device, say)
    else:
        found = run(given.out, given.side, given.batch, given.rounds, device, say)
    sys.stdout.write(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


def run_peers(given: argparse.Namespace) -> int:
    """Run `bench peers`."""
    from .peers import run

    run(given.out, given.peers, given.size, given.batch, given.steps, say, given.family)
    return 0


def _side(text: str) -> int:
    side = arguments.whole(8, 256)(text)
    if side % 8:
        raise argparse.ArgumentTypeError(f"{side} is not a multiple of 8")
    return side


def say(text: str) -> None:
    """Tell how far a measurement has come."""
    sys.stderr.write(f"{text}\n")
