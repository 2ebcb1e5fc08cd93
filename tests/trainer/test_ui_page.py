"""The page in a real browser: from the empty page to the report, closed and reopened on the way.

With APL_SCREENSHOTS=FOLDER the pictures of the documentation are taken on the way.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from browser import Browser
from slim_checkpoints import pipeline
from slim_files import OTHERS, Z_IMAGE, written

from apl_core.formats import read_prefix
from apl_core.training.config import TrainConfig

if not importlib.util.find_spec("gradio") or browser.driver() is None:
    pytest.skip("no gradio or no chromedriver", allow_module_level=True)

SETTINGS = (
    "steps = 3\ntarget_cache = 40\nvalidate_every = 0\nbatch_identity = 2\nbatch_things = 1\n"
)
REAL = "size = 64\nnum_vectors = 4\nnum_suffix_vectors = 2\n"
REAL += "steps = 4\nper_name = 1\ndraw_steps = 2\n"
REAL += "batch_identity = 2\nbatch_things = 1\nbatch_people = 1"
ALL, ENTER = "\ue009a\ue000\ue003", "\ue007"
STATUS = "return document.querySelector('#apl_status').innerText"
NOTICE = "return (document.querySelector('#apl_notice')?.innerText || '')"
SAID = "return (document.querySelector('#apl_described textarea')?.value || '')"
NAMES = "return document.querySelector('#apl_names textarea').value"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of `apl ui` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from apl_trainer.cli import script; script()",
        "ui",
        "--runs",
        str(tmp_path / "runs"),
        "--apl-dir",
        str(tmp_path / "apl"),
        "--models",
        str(tmp_path / "models"),
        "--port",
        str(port),
    ]
    pipeline("sd1").save_pretrained(tmp_path / "models" / "slim")
    written(tmp_path / "models" / "z.safetensors", Z_IMAGE)
    written(tmp_path / "models" / "sub" / "qwen_3_4b.safetensors", OTHERS["qwen3_4b"])
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while url not in log.read_text():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait()
        for status in (tmp_path / "runs").glob("*/status.json"):  # a failed test leaves one behind
            said = json.loads(status.read_text())
            if said["state"] == "working":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(said["process"], signal.SIGTERM)


def shot(page: Browser, name: str) -> None:
    """Save a picture for the documentation if one is wanted."""
    if folder := os.environ.get("APL_SCREENSHOTS"):
        time.sleep(1)
        page.shot(Path(folder) / f"ui-{name}.png")


def opened(page: Browser, url: str, theme: str = "light") -> None:
    page.open(f"{url}/?__theme={theme}")
    page.until("return document.querySelector('#apl_start') !== null", seconds=120)


def test_from_the_empty_page_to_the_report(served: str, tmp_path: Path) -> None:
    with urllib.request.urlopen(served) as answer:
        assert "fonts.googleapis.com/css" not in answer.read().decode()
    for path in ("gradio_api/file=", "file="):  # the page serves no file of this machine
        for file in (str(tmp_path / "server.log"), "pyproject.toml", "../../etc/hosts"):
            with pytest.raises(urllib.error.HTTPError, match=r"HTTP Error 40[34]"):
                urllib.request.urlopen(f"{served}/{path}{file}")
    with Browser(1280, 1000) as page:
        opened(page, served)
        page.until("return document.querySelector('#apl_status').innerText.includes('No run yet')")
        page.type("#apl_name input, #apl_name textarea", "../away")
        page.type("#apl_names textarea", "Ann\n<b>ann</b>\nANN")
        page.click("#apl_start")
        page.until(f"{NOTICE}.includes('lines 1, 3')")
        (tmp_path / "list.txt").write_text("Zoë d'Arc\nBo ${1} {2}\n", encoding="utf-8")
        page.press("input[type=file]", str(tmp_path / "list.txt"))
        page.until(f"{NAMES} === arguments[0]", (tmp_path / "list.txt").read_text("utf-8"))
        page.click("#apl_fill")
        page.until(f"{NAMES}.length > 500")
        page.click("#apl_start")
        page.until(f"{NOTICE}.includes('plain name')")
        assert not (tmp_path / "runs").exists()
        page.type("#apl_name input, #apl_name textarea", "mine")
        page.click("#apl_preset input")
        page.run("document.querySelector('#apl_more button, #apl_more .label-wrap').click()")
        page.type("#apl_settings textarea", SETTINGS)
        page.click("#apl_start")
        page.until(f"{STATUS}.includes('at work')")
        page.open("about:blank")
        opened(page, served)  # closed and opened again: it shows what is going on
        page.until(f"{STATUS}.includes('mine')", seconds=60)
        page.until(f"{STATUS}.includes('finished')", seconds=1500)
        page.until("return document.querySelector('#apl_charts polyline') !== null")
        page.until("return document.querySelector('#apl_results img')?.naturalWidth > 200")
        assert "learned prefix" in page.run(
            "return document.querySelector('#apl_results table').innerText"
        )
        links = page.run(
            "return [...document.querySelectorAll('#apl_results a')].map(a => a.download)"
        )
        assert links == ["mine.html", "mine.safetensors"]
        page.click("#apl_use")
        page.until(f"{NOTICE}.includes('Copied to')")
        assert read_prefix(tmp_path / "apl" / "mine.safetensors").n == TrainConfig().num_vectors
        page.click("#apl_draw")
        page.until(f"{NOTICE}.includes('it is empty')")
        page.type("#apl_prompt textarea", "a photo of a woman with a red hat")
        page.type("#apl_seed input, #apl_seed textarea", "3")
        page.click("#apl_draw")
        page.until("return document.querySelectorAll('#apl_trial img').length === 2", seconds=600)
        assert "--seed 3" in page.run("return document.querySelector('#apl_trial').innerText")
        shot(page, "finished")


def test_a_transformer_asks_for_its_pieces_by_name(served: str) -> None:
    with Browser(1280, 1000) as page:
        opened(page, served)
        page.until("return document.querySelector('#apl_status').innerText.includes('No run yet')")
        about = "return document.querySelector('#apl_about').innerText"
        piece = "return document.querySelector('#apl_piece_{} input')?.value"
        page.press("#apl_model input", f"{ALL}z.safetensors{ENTER}")
        page.until(f"{about}.includes('Z-Image')", seconds=60)
        assert "VAE: ae.safetensors" in page.run(about)
        page.until(piece.format(0) + " === 'sub/qwen_3_4b.safetensors'")
        page.until(piece.format(1) + " === ''")
        page.type("#apl_names textarea", "Ann Lee\nBo Li\nCy Mo\nDi Nu")
        page.click("#apl_start")
        page.until(f"{NOTICE}.includes('its VAE is missing')")
        shot(page, "pieces")
        page.press("#apl_model input", f"{ALL}slim{ENTER}")
        page.until(f"{about}.includes('SD 1.x')", seconds=120)
        page.until("return !document.querySelector('#apl_piece_0 input')?.offsetParent")


def test_pictures_are_looked_at_before_a_checkpoint_learns(served: str, tmp_path: Path) -> None:
    with Browser(1280, 1000) as page:
        opened(page, served)
        page.until("return document.querySelector('#apl_status').innerText.includes('No run yet')")
        page.press("#apl_model input", f"{ALL}slim{ENTER}")
        page.until("return document.querySelector('#apl_look input') !== null", seconds=60)
        page.click("#apl_look input")
        page.type("#apl_names textarea", "Ann Lee\nBo Li\nCy Mo\nDi Nu\nEd Oz")
        page.type("#apl_name input, #apl_name textarea", "real")
        page.click("#apl_preset input")
        page.run("document.querySelector('#apl_more button, #apl_more .label-wrap').click()")
        page.type("#apl_settings textarea", REAL)
        page.click("#apl_start")
        page.until(f"{STATUS}.includes('waits for you')", seconds=1500)
        page.until("return document.querySelector('#apl_contact img')?.naturalWidth > 200")
        page.until(f"{SAID}.includes('Ann Lee: a person')")
        shot(page, "looking")
        page.type("#apl_described textarea", "Ann Lee: like ann lee")
        page.click("#apl_learn")
        page.until(f"{NOTICE}.includes('holds the name')")
        assert page.run(SAID) == "Ann Lee: like ann lee"  # what is being typed stays
        page.type("#apl_described textarea", "Ann Lee: <b>old</b> woman")
        page.click("#apl_learn")
        page.until(f"{STATUS}.includes('finished')", seconds=1500)
        assert page.run("return document.querySelector('#apl_learn')?.offsetParent") is None
        page.until("return document.querySelector('#apl_results img')?.naturalWidth > 200")
    told = (tmp_path / "runs" / "real" / "data" / "metadata.jsonl").read_text()
    assert "<b>old</b> woman" in told
