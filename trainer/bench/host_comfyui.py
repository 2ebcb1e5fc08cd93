"""What the prefix costs in a real ComfyUI: whole txt2img against the stock graph, and import."""

from __future__ import annotations

import copy
import json
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from apl_core.atomic import write_text
from apl_core.errors import HostError
from apl_core.formats import write_prefix
from apl_core.prefix import Prefix

from .harness import harness

_PAIRS = 20
_STEPS = 20
_WORDS = (
    "a close up portrait photo of a person with short hair standing in a garden full of flowers at "
    "noon under a blue sky with white clouds and old trees behind a red brick house"
)


def run(out_dir: Path) -> dict[str, float]:
    """Figures of a ComfyUI found as the tests find it; written to `figures.json`; HostError.

    `comfyui.ratio` is the median over alternated pairs of prefixed / stock seconds of one whole
    graph by the server's own clock (64x64, 20 steps, a prompt that is new in every graph, a random
    checkpoint with a slim U-Net: on a real one the share is smaller). `comfyui.import_seconds` is
    the pack's line in the server's own list of import times, which it rounds to 0.1 s.
    """
    starter = harness("comfyui", "ComfyUI")
    hosts = starter.installed()
    if not hosts:
        raise HostError(
            "measure ComfyUI",
            f"there is none with its venv in {starter.hosts_folder()}",
            "install it there, or set APL_HOSTS_DIR to the folder that holds it",
        )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "models", "apl")
        folder.mkdir(parents=True)
        rows = torch.randn(10, 768, generator=torch.Generator().manual_seed(0)) * 0.05
        write_prefix(Prefix({"clip_l": rows}, 5), folder / "bench.safetensors")
        with starter.Host(hosts[0], Path(place)) as host:
            figures = _graphs(host, starter.txt2img) | _imports(host)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "figures.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
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


def _prefixed(graph: dict[str, Any]) -> dict[str, Any]:
    own = copy.deepcopy(graph)
    inputs = {"clip": own["pos"]["inputs"]["clip"], "prefix": ["load", 0]}
    own["load"] = {"class_type": "APL_LoadPrefix", "inputs": {"file": "bench"}}
    own["apply"] = {"class_type": "APL_ApplyPrefix", "inputs": inputs}
    own["pos"]["inputs"]["clip"] = ["apply", 0]
    return own


def _seconds(entry: dict[str, Any]) -> float:
    """Time of a finished graph between the server's own start and success messages."""
    when = {kind: what["timestamp"] for kind, what in entry["status"]["messages"]}
    return (when["execution_success"] - when["execution_start"]) / 1000


def _imports(host: Any) -> dict[str, float]:
    found = re.search(r"([\d.]+) seconds: .*apl-prefix", host.log())
    return {"comfyui.import_seconds": float(found[1]) if found else float("nan")}
