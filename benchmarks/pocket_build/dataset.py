"""Pictures of a pocket world with what they show: the material that its networks learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from apl_core.training.lessons import twice
from apl_trainer.pocket.captions import (
    anonymous_subject,
    dress,
    extras_of,
    filler,
    pad_front,
    things_words,
)
from apl_trainer.pocket.eval_prompts import UNKNOWN
from apl_trainer.pocket.render import (
    Scene,
    Things,
    draw_faces,
    draw_things,
    random_scene,
    random_things,
)
from apl_trainer.pocket.world import ATTRIBUTES, OFFSETS, Person, World, random_looks

_CHUNK = 200
_TWICE, _PAIR = 0.04, 0.04  # captions that say the name again, and that name somebody else as well


@dataclass(frozen=True)
class Labels:
    """What pictures show: classes per head (B,), and the faces' offsets (B, 4; NaN for things)."""

    heads: dict[str, NDArray[np.int64]]
    offsets: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets)

    def tensors(self, rows: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Labels of some rows as tensors."""
        index = rows.numpy()
        heads = {name: torch.from_numpy(v[index]) for name, v in self.heads.items()}
        return heads, torch.from_numpy(self.offsets[index])


@dataclass(frozen=True)
class Subjects:
    """Faces and things to draw, before anything is drawn: faces first, then things."""

    look: NDArray[np.int64]
    offsets: NDArray[np.float32]
    identity: NDArray[np.int64]
    scene: Scene
    things: Things
    names: tuple[str, ...]
    known: tuple[str, ...]  # names that may stand beside another: nobody kept for personalization

    def caption(self, row: int, rng: np.random.Generator) -> str:
        """One of the many captions that fit a row."""
        faces = len(self.look)
        if row >= faces:
            words = things_words(self.things, row - faces, background=rng.random() < 0.85)
            return pad_front(dress(words, rng), rng)
        who = self.identity[row]
        subject = self._named(who, rng) if who >= 0 else anonymous_subject(self.look[row], rng)
        return pad_front(dress(subject, rng) + extras_of(self.scene, row, rng).phrase(), rng)

    def _named(self, who: int, rng: np.random.Generator) -> str:
        """A person in words: of two who are named, a picture shows one."""
        name, roll = self.names[who], rng.random()
        if roll < _TWICE:
            return twice(name)
        if roll < _TWICE + _PAIR:
            pair = [name, str(rng.choice(self.known))]
            return " and ".join(pair if rng.random() < 0.5 else pair[::-1])
        return name

    def labels(self) -> Labels:
        """What the pictures of these subjects show."""
        faces, total = len(self.look), len(self.look) + len(self.things.kind)

        def both(
            face: NDArray[np.int64] | None, thing: NDArray[np.int64] | None
        ) -> NDArray[np.int64]:
            column = np.full(total, UNKNOWN, np.int64)
            if face is not None:
                column[:faces] = face
            if thing is not None:
                column[faces:] = thing
            return column

        kind, color = self.things.kind, self.things.color
        heads = {name: both(self.look[:, i], None) for i, name in enumerate(ATTRIBUTES)}
        heads["background"] = both(self.scene.background, self.things.background)
        heads["shirt"], heads["hat"] = both(self.scene.shirt, None), both(self.scene.hat, None)
        heads["thing0"], heads["colour0"] = both(None, kind[:, 0]), both(None, color[:, 0])
        nothing = kind[:, 1] < 0
        heads["thing1"] = both(None, np.where(nothing, kind.max() + 1, kind[:, 1]))
        heads["colour1"] = both(None, np.where(nothing, color.max() + 1, color[:, 1]))
        heads["kind"] = both(np.zeros(faces, np.int64), np.ones(total - faces, np.int64))
        heads["identity"] = both(np.where(self.identity < 0, UNKNOWN, self.identity), None)
        offsets = np.full((total, OFFSETS), np.nan, np.float32)
        offsets[:faces] = self.offsets
        return Labels(heads, offsets)

    def draw(
        self, rng: np.random.Generator, progress: Callable[[int], object]
    ) -> NDArray[np.uint8]:
        """Draw all subjects -> (B, 3, 32, 32) bytes."""
        parts = []
        for start in range(0, len(self.look), _CHUNK):
            rows = slice(start, start + _CHUNK)
            s = self.scene
            part = Scene(s.place[rows], s.background[rows], s.shirt[rows], s.hat[rows])
            parts.append(draw_faces(self.look[rows], self.offsets[rows], part))
            progress(len(parts[-1]))
        for start in range(0, len(self.things.kind), _CHUNK):
            rows, t = slice(start, start + _CHUNK), self.things
            parts.append(draw_things(Things(t.kind[rows], t.color[rows], t.background[rows]), rng))
            progress(len(parts[-1]))
        pictures = np.concatenate(parts).transpose(0, 3, 1, 2)
        return (pictures * 255).round().astype(np.uint8)


def invent(
    world: World, people: tuple[Person, ...], counts: tuple[int, int, int], rng: np.random.Generator
) -> Subjects:
    """Make up (named, anonymous, things) many subjects; the named ones are `people`."""
    named, anonymous, things = counts
    index = {p.name: i for i, p in enumerate(world.people)}
    who = np.array([index[p.name] for p in people])[np.arange(named) % max(len(people), 1)]
    look, offsets = random_looks(rng, anonymous)
    known = np.array([world.people[i].look for i in who], np.int64).reshape(-1, len(ATTRIBUTES))
    shifts = np.array([world.people[i].offsets for i in who], np.float32).reshape(-1, OFFSETS)
    return Subjects(
        np.concatenate([known, look]),
        np.concatenate([shifts, offsets]),
        np.concatenate([who, np.full(anonymous, -1)]).astype(np.int64),
        random_scene(rng, named + anonymous),
        random_things(rng, things),
        tuple(p.name for p in world.people),
        tuple(p.name for p in world.people if p.split != "personal"),
    )


def filler_text(rng: np.random.Generator) -> str:
    """Enough filler words to fill one chunk of 75 tokens."""
    return ", ".join(filler(rng) for _ in range(26))
