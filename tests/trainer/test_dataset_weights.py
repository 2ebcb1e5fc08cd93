"""Fetching weights from a server of our own, reading of `.pth` files nothing but weights."""

import hashlib
import importlib.util
import io
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from apl_core.errors import AplError, ConfigError
from apl_trainer.cli import main
from apl_trainer.readers.weights import WEIGHTS, Weight, fetch, missing, present, weight

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2).half())


def packed(content: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def kept(tmp_path: Path, data: bytes) -> dict[str, torch.Tensor]:
    """What `apl fetch --from` keeps of a `.pth`."""
    file = tmp_path / "a.pth"
    file.write_bytes(data)
    sha = hashlib.sha256(data).hexdigest()
    one = Weight("mine", "mine.safetensors", "https://x/a.pth", len(data), sha, "MIT", "a test")
    return load_file(fetch(one, tmp_path / "weights", source=file))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "older"])
def test_both_of_torch_s_layouts_are_read(tmp_path: Path, new: bool) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    content = NETWORK.state_dict() | {
        "part": shared[1:, ::2],
        "turned": shared.T,
        "same": shared,
        "none": torch.zeros(0, 3),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "bf": torch.ones(2, dtype=torch.bfloat16),
    }
    found = kept(tmp_path, packed(content, _use_new_zipfile_serialization=new))
    assert found.keys() == content.keys()
    for name, tensor in content.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


class Evil:
    """Would write a file if somebody unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "older"])
def test_nothing_in_a_file_runs(tmp_path: Path, new: bool) -> None:
    trap = tmp_path / "trap"
    content = OrderedDict(weight=torch.zeros(2), more=Evil(trap))
    data = packed(content, _use_new_zipfile_serialization=new)
    with pytest.raises(AplError, match="torch refuses it"):
        kept(tmp_path, data)
    assert not trap.exists() and not list((tmp_path / "weights").iterdir())
    torch.load(io.BytesIO(data), weights_only=False)
    assert trap.exists(), "the trap works where somebody unpickles"


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(2)], {"a": 1}, {"a": {"b": torch.zeros(2)}}, {}, torch.zeros(2), NETWORK],
    ids=["list", "number", "nested", "empty", "tensor", "module"],
)
def test_only_tables_of_tensors_are_read(tmp_path: Path, content: Any) -> None:
    with pytest.raises(AplError, match="apl fetch"):
        kept(tmp_path, packed(content))


def test_a_torch_that_is_too_old_is_told_before_anything_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(AplError, match=r"torch 2\.9\.1.*safely.*pip install -U .torch>=2\.10"):
        kept(tmp_path, PICKLED)
    assert not (tmp_path / "weights").exists()


class Handler(BaseHTTPRequestHandler):
    """Serves what is in `files`; a path that ends in /cut stops in the middle."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        data = self.files.get(self.path.removesuffix("/cut"))
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.path.endswith("/cut") else data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


PLAIN = save({"a": torch.arange(5.0)})
PICKLED = packed(NETWORK.state_dict())


def served(server: str, data: bytes, name: str, **changes: Any) -> Weight:
    Handler.files[f"/{name}"] = data
    sha = hashlib.sha256(data).hexdigest()
    made = Weight("mine", "mine.safetensors", f"{server}/{name}", len(data), sha, "MIT", "a test")
    return replace(made, **changes)


def test_a_file_comes_whole_and_once(server: str, tmp_path: Path) -> None:
    one = served(server, PLAIN, "plain.safetensors")
    folder = tmp_path / "new" / "folder"
    assert present(one, folder) is None and one.url in missing(one)
    path = fetch(one, folder, progress=True)
    assert path.read_bytes() == PLAIN
    assert present(one, folder) == path
    Handler.files.clear()
    assert fetch(one, folder) == path, "what is here is not asked for again"


