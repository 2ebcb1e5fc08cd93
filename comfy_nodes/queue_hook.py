# pyright: reportMissingImports=false
"""ComfyUI's queue: notes prefixes in pictures, and starts operator mode where it is asked for.

`APL_ENFORCE=name` makes the server encode every text with that prefix (gate.py), or with `name-*`
for other families (enforced.py), whatever a graph says. `APL_ENFORCE_NODES=A,B` names nodes of
other packs that may run beside ComfyUI's own. `GET /apl/status` tells what is on; `APL_TRACE` and
`APL_TRACE_KEY` switch a signed trace on.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import nodes
from aiohttp import web
from server import PromptServer

from apl_core.errors import AplError
from apl_core.trace import TraceWriter

from .files import library
from .used import Graph, used_prefixes

LOG = logging.getLogger("apl")


def install() -> None:
    """Hang the hook into ComfyUI's queue; once per process, never at import.

    Raises AplError where a prefix is to be enforced and cannot be read: the server may not start.
    """
    server, name = PromptServer.instance, os.environ.get("APL_ENFORCE", "")
    trace = TraceWriter.of(os.environ)
    if trace is not None:
        from . import traced  # nothing of it is there unless it is asked for

        traced.install(trace, lambda one: running(server.prompt_queue, one), name)
    status: dict[str, Any] = {"enforced": None, "digest": None, "hash": None, "usable": None}
    if name:
        from . import operator_mode  # in normal mode nothing of the host is touched

        operator = operator_mode.start(name, os.environ.get("APL_ENFORCE_NODES", ""))
        server.add_on_prompt_handler(operator.on_prompt)
        status = operator.status()
        LOG.warning("APL Prefix: every text of this server is encoded with %r.", name)
    else:
        server.add_on_prompt_handler(noted)
    if trace is not None:
        trace.write("start", {"host": "ComfyUI", "enforced": name, "digest": status["digest"]})

    @server.routes.get("/apl/status")
    async def answer(_request: web.Request) -> web.Response:
        said = {"host": "ComfyUI", **status, "trace": trace is not None}
        return web.json_response({**said, **operator.tally.facts()} if name else said)


def running(queue: Any, prompt_id: str) -> Graph | None:
    """The graph that runs under an id."""
    with queue.mutex:
        return next(
            (one[2] for one in queue.currently_running.values() if one[1] == prompt_id), None
        )


def noted(request: dict[str, Any]) -> dict[str, Any]:
    """The request with the prefixes that its graph uses, by file, for the pictures' metadata."""
    digests: dict[str, str] = {}
    for file in used_prefixes(request.get("prompt"), _saves):
        try:
            digests[file] = library().load(file).short_digest
        except AplError:  # the node's own validation says it better
            continue
    extra = request.get("extra_data") or {}
    picture = extra.get("extra_pnginfo") or {} if isinstance(extra, dict) else None
    if not digests or not isinstance(picture, dict):
        return request
    picture = {**picture, "apl_prefixes": digests}
    return {**request, "extra_data": {**extra, "extra_pnginfo": picture}}


def _saves(class_type: str) -> bool:
    """Whether nodes of this class end a graph, with a picture as a rule."""
    kind = nodes.NODE_CLASS_MAPPINGS.get(class_type)
    return bool(getattr(kind, "OUTPUT_NODE", False)) and class_type != "APL_PrefixInfo"
