"""ruff over the whole tree, pyright over what `[tool.pyright]` includes."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def output_of(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("ruff"), reason="ruff is not installed")
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command: list[str]) -> None:
    code, output = output_of(sys.executable, "-m", "ruff", *command, ".")
    assert code == 0, output


@pytest.mark.skipif(not importlib.util.find_spec("pyright"), reason="pyright is not installed")
def test_pyright() -> None:
    if not shutil.which("node"):
        pytest.skip("pyright needs node, and would download it")
    settings = ("--project", str(ROOT / "pyproject.toml"), "--pythonpath", sys.executable)
    code, output = output_of(sys.executable, "-m", "pyright", *settings)
    assert code == 0, output
