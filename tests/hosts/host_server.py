"""A host's server on the CPU in a process of its own: where it lies, its start, its end.

comfyui_host.py, a1111_host.py and forge_host.py say what is special about each.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

REPOSITORY = Path(__file__).resolve().parents[2]


def hosts_folder() -> Path:
    """Where real hosts are looked for: $APL_HOSTS_DIR, else ~/.cache/apl-hosts."""
    return Path(os.environ.get("APL_HOSTS_DIR", "~/.cache/apl-hosts")).expanduser()


def python(host: Path) -> Path:
    """The host's own interpreter."""
    windows = host / "venv" / "Scripts" / "python.exe"
    return windows if os.name == "nt" else host / "venv" / "bin" / "python"


def host_environment(*dropped: str, **extra: str) -> dict[str, str]:
    """Ours without what begins with `dropped`: one thread, no operator mode unless `extra` says."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **extra}


def written(
    kind: str, writer: Path, host: Path, env: dict[str, str], last: str, out: str = ""
) -> Path:
    """A folder with random weights, made by the host's Python once per version of their writer.

    `last` is the last file that is written, `out` what the writer is told of the folder.
    """
    version = hashlib.sha256(writer.read_bytes()).hexdigest()[:12]
    folder = hosts_folder() / f"{kind}-models" / version
    if not (folder / last).exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(python(host)), str(writer), str(host), str(folder / out)]
        subprocess.run(command, check=True, cwd=host, env=env, capture_output=True)
    return folder


class Refused(Exception):
    """The host answered with an error."""


@dataclass(kw_only=True)
class Server:
    """One running server; leave it as a context manager to stop the process."""

    name: ClassVar[str]

    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    console: Path = Path()

    def launch(self, command: Sequence[str], cwd: Path, env: dict[str, str], base: Path) -> None:
        """Start it on a free port and wait; RuntimeError with its console if it dies."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.console = f"http://127.0.0.1:{port}", base / "log.txt"
        with self.console.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(port)], cwd=cwd, env=env, stdout=log, stderr=log
            )
        try:
            self.wait_until_ready()
        except BaseException:  # also Ctrl-C: no server may be left behind
            self.__exit__()
            raise

    def ask_for_readiness(self) -> None:
        """ConnectionError, URLError or Refused while the server is not complete."""
        raise NotImplementedError

    def wait_until_ready(self, seconds: float = 900) -> None:
        """Wait until the server is complete; RuntimeError with its console if it died."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.ask_for_readiness()
            except (urllib.error.URLError, ConnectionError, Refused):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{self.name} did not start:\n{self.log()[-3000:]}"
                    ) from None
                time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log(self) -> str:
        """All that the host has written to its console."""
        return self.console.read_text(errors="replace")
