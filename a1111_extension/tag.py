"""The prompt tag `<apl:name>` or `<apl:name:0.2-0.8>`."""

from __future__ import annotations

from typing import Any

from apl_core.errors import AplError

from . import request
from .refusal import refusal
from .webui import module


def register() -> None:
    """Let the webui take the tags out of prompts and hand them over."""
    networks = module("extra_networks")

    class PrefixTag(networks.ExtraNetwork):
        def __init__(self) -> None:
            super().__init__("apl")

        def activate(self, p: Any, params_list: list[Any]) -> None:
            activate(p, params_list)

        def deactivate(self, p: Any) -> None:
            return None

    networks.register_extra_network(PrefixTag())


def activate(p: Any, params_list: list[Any]) -> None:
    """Read the tags of a request that is not anonymised yet.

    The script has not seen them if another extension wrote the prompts later or made an inner pass.
    """
    switched_off = getattr(p, "apl_axes", {}).get("enabled") is False
    if switched_off or request.NAME in p.extra_generation_params:
        return
    try:
        outcome = request.from_tags(p, params_list)
    except AplError as error:
        outcome = refusal(error)
    if outcome is not None:
        request.attach(p, outcome)
