"""One run on a pocket model in several processes of this machine, as torchrun would start them."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from apl_core.prefix import Prefix
from apl_core.training.callbacks import Callback, Control
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder

from ..processes import begin, workers_context
from .model import PocketModel, load_pocket
from .train import PocketOrigin, pocket_run

_PATIENCE = timedelta(minutes=10)


def cores() -> int:
    """Processes that learn together well: two where there are two cores and gloo."""
    return 2 if (os.cpu_count() or 1) > 1 and os.name == "posix" and dist.is_available() else 1


def run_multiprocess(
    model: PocketModel,
    config: TrainConfig,
    folder: RunFolder,
    origin: PocketOrigin,
    callbacks: Sequence[Callback],
    control: Control,
    processes: int,
) -> Prefix:
    """Learn in `processes` processes, of which this is the first; up to rounding the same result.

    The folder has its settings and its origin already.
    """
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        if processes > 1:
            stack.enter_context(_group(folder, config, origin, processes))
        return pocket_run(model, config, folder, origin, callbacks, control).run()


@contextlib.contextmanager
def _group(
    folder: RunFolder, config: TrainConfig, origin: PocketOrigin, processes: int
) -> Iterator[None]:
    context = workers_context()
    with tempfile.TemporaryDirectory() as place:
        store = (Path(place) / "store").as_uri()
        others = [
            context.Process(
                target=_help, args=(folder.path, config, origin, store, rank, processes)
            )
            for rank in range(1, processes)
        ]
        for process in others:
            process.start()
        try:
            with _member(store, 0, processes):
                yield
        finally:
            for process in others:
                process.join(10)
                process.kill()


@contextlib.contextmanager
def _member(store: str, rank: int, processes: int) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=processes, timeout=_PATIENCE
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _help(
    folder: Path, config: TrainConfig, origin: PocketOrigin, store: str, rank: int, processes: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process tells all when to stop
    begin()
    with _member(store, rank, processes):
        pocket_run(load_pocket(Path(origin.model)), config, RunFolder(folder), origin).run()
