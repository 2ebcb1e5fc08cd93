"""A file that one process holds at a time; the system lets go of it when the process ends."""

from __future__ import annotations

import os

if os.name == "nt":
    import msvcrt
else:
    import fcntl


def lock(descriptor: int) -> None:
    """Hold an open file until it is closed; OSError if another process has it."""
    if os.name == "nt":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
