"""The text side on every installed ComfyUI: equal to the bit, every chunk covered, no text lost."""

from __future__ import annotations

from pathlib import Path

import comfyui_host
import comfyui_probes
import pytest

PROBE = "comfyui_text_probe.py"
HOSTS = comfyui_host.installed()
if not HOSTS:
    pytest.skip(comfyui_probes.NO_HOST, allow_module_level=True)


@pytest.fixture(scope="module", params=HOSTS, ids=lambda host: host.name)
def said(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the checks said on one host."""
    host: Path = request.param
    return comfyui_probes.said(PROBE, host, tmp_path_factory.mktemp(host.name))


@pytest.mark.parametrize("check", comfyui_probes.checks(PROBE))
def test_text(check: str, said: dict[str, str]) -> None:
    assert said[check] == ""
