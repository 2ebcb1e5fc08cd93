"""Kinds of requests, and which texts the U-Net has to be conditioned on in each."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Segment = list[tuple[str, float]]
Text = list[Segment]
Group = list[Text]
Rows = list[tuple[int, int]]
"""(group, text of the group) of every row of the conditioning of one U-Net call."""


def say(words: str) -> Text:
    """One text without emphasis or BREAK."""
    return [[(words, 1.0)]]


def picture(side: int = 64) -> str:
    """A grey gradient as a base64 PNG."""
    lines = b"".join(
        b"\0" + bytes((4 * x) % 256 for x in range(side) for _ in "rgb") for _ in range(side)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


@dataclass(frozen=True)
class Kind:
    """A request, the texts that the host encodes for it, and the rows of its U-Net calls.

    `calls` may be shorter than the calls that happen: the last entry then stands for the rest.
    """

    prompt: str
    groups: Sequence[Group]
    calls: Sequence[Rows] = ([(0, 0)],)
    request: dict[str, Any] = field(default_factory=dict[str, Any])


LONG = " ".join(f"man number {i}" for i in range(40))
HIRES = {
    "enable_hr": True,
    "hr_scale": 2,
    "hr_upscaler": "None",  # the only one that every webui has
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 2,
    "hr_additional_modules": ["Use same choices"],  # Forge fails without; A1111 does not know it
}
CAT, DOG = say("a cat"), say("a dog")
KINDS: dict[str, Kind] = {
    "plain": Kind("a photo of a man", [[say("a photo of a man")]]),
    "empty": Kind("", [[say("")]]),
    "batch": Kind("a man", [[say("a man")]], [[(0, 0), (0, 0)]], {"batch_size": 2}),
    "two batches": Kind("a man", [[say("a man")]], request={"n_iter": 2}),
    "AND": Kind("a cat AND a dog :0.7", [[CAT], [DOG]], [[(0, 0), (1, 0)]]),
    "BREAK": Kind("a cat BREAK a dog", [[[*CAT, *DOG]]]),
    "long": Kind(LONG, [[say(LONG)]]),
    "schedule": Kind("[a cat:a dog:0.5]", [[CAT, DOG]], [[(0, 0)]] * 3 + [[(0, 1)]], {"steps": 4}),
    "schedule into a long text": Kind(
        f"[a cat:{LONG}:0.5]", [[CAT, say(LONG)]], [[(0, 0)]] * 3 + [[(0, 1)]], {"steps": 4}
    ),
    "schedule out of nothing": Kind(
        "[a cat::0.5]", [[CAT, say("")]], [[(0, 0)]] * 3 + [[(0, 1)]], {"steps": 4}
    ),
    "alternation": Kind(
        "[a cat|a dog]",
        [[CAT, DOG, CAT, DOG]],
        [[(0, 0)], [(0, 0)], [(0, 1)], [(0, 2)]],
        {"steps": 4},
    ),
    "emphasis": Kind(
        "a (photo:1.3) of a (man:0.5)",
        [[[[("a ", 1.0), ("photo", 1.3), (" of a ", 1.0), ("man", 0.5)]]]],
    ),
    "unbalanced": Kind("a (photo of a man", [[[[("a ", 1.0), ("photo of a man", 1.1)]]]]),
    "hires": Kind("a man", [[say("a man")]], request=HIRES),
    "hires prompt": Kind(
        "a cat", [[CAT], [DOG]], [[(0, 0)], [(0, 0)], [(1, 0)]], {**HIRES, "hr_prompt": "a dog"}
    ),
    "img2img": Kind("a man", [[say("a man")]], request={"init_images": [picture()]}),
}
