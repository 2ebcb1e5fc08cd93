"""Broken prefix files without end: `fuzz_one(seed)` makes one, reads it, and checks what happened.

A test runs a bounded share of the seeds, a benchmark can run as many as it likes.
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from apl_core.errors import PrefixFileError
from apl_core.formats import inspect_file, read_prefix, write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import MAX_ROWS, WIDTHS, Prefix

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 2**31, 2**63, 2**64, 10**30, 1e308, "", "x", "F32", "BF16"),
    *("F64", "I8", "\x00", "\u202e", "\ud800", "9" * 50, "NaN", [], {}, [[]], [0, 0], [0, 512]),
    *([1, 128], [128], [0, 128], [76, 128], [2, 1280], [2**40, 2**40], {"a": 1}, {"a": "b"}),
)
ODD_TEXTS = (
    *(
        "",
        "-1",
        "0",
        "2",
        "3",
        "76",
        "1e3",
        "½",
        "٣",
        "null",
        "[]",
        "{}",
        '{"a": NaN}',
        '{"a": 1e999}',
    ),
    *(
        '{"a": true}',
        '{"a": 1, "a": 2}',
        "[" * 5000,
        "9" * 5000,
        "\x1b[2J",
        "<script>",
        "s1:" + "0" * 64,
    ),
)
PUBLIC_KEYS = (
    *("apl.format", "apl.behind", "apl.steps", "apl.seed", "apl.figures", "apl.fingerprint.pocket"),
    *("modelspec.title", "__metadata__", "clip_l", "emb_params"),
)


def fuzz_one(seed: int) -> None:
    """Make file number `seed`, read it; AssertionError unless a Prefix or PrefixFileError came."""
    with tempfile.TemporaryDirectory(prefix="apl-fuzz-") as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(broken_file(seed))
        try:
            prefix = read_prefix(path)
        except PrefixFileError as error:
            assert error.asked and error.found and error.fix and str(error)
        else:
            _check(prefix)
        text = inspect_file(path).text()
        assert all(c == "\n" or unicodedata.category(c)[0] != "C" for c in text)


def broken_file(seed: int) -> bytes:
    """The bytes of file number `seed`: one of several ways to break a valid file, or no file."""
    rng = random.Random(seed)
    valid = SAMPLES[rng.randrange(len(SAMPLES))]
    return rng.choice(WAYS)(rng, valid)


def _check(prefix: Prefix) -> None:
    assert 1 <= prefix.n <= MAX_ROWS and 0 <= prefix.behind <= prefix.n
    for key, rows in prefix.vectors.items():
        assert rows.shape == (prefix.n, WIDTHS[key]) and rows.dtype == torch.float32
        assert bool(torch.isfinite(rows).all())


def _flip(rng: random.Random, valid: bytes) -> bytes:
    data = bytearray(valid)
    header = 8 + int.from_bytes(valid[:8], "little")
    for _ in range(rng.choice((1, 1, 2, 4, 30))):
        data[rng.randrange(rng.choice((8, header, len(data))))] = rng.randrange(256)
    return bytes(data)


def _cut_or_grow(rng: random.Random, valid: bytes) -> bytes:
    place = rng.randrange(len(valid))
    return rng.choice(
        (
            valid[:place],
            valid[place:],
            valid + rng.randbytes(9),
            valid[:place] + b"0" + valid[place:],
        )
    )


def _noise(rng: random.Random, valid: bytes) -> bytes:
    noise = rng.randbytes(rng.randrange(600))
    starts = (
        b"",
        b"PK\x03\x04",
        b"\x80\x02",
        b"GGUF",
        valid[:8],
        valid[:60],
        len(noise).to_bytes(8, "little"),
    )
    return rng.choice(starts) + noise


def _nesting(rng: random.Random, _: bytes) -> bytes:
    text = b'{"a":' + rng.choice((b"[", b'{"a":')) * rng.randrange(40_000)
    return len(text).to_bytes(8, "little") + text


def _header(rng: random.Random, valid: bytes) -> bytes:
    """Put odd values at random places of the JSON header; the lengths stay right."""
    end = 8 + int.from_bytes(valid[:8], "little")
    table = json.loads(valid[8:end])
    for _ in range(rng.choice((1, 1, 2, 5))):
        _spoil(rng, table)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + valid[end:]


def _spoil(rng: random.Random, table: dict[str, Any]) -> None:
    inner = rng.choice([table, *(part for part in table.values() if isinstance(part, dict))])
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


def _values(rng: random.Random, valid: bytes) -> bytes:
    """Leave the header and spoil the numbers: NaN, infinities, denormals."""
    odd = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x01\x00\x00\x00", b"\xff" * 4))
    place = 8 + int.from_bytes(valid[:8], "little") + 4 * rng.randrange(128)
    return valid[:place] + odd + valid[place + 4 :]


def _samples() -> list[bytes]:
    card = PrefixCard(
        title="t", steps=3, seed=4, figures={"a": 0.5}, fingerprints={"pocket": "s1:"}
    )
    made = [
        Prefix({"pocket": torch.ones(2, 128)}, behind=1, card=card),
        Prefix({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        data: list[bytes] = []
        for prefix in made:
            write_prefix(prefix, path)
            data.append(path.read_bytes())
    return data


SAMPLES = _samples()
WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _cut_or_grow, _noise, _nesting, _values),
    *(_header,) * 5,
)
