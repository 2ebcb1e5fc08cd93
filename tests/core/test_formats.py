"""Prefix files: written, read, inspected, and every broken kind refused."""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from apl_core import formats
from apl_core.errors import PrefixFileError
from apl_core.formats import inspect_file, read_prefix, write_prefix
from apl_core.limits import FILE_BYTES, HEADER_BYTES, VALUE_BYTES
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix
from apl_core.tokens import MAX_ROWS

KEYS = [("clip_l",), ("clip_h",), ("clip_l", "clip_g"), ("pocket",)]


def made(
    keys: tuple[str, ...] = ("pocket",), n: int = 3, behind: int = 0, **card: object
) -> Prefix:
    torch.manual_seed(n)
    vectors = {key: torch.randn(n, WIDTHS[key]) for key in keys}
    return Prefix(vectors, behind, PrefixCard(**card))  # type: ignore[arg-type]


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(
    shape: list[int], *, dtype: str = "F32", start: int = 0, end: int | None = None
) -> dict[str, object]:
    size = torch.Size(shape).numel() * {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I32": 4}[dtype]
    return {
        "dtype": dtype,
        "shape": shape,
        "data_offsets": [start, start + size if end is None else end],
    }


@given(
    keys=st.sampled_from(KEYS),
    n=st.integers(1, MAX_ROWS),
    part=st.floats(0, 1),
    title=st.text(max_size=50),
    figures=st.dictionaries(st.text(max_size=9), st.floats(-1e9, 1e9), max_size=3),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    keys: tuple[str, ...],
    n: int,
    part: float,
    title: str,
    figures: dict[str, float],
) -> None:
    path = tmp_path_factory.mktemp("files") / "ü x.safetensors"
    prefix = made(keys, n, round(part * n), title=title, figures=figures, seed=3)
    write_prefix(prefix, path)
    again = read_prefix(path)
    assert again.digest == prefix.digest and again.card == prefix.card
    assert again.behind == prefix.behind and again.keys == prefix.keys
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_is_plain_safetensors_with_a_modelspec_hash(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    prefix = made(("clip_l", "clip_g"), 2, title="T")
    write_prefix(prefix, path)
    tensors = safetensors.torch.load_file(path)
    assert set(tensors) == {"clip_l", "clip_g"}
    assert all(torch.equal(tensors[key], prefix.vectors[key]) for key in tensors)
    with safetensors.safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    blob = path.read_bytes()
    data = blob[8 + int.from_bytes(blob[:8], "little") :]
    assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data).hexdigest()
    assert (len(blob) - len(data)) % 8 == 0
    write_prefix(prefix, path)
    assert path.read_bytes() == blob


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("name", "width", "key"),
    [
        ("emb_params", 768, "clip_l"),
        ("emb_params", 1024, "clip_h"),
        ("<some-name>", 768, "clip_l"),
        ("text_embeddings", 768, "clip_l"),
        ("emb_params", 128, "pocket"),
    ],
)
def test_textual_inversions_are_read(
    tmp_path: Path, name: str, width: int, key: str, dtype: torch.dtype
) -> None:
    rows = torch.randn(4, width).to(dtype)
    path = tmp_path / "ti.safetensors"
    safetensors.torch.save_file({name: rows}, path)
    prefix = read_prefix(path)
    assert prefix.keys == (key,) and prefix.behind == 0
    assert torch.equal(prefix.vectors[key], rows.float())
    assert inspect_file(path).kind == formats.EMBEDDING


def test_a_single_row_and_a_pair_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ti.safetensors"
    safetensors.torch.save_file({"<x>": torch.ones(768)}, path)
    assert read_prefix(path).vectors["clip_l"].shape == (1, 768)
    pair = {"clip_g": torch.ones(2, 1280), "clip_l": torch.ones(2, 768)}
    safetensors.torch.save_file(pair, path, metadata={"ss_steps": "7"})
    assert read_prefix(path).keys == ("clip_l", "clip_g")


