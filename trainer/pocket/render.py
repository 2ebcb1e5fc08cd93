"""The pocket renderer: cartoon faces and simple scenes, drawn from signed distances.

Pictures are drawn at 64 x 64 and averaged down to 32 x 32, a whole batch at a time. Positions
are in units where the picture spans [-1, 1], y pointing down.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .world import ATTRIBUTES

Array = NDArray[np.floating[Any]]
Number = Array | float
SIZE, _DRAW = 32, 64

BACKGROUNDS = ("white", "grey", "blue", "green", "yellow", "pink")
SHIRTS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
HATS = ("none", "red", "blue", "green")
THINGS = ("circle", "square", "triangle", "house", "tree", "car", "flower", "star")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")

_RGB = {
    "red": (0.85, 0.15, 0.15),
    "orange": (0.95, 0.55, 0.1),
    "yellow": (0.95, 0.85, 0.2),
    "green": (0.15, 0.6, 0.25),
    "blue": (0.15, 0.35, 0.85),
    "purple": (0.55, 0.2, 0.65),
    "black": (0.08, 0.08, 0.1),
    "white": (0.97, 0.97, 0.97),
}
_BACKGROUND_RGB = np.array(
    [
        (0.96, 0.96, 0.94),
        (0.6, 0.6, 0.62),
        (0.5, 0.7, 0.95),
        (0.55, 0.82, 0.55),
        (0.97, 0.9, 0.5),
        (0.98, 0.7, 0.78),
    ],
    np.float32,
)
_COLOR_RGB = np.array([_RGB[c] for c in COLORS], np.float32)
_HAT_RGB = np.array([_RGB[c] for c in ("white", "red", "blue", "green")], np.float32)
_SKIN_RGB = np.array(
    [(1.0, 0.88, 0.8), (0.95, 0.76, 0.62), (0.82, 0.6, 0.42), (0.6, 0.4, 0.26), (0.4, 0.26, 0.18)],
    np.float32,
)
_HAIR_RGB = np.array(
    [
        (0.1, 0.09, 0.1),
        (0.4, 0.24, 0.12),
        (0.93, 0.78, 0.35),
        (0.78, 0.27, 0.08),
        (0.66, 0.66, 0.68),
        (0.2, 0.35, 0.9),
    ],
    np.float32,
)
_IRIS_RGB = np.array(
    [(0.35, 0.2, 0.08), (0.1, 0.4, 0.9), (0.1, 0.6, 0.2), (0.5, 0.52, 0.55)], np.float32
)


@dataclass(frozen=True)
class Scene:
    """What is not part of a face's identity: `place` (B, 5) is dx, dy, scale, tilt and light."""

    place: Array
    background: NDArray[np.int64]
    shirt: NDArray[np.int64]
    hat: NDArray[np.int64]


def random_scene(rng: np.random.Generator, count: int, hats: float = 0.2) -> Scene:
    """Draw poses, light and surroundings for `count` faces."""
    low, high = (-0.08, -0.06, 0.9, -0.16, -0.08), (0.08, 0.06, 1.06, 0.16, 0.06)
    place = rng.uniform(low, high, (count, 5)).astype(np.float32)
    hat = np.where(rng.random(count) < hats, rng.integers(1, len(HATS), count), 0)
    return Scene(
        place, rng.integers(0, len(BACKGROUNDS), count), rng.integers(0, len(SHIRTS), count), hat
    )


