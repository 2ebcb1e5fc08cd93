"""What nobody at the page or the API may change while a prefix is enforced."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from apl_core.errors import HostError

from . import api, config, dropped
from .hosts import Host
from .refusal import refusal
from .webui import module

_OWNER = "apl-prefix-lock"
_OLD_EMPHASIS, _CLIP_SKIP = "use_old_emphasis_implementation", "CLIP_stop_at_last_layers"
_LAYERS = 12
"""Of CLIP-L: with a longer skip no layer has read a text, and so none the prefix beside it."""
_LOCKED = {
    *("disabled_extensions", "disable_all_extensions", "restore_config_state_file", _OLD_EMPHASIS),
    *(config.ON_BY_DEFAULT, config.DEFAULT_PREFIX, config.FOLDERS),
}
"""Settings that take extensions off, send prompts past the text engine, or are this project's."""


def install(host: Host) -> None:
    """Lock settings and what encodes by itself; keep `/apl/status`. Twice does nothing more."""
    shared, patches = module("shared"), module("patches")
    settings, own = shared.opts.data, Path(__file__).resolve().parents[1].name
    others = [name for name in settings.get("disabled_extensions", []) if name != own]
    settings |= {"disabled_extensions": others, "restore_config_state_file": ""}
    settings[_OLD_EMPHASIS] = False
    if settings.get(_CLIP_SKIP, 1) > _LAYERS:
        settings[_CLIP_SKIP] = 1
    shared.cmd_opts.disable_extension_access = True  # its tab installs, updates and takes off
    places = [
        (type(shared.opts), "__setattr__", _setting),
        (module("script_callbacks"), "app_started_callback", _routes),
        *((owner, name, _closed) for owner, name in host.closed()),
        *dropped.places(),
    ]
    for owner, name, wrap in places:
        if patches.original(_OWNER, owner, name) is None:
            patches.patch(_OWNER, owner, name, wrap(host, getattr(owner, name)))


def _setting(host: Host, original: Any) -> Any:
    @wraps(original)
    def __setattr__(options: Any, key: str, value: Any) -> None:
        found = _refused(options, key, value)
        if found:
            host.tally.refused += 1
            raise refusal(HostError(f"change the setting {key}", found, "leave it out"))
        original(options, key, value)

    return __setattr__


def _refused(options: Any, key: str, value: Any) -> str:
    """Why a setting may not have this value, or an empty text."""
    if key in _LOCKED and value != getattr(options, key, value):
        return "it is locked while this server anonymizes every picture"
    if key == _CLIP_SKIP and isinstance(value, (int, float)) and value > _LAYERS:
        return f"it leaves no layer of the text encoder that reads the prefix ({_LAYERS} at most)"
    return ""


def _routes(host: Host, original: Any) -> Any:
    @wraps(original)
    def app_started_callback(demo: Any, app: Any) -> None:
        original(demo, app)
        api.register(host, app)

    return app_started_callback


def _closed(host: Host, original: Any) -> Any:
    @wraps(original)
    def closed(*_: Any, **__: Any) -> Any:
        host.tally.refused += 1
        raise refusal(
            HostError(
                "run this on a server that anonymizes every picture",
                "it encodes texts by itself, where no prefix can be put in",
                "use txt2img or img2img",
            )
        )

    return closed
