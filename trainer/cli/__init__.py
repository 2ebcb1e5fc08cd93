"""The command `apl`: one module per group of verbs; exit codes 0 done, 1 failed, 2 bad usage."""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Sequence

from apl_core import __version__
from apl_core.errors import AplError, ConfigError

from ..quiet import quiet
from . import (
    bench,
    dataset,
    demo,
    evaluate,
    fetch,
    generate,
    import_files,
    inspect,
    pocket,
    train,
    ui,
    verify,
    zoo,
)
from .arguments import Parser

_GROUPS = (
    demo,
    dataset,
    fetch,
    import_files,
    train,
    ui,
    generate,
    evaluate,
    inspect,
    bench,
    verify,
    pocket,
    zoo,
)


def parser() -> Parser:
    """All verbs with their options."""
    top = Parser(
        prog="apl",
        description="Learn and use prompt prefixes that anonymize faces.",
        epilog="Start with: apl demo",
    )
    top.add_argument("--version", action="version", version=f"apl {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for group in _GROUPS:
        group.add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake ends in one readable error, never in a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    quiet()
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        given = parser().parse_args(words, argparse.Namespace(words=words))
        return given.run(given)
    except ConfigError as error:
        print(f"apl: {error}", file=sys.stderr)
        return 2
    except AplError as error:
        print(f"apl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\napl: interrupted", file=sys.stderr)
        return 1


def script() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console may not know every letter of a title
            stream.reconfigure(errors="replace")
    sys.exit(main())