class _Canvas:
    """A batch of pictures that shapes are painted on, in coordinates that can be moved.

    Sizes, places and colors are given for the whole batch, also where only a part is painted on.
    """

    def __init__(self, color: Array) -> None:
        axis = (np.arange(_DRAW, dtype=np.float32) + 0.5) / _DRAW * 2 - 1
        self.rgb = np.broadcast_to(color[:, None, None, :], (len(color), _DRAW, _DRAW, 3)).astype(
            np.float32
        )
        self.x = np.broadcast_to(axis[None, None, :], self.rgb.shape[:3])
        self.y = np.broadcast_to(axis[None, :, None], self.rgb.shape[:3])
        self.rows: slice | NDArray[np.intp] = slice(None)

    def only(self, where: NDArray[np.bool_]) -> _Canvas:
        """The pictures of the whole batch that `where` (B,) picks: the others stay as they are."""
        part = copy.copy(self)
        part.rows = np.flatnonzero(where)
        part.x, part.y = self.x[part.rows], self.y[part.rows]
        return part

    def of(self, value: Number) -> Array:
        """A number for each picture (B,) shaped like coordinates; one for all stays as it is."""
        array = np.asarray(value, np.float32)
        return array[self.rows, None, None] if array.ndim == 1 else array

    def move(self, dx: Array, dy: Array, scale: Array, tilt: Array) -> None:
        x, y = self.x - self.of(dx), self.y - self.of(dy)
        cos, sin = np.cos(tilt), np.sin(tilt)
        self.x = (x * self.of(cos) + y * self.of(sin)) / self.of(scale)
        self.y = (y * self.of(cos) - x * self.of(sin)) / self.of(scale)

    def paint(self, distance: Array, color: Array) -> None:
        """Cover what lies inside `distance` < 0 with a color for each picture (B, 3), or one."""
        cover = np.clip(0.5 - distance * (_DRAW / 2), 0, 1)
        if len(color) > 1:
            color = color[self.rows]
        under = self.rgb[self.rows]
        self.rgb[self.rows] = under + cover[..., None] * (color[:, None, None, :] - under)

    def ellipse(self, cx: Number, cy: Number, a: Number, b: Number, power: Number = 2.0) -> Array:
        dx, dy = (
            np.abs(self.x - self.of(cx)) / self.of(a),
            np.abs(self.y - self.of(cy)) / self.of(b),
        )
        if isinstance(power, float) and power == 2.0:
            radius = np.sqrt(dx * dx + dy * dy)
        else:
            radius = (dx ** self.of(power) + dy ** self.of(power)) ** (1 / self.of(power))
        return (radius - 1) * np.minimum(self.of(a), self.of(b))

    def box(self, cx: Number, cy: Number, a: Number, b: Number) -> Array:
        return np.maximum(
            np.abs(self.x - self.of(cx)) - self.of(a), np.abs(self.y - self.of(cy)) - self.of(b)
        )

    def line(self, ax: Number, ay: Number, bx: Number, by: Number, width: Number) -> Array:
        px, py = self.x - self.of(ax), self.y - self.of(ay)
        dx, dy = self.of(bx) - self.of(ax), self.of(by) - self.of(ay)
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        return np.hypot(px - along * dx, py - along * dy) - self.of(width)

    def polygon(self, corners: list[tuple[float, float]]) -> Array:
        """Convex polygon, corners clockwise on screen."""
        inside: Array | None = None
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = np.hypot(bx - ax, by - ay)
            edge = ((self.x - ax) * (by - ay) - (self.y - ay) * (bx - ax)) / length
            inside = edge if inside is None else np.maximum(inside, edge)
        assert inside is not None
        return inside

    def finish(self, light: Array | None = None) -> Array:
        """Average down to (B, 32, 32, 3) in [0, 1]."""
        if light is not None:
            self.rgb = self.rgb * (1 + self.of(light)[..., None])
        small = self.rgb.reshape(len(self.rgb), SIZE, 2, SIZE, 2, 3).mean(axis=(2, 4))
        return np.clip(small, 0, 1)


def _is(look: NDArray[np.int64], attribute: str, *values: str) -> NDArray[np.bool_]:
    column = look[:, list(ATTRIBUTES).index(attribute)]
    return np.isin(column, [ATTRIBUTES[attribute].index(v) for v in values])


