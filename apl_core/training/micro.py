"""Micro-batches: as many examples at once as memory takes, found out by halving."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from ..errors import RunError

log = logging.getLogger("apl")

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")
_BYTES = 16 * 1024
"""Working memory of a forward run for each number of a latent, roughly, for a real U-Net."""

_MOST = 64


class MicroBatch:
    """Splits work into parts of at most `size` (0: all at once), and smaller ones when needed.

    What was found out is remembered, so that memory runs out once and not at every step.
    """

    def __init__(self, size: int = 0) -> None:
        self.size = size

    def each(self, places: Sequence[int], run: Callable[[list[int]], None]) -> None:
        """Run all places, part by part; RunError if even a single one does not fit into memory.

        `run` must leave nothing behind when it fails with a lack of memory: it is called again for
        a smaller part that begins at the same place.
        """
        start = 0
        while start < len(places):
            part = list(places[start : start + (self.size or len(places))])
            if self._fits(part, run):
                start += len(part)

    def _fits(self, part: list[int], run: Callable[[list[int]], None]) -> bool:
        try:
            run(part)
            return True
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(part) == 1:
                raise RunError(
                    "learn a prefix",
                    "the device has not enough memory for a single example",
                    "give the --vram preset of your card, a smaller --size, or close other "
                    "programs",
                ) from error
        self.size = (
            len(part) // 2
        )  # here, outside of the handler, the failed run's tensors are gone
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "memory ran out with %d examples at once: going on with %d", len(part), self.size
        )
        return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the computer lacks memory."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(sign in str(error).lower() for sign in _SIGNS)


def forward_batch(device: torch.device, numbers: int) -> int:
    """Examples of `numbers` numbers a latent that a run without gradient may hold at once."""
    if device.type != "cuda":
        return _MOST
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(_MOST, free // (numbers * _BYTES)))
