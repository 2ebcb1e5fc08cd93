"""Which real hosts this folder's tests run in; whoever has none reads it here, once a host."""

from __future__ import annotations

import subprocess

import a1111_host
import comfyui_host
import host_server
import pytest

HOSTS = {
    "A1111": [a1111_host.installed("a1111")],
    "Forge": [a1111_host.installed("forge")],
    "reForge": [a1111_host.installed("reforge")],
    "Neo": [a1111_host.installed("neo")],
    "ComfyUI": comfyui_host.installed(),
}


@pytest.mark.parametrize("name", HOSTS)
def test_the_host_has_a_python_of_its_own(name: str) -> None:
    places = [host for host in HOSTS[name] if host]
    if not places:
        folder = host_server.hosts_folder()
        pytest.skip(f"no {name} with its venv in {folder} (CONTRIBUTING.md says how to set one up)")
    for host in places:
        command = [str(host_server.python(host)), "-c", "import sys; print(sys.prefix)"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip().startswith(str(host))
