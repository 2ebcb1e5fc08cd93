"""What several verbs share: how a verb is added, and which model is meant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apl_core.prefix import Prefix

    from ..pocket.model import PocketModel

Verbs = argparse._SubParsersAction  # pyright: ignore[reportPrivateUsage]


def verb(verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int], about: str,
         example: str) -> argparse.ArgumentParser:  # fmt: skip
    """Add a verb with a one-line description and an example."""
    added = verbs.add_parser(
        name, help=about, description=about, epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    added.set_defaults(run=run)
    return added


def add_model(verb: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """The option that chooses another pocket world than the built-in one."""
    verb.add_argument(
        "--model", type=Path, default=None, metavar="DIR", help="a pocket model's folder (built-in)"
    )


def load_model(folder: Path | None) -> PocketModel:
    """The pocket model of a folder, or the built-in one."""
    from ..pocket.model import BUILT_IN, load_pocket

    return load_pocket(folder or BUILT_IN)


def read_fitting(file: Path, model: PocketModel) -> Prefix:
    """The prefix in a file; AplError if it is broken or made for another kind of model."""
    from apl_core.fit import EncoderFace, check_fit, fingerprint
    from apl_core.formats import read_prefix

    prefix = read_prefix(file)
    table = model.encoder.token_embedding("pocket")
    check_fit(prefix, [EncoderFace("pocket", table.shape[1], fingerprint(table))])
    return prefix
