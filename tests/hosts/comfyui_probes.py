"""Run a probe inside a host's Python and hand its checks to pytest one by one."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import comfyui_host

HERE = Path(__file__).parent


def checks(probe: str) -> list[str]:
    """The names of the checks in a probe, read from its text."""
    text = (HERE / probe).read_text(encoding="utf-8")
    return re.findall(r"^def (check_\w+)\(\) -> None:$", text, re.MULTILINE)


def run(probe: str, host: Path, work: Path) -> subprocess.CompletedProcess[str]:
    """Run a probe by a host's own Python."""
    command = [str(comfyui_host.python(host)), str(HERE / probe), str(host)]
    return subprocess.run(
        [*command, str(comfyui_host.models(host)), str(work)],
        cwd=host,
        env=comfyui_host.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def said(probe: str, host: Path, work: Path) -> dict[str, str]:
    """What each check of the probe said on this host: empty, or a traceback."""
    done = run(probe, host, work)
    out = work / "said.json"
    assert out.exists(), done.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))
