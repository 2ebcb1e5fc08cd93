"""A1111, Forge and Neo, real: a prefix learned from the tab on the loaded checkpoint, and used.

A1111 learns in its own process, the others on a copy of the checkpoint in another one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
from pathlib import Path

import pytest
import webui_hosts
from a1111_host import Refused, Webui
from browser import Browser
from conftest import furnished
from sdxl_host import with_sdxl
from trainer_page import finish, learn, opened, rows
from webui_page import require_browser

from apl_core.formats import read_prefix

SDXL = {"override_settings": {"sd_model_checkpoint": "sdxl"}}
LEARNING = {"apl_a1111.training.job", "apl_core.training.loop", "apl_trainer.checkpoints.load"}
"""Modules that a webui without a run has not loaded."""


def abandon(webui: Webui, runs: Path) -> None:
    """End what a failed test leaves: in A1111 it holds the queue, for Forge it is a process."""
    webui.post("/sdapi/v1/interrupt", {})
    for status in runs.glob("*/status.json"):
        said = json.loads(status.read_text())
        if said["state"] == "working":
            with contextlib.suppress(ProcessLookupError):
                os.kill(said["process"], signal.SIGTERM)


def test_learn_from_the_tab_stop_resume_and_use(webui: Webui) -> None:
    require_browser(webui.name.lower())
    bare = webui.draw().pixels
    before = webui.get("/probe/model")
    assert not LEARNING & set(webui.get("/probe/packages"))
    runs = webui.data / "apl-runs"
    try:
        with Browser(1400, 1100) as page:
            learn(page, webui, runs)
    finally:
        abandon(webui, runs)
    steps = [row["step"] for row in rows(runs / "mine")]
    assert steps == list(range(1, len(steps) + 1))
    losses = [row["loss"] for row in rows(runs / "mine")]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    prefix = read_prefix(runs / "short" / "prefix.safetensors")
    assert (prefix.n, prefix.behind, prefix.card.names_trained) == (4, 2, 4)
    assert "Ada" not in str(prefix.card)
    if webui.name != "A1111":
        assert not LEARNING & set(webui.get("/probe/packages"))
    assert webui.get("/probe/model") == before
    assert webui.draw().pixels == bare
    assert webui.draw("a photo of a man", True, "short").pixels != bare
    found = {one["name"]: one for one in webui.get("/apl/prefixes")}
    assert "the encoder it was trained on" in found["short"]["fit"]
    (webui.prefixes / "short.safetensors").unlink()


@pytest.mark.parametrize("name", webui_hosts.NEWER)
def test_sdxl_is_learned_on_a_copy_and_used(name: str, tmp_path: Path) -> None:
    require_browser(name)
    data = furnished(tmp_path / "data")
    with with_sdxl(name, data) as webui:
        bare = webui.draw(**SDXL).pixels
        try:
            with Browser(1400, 1100) as page:
                opened(page, webui)
                finish(page, "big", "sdxl.safetensors")
        finally:
            abandon(webui, webui.data / "apl-runs")
        prefix = read_prefix(webui.prefixes / "big.safetensors")
        assert (prefix.family, prefix.n, prefix.behind) == ("SDXL", 4, 2)
        assert webui.draw(**SDXL).pixels == bare
        covered = webui.draw("a photo of a man", True, "big", **SDXL)
        assert covered.pixels != bare and "APL prefix: big" in covered.infotext
        with pytest.raises(Refused, match=r"it is for SDXL; the loaded checkpoint is SD 1.x"):
            webui.draw("a photo of a man", True, "big")
