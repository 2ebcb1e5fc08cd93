"""Learning on T5 and language-model families, on every installed ComfyUI that has them."""

from __future__ import annotations

from pathlib import Path

import comfyui_probes
import pytest

PROBE = "comfyui_learning_probe.py"


@pytest.fixture(scope="module")
def said(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the checks said on one host."""
    return comfyui_probes.said(PROBE, source, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("check", comfyui_probes.checks(PROBE))
def test_learning(check: str, said: dict[str, str]) -> None:
    assert said[check] == ""