def draw_faces(look: NDArray[np.int64], offsets: Array, scene: Scene) -> Array:
    """Draw faces: look (B, 12), offsets (B, 4) -> pictures (B, 32, 32, 3) in [0, 1]."""
    look = np.asarray(look, np.int64)
    offsets = np.asarray(offsets, np.float32)
    column = {name: look[:, i] for i, name in enumerate(ATTRIBUTES)}
    skin, hair = _SKIN_RGB[column["skin"]], _HAIR_RGB[column["hair"]]
    dark, lips = skin * 0.72, skin * 0.5 + np.array([0.35, 0.05, 0.08], np.float32)
    woman = _is(look, "gender", "woman")
    lips = np.where(woman[:, None], np.array([0.8, 0.1, 0.2], np.float32), lips * 0.8)
    c = _Canvas(_BACKGROUND_RGB[scene.background])
    dx, dy, scale, tilt, light = scene.place.T
    c.move(dx, dy, scale, tilt)

    def by(attribute: str, *values: float) -> Array:
        return np.asarray(values, np.float32)[column[attribute]]

    width = by("face", 0.5, 0.45, 0.49, 0.39) + 0.025 * offsets[:, 3]
    height = by("face", 0.54, 0.62, 0.58, 0.64)
    power = by("face", 2.0, 2.2, 3.4, 2.2)
    long, bob, bun = (_is(look, "style", s) for s in ("long", "bob", "bun"))
    curly, spiky = _is(look, "style", "curly"), _is(look, "style", "spiky")
    part = c.only(long)
    part.paint(part.ellipse(0, 0.2, width + 0.17, 0.95, 3.0), hair)
    part = c.only(bob)
    part.paint(part.ellipse(0, -0.02, width + 0.16, 0.62, 3.0), hair)
    part = c.only(bun)
    part.paint(part.ellipse(0, -0.78, 0.22, 0.2), hair)
    part = c.only(curly)
    for angle in np.linspace(np.pi * 0.92, np.pi * 2.08, 7):
        x, y = np.cos(angle), np.sin(angle)
        curl = part.ellipse((width + 0.04) * float(x), 0.52 * float(y) - 0.12, 0.19, 0.19)
        part.paint(curl, hair)
    part = c.only(spiky)
    for x, lean in ((-0.36, -0.14), (-0.13, -0.05), (0.13, 0.05), (0.36, 0.14)):
        part.paint(part.line(x, -0.4, x + lean, -0.8, 0.09), hair)
    c.paint(c.box(0, 0.62, 0.17, 0.25), dark)
    c.paint(c.ellipse(0, 1.12, 0.78, 0.42, 2.6), _COLOR_RGB[scene.shirt])
    c.paint(c.ellipse(-width, 0.02, 0.09, 0.13), dark)
    c.paint(c.ellipse(width, 0.02, 0.09, 0.13), dark)
    head = c.ellipse(0, 0, width, height, power)
    c.paint(head, skin)
    part = c.only(_is(look, "beard", "full"))
    inside = head[part.rows]
    jaw = np.maximum(0.14 - part.y, 0.62 - np.abs(part.x) * 1.2 - part.y)
    part.paint(np.maximum(inside, jaw), hair * 0.9)
    part.paint(np.maximum(inside, 0.24 - part.y), hair * 0.9)
    part = c.only(_is(look, "beard", "goatee"))
    part.paint(part.ellipse(0, 0.5, 0.13, 0.14), hair * 0.9)
    fringe = np.where(bob, -0.2, np.where(long | bun, -0.3, -0.34))
    cap = c.ellipse(0, -0.03, width + 0.05, height + 0.05, power)
    parting = np.where(_is(look, "style", "short"), 0.35, 0.0)
    c.paint(np.maximum(cap, c.y - c.of(fringe) + c.of(parting) * c.x), hair)

    _eyes(c, look, offsets, hair, column, woman)
    nose_x = by("nose", 0.045, 0.03, 0.11, 0.06)
    part = c.only(_is(look, "nose", "dot", "wide"))
    part.paint(part.ellipse(0, 0.16, nose_x, 0.04), dark * 0.8)
    part = c.only(_is(look, "nose", "line"))
    part.paint(part.line(0, 0.0, 0, 0.17, 0.028), dark * 0.8)
    part = c.only(_is(look, "nose", "pointed"))
    part.paint(part.polygon([(0.0, -0.02), (0.11, 0.2), (-0.11, 0.2)]), dark * 0.85)

    mouth = 0.34 + 0.03 * offsets[:, 2]
    part = c.only(_is(look, "mouth", "smiling"))
    bow = part.of(mouth) + 0.09 - 1.6 * part.x * part.x
    smile = np.maximum(np.abs(part.y - bow) - 0.038, np.abs(part.x) - 0.21)
    part.paint(smile, lips * 0.8)
    part = c.only(_is(look, "mouth", "straight"))
    part.paint(part.box(0, mouth, 0.18, 0.032), lips * 0.8)
    part = c.only(_is(look, "mouth", "open"))
    part.paint(part.ellipse(0, mouth + 0.02, 0.14, 0.1), lips * 0.7)
    part.paint(part.ellipse(0, mouth + 0.03, 0.09, 0.05), lips * 0.15)
    part = c.only(_is(look, "mouth", "small"))
    part.paint(part.ellipse(0, mouth, 0.075, 0.045), lips * 0.85)
    part = c.only(_is(look, "beard", "moustache"))
    part.paint(part.line(-0.16, 0.26, 0.16, 0.26, 0.05), hair * 0.85)

    part, hat = c.only(scene.hat > 0), _HAT_RGB[scene.hat]
    crown = part.ellipse(0, -0.36, width + 0.06, 0.44, 3.0)
    part.paint(np.maximum(crown, part.y + 0.4), hat)
    part.paint(part.box(0, -0.4, width + 0.2, 0.055), hat * 0.75)
    return c.finish(light)


