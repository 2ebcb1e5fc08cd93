"""`apl fetch`: the few weights of other models that optional parts need."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.metadata import printable

from . import arguments
from .common import Verbs, verb

if TYPE_CHECKING:
    from ..readers.weights import Weight


def add(verbs: Verbs) -> None:
    """Add `fetch`."""
    fetched = verb(
        verbs,
        "fetch",
        run_fetch,
        "download one of the weights that optional parts need; without NAME, list them",
        "apl fetch face-detection",
    )
    fetched.add_argument("name", nargs="?", metavar="NAME", help="which")
    whence = fetched.add_mutually_exclusive_group()
    whence.add_argument(
        "--from",
        type=Path,
        metavar="FILE",
        help="take a file that is here instead of downloading it",
    )
    whence.add_argument("--url", type=_address, help="another address of the same file")
    fetched.add_argument(
        "--sha256", type=_hash, metavar="HEX", help="expect this hash instead of ours"
    )
    fetched.add_argument(
        "--weights",
        type=arguments.out_folder,
        metavar="DIR",
        help="where to put it ($APL_WEIGHTS, or the user's cache)",
    )


def run_fetch(given: argparse.Namespace) -> int:
    """Fetch one weight, or list them."""
    from ..readers.weights import WEIGHTS, fetch, weight, weights_folder

    folder = weights_folder(given.weights)
    if given.name is None:
        arguments.refuse_ignored(
            given,
            ("from", "url", "sha256"),
            "nothing is fetched without a name",
            "give the name of a weight; `apl fetch` lists them",
        )
        for one in WEIGHTS:
            print(_listed(one, folder))
        print(_dlib())
        print(
            "SHA-256: as several unrelated public projects record it for this file.\n"
            "Nothing is downloaded unless you say `apl fetch NAME`."
        )
        return 0
    one, source = weight(given.name), getattr(given, "from")
    print(f"{one.name}: from {printable(str(source or given.url or one.url), 400)}")
    print(f"  {one.size or '?'} bytes, SHA-256 {given.sha256 or one.sha256 or 'unknown'}")
    print(fetch(one, folder, source, given.url, given.sha256, progress=True))
    return 0


def _listed(one: Weight, folder: Path) -> str:
    from ..readers.weights import present

    here = present(one, folder)
    size = f"{one.size:,} bytes" if one.size else "size unknown"
    return (
        f"{one.name}: {one.use}\n  {one.url}\n  {size}, license {one.license}\n"
        f"  SHA-256 {one.sha256 or 'unknown: give it with --sha256'}\n"
        f"  {'here: ' + str(here) if here else 'not here'}"
    )


def _dlib() -> str:
    from ..readers.dlib import INSTALL, lacking_dlib

    lost = "; ".join(found for found, _ in lacking_dlib())
    return (
        "dlib (not fetched): finds faces and tells whose they are, unless `--faces facexlib` is "
        f"given\n  comes with its weights (129 MB, CC0) by {INSTALL}\n  {lost or 'here'}"
    )


def _address(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise argparse.ArgumentTypeError(f"{printable(text, 80)!r} is not an http(s) address")
    return text


def _hash(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("it is not 64 hexadecimal digits")
    return text
