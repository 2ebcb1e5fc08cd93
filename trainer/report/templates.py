"""HTML and SVG out of Jinja2 templates: whatever goes in is escaped."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template

_ROOT = Path(__file__).parents[1]


@cache
def template(name: str) -> Template:
    """A template by its path below this package, such as `report/page.html`."""
    loader = FileSystemLoader(_ROOT)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(name)


def data_url(data: bytes, kind: str) -> str:
    """The content of a file as an address of its own; `kind` is its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
