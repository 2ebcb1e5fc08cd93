"""Graphs for ComfyUI, in API format: the stock one, and ways to change it."""

from __future__ import annotations

import copy
import secrets
from typing import Any

from .case import PERSON, SALT
from .comfyui_nodes import Graph, Nodes, node

MODEL, CLIP, VAE = ["model", 0], ["model", 1], ["model", 2]
"""What the stock graph's loader gives."""


def graph(
    checkpoint: str,
    text: str,
    side: int = 64,
    steps: int = 2,
    *,
    negative: str = "",
    batch: int = 1,
    cfg: float = 7.0,
    seed: int | None = None,
) -> Graph:
    """The stock text-to-image graph; a seed of its own if none is given."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "pos": encode(text),
        "neg": encode(negative),
        "latent": node("EmptyLatentImage", width=side, height=side, batch_size=batch),
        "sampler": node(
            "KSampler",
            model=MODEL,
            positive=["pos", 0],
            negative=["neg", 0],
            latent_image=["latent", 0],
            seed=secrets.randbelow(2**32) if seed is None else seed,
            steps=steps,
            cfg=cfg,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        **saved(),
    }


def saved(prefix: str = f"apl-verify-{SALT}") -> Graph:
    """The nodes that make a picture of the sampler's latents and save it."""
    return {
        "decode": node("VAEDecode", samples=["sampler", 0], vae=VAE),
        "save": node("SaveImage", images=["decode", 0], filename_prefix=prefix),
    }


def encode(text: str) -> dict[str, Any]:
    """A stock node that encodes a text."""
    return node("CLIPTextEncode", clip=CLIP, text=text)


def sampled(graph: Graph, **inputs: Any) -> Graph:
    """The sampler gets other inputs."""
    graph["sampler"]["inputs"].update(inputs)
    return graph


def read_with(graph: Graph, class_type: str, **inputs: Any) -> Graph:
    """The prompt is encoded by another node's CLIP."""
    graph["own"] = node(class_type, **inputs)
    graph["pos"]["inputs"]["clip"] = ["own", 0]
    return graph


def lora(graph: Graph, name: str, strength: float = 0.5) -> Graph:
    """A LoRA between."""
    strengths = {"strength_model": strength, "strength_clip": strength}
    graph["lora"] = node("LoraLoader", model=MODEL, clip=CLIP, lora_name=name, **strengths)
    graph["pos"]["inputs"]["clip"] = ["lora", 1]
    return sampled(graph, model=["lora", 0])


def hooked(graph: Graph, name: str, scheduled: bool) -> Graph:
    """A LoRA that the host puts on while it encodes, in one piece or by the steps."""
    graph["hook"] = node("CreateHookLora", lora_name=name, strength_model=0.5, strength_clip=0.5)
    more = {"apply_to_conds": True, "schedule_clip": scheduled}
    return read_with(graph, "SetClipHooks", clip=CLIP, hooks=["hook", 0], **more)


def img2img(graph: Graph) -> Graph:
    """A picture to start from."""
    graph["image"] = node("EmptyImage", **graph["latent"]["inputs"], color=0x808080)
    graph["latent"] = node("VAEEncode", pixels=["image", 0], vae=VAE)
    return sampled(graph, denoise=0.7)


def hires(graph: Graph, steps: int) -> Graph:
    """A second, larger pass with a text of its own."""
    how = {"upscale_method": "nearest-exact", "scale_by": 1.5}
    graph["larger"] = node("LatentUpscaleBy", samples=["sampler", 0], **how)
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
    inputs = {slots[0]: ["pos", 0], slots[1]: ["other", 0]}
    graph["joined"] = node(class_type, **inputs, **more)
    return sampled(graph, positive=["joined", 0])


def regional(graph: Graph) -> Graph:
    """A second text in a part of the picture."""
    graph = joined(graph, "ConditioningCombine")
    place = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    graph["area"] = node("ConditioningSetArea", conditioning=["other", 0], **place)
    graph["joined"]["inputs"]["conditioning_2"] = ["area", 0]
    return graph


def in_turns(graph: Graph) -> Graph:
    """Two texts, one after the other."""
    graph = joined(graph, "ConditioningCombine")
    for number, (said, start, end) in enumerate((("pos", 0.0, 0.5), ("other", 0.5, 1.0)), 1):
        inputs = {"conditioning": [said, 0], "start": start, "end": end}
        graph[f"part{number}"] = node("ConditioningSetTimestepRange", **inputs)
        graph["joined"]["inputs"][f"conditioning_{number}"] = [f"part{number}", 0]
    return graph


def custom(
    graph: Graph, steps: int, guider: str = "BasicGuider", seed: int | None = None, **given: Any
) -> Graph:
    """The sampler in parts, with a guider's inputs; BasicGuider knows no negative."""
    noise = secrets.randbelow(2**32) if seed is None else seed
    times = {"scheduler": "normal", "steps": steps, "denoise": 1.0}
    graph |= {
        "noise": node("RandomNoise", noise_seed=noise),
        "way": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=MODEL, **times),
        "guide": node(guider, model=MODEL, **(given or {"conditioning": ["pos", 0]})),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guide", 0],
            sampler=["way", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
    }
    if not given:
        del graph["neg"]
    return graph


def own_range(graph: Graph, name: str) -> Graph:
    """This project's own node."""
    text = graph["pos"]["inputs"]["text"]
    graph["load"] = node("APL_LoadPrefix", file=name)
    inputs = {"clip": CLIP, "prefix": ["load", 0], "text": text, "start": 0.5, "end": 1.0}
    graph["pos"] = node("APL_PrefixConditioning", **inputs)
    return graph


def sdxl_node(graph: Graph) -> Graph:
    """The text encoded by SDXL's node."""
    text = graph["pos"]["inputs"]["text"]
    sizes = dict.fromkeys(("width", "height", "target_width", "target_height"), 64)
    sizes |= {"crop_w": 0, "crop_h": 0}
    graph["pos"] = node("CLIPTextEncodeSDXL", clip=CLIP, text_g=text, text_l=text, **sizes)
    return graph


def runs(graph: Graph, nodes: Nodes) -> bool:
    """Whether the server has every node of the graph."""
    return all(one["class_type"] in nodes for one in graph.values())
