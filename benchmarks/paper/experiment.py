"""What the experiments share: workers, artifacts, pictures and results kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from apl_core.atomic import write_text
from apl_core.prefix import Prefix, Rows
from apl_trainer.pocket.model import PocketModel
from apl_trainer.pocket.reader import PocketReader
from apl_trainer.pocket.render_pool import Rendered
from apl_trainer.processes import workers_pool
from apl_trainer.sampling import Request
from apl_trainer.statistics import Mean

from .artifacts import ArtifactSpec, Facts, made_prefix, make
from .chunks import FirstChunkOnly
from .variants import load_variant

_SHARE = 48


@dataclass(frozen=True)
class Result:
    """What one part found: figures with intervals, plain numbers, and sheets with captions."""

    figures: dict[str, Mean]
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    sheets: dict[str, str] = field(default_factory=dict[str, str])

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        data = {
            "figures": {k: m.plain() for k, m in self.figures.items()},
            "numbers": self.numbers,
            "sheets": self.sheets,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(path: Path) -> Result:
        """Read what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        figures = {k: Mean.of(m) for k, m in data["figures"].items()}
        return Result(figures, data["numbers"], data["sheets"])


class Pool:
    """Worker processes of one thread each; with 0 workers everything is done in this process."""

    def __init__(self, workers: int) -> None:
        self._pool = workers_pool(workers) if workers else None

    def submit(self, function: Callable[..., Any], *given: object) -> Future[Any]:
        """Start a piece of work."""
        if self._pool is not None:
            return self._pool.submit(function, *given)
        done: Future[Any] = Future()
        done.set_result(function(*given))
        return done

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class PendingResult:
    """Pictures in the making."""

    def __init__(self, futures: list[Future[Rendered]]) -> None:
        self._futures = futures

    def result(self) -> Rendered:
        """Wait for the pictures, in the order of their requests."""
        return Rendered.join([future.result() for future in self._futures])


class Experiment:
    """One benchmark in one folder."""

    def __init__(self, model: PocketModel, order: ArtifactSpec, pool: Pool) -> None:
        self.model, self.order, self.plan, self.pool = model, order, order.plan, pool
        self.reader = PocketReader(model)
        self._artifacts: dict[str, Future[Facts]] = {}

    def start(self, names: Sequence[str], ready: Callable[[object], None] | None = None) -> None:
        """Put artifacts into work, each `ready` at its end; what is there already costs nothing."""
        for name in names:
            if name not in self._artifacts:
                self._artifacts[name] = self.pool.submit(make, name, self.order)
                if ready:
                    self._artifacts[name].add_done_callback(ready)

    def made(self, name: str) -> tuple[Path, Facts]:
        """Wait for a making: its folder and its facts."""
        self.start([name])
        return self.order.folder(name), self._artifacts[name].result()

    @cached_property
    def prefix(self) -> Prefix:
        """The prefix that all experiments are about."""
        return made_prefix(self.made("prefix")[0])

    def draw(
        self,
        requests: Sequence[Request],
        rows: Rows | None = None,
        folder: Path | None = None,
        first_only: bool = False,
    ) -> PendingResult:
        """Start drawing with this model, or with another edition of it that lies in `folder`."""
        place = folder or self.model.folder
        return PendingResult(
            [
                self.pool.submit(_draw, place, self.plan.steps, part, rows, first_only)
                for part in (requests[i : i + _SHARE] for i in range(0, len(requests), _SHARE))
            ]
        )

    def sheet(self, name: str) -> Path:
        """Where a sheet of this benchmark lies."""
        return self.order.out / "sheets" / name


def _draw(
    folder: Path, steps: int, requests: Sequence[Request], rows: Rows | None, first_only: bool
) -> Rendered:
    model = load_variant(folder)
    sampler = model.sampler(steps)
    if first_only:
        sampler = replace(sampler, encoder=FirstChunkOnly(model.encoder.towers))
    with torch.no_grad():
        pictures = sampler.draw(requests, rows)
        return Rendered(pictures, model.recognizer(pictures))
