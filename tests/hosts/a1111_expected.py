"""What the U-Net has to be conditioned on in every kind of request, computed outside the webui."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import a1111_host
import torch
from a1111_host import Webui
from a1111_kinds import KINDS
from safetensors.torch import load_file
from torch import Tensor

from apl_core.formats import read_prefix

PREFIXES = ("front", "bracket")
Reference = dict[tuple[str | None, str], list[Tensor]]
"""Conditioning of each group of every kind, by prefix (None: bare)."""


def reference(webui: Webui, folder: Path) -> Reference:
    """Conditioning by plain transformers, run by the webui's Python on its own checkpoint."""
    cases = []
    for prefix in (None, *PREFIXES):
        path = str(webui.prefixes / f"{prefix}.safetensors") if prefix else None
        behind = read_prefix(Path(path)).behind if path else 0
        for name, kind in KINDS.items():
            case = {"name": f"{prefix}/{name}", "prefix": path, "behind": behind}
            cases.append({**case, "groups": kind.groups})
    (folder / "cases.json").write_text(json.dumps(cases))
    models = webui.random()
    script = Path(__file__).with_name("a1111_reference.py")
    command = [a1111_host.python(webui.source), script, models / "random.safetensors"]
    command += [models / "hub", folder / "cases.json", folder / "out.safetensors"]
    env = a1111_host.environment(webui.source)
    subprocess.run([str(part) for part in command], check=True, env=env)
    found = load_file(folder / "out.safetensors")
    return {
        (prefix, name): [found[f"{prefix}/{name}.{i}"] for i in range(len(kind.groups))]
        for prefix in (None, *PREFIXES)
        for name, kind in KINDS.items()
    }


def expected(groups: list[Tensor], name: str, calls: int) -> list[Tensor]:
    """Conditioning of every U-Net call of a kind."""
    plan = KINDS[name].calls
    return [
        torch.stack([groups[group][text] for group, text in plan[min(call, len(plan) - 1)]])
        for call in range(calls)
    ]
