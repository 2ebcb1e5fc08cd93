"""Files that are either the old ones or the whole new ones, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def replace_with(path: Path, writer: Callable[[BinaryIO], object]) -> None:
    """Let `writer` fill a temporary file beside `path`, sync it, move it into place.

    Whatever fails (OSError or an error of `writer`) leaves `path` as it was and no temporary file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one move; raises OSError."""
    replace_with(path, lambda stream: stream.write(data))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, line ends as they are, in one move; raises OSError."""
    write_bytes(path, text.encode("utf-8"))


def reason(error: OSError) -> tuple[str, str]:
    """(found, fix) in plain words for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full", "free some space or choose another disk, then try again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "the folder or the file cannot be written to",
            "choose a folder that you may write to, and close programs that hold the file open",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "its folder does not exist", "create the folder first or choose another one"
    return error.strerror or type(error).__name__, "check the path and the disk, then try again"


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        return
    with contextlib.suppress(OSError):  # some network disks cannot sync a folder
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def numbered(path: Path, ending: str = "", taken: Callable[[Path], bool] = Path.exists) -> Path:
    """`name`, `name-2`, `name-3` ... before the path's `ending`: the first that is not taken."""
    found, number = path, 1
    while taken(found):
        number += 1
        found = path.with_name(f"{path.name.removesuffix(ending)}-{number}{ending}")
    return found
