"""A bounded share of the fuzzed files; `apl bench fuzz` runs the rest."""

import tracemalloc
from pathlib import Path

import pytest

from apl_core.errors import ConfigError, RunError
from apl_core.formats import FileReport, inspect_file
from apl_core.limits import HEADER_BYTES
from apl_core.training.folder import RunFolder
from benchmarks.fuzz import BYTES, FileKind, kinds, read_any_prefix, run, try_file, within

FILES = 20
"""Files of each share of a kind; a prefix file has 40 shares."""

FORGIVING = ("metrics", "parts", "status")
"""Kinds whose readers leave out what is broken and refuse nothing."""

NAMES = [kind.name for kind in kinds(Path("nowhere"))]


@pytest.mark.parametrize("name", NAMES)
def test_every_broken_file_gives_a_value_or_one_of_our_errors(name: str, tmp_path: Path) -> None:
    kind = next(kind for kind in kinds(tmp_path) if kind.name == name)
    usable = refused = 0
    for number in range(1_000_000, 1_000_000 + FILES * kind.share):
        tried = try_file(kind, number, tmp_path)
        assert not tried.failure, f"{name} {number}: {tried.failure}"
        usable, refused = usable + tried.usable, refused + (not tried.usable)
    assert usable, "nothing was ever good enough to get through"
    assert refused or name in FORGIVING, "nothing was ever refused"


def test_the_bench_finds_what_is_no_error_of_ours_and_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(path: Path) -> None:
        if path.read_bytes().startswith(b"b"):
            raise KeyError("no error of ours")
        if path.read_bytes().startswith(b"l"):
            bytearray(80 * 2**20)

    ways = (lambda rng, valid: rng.choice((b"a", b"b", b"l")) + valid,)
    odd = FileKind("odd", "odd.bin", (b"x",), ways, careless, 1)
    monkeypatch.setattr("benchmarks.fuzz.kinds", lambda folder: [odd])
    figures = run(tmp_path, 9, 0, lambda text: None)
    assert 0 < figures["odd.failures"] < 9 and figures["all.failures"] == figures["odd.failures"]
    said = {file.read_text() for file in (tmp_path / "failures").glob("*.txt")}
    assert any("KeyError" in one for one in said)
    if "odd.worst_mib" in figures:  # the system tells how much memory was taken
        assert any("MiB of memory" in one for one in said) and figures["odd.worst_mib"] > 75
    assert (tmp_path / "failures" / f"odd-{_first(odd)}.bin").read_bytes() == b"bx"


def _first(kind: FileKind) -> int:
    return next(n for n in range(9) if kind.bytes(n).startswith(b"b"))


def test_memory_that_the_process_had_before_is_counted_again(tmp_path: Path) -> None:
    mib = 2**20
    bytearray(20 * mib)  # from now on glibc keeps blocks of this size where it can
    many = [bytearray(20 * mib) for _ in range(7)]
    above = many.pop()
    del many
    kind = FileKind(
        "kept", "x", (b"x",), (lambda rng, valid: valid,), lambda _: bytearray(80 * mib), 1
    )
    tried = try_file(kind, 0, tmp_path)
    assert above and (tried.peak is None or tried.peak > 75 * mib)


def test_a_slow_file_is_a_failure(tmp_path: Path) -> None:
    def slow(path: Path) -> None:
        sum(i * i for i in range(3_000_000))

    kind = FileKind("slow", "x", (b"x",), (lambda rng, valid: valid,), slow, 1)
    tried = within(kind, 0, tmp_path, try_file(kind, 0, tmp_path))
    assert "ms of processor time" in tried.failure


NO_ROWS = {
    "nested": b"[" * 90_000,
    "number": b"3",
    "word": b'{"step": "x"}',
    "empty": b"{}",
    "no text": b"\xff\xfe",
    "cut off": b'{"step": 1',
}


