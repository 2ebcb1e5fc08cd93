"""Forge Neo's language models and T5: every token is as transformers' own model has it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import a1111_host
import webui_hosts

HERE = Path(__file__).parent


def test_every_token_is_as_transformers_has_it() -> None:
    neo = webui_hosts.INSTALLED["neo"]
    script = HERE / "neo_families_probe.py"
    command = [a1111_host.python(neo), script, neo, a1111_host.REPOSITORY]
    done = subprocess.run(
        [str(part) for part in command],
        env=a1111_host.environment(neo),
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [name for name, holds in found.items() if not holds] == []
    assert len(found) > 200
