"""A trace says what stands in a chunk, and nobody without the key can change what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apl_core.errors import HostError
from apl_core.prefix import Prefix
from apl_core.trace import TraceReader, TraceWriter, chunk_facts, describe

KEY = b"a key that is long enough"


def prefix(n: int = 4, behind: int = 0, seed: int = 0, *keys: str) -> Prefix:
    random = torch.Generator().manual_seed(seed)
    width = {"clip_l": 768, "clip_g": 1280, "pocket": 128}
    return Prefix(
        {key: torch.randn(n, width[key], generator=random) for key in keys or ("pocket",)}, behind
    )


def embedded(*parts: Tensor) -> tuple[Tensor, int]:
    """BOS, the parts, EOS and padding; and the place of EOS."""
    random = torch.Generator().manual_seed(99)
    body = torch.cat([torch.randn(1, 128, generator=random), *parts])
    return torch.cat([body, torch.randn(5, 128, generator=random)]), len(body)


WORDS = torch.randn(6, 128, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("behind", [0, 2, 4])
def test_a_whole_prefix_around_the_words_is_seen(behind: int) -> None:
    one = prefix(4, behind)
    rows, end = embedded(one.front("pocket"), WORDS, one.back("pocket"))
    chunk = describe(rows, end, [one, prefix(seed=1)])
    front = 4 - behind
    places = [*range(1, 1 + front), *range(7 + front, 7 + front + behind)]
    assert (chunk.encoder, chunk.words, chunk.carried) == ("pocket", 6, {one.digest: places})
    half = describe(rows.half(), end, [one])
    assert half.carried == {one.digest: places}


def test_rows_are_found_where_the_encoder_scales_what_it_is_given() -> None:
    one, scale = prefix(4, 1), 48.0
    front, back = (part / scale for part in (one.front("pocket"), one.back("pocket")))
    rows, end = embedded(front, WORDS, back)
    assert describe(rows, end, [one], scale=scale).carried == {one.digest: [1, 2, 3, 10]}
    assert not describe(rows, end, [one]).carried


def test_what_is_not_the_whole_prefix_is_not_seen() -> None:
    one = prefix(4, 2)
    front, back = one.front("pocket"), one.back("pocket")
    wrong = {
        "bare": embedded(WORDS),
        "front only": embedded(front, WORDS),
        "a row short": embedded(front[:1], WORDS, back),
        "words before": embedded(WORDS[:2], front, WORDS[2:], back),
        "words behind": embedded(front, WORDS[:2], back, WORDS[2:]),
        "changed": embedded(front * (1 + 1e-6), WORDS, back),
        "behind EOS": (embedded(front, WORDS, back)[0], 9),
    }
    for name, (rows, end) in wrong.items():
        assert not describe(rows, end, [one]).carried, name


def test_two_prefixes_stand_in_each_other() -> None:
    house, own = prefix(3, 1), prefix(4, 2, 7)
    rows, end = embedded(
        house.front("pocket"), own.front("pocket"), WORDS, own.back("pocket"), house.back("pocket")
    )
    chunk = describe(rows, end, [house, own])
    assert set(chunk.carried) == {house.digest, own.digest} and chunk.words == 6
    assert not describe(rows, end, [own]).carried  # an unknown row before it counts as a word


def test_a_text_in_a_template_is_looked_at_where_it_stands() -> None:
    one = prefix(4, 2)
    front, back = one.front("pocket"), one.back("pocket")
    rows, end = embedded(WORDS[:3], front, WORDS, back, WORDS[3:])
    chunk = describe(rows, end - 3, [one], 4, "pocket")
    assert (chunk.words, list(chunk.carried)) == (6, [one.digest])
    assert not describe(rows, end, [one], 4, "pocket").carried  # words behind it
    assert not describe(rows, end - 3, [one], 3, "pocket").carried  # a word in front of it
    assert not describe(rows, end - 3, [one], 4, "minilm").carried  # another encoder as wide
    first = describe(torch.cat([front, WORDS, back]), 10, [one], 0, "pocket")
    assert first.words == 6 and first.carried == {one.digest: [0, 1, 8, 9]}


def written(path: Path, count: int = 3) -> None:
    writer = TraceWriter(path, KEY)
    for number in range(count):
        writer.write("chunk", {"request": str(number)})


def test_what_was_written_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "t"
    one, other = TraceWriter(path, KEY), TraceWriter(path, KEY)  # two starts, or two processes
    reader: TraceReader | None = None
    for number in range(3):
        one.write("chunk", chunk_facts(describe(*embedded(WORDS), []), "r"))
        other.write("start", {"n": number})
        reader = reader or TraceReader(path, KEY)
        got = reader.new()
        assert [line["kind"] for line in got] == ["chunk", "start"]
        assert got[0]["words"] == 6 and got[0]["carried"] == {} and got[1]["n"] == number
    assert reader is not None and reader.new() == []
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"half')
    assert reader.new() == []


def changed(line: str, **facts: Any) -> str:
    return json.dumps({**json.loads(line), **facts}, sort_keys=True)


FORGERIES = {
    "changed": lambda a, b, c: [a, changed(b, request="9"), c],
    "taken out": lambda a, b, c: [a, c],
    "twice": lambda a, b, c: [a, b, b, c],
    "moved": lambda a, b, c: [b, a, c],
    "first gone": lambda a, b, c: [b, c],
    "no mac": lambda a, b, c: [a, changed(b, mac=None)],
    "no line": lambda a, b, c: [a, "3"],
    "no JSON": lambda a, b, c: [a, "[" * 50_000],
    "other session": lambda a, b, c: [a, changed(b, session="0" * 16)],
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_trace_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    written(path)
    lines = FORGERIES[name](*path.read_text().splitlines())
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(HostError, match="read the trace"):
        TraceReader(path, KEY).new()


def test_another_key_and_no_file_are_errors(tmp_path: Path) -> None:
    written(tmp_path / "t")
    with pytest.raises(HostError, match="not signed with this key"):
        TraceReader(tmp_path / "t", KEY + b"!").new()
    with pytest.raises(HostError, match="Fix:"):
        TraceReader(tmp_path / "none", KEY).new()
    with pytest.raises(HostError, match="write the trace"):
        TraceWriter(tmp_path, KEY).write("start", {})


def test_the_environment_switches_it_on(tmp_path: Path) -> None:
    assert TraceWriter.of({}) is None
    assert TraceWriter.of({"APL_TRACE_KEY": "x" * 20}) is None
    for key in ({}, {"APL_TRACE_KEY": "short"}):
        with pytest.raises(HostError, match="fewer than 16"):
            TraceWriter.of({"APL_TRACE": str(tmp_path / "t"), **key})
    writer = TraceWriter.of({"APL_TRACE": str(tmp_path / "t"), "APL_TRACE_KEY": "x" * 20})
    assert writer is not None
    writer.write("start", {})
    assert len(TraceReader(tmp_path / "t", b"x" * 20).new()) == 1
