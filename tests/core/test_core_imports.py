"""What comes along when the file half of the core is imported, in fresh processes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIGHT = ["", ".errors", ".atomic", ".limits", ".metadata", ".header", ".tokens"]
FULL = [".prefix", ".formats", ".library", ".fit"]


def modules_after(*imports: str) -> set[str]:
    code = f"import sys, {', '.join(imports)}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_half_of_it_needs_no_torch() -> None:
    foreign = modules_after(*(f"apl_core{name}" for name in LIGHT)) - modules_after("os")
    assert foreign - sys.stdlib_module_names == {"apl_core"}


def test_the_rest_brings_torch_and_safetensors_only() -> None:
    allowed = modules_after("torch", "numpy", "safetensors.torch")
    ours = modules_after(*(f"apl_core{name}" for name in LIGHT + FULL))
    assert ours - allowed - sys.stdlib_module_names == {"apl_core"}
