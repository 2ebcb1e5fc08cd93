"""Everything that the webui has to know about this extension, registered in one place."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from apl_core.trace import TraceWriter

from . import api, axes, cards, config, fit_line, gate, hooks, lock, settings, tag, trainer_tab
from .hosts import Host, choose_host
from .webui import module


def start() -> Host:
    """Hook into the webui, or close the gate; AplErrors.

    Hooks are taken back when the webui unloads its scripts. The gate stays.
    """
    enforced = config.enforced()
    if enforced:
        host = gate.start(enforced).host
        lock.install(host)
    else:
        host = choose_host()
        hooks.install(host)
        _on("script_unloaded", lambda: hooks.remove(host))
        trace = TraceWriter.of(os.environ)
        if trace is not None:
            from . import traced  # nothing of it is there unless it is asked for

            _on("script_unloaded", traced.install(host, trace, []))
        _on("app_started", lambda _demo, app: api.register(host, app))
    _on("ui_settings", settings.register)
    _on("before_ui", _before_ui)
    _on("after_component", fit_line.follow(host))
    _on("ui_tabs", lambda: trainer_tab.build(host))
    return host


def _on(what: str, do: Callable[..., Any]) -> None:
    """What the webui's `on_...` do, told who asks: they read the source of all callers for it."""
    callbacks = module("script_callbacks")
    stack = callbacks.callback_map[f"callbacks_{what}"]
    callbacks.add_callback(stack, do, category=what, filename=__file__)


def _before_ui(*_: Any) -> None:
    tag.register()
    axes.register()
    cards.register()