def test_a_pth_is_kept_as_safetensors(server: str, tmp_path: Path) -> None:
    one = served(server, PICKLED, "a.pth")
    path = fetch(one, tmp_path)
    found = load_file(path)
    for name, tensor in NETWORK.state_dict().items():
        assert torch.equal(found[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]
    Handler.files.clear()
    assert fetch(one, tmp_path) == path
    other = served(server, packed({"a": torch.ones(1)}), "a.pth")
    assert load_file(fetch(other, tmp_path)).keys() == {"a"}, "another source is another file"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "0" * 64}, "it is another file.*nothing was kept"),
        ({"url": "{}/nowhere"}, "404"),
        ({"url": "{}/plain/cut"}, "another file|did not answer"),
        ({"url": "http://127.0.0.1:9"}, "did not answer"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_kept(
    server: str, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    changes = {k: v.format(server) if k == "url" else v for k, v in changes.items()}
    one = served(server, PLAIN, "plain", **changes)
    with pytest.raises(AplError, match=told):
        fetch(one, tmp_path)
    assert not list(tmp_path.iterdir())


def test_local_files_work_and_are_checked_as_well(tmp_path: Path) -> None:
    local, folder = tmp_path / "mine.bin", tmp_path / "weights"
    local.write_bytes(PLAIN)
    one = served("http://127.0.0.1:9", PLAIN, "plain.safetensors")
    assert fetch(one, folder, source=local).read_bytes() == PLAIN
    local.write_bytes(b"x" * len(PLAIN))
    (folder / one.file).unlink()
    with pytest.raises(AplError, match=r"another file.*nothing was kept.*--from FILE"):
        fetch(one, folder, source=local)
    own = hashlib.sha256(local.read_bytes()).hexdigest()
    assert fetch(one, folder, source=local, sha256=own.upper()).is_file()
    with pytest.raises(AplError, match="check the path"):
        fetch(one, tmp_path / "b", source=tmp_path / "nowhere")


def test_without_a_known_hash_the_user_has_to_bring_one(server: str, tmp_path: Path) -> None:
    one = served(server, PLAIN, "plain.safetensors", sha256=None)
    with pytest.raises(ConfigError, match="--sha256 HEX"):
        fetch(one, tmp_path)
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        fetch(one, tmp_path, sha256="abc")
    with pytest.raises(ConfigError, match=r"http\(s\)"):
        fetch(one, tmp_path, sha256="0" * 64, url="file:///etc/hostname")
    assert fetch(one, tmp_path, sha256=hashlib.sha256(PLAIN).hexdigest()).is_file()


def test_a_full_disk_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AplError, match="disk is full"):
        fetch(served(server, PICKLED, "a.pth"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_registry_names_a_source_size_and_hash_for_each() -> None:
    for one in WEIGHTS:
        assert one.url.startswith("https://") and one.size and one.license and one.use
        assert re.fullmatch("[0-9a-f]{64}", one.sha256 or "")
        assert one.file.endswith(".safetensors")
        assert weight(one.name) is one
    with pytest.raises(ConfigError, match="give one of face-detection"):
        weight("nothing")


def test_the_command_lists_and_downloads_nothing_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APL_WEIGHTS", str(tmp_path))
    assert main(["fetch"]) == 0
    told = capsys.readouterr().out
    for one in WEIGHTS:
        assert one.url in told and str(one.sha256) in told and f"{one.size:,}" in told
    assert "dlib (not fetched)" in told and 'pip install "apl-prefix[evaluate]"' in told
    assert not list(tmp_path.iterdir())
    local = tmp_path / "mine"
    local.write_bytes(PLAIN)
    run = ["fetch", "clip-b32", "--from", str(local)]
    assert main(run) == 1
    assert "nothing was kept" in capsys.readouterr().err
    assert main([*run, "--sha256", hashlib.sha256(PLAIN).hexdigest()]) == 0
    assert (tmp_path / weight("clip-b32").file).read_bytes() == PLAIN


def test_without_the_optional_parts_it_is_told_what_is_missing_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apl_trainer.data.checkpoint_tools import Choices, readers_here, required_readers

    monkeypatch.setitem(sys.modules, "dlib", None)
    choices = Choices(0, 20, 7.0, 512, 4, "", True, True, tmp_path, "cpu", "facexlib")
    with pytest.raises(AplError) as caught:
        required_readers(choices)
    told = str(caught.value)
    for one in WEIGHTS:
        assert one.url in told and f"apl fetch {one.name}" in told
    assert "--no-face-filter --descriptions person" in told and "\n" not in told
    assert required_readers(replace(choices, face_filter=False, voted=False)) == (None, None)
    with pytest.raises(AplError, match=r"dlib-bin is not installed.*apl-prefix\[evaluate\]"):
        required_readers(replace(choices, faces=None))
    assert not readers_here(replace(choices, faces=None))[0].face_filter


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.skipif(not installed("facexlib"), reason="facexlib is not installed")
def test_facexlib_counts_faces_and_embeds_the_largest(tmp_path: Path) -> None:
    """The real architectures with random weights, through files as `apl fetch` leaves them."""
    from apl_trainer.readers.face_filter import LEAST_HEIGHT, load_face_counter
    from apl_trainer.readers.facexlib import new_networks, weights_of

    torch.manual_seed(0)
    networks = new_networks()
    with torch.no_grad():  # every place looks like a face
        for head in networks[0].ClassHead:  # type: ignore[union-attr]
            head.conv1x1.bias[1::2] += 8
    files = []
    for name, network in zip(("detector", "recognizer"), networks, strict=True):
        one = Weight(name, f"{name}.safetensors", "x.pth", None, None, "", "")
        source = tmp_path / f"{name}.pth"
        torch.save({f"module.{k}": v for k, v in weights_of(network).items()}, source)
        sha = hashlib.sha256(source.read_bytes()).hexdigest()
        files.append(fetch(one, tmp_path, source=source, sha256=sha))
    reader = load_face_counter(*files)
    pictures = torch.rand(2, 3, 96, 96)
    seen = reader.look(pictures)
    assert min(seen.counts) > 1 and LEAST_HEIGHT < 1
    assert seen.embeddings is not None
    assert torch.allclose(seen.embeddings.norm(dim=1), torch.ones(2), atol=1e-4)
    reader.threshold = 1.0
    blank = reader.look(pictures)
    assert blank.counts == (0, 0) and blank.embeddings is not None
    assert not blank.embeddings.any()


@pytest.mark.skipif(not installed("open_clip"), reason="open_clip is not installed")
def test_open_clip_gives_probabilities_of_all_attributes(tmp_path: Path) -> None:
    """The real architecture with random weights, from a file as `apl fetch` leaves it."""
    from apl_trainer.readers.clip import OpenClip
    from apl_trainer.readers.clip_attributes import MODEL, load_clip
    from apl_trainer.readers.descriptions import vote

    torch.manual_seed(0)
    state = OpenClip(MODEL, None).model.state_dict()
    file = tmp_path / "clip.safetensors"
    save_file({k: v.clone().contiguous() for k, v in state.items()}, file)
    reader = load_clip(file)
    pictures = torch.rand(3, 3, 70, 50)
    found = reader.read(pictures)
    assert found.keys() == reader.values.keys()
    for attribute, shares in found.items():
        assert shares.shape == (3, len(reader.values[attribute]))
        assert torch.allclose(shares.sum(1), torch.ones(3), atol=1e-4)
    rows = [{k: v[i].tolist() for k, v in found.items()} for i in range(3)]
    assert vote(rows, reader.values).keys() == found.keys()
