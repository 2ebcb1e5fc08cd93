"""The error that a request ends in when it cannot be anonymized, on the page and over HTTP."""

from __future__ import annotations

import os
import re

from apl_core.errors import AplError, HostError
from apl_core.names import place

from . import config

STATUS = 422

_PATH = re.compile(r"(?<![\w.:/<])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\",;:]+[\\/])+([^\s\\/'\",;:]*)")
_WIDTHS = re.compile(r"(?<! is) \((?:[a-z0-9_]+ \d+(?: \+ )?)+\)")


class Refused(HostError):
    """Raised inside image generation; the webui's API answers with `status_code` and `detail`."""

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(public(asked), public(found), public(fix))
        self.status_code = STATUS
        self.detail = str(self)


def public(text: str) -> str:
    """A sentence as anybody may read it: no folders of the server, families without widths."""
    for folder in config.roots():
        text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), place(folder))
    return _WIDTHS.sub("", _PATH.sub(r"\1", text)).replace("(clip_g 1280)", "SDXL's refiner")


def refusal(error: Exception) -> Refused:
    """Any failure as a Refused; what is not an AplError is a defect and says so."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, AplError):
        return Refused(error.asked, error.found, error.fix)
    return Refused(
        "anonymize this image",
        f"{type(error).__name__}: {error}",
        "report this with the webui's console output; no image was made",
    )
