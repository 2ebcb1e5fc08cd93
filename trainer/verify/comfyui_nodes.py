"""ComfyUI's nodes as `/object_info` describes them, and values for their inputs."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .case import PERSON, SALT

Graph = dict[str, dict[str, Any]]

LEFT_OUT = re.compile(r"^APL_|Save|Load(Image|Audio|Video|3D|Latent)|Train|Compile|Preview|Webcam")
"""Nodes that write files, learn or compile, and this project's own: a bare server has none."""

_SIDE = 64

_SIZES = (
    (r"seed", 0, 2**31),
    (r"batch|amount|repeat|num_|count|copies|multiplier", 1, 2),
    (r"steps?$|length|frames", 1, 3),
    (r"scale_by|upscale|megapixel", 0.5, 1.5),
    (r"width|height|size|resolution|^[xy]$|crop|(^|_)(left|right|top|bottom)$", 8, _SIDE),
)
"""What may not grow: a name's pattern, and the least and most that is asked for."""

_FIXED = {
    "CONDITIONING": ("CLIPTextEncode", 0),
    "LATENT": ("EmptyLatentImage", 0),
    "IMAGE": ("EmptyImage", 0),
    "MASK": ("SolidMask", 0),
    "SIGMAS": ("BasicScheduler", 0),
    "SAMPLER": ("KSamplerSelect", 0),
    "NOISE": ("RandomNoise", 0),
    "HOOKS": ("CreateHookLora", 0),
}
_DEPTH = 2
GROWS, CHOICE = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"
"""Inputs that become several, and inputs whose value brings more inputs along."""


class CannotFill(Exception):
    """A node that needs what this server cannot give."""


@dataclass(frozen=True)
class Slot:
    """One input of a node; `options` for lists of choices."""

    name: str
    kind: str
    needed: bool
    options: tuple[Any, ...] = ()
    limits: Mapping[str, Any] | None = None


class Nodes:
    """What a server's nodes take and give."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def raw(self, name: str) -> Mapping[str, Any]:
        """What the server says of a node."""
        return self._known[name]

    def usable(self) -> list[str]:
        """Nodes to draw from, in alphabetic order."""
        return sorted(
            name
            for name, told in self._known.items()
            if not told.get("api_node")
            and not told.get("output_node")
            and not LEFT_OUT.search(name)
        )

    def gives(self, name: str) -> list[str]:
        """Types of a node's outputs."""
        return [one if isinstance(one, str) else "COMBO" for one in self._known[name]["output"]]

    def slots(self, name: str) -> list[Slot]:
        """A node's inputs."""
        inputs = self._known[name]["input"]
        return [
            _slot(slot, told, part == "required")
            for part in ("required", "optional")
            for slot, told in (inputs.get(part) or {}).items()
        ]

    def choices(self, name: str, slot: str) -> list[str]:
        """What a node's list input offers; [] without the node."""
        if name not in self:
            return []
        return [str(o) for one in self.slots(name) if one.name == slot for o in one.options]

    def between(self, kind: str) -> list[str]:
        """Nodes that take a type as a needed input and give it back."""
        return [
            name
            for name in self.usable()
            if kind in self.gives(name)
            and any(one.kind == kind and one.needed for one in self.slots(name))
        ]


