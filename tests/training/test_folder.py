"""One run per folder, and folders that cannot be written to: a RunError, and nothing is lost."""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Child, settings
from tiny_train import prefix_bytes, stop_at, timeless, train

from apl_core.errors import RunError
from apl_core.training.callbacks import Control, Event, Saved, Stepped
from apl_core.training.folder import RunFolder

posix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX system")


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    first = Child(tmp_path / "run", steps=4000, validate_every=0)
    first.wait_for("step 1")
    code, out = Child(tmp_path / "run", steps=4000, validate_every=0).finish()
    assert code == 1 and "another process is training in this folder" in out
    assert first.process.exitcode is None
    (tmp_path / "run" / "stop").touch()
    code, out = first.finish()
    assert code == 0 and "finished" in out


def test_a_second_run_in_this_process_is_refused_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.locked(), pytest.raises(RunError, match="another process"), run.locked():
        pass
    with run.locked():
        pass


def test_a_new_run_does_not_go_where_one_is(tmp_path: Path) -> None:
    RunFolder(tmp_path).create(settings())
    with pytest.raises(RunError, match="apl resume"):
        RunFolder(tmp_path).create(settings(seed=3))
    assert (tmp_path / "config.toml").read_text() == settings().to_toml()


def test_a_run_without_its_folder_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunError):
        RunFolder(file / "run").create(settings())
    with pytest.raises(RunError, match="does not exist"), RunFolder(tmp_path / "no").locked():
        pass


@posix
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """In a child process, for root may write anywhere and has to become somebody else first."""
    code = f"""
import os, pathlib, sys
from apl_core.errors import RunError
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder, State
folder = pathlib.Path({str(tmp_path / "run")!r})
RunFolder(folder).create(TrainConfig())
(folder / "lock").touch()
folder.chmod(0o555)
if os.geteuid() == 0:
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith({str(tmp_path.anchor)!r} + "tmp/"):
            parent.chmod(0o755)
    os.seteuid(65534)
def locked():
    with RunFolder(folder).locked():
        pass
for action in (lambda: RunFolder(folder / "new").create(TrainConfig()),
               lambda: RunFolder(folder).save_state(State({{}}, {{"step": 1}})),
               lambda: RunFolder(folder).log({{"step": 1}}), locked):
    try:
        action()
    except RunError as error:
        print(error)
    else:
        print("nothing was said")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) >= 3, done.stderr
    told = [line for line in lines if "cannot be written to" in line]
    assert len(told) >= 3, done.stdout + done.stderr


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond `size` bytes."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
def test_a_file_that_cannot_grow_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    train(tmp_path / "straight", settings())
    control = Control()
    train(tmp_path / "cut", settings(), stop_at(control, 6), control=control)
    with pytest.raises(RunError, match="save the training state"), largest_file(4096):
        train(tmp_path / "cut", settings())
    found = RunFolder(tmp_path / "cut").load_state()
    assert found is not None and found[0].numbers["step"] == 6 and not found[1]
    assert not list((tmp_path / "cut").glob(".*tmp"))
    train(tmp_path / "cut", settings())
    assert prefix_bytes(tmp_path / "cut") == prefix_bytes(tmp_path / "straight")
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "straight")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_disk_ends_the_run_and_loses_nothing(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up when the state of step 6 is synced: some disks say it only then."""
    train(tmp_path / "straight", settings())
    saves: list[int] = []
    true_sync = os.fsync

    def fill(event: Event) -> None:
        if isinstance(event, Saved):
            saves.append(event.step)
        if isinstance(event, Stepped) and event.step == 6:
            monkeypatch.setattr(os, "fsync", full)

    def full(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    wanted = {errno.ENOSPC: "the disk is full", errno.EROFS: "cannot be written to"}
    with pytest.raises(RunError, match=wanted.get(code, "save the training state")):
        train(tmp_path / "cut", settings(), fill)
    monkeypatch.setattr(os, "fsync", true_sync)
    assert saves == [2, 4]
    train(tmp_path / "cut", settings())
    assert prefix_bytes(tmp_path / "cut") == prefix_bytes(tmp_path / "straight")
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "straight")


def test_a_preview_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    def draw(rows: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"preview.*the disk is full"):
        train(tmp_path, settings(), previewer=draw)
