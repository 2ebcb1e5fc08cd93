"""The example workflows: their graphs, and how ComfyUI's page writes such a graph down.

``python comfyui_examples.py`` runs every graph on the newest installed ComfyUI (random weights) and
writes `example_workflows/NAME.json` with a picture of the graph and of what it made.
"""

from __future__ import annotations

import copy
import io
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfyui_host
import comfyui_thin
from comfyui_host import Graph, Host, txt2img, txt2img_sdxl
from PIL import Image, ImageDraw, ImageFont

from apl_trainer.verify.comfyui_nodes import node as box

FOLDER = comfyui_host.REPOSITORY / "example_workflows"
PROMPT = "a portrait of Ada Lovelace in a garden, (smiling:1.1)"
NEGATIVE = "blurry, low quality"
SD15, SDXL = "v1-5-pruned-emaonly.safetensors", "sd_xl_base_1.0.safetensors"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
COLUMN, GAP = 330, 40
TITLES = {
    "pos": "Positive prompt, anonymized",
    "plain": "The same prompt, not anonymized",
    "neg": "Negative prompt",
    "save": "With the prefix",
    "save_plain": "Without the prefix",
}
"""Titles of nodes by their name in a graph; others keep the title of their kind."""

NOTE = """Choose your own prefix in **APL Load Prefix**: `{file}` stands for it, and Run stops there
until you do. There is none to download; the repository's docs/learn.md says how to learn one.

{more}"""
"""Stands beside every graph, so that it is read before Run."""

RANDOM = "The picture of this graph was made with random weights: it shows the graph, not a result."


@dataclass(frozen=True)
class Loaded:
    """A family's text-to-image graph as ComfyUI's own templates have it, and its files."""

    family: str
    unet: str
    clip: tuple[str, str]
    vae: str
    latent: str = "EmptySD3LatentImage"
    shift: float | None = None
    steps: int = 8
    cfg: float = 1.0
    sampler: str = "euler"
    side: int = 1024

    def graph(self) -> Graph:
        """The graph, without a prefix."""
        graph = txt2img(PROMPT, negative=NEGATIVE, seed=7, steps=self.steps)
        graph["model"] = box("UNETLoader", unet_name=self.unet, weight_dtype="default")
        graph["clip"] = box("CLIPLoader", clip_name=self.clip[0], type=self.clip[1])
        graph["vae"] = box("VAELoader", vae_name=self.vae)
        model = ["model", 0]
        if self.shift is not None:
            graph["shift"] = box("ModelSamplingAuraFlow", model=model, shift=self.shift)
            model = ["shift", 0]
        graph["pos"]["inputs"]["clip"] = graph["neg"]["inputs"]["clip"] = ["clip", 0]
        if self.cfg == 1:  # a distilled model reads no negative prompt
            graph["neg"] = box("ConditioningZeroOut", conditioning=["pos", 0])
        sizes = {"width": self.side, "height": self.side, "batch_size": 1}
        graph["latent"] = box(self.latent, **sizes)
        graph["decode"]["inputs"]["vae"] = ["vae", 0]
        more = {"cfg": self.cfg, "sampler_name": self.sampler, "scheduler": "simple"}
        graph["sampler"]["inputs"].update(model=model, **more)
        return graph


FAMILIES = {
    "z_image": Loaded(
        "Z-Image",
        "z_image_turbo_bf16.safetensors",
        ("qwen_3_4b.safetensors", "lumina2"),
        "ae.safetensors",
        shift=3.0,
        sampler="res_multistep",
    ),
    "qwen_image": Loaded(
        "Qwen-Image",
        "qwen_image_fp8_e4m3fn.safetensors",
        ("qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image"),
        "qwen_image_vae.safetensors",
        shift=3.1,
        steps=20,
        cfg=4.0,
        side=1328,
    ),
    "krea_2": Loaded(
        "Krea 2",
        "krea2_turbo_int8_convrot.safetensors",
        ("qwen3vl_4b_fp8_scaled.safetensors", "krea2"),
        "qwen_image_vae.safetensors",
        latent="EmptyLatentImage",
    ),
    "flux2_klein": Loaded(
        "Flux.2 Klein 4B",
        "flux-2-klein-4b.safetensors",
        ("qwen_3_4b.safetensors", "flux2"),
        "flux2-vae.safetensors",
        latent="EmptyFlux2LatentImage",
        steps=4,
    ),
}
"""Examples of newer families by name."""


