"""What the extension costs in a real A1111: txt2img checked against unchecked, and start-up."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from apl_core.atomic import write_text
from apl_core.errors import HostError
from apl_core.formats import write_prefix
from apl_core.prefix import Prefix

from .harness import harness

_PAIRS = 20
_WORDS = (
    "a close up portrait photo of a person with short hair standing in a garden full of flowers at "
    "noon under a blue sky with white clouds and old trees behind a red brick house with a green "
    "door and two small windows while rain"
)


def run(out_dir: Path) -> dict[str, float]:
    """Figures of a webui found as the tests find it; written to `figures.json`; HostError.

    `a1111.ratio` is the median over pairs of checked / unchecked seconds of one whole request
    (128x128, 10 steps, a prompt of about 60 tokens that is new in every request, a random
    checkpoint with a U-Net a tenth as wide as SD 1.5's: on a real one the share is smaller).
    `a1111.cpu_ratio` is the same in the server's processor time over all of them, which a busy
    machine disturbs less.
    `a1111.startup_seconds` is the extension's part of the webui's own profile of a second start.
    """
    host = harness("a1111", "A1111")
    source = host.installed()
    if source is None:
        raise HostError(
            "measure A1111",
            f"there is none with its venv in {host.hosts_folder() / 'a1111'}",
            "install it there, or set APL_HOSTS_DIR to the folder that holds it",
        )
    with tempfile.TemporaryDirectory() as place:
        data = Path(place)
        webui = host.Webui(source, data)
        webui.prefixes.mkdir(parents=True)
        rows = torch.randn(10, 768, generator=torch.Generator().manual_seed(0)) * 0.05
        write_prefix(Prefix({"clip_l": rows}, 5), webui.prefixes / "bench.safetensors")
        with webui:  # the first start compiles the extension, as Python does after every update
            pass
        with webui:
            figures = _startup(webui) | _requests(webui)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "figures.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def _requests(webui: Any) -> dict[str, float]:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    worked: dict[bool, float] = {False: 0.0, True: 0.0}
    for number in range(-2, _PAIRS):  # the first two warm the server up
        for ticked in (number % 2 == 0, number % 2 == 1):
            before, began = _cpu_seconds(webui.process.pid), time.perf_counter()
            webui.draw(
                f"{_WORDS} {number} {ticked}", ticked, "bench", steps=10, width=128, height=128
            )
            if number >= 0:
                seconds[ticked].append(time.perf_counter() - began)
                worked[ticked] += _cpu_seconds(webui.process.pid) - before
    pairs = zip(seconds[True], seconds[False], strict=True)
    cpu = {"a1111.cpu_ratio": worked[True] / worked[False]} if worked[False] else {}
    return cpu | {
        "a1111.ratio": statistics.median(on / off for on, off in pairs),
        "a1111.seconds_off": statistics.median(seconds[False]),
        "a1111.seconds_on": statistics.median(seconds[True]),
        "a1111.pairs": float(_PAIRS),
    }


def _cpu_seconds(process: int) -> float:
    """Processor time that a process has used; 0 where the system has no /proc."""
    path = Path(f"/proc/{process}/stat")
    if not path.is_file():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _startup(webui: Any) -> dict[str, float]:
    profile = webui.get("/internal/profile-startup")
    ours = {name: value for name, value in profile["records"].items() if "apl.py" in name}
    return {
        "a1111.startup_seconds": sum(ours.values()),
        "a1111.startup_seconds_webui": profile["total"],
    }
