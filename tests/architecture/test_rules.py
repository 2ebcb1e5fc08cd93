"""The one rule of the house, read off the sources: who may import whom, and what nobody does."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.house import PACKAGES, arrows, circles, picture, relative_imports, rooms, tree

ROOT = Path(__file__).parents[2]
FILES = [path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
PICKLE_READER = "trainer/pickles.py"
"""What `apl convert` reads the authors' .pt with, and `apl fetch` facexlib's .pth."""


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names that a file imports, and whether it does so only when a function runs."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", lazy
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(tree(path), False)


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 60
    assert ("json", False) in list(imports(ROOT / "apl_core" / "training" / "folder.py"))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name, lazy in imports(path):
        top = name.split(".")[0]
        if folder == "apl_core":
            allowed = {*sys.stdlib_module_names, "torch", "safetensors"}
            assert top in allowed, f"the core imports {name}"
        assert top not in ("apl_a1111", "apl_comfy", "a1111_extension", "comfy_nodes"), name
        assert top not in ("trainer", "tests"), f"{name}: no generic name is ever claimed"
        assert top != PACKAGES[folder], f"{name}: relative inside a package"
        assert top != "benchmarks", "the product finds the benchmarks of a clone by their name"
        if top == "apl_trainer" and folder != "benchmarks":
            assert lazy, f"{name} is imported when the adapter is, not when it is used"


PRODUCT = [name for name in NAMES if not name.startswith("benchmarks")]


@pytest.mark.parametrize("name", PRODUCT)
def test_no_file_of_the_product_reaches_into_the_tests(name: str) -> None:
    """Not by path either. The benchmarks, which stay in the clone, start hosts as the tests do."""
    texts = [n.value for n in ast.walk(tree(ROOT / name)) if isinstance(n, ast.Constant)]
    assert not [t for t in texts if isinstance(t, str) and re.match(r"tests\b(?! )", t)]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("unit", ["file", "room"])
def test_imports_inside_a_package_only_go_down(package: str, unit: str) -> None:
    """No circle between files, and none between rooms: a room is a folder, or a file beside it."""
    arrows: dict[str, set[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        for target in relative_imports(ROOT, path):
            a, b = (parts[1], target[1]) if unit == "room" else ("/".join(parts), "/".join(target))
            if a != b:
                arrows.setdefault(a, set()).add(b)
    assert arrows
    assert not circles(arrows)


def test_the_house_has_no_circle() -> None:
    graph = arrows(ROOT)
    assert graph["apl_core"] == set() and "apl_core" in graph["trainer/cli"]
    assert not circles(graph)


def test_the_map_and_the_picture_name_every_room() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = (ROOT / "docs" / "img" / "house.svg").read_text(encoding="utf-8")
    mapped = told.partition("<!-- rooms -->")[2].partition("<!-- /rooms -->")[0]
    named = {line.split("`")[1] for line in mapped.splitlines() if line.startswith("| `")}
    assert named == set(rooms(ROOT)), "run `apl bench house`"
    drawn = {box.partition("<")[0] for box in shown.split('text-anchor="middle">')[1:]}
    assert drawn == set(arrows(ROOT)), "run `apl bench house`"
    for folder in (ROOT / "tests").iterdir():
        if any(folder.glob("*.py")):
            assert f"`tests/{folder.name}`" in told


def test_rooms_stand_above_what_they_import() -> None:
    drawn = picture({"trainer/cli": {"trainer/pocket"}, "trainer/pocket": set()})
    heights = [float(box.split('y="')[1].split('"')[0]) for box in drawn.split("<rect x=")[1:]]
    assert heights[0] < heights[1] and drawn.count('marker-end="url(#tip)"') == 1


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [("b", "c"), ("c", "b")]
    assert ["trainer", "settings"] in list(relative_imports(ROOT, ROOT / "trainer" / "json_log.py"))


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_pickle_no_print_no_shell(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = set(calls(path))
    if name != PICKLE_READER:
        assert "torch.load" not in found
    if not name.startswith("trainer/cli/") and not re.fullmatch(r"benchmarks/(\w+/)?cli.py", name):
        assert "print" not in found
    assert not found & {"eval", "exec", "os.system", "pickle.load", "pickle.loads"}
    assert not {n.split(".")[0] for n, _ in imports(path)} & {"pickle", "dill", "joblib"}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_bare_except_and_no_module_globals_written(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), node.lineno
        assert not isinstance(node, ast.Global), node.lineno


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_has_a_subject_and_is_short(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "no docstring says what it is about"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_file_of_the_repository_is_large() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    held = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(held) > len(FILES)
    large = [path for path in held if path.is_file() and path.stat().st_size > 10_000_000]
    assert not large, "what a build leaves behind belongs into .gitignore"


def test_the_one_pickle_reader_is_weights_only() -> None:
    loads = [
        node
        for node in ast.walk(tree(ROOT / PICKLE_READER))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert loads
    for node in loads:
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert given.get("weights_only") == "True"
