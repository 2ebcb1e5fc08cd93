"""ruff over the whole tree, pyright over what `[tool.pyright]` includes."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
def test_pyright(tmp_path: Path) -> None:
    """All of them in one go, each folder by the name that it is imported by."""
    if not shutil.which("node"):
        pytest.skip("pyright needs node, and would download it")
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings = told["tool"]["pyright"]
    folders = told["tool"]["setuptools"]["package-dir"]
    names = {folder: name for name, folder in folders.items()}
    settings["include"] = [names.get(folder, folder) for folder in settings["include"]]
    for folder in ("apl_core", "trainer", "benchmarks"):
        (tmp_path / names.get(folder, folder)).symlink_to(ROOT / folder)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    where = ("--project", str(tmp_path), "--pythonpath", sys.executable)
    code, output = output_of(sys.executable, "-m", "pyright", *where)
    assert code == 0, output
