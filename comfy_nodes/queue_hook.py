# pyright: reportMissingImports=false
"""The hook of ComfyUI's queue: notes prefixes in a picture's metadata, and enforces one.

`APL_ENFORCE=name` makes the server put that prefix into every positive prompt, whatever the graph
says. `APL_ENFORCE_NODES=A,B` names nodes of other packs that may run beside ComfyUI's own.
`GET /apl/status` tells what is on; `APL_TRACE` and `APL_TRACE_KEY` switch a signed trace on.
"""

from __future__ import annotations

import logging
import os
from functools import wraps
from typing import Any

import nodes
from aiohttp import web
from server import PromptServer

from apl_core.errors import AplError
from apl_core.trace import Tally, TraceWriter

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
    hook = Hook(os.environ.get("APL_ENFORCE", ""), server)
    server.add_on_prompt_handler(hook)

    @server.routes.get("/apl/status")
    async def status(_request: web.Request) -> web.Response:
        return web.json_response(hook.status())

    trace = TraceWriter.of(os.environ)
    if trace is not None:
        from . import traced  # nothing of it is there unless it is asked for

        hook.traces = True
        trace.write("start", {"host": "ComfyUI", "enforced": hook.name, "digest": hook.digest()})
        traced.install(trace, hook.running, hook.facts, hook.name)


class Hook:
    """Sees every graph that comes in, from the page and through the API alike."""

    def __init__(self, name: str, server: Any) -> None:
        self.name = name
        self.server = server
        self.traces = False
        self.tally = Tally()
        allowed = os.environ.get("APL_ENFORCE_NODES", "").split(",")
        self.allowed = OWN_ALLOWED | {one.strip() for one in allowed if one.strip()}
        if name:
            LOG.warning("APL Prefix: %r is put into every positive prompt of this server.", name)
            _count_results(server.prompt_queue, self.tally)

    def digest(self) -> str | None:
        """The digest of the prefix that is enforced; None without one, or without its file."""
        try:
            return library().load(self.name).digest if self.name else None
        except AplError:
            return None

    def status(self) -> dict[str, Any]:
        """What `GET /apl/status` answers; nothing is counted where nothing is enforced."""
        digest = self.digest()
        said = {
            "host": "ComfyUI",
            "enforced": self.name or None,
            "digest": digest,
            "hash": digest and digest[:10],
            "usable": digest is not None if self.name else None,
            "trace": self.traces,
        }
        return {**said, **self.tally.facts()} if self.name else said

    def running(self, prompt_id: str) -> Graph | None:
        """The graph that runs under an id."""
        queue = self.server.prompt_queue
        with queue.mutex:
            return next((one[2] for one in queue.currently_running.values() if one[1] == prompt_id),
                        None)  # fmt: skip

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request with its graph rewritten; a graph that says no where that is impossible."""
        if self.name and not _is_refusal(request):
            handlers = self.server.on_prompt_handlers
            if handlers[-1] is not self:  # a pack that was loaded later could rewrite after us
                handlers.append(self)
            return self._enforce(request)
        return _noted(request, {})

    def _enforce(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            digest = library().load(self.name).short_digest
            graph = enforced(request["prompt"], self.facts, self.name)
        except NotCovered as error:
            self.tally.refused += 1
            return _refuse(request, str(error), error.node)
        except AplError as error:
            self.tally.refused += 1
            return _refuse(request, f"This server enforces a prefix. {error}")
        except Exception:  # ComfyUI would log it and run the graph unprotected
            self.tally.refused += 1
            LOG.exception("APL Prefix could not read a graph")
            return _refuse(request, "This server enforces a prefix and cannot read this graph.")
        note = {
            "APL": f"{self.name} {digest}",
            "apl_enforced": {"prefix": self.name, "digest": digest},
        }
        return _noted({**request, "prompt": graph}, note)

    def facts(self, class_type: str) -> NodeFacts | None:
        """What ComfyUI knows of a class of nodes, and whether operator mode lets it run."""
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


def _count_results(queue: Any, tally: Tally) -> None:
    """Count pictures, and runs that one of our errors ended, where the queue takes them in."""
    original = queue.task_done

    @wraps(original)
    def task_done(item_id: Any, history_result: Any, *args: Any, **options: Any) -> Any:
        outputs = (history_result or {}).get("outputs", {}).values()
        tally.pictures += sum(len(output.get("images") or ()) for output in outputs)
        status = args[0] if args else options.get("status")
        messages = getattr(status, "messages", None) or ()
        tally.refused += any(
            str(what.get("exception_type", "")).startswith("apl_core.")
            for _, what in messages
            if isinstance(what, dict)
        )
        return original(item_id, history_result, *args, **options)

    queue.task_done = task_done


def _is_refusal(request: dict[str, Any]) -> bool:
    """Whether this is a graph that was refused already: the hook may stand in the list twice."""
    graph = request.get("prompt")
    entries = list(graph.values()) if isinstance(graph, dict) else []
    return len(entries) == 1 and isinstance(entries[0], dict) and (
        entries[0].get("class_type") == "APL_Refused"
    )  # fmt: skip


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
