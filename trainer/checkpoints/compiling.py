"""torch.compile for a U-Net: tried out before anything is loaded, and its failures in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from apl_core.errors import AplError, ConfigError
from apl_core.metadata import printable

_ASKED = "build the U-Net's kernels with torch.compile"


def check_compiler(device: torch.device) -> None:
    """Build one small kernel; ConfigError if that does not work here."""

    def small(x: Tensor) -> Tensor:
        return (x * 2 + 1).relu()

    try:
        torch.compile(small)(torch.ones(8, device=device))
    except Exception as error:  # a missing compiler, a broken one, no Triton: each its own kind
        needed = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        raise ConfigError(
            _ASKED,
            f"it does not work here ({_said(error)})",
            f"install {needed}, or leave --compile out, which gives the same prefix up to rounding",
        ) from error


@contextmanager
def compiling(asked: bool) -> Iterator[None]:
    """Turn what torch.compile fails with while a network runs into an AplError."""
    if not asked:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise AplError(
            _ASKED,
            f"it fails on this network ({_said(error)})",
            "leave --compile out; in a run that has begun, set compile to false in origin.json",
        ) from error


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {printable(lines[0] if lines else '', 160)}"