def examples() -> dict[str, Graph]:
    """Graph by name, for the checkpoints and sizes that a user has."""
    plain = txt2img(PROMPT, negative=NEGATIVE, seed=7, steps=20)
    plain["model"]["inputs"]["ckpt_name"] = SD15
    plain["latent"]["inputs"].update(width=512, height=512)
    xl = copy.deepcopy(plain)
    xl["model"]["inputs"]["ckpt_name"] = SDXL
    xl["latent"]["inputs"].update(width=1024, height=1024)
    training: Graph = {
        "model": plain["model"],
        "train": {
            "class_type": "APL_TrainPrefix",
            "inputs": {
                "model": ["model", 0],
                "clip": ["model", 1],
                "vae": ["model", 2],
                "names": "Ada Lovelace\nAlan Turing\nGrace Hopper\nKurt Gödel\nEmmy Noether",
            },
        },
        "loss": {
            "class_type": "LossGraphNode",
            "inputs": {"loss": ["train", 1], "filename_prefix": "apl-loss"},
        },
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["train", 2], "filename_prefix": "apl-before-after"},
        },
    }
    both = prefixed(plain)
    both["plain"] = copy.deepcopy(plain["pos"])
    for node, slot, source in (
        ("sampler", "positive", "plain"),
        ("decode", "samples", "sampler_plain"),
        ("save", "images", "decode_plain"),
    ):
        both[f"{node}_plain"] = copy.deepcopy(plain[node])
        both[f"{node}_plain"]["inputs"][slot] = [source, 0]
    both["save_plain"]["inputs"]["filename_prefix"] = "plain"
    conditioned = prefixed(plain)
    clip = conditioned.pop("apply")["inputs"]["clip"]
    inputs = {"clip": clip, "prefix": ["load", 0], "text": PROMPT, "start": 0.0, "end": 1.0}
    conditioned["pos"] = {"class_type": "APL_PrefixConditioning", "inputs": inputs}
    compared: Graph = {
        "model": plain["model"],
        "load": box("APL_LoadPrefix", file="my-prefix"),
        "both": box(
            "APL_BeforeAfter",
            **{name: ["model", at] for at, name in enumerate(("model", "clip", "vae"))},
            prefix=["load", 0],
            prompt=PROMPT,
            negative=NEGATIVE,
            seed=7,
            width=512,
            height=512,
        ),
        "save": box("SaveImage", images=["both", 0], filename_prefix="apl-both"),
    }
    return {
        "txt2img": prefixed(plain),
        "conditioning": conditioned,
        "before_after": both,
        "before_after_node": compared,
        "sdxl": prefixed(xl, "my-sdxl-prefix"),
        "training": training,
        **{
            name: prefixed(loaded.graph(), f"my-{name.replace('_', '-')}-prefix")
            for name, loaded in FAMILIES.items()
        },
    }


def prefixed(graph: Graph, file: str = "my-prefix") -> Graph:
    """The graph with a loaded prefix applied to the CLIP of its positive text."""
    own = copy.deepcopy(graph)
    own["load"] = box("APL_LoadPrefix", file=file)
    inputs = {"clip": own["pos"]["inputs"]["clip"], "prefix": ["load", 0]}
    own["apply"] = {"class_type": "APL_ApplyPrefix", "inputs": inputs}
    own["pos"]["inputs"]["clip"] = ["apply", 0]
    return own


def on_random_weights(graph: Graph) -> Graph:
    """The same graph on the random checkpoints, small and short."""
    own = copy.deepcopy(graph)
    unet = own["model"]["inputs"].get("unet_name")
    loaded = next((one for one in FAMILIES.values() if one.unet == unet), None)
    if loaded is not None:
        for name, kind in (("model", "TestModel"), ("clip", "TestClip"), ("vae", "TestVae")):
            own[name] = box(kind, family=loaded.family)
        own["load"]["inputs"]["file"] = comfyui_thin.file_of(loaded.family)
    elif own["model"]["inputs"]["ckpt_name"] == SDXL:
        for node, entry in txt2img_sdxl("").items():
            if node in ("model", "clip", "vae"):
                own[node] = entry
        for entry in own.values():
            for slot, link in entry["inputs"].items():
                if isinstance(link, list) and link[0] == "model" and link[1]:
                    entry["inputs"][slot] = [("clip", "vae")[link[1] - 1], 0]
    else:
        own["model"]["inputs"]["ckpt_name"] = "random_sd15.safetensors"
    side = 64 if loaded is None else 256
    small = {"width": side, "height": side}
    for entry in own.values():
        if "width" in entry["inputs"]:
            entry["inputs"].update(small)
        if "cfg" in entry["inputs"]:
            entry["inputs"]["steps"] = 4
        if entry["class_type"] == "APL_TrainPrefix":
            few = {"steps": 4, "batch": 3, "picture_steps": 2, "pictures_per_name": 1}
            texts = {"things": "a cat", "people": "a woman", "preview_every": 0}
            entry["inputs"].update(small | few | texts)
    return own


