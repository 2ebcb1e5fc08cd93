"""The tab "APL Trainer" of a real webui in a real browser: ordered, watched, stopped, used."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from a1111_host import Webui
from browser import Browser
from webui_page import choose, load

STATUS = "return document.querySelector('#apl_status').innerText"
NOTICE = "return (document.querySelector('#apl_notice')?.innerText || '')"
SETTINGS = "size = 64\nnum_vectors = 4\nnum_suffix_vectors = 2\nlearning_rate = 0.5\n"
SETTINGS += "target_cache = 0\nvalidate_every = 0\nper_name = 1\ndraw_steps = 2\n"
SETTINGS += "batch_identity = 2\nbatch_things = 1\nbatch_people = 2\n"
NAMES = "Ada Example\nBob Example\nCyd Example\nDan Example"


def rows(run: Path) -> list[dict[str, float]]:
    """What a run has said about its steps."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def opened(page: Browser, webui: Webui) -> None:
    """Load the page, go to the tab, and unfold its settings."""
    load(page, webui)
    page.until("return document.querySelector('#apl_start') !== null")
    page.until(
        "const tab = [...document.querySelectorAll('#tabs > .tab-nav button')]"
        ".find(one => one.innerText.trim() === 'APL Trainer'); tab?.click();"
        "return document.querySelector('#apl_start').offsetParent !== null"
    )
    page.run("document.querySelector('#apl_more .label-wrap').click()")


def order(page: Browser, name: str, names: str, settings: str) -> None:
    """Fill the form as a user would, with the quickest preset, and press Start."""
    page.type("#apl_name input, #apl_name textarea", name)
    page.type("#apl_names textarea", names)
    page.click("#apl_preset input")
    page.type("#apl_settings textarea", settings)
    page.click("#apl_start")


def finish(page: Browser, name: str, model: str = "") -> None:
    """Learn for two steps, to the end, and use it."""
    if model:
        choose(page, model, "#apl_model")
    order(page, name, NAMES, SETTINGS + "steps = 2\n")
    page.until(f"{STATUS}.includes('{name}') && {STATUS[7:]}.includes('finished')", seconds=1800)
    page.until("return document.querySelector('#apl_results img')?.naturalWidth > 100")
    page.click("#apl_use")
    page.until(f"{NOTICE}.includes('Copied to')")


def tried(page: Browser, prompt: str, pictures: int) -> None:
    """Ask for a prompt's pictures, while it learns and after, and see them."""
    page.type("#apl_prompt textarea", prompt)
    page.click("#apl_draw")
    shown = f"document.querySelectorAll('#apl_trial img').length === {pictures}"
    about = "document.querySelector('#apl_trial').innerText"
    page.until(f"return {shown} && {about}.includes(arguments[0])", prompt, seconds=900)


def learn(page: Browser, webui: Webui, runs: Path) -> None:
    """Refusals, a run that is looked at, stopped, resumed and stopped again, and one to its end."""
    opened(page, webui)
    order(page, "../learned", NAMES, SETTINGS)
    page.until(f"{NOTICE}.includes('not a plain name')")
    order(page, "mine", "Ada Example\nada  example", SETTINGS)
    page.until(f"{NOTICE}.includes('stands there 2 times')")
    assert not runs.exists()
    order(page, "mine", NAMES, SETTINGS + "steps = 100000\n")
    page.until(f"{STATUS}.includes('of 100000')", seconds=900)
    page.click("#apl_preview")
    page.until("return document.querySelector('#apl_sheet img')?.naturalWidth > 100", seconds=900)
    page.type("#apl_prompt textarea", "a photo of Ada Example <|endoftext|> smiling")
    page.click("#apl_draw")
    page.until("return document.querySelector('#apl_trial .apl-bad') !== null", seconds=900)
    tried(page, "a photo of Ada Example, smiling", 2)
    if folder := os.environ.get("APL_SCREENSHOTS"):
        time.sleep(2)
        page.shot(Path(folder) / f"{webui.name.lower()}-trainer.png")
    page.click("#apl_stop")
    page.until(f"{STATUS}.includes('stopped')")
    stopped = len(rows(runs / "mine"))
    page.click("#apl_resume")
    deadline = time.monotonic() + 900
    while len(rows(runs / "mine")) < stopped + 3:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    page.until(f"{STATUS}.includes('of 100000')")
    page.click("#apl_stop")
    page.until(f"{STATUS}.includes('stopped')")
    finish(page, "short")
    tried(page, "a photo of Bob Example", 2)
