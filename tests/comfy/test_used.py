"""Which prefixes a graph's pictures were made with, and what values carry from node to node."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import torch
from apl_comfy import marks
from apl_comfy.used import Graph, loaded_files, used_prefixes


def graph(*saves: str, clip: object = ("apply", 0), **more: Any) -> Graph:
    """A graph that encodes with the CLIP given and saves what comes of it."""
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "load": ("APL_LoadPrefix", {"file": "house"}),
        "apply": ("APL_ApplyPrefix", {"clip": ["model", 1], "prefix": ["load", 0]}),
        "text": ("Encode", {"clip": list(clip) if isinstance(clip, tuple) else clip}),
        "bare": ("Encode", {"clip": ["model", 1]}),
        **{f"save{at}": ("Save", {"images": [source, 0]}) for at, source in enumerate(saves)},
        **more,
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}


def used(given: object) -> list[str]:
    """The prefixes that all pictures of a graph were made with."""
    return used_prefixes(given, lambda kind: kind == "Save")


def test_a_prefix_behind_every_picture_is_named() -> None:
    assert used(graph("text")) == ["house"]
    assert used(graph("text", "text")) == ["house"]
    assert used(graph("text", clip=("apply", -1))) == ["house"], "an odd link is a link"


@pytest.mark.parametrize(
    "given",
    [
        graph("text", clip=("model", 1)),  # APL Apply Prefix is bypassed
        graph("text", "bare"),
        graph("bare"),
        graph(),
        {**graph("text"), "load": {"class_type": "APL_LoadPrefix", "inputs": {"file": ["x", 0]}}},
        {**graph("text"), "load": {"class_type": "APL_LoadPrefix"}},
        {"load": 5},
        None,
        [],
    ],
)
def test_nothing_is_named_that_a_picture_was_made_without(given: object) -> None:
    before = copy.deepcopy(given)
    assert used(given) == []
    assert given == before


def test_loaded_files_are_all_that_a_graph_loads() -> None:
    assert loaded_files(graph("bare")) == ["house"]
    assert loaded_files({"a": None}) == loaded_files("x") == []


def test_what_is_made_of_a_value_carries_its_marks() -> None:
    conditioning = [[torch.zeros(1, 2), {"pooled_output": torch.ones(2)}]]
    marks.put(conditioning, {"one"})
    assert marks.of({"positive": [conditioning]}) == {"one"}
    assert marks.of(conditioning[0][1]["pooled_output"]) == {"one"}
    latent = {"samples": torch.zeros(1)}
    marks.put(latent, marks.of(conditioning) | {"two"})
    assert marks.of([latent]) == {"one", "two"}
    assert marks.of([torch.zeros(1), 5, "text", None, type]) == set()
    marks.put([torch.zeros(1), 5, "text", None, type], {"three"})
    assert not hasattr(type, "apl_read")


def test_reading_hears_what_tasks_inside_it_read() -> None:
    async def node() -> None:
        await asyncio.sleep(0)
        marks.read("inner")

    async def run() -> set[str]:
        with marks.reading() as found:
            await asyncio.create_task(node())
            with marks.reading() as nested:
                marks.read("nested")
            assert nested == {"nested"}
        marks.read("outside")
        return found

    assert asyncio.run(run()) == {"inner", "nested"}
