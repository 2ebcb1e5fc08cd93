"""Graphs for ComfyUI, in API format: the stock one, and ways to change it."""

from __future__ import annotations

import copy
import secrets
from typing import Any

from .case import PERSON, SALT
from .comfyui_nodes import Graph, Nodes


def graph(
    checkpoint: str,
    text: str,
    side: int,
    steps: int,
    *,
    negative: str = "",
    batch: int = 1,
    cfg: float = 7.0,
) -> Graph:
    """The stock text-to-image graph."""
    return {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "pos": encode(text),
        "neg": encode(negative),
        "latent": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": side, "height": side, "batch_size": batch},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "positive": ["pos", 0],
                "negative": ["neg", 0],
                "latent_image": ["latent", 0],
                "seed": secrets.randbelow(2**32),
                "steps": steps,
                "cfg": cfg,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "decode": {
            "class_type": "VAEDecode",
            "inputs": {"samples": ["sampler", 0], "vae": ["model", 2]},
        },
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["decode", 0], "filename_prefix": f"apl-verify-{SALT}"},
        },
    }


def encode(text: str) -> dict[str, Any]:
    """A stock node that encodes a text."""
    return {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": text}}


def swapped(graph: Graph, cfg: float) -> Graph:
    """The sides change places."""
    inputs = graph["sampler"]["inputs"]
    inputs.update(positive=["neg", 0], negative=["pos", 0], cfg=cfg)
    return graph


def clip_skip(graph: Graph) -> Graph:
    """Another last layer."""
    inputs = {"clip": ["model", 1], "stop_at_clip_layer": -2}
    graph["skip"] = {"class_type": "CLIPSetLastLayer", "inputs": inputs}
    graph["pos"]["inputs"]["clip"] = ["skip", 0]
    return graph


def lora(graph: Graph, name: str, strength: float = 0.5) -> Graph:
    """A LoRA between."""
    inputs = {
        "model": ["model", 0],
        "clip": ["model", 1],
        "lora_name": name,
        "strength_model": strength,
        "strength_clip": strength,
    }
    graph["lora"] = {"class_type": "LoraLoader", "inputs": inputs}
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    graph["pos"]["inputs"]["clip"] = ["lora", 1]
    return graph


def hooked(graph: Graph, name: str, scheduled: bool) -> Graph:
    """A LoRA that the host puts on while it encodes, in one piece or by the steps."""
    inputs = {"lora_name": name, "strength_model": 0.5, "strength_clip": 0.5}
    graph["hook"] = {"class_type": "CreateHookLora", "inputs": inputs}
    inputs = {
        "clip": ["model", 1],
        "hooks": ["hook", 0],
        "apply_to_conds": True,
        "schedule_clip": scheduled,
    }
    graph["hooked"] = {"class_type": "SetClipHooks", "inputs": inputs}
    graph["pos"]["inputs"]["clip"] = ["hooked", 0]
    return graph


def img2img(graph: Graph) -> Graph:
    """A picture to start from."""
    size = graph["latent"]["inputs"]
    image = {"width": size["width"], "height": size["height"], "batch_size": 1, "color": 0x808080}
    graph["image"] = {"class_type": "EmptyImage", "inputs": image}
    inputs = {"pixels": ["image", 0], "vae": ["model", 2]}
    graph["latent"] = {"class_type": "VAEEncode", "inputs": inputs}
    graph["sampler"]["inputs"]["denoise"] = 0.7
    return graph


def hires(graph: Graph, steps: int) -> Graph:
    """A second, larger pass with a text of its own."""
    inputs = {"samples": ["sampler", 0], "upscale_method": "nearest-exact", "scale_by": 1.5}
    graph["larger"] = {"class_type": "LatentUpscaleBy", "inputs": inputs}
    graph["pos2"] = encode(f"{PERSON} {SALT}, detailed")
    graph["second"] = copy.deepcopy(graph["sampler"])
    graph["second"]["inputs"].update(
        positive=["pos2", 0], latent_image=["larger", 0], denoise=0.6, steps=steps + 1
    )
    graph["decode"]["inputs"]["samples"] = ["second", 0]
    return graph


def joined(graph: Graph, class_type: str, **more: Any) -> Graph:
    """Two texts, joined by a node."""
    graph["other"] = encode(f"{PERSON} {SALT} in a garden")
    slots = {"ConditioningCombine": ("conditioning_1", "conditioning_2")}.get(
        class_type, ("conditioning_to", "conditioning_from")
    )
    inputs = {slots[0]: ["pos", 0], slots[1]: ["other", 0], **more}
    graph["joined"] = {"class_type": class_type, "inputs": inputs}
    graph["sampler"]["inputs"]["positive"] = ["joined", 0]
    return graph


def regional(graph: Graph) -> Graph:
    """A second text in a part of the picture."""
    graph = joined(graph, "ConditioningCombine")
    inputs = {
        "conditioning": ["other", 0],
        "width": 64,
        "height": 64,
        "x": 0,
        "y": 0,
        "strength": 1.0,
    }
    graph["area"] = {"class_type": "ConditioningSetArea", "inputs": inputs}
    graph["joined"]["inputs"]["conditioning_2"] = ["area", 0]
    return graph


def in_turns(graph: Graph) -> Graph:
    """Two texts, one after the other."""
    graph = joined(graph, "ConditioningCombine")
    for number, (node, start, end) in enumerate((("pos", 0.0, 0.5), ("other", 0.5, 1.0)), 1):
        inputs = {"conditioning": [node, 0], "start": start, "end": end}
        part = {"class_type": "ConditioningSetTimestepRange", "inputs": inputs}
        graph[f"part{number}"] = part
        graph["joined"]["inputs"][f"conditioning_{number}"] = [f"part{number}", 0]
    return graph


def custom(graph: Graph, steps: int) -> Graph:
    """The sampler in parts."""
    graph |= {
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": secrets.randbelow(2**32)}},
        "way": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "sigmas": {
            "class_type": "BasicScheduler",
            "inputs": {
                "model": ["model", 0],
                "scheduler": "normal",
                "steps": steps,
                "denoise": 1.0,
            },
        },
        "guide": {
            "class_type": "BasicGuider",
            "inputs": {"model": ["model", 0], "conditioning": ["pos", 0]},
        },
        "sampler": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["noise", 0],
                "guider": ["guide", 0],
                "sampler": ["way", 0],
                "sigmas": ["sigmas", 0],
                "latent_image": ["latent", 0],
            },
        },
    }
    del graph["neg"]
    return graph


