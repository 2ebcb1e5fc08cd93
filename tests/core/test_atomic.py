"""A file is the old one or the whole new one."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from apl_core import atomic

ROOT = Path(__file__).parents[2]


def test_write_and_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "ä\r\n")
    assert path.read_bytes() == "ä\r\n".encode()
    atomic.write_bytes(path, b"2")
    assert path.read_bytes() == b"2" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()]
)
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")

    def writer(stream: BinaryIO) -> None:
        stream.write(b"half of the ne")
        raise error

    with pytest.raises(type(error)):
        atomic.replace_with(path, writer)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_file_system_that_takes_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic.write_bytes(path, b"old")
    code = (
        "import resource, pathlib, sys; from apl_core import atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: atomic.write_bytes(pathlib.Path(sys.argv[1]), bytes(500_000))\n"
        "except OSError as error: print(atomic.reason(error)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_reasons_in_plain_words() -> None:
    assert "disk is full" in atomic.reason(OSError(errno.ENOSPC, ""))[0]
    assert "cannot be written" in atomic.reason(OSError(errno.EROFS, ""))[0]
    assert "does not exist" in atomic.reason(FileNotFoundError(errno.ENOENT, ""))[0]
    assert atomic.reason(OSError("strange"))[0]


def test_killed_while_writing_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    code = (
        "import itertools, pathlib, sys; from apl_core import atomic\n"
        "for i in itertools.count(): "
        "atomic.write_bytes(pathlib.Path(sys.argv[1]), bytes([i % 256]) * 300_000)"
    )
    for attempt in range(6):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
        try:
            while not path.exists():
                time.sleep(0.01)
            time.sleep(0.03 * attempt)
        finally:
            writer.kill()
            writer.wait()
        data = path.read_bytes()
        assert len(data) == 300_000 and len(set(data)) == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    atomic.write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_taken_name_gets_a_number_before_its_ending(tmp_path: Path) -> None:
    run = tmp_path / "my.run v1"
    assert atomic.numbered(run) == run
    run.mkdir()
    (tmp_path / "my.run v1-2").mkdir()
    assert atomic.numbered(run) == tmp_path / "my.run v1-3"
    file = tmp_path / "a.b.safetensors"
    file.touch()
    assert atomic.numbered(file, ".safetensors") == tmp_path / "a.b-2.safetensors"
