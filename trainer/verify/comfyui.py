"""The matrix for ComfyUI: graphs that try to get a text past the prefix."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from apl_core.errors import HostError
from apl_core.metadata import shown

from .http import Client, status
from .proof import Answer, Case

Graph = dict[str, dict[str, Any]]
_TEXTS = ("text", "text_g", "text_l", "clip_l", "t5xxl")
_LONG = 180
"""Numbers in a text of about 600 tokens: eight chunks and more."""

_PATIENCE = 900.0


@dataclass
class ComfyServer:
    """A ComfyUI by its address; `graph` is one more graph to try, in API format."""

    client: Client
    checkpoint: str = ""
    graph: Graph | None = None
    side: int = 64
    steps: int = 2
    _name: str = field(default="", init=False)
    _mark: str = field(default="", init=False)

    def status(self) -> Mapping[str, Any]:
        """What `GET /apl/status` answers."""
        said = status(self.client)
        self._name = str(said.get("enforced"))
        self._mark = f"{self._name} {said.get('hash')}"
        return said

    def cases(self) -> Sequence[Case]:
        """Every case that this server has the nodes and files for."""
        known = self.client.get("/object_info", {})
        checkpoints = _choices(known, "CheckpointLoaderSimple", "ckpt_name")
        found: list[Case] = []
        if self.checkpoint or checkpoints:
            found += self._stock(self.checkpoint or checkpoints[0], known)
        if self.graph is not None:
            found.append(Case("your graph", ({"prompt": _fresh(self.graph)},)))
        if not found:
            raise HostError(
                "verify the server", "it has no checkpoint", "give a graph of its own with --graph"
            )
        return found

    def send(self, case: Case) -> Sequence[Answer]:
        """Queue all graphs of a case, then wait for each."""
        asked = [self.client.ask("/prompt", body) for body in case.bodies]
        answers: list[Answer] = []
        for reply in asked:
            if reply.status != 200:
                answers.append(Answer("", 0, refusal=_refusal(reply.body)))
            else:
                answers.append(self._finished(str(reply.body["prompt_id"])))
        return answers

    def _finished(self, prompt_id: str) -> Answer:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            entry = self.client.get(f"/history/{prompt_id}", {}).get(prompt_id)
            if entry is not None:
                return self._read(prompt_id, entry)
            time.sleep(0.2)
        raise HostError(
            f"wait for {self.client.url}", f"a graph took more than {_PATIENCE:.0f} s", "try again"
        )

    def _read(self, prompt_id: str, entry: Mapping[str, Any]) -> Answer:
        images = [one for out in entry["outputs"].values() for one in out.get("images", [])]
        mark = self._mark.encode()
        says = all(mark in self.client.ask(f"/view?{urlencode(one)}").data for one in images)
        said = [
            str(what.get("exception_message", kind)).strip()
            for kind, what in entry["status"]["messages"]
            if kind == "execution_error"
        ]
        return Answer(prompt_id, len(images), says, "; ".join(said) or "no picture")

    def _stock(self, checkpoint: str, known: Mapping[str, Any]) -> list[Case]:
        def plain(text: str = "a photo of a man", **inputs: Any) -> Graph:
            return _graph(checkpoint, _unique(text), self.side, self.steps, **inputs)

        def case(name: str, *graphs: Graph, **more: Any) -> Case:
            return Case(name, tuple({"prompt": graph, **more} for graph in graphs))

        makers = {
            "plain": plain(),
            "negative prompt": plain(negative=_unique("blurry")),
            "emphasis": plain("a (photo:1.3) of a ((man)) [here]"),
            "schedule syntax": plain("[a cat:a man:0.5]"),
            "AND, BREAK": plain("a cat AND a man BREAK a dog"),
            "wildcard": plain("a {cat|man} here"),
            "embedding that is missing": plain("embedding:nothing a man"),
            "8 chunks": plain(" ".join(f"man {i}" for i in range(_LONG))),
            "batch of 2": plain(batch=2),
            "prompt as negative": _swapped(plain(negative="x"), cfg=1.0),
            "guidance below 1": plain(negative=_unique("a man"), cfg=0.5),
            "clip skip": _clip_skip(plain()),
            "img2img": _img2img(plain()),
            "hires fix": _hires(plain(), self.steps),
            "combined": _joined(plain(), "ConditioningCombine"),
            "averaged": _joined(plain(), "ConditioningAverage", conditioning_to_strength=0.5),
            "concatenated": _joined(plain(), "ConditioningConcat"),
            "regional": _regional(plain()),
            "in turns": _in_turns(plain()),
            "custom sampler": _custom(plain(), self.steps),
            "our node, last half only": _own_range(plain(), self._name),
        }
        found = [case(name, graph) for name, graph in makers.items() if _runs(graph, known)]
        found += [
            case("two users at once", plain(), plain("a photo of a woman")),
            case("one branch only", plain(), partial_execution_targets=["save"]),
            case("its own metadata", plain(), extra_data={"extra_pnginfo": {"APL": "off"}}),
            case("unknown node", _unknown(plain())),
        ]
        loras = _choices(known, "LoraLoader", "lora_name")
        if loras:
            found.append(case("LoRA", _lora(plain(), loras[0])))
            hooked = {
                scheduled: _hooked(plain(), loras[0], scheduled) for scheduled in (False, True)
            }
            found += [
                case("LoRA by hook, in turns" if scheduled else "LoRA by hook", graph)
                for scheduled, graph in hooked.items()
                if _runs(graph, known)
            ]
        if "CLIPTextEncodeSDXL" in known:
            found.append(case("SDXL's encode node", _sdxl_node(plain())))
        return found


def _graph(checkpoint: str, text: str, side: int, steps: int, *, negative: str = "",
           batch: int = 1, cfg: float = 7.0) -> Graph:  # fmt: skip
    """The stock text-to-image graph."""
    return {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "pos": _encode(text),
        "neg": _encode(negative),
        "latent": {"class_type": "EmptyLatentImage",
                   "inputs": {"width": side, "height": side, "batch_size": batch}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0],
                "latent_image": ["latent", 0], "seed": secrets.randbelow(2**32), "steps": steps,
                "cfg": cfg, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode",
                   "inputs": {"samples": ["sampler", 0], "vae": ["model", 2]}},
        "save": {"class_type": "SaveImage",
                 "inputs": {"images": ["decode", 0], "filename_prefix": "apl-verify"}},
    }  # fmt: skip


def _encode(text: str) -> dict[str, Any]:
    return {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": text}}


def _unique(text: str) -> str:
    """The text with a word that no cache has seen."""
    return f"{text} {secrets.token_hex(4)}"


def _fresh(graph: Graph) -> Graph:
    fresh = copy.deepcopy(graph)
    for node in fresh.values():
        for slot, value in node.get("inputs", {}).items():
            if slot in _TEXTS and isinstance(value, str) and value.strip():
                node["inputs"][slot] = _unique(value)
            elif slot in ("seed", "noise_seed") and isinstance(value, int):
                node["inputs"][slot] = secrets.randbelow(2**32)
    return fresh


def _swapped(graph: Graph, cfg: float) -> Graph:
    inputs = graph["sampler"]["inputs"]
    inputs.update(positive=["neg", 0], negative=["pos", 0], cfg=cfg)
    return graph


def _clip_skip(graph: Graph) -> Graph:
    inputs = {"clip": ["model", 1], "stop_at_clip_layer": -2}
    graph["skip"] = {"class_type": "CLIPSetLastLayer", "inputs": inputs}
    graph["pos"]["inputs"]["clip"] = ["skip", 0]
    return graph


def _lora(graph: Graph, name: str) -> Graph:
    inputs = {"model": ["model", 0], "clip": ["model", 1], "lora_name": name,
              "strength_model": 0.5, "strength_clip": 0.5}  # fmt: skip
    graph["lora"] = {"class_type": "LoraLoader", "inputs": inputs}
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    graph["pos"]["inputs"]["clip"] = ["lora", 1]
    return graph


def _hooked(graph: Graph, name: str, scheduled: bool) -> Graph:
    """A LoRA that the host puts on while it encodes, in one piece or by the steps."""
    inputs = {"lora_name": name, "strength_model": 0.5, "strength_clip": 0.5}
    graph["hook"] = {"class_type": "CreateHookLora", "inputs": inputs}
    inputs = {"clip": ["model", 1], "hooks": ["hook", 0], "apply_to_conds": True,
              "schedule_clip": scheduled}  # fmt: skip
    graph["hooked"] = {"class_type": "SetClipHooks", "inputs": inputs}
    graph["pos"]["inputs"]["clip"] = ["hooked", 0]
    return graph


def _img2img(graph: Graph) -> Graph:
    size = graph["latent"]["inputs"]
    image = {"width": size["width"], "height": size["height"], "batch_size": 1, "color": 0x808080}
    graph["image"] = {"class_type": "EmptyImage", "inputs": image}
    inputs = {"pixels": ["image", 0], "vae": ["model", 2]}
    graph["latent"] = {"class_type": "VAEEncode", "inputs": inputs}
    graph["sampler"]["inputs"]["denoise"] = 0.7
    return graph


def _hires(graph: Graph, steps: int) -> Graph:
    inputs = {"samples": ["sampler", 0], "upscale_method": "nearest-exact", "scale_by": 1.5}
    graph["larger"] = {"class_type": "LatentUpscaleBy", "inputs": inputs}
    graph["pos2"] = _encode(_unique("a man, detailed"))
    graph["second"] = copy.deepcopy(graph["sampler"])
    graph["second"]["inputs"].update(
        positive=["pos2", 0], latent_image=["larger", 0], denoise=0.6, steps=steps + 1
    )
    graph["decode"]["inputs"]["samples"] = ["second", 0]
    return graph


def _joined(graph: Graph, class_type: str, **more: Any) -> Graph:
    graph["other"] = _encode(_unique("a man in a garden"))
    slots = {
        "ConditioningCombine": ("conditioning_1", "conditioning_2"),
    }.get(class_type, ("conditioning_to", "conditioning_from"))
    inputs = {slots[0]: ["pos", 0], slots[1]: ["other", 0], **more}
    graph["joined"] = {"class_type": class_type, "inputs": inputs}
    graph["sampler"]["inputs"]["positive"] = ["joined", 0]
    return graph


def _regional(graph: Graph) -> Graph:
    graph = _joined(graph, "ConditioningCombine")
    inputs = {"conditioning": ["other", 0], "width": 64, "height": 64, "x": 0, "y": 0,
              "strength": 1.0}  # fmt: skip
    graph["area"] = {"class_type": "ConditioningSetArea", "inputs": inputs}
    graph["joined"]["inputs"]["conditioning_2"] = ["area", 0]
    return graph


def _in_turns(graph: Graph) -> Graph:
    graph = _joined(graph, "ConditioningCombine")
    for number, (node, start, end) in enumerate((("pos", 0.0, 0.5), ("other", 0.5, 1.0)), 1):
        inputs = {"conditioning": [node, 0], "start": start, "end": end}
        part = {"class_type": "ConditioningSetTimestepRange", "inputs": inputs}
        graph[f"part{number}"] = part
        graph["joined"]["inputs"][f"conditioning_{number}"] = [f"part{number}", 0]
    return graph


def _custom(graph: Graph, steps: int) -> Graph:
    graph |= {
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": secrets.randbelow(2**32)}},
        "way": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "sigmas": {"class_type": "BasicScheduler", "inputs": {
            "model": ["model", 0], "scheduler": "normal", "steps": steps, "denoise": 1.0}},
        "guide": {"class_type": "BasicGuider", "inputs": {
            "model": ["model", 0], "conditioning": ["pos", 0]}},
        "sampler": {"class_type": "SamplerCustomAdvanced", "inputs": {
            "noise": ["noise", 0], "guider": ["guide", 0], "sampler": ["way", 0],
            "sigmas": ["sigmas", 0], "latent_image": ["latent", 0]}},
    }  # fmt: skip
    del graph["neg"]
    return graph


def _own_range(graph: Graph, name: str) -> Graph:
    text = graph["pos"]["inputs"]["text"]
    graph["load"] = {"class_type": "APL_LoadPrefix", "inputs": {"file": name}}
    inputs = {"clip": ["model", 1], "prefix": ["load", 0], "text": text, "start": 0.5, "end": 1.0}
    graph["pos"] = {"class_type": "APL_PrefixConditioning", "inputs": inputs}
    return graph


def _sdxl_node(graph: Graph) -> Graph:
    text = graph["pos"]["inputs"]["text"]
    inputs: dict[str, Any] = {"clip": ["model", 1], "text_g": text, "text_l": text}
    inputs |= {"width": 64, "height": 64, "target_width": 64, "target_height": 64}
    graph["pos"] = {
        "class_type": "CLIPTextEncodeSDXL",
        "inputs": {**inputs, "crop_w": 0, "crop_h": 0},
    }
    return graph


def _unknown(graph: Graph) -> Graph:
    graph["pos"] = {"class_type": "SomebodysTextEncode", "inputs": dict(graph["pos"]["inputs"])}
    return graph


def _runs(graph: Graph, known: Mapping[str, Any]) -> bool:
    """Whether the server has every node of the graph."""
    return all(node["class_type"] in known for node in graph.values())


def _choices(known: Mapping[str, Any], node: str, slot: str) -> list[str]:
    """What a node's list input offers, in the old and the new way of saying so."""
    declared = known.get(node, {}).get("input", {}).get("required", {}).get(slot, [[]])
    if isinstance(declared[0], list):
        return [str(one) for one in declared[0]]
    return [str(one) for one in declared[1].get("options", [])] if len(declared) > 1 else []


def _refusal(body: Any) -> str:
    """What ComfyUI's validation said, shortest first."""
    if not isinstance(body, dict):
        return "refused"
    errors = [
        str(one.get("details") or one.get("message"))
        for node in body.get("node_errors", {}).values()
        for one in node.get("errors", [])
    ]
    return shown("; ".join(errors) or str(body.get("error", "refused")), 200)