def own_range(graph: Graph, name: str) -> Graph:
    """This project's own node."""
    text = graph["pos"]["inputs"]["text"]
    graph["load"] = {"class_type": "APL_LoadPrefix", "inputs": {"file": name}}
    inputs = {"clip": ["model", 1], "prefix": ["load", 0], "text": text, "start": 0.5, "end": 1.0}
    graph["pos"] = {"class_type": "APL_PrefixConditioning", "inputs": inputs}
    return graph


def sdxl_node(graph: Graph) -> Graph:
    """The text encoded by SDXL's node."""
    text = graph["pos"]["inputs"]["text"]
    inputs: dict[str, Any] = {"clip": ["model", 1], "text_g": text, "text_l": text}
    inputs |= {"width": 64, "height": 64, "target_width": 64, "target_height": 64}
    graph["pos"] = {
        "class_type": "CLIPTextEncodeSDXL",
        "inputs": {**inputs, "crop_w": 0, "crop_h": 0},
    }
    return graph


def preview(graph: Graph) -> Graph:
    """The picture is shown, not saved."""
    graph["save"] = {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}
    return graph


def runs(graph: Graph, nodes: Nodes) -> bool:
    """Whether the server has every node of the graph."""
    return all(node["class_type"] in nodes for node in graph.values())
