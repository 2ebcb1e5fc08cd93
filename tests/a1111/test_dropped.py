"""A webui whose drawing thread drops errors: refusals reach whoever waits for the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from apl_a1111 import config, dropped, refusal

from apl_core.errors import HostError


def run_and_wait_result(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """As reForge has it: an error is printed, and the result is None."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        print(error)
        return None


def test_a_refusal_is_handed_on_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "roots", lambda: ())
    waits = dropped._handing_on(None, run_and_wait_result)  # pyright: ignore[reportPrivateUsage]

    def draws(what: str, often: int = 1) -> str:
        if what == "refused":
            raise refusal.refusal(HostError("draw", "there is no prefix", "learn one"))
        if what == "broken":
            raise RuntimeError(what)
        return what * often

    assert waits(draws, "a", often=2) == "aa" and waits(draws, "broken") is None
    with pytest.raises(refusal.Refused, match="there is no prefix"):
        waits(draws, "refused")
    assert waits(draws, "a") == "a"
