"""The requests of the matrix on a model of any family: its loaders come from a graph of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from apl_core.errors import HostError

from .case import Body, Case
from .comfyui_nodes import Graph, links

LATENT = "EmptyLatentImage"
"""What the stock graph begins with; newer families have an empty latent of their own."""

_OWN = "own "
"""In front of the names of loaders, so that they are none of a request's."""


@dataclass(frozen=True)
class Parts:
    """Loaders of a model, its text encoder and its VAE, with what stands behind them.

    `given` are the links of the three, `latent` is the node that an empty picture comes from.
    """

    nodes: Graph
    given: tuple[list[Any], list[Any], list[Any]]
    latent: Mapping[str, Any]

    @staticmethod
    def of(graph: Graph) -> Parts:
        """The parts of a text-to-image graph in API format; HostError where one is missing."""
        graph = {name: one for name, one in graph.items() if isinstance(one.get("inputs"), dict)}
        model = _taken(graph, "model", ("positive", "conditioning"))
        clip = _taken(graph, "clip", ("text", "prompt", "clip_l", "text_g"))
        while clip is not None and graph[clip[0]]["class_type"] == "APL_ApplyPrefix":
            clip = graph[clip[0]]["inputs"]["clip"]  # the reference draws bare
        vae = _taken(graph, "vae", ("samples",))
        empty = next(
            (
                one
                for one in graph.values()
                if {"width", "height", "batch_size"} <= set(one["inputs"])
            ),
            None,
        )
        missing = [
            name
            for name, found in (
                ("sampler with a model", model),
                ("text encoder with a clip", clip),
                ("decoder with a vae", vae),
                ("empty latent with width, height and batch_size", empty),
            )
            if found is None
        ]
        if model is None or clip is None or vae is None or empty is None:
            raise HostError(
                "take a model's loaders from this graph",
                f"it has no {' and no '.join(missing)}",
                "give a plain text-to-image graph of the family, saved with Export (API)",
            )
        kept = {f"{_OWN}{name}": _renamed(graph[name]) for name in _behind(graph, model, clip, vae)}
        given = tuple([f"{_OWN}{node}", output] for node, output in (model, clip, vae))
        return Parts(kept, (given[0], given[1], given[2]), empty)

    def put(self, case: Case) -> Case | None:
        """A request with these loaders; None if it hangs on the stock loader's own outputs."""
        try:
            own = (
                tuple(map(self._body, bodies)) for bodies in (case.bodies, case.bare, case.follow)
            )
            return replace(case, **dict(zip(("bodies", "bare", "follow"), own, strict=True)))
        except LookupError:
            return None

    def _body(self, body: Body) -> Body:
        graph = {name: node for name, node in body["prompt"].items() if name != "model"}
        return {**body, "prompt": {**self.nodes, **{k: self._node(v) for k, v in graph.items()}}}

    def _node(self, node: Any) -> Any:
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            return node
        if node.get("class_type") == LATENT:
            sizes = {slot: node["inputs"][slot] for slot in ("width", "height", "batch_size")}
            return {**self.latent, "inputs": {**self.latent["inputs"], **sizes}}
        return {**node, "inputs": self._linked(node["inputs"])}

    def _linked(self, value: Any) -> Any:
        """A value with the loaders' links in it; LookupError for one that only the stock has."""
        if isinstance(value, dict):
            return {key: self._linked(one) for key, one in value.items()}
        if isinstance(value, list) and len(value) == 2 and value[0] == "model":
            if isinstance(value[1], bool) or value[1] not in (0, 1, 2):
                raise LookupError(value[1])
            return copy.deepcopy(self.given[int(value[1])])
        return value


def _taken(graph: Graph, slot: str, beside: tuple[str, ...]) -> list[Any] | None:
    """What the first node takes in `slot` that has one of the other inputs too."""
    for node, name, link in links(graph):
        if name == slot and any(one in graph[node]["inputs"] for one in beside):
            return link
    return None


def _behind(graph: Graph, *ends: list[Any]) -> Iterator[str]:
    """The nodes that these links come from, and all that those need."""
    wanted, seen = [end[0] for end in ends], set[str]()
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            yield name
            wanted += [link[0] for node, _, link in links(graph) if node == name]


def _renamed(node: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {
        slot: [f"{_OWN}{value[0]}", value[1]] if isinstance(value, list) else value
        for slot, value in node["inputs"].items()
    }
    return {**node, "inputs": inputs}
