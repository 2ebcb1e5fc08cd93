"""Language models and T5 as text encoders, on every installed ComfyUI that has them."""

from __future__ import annotations

from pathlib import Path

import comfyui_probes
import pytest

FREE, ENFORCED = "comfyui_families_probe.py", "comfyui_enforced_probe.py"


@pytest.fixture(scope="module")
def free(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the checks said on one host."""
    return comfyui_probes.said(FREE, source, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def enforced(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the checks of operator mode said on one host."""
    return comfyui_probes.said(ENFORCED, source, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("check", comfyui_probes.checks(FREE))
def test_families(check: str, free: dict[str, str]) -> None:
    assert free[check] == ""


@pytest.mark.parametrize("check", comfyui_probes.checks(ENFORCED))
def test_families_of_an_operator(check: str, enforced: dict[str, str]) -> None:
    assert enforced[check] == ""
