"""What `pip install` brings, and what it leaves in the clone: the benchmarks and the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"apl_core": "apl_core", "trainer": "apl_trainer"}
COPIED = ("pyproject.toml", "README.md", "LICENSE", "benchmarks", "tests", *PACKAGES)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel; it is built from a copy, because a build leaves files behind."""
    place = tmp_path_factory.mktemp("wheel")
    (place / "clone").mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, place / "clone" / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, place / "clone")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--wheel-dir", str(place), str(place / "clone")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = place.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(place / "site")
    return place / "site"


def files(folder: Path) -> set[str]:
    """Every file below a folder but what Python writes there."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {f.relative_to(folder).as_posix() for f in found if "__pycache__" not in f.parts}


def test_it_holds_both_packages_whole_and_nothing_else(wheel: Path) -> None:
    info = {path.name for path in wheel.iterdir() if path.name.endswith(".dist-info")}
    assert len(info) == 1
    assert {path.name for path in wheel.iterdir()} - info == {*PACKAGES.values()}
    for folder, package in PACKAGES.items():
        assert files(wheel / package) == files(ROOT / folder)


def test_its_bench_says_that_it_needs_a_clone(wheel: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "apl_trainer", "bench", "speed"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(wheel), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{wheel} is not a clone of the repository" in done.stderr
    assert "Fix: clone the repository" in done.stderr and "Traceback" not in done.stderr
