"""A bounded share of the fuzzed files; the benchmark runs the rest."""

import importlib.util
import tracemalloc
from pathlib import Path
from types import ModuleType

import pytest

from apl_core.formats import FileReport, inspect_file
from apl_core.limits import HEADER_BYTES

FILES = 3000
CHUNKS = 6


@pytest.fixture(scope="module")
def fuzzing() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "_fuzzing", Path(__file__).with_name("fuzzing.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_broken_file_gives_a_prefix_or_one_of_our_errors(
    fuzzing: ModuleType, chunk: int
) -> None:
    for seed in range(chunk * FILES // CHUNKS, (chunk + 1) * FILES // CHUNKS):
        fuzzing.fuzz_one(seed)


def test_the_fuzzer_reaches_both_outcomes(fuzzing: ModuleType, tmp_path: Path) -> None:
    kinds = set()
    for seed in range(200):
        path = tmp_path / "x.safetensors"
        path.write_bytes(fuzzing.broken_file(seed))
        report = inspect_file(path)
        kinds.add((report.kind, report.prefix is not None))
    assert len(kinds) >= 4 and {True, False} == {usable for _, usable in kinds}


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
