"""Operator mode: rewrite a queued graph so that every positive text is prefixed, or refuse it.

Knows graphs and types of nodes, no ComfyUI: what a class of node takes and gives comes in as facts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from apl_core.errors import HostError

Graph = dict[str, Any]
Link = tuple[str, int]

LOAD, APPLY = "APL_LoadPrefix", "APL_ApplyPrefix"
GUIDED = frozenset({"KSampler", "KSamplerAdvanced", "SamplerCustom", "CFGGuider"})
"""Samplers whose `negative` input is pushed away from, as long as their `cfg` is at least 1."""

GUIDANCE_SHAPERS = frozenset({"VideoLinearCFGGuidance", "VideoTriangleCFGGuidance"})
"""Nodes that let the scale fall below `cfg`, so that a negative prompt could draw a picture."""


@dataclass(frozen=True)
class NodeFacts:
    """What a class of node takes (name -> type) and gives, and whether this mode lets it run."""

    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    names: tuple[str, ...]
    trusted: bool


class Catalogue(Protocol):
    """Where facts about classes of nodes come from."""

    def __call__(self, class_type: str) -> NodeFacts | None:
        """The facts, or None for an unknown class."""
        ...


class NotCovered(HostError):
    """A node of the graph is out of the prefix's reach; `node` is its id."""

    def __init__(self, node: str, class_type: str, found: str, fix: str) -> None:
        super().__init__(f"run the node {class_type!r} under an enforced prefix", found, fix)
        self.node = node


def enforced(graph: Graph, catalogue: Catalogue, name: str) -> Graph:
    """A copy of `graph` with prefix `name` in every positive text; NotCovered where that fails."""
    facts = {node: _facts(node, graph, catalogue) for node in graph}
    for node, one in facts.items():
        _check(node, graph[node], one)
    rewritten = copy.deepcopy(graph)
    load = _free("apl_enforced", graph)
    rewritten[load] = {"class_type": LOAD, "inputs": {"file": name}}
    for source, takers in _clip_links(graph, facts).items():
        covered = [taker for taker in takers if not _is_negative(taker[0], graph, facts)]
        if covered and not _has_prefix(source, graph, name):
            apply = _free(f"apl_enforced_{source[0]}_{source[1]}", graph)
            inputs = {"clip": list(source), "prefix": [load, 0]}
            rewritten[apply] = {"class_type": APPLY, "inputs": inputs}
            for node, slot in covered:
                rewritten[node]["inputs"][slot] = [apply, 0]
    return rewritten


def side_is_negative(node: str, graph: Graph, catalogue: Catalogue) -> bool:
    """Whether all that a node gives is only pushed away from; NotCovered for unknown nodes."""
    return _is_negative(node, graph, {one: _facts(one, graph, catalogue) for one in graph})


def _facts(node: str, graph: Graph, catalogue: Catalogue) -> NodeFacts:
    class_type = graph[node].get("class_type") if isinstance(graph[node], dict) else None
    facts = catalogue(class_type) if isinstance(class_type, str) else None
    if facts is None or not isinstance(graph[node].get("inputs", {}), dict):
        raise NotCovered(
            node, str(class_type), "this server does not know such a node", "remove it"
        )
    return facts


def _check(node: str, entry: dict[str, Any], facts: NodeFacts) -> None:
    """NotCovered for a node that could bring a text into a picture past every CLIP link."""
    if not facts.trusted:
        raise NotCovered(
            node,
            entry["class_type"],
            "it is not one of ComfyUI's own local nodes, so it could make a picture without the "
            "prefix",
            "remove it, or ask the operator of this server to allow it in APL_ENFORCE_NODES",
        )
    linked = {facts.inputs.get(slot) for slot, _ in _links(entry)}
    if "CONDITIONING" in facts.outputs and not linked & {"CLIP", "CONDITIONING"}:
        raise NotCovered(
            node,
            entry["class_type"],
            "it makes a conditioning without a CLIP, so the prefix cannot be put in",
            "encode the text with CLIP Text Encode",
        )


def _clip_links(graph: Graph, facts: Mapping[str, NodeFacts]) -> dict[Link, list[tuple[str, str]]]:
    """Every output that serves as a CLIP, with the (node, input) places that use it up."""
    found: dict[Link, list[tuple[str, str]]] = {}
    for node, entry in graph.items():
        passes_on = "CLIP" in facts[node].outputs and "CONDITIONING" not in facts[node].outputs
        for slot, source in _links(entry):
            if facts[node].inputs.get(slot) == "CLIP" and not passes_on:
                found.setdefault(source, []).append((node, slot))
    return found


def _is_negative(node: str, graph: Graph, facts: Mapping[str, NodeFacts]) -> bool:
    """Whether all that this node gives ends up only where a sampler pushes away from it."""
    if any(entry["class_type"] in GUIDANCE_SHAPERS for entry in graph.values()):
        return False
    open_ends: list[Link] = [(node, slot) for slot in range(len(facts[node].outputs))]
    seen: set[Link] = set()
    ends = 0
    while open_ends:
        source = open_ends.pop()
        if source in seen:
            continue
        seen.add(source)
        for taker, slot in _takers(graph, source):
            if slot != "negative":
                return False
            entry = graph[taker]
            if entry["class_type"] in GUIDED:
                if not _guided(entry):
                    return False
                ends += 1
            elif "negative" in facts[taker].names:
                open_ends.append((taker, facts[taker].names.index("negative")))
            else:
                return False
    return ends > 0


def _guided(entry: dict[str, Any]) -> bool:
    cfg = entry["inputs"].get("cfg")
    return isinstance(cfg, int | float) and not isinstance(cfg, bool) and cfg >= 1


def _has_prefix(source: Link, graph: Graph, name: str) -> bool:
    """Whether this output is a CLIP with the very prefix already."""
    entry = graph.get(source[0], {})
    loader = _link(entry.get("inputs", {}).get("prefix"))
    if entry.get("class_type") != APPLY or loader is None:
        return False
    loaded = graph.get(loader[0], {})
    return loaded.get("class_type") == LOAD and loaded.get("inputs", {}).get("file") == name


def _takers(graph: Graph, source: Link) -> Iterator[tuple[str, str]]:
    for node, entry in graph.items():
        for slot, link in _links(entry):
            if link == source:
                yield node, slot


def _links(entry: dict[str, Any]) -> Iterator[tuple[str, Link]]:
    """(input, source) of every input that is wired."""
    for slot, value in entry.get("inputs", {}).items():
        link = _link(value)
        if link is not None:
            yield slot, link


def _link(value: Any) -> Link | None:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        return (value[0], int(value[1])) if isinstance(value[1], int | float) else None
    return None


def _free(wanted: str, graph: Graph) -> str:
    """An id that the graph does not use yet."""
    while wanted in graph:
        wanted += "_"
    return wanted
