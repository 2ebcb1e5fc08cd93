"""One clone, chosen module names, no path edits; every case in a fresh process."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(code: str, *args: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process that knows no clone; `hosting` is this clone's loader."""
    start = (
        "import importlib.util, sys; from pathlib import Path\n"
        "sys.path = [p for p in sys.path if p and Path(p).resolve() != Path(sys.argv[1])]\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "spec = importlib.util.spec_from_file_location('h', Path(sys.argv[1]) / 'apl_hosting.py')\n"
        "hosting = importlib.util.module_from_spec(spec); spec.loader.exec_module(hosting)\n"
        "before, root = list(sys.path), Path(sys.argv[1])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", start + code, str(ROOT), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT.anchor,
        check=False,
    )


def succeeds(code: str, *args: Path) -> None:
    done = python(code, *args)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Another clone, as far as loading is concerned."""
    folder = tmp_path / "another clone" / "apl_core"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "tokens.py"):
        shutil.copy(ROOT / "apl_core" / name, folder)
    return folder


def test_it_loads_once_with_lazy_submodules() -> None:
    succeeds(
        "core = hosting.load(root / 'apl_core', 'apl_core')\n"
        "assert hosting.load(root / 'apl_core', 'apl_core') is core\n"
        "from apl_core.tokens import room\n"
        "import apl_core.errors\n"
        "assert room(10) == 65 and apl_core is core and sys.path == before\n"
        "assert 'torch' not in sys.modules\n"
    )


def test_a_folder_under_another_name(tmp_path: Path) -> None:
    folder = tmp_path / "trainer"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "def later():\n    from .data import facts\n    return facts.X"
    )
    (folder / "data" / "__init__.py").write_text("")
    (folder / "data" / "facts.py").write_text("from .. import later as L\nX = 3")
    succeeds(
        "t = hosting.load(Path(sys.argv[2]), 'apl_trainer')\n"
        "assert t.__name__ == 'apl_trainer' and t.later() == 3\n"
        "import apl_trainer.data.facts as f\n"
        "assert f.L is t.later and 'trainer' not in sys.modules and sys.path == before\n",
        folder,
    )


def test_another_clone_is_refused_by_name(clone: Path) -> None:
    done = python(
        "hosting.load(Path(sys.argv[2]), 'apl_core'); hosting.load(root / 'apl_core', 'apl_core')",
        clone,
    )
    assert done.returncode == 1 and "ImportError" in done.stderr
    assert str(clone) in done.stderr and "Fix: keep one copy" in done.stderr


def test_the_same_clone_imported_or_linked_otherwise_is_the_same(tmp_path: Path) -> None:
    succeeds(
        "sys.path.insert(0, str(root)); import apl_core; sys.path.pop(0)\n"
        "assert hosting.load(root / 'apl_core', 'apl_core') is apl_core\n"
    )
    try:
        (tmp_path / "link").symlink_to(ROOT, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    succeeds(
        "core = hosting.load(Path(sys.argv[2]) / 'apl_core', 'apl_core')\n"
        "assert hosting.load(root / 'apl_core', 'apl_core') is core\n",
        tmp_path / "link",
    )


def test_a_package_that_fails_leaves_no_half_module(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("raise RuntimeError('no')")
    succeeds(
        "try: hosting.load(Path(sys.argv[2]), 'apl_x')\n"
        "except RuntimeError: pass\n"
        "else: raise SystemExit('no error')\n"
        "assert 'apl_x' not in sys.modules\n",
        tmp_path,
    )


def test_a_module_without_a_file_is_not_ours() -> None:
    done = python(
        "import types; sys.modules['apl_core'] = types.ModuleType('apl_core')\n"
        "hosting.load(root / 'apl_core', 'apl_core')"
    )
    assert "ImportError" in done.stderr and "without a file" in done.stderr
