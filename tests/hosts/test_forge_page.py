"""Forge, real, in a real browser: tick, generate, paste, an error without a picture."""

from __future__ import annotations

import os
from pathlib import Path

import browser
import forge_host
import pytest
from a1111_host import Webui
from browser import Browser

HOST = forge_host.installed()
if HOST is None or browser.driver() is None:
    pytest.skip("no Forge or no chromedriver", allow_module_level=True)
if any(part.startswith(".") for part in HOST.resolve().parts):
    pytest.skip("Forge does not serve its page from a hidden folder", allow_module_level=True)

BOX = "#script_txt2img_apl_enabled"
PROMPT = "#txt2img_prompt textarea"
TICKED = f"return document.querySelector('{BOX}-visible-checkbox').checked"
CHOSEN = "return document.querySelector('#script_txt2img_apl_prefix input').value"
INFO = (
    "return ['info', 'log'].map(one => document.querySelector(`#html_${one}_txt2img`).innerText)"
    ".join(' ')"
)


def generate(page: Browser, expected: str) -> str:
    """The line of generation parameters (or the error) under the picture."""
    page.click("#txt2img_generate")
    page.until(f"{INFO}.includes(arguments[0])", expected)
    return page.run(INFO)


def paste(page: Browser, infotext: str) -> None:
    page.type(PROMPT, infotext)
    page.click("#paste")


def test_tick_generate_paste_and_an_error(forge: Webui) -> None:
    drawn = forge.draw("a photo of a man", True, "front", 0.0, 0.5)
    with Browser(1400, 1400) as page:
        page.open(f"{forge.url}/?__theme=light")
        page.until(f"return document.querySelector('{BOX}-visible-checkbox') !== null")
        assert page.run(TICKED) is False
        paste(page, forge.draw("a photo of a dog").infotext)
        page.until(f"return document.querySelector('{PROMPT}').value === 'a photo of a dog'")
        assert "APL" not in generate(page, "Steps: 2")
        page.click(f"{BOX} .label-wrap")
        page.until(TICKED)
        page.until(
            "return document.querySelector('#script_txt2img_apl_fit').innerText.includes('Fits')"
        )
        assert "APL hash: " in generate(page, "APL prefix: bracket")
        paste(page, drawn.infotext)
        page.until(f"{CHOSEN} === 'front'")
        said = generate(page, "APL prefix: front")
        assert "APL steps: 0-0.5" in said
        if folder := os.environ.get("APL_SCREENSHOTS"):
            page.run(f"document.querySelector('{BOX}').scrollIntoView({{block: 'center'}})")
            page.shot(Path(folder) / "forge-accordion.png")
        paste(page, drawn.infotext.replace("APL prefix: front", "APL prefix: wrong_family"))
        page.until(f"{CHOSEN} === 'front'")  # the hash wins over a name
        hash_of = {one["name"]: one.get("hash", "") for one in forge.get("/apl/prefixes")}
        said = drawn.infotext.replace("APL prefix: front", "APL prefix: wrong_family")
        paste(page, said.replace(hash_of["front"], "0000000000"))
        page.until(f"{CHOSEN} === 'wrong_family'")
        assert "clip_h 1024" in generate(page, "SD 2.x")
        pictures = "return document.querySelectorAll('#txt2img_gallery img').length"
        assert page.run(pictures) == 0
