# pyright: reportMissingImports=false
"""Operator mode in ComfyUI's queue: only known nodes run, and pictures say what was read for them.

That every text is encoded with the prefix is the gate's work. Here every node is looked at once
more when it is about to run, whatever graph, hook or expansion it came from.
"""

from __future__ import annotations

import logging
from functools import wraps
from typing import Any

import execution
from comfy_api.latest import io

from apl_core.enforced import find
from apl_core.errors import AplError, HostError
from apl_core.trace import Tally

from . import marks
from .files import library
from .gate import Gate
from .trust import Trusted

LOG = logging.getLogger("apl")

_KEYS = ("APL", "apl_enforced", "apl_prefixes")
"""What pictures may say of prefixes; only this module writes it where one is enforced."""


class OperatorMode:
    """The enforced prefixes, one of each family, for the life of the process."""

    def __init__(self, name: str, gate: Gate, trusted: Trusted) -> None:
        self.name = name
        self.prefixes = {one.digest: one for one in gate.prefixes.values()}
        self.trusted = trusted
        self.tally = Tally()

    def status(self) -> dict[str, Any]:
        """What `GET /apl/status` says of the prefixes; the digest is that of the first."""
        digest = next(iter(self.prefixes))
        by_family = {
            one.family: {"prefix": one.name, "hash": one.digest[:10], "digest": one.digest}
            for one in self.prefixes.values()
        }
        said = {"enforced": self.name, "digest": digest, "hash": digest[:10], "usable": True}
        return {**said, "families": by_family}

    def _note(self, digests: set[str]) -> dict[str, Any]:
        """What a picture says that was made with texts of these digests."""
        read = [one for digest, one in self.prefixes.items() if digest in digests]
        if not read:
            return {}
        names, short = " + ".join(one.name for one in read), " + ".join(d.digest[:10] for d in read)
        return {
            "APL": ", ".join(f"{one.name} {one.digest[:10]}" for one in read),
            "apl_enforced": {"prefix": names, "digest": short},
        }

    def on_prompt(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request as it is, or one whose graph says in its validation what stands in the way.

        This is for people, who get the sentence before anything runs; `watched` is the wall.
        """
        node = "apl_refused"
        try:
            for node, entry in request["prompt"].items():
                if not isinstance(entry, dict) or not isinstance(entry.get("inputs"), dict):
                    raise HostError(
                        "run this graph", f"its node {node!r} has no inputs", "queue a whole graph"
                    )
                self.trusted.check(entry.get("class_type"))
            return request
        except AplError as error:
            reason = str(error)
        except Exception:  # ComfyUI would log it and run the graph
            LOG.exception("APL Prefix could not read a graph")
            reason = "This server enforces a prefix and cannot read this graph."
        self.tally.refused += 1
        kept = {key: value for key, value in request.items() if key != "partial_execution_targets"}
        entry = {"class_type": "APL_Refused", "inputs": {"refused": reason}}
        return {**kept, "prompt": {str(node): entry}}

    def watched(self, original: Any) -> Any:
        """The host's `get_output_data`, which runs one node: HostError for one that may not."""

        @wraps(original)
        async def get_output_data(
            prompt_id: Any, unique_id: Any, obj: Any, inputs: Any, *args: Any, **more: Any
        ) -> Any:
            try:
                self.trusted.check_class(obj if isinstance(obj, type) else type(obj))
                before = marks.of(inputs)
                _label(obj, inputs, more, self._note(before))
                with marks.reading() as digests:
                    result = await original(prompt_id, unique_id, obj, inputs, *args, **more)
            except AplError:
                self.tally.refused += 1
                raise
            marks.put(result[0], before | digests)
            if before & self.prefixes.keys() and isinstance(result[1], dict):
                self.tally.pictures += len(result[1].get("images") or ())
            return result

        return get_output_data


def start(name: str, allowed: str) -> OperatorMode:
    """Enforce the prefixes of a name from now on; AplError if one cannot be read."""
    gate = Gate(find(library(), name))
    mode = OperatorMode(
        name, gate, Trusted([one.strip() for one in allowed.split(",") if one.strip()])
    )
    gate.install()
    execution.get_output_data = mode.watched(execution.get_output_data)
    return mode


def _label(obj: Any, inputs: dict[str, Any], more: dict[str, Any], note: dict[str, Any]) -> None:
    """Have a node that writes metadata write this note, and nothing of ours that a user sent."""
    for slot, kind in obj.INPUT_TYPES().get("hidden", {}).items():
        if kind == "EXTRA_PNGINFO" and slot in inputs:
            inputs[slot] = [_noted(one, note) for one in inputs[slot]]
    hidden = more.get("hidden_inputs") or (more.get("v3_data") or {}).get("hidden_inputs") or {}
    if io.Hidden.extra_pnginfo in hidden:
        hidden[io.Hidden.extra_pnginfo] = _noted(hidden[io.Hidden.extra_pnginfo], note)


def _noted(said: Any, note: dict[str, Any]) -> dict[str, Any]:
    kept = said if isinstance(said, dict) else {}
    return {**{key: value for key, value in kept.items() if key not in _KEYS}, **note}
