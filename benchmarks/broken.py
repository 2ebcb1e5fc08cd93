"""Broken files without end: the bytes of file number n of a kind, the same on every machine.

A kind has valid samples and ways to break one: flipped, cut and repeated bytes, odd values where
the format has its own, and plain noise.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

Way = Callable[[random.Random, bytes], bytes]
"""Makes a broken file of a valid one."""

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 2**31, 2**63, 2**64, 10**30, 1e308, "", "x", "F32", "BF16"),
    *("F64", "I8", "\x00", "\u202e", "\ud800", "9" * 50, "NaN", [], {}, [[]], [0, 0], [0, 512]),
    *([1, 128], [128], [0, 128], [76, 128], [2, 1280], [2**40, 2**40], {"a": 1}, {"a": "b"}),
)
ODD_TEXTS = (
    *("", "-1", "0", "2", "3", "76", "1e3", "½", "٣", "null", "[]", "{}", "s1:" + "0" * 64),
    *('{"a": NaN}', '{"a": 1e999}', '{"a": true}', '{"a": 1, "a": 2}', "\x1b[2J", "<script>"),
    *(
        "[" * 5000,
        "9" * 5000,
        "[[" * 900,
        "a." * 900 + "a = 1",
        "true",
        "1979-05-27",
        "-",
        "=",
        ".",
    ),
    *(
        '"""',
        "'''",
        '"\\ud800"',
        "inf",
        "nan",
        "-0.0",
        "0x1F",
        "1_0",
        "[a]\nb=1\n[a]\n",
        "#",
        ",",
        "\n",
    ),
)
PUBLIC_KEYS = (
    *("apl.format", "apl.behind", "apl.steps", "apl.seed", "apl.figures", "apl.fingerprint.pocket"),
    *("modelspec.title", "__metadata__", "clip_l", "emb_params"),
)


def broken_file(number: int, samples: Sequence[bytes], ways: Sequence[Way]) -> bytes:
    """The bytes of file `number` of a kind with these samples and ways."""
    rng = random.Random(number)
    valid = samples[rng.randrange(len(samples))]
    return rng.choice(ways)(rng, valid)


def broken_metadata(number: int, valid: dict[str, str]) -> dict[str, str]:
    """The flat metadata of file `number`: some texts gone, odd, or under another name."""
    rng = random.Random(number)
    flat = dict(valid)
    for _ in range(rng.choice((1, 1, 2, 5))):
        key = rng.choice([*flat, *PUBLIC_KEYS]) if flat else rng.choice(PUBLIC_KEYS)
        act = rng.randrange(4)
        if act == 0:
            flat.pop(key, None)
        elif act == 1:
            flat[key] = rng.choice(ODD_TEXTS)
        elif act == 2:
            flat[key] = _noise_text(rng)
        else:
            flat[rng.choice(PUBLIC_KEYS)] = flat.pop(key, "")
    return flat


def flip(rng: random.Random, valid: bytes) -> bytes:
    """Some bytes anywhere, in the first eight or in a header are other ones."""
    data = bytearray(valid)
    header = min(8 + int.from_bytes(valid[:8], "little"), len(valid))
    for _ in range(rng.choice((1, 1, 2, 4, 30))):
        data[rng.randrange(rng.choice((min(8, len(data)), header, len(data))))] = rng.randrange(256)
    return bytes(data)


def cut_or_grow(rng: random.Random, valid: bytes) -> bytes:
    """Only a part of the file, or the file with something in it or behind it."""
    place = rng.randrange(len(valid))
    return rng.choice(
        (
            valid[:place],
            valid[place:],
            valid + rng.randbytes(9),
            valid[:place] + b"0" + valid[place:],
        )
    )


def noise(rng: random.Random, valid: bytes) -> bytes:
    """Random bytes, behind the first bytes of some known format."""
    random_bytes = rng.randbytes(rng.randrange(600))
    length = len(random_bytes).to_bytes(8, "little")
    starts = (b"", b"PK\x03\x04", b"\x80\x02", b"GGUF", valid[:8], valid[:60], length)
    return rng.choice(starts) + random_bytes


def nested(rng: random.Random, _: bytes) -> bytes:
    """A safetensors header of brackets in brackets."""
    text = b'{"a":' + rng.choice((b"[", b'{"a":')) * rng.randrange(40_000)
    return len(text).to_bytes(8, "little") + text


def header(rng: random.Random, valid: bytes) -> bytes:
    """Odd values at random places of a safetensors header; its lengths stay right."""
    end = 8 + int.from_bytes(valid[:8], "little")
    table = json.loads(valid[8:end])
    for _ in range(rng.choice((1, 1, 2, 5))):
        _spoil(rng, table)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + valid[end:]


def values(rng: random.Random, valid: bytes) -> bytes:
    """A whole safetensors header, and NaN, infinities or denormals among the numbers."""
    odd = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x01\x00\x00\x00", b"\xff" * 4))
    place = 8 + int.from_bytes(valid[:8], "little") + 4 * rng.randrange(128)
    return valid[:place] + odd + valid[place + 4 :]


