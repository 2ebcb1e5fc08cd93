"""Which prefixes the pictures of a graph were made with, as far as the graph itself can tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

Graph = dict[str, Any]

LOAD = "APL_LoadPrefix"
USERS = frozenset({"APL_ApplyPrefix", "APL_PrefixConditioning"})


def used_prefixes(graph: object, is_output: Callable[[str], bool]) -> list[str]:
    """Files of loaded prefixes that stand behind every picture that the graph gives, sorted.

    A loader that nothing uses (what it led to is bypassed) is none, and neither is one of a graph
    that saves pictures without it too: all pictures of a graph get the same metadata.
    """
    nodes = dict(_nodes(graph))
    outputs = [node for node, entry in nodes.items() if is_output(entry["class_type"])]
    found: set[str] = set()
    for node, entry in nodes.items():
        file = entry["inputs"].get("file")
        if entry["class_type"] == LOAD and isinstance(file, str):
            users = {one for one in _takers(nodes, {node}) if nodes[one]["class_type"] in USERS}
            behind = _behind(nodes, users)
            if outputs and users and behind.issuperset(outputs):
                found.add(file)
    return sorted(found)


def loaded_files(graph: object) -> list[str]:
    """Files of all prefixes that a graph loads, sorted."""
    files = {
        entry["inputs"].get("file") for _, entry in _nodes(graph) if entry["class_type"] == LOAD
    }
    return sorted(file for file in files if isinstance(file, str))


def _nodes(graph: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """The nodes that are written down as they should be."""
    for node, entry in graph.items() if isinstance(graph, dict) else ():
        inputs = entry.get("inputs") if isinstance(entry, dict) else None
        if isinstance(inputs, dict) and isinstance(entry.get("class_type"), str):
            yield str(node), entry


def _behind(nodes: Graph, sources: Collection[str]) -> set[str]:
    """All nodes that take something which comes from the sources."""
    found: set[str] = set()
    latest = set(sources)
    while latest:
        latest = _takers(nodes, latest) - found
        found |= latest
    return found


def _takers(nodes: Graph, sources: Collection[str]) -> set[str]:
    return {
        node
        for node, entry in nodes.items()
        if any(
            isinstance(value, list) and len(value) == 2 and str(value[0]) in sources
            for value in entry["inputs"].values()
        )
    }
