"""The matrix for ComfyUI: graphs that try to get a text past the prefix."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

from . import comfyui_graphs as graphs
from .case import PERSON, SALT, SPELLED, Case
from .comfyui_nodes import CannotFill, Filler, Graph, Nodes, node

_LONG = 180
"""Numbers in a text of about 600 tokens: eight chunks and more."""

_EXTRA: tuple[Any, ...] = (5, [], "off", {"APL": "off"})


class Matrix:
    """Requests for a server that knows these nodes; `name` is the prefix that it enforces."""

    def __init__(
        self, known: Mapping[str, Any], checkpoint: str, side: int, steps: int, name: str
    ) -> None:
        self._nodes = Nodes(known)
        self._checkpoint, self._side, self._steps, self._name = checkpoint, side, steps, name

    def cases(self) -> list[Case]:
        """Every case that the server has the nodes and files for; the plain one first."""
        makers = {**self._stock(), **self._links(), **self._negatives(), **self._by_file()}
        found = [
            self._case(name, graph)
            for name, graph in makers.items()
            if graphs.runs(graph, self._nodes)
        ]
        return [*found, *self._odd(), *self._swept(), self._own()]

    def textless(self) -> Case | None:
        """A request whose conditionings are zeros: its picture hangs on the weights alone."""
        graph = self._plain()
        for side in ("pos", "neg"):
            graph[f"{side}0"] = node("ConditioningZeroOut", conditioning=[side, 0])
        graphs.sampled(graph, positive=["pos0", 0], negative=["neg0", 0])
        return self._case("textless", graph) if graphs.runs(graph, self._nodes) else None

    def _plain(
        self, text: str = "a photo of {}", negative: str = "blurry {}", **inputs: Any
    ) -> Graph:
        """The stock graph; "{}" in a text is the person."""
        who, salt = f"{PERSON} {SALT}", SALT
        texts = text.replace("{}", who), negative.replace("{}", salt)
        return graphs.graph(
            self._checkpoint, texts[0], self._side, self._steps, negative=texts[1], **inputs
        )

    @staticmethod
    def _case(name: str, *graphs: Graph, **more: Any) -> Case:
        return Case(name, tuple({"prompt": graph, **more} for graph in graphs))

    def _stock(self) -> dict[str, Graph]:
        plain = self._plain
        return {
            "plain": plain(),
            "negative prompt": plain(negative=f"blurry {PERSON} {{}}"),
            "emphasis": plain("a (photo:1.3) of (({})) [here]"),
            "schedule syntax": plain("[a cat:{}:0.5]"),
            "AND, BREAK": plain("a cat AND {} BREAK a dog"),
            "wildcard": plain("a {cat|man} here, {}"),
            **{f"a turn or an end of {whose}": plain(text) for whose, text in SPELLED.items()},
            "embedding that is missing": plain("embedding:nothing {}"),
            "8 chunks": plain("{} " + " ".join(f"man {i}" for i in range(_LONG))),
            "batch of 2": plain(batch=2),
            "clip skip": graphs.read_with(
                plain(), "CLIPSetLastLayer", clip=graphs.CLIP, stop_at_clip_layer=-2
            ),
            "img2img": graphs.img2img(plain()),
            "hires fix": graphs.hires(plain(), self._steps),
            "combined": graphs.joined(plain(), "ConditioningCombine"),
            "averaged": graphs.joined(plain(), "ConditioningAverage", conditioning_to_strength=0.5),
            "concatenated": graphs.joined(plain(), "ConditioningConcat"),
            "regional": graphs.regional(plain()),
            "in turns": graphs.in_turns(plain()),
            "custom sampler": graphs.custom(plain(), self._steps),
            "preview": {**plain(), "save": node("PreviewImage", images=["decode", 0])},
        }

    def _links(self) -> dict[str, Graph]:
        """Links as a host may read them, and numbers that no range is checked for."""
        forms: dict[str, Any] = {
            "link of index -1": ["pos", -1],
            "link in __value__": {"__value__": ["pos", 0]},
            "link of index 0.0": ["pos", 0.0],
            "link of index false": ["pos", False],
        }
        found: dict[str, Graph] = {}
        for name, form in forms.items():
            turned = graphs.sampled(self._plain(cfg=1.0), negative=["pos", 0])
            found[name] = graphs.sampled(copy.deepcopy(turned), positive=form)
            graph = found[f"{name}, beside another text"] = graphs.joined(
                turned, "ConditioningCombine"
            )
            graph["joined"]["inputs"]["conditioning_1"] = form
        model = self._plain()
        model["pos"]["inputs"]["clip"] = ["model", -2]
        return {**found, "encoder by index -2": model}

    def _negatives(self) -> dict[str, Graph]:
        """Requests that the negative text draws."""
        plain = self._plain
        named = f"a photo of {PERSON} {{}}"
        found = {
            "prompt as negative": graphs.sampled(
                plain(cfg=1.0), positive=["neg", 0], negative=["pos", 0]
            ),
            "guidance of 0": plain(f"a cat {SALT}", named, cfg=0.0),
            "guidance below 1": plain(f"a cat {SALT}", named, cfg=0.5),
            "empty text beside a name": plain("", named),
        }
        far = {**plain(f"a cat {SALT}", named), "far": node("PrimitiveFloat", value=-7.0)}
        found["guidance of -7 by a link"] = graphs.sampled(far, cfg=["far", 0])
        scales = {"scale_low": 0.0, "scale_high": 0.0, "freq_cutoff": 20}
        for said, text in {"": "", ", positive of its own": f"a cat {SALT}"}.items():
            graph = plain(text, named)
            graph["fresca"] = node("FreSca", model=graphs.MODEL, **scales)
            found[f"negative drawn by FreSca{said}"] = graphs.sampled(graph, model=["fresca", 0])
        return found

    def _by_file(self) -> dict[str, Graph]:
        """What needs a LoRA, another encoder or SDXL's node."""
        found: dict[str, Graph] = {}
        loras = self._nodes.choices("LoraLoader", "lora_name")
        for name in loras[:1]:
            found["LoRA"] = graphs.lora(self._plain(), name)
            found["LoRA and empty texts"] = graphs.lora(self._plain("", ""), name, 0.9)
            found["LoRA and an empty text"] = graphs.lora(self._plain(""), name, 0.9)
            found["LoRA by hook"] = graphs.hooked(self._plain(), name, False)
            found["LoRA by hook, in turns"] = graphs.hooked(self._plain(), name, True)
        for file in self._nodes.choices("CLIPLoader", "clip_name"):
            which = {"clip_name": file, "type": "stable_diffusion"}
            found[f"encoder of {file}"] = graphs.read_with(self._plain(), "CLIPLoader", **which)
        return {**found, "SDXL's encode node": graphs.sdxl_node(self._plain())}

    def _odd(self) -> list[Case]:
        """Bodies that are odd around the graph, or in it."""
        plain, case = self._plain, self._case
        graph = plain()
        found = [
            Case(
                f"extra data {shape!r}",
                ({"prompt": graph, "extra_data": shape},),
                ({"prompt": graph},),
            )  # a bare server may fail over it, and is asked without
            for shape in (*({"extra_pnginfo": one} for one in _EXTRA), "off")
        ]
        fine = {"prompt": plain()}
        stray, ours = (
            {"prompt": {**graph, "stray": {"class_type": name}}}
            for name in ("CLIPTextEncode", "APL_LoadPrefix")
        )
        unknown = plain()
        unknown["pos"]["class_type"] = "SomebodysTextEncode"
        return [
            *found,
            case("two users at once", plain(), plain("a photo of {}, a woman")),
            case("one branch only", plain(), partial_execution_targets=["save"]),
            case("unknown node", unknown),
            # a bare ComfyUI 0.33 stops working over it, and is asked without
            Case("node without inputs", (stray,), ({"prompt": graph},), (fine,)),
            Case("our node without inputs", (ours,), ({"prompt": graph},), (fine,)),
        ]

    def _own(self) -> Case:
        """This project's node, with a range that leaves the first half out."""
        bare = self._plain()
        graph = graphs.own_range(copy.deepcopy(bare), self._name)
        return Case("our node, last half only", ({"prompt": graph},), ({"prompt": bare},))

    def _swept(self) -> list[Case]:
        """Every node that encodes, and every node with a positive and a negative, turned round."""
        found: list[Case] = []
        for name in self._nodes.usable():
            slots = {one.name: one.kind for one in self._nodes.slots(name)}
            gives = self._nodes.gives(name)
            graph = self._plain()
            filler = Filler(self._nodes, graph, random.Random(name), bold=0.0)
            try:
                if "CLIP" in slots.values() and "CONDITIONING" in gives:
                    new = filler.add(name)
                    graphs.sampled(graph, positive=[new, gives.index("CONDITIONING")])
                    found.append(self._case(f"encoded by {name}", graph))
                elif gives.count("CONDITIONING") > 1 and {"positive", "negative"} <= set(slots):
                    new = filler.add(name, {"positive": ["neg", 0], "negative": ["pos", 0]})
                    graphs.sampled(graph, positive=[new, 1], negative=[new, 0], cfg=1.0)
                    found.append(self._case(f"turned round by {name}", graph))
            except CannotFill:
                continue
        return found