def runs_on(graph: Graph, info: Mapping[str, Any]) -> bool:
    """Whether a host has all nodes of a graph, and the family that it draws with."""
    here = info["TestClip"]["input"]["required"]["family"][0]
    wanted = [one["inputs"]["family"] for one in graph.values() if one["class_type"] == "TestClip"]
    return all(one["class_type"] in info for one in graph.values()) and set(wanted) <= set(here)


def completed(graph: Graph, info: Mapping[str, Any]) -> Graph:
    """The graph with the default of every widget that it leaves out."""
    own = copy.deepcopy(graph)
    for entry in own.values():
        for slot, declared in widgets(info[entry["class_type"]]):
            options: dict[str, Any] = declared[1] if len(declared) > 1 else {}
            choices = declared[0] if isinstance(declared[0], list) else options.get("options")
            default = options.get("default", choices[0] if choices else None)
            entry["inputs"].setdefault(slot, default)
    return own


def widgets(info: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """(input, declaration) of what the page shows as widgets, in its order."""
    declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return [
        (slot, kind)
        for slot, kind in declared.items()
        if (isinstance(kind[0], list) or kind[0] in WIDGETS)
        and not (len(kind) > 1 and kind[1].get("forceInput"))
    ]


def to_workflow(graph: Graph, info: Mapping[str, Any]) -> dict[str, Any]:
    """The graph as ComfyUI's page saves it: numbered nodes in columns, numbered links."""
    graph = completed(graph, info)
    numbers = {node: at for at, node in enumerate(graph, 1)}
    places = layout(graph, info)
    links: list[list[Any]] = []
    nodes: list[dict[str, Any]] = []
    for node, entry in graph.items():
        kind = info[entry["class_type"]]
        declared = {**kind["input"].get("required", {}), **kind["input"].get("optional", {})}
        shown = [slot for slot, _ in widgets(kind)]
        sockets: list[dict[str, Any]] = []
        for slot in (slot for slot in declared if slot not in shown):
            wire = entry["inputs"].get(slot)
            number = None
            if wire is not None:
                number = len(links) + 1
                place = len(sockets)
                links.append(
                    [number, numbers[wire[0]], wire[1], numbers[node], place, declared[slot][0]]
                )
            sockets.append({"name": slot, "type": declared[slot][0], "link": number})
        values: list[Any] = []
        for slot in shown:
            values.append(entry["inputs"][slot])
            if slot == "seed":
                values.append("fixed")  # the page's own widget: what becomes of the seed
        x, y, width, height = places[node]
        nodes.append(
            {
                "id": numbers[node],
                "type": entry["class_type"],
                "title": title(graph, node, info),
                "pos": [x, y],
                "size": [width, height],
                "flags": {},
                "order": numbers[node] - 1,
                "mode": 0,
                "inputs": sockets,
                "outputs": [
                    {"name": name, "type": type_, "links": []}
                    for name, type_ in zip(kind["output_name"], kind["output"], strict=True)
                ],
                "properties": {"Node name for S&R": entry["class_type"]},
                "widgets_values": values,
            }
        )
    for number, source, slot, *_ in links:
        nodes[source - 1]["outputs"][slot]["links"].append(number)
    nodes += [note(graph, len(nodes) + 1)] if "load" in graph else []
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def note(graph: Graph, number: int) -> dict[str, Any]:
    """A note of the page's own, which no host runs, above the graph."""
    names = ("ckpt_name", "unet_name", "clip_name", "vae_name")
    files = [one["inputs"].get(name) for one in graph.values() for name in names]
    wanted = ", ".join(f"`{one}`" for one in files if one)
    more = f"Files of the model: {wanted}. Choose your own where they are others.\n\n{RANDOM}"
    text = NOTE.format(file=graph["load"]["inputs"]["file"], more=more)
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": "Before you run",
        "pos": [40, -220],
        "size": [2 * COLUMN, 220],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
    }


def title(graph: Graph, node: str, info: Mapping[str, Any]) -> str:
    """What stands above a node: for prompts and pictures which of them it is."""
    name = graph[node]["class_type"]
    kind: str = info[name]["display_name"] or name
    return TITLES.get(node, kind) if "pos" in graph else kind


