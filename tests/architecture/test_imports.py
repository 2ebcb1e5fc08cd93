"""What comes along when a package is imported, in fresh processes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "diffusers",
    "transformers",
    "gradio",
    "open_clip",
    "dlib",
    "facexlib",
    "matplotlib",
    "PIL",
    "tokenizers",
    "modules",
    "comfy",
    "apl_trainer",
    "apl_a1111",
    "apl_comfy",
}
CORE = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "apl_core").rglob("*.py"))
]


def modules_after(code: str) -> set[str]:
    """Top-level modules in a process that has run some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_whole_core_brings_torch_and_safetensors_only() -> None:
    allowed = modules_after("import torch, numpy, safetensors.torch, torch.distributed")
    found = modules_after("import " + ", ".join(CORE))
    assert found - allowed - sys.stdlib_module_names == {"apl_core"}
    assert not found & HEAVY


@pytest.mark.parametrize(
    "code", ["import apl_trainer", "import apl_trainer.cli", "import apl_hosting"]
)
def test_starting_is_light(code: str) -> None:
    assert not modules_after(code) & (HEAVY - {"apl_trainer"} | {"torch"})


def test_the_clone_itself_is_harmless_to_import() -> None:
    """As ComfyUI and pytest do it: by path, under a name that is no identifier."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("/a/clone.x", {str(ROOT / "__init__.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules["/a/clone.x"] = module
spec.loader.exec_module(module)"""
    assert not modules_after(code) & (HEAVY | {"torch"})


def test_no_generic_name_is_claimed() -> None:
    assert not (ROOT / "scripts" / "__init__.py").exists()
    assert not (ROOT / "tests" / "__init__.py").exists()