def _eyes(
    c: _Canvas,
    look: NDArray[np.int64],
    offsets: Array,
    hair: Array,
    column: dict[str, NDArray[np.int64]],
    woman: NDArray[np.bool_],
) -> None:
    apart = np.array([0.15, 0.2, 0.25], np.float32)[column["spacing"]]
    size = 0.105 + 0.015 * offsets[:, 0]
    y = -0.06 + 0.035 * offsets[:, 1]
    white, black = np.array([[1, 1, 1]], np.float32), np.array([[0.1, 0.08, 0.08]], np.float32)
    brow, w = hair * 0.6, 0.11
    women, flat, thick, slanted, arched = (
        c.only(woman),
        *(c.only(_is(look, "brow", shape)) for shape in ("flat", "thick", "slanted", "arched")),
    )
    round_ones, square = (c.only(_is(look, "glasses", shape)) for shape in ("round", "square"))
    for side in (-1.0, 1.0):
        x = side * apart
        c.paint(c.ellipse(x, y, size, size * 0.82), white)
        c.paint(c.ellipse(x, y, size * 0.68, size * 0.68), _IRIS_RGB[column["eyes"]])
        c.paint(c.ellipse(x, y, size * 0.28, size * 0.28), black)
        lash = women.line(x - size, y - size * 0.7, x + size, y - size * 0.7, 0.028)
        women.paint(lash, black)
        outer, tip = x + side * size, x + side * size * 1.5
        women.paint(women.line(outer, y - size * 0.7, tip, y - size * 1.3, 0.02), black)
        high = y - 0.19
        flat.paint(flat.line(x - w, high, x + w, high, 0.022), brow)
        thick.paint(thick.line(x - w, high, x + w, high, 0.05), brow)
        slant = slanted.line(x - side * w, high + 0.06, x + side * w, high - 0.04, 0.028)
        slanted.paint(slant, brow)
        arched.paint(arched.line(x - w, high + 0.03, x, high - 0.04, 0.024), brow)
        arched.paint(arched.line(x, high - 0.04, x + w, high + 0.03, 0.024), brow)
        rim = size + 0.055
        round_ones.paint(np.abs(round_ones.ellipse(x, y, rim, rim)) - 0.02, black)
        square.paint(np.abs(square.box(x, y, rim * 1.05, rim * 0.85)) - 0.022, black)
    worn = c.only(~_is(look, "glasses", "none"))
    worn.paint(worn.line(-(apart - size - 0.05), y, apart - size - 0.05, y, 0.018), black)


@dataclass(frozen=True)
class Things:
    """One or two colored things on a background; `kind` and `color` are (B, 2), -1 is none."""

    kind: NDArray[np.int64]
    color: NDArray[np.int64]
    background: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_], other: Things) -> Things:
        """These scenes where `chosen` (B,) says so, and the others elsewhere."""
        each = chosen[:, None]
        return Things(
            np.where(each, self.kind, other.kind),
            np.where(each, self.color, other.color),
            np.where(chosen, self.background, other.background),
        )


