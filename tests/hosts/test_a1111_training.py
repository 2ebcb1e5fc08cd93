"""A1111, real: a prefix learnt from the tab on the loaded checkpoint, and used."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import a1111_host
import browser
import pytest
from a1111_host import Webui
from browser import Browser

from apl_core.formats import read_prefix

HOST = a1111_host.installed()
if HOST is None or browser.driver() is None:
    pytest.skip("no A1111 or no chromedriver", allow_module_level=True)
if any(part.startswith(".") for part in HOST.resolve().parts):
    pytest.skip("A1111 does not serve its page from a hidden folder", allow_module_level=True)

STATUS = "return document.querySelector('#apl_train_status').innerText"


def fill(page: Browser, **fields: object) -> None:
    for field, value in fields.items():
        tag = "textarea" if field in ("names", "run") else "input"
        page.type(f"#apl_train_{field} {tag}", str(value))


def open_tab(page: Browser, a1111: Webui) -> None:
    page.open(f"{a1111.url}/?__theme=light")
    page.until("return document.querySelector('#script_txt2img_apl_enabled-visible-checkbox')")
    page.run(
        "[...document.querySelectorAll('#tabs > .tab-nav button')]"
        ".find(one => one.innerText.trim() === 'APL Trainer').click()"
    )
    page.until("return document.querySelector('#apl_train_start').offsetParent !== null")


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def learn(page: Browser, a1111: Webui, run: Path) -> None:
    """Two refusals, then a run that is looked at, stopped, resumed, stopped again and used."""
    open_tab(page, a1111)
    fill(page, run="../learnt", names="Ada Example", steps=3, size=64)
    page.click("#apl_train_start")
    page.until(f"{STATUS}.includes('no plain name')")
    fill(page, run="mine", names="Ada Example\nada  example")
    page.click("#apl_train_start")
    page.until(f"{STATUS}.includes('stands there twice')")
    fill(page, names="Ada Example\nBob Example", steps=100000, vectors=4, behind=2, rate=0.01)
    page.click("#apl_train_start")
    page.until(f"{STATUS}.includes('step ')")
    page.click("#apl_train_preview")
    page.until("return document.querySelector('#apl_train_picture img') !== null")
    if folder := os.environ.get("APL_SCREENSHOTS"):
        page.shot(Path(folder) / "a1111-trainer.png")
    page.click("#apl_train_stop")
    page.until(f"{STATUS}.includes('finished') && {STATUS[7:]}.includes('; learnt')")
    stopped = len(rows(run))
    page.click("#apl_train_resume")
    deadline = time.monotonic() + 300
    while len(rows(run)) < stopped + 3:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    page.click("#apl_train_stop")
    page.until(f"{STATUS}.includes('; learnt')")
    page.click("#apl_train_use")
    page.until(f"{STATUS}.includes('Copied')")


def test_learn_from_the_tab_stop_resume_and_use(a1111: Webui) -> None:
    bare = a1111.draw().pixels
    before = a1111.get("/probe/model")
    assert not any("training" in name for name in before["packages"])
    run = a1111.data / "apl-runs" / "mine"
    try:
        with Browser(1400, 900) as page:
            learn(page, a1111, run)
    finally:
        a1111.post("/sdapi/v1/interrupt", {})  # a run that is left would hold the queue
    steps = [row["step"] for row in rows(run)]
    assert steps == list(range(1, len(steps) + 1))
    losses = [row["loss"] for row in rows(run)]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    prefix = read_prefix(run / "prefix.safetensors")
    assert (prefix.n, prefix.behind, prefix.card.names_trained) == (4, 2, 2)
    assert "Ada" not in str(prefix.card)
    after = a1111.get("/probe/model")
    assert {**after, "packages": 0} == {**before, "packages": 0}
    assert a1111.draw().pixels == bare
    assert a1111.draw("a photo of a man", True, "mine").pixels != bare
    found = {one["name"]: one for one in a1111.get("/apl/prefixes")}
    assert "the encoder it was trained on" in found["mine"]["fit"]
    (a1111.prefixes / "mine.safetensors").unlink()
