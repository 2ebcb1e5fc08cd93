"""JSON over HTTP to a server that an operator names."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from apl_core.errors import ConfigError, HostError
from apl_core.metadata import printable


class NoAnswer(HostError):
    """A server that cannot be reached, or that answers nothing in time."""


@dataclass(frozen=True)
class Reply:
    """Status and body of an answer; the body as JSON where it is some."""

    status: int
    body: Any
    data: bytes = b""


class Client:
    """Requests to one server; `login` is "user:password" for servers that ask for one.

    `seconds` is how long an answer may take.
    """

    def __init__(self, url: str, login: str = "", seconds: float = 300.0) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(
                "verify a server",
                f"{printable(url, 80)!r} is not an address",
                "give http://HOST:PORT",
            )
        self.url = url.rstrip("/")
        self.seconds = seconds
        self._header = {"Content-Type": "application/json"}
        if login:
            self._header["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()

    def ask(self, path: str, body: object = None) -> Reply:
        """The answer to a GET, or to a POST of a body, whatever its status; NoAnswer for none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self._header)
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                return _reply(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            return _reply(error.code, error.read())
        except (OSError, ValueError, http.client.HTTPException) as error:  # URLError: an OSError
            raise NoAnswer(
                f"ask {self.url}", printable(str(error), 120), "check the address and that it runs"
            ) from error

    def get(self, path: str, default: Any = None) -> Any:
        """The JSON answer to a GET, or `default` where the server has no such page."""
        reply = self.ask(path)
        return reply.body if reply.status == 200 else default


def enforced(client: Client) -> str:
    """The prefix that a server enforces; "" for none, or without this project."""
    return str((client.get("/apl/status") or {}).get("enforced") or "")


def status(client: Client) -> dict[str, Any]:
    """`GET /apl/status`; HostError if the server has no such page."""
    reply = client.ask("/apl/status")
    if reply.status != 200 or not isinstance(reply.body, dict):
        raise HostError(
            f"ask {client.url} for /apl/status",
            f"it answers with HTTP {reply.status}",
            "check the address, --login, and that APL Prefix is installed there",
        )
    return reply.body


def _reply(code: int, data: bytes) -> Reply:
    try:
        return Reply(code, json.loads(data), data)
    except ValueError:
        return Reply(code, None, data)
