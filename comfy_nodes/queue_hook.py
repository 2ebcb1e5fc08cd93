# pyright: reportMissingImports=false
"""The hook of ComfyUI's queue: notes prefixes in a picture's metadata, and enforces one.

`APL_ENFORCE=name` makes the server put that prefix into every positive prompt, whatever the graph
says. `APL_ENFORCE_NODES=A,B` names nodes of other packs that may run beside ComfyUI's own.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import nodes
from server import PromptServer

from apl_core.errors import AplError

from .enforce import LOAD, Graph, NodeFacts, NotCovered, enforced
from .files import library

LOG = logging.getLogger("apl")

OWN_ALLOWED = frozenset(
    {
        LOAD,
        "APL_ApplyPrefix",
        "APL_PrefixConditioning",
        "APL_PrefixInfo",
        "APL_IdentityCheck",
    }
)
"""Our nodes that make no picture of their own."""


def install() -> None:
    """Hang the hook into ComfyUI's queue; once per process, never at import."""
    server = PromptServer.instance
    server.add_on_prompt_handler(Hook(os.environ.get("APL_ENFORCE", ""), server))


class Hook:
    """Sees every graph that comes in, from the page and through the API alike."""

    def __init__(self, name: str, server: Any) -> None:
        self.name = name
        self.server = server
        allowed = os.environ.get("APL_ENFORCE_NODES", "").split(",")
        self.allowed = OWN_ALLOWED | {one.strip() for one in allowed if one.strip()}
        if name:
            LOG.warning("APL Prefix: %r is put into every positive prompt of this server.", name)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request with its graph rewritten; a graph that says no where that is impossible."""
        if self.name:
            handlers = self.server.on_prompt_handlers
            if handlers[-1] is not self:  # a pack that was loaded later could rewrite after us
                handlers.append(self)
            return self._enforce(request)
        return _noted(request, {})

    def _enforce(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            digest = library().load(self.name).short_digest
            graph = enforced(request["prompt"], self._facts, self.name)
        except NotCovered as error:
            return _refuse(request, str(error), error.node)
        except AplError as error:
            return _refuse(request, f"This server enforces a prefix. {error}")
        except Exception:  # ComfyUI would log it and run the graph unprotected
            LOG.exception("APL Prefix could not read a graph")
            return _refuse(request, "This server enforces a prefix and cannot read this graph.")
        note = {"apl_enforced": {"prefix": self.name, "digest": digest}}
        return _noted({**request, "prompt": graph}, note)

    def _facts(self, class_type: str) -> NodeFacts | None:
        kind = nodes.NODE_CLASS_MAPPINGS.get(class_type)
        if kind is None:
            return None
        inputs: dict[str, str] = {}
        for group in ("required", "optional"):
            for slot, declared in kind.INPUT_TYPES().get(group, {}).items():
                inputs[slot] = str(declared[0])
        outputs = tuple(str(one) for one in kind.RETURN_TYPES)
        names = tuple(getattr(kind, "RETURN_NAMES", None) or outputs)
        home = getattr(kind, "RELATIVE_PYTHON_MODULE", "nodes")
        own = home == "nodes" or home.startswith("comfy_extras.")
        return NodeFacts(inputs, outputs, names, own or class_type in self.allowed)


def _noted(request: dict[str, Any], note: dict[str, Any]) -> dict[str, Any]:
    """The request with facts for the picture's metadata: prefixes by file, and `note`."""
    graph: Graph = request.get("prompt") or {}
    files = {
        entry["inputs"]["file"]
        for entry in graph.values()
        if entry.get("class_type") == LOAD and isinstance(entry["inputs"].get("file"), str)
    }
    digests: dict[str, str] = {}
    for file in sorted(files):
        try:
            digests[file] = library().load(file).short_digest
        except AplError:  # the node's own validation says it better
            continue
    if not note and not digests:
        return request
    extra = dict(request.get("extra_data") or {})
    picture = dict(extra.get("extra_pnginfo") or {})
    picture.update(note)
    if digests:
        picture["apl_prefixes"] = digests
    return {**request, "extra_data": {**extra, "extra_pnginfo": picture}}


def _refuse(request: dict[str, Any], reason: str, node: str = "apl_enforced") -> dict[str, Any]:
    """The request with a graph that ComfyUI's validation turns down with this sentence."""
    kept = {key: value for key, value in request.items() if key != "partial_execution_targets"}
    return {**kept, "prompt": {node: {"class_type": "APL_Refused", "inputs": {"reason": reason}}}}
