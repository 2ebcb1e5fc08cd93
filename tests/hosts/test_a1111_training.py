"""A1111, real: a prefix learned from the tab on the loaded checkpoint, and used."""

from __future__ import annotations

import math

import a1111_host
import browser
import pytest
from a1111_host import Webui
from browser import Browser
from trainer_page import learn, rows

from apl_core.formats import read_prefix

HOST = a1111_host.installed()
if HOST is None or browser.driver() is None:
    pytest.skip("no A1111 or no chromedriver", allow_module_level=True)
if any(part.startswith(".") for part in HOST.resolve().parts):
    pytest.skip("A1111 does not serve its page from a hidden folder", allow_module_level=True)


def test_learn_from_the_tab_stop_resume_and_use(a1111: Webui) -> None:
    bare = a1111.draw().pixels
    before = a1111.get("/probe/model")
    loaded = a1111.get("/probe/packages")
    assert not {"apl_a1111.training.job", "apl_core.training.loop"} & set(loaded)
    runs = a1111.data / "apl-runs"
    try:
        with Browser(1400, 1100) as page:
            learn(page, a1111, runs)
    finally:
        a1111.post("/sdapi/v1/interrupt", {})  # a run that is left would hold the queue
    steps = [row["step"] for row in rows(runs / "mine")]
    assert steps == list(range(1, len(steps) + 1))
    losses = [row["loss"] for row in rows(runs / "mine")]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    prefix = read_prefix(runs / "short" / "prefix.safetensors")
    assert (prefix.n, prefix.behind, prefix.card.names_trained) == (4, 2, 4)
    assert "Ada" not in str(prefix.card)
    assert a1111.get("/probe/model") == before
    assert a1111.draw().pixels == bare
    assert a1111.draw("a photo of a man", True, "short").pixels != bare
    found = {one["name"]: one for one in a1111.get("/apl/prefixes")}
    assert "the encoder it was trained on" in found["short"]["fit"]
    (a1111.prefixes / "short.safetensors").unlink()
