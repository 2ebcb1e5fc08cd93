"""reForge draws for its page in one thread, which prints errors and drops them.

Refusals are handed on to its page, which otherwise shows "'NoneType' object is not iterable".
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import wraps
from typing import Any

from .refusal import Refused
from .webui import exists, module

_OWNER, _THREAD, _RUN = "apl-prefix-errors", "modules_forge.main_thread", "run_and_wait_result"


def install() -> Callable[[], None]:
    """Let refusals reach the page, where the webui drops errors; what takes it back."""
    if not exists(_THREAD):
        return lambda: None
    thread, patches = importlib.import_module(_THREAD), module("patches")
    if hasattr(thread, "last_exception"):  # Forge and Neo tell their page themselves
        return lambda: None
    if patches.original(_OWNER, thread, _RUN) is None:
        patches.patch(_OWNER, thread, _RUN, _handing_on(getattr(thread, _RUN)))
    return lambda: _remove(thread)


def _remove(thread: Any) -> None:
    patches = module("patches")
    if patches.original(_OWNER, thread, _RUN) is not None:
        patches.undo(_OWNER, thread, _RUN)


def _handing_on(original: Any) -> Any:
    @wraps(original)
    def run_and_wait_result(work: Any, *args: Any, **kwargs: Any) -> Any:
        refused: list[Refused] = []

        def listened(*args: Any, **kwargs: Any) -> Any:
            try:
                return work(*args, **kwargs)
            except Refused as error:
                refused.append(error)
                raise

        result = original(listened, *args, **kwargs)
        if refused:
            raise refused[0]
        return result

    return run_and_wait_result