@pytest.mark.parametrize("line", NO_ROWS.values(), ids=NO_ROWS)
def test_a_metrics_line_that_is_no_row_is_left_out(line: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert [row["step"] for row in folder.rows()] == [1, 2]
    folder.cut_log(1)
    assert folder.metrics.read_bytes() == b'{"step": 1}\n'


def test_a_broken_state_is_an_error_of_ours(tmp_path: Path) -> None:
    kind = next(kind for kind in kinds(tmp_path) if kind.name == "state")
    good = kind.samples[0]
    for old, new in (
        (b"best_figures", b"best_figurez"),
        (b"moments.pocket.momentum", b"moments.pocketXmomentum"),
        (b'\\"step\\": 1', b'\\"step\\":\\"'),
    ):
        assert old in good, old
        (tmp_path / kind.file).write_bytes(good.replace(old, new))
        with pytest.raises(RunError, match="Fix:"):
            kind.read(tmp_path / kind.file)


NO_SETTINGS = {
    "nested": "a=" + "[" * 20_000,
    "dots": "a." * 12_000 + "a=1",
    "digits": "a=" + "9" * 9000,
    "long": "x=1\n" * 9000,
}


@pytest.mark.parametrize("text", NO_SETTINGS.values(), ids=NO_SETTINGS)
def test_hostile_settings_are_refused(text: str, tmp_path: Path) -> None:
    kind = next(kind for kind in kinds(tmp_path) if kind.name == "settings")
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.toml"):
        kind.read(path)


HOSTILE = {
    "arrays": b'{"a":[' + b"[]," * 300_000 + b"0]}",
    "objects": b'{"a":[' + b"{}," * 300_000 + b"0]}",
    "depth": b'{"a":' + b"[" * 30_000,
    "numbers": b'{"a":[' + b"1," * 500_000 + b"0]}",
    "long numbers": b'{"a":[' + (b"9" * 399 + b",") * 2500 + b"0]}",
    "one number": b'{"a":' + b"9" * 1_000_000 + b"}",
    "keys": b"{" + b",".join(b'"%x":0' % i for i in range(90_000)) + b"}",
    "huge shape": b'{"a":{"dtype":"F32","shape":[' + b"9" * 300 + b',0],"data_offsets":[0,0]}}',
}


_ROW = b'"pocket":{"dtype":"F32","shape":[1,128],"data_offsets":[0,512]}}'
_ENTRY = b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
LONG = {
    "one value": b'{"__metadata__":{"a":"' + b"x" * 8_000_000 + b'"},' + _ROW,
    "escapes": b'{"__metadata__":{"a":"' + b'\\"' * 500_000 + b"x" * 6_000_000 + b'"},' + _ROW,
    "only escapes": b'{"__metadata__":{"a":"' + b'\\"' * 4_000_000 + b'"},' + _ROW,
    "values": b'{"__metadata__":{'
    + b",".join(b'"%d":"%b"' % (i, b"y" * 5000) for i in range(1600))
    + b"},"
    + _ROW,
    "strings": b'{"__metadata__":{'
    + b",".join(b'"%d":"%b"' % (i, b"y" * 40) for i in range(100_000))
    + b"},"
    + _ROW,
    "tensors": b'{"__metadata__":{"a":"'
    + b'\\"' * 500_000
    + b"x" * 5_000_000
    + b'"},'
    + b",".join(_ENTRY % i for i in range(4500))
    + b"}",
    "open": b'{"__metadata__":{"a":"' + b'\\"' * 500_000,
    "quotes": b"{" + b'"' * 8_000_000,
    "names": b"{" + b'"x":{"dtype"' * 600_000,
    "spaces": b'{"a":' + b" " * 8_000_000 + b'"' + b"x" * 90,
    "too long": b'{"__metadata__":{"a":"' + b"x" * 15_000_000 + b'"},' + _ROW,
}
"""Headers with long values, up to what may be passed over and beyond it."""


@pytest.mark.parametrize("name", LONG)
def test_a_long_header_keeps_to_the_limits(name: str, tmp_path: Path) -> None:
    text = LONG[name]
    data = len(text).to_bytes(8, "little") + text + bytes(512)
    ways = (lambda rng, valid: valid,)
    kind = FileKind("long", "x.safetensors", (data,), ways, read_any_prefix, 1)
    tried = try_file(kind, 0, tmp_path)
    assert not tried.failure and (tried.peak or 0) <= BYTES
    assert tried.usable is (name in {"one value", "escapes", "values"})


UNPARSED = {"arrays", "objects", "one number", "keys"}
"""Headers that would take long to parse and so are refused before."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_costs_little_memory(name: str, tmp_path: Path) -> None:
    text = HOSTILE[name]
    assert len(text) <= HEADER_BYTES
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    tracemalloc.start()
    try:
        report: FileReport = inspect_file(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.prefix is None and report.problem is not None
    if name in UNPARSED:
        assert "larger than that of any model" in report.problem.found
    assert peak < 64 * 2**20