def layout(graph: Graph, info: Mapping[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    """(x, y, width, height) of every node: a column per distance from the first nodes.

    The positive prompt stands left of the negative one.
    """
    depth: dict[str, int] = {}

    def of(node: str) -> int:
        if node in ("neg", "plain") and "pos" in graph:
            return of("pos") + (node == "neg")
        if node not in depth:
            wires = [v[0] for v in graph[node]["inputs"].values() if isinstance(v, list)]
            depth[node] = 1 + max((of(one) for one in wires), default=-1)
        return depth[node]

    bottom: dict[int, int] = {}
    places: dict[str, tuple[int, int, int, int]] = {}
    for node in graph:
        kind = info[graph[node]["class_type"]]
        lines = 0
        for _, declared in widgets(kind):
            many = len(declared) > 1 and declared[1].get("multiline")
            lines += 4 if many else 1
        height = 60 + 26 * lines + 22 * max(len(kind["output"]), 3)
        height += 220 if "SaveImage" in graph[node]["class_type"] else 0
        column = of(node)
        y = bottom.get(column, 60)
        bottom[column] = y + height + GAP
        places[node] = (40 + column * (COLUMN + 60), y, COLUMN, height)
    return places


def drawn(graph: Graph, info: Mapping[str, Any], made: Mapping[str, Image.Image]) -> Image.Image:
    """A picture of the graph, what it made shown in the nodes that show it."""
    graph = completed(graph, info)
    places = layout(graph, info)
    width = max(x + w for x, _, w, _ in places.values()) + 40
    height = max(y + h for _, y, _, h in places.values()) + 40
    image = Image.new("RGB", (width, height), "#1d1f24")
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(20), ImageFont.load_default(15)
    for node, entry in graph.items():
        for value in entry["inputs"].values():
            if isinstance(value, list):
                x, y, w, h = places[value[0]]
                to_x, to_y = places[node][:2]
                draw.line((x + w, y + h / 2, to_x, to_y + 60), "#8a93a6", 3)
    for node, entry in graph.items():
        x, y, w, h = places[node]
        own = entry["class_type"].startswith("APL_")
        draw.rounded_rectangle(
            (x, y, x + w, y + h), 10, "#2b2f38", "#c8553d" if own else "#4b5263", 3
        )
        draw.text((x + 12, y + 10), title(graph, node, info), "#f0ead6", font)
        line = y + 44
        for slot, _ in widgets(info[entry["class_type"]]):
            for text in str(entry["inputs"][slot]).splitlines()[:3]:
                if line < y + h - 24:
                    draw.text((x + 12, line), f"{slot}: {text}"[:38], "#b9c0cf", small)
                    line += 22
        if node in made:
            side = min(w - 24, y + h - line - 12)
            tile = made[node].resize((side, side), Image.Resampling.NEAREST)
            image.paste(tile, (x + (w - side) // 2, y + h - side - 12))
    image.thumbnail((1400, 1400))
    return image


def newest() -> Path:
    """The newest installed ComfyUI."""

    def version(host: Path) -> list[int]:
        text = (host / "comfyui_version.py").read_text(encoding="utf-8")
        return [int(part) for part in re.findall(r"\d+", text.partition("=")[2])]

    return max(comfyui_host.installed(), key=version)


def main() -> None:
    """Run all examples, or those that are named, and write their files."""
    from test_comfyui_server import prefix

    from apl_core.formats import write_prefix

    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "models", "apl")
        folder.mkdir(parents=True)
        write_prefix(prefix("clip_l", behind=5), folder / "my-prefix.safetensors")
        write_prefix(prefix("clip_l", "clip_g", behind=5), folder / "my-sdxl-prefix.safetensors")
        comfyui_thin.write_prefixes(Path(base))
        comfyui_thin.pack(Path(base))
        with Host(newest(), Path(base)) as host:
            info = host.get("/object_info")
            chosen = sys.argv[1:] or list(examples())
            for name, graph in ((one, examples()[one]) for one in chosen):
                entry = host.run(on_random_weights(completed(graph, info))).entry["outputs"]
                made = {
                    node: Image.open(io.BytesIO(host.view(out["images"][0])))
                    for node, out in entry.items()
                    if out.get("images")
                }
                text = json.dumps(to_workflow(graph, info), indent=1, ensure_ascii=False)
                FOLDER.mkdir(exist_ok=True)
                (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
                drawn(graph, info, made).save(FOLDER / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    sys.path.insert(0, str(comfyui_host.REPOSITORY))
    main()
