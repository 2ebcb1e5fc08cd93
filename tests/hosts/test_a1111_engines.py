"""A1111's SD 2.x and SDXL text wrappers and the text engines of Forge and Neo, real but alone."""

from __future__ import annotations

from pathlib import Path

import a1111_host
import lesson_digest
import pytest
import webui_hosts

HOST = webui_hosts.INSTALLED["a1111"]


@pytest.mark.parametrize(("script", "least"), [("engines", 40), ("training_engines", 15)])
def test_sd2_and_sdxl(script: str, least: int, tmp_path: Path) -> None:
    hub = a1111_host.models(HOST) / "hub"
    found = a1111_host.checks(HOST, f"a1111_{script}.py", HOST, a1111_host.REPOSITORY, hub)
    assert [name for name, holds in found.items() if not holds] == []
    assert len(found) > least
    if script == "training_engines":
        digest = lesson_digest.expected(tmp_path)
        assert {f"SD 2.x, lessons {digest}", f"SDXL, lessons {digest}"} <= found.keys()


@pytest.mark.parametrize("name", ["forge", "neo"])
def test_forge(name: str) -> None:
    forge = a1111_host.hosts_folder() / name
    if not forge.is_dir():
        pytest.skip(f"no {forge}")
    models = a1111_host.models(HOST)
    given = (forge, a1111_host.REPOSITORY, models / "random.safetensors", models / "hub")
    by = HOST if name == "forge" else forge  # of Forge its tree is enough
    found = a1111_host.checks(by, "forge_engine.py", *given)
    assert [name for name, holds in found.items() if not holds] == []
    assert len(found) > 15
