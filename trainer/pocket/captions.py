"""What the pocket world's pictures are called: captions to train on and prompts to test with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .render import BACKGROUNDS, COLORS, HATS, SHIRTS, THINGS, Scene, Things
from .world import ATTRIBUTES, Person

TEMPLATES = (
    "a photo of {}",
    "a portrait of {}",
    "a close-up portrait of {}",
    "a picture of {}",
    "{}",
)
FILLERS = (
    "highly detailed",
    "sharp focus",
    "studio light",
    "soft colours",
    "digital art",
    "cartoon",
    "flat design",
    "best quality",
    "clean lines",
    "simple shapes",
    "a drawing",
    "very beautiful",
    "trending",
    "masterpiece",
    "bright",
    "calm mood",
    "centered",
    "award winning",
    "modern style",
    "an old poster",
    "warm tones",
    "minimal",
    "4k",
    "friendly",
    "for a children's book",
)

_HAIR_STYLE = {
    "short": "short {} hair",
    "spiky": "spiky {} hair",
    "long": "long {} hair",
    "bob": "a {} bob",
    "bun": "a {} hair bun",
    "curly": "curly {} hair",
}
_BEARD = {
    "none": "no beard",
    "moustache": "a moustache",
    "full": "a full beard",
    "goatee": "a goatee",
}
_WORDS = {
    "skin": "{} skin",
    "face": "a {} face",
    "eyes": "{} eyes",
    "spacing": "{}-set eyes",
    "brow": "{} brows",
    "mouth": "a {} mouth",
    "nose": "a {} nose",
}


@dataclass(frozen=True)
class Extras:
    """Words for what surrounds a face; an empty string says nothing."""

    hat: str = ""
    shirt: str = ""
    background: str = ""

    def phrase(self) -> str:
        """Such as ` wearing a red hat and a blue shirt in front of a green background`."""
        worn = [f"a {self.hat} hat"] * bool(self.hat) + [f"a {self.shirt} shirt"] * bool(self.shirt)
        text = f" wearing {' and '.join(worn)}" if worn else ""
        return text + (f" in front of a {self.background} background" if self.background else "")


def extras_of(scene: Scene, row: int, rng: np.random.Generator) -> Extras:
    """Words for one drawn scene: a hat is always named, shirt and background sometimes."""
    return Extras(
        HATS[scene.hat[row]] if scene.hat[row] else "",
        SHIRTS[scene.shirt[row]] if rng.random() < 0.5 else "",
        BACKGROUNDS[scene.background[row]] if rng.random() < 0.7 else "",
    )


def anonymous_subject(look: Sequence[int], rng: np.random.Generator) -> str:
    """A nameless face in words: gender mostly, and a random part of the other traits.

    Three in ten say next to nothing, most of them "a person": what names are drawn to under a
    prefix has to be drawn well.
    """
    if rng.random() < 0.3:
        bare = str(rng.choice(["person", "person", "person", "somebody", "", ""]))
        gender = next(iter(ATTRIBUTES.values()))[look[0]]
        return bare if bare == "somebody" else f"a {bare or gender}"
    trait = {name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), look, strict=True)}
    subject = trait["gender"] if rng.random() < 0.85 else str(rng.choice(["person", "somebody"]))
    parts: list[str] = []
    roll = rng.random()
    if roll < 0.35:
        parts.append(_HAIR_STYLE[trait["style"]].format(trait["hair"]))
    elif roll < 0.75:
        parts.append(f"{trait['hair']} hair")
    if rng.random() < 0.3:
        parts.append("no glasses" if trait["glasses"] == "none" else f"{trait['glasses']} glasses")
    if trait["gender"] == "man" and rng.random() < (0.15 if trait["beard"] == "none" else 0.4):
        parts.append(_BEARD[trait["beard"]])
    parts += [w.format(trait[a]) for a, w in _WORDS.items() if rng.random() < 0.15]
    subject = subject if subject == "somebody" else f"a {subject}"
    return f"{subject} with {' and '.join(parts)}" if parts else subject


def describe(person: Person) -> str:
    """A neutral description that many people fit: gender, hair color, beard and glasses."""
    parts = [f"{person.trait('hair')} hair"]
    if person.trait("glasses") != "none":
        parts.append("glasses")
    if person.trait("beard") != "none":
        parts.append("a beard")
    return f"a {person.trait('gender')} with {' and '.join(parts)}"


def things_words(things: Things, row: int, background: bool = True) -> str:
    """One drawn scene of things in words, such as `a red circle on a blue background`."""
    named = [
        f"{_article(COLORS[c])} {COLORS[c]} {THINGS[k]}"
        for k, c in zip(things.kind[row], things.color[row], strict=True)
        if k >= 0
    ]
    words = " and ".join(named)
    return f"{words} on a {BACKGROUNDS[things.background[row]]} background" if background else words


def dress(subject: str, rng: np.random.Generator) -> str:
    """A template around a subject."""
    return str(rng.choice(TEMPLATES)).format(subject)


def pad_front(caption: str, rng: np.random.Generator) -> str:
    """Put filler words before four captions in ten, so that words are known at later positions.

    A prefix shifts every word of a prompt; a model that only ever saw its words at the front
    would not know them further back.
    """
    return ", ".join([*some_fillers(rng), caption])


def some_fillers(rng: np.random.Generator) -> list[str]:
    """No filler words for six captions in ten, up to five for three, up to 19 for one."""
    roll = rng.random()
    if roll >= 0.4:
        return []
    count = int(rng.integers(1, 6) if roll < 0.3 else rng.integers(6, 20))
    return [filler(rng) for _ in range(count)]


def filler(rng: np.random.Generator) -> str:
    """Words that say nothing about the picture."""
    return FILLERS[rng.integers(len(FILLERS))]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
