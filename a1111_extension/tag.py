"""The prompt tag `<apl:name>` or `<apl:name:0.2-0.8>`, as the webui takes it out of prompts."""

from __future__ import annotations

from typing import Any

from . import gate, request
from .webui import module


def register() -> None:
    """Let the webui take the tags out of prompts and hand them over."""
    networks = module("extra_networks")

    class PrefixTag(networks.ExtraNetwork):
        def __init__(self) -> None:
            super().__init__("apl")

        def activate(self, p: Any, params_list: list[Any]) -> None:
            if gate.running() is None:
                request.read_late(p, params_list)

        def deactivate(self, p: Any) -> None:
            return None

    networks.register_extra_network(PrefixTag())
