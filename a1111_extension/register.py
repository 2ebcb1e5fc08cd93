"""Everything that the webui has to know about this extension, registered in one place."""

from __future__ import annotations

import os
from typing import Any

from apl_core.trace import TraceWriter

from . import api, axes, cards, hooks, settings, tag, trainer_tab
from .hosts import Host, choose_host
from .webui import module


def start() -> Host:
    """Hook into the webui; taken back when it unloads its scripts. HostError if it is unknown."""
    host = choose_host()
    hooks.install(host)
    callbacks = module("script_callbacks")
    callbacks.on_script_unloaded(lambda: hooks.remove(host))
    trace = TraceWriter.of(os.environ)
    if trace is not None:
        from . import traced  # nothing of it is there unless it is asked for

        callbacks.on_script_unloaded(traced.install(host, trace))
    callbacks.on_ui_settings(settings.register)
    callbacks.on_before_ui(_before_ui)
    callbacks.on_app_started(lambda _demo, app: api.register(host, app))
    callbacks.on_ui_tabs(lambda: trainer_tab.build(host))
    return host


def _before_ui(*_: Any) -> None:
    tag.register()
    axes.register()
    cards.register()
