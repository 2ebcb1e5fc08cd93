"""What happens at the start of every image request."""

from __future__ import annotations

import logging
from typing import Any

from apl_core.errors import AplError

from . import gate, request
from .hosts import Host, require_fit
from .refusal import refusal
from .webui import loaded_model

log = logging.getLogger("apl")

TITLE = "APL"
"""The script's name in the webui and its API."""


def begin(
    host: Host,
    p: Any,
    enabled: object = False,
    prefix: object = "",
    start: object = 0.0,
    end: object = 1.0,
) -> None:
    """Attach to `p` what is asked for, or the refusal that its conditioning will raise.

    The webui swallows what a script raises here and would go on with a bare image. In operator
    mode nothing of a request is read: the gate does not ask for it.
    """
    if gate.running() is not None:
        return
    try:
        outcome = request.read(p, enabled, prefix, start, end)
        model = loaded_model()
        if outcome is not None and model is not None:
            host.refuse_settings()
            require_fit(host, outcome.name, outcome.prefix, model)
    except AplError as error:
        outcome = refusal(error)
    except Exception as error:
        log.exception("APL Prefix failed at the start of a request")
        outcome = refusal(error)
    request.attach(p, outcome)


def count(host: Host, p: Any) -> None:
    """Count a finished picture that carries a prefix."""
    closed = gate.running()
    if closed.reads(p) if closed else isinstance(getattr(p, "apl_outcome", None), request.Request):
        host.tally.pictures += 1
