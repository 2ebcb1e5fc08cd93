"""What the prefix costs in a real ComfyUI: txt2img against the stock graph, import, interrupt."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from apl_core.atomic import write_text
from apl_core.errors import HostError
from apl_core.formats import write_prefix
from apl_core.prefix import Prefix

from .harness import harness

_EXTENSION = "apl_comfy.extension"
_CLOCK = f'''
import importlib, json, sys, time

real = importlib.import_module


def clocked(name, package=None):
    if name != "{_EXTENSION}":
        return real(name, package)
    before, wall, own = set(sys.modules), time.perf_counter(), time.process_time()
    try:
        return real(name, package)
    finally:
        spent = time.perf_counter() - wall, time.process_time() - own
        found = [*spent, sorted(set(sys.modules) - before)]
        sys.stderr.write("apl import: " + json.dumps(found) + "\\n")


importlib.import_module = clocked
'''
"""Python reads it when the server starts; ComfyUI's own list of import times is rounded."""

_HEAVY = ("gradio", "open_clip", "facexlib", "diffusers", "transformers", "matplotlib")
_INTERRUPTS = 6
_LATEST = 60
"""Seconds after which the last interrupt comes; the run takes longer."""

_PAIRS = 20
_STEPS = 20
_WORDS = (
    "a close up portrait photo of a person with short hair standing in a garden full of flowers at "
    "noon under a blue sky with white clouds and old trees behind a red brick house"
)


def run(out_dir: Path) -> dict[str, float]:
    """Figures of every ComfyUI found as the tests find it; written to `figures.json`; HostError.

    `comfyui.ratio`, on the first one, is the median over alternated pairs of prefixed / stock
    seconds of one whole graph by the server's own clock (64x64, 20 steps, a prompt that is new in
    every graph, a random checkpoint with a slim U-Net: on a real one the share is smaller). For
    each, `NAME.import_seconds` is what importing the pack takes while the server starts,
    `NAME.import_cpu_seconds` the processor's time in it, `NAME.heavy_modules` how many of those
    came along that must not, and `NAME.interrupt_median` and `_worst` the seconds from POST
    /interrupt in the middle of training to the graph's end, at moments that a seed draws.
    `comfyui.gate_ratio` is the median over alternated pairs of seconds on a server that enforces
    the prefix / on one where APL Apply Prefix stands in front of both texts.
    """
    starter = harness("comfyui", "ComfyUI")
    hosts = starter.installed()
    if not hosts:
        raise HostError(
            "measure ComfyUI",
            f"there is none with its venv in {starter.hosts_folder()}",
            "install it there, or set APL_HOSTS_DIR to the folder that holds it",
        )
    figures: dict[str, float] = {}

    def add(found: dict[str, float]) -> None:
        figures.update(found)
        text = json.dumps(figures, indent=1, sort_keys=True) + "\n"
        write_text(out_dir / "figures.json", text)

    out_dir.mkdir(parents=True, exist_ok=True)
    for source in hosts:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "models", "apl")
            folder.mkdir(parents=True)
            rows = torch.randn(10, 768, generator=torch.Generator().manual_seed(0)) * 0.05
            write_prefix(Prefix({"clip_l": rows}, 5), folder / "bench.safetensors")
            Path(place, "sitecustomize.py").write_text(_CLOCK, encoding="utf-8")
            with starter.Host(source, Path(place), env={"PYTHONPATH": place}) as host:
                add(_imports(host.log(), source.name))
                if source is hosts[0]:
                    add(_graphs(host, starter.txt2img))
                    with tempfile.TemporaryDirectory() as second:
                        shutil.copytree(Path(place, "models"), Path(second, "models"))
                        env = {"APL_ENFORCE": "bench"}
                        with starter.Host(source, Path(second), env=env) as enforcing:
                            add(_gate(enforcing, host, starter.txt2img))
                add(_interrupts(host, starter, source.name))
    return figures


