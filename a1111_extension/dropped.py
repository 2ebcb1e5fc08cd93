"""reForge draws for its page in one thread, which prints errors and drops them.

Refusals are handed on to its page, which otherwise shows "'NoneType' object is not iterable".
"""

from __future__ import annotations

import importlib
from functools import wraps
from typing import Any

from .hosts import Host
from .refusal import Refused
from .webui import exists

_THREAD, _RUN = "modules_forge.main_thread", "run_and_wait_result"


def places() -> list[tuple[Any, str, Any]]:
    """What is wrapped, as (owner, name, wrapper); nothing where the webui tells its page itself."""
    if not exists(_THREAD):
        return []
    thread = importlib.import_module(_THREAD)
    return [] if hasattr(thread, "last_exception") else [(thread, _RUN, _handing_on)]


def _handing_on(_host: Host, original: Any) -> Any:
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