class Filler:
    """Adds nodes to a graph, each with all inputs that it needs.

    `graph` has the loader "model" (MODEL, CLIP, VAE). `bold` is how often a number is at an end of
    its range, and how often an input that is not needed is given; `side`: pixels of a picture.
    """

    def __init__(
        self, nodes: Nodes, graph: Graph, dice: random.Random, bold: float = 0.5, side: int = _SIDE
    ) -> None:
        self.nodes, self.graph, self.side = nodes, graph, side
        self._dice, self._bold = dice, bold

    def add(
        self,
        name: str,
        given: Mapping[str, Any] | None = None,
        depth: int = 0,
        also: Collection[str] = (),
    ) -> str:
        """The id of a new node, which has all inputs of the types `also` too; CannotFill."""
        if name not in self.nodes:
            raise CannotFill(name)
        inputs = dict(given or {})
        for slot in self.nodes.slots(name):
            if slot.name in inputs:
                continue
            wanted = slot.kind in also or (depth == 0 and self._dice.random() < self._bold / 2)
            if slot.needed or wanted:
                try:
                    inputs |= self._values(slot, depth, wanted)
                except CannotFill:
                    if slot.needed:
                        raise
        place = f"x{len(self.graph)}"
        self.graph[place] = node(name, **inputs)
        return place

    def text(self) -> str:
        """A text with the name in plain sight."""
        forms = ("a photo of {}", "({}:1.4) in a garden", "{}", "[{}] at night", "((a face)), {}")
        return self._dice.choice(forms).format(f"{PERSON} {SALT}")

    def link(self, kind: str, depth: int = 0) -> list[Any]:
        """A link of a type, from the loader, a stock node or any node that gives it; CannotFill."""
        parts = ("MODEL", "CLIP", "VAE")
        if kind in parts:
            return ["model", parts.index(kind)]
        if kind in _FIXED:
            name, output = _FIXED[kind]
            return [self.add(name, self._stock(name), depth + 1), output]
        if depth >= _DEPTH or kind.startswith("CLIP_VISION"):  # no checkpoint of texts has one
            raise CannotFill(kind)
        makers = [one for one in self.nodes.usable() if kind in self.nodes.gives(one)]
        self._dice.shuffle(makers)
        for name in makers[:6]:
            before = set(self.graph)
            try:
                return [self.add(name, {}, depth + 1), self.nodes.gives(name).index(kind)]
            except CannotFill:
                for one in set(self.graph) - before:
                    del self.graph[one]
        raise CannotFill(kind)

    def _stock(self, name: str) -> dict[str, Any]:
        if name == "CLIPTextEncode":
            return {"text": self.text()}
        side = {"width": self.side, "height": self.side, "batch_size": 1}
        return {slot.name: side[slot.name] for slot in self.nodes.slots(name) if slot.name in side}

    def _values(self, slot: Slot, depth: int, wanted: bool) -> dict[str, Any]:
        """What an input is given, by name: several of one that grows or brings others along."""
        told = slot.limits or {}
        if slot.kind == GROWS:
            grown = told.get("template") or {}
            (kind, *_), *_ = [*(grown.get("input") or {}).get("required", {}).values()] or [[""]]
            count = max(int(grown.get("min", 0)), int(wanted))
            names = grown.get("names") or [f"{grown.get('prefix', '')}{i}" for i in range(count)]
            return {f"{slot.name}.{one}": self.link(kind, depth) for one in names[:count]}
        if slot.kind == CHOICE:
            choice = self._dice.choice(told.get("options") or [{}])
            if not choice:
                raise CannotFill(slot.name)
            found: dict[str, Any] = {slot.name: choice["key"]}
            for name, one in (choice["inputs"].get("required") or {}).items():
                more = self._values(_slot(name, one, True), depth, False)
                found |= {f"{slot.name}.{key}": value for key, value in more.items()}
            return found
        return {slot.name: self._value(slot, depth)}

    def _value(self, slot: Slot, depth: int) -> Any:
        if slot.kind == "COMBO":
            if not slot.options:
                raise CannotFill(slot.name)
            return self._dice.choice(slot.options)
        if slot.kind in ("INT", "FLOAT"):
            return self._number(slot)
        if slot.kind == "BOOLEAN":
            return self._dice.random() < 0.5
        if slot.kind == "STRING":
            told = slot.limits or {}
            free = told.get("multiline") or told.get("dynamicPrompts")
            spoken = free or re.search(r"text|prompt|clip|t5|bert|llama|caption", slot.name)
            return self.text() if spoken else str(told.get("default") or "")
        if slot.kind.startswith("COMFY_"):
            raise CannotFill(slot.name)
        return self.link("CONDITIONING" if slot.kind == "*" else slot.kind, depth)

    def _number(self, slot: Slot) -> float | int:
        told = slot.limits or {}
        low, high = told.get("min", 0), told.get("max", 100)
        default = told.get("default", low)
        for pattern, least, most in _SIZES:
            if re.search(pattern, slot.name):
                if low <= most:  # else the node's own least is what is asked for
                    low, high = max(low, min(least, high)), max(low, min(high, most))
                else:
                    high = low
                default = min(max(default, low), high)
                break
        if self._dice.random() < self._bold:
            value = self._dice.choice((low, high))
        elif self._dice.random() < 0.5:
            value = default
        else:
            value = self._dice.uniform(max(low, -10), max(min(high, 10), low))
        if slot.kind == "FLOAT":
            return round(float(value), 4)
        step = int(told.get("step") or 1)
        return int(low + (int(value) - low) // step * step)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a graph."""
    return {"class_type": class_type, "inputs": inputs}


def _slot(name: str, told: Any, needed: bool) -> Slot:
    kind, limits = told[0], told[1] if len(told) > 1 and isinstance(told[1], dict) else {}
    if isinstance(kind, list):
        return Slot(name, "COMBO", needed, tuple(kind), limits)
    if kind == "COMBO":
        return Slot(name, "COMBO", needed, tuple(limits.get("options") or ()), limits)
    return Slot(name, str(kind).split(",")[0], needed, (), limits)


def links(graph: Graph) -> Iterator[tuple[str, str, list[Any]]]:
    """Every link of a graph: node, input, and the link."""
    for place, node in graph.items():
        for slot, value in node["inputs"].items():
            if isinstance(value, list) and len(value) == 2 and value[0] in graph:
                yield place, slot, value
