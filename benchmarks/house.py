"""`apl bench house`: the rooms of the repository and who imports whom, as a picture and a map."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from apl_core.atomic import write_text
from apl_core.errors import ConfigError

PACKAGES = {
    "apl_core": "apl_core",
    "trainer": "apl_trainer",
    "a1111_extension": "apl_a1111",
    "comfy_nodes": "apl_comfy",
    "benchmarks": "benchmarks",
}
"""Folders and the names that they are imported by."""

_COLORS = {
    "apl_core": "#dbe9f6",
    "trainer": "#e4f1dc",
    "a1111_extension": "#fbe5d0",
    "comfy_nodes": "#f6dde4",
    "benchmarks": "#eae3f3",
}
_APART = (("trainer", "cli", "bench"), ("trainer", "__init__"), ("trainer", "__main__"))
_HEIGHT, _GAP, _FLOOR, _CHARACTER = 26, 14, 84, 7.2


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def relative_imports(root: Path, path: Path) -> Iterator[list[str]]:
    """Modules of its own package that a file imports, also those for types: parts of their path."""
    inside = path.relative_to(root).parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
            for alias in node.names:
                yield from _module(root, [part for part in (*base, alias.name) if part])


def absolute_imports(root: Path, path: Path) -> Iterator[list[str]]:
    """Modules of this repository's packages that a file imports by their full name."""
    folders = {name: folder for folder, name in PACKAGES.items()}
    for node in ast.walk(tree(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            if top in folders:
                yield from _module(root, [folders[top], *rest])


def _module(root: Path, parts: list[str]) -> Iterator[list[str]]:
    while parts and not (root / Path(*parts)).with_suffix(".py").is_file():
        parts.pop()
    if len(parts) > 1:
        yield parts


def rooms(root: Path) -> dict[str, str]:
    """Rooms by path, such as `trainer/cli/` or `apl_core/prefix.py`, and what each is for.

    A room is a folder of a package, or a file on its ground floor; its first line says what for.
    """
    found: dict[str, str] = {}
    for package in PACKAGES:
        folders = sorted((root / package).rglob("__init__.py"))
        files = sorted(f for f in (root / package).glob("*.py") if f.name[0] != "_")
        for path in [*folders, *files]:
            name = path.relative_to(root).as_posix().replace("__init__.py", "")
            found[name] = (ast.get_docstring(tree(path)) or "").partition("\n")[0]
    return found


def arrows(root: Path) -> dict[str, set[str]]:
    """Who imports whom; an adapter is one room, a file on the trainer's ground floor another.

    No arrow: `trainer/cli/bench.py` looks the benchmarks up when it runs.
    """
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts in _APART:
                continue
            targets = [*relative_imports(root, path), *absolute_imports(root, path)]
            room = _room(parts)
            found.setdefault(room, set()).update({_room(t) for t in targets} - {room})
    return found


def _room(parts: Sequence[str]) -> str:
    inside = len(parts) > 2 and parts[0] in ("apl_core", "benchmarks")
    return "/".join(parts[:2]) if inside or parts[0] == "trainer" else parts[0]


def circles(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Arrows that lie on a way back to where they begin."""
    return [(a, b) for a, to in graph.items() for b in to if a in reached(graph, b)]


def reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Everything that can be reached from a room, itself only on a circle."""
    found, left = set[str](), [start]
    while left:
        new = graph.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def floors(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Rooms by floor from the ground up: each right above the highest room that it imports.

    The order within a floor follows the rooms below, so that arrows cross less.
    """
    below = {room: reached(graph, room) for room in graph}
    height: dict[str, int] = {}
    for room in sorted(graph, key=lambda r: len(below[r])):
        height[room] = 1 + max((height[b] for b in below[room]), default=-1)
    rows = [sorted(r for r in graph if height[r] == h) for h in range(max(height.values()) + 1)]
    place: dict[str, float] = {}
    for row in rows:
        row.sort(key=lambda r: (_mean([place[b] for b in _needed(graph, r)]), r))
        place |= {room: (i + 0.5) / len(row) for i, room in enumerate(row)}
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def _needed(graph: Mapping[str, set[str]], room: str) -> list[str]:
    """Rooms that it imports and that no other of its imports reaches: the arrows that are drawn."""
    return sorted(b for b in graph[room] if not any(b in reached(graph, o) for o in graph[room]))


def picture(graph: Mapping[str, set[str]]) -> str:
    """The house as SVG: floors from the bottom up, an arrow from each room to what it imports."""
    rows = floors(graph)
    sizes = {room: len(room) * _CHARACTER + 16 for room in graph}
    width = max(sum(sizes[r] + _GAP for r in row) for row in rows) + _GAP
    height = _FLOOR * len(rows) + 10
    corners: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        gap = (width - sum(sizes[r] for r in row)) / (len(row) + 1)
        x, y = gap, height - _FLOOR * number - _HEIGHT - 12
        for room in row:
            corners[room] = x, y
            x += sizes[room] + gap
    lines = [
        _arrow(corners[a], corners[b], sizes[a], sizes[b])
        for a in sorted(graph)
        for b in _needed(graph, a)
    ]
    boxes = [_box(room, *corners[room], sizes[room]) for room in sorted(graph)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
            'font-family="ui-monospace, monospace" font-size="12">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#6a6a74"/></marker>'
            "</defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def _arrow(a: tuple[float, float], b: tuple[float, float], from_: float, to: float) -> str:
    x, y, u, v = a[0] + from_ / 2, a[1] + _HEIGHT, b[0] + to / 2, b[1]
    bend = (v - y) / 2
    return (
        f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {u:.0f} {v - bend:.0f} '
        f'{u:.0f} {v:.0f}" fill="none" stroke="#9a9aa4" marker-end="url(#tip)"/>'
    )


def _box(room: str, x: float, y: float, width: float) -> str:
    color = _COLORS[room.partition("/")[0]]
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{_HEIGHT}" rx="4" '
        f'fill="{color}" stroke="#6a6a74"/><text x="{x + width / 2:.0f}" '
        f'y="{y + _HEIGHT / 2 + 4:.0f}" text-anchor="middle">{escape(room)}</text>'
    )


def write_between(page: Path, name: str, text: str) -> None:
    """Put a text between the markers `<!-- NAME -->` and `<!-- /NAME -->` of a page.

    Raises ConfigError where a marker is missing.
    """
    before, first, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, last, after = rest.partition(f"<!-- /{name} -->")
    if not (first and last):
        raise ConfigError(
            f"write a section of {page.name}",
            f"it has no <!-- {name} --> with <!-- /{name} --> below",
            "put both lines around the section",
        )
    write_text(page, before + first + text + last + after)


def run(root: Path) -> None:
    """Write docs/img/house.svg, and the map of rooms in CONTRIBUTING.md."""
    write_text(root / "docs" / "img" / "house.svg", picture(arrows(root)))
    lines = ["| room | what it is |", "|---|---|"]
    lines += [f"| `{room}` | {text} |" for room, text in rooms(root).items()]
    write_between(root / "CONTRIBUTING.md", "rooms", "\n".join(lines) + "\n")
