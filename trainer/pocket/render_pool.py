"""Worker processes that draw and read pocket pictures, one thread each."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from apl_core.prefix import Rows

from ..processes import workers_pool
from ..sampling import Request
from .model import GUIDANCE, WorldModel, load_pocket
from .recognizer import Reading

_SHARE = 48


@dataclass(frozen=True)
class Rendered:
    """Pictures (B, 3, 32, 32) in [0, 1] and what the recognizer sees in them."""

    pictures: Tensor
    reading: Reading

    @staticmethod
    def join(parts: Sequence[Rendered]) -> Rendered:
        """One batch out of several."""
        heads = parts[0].reading.scores
        scores = {h: torch.cat([p.reading.scores[h] for p in parts]) for h in heads}
        embedding = torch.cat([p.reading.embedding for p in parts])
        return Rendered(torch.cat([p.pictures for p in parts]), Reading(scores, embedding))


class RenderPool:
    """Draws for one pocket model in several processes; a context manager."""

    def __init__(
        self,
        folder: Path,
        steps: int,
        workers: int | None = None,
        load: Callable[[Path], WorldModel] = load_pocket,
    ) -> None:
        self.folder, self.steps, self.load = folder, steps, load
        self._pool = workers_pool(workers or max(1, os.cpu_count() or 1))

    def __enter__(self) -> RenderPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, requests: Sequence[Request], rows: Rows | None, guidance: float = GUIDANCE
    ) -> list[Future[Rendered]]:
        """Start drawing; the futures' results, joined in order, are the requests' pictures."""
        parts = [requests[i : i + _SHARE] for i in range(0, len(requests), _SHARE)]
        job = _draw, self.load, str(self.folder), self.steps, guidance
        return [self._pool.submit(*job, part, rows) for part in parts]

    def draw(self, requests: Sequence[Request], rows: Rows | None) -> Rendered:
        """Draw and wait."""
        return Rendered.join([future.result() for future in self.submit(requests, rows)])


@functools.cache
def _model(load: Callable[[Path], WorldModel], folder: str) -> WorldModel:
    return load(Path(folder))


def _draw(
    load: Callable[[Path], WorldModel],
    folder: str,
    steps: int,
    guidance: float,
    requests: Sequence[Request],
    rows: Rows | None,
) -> Rendered:
    model = _model(load, folder)
    with torch.no_grad():
        pictures = model.sampler(steps, guidance).draw(requests, rows)
        return Rendered(pictures, model.recognizer(pictures))
