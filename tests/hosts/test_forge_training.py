"""Forge, real: a prefix learned from the tab on a copy of a checkpoint, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal

import browser
import forge_host
import pytest
from a1111_host import Webui
from browser import Browser
from trainer_page import learn, rows

from apl_core.formats import read_prefix

HOST = forge_host.installed()
if HOST is None or browser.driver() is None:
    pytest.skip("no Forge or no chromedriver", allow_module_level=True)
if any(part.startswith(".") for part in HOST.resolve().parts):
    pytest.skip("Forge does not serve its page from a hidden folder", allow_module_level=True)


def test_learn_from_the_tab_stop_resume_and_use(forge: Webui) -> None:
    bare = forge.draw().pixels
    before = forge.get("/probe/model")
    runs = forge.data / "apl-runs"
    try:
        with Browser(1400, 1100) as page:
            learn(page, forge, runs)
    finally:
        for status in runs.glob("*/status.json"):  # a failed test leaves one behind
            said = json.loads(status.read_text())
            if said["state"] == "working":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(said["process"], signal.SIGTERM)
    steps = [row["step"] for row in rows(runs / "mine")]
    assert steps == list(range(1, len(steps) + 1))
    losses = [row["loss"] for row in rows(runs / "mine")]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    prefix = read_prefix(runs / "short" / "prefix.safetensors")
    assert (prefix.n, prefix.behind, prefix.card.names_trained) == (4, 2, 4)
    assert "Ada" not in str(prefix.card)
    packages = set(forge.get("/probe/packages"))
    assert not {"apl_core.training.loop", "apl_trainer.checkpoints.load"} & packages
    assert forge.get("/probe/model") == before
    assert forge.draw().pixels == bare
    assert forge.draw("a photo of a man", True, "short").pixels != bare
    found = {one["name"]: one for one in forge.get("/apl/prefixes")}
    assert "the encoder it was trained on" in found["short"]["fit"]
    (forge.prefixes / "short.safetensors").unlink()