def foreign(rng: random.Random, valid: bytes) -> bytes:
    """Long metadata of other programs in a safetensors header, now and then not quite sound."""
    end = 8 + int.from_bytes(valid[:8], "little")
    table = json.loads(valid[8:end])
    said = table.setdefault("__metadata__", {})
    for number in range(rng.choice((1, 1, 2, 40))):
        piece = rng.choice(
            ('{"tag": 1}, ', "iVBOR", "\\", '\\\\"', '"', "9", "ü", "[{:", "\\u005c")
        )
        key = rng.choice((f"ss_{number}", "modelspec.thumbnail", *PUBLIC_KEYS))
        said[key] = piece * (rng.choice((900, 9000, 90_000)) // len(piece))
    text = json.dumps(table, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.3:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice((b'"', b"\\", b'\\"', b"", b":")) + text[place + 1 :]
    if rng.random() < 0.01:
        text = text[:-1] + b" " * rng.choice((1, 2, 8, 9)) * 2**20 + b"}"
    return len(text).to_bytes(8, "little") + text + valid[end:]


def inner_json(rng: random.Random, valid: bytes) -> bytes:
    """Odd values inside the JSON that a state file keeps in its metadata."""
    end = 8 + int.from_bytes(valid[:8], "little")
    table = json.loads(valid[8:end])
    numbers = json.loads(table["__metadata__"]["state"])
    for _ in range(rng.choice((1, 1, 2))):
        _spoil(rng, numbers)
    bad = rng.choice((json.dumps(numbers), json.dumps(numbers), *ODD_TEXTS))
    table["__metadata__"]["state"] = bad
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + valid[end:]


def json_values(rng: random.Random, valid: bytes) -> bytes:
    """Odd values at random places of a JSON file, or of a line of one."""
    lines = valid.splitlines() if valid.count(b"}\n") > 1 else [valid]
    place = rng.randrange(len(lines))
    table = json.loads(lines[place])
    if rng.random() < 0.1:
        table = copy.deepcopy(rng.choice(ODD_VALUES))
    else:
        _spoil(rng, table)
    lines[place] = json.dumps(table).encode()
    return b"\n".join(lines) + b"\n"


def lines(rng: random.Random, valid: bytes) -> bytes:
    """Lines of a text file gone, twice, exchanged, or with something odd in them."""
    rows = valid.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(rows))
        odd = rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
        act = rng.randrange(5)
        if act == 0:
            del rows[place]
        elif act == 1:
            rows.insert(place, rng.choice(rows))
        elif act == 2:
            rows[place] = odd + b"\n"
        elif act == 3:
            key, equals, _ = rows[place].partition(b"=")
            rows[place] = key + equals + odd + b"\n"
        else:
            at = rng.randrange(len(rows[place]) + 1)
            rows[place] = rows[place][:at] + odd + rows[place][at:]
        rows = rows or [b"\n"]
    return b"".join(rows)


def encoded(rng: random.Random, valid: bytes) -> bytes:
    """A text file in another encoding, with other line ends, or with bytes of no encoding."""
    text = valid.decode("utf-8")
    return rng.choice(
        (
            text.encode("utf-16"),
            b"\xef\xbb\xbf" + valid,
            valid.replace(b"\n", b"\r\n"),
            valid.replace(b"\n", b"\r"),
            valid.replace(b"\n", b"\0"),
            valid[:9] + b"\xc3\x28\xed\xa0\x80" + valid[9:],
            valid * rng.randrange(2, 40),
        )
    )


def _spoil(rng: random.Random, table: Any) -> None:
    if not isinstance(table, dict):
        return
    inner: dict[str, Any] = rng.choice(
        [table, *(part for part in table.values() if isinstance(part, dict))]
    )
    key = rng.choice([*inner, *PUBLIC_KEYS]) if inner else rng.choice(PUBLIC_KEYS)
    act = rng.randrange(4)
    if act == 0:
        inner.pop(key, None)
    elif act == 1:
        inner[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif act == 2:
        inner[key] = rng.choice(ODD_TEXTS)
    else:
        inner[rng.choice(("clip_h", "<name>", "pocket", "\x1b", key))] = inner.pop(key, 0)


def _noise_text(rng: random.Random) -> str:
    return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0xD000)))) for _ in range(20))


FILE_WAYS: tuple[Way, ...] = (flip, cut_or_grow, noise, nested, values, *(header,) * 5)
"""For safetensors files."""

PREFIX_WAYS: tuple[Way, ...] = (*FILE_WAYS, *(foreign,) * 3)
STATE_WAYS: tuple[Way, ...] = (*FILE_WAYS, *(inner_json,) * 6)
TEXT_WAYS: tuple[Way, ...] = (flip, cut_or_grow, noise, encoded, *(lines,) * 5)
JSON_WAYS: tuple[Way, ...] = (*TEXT_WAYS, *(json_values,) * 6)
