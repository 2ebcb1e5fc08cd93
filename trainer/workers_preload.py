"""What the server of worker processes loads before it starts any."""

from __future__ import annotations

from .quiet import quiet

quiet()

from .pocket import train as train  # noqa: E402 - it is quiet now
