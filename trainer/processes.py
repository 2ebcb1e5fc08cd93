"""Worker processes: how they are started, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext


def workers_context() -> SpawnContext | ForkServerContext:
    """A context to start workers in: on Linux forks of a server that loads the model's code once.

    The server loads while this process goes on: ask early. Elsewhere every worker begins from
    nothing.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.workers_preload"])
    forkserver.ensure_running()
    return context


def workers_pool(count: int) -> ProcessPoolExecutor:
    """Workers that take pieces of work, one thread each."""
    return ProcessPoolExecutor(count, mp_context=workers_context(), initializer=begin)


def begin() -> None:
    """Set a worker process up: one thread, and no life after its parent."""
    from .quiet import quiet

    quiet()
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent tells nobody: without this its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