def test_the_header_of_any_model_is_named_without_being_read(tmp_path: Path) -> None:
    path, size = tmp_path / "x.safetensors", 100 * 2**20
    start = raw({"__metadata__": {"a": "x" * 9_000_000}, "lora_te_a.alpha": tensor([size // 4])})
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(len(start) + size)
    assert "this is a LoRA, not a prefix (its header has" in inspect_file(path).text()
    path.write_bytes(start.replace(b"lora_te_a.alpha", b"somebody_else.x"))
    assert inspect_file(path).kind == formats.UNKNOWN


BAD_TENSORS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "clip_g alone": ({"emb_params": torch.ones(2, 1280)}, "half of an SDXL"),
    "unknown width": ({"emb_params": torch.ones(2, 640)}, "no known encoder"),
    "no rows": ({"clip_l": torch.ones(0, 768)}, "0 vectors"),
    "no rows, other name": ({"emb_params": torch.ones(0, 768)}, "0 vectors"),
    "75 rows": ({"clip_l": torch.ones(75, 768)}, "75 vectors: a chunk has 75 places, so no text"),
    "wrong width": ({"clip_l": torch.ones(2, 1024)}, "1024"),
    "three dimensions": ({"emb_params": torch.ones(1, 2, 768)}, "1x2x768"),
    "scalar": ({"emb_params": torch.tensor(1.0)}, "scalar"),
    "no tensors": ({}, "nothing"),
    "unknown extra tensor": ({"clip_l": torch.ones(1, 768), "x": torch.ones(1)}, "clip_l, x"),
    "unequal rows": ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(2, 1280)}, "different"),
    "NaN": ({"clip_l": torch.full((1, 768), float("nan"))}, "NaN"),
    "infinity": ({"clip_l": torch.full((1, 768), float("inf")).half()}, "infinity"),
    "float64": ({"clip_l": torch.ones(1, 768, dtype=torch.float64)}, "F64"),
    "whole numbers": ({"clip_l": torch.ones(1, 768, dtype=torch.int32)}, "I32"),
    "a checkpoint": ({f"model.{i}": torch.ones(2) for i in range(30)}, "30 tensors"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_other_tensors_are_refused(tmp_path: Path, case: str) -> None:
    tensors, words = BAD_TENSORS[case]
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(PrefixFileError, match=words):
        read_prefix(path)
    report = inspect_file(path)
    assert report.prefix is None and len(report.tensors) == len(tensors)
    assert words in report.text()


ROW = tensor([1, 128])
DATA = bytes(512)
BAD_BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "7 bytes": (b"1234567", "too short"),
    "text": (b"just some text, no file of ours", "not a safetensors"),
    "header cut off": (raw({"pocket": ROW}, DATA)[:30], "cut off"),
    "data cut off": (raw({"pocket": ROW}, DATA)[:-1], "cut off"),
    "data too long": (raw({"pocket": ROW}, DATA + b"x"), "announces"),
    "header too large": (raw(b"{" + b" " * HEADER_BYTES + b"}"), "header has"),
    "not JSON": (raw(b'{"pocket": '), "not valid JSON"),
    "a list": (raw(b"[1]"), "not a safetensors"),
    "space before": (raw(b" " + json.dumps({"pocket": ROW}).encode(), DATA), "not a safetensors"),
    "not UTF-8": (raw(b'{"\xff":0}'), "not valid JSON"),
    "key twice": (
        raw(b'{"pocket":%b,"pocket":%b}' % ((json.dumps(ROW).encode(),) * 2), DATA),
        "repeated",
    ),
    "deep": (raw(b'{"a":' + b"[" * 20_000), "not valid JSON"),
    "gap": (raw({"a": tensor([1], start=4)}, bytes(8)), "gaps"),
    "overlap": (raw({"a": tensor([1]), "b": tensor([1])}, bytes(4)), "overlap"),
    "wrong length": (raw({"pocket": tensor([1, 128], end=508)}, bytes(508)), "announced"),
    "backwards": (raw({"a": {**ROW, "data_offsets": [512, 0]}}, DATA), "announced"),
    "negative": (raw({"a": {**ROW, "shape": [-1, -128]}}, DATA), "broken"),
    "truth values": (raw({"a": {**ROW, "shape": [True, 128]}}, DATA), "broken"),
    "nine dimensions": (raw({"a": {**ROW, "shape": [1] * 8 + [128]}}, DATA), "broken"),
    "extra field": (raw({"pocket": {**ROW, "more": 1}}, DATA), "broken"),
    "missing field": (raw({"pocket": {"dtype": "F32", "shape": [1, 128]}}, DATA), "broken"),
    "unknown dtype": (raw({"pocket": {**ROW, "dtype": "F31"}}, DATA), "dtype"),
    "metadata number": (raw({"__metadata__": {"a": 1}, "pocket": ROW}, DATA), "not text"),
    "metadata list": (raw({"__metadata__": [], "pocket": ROW}, DATA), "not a table"),
    "long value of ours": (
        raw({"__metadata__": {"apl.recipe": "x" * (VALUE_BYTES + 1)}, "pocket": ROW}, DATA),
        "longer",
    ),
    "long key": (raw({"__metadata__": {"ü" * 40_000: "x"}, "pocket": ROW}, DATA), "longer"),
    "long value that is not text": (
        raw({"__metadata__": {"a": ["x" * (VALUE_BYTES + 1)]}, "pocket": ROW}, DATA),
        "not text",
    ),
    "long value, behind hidden": (
        raw(
            b'{"__metadata__":{"apl\\u002ebehind":"%b"},"pocket":%b}'
            % (b"1" * 5000, json.dumps(ROW).encode()),
            DATA,
        ),
        "passed over",
    ),
    "open string": (raw(b'{"__metadata__":{"a":"' + b"x" * 70_000 + b'\\"}}'), "not valid JSON"),
    "half a character": (raw({"__metadata__": {"a": "\ud800"}, "pocket": ROW}, DATA), "refuses"),
    "behind too many": (raw({"__metadata__": {"apl.behind": "2"}, "pocket": ROW}, DATA), "behind"),
    "newer": (raw({"__metadata__": {"apl.format": "2"}, "pocket": ROW}, DATA), "format 2"),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_broken_files_are_refused(tmp_path: Path, case: str) -> None:
    data, words = BAD_BYTES[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(PrefixFileError) as caught:
        read_prefix(path)
    assert words in caught.value.found
    assert str(path) in str(caught.value) and caught.value.fix
    assert inspect_file(path).problem is not None


def test_the_limits_themselves_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"__metadata__": {"a": "x" * VALUE_BYTES}, "pocket": ROW}, DATA))
    assert read_prefix(path).n == 1
    text = json.dumps({"pocket": ROW}).encode()
    path.write_bytes(raw(text + b" " * (HEADER_BYTES - len(text)), DATA))
    assert read_prefix(path).n == 1


def test_a_large_file_is_looked_at_but_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    size = FILE_BYTES + 4
    start = raw({"clip_l": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(len(start) + size)
    with pytest.raises(PrefixFileError, match="at most 16,777,216"):
        read_prefix(path)
    assert list(inspect_file(path).tensors) == ["clip_l"]


class Bomb:
    """A pickle that would leave a trace if anything opened it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("container", ["pickle", "zip", "torch"])
def test_a_renamed_pickle_is_named_and_never_opened(tmp_path: Path, container: str) -> None:
    path, trace = tmp_path / "x.safetensors", tmp_path / "opened"
    data = pickle.dumps(Bomb(trace), protocol=2)
    if container == "pickle":
        path.write_bytes(data)
    elif container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    else:
        torch.save({"x": torch.ones(2)}, path)
    with pytest.raises(PrefixFileError, match="apl convert"):
        read_prefix(path)
    assert inspect_file(path).kind == formats.PICKLE
    assert not trace.exists()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefixFileError, match="no such file"):
        read_prefix(tmp_path / "missing.safetensors")
    with pytest.raises(PrefixFileError, match="not a regular file"):
        read_prefix(tmp_path)
    with pytest.raises(PrefixFileError, match="null"):
        read_prefix(tmp_path / "a\0b")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(PrefixFileError, match="not a regular file"):
            inspect_file(tmp_path / "pipe")


def test_the_report_speaks_plainly(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_prefix(made(("clip_l",), 5, 2, title="<b>\x1b[1mbold", names_trained=96), path)
    report = inspect_file(path)
    text = report.text()
    assert report.kind == formats.PREFIX and report.prefix is not None
    for words in ("SD 1.x (clip_l 768)", "5 vectors: 3 in front of the text, 2 behind it", "96"):
        assert words in text
    assert report.prefix.short_digest in text and "\x1b" not in text and "<b>[1mbold" in text


def test_a_card_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_prefix(made(), path)
    before = path.read_bytes()
    for prefix in (made(description="x" * (VALUE_BYTES + 1)), made(title="\ud800")):
        with pytest.raises(PrefixFileError, match="card"):
            write_prefix(prefix, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrefixFileError, match="folder does not exist"):
        write_prefix(made(), tmp_path / "none" / "x.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(PrefixFileError, match=r"folder\.safetensors"):
        write_prefix(made(), tmp_path / "folder.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.safetensors"]
