"""A1111's SD 2.x and SDXL text wrappers and Forge's text engine, real but alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import a1111_host
import pytest

HERE = Path(__file__).parent
FORGE = a1111_host.hosts_folder() / "forge"


def checks(script: str, *arguments: object) -> dict[str, bool]:
    """What a script says, run by A1111's Python."""
    host = a1111_host.installed()
    assert host is not None
    command = [a1111_host.python(host), HERE / script, *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        env=a1111_host.environment(host),
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_sd2_and_sdxl() -> None:
    host = a1111_host.installed()
    assert host is not None
    hub = a1111_host.models(host) / "hub"
    found = checks("a1111_engines.py", host, a1111_host.REPOSITORY, hub)
    assert [name for name, holds in found.items() if not holds] == []
    assert len(found) > 40


def test_learning_on_sd2_and_sdxl() -> None:
    host = a1111_host.installed()
    assert host is not None
    hub = a1111_host.models(host) / "hub"
    found = checks("a1111_training_engines.py", host, a1111_host.REPOSITORY, hub)
    assert [name for name, holds in found.items() if not holds] == []
    assert len(found) > 15


@pytest.mark.skipif(not FORGE.is_dir(), reason=f"no Forge in {FORGE}")
def test_forge() -> None:
    host = a1111_host.installed()
    assert host is not None
    models = a1111_host.models(host)
    checkpoint, hub = models / "random.safetensors", models / "hub"
    found = checks("forge_engine.py", FORGE, a1111_host.REPOSITORY, checkpoint, hub)
    assert [name for name, holds in found.items() if not holds] == []
    assert len(found) > 15
