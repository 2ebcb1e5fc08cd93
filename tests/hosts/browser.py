"""Headless Chromium through chromedriver's own HTTP protocol (W3C WebDriver), nothing else."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, final


def driver() -> str | None:
    """The chromedriver of this machine, if there is one."""
    return shutil.which("chromedriver")


@final
class Browser:
    """One headless window; leave it as a context manager to close it."""

    def __init__(self, width: int = 1400, height: int = 1000) -> None:
        self.size = f"{width},{height}"

    def __enter__(self) -> Browser:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [str(driver()), f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.url = f"http://127.0.0.1:{port}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"args": [*arguments, f"--window-size={self.size}", "--lang=en"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        deadline = time.monotonic() + 60
        while True:
            try:
                self.url += f"/session/{self._ask('/session', wanted)['sessionId']}"
                return self
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline:
                    self.process.terminate()
                    raise
                time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("", method="DELETE")
        finally:
            self.process.terminate()
            self.process.wait()

    def open(self, url: str) -> None:
        """Load a page."""
        self._ask("/url", {"url": url})

    def run(self, script: str, *args: object) -> Any:
        """What a JavaScript function body returns; `arguments` holds the args."""
        return self._ask("/execute/sync", {"script": script, "args": list(args)})

    def until(self, script: str, *args: object, seconds: float = 300) -> Any:
        """The first truthy answer of a script; AssertionError if there is none in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if answer := self.run(script, *args):
                return answer
            time.sleep(0.3)
        raise AssertionError(f"never true on the page: {script}")

    def click(self, selector: str) -> None:
        """Click the first element, once it is there."""
        self.until("return document.querySelector(arguments[0]) !== null", selector)
        self.run("document.querySelector(arguments[0]).click()", selector)

    def type(self, selector: str, text: str) -> None:
        """Set a text field as if it was typed into."""
        self.until("return document.querySelector(arguments[0]) !== null", selector)
        self.run(
            "const field = document.querySelector(arguments[0]); field.focus();"
            "field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', {bubbles: true}))",
            selector,
            text,
        )

    def press(self, selector: str, key: str) -> None:
        """Type into an element with real key events (`key` may be a WebDriver key code)."""
        found = self._ask("/element", {"using": "css selector", "value": selector})
        element = next(iter(found.values()))
        self._ask(f"/element/{element}/value", {"text": key})

    def shot(self, path: Path) -> None:
        """Save what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("/screenshot")))

    def _ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["value"]
