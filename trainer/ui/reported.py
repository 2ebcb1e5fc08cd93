"""Work in a folder whose `status.json` tells how it goes and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from apl_core.errors import AplError

from ..callbacks import StatusFile
from .review import ReviewFirst
from .run_status import log_of

log = logging.getLogger("apl")

Work = Callable[[Path, StatusFile], str | None]
"""Does what was ordered in a folder; a sentence about what came out, None if it was stopped."""


def reported(folder: Path, work: Work) -> int:
    """Do some work and say in its folder how it ended; exit code 0, or 1 if it failed."""
    with StatusFile(folder) as status:
        try:
            done = work(folder, status)
        except ReviewFirst as pause:
            status.end("looking", said=str(pause))
            return 0
        except KeyboardInterrupt:
            status.end("stopped")
            return 0
        except AplError as error:
            log.error("%s", error)
            status.end("failed", str(error))
            return 1
        except Exception as error:
            log.exception("the work in %s failed", folder)
            said = f"{type(error).__name__}: {error}"
            where = log_of(folder).resolve()
            status.end("failed", f"Something unexpected: {said}\nThe log lies in {where}")
            return 1
        status.end("stopped" if done is None else "done", said=done or "")
    return 0
