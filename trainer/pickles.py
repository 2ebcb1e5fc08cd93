"""Pickles of other programs: the only place that opens one, and only for the weights in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch

from apl_core.errors import AplError
from apl_core.metadata import printable

SAFE_TORCH = (2, 10)
"""The first torch whose weights-only loading has no known way around it."""


def check_torch(asked: str) -> None:
    """AplError below torch 2.10."""
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE_TORCH:
        raise AplError(
            asked,
            f"torch {torch.__version__} cannot open a pickle safely",
            'python -m pip install -U "torch>=2.10", in an environment of its own if need be',
        )


def load_pickle(source: Path | IO[bytes], asked: str, fix: str, known: Sequence[Any] = ()) -> Any:
    """What `torch.save` wrote, on the CPU; AplError if anything in it would have to run.

    `known` are (class, name) that may stand in it beside tensors and plain values.
    """
    check_torch(asked)
    try:
        with torch.serialization.safe_globals(list(known)):
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything, and none of it is for a user
        found = f"torch refuses it ({type(error).__name__}: {printable(str(error), 120)})"
        raise AplError(asked, found, fix) from error
