"""Libraries that warn, when diffusers imports them, of kernels that nothing here needs."""

from __future__ import annotations

import logging

_LIBRARIES = ("torchao", "bitsandbytes", "diffusers.quantizers", "torch.utils._pytree")


def quiet() -> None:
    """Let them tell errors alone, in a process of this project's own."""
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