def random_things(rng: np.random.Generator, count: int, two: float = 1 / 3) -> Things:
    """Draw `count` scenes of one thing, or of two in this share of them."""
    kind = rng.integers(0, len(THINGS), (count, 2))
    color = rng.integers(0, len(COLORS), (count, 2))
    same = kind[:, 0] == kind[:, 1]
    kind[same, 1] = (kind[same, 1] + 1) % len(THINGS)
    kind[rng.random(count) < 1 - two, 1] = -1
    background = rng.integers(0, len(BACKGROUNDS), count)
    unseen = [COLORS.index(b) if b in COLORS else -1 for b in BACKGROUNDS]
    hidden = color == np.array(unseen)[background][:, None]
    return Things(kind, np.where(hidden, (color + 1) % len(COLORS), color), background)


def draw_things(things: Things, rng: np.random.Generator) -> Array:
    """Draw things at slightly random places and sizes -> pictures (B, 32, 32, 3) in [0, 1]."""
    count = len(things.kind)
    c = _Canvas(_BACKGROUND_RGB[things.background])
    home = c.x, c.y
    two = things.kind[:, 1] >= 0
    for slot, side in ((0, -1.0), (1, 1.0)):
        c.x, c.y = home
        jitter = rng.uniform(-0.1, 0.1, (count, 3)).astype(np.float32)
        dx = jitter[:, 0] + np.where(two, side * 0.47, 0).astype(np.float32)
        scale = np.where(two, 0.6, 1.0).astype(np.float32) * (1 + jitter[:, 2])
        c.move(dx, jitter[:, 1], scale, np.zeros(count, np.float32))
        color = _COLOR_RGB[things.color[:, slot]]
        for index, name in enumerate(THINGS):
            _thing(c.only(things.kind[:, slot] == index), name, color)
    return c.finish()


@cache
def thing_distances() -> NDArray[np.float64]:
    """Mean square between pictures of two kinds of things, all else equal: (kinds, kinds)."""
    scenes = random_things(np.random.default_rng(0), 16, 0.0)
    kinds = [np.where(scenes.kind < 0, -1, kind) for kind in range(len(THINGS))]
    drawn = [draw_things(replace(scenes, kind=k), np.random.default_rng(1)) for k in kinds]
    pictures = np.stack(drawn).astype(np.float64).reshape(len(THINGS), -1)
    return np.square(pictures[:, None] - pictures).mean(2)


def _thing(c: _Canvas, name: str, color: Array) -> None:
    brown = np.array([[0.45, 0.28, 0.13]], np.float32)
    ink = np.array([[0.12, 0.12, 0.14]], np.float32)
    if name == "circle":
        c.paint(c.ellipse(0, 0, 0.55, 0.55), color)
    elif name == "square":
        c.paint(c.box(0, 0, 0.5, 0.5), color)
    elif name == "triangle":
        c.paint(c.polygon([(0, -0.62), (0.65, 0.52), (-0.65, 0.52)]), color)
    elif name == "house":
        c.paint(c.box(0, 0.25, 0.45, 0.35), color)
        c.paint(c.polygon([(0, -0.65), (0.62, -0.1), (-0.62, -0.1)]), brown)
        c.paint(c.box(0, 0.38, 0.12, 0.22), ink)
    elif name == "tree":
        c.paint(c.box(0, 0.45, 0.1, 0.3), brown)
        c.paint(c.ellipse(0, -0.15, 0.45, 0.48), color)
    elif name == "car":
        c.paint(c.box(0, 0.12, 0.7, 0.2), color)
        c.paint(c.box(0, -0.16, 0.38, 0.18), color)
        c.paint(c.ellipse(-0.38, 0.34, 0.17, 0.17), ink)
        c.paint(c.ellipse(0.38, 0.34, 0.17, 0.17), ink)
    elif name == "flower":
        c.paint(c.line(0, 0, 0, 0.75, 0.05), np.array([[0.1, 0.45, 0.15]], np.float32))
        for angle in np.arange(5) * 2 * np.pi / 5:
            x, y = 0.28 * float(np.sin(angle)), -0.15 - 0.28 * float(np.cos(angle))
            c.paint(c.ellipse(x, y, 0.2, 0.2), color)
        c.paint(c.ellipse(0, -0.15, 0.15, 0.15), np.array([[0.9, 0.75, 0.1]], np.float32))
    elif name == "star":
        angle = np.arctan2(c.x, -c.y)
        wedge = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * (2 * np.pi / 5)
        radius = np.hypot(c.x, c.y)
        c.paint((radius * np.cos(wedge - 1.2) - 0.25).astype(np.float32), color)
