"""ComfyUI by its address: sends graphs, and reads what came of them."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from apl_core.errors import HostError
from apl_core.metadata import printable

from .case import PERSON, SALT, Answer, Body, Case
from .comfyui_generate import request
from .comfyui_matrix import Matrix
from .comfyui_nodes import Graph, Nodes
from .comfyui_parts import Parts
from .http import Client, NoAnswer, status

_TEXTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt")


@dataclass
class ComfyServer:
    """A ComfyUI by its address; `graph` is one more graph to try, in API format.

    `parts` are the loaders of a model to draw with, where it is not a checkpoint.
    """

    client: Client
    checkpoint: str = ""
    graph: Graph | None = None
    parts: Parts | None = None
    side: int = 64
    steps: int = 2
    _name: str = field(default="", init=False)
    _marks: list[bytes] = field(default_factory=list[bytes], init=False)
    _known: dict[str, Any] = field(default_factory=dict[str, Any], init=False)

    def status(self) -> Mapping[str, Any]:
        """What `GET /apl/status` answers."""
        said = status(self.client)
        self._name = str(said.get("enforced"))
        one = {"prefix": self._name, "hash": said.get("hash")}
        marks = {f"{it['prefix']} {it['hash']}" for it in said.get("families", {"": one}).values()}
        self._marks = [mark.encode() for mark in marks]
        return said

    def weights(self) -> Mapping[str, Any]:
        """The checkpoint that is drawn with, and what its file says of itself."""
        if self.parts is not None:
            return {"loaders": self.parts.nodes}
        name = self._drawn_with()
        where = f"/view_metadata/checkpoints?{urlencode({'filename': name})}"
        return {"checkpoint": name, "metadata": self.client.get(where)}

    def cases(self) -> Sequence[Case]:
        """Every case that this server has the nodes and files for; the plain one first."""
        found: list[Case] = []
        if self._drawn_with():
            found += filter(None, map(self._loaded, self._matrix().cases()))
        if self.graph is not None:
            found.append(Case("your graph", ({"prompt": _named(self.graph)},)))
        if not found:
            raise HostError(
                "verify the server", "it has no checkpoint", "give a graph of its own with --graph"
            )
        return found

    def textless(self) -> Case | None:
        """A request whose picture hangs on the weights alone.

        None with loaders of its own: in a language model zeros for more tokens draw otherwise.
        """
        return self._matrix().textless() if self._drawn_with() and self.parts is None else None

    def generated(self, seed: int, number: int) -> Case:
        """Request `number` of a seed, of the server's nodes; HostError without a checkpoint."""
        if not self._drawn_with():
            raise HostError("make requests up", "the server has no checkpoint", "add one")
        case = request(self._nodes(), self._drawn_with(), self.side, seed, number)
        return self._loaded(case) or self._stock(number)

    def send(self, case: Case) -> Sequence[Answer]:
        """Queue all graphs of a case, wait for each, then run those that follow."""
        with ThreadPoolExecutor(len(case.bodies)) as pool:
            answers = list(pool.map(self._run, case.bodies))
        return [*answers, *map(self._run, case.follow)]

    def _nodes(self) -> dict[str, Any]:
        if not self._known:
            self._known = self.client.get("/object_info", {})
        return self._known

    def _loaded(self, case: Case) -> Case | None:
        """A request with the loaders that are drawn with; None if it makes no sense with them."""
        return case if self.parts is None else self.parts.put(case)

    def _stock(self, number: int) -> Case:
        """The plain request in the place of one that was made up and cannot be sent."""
        case = self._loaded(self._matrix().cases()[0])
        assert case is not None, "the plain request has all links as they should be"
        return replace(case, name=f"g{number}")

    def _drawn_with(self) -> str:
        if self.parts is not None:
            return "a model of its own"
        choices = Nodes(self._nodes()).choices("CheckpointLoaderSimple", "ckpt_name")
        return self.checkpoint or next(iter(choices), "")

    def _matrix(self) -> Matrix:
        return Matrix(self._nodes(), self._drawn_with(), self.side, self.steps, self._name)

    def _run(self, body: Body) -> Answer:
        try:
            reply = self.client.ask("/prompt", body)
            if reply.status != 200 or not isinstance(reply.body, dict):
                return Answer("", refusal=_refusal(reply.status, reply.body))
            return self._finished(str(reply.body["prompt_id"]))
        except NoAnswer as error:
            return Answer("", refusal=error.found, lost=True)

    def _finished(self, prompt_id: str) -> Answer:
        deadline = time.monotonic() + self.client.seconds
        while time.monotonic() < deadline:
            entry = self.client.get(f"/history/{prompt_id}", {}).get(prompt_id)
            if entry is not None:
                return self._read(prompt_id, entry)
            time.sleep(0.05)
        self.client.ask("/queue", {"delete": [prompt_id]})
        self.client.ask("/interrupt", {"prompt_id": prompt_id})
        return Answer(prompt_id, refusal=f"no answer in {self.client.seconds:.0f} s", lost=True)

    def _read(self, prompt_id: str, entry: Mapping[str, Any]) -> Answer:
        files = [
            one
            for out in entry["outputs"].values()
            for one in out.get("images", [])
            if isinstance(one, dict) and "filename" in one
        ]
        images = tuple(self.client.ask(f"/view?{urlencode(one)}").data for one in files)
        says = all(any(mark in image for mark in self._marks) for image in images)
        said = [
            str(what.get("exception_message", kind)).strip()
            for kind, what in (entry.get("status") or {}).get("messages", [])
            if kind == "execution_error"
        ]
        return Answer(prompt_id, images, says, printable("; ".join(said) or "no picture", 200))


def _named(graph: Graph) -> Graph:
    """A graph of the operator's with the name in its texts, and a seed of its own."""
    fresh = copy.deepcopy(graph)
    for node in fresh.values():
        for slot, value in node.get("inputs", {}).items():
            if slot in _TEXTS and isinstance(value, str) and value.strip():
                node["inputs"][slot] = f"{value} {PERSON} {SALT}"
            elif slot in ("seed", "noise_seed") and isinstance(value, int):
                node["inputs"][slot] = secrets.randbelow(2**32)
    return fresh


def _refusal(code: int, body: Any) -> str:
    """What ComfyUI's validation said, shortest first."""
    if not isinstance(body, dict):
        return f"HTTP {code}"
    errors = [
        str(one.get("details") or one.get("message"))
        for node in body.get("node_errors", {}).values()
        for one in node.get("errors", [])
    ]
    return printable("; ".join(errors) or str(body.get("error", "refused")), 200)
