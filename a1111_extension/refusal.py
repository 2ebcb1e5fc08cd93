"""The error that a request ends in when it cannot be anonymised, on the page and over HTTP."""

from __future__ import annotations

from apl_core.errors import AplError, HostError

STATUS = 422


class Refused(HostError):
    """Raised inside image generation; the webui's API answers with `status_code` and `detail`."""

    def __init__(self, asked: str, found: str, fix: str) -> None:
        super().__init__(asked, found, fix)
        self.status_code = STATUS
        self.detail = str(self)


def refusal(error: Exception) -> Refused:
    """Any failure as a Refused; what is not an AplError is a defect and says so."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, AplError):
        return Refused(error.asked, error.found, error.fix)
    return Refused(
        "anonymise this image",
        f"{type(error).__name__}: {error}",
        "report this with the webui's console output; no image was made",
    )