def _graphs(host: Any, txt2img: Any) -> dict[str, float]:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(-2, _PAIRS):  # the first two warm the server up
        for prefixed in (number % 2 == 0, number % 2 == 1):
            graph = txt2img(f"{_WORDS} {number} {prefixed}", seed=number + 9, steps=_STEPS)
            spent = _seconds(host.run(_prefixed(graph) if prefixed else graph).entry)
            if number >= 0:
                seconds[prefixed].append(spent)
    pairs = zip(seconds[True], seconds[False], strict=True)
    return {
        "comfyui.ratio": statistics.median(on / off for on, off in pairs),
        "comfyui.seconds_stock": statistics.median(seconds[False]),
        "comfyui.seconds_prefixed": statistics.median(seconds[True]),
        "comfyui.pairs": float(_PAIRS),
    }


def _gate(enforcing: Any, free: Any, txt2img: Any) -> dict[str, float]:
    ratios: list[float] = []
    for number in range(-2, _PAIRS):
        text, other = f"{_WORDS} {number}", f"blurry, low quality {number}"
        graph = txt2img(text, negative=other, seed=number + 9, steps=_STEPS)
        turns = [(enforcing, graph), (free, _prefixed(graph, ("pos", "neg")))]
        spent = {
            one.url: _seconds(one.run(asked).entry) for one, asked in turns[:: 1 - 2 * (number % 2)]
        }
        if number >= 0:
            ratios.append(spent[enforcing.url] / spent[free.url])
    return {"comfyui.gate_ratio": statistics.median(ratios)}


def _prefixed(graph: dict[str, Any], encoders: Sequence[str] = ("pos",)) -> dict[str, Any]:
    own = copy.deepcopy(graph)
    inputs = {"clip": own["pos"]["inputs"]["clip"], "prefix": ["load", 0]}
    own["load"] = {"class_type": "APL_LoadPrefix", "inputs": {"file": "bench"}}
    own["apply"] = {"class_type": "APL_ApplyPrefix", "inputs": inputs}
    for encoder in encoders:
        own[encoder]["inputs"]["clip"] = ["apply", 0]
    return own


def _seconds(entry: dict[str, Any]) -> float:
    """Time of a finished graph between the server's own start and success messages."""
    when = {kind: what["timestamp"] for kind, what in entry["status"]["messages"]}
    return (when["execution_success"] - when["execution_start"]) / 1000


def _imports(log: str, name: str) -> dict[str, float]:
    found = re.search(r"^apl import: (.*)$", log, re.MULTILINE)
    if found is None:
        raise HostError("measure the import", f"{_EXTENSION} was not imported", "read the log")
    wall, own, modules = json.loads(found[1])
    return {
        f"{name}.import_seconds": wall,
        f"{name}.import_cpu_seconds": own,
        f"{name}.heavy_modules": float(len({one.split(".")[0] for one in modules} & set(_HEAVY))),
    }


def _interrupts(host: Any, starter: Any, name: str) -> dict[str, float]:
    """Interrupt training at any moment: making pictures, asking the teacher, learning."""
    draw, seconds = random.Random(0), list[float]()
    for number in range(_INTERRUPTS):
        queued = host.queue(_training(starter.txt2img(""), f"interrupted-{number}"))
        settings = host.base / "output" / "apl" / f"interrupted-{number}" / "config.toml"
        while not settings.exists():
            time.sleep(0.1)
        time.sleep(_LATEST * draw.random())
        if host.get(f"/history/{queued}"):
            raise HostError("measure an interrupt", "training ended too early", "read the log")
        began = time.perf_counter()
        host.post("/interrupt", {})
        while not host.get(f"/history/{queued}"):
            time.sleep(0.01)
        seconds.append(time.perf_counter() - began)
    return {
        f"{name}.interrupt_median": statistics.median(seconds),
        f"{name}.interrupt_worst": max(seconds),
    }


def _training(stock: dict[str, Any], run_name: str) -> dict[str, Any]:
    """The node with its own batch and micro-batch, on small pictures."""
    wires = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2]}
    texts = {"names": "Ada Lovelace\nAlan Turing", "things": "a cat", "people": "a woman"}
    sizes = {"vectors": 10, "behind": 5, "steps": 20, "rate": 0.03, "batch": 12, "micro_batch": 2}
    made = {"width": 64, "height": 64, "pictures_per_name": 1, "picture_steps": 2, "cfg": 5.0}
    rest = {"target": "person", "run_name": run_name, "seed": 0, "preview_every": 0}
    inputs = {**wires, **texts, **sizes, **made, **rest}
    return {"model": stock["model"], "train": {"class_type": "APL_TrainPrefix", "inputs": inputs}}
