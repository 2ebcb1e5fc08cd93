"""A1111, real, in a real browser: tick, generate, PNG info, paste, cards, grid, an error.

With APL_SCREENSHOTS=FOLDER the pictures of the documentation are taken on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import a1111_host
import browser
import pytest
from a1111_host import Webui
from browser import Browser

HOST = a1111_host.installed()
if HOST is None or browser.driver() is None:
    pytest.skip("no A1111 or no chromedriver", allow_module_level=True)
if any(part.startswith(".") for part in HOST.resolve().parts):
    pytest.skip("A1111 does not serve its page from a hidden folder", allow_module_level=True)

BOX = "#script_txt2img_apl_enabled"
PROMPT = "#txt2img_prompt textarea"
INFO = (
    "return ['info', 'log'].map(one => document.querySelector(`#html_${one}_txt2img`).innerText)"
    ".join(' ')"
)
CHOSEN = "return document.querySelector('#script_txt2img_apl_prefix input').value"
TICKED = f"return document.querySelector('{BOX}-visible-checkbox').checked"


@pytest.fixture(scope="module")
def page(a1111: Webui) -> Iterator[Browser]:
    """The loaded page, set to the smallest picture."""
    a1111.get("/probe/wrapped")
    with Browser() as window:
        window.open(f"{a1111.url}/?__theme=light")
        window.until(f"return document.querySelector('{BOX}-visible-checkbox') !== null")
        for field, value in (("width", 64), ("height", 64), ("steps", 2)):
            window.type(f"#txt2img_{field} input[type=number]", str(value))
        window.type("#txt2img_seed input", "1")
        yield window


def shot(page: Browser, name: str, selector: str = BOX) -> None:
    """Save a picture for the documentation if one is wanted."""
    if folder := os.environ.get("APL_SCREENSHOTS"):
        page.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        page.until("return document.fonts.ready.then(() => true)")
        page.shot(Path(folder) / f"{name}.png")


def choose(page: Browser, name: str) -> None:
    """Pick a prefix from the list as a mouse would."""
    field = "#script_txt2img_apl_prefix"
    page.run(f"document.querySelector('{field} input').focus()")
    page.until(f"return document.querySelector('{field} ul.options li') !== null")
    page.run(
        f"[...document.querySelectorAll('{field} ul.options li')]"
        ".find(one => one.innerText.includes(arguments[0]))"
        ".dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))",
        name,
    )
    page.until(f"{CHOSEN} === arguments[0]", name)


def generate(page: Browser, prompt: str, expected: str) -> str:
    """The line of generation parameters (or the error) under the picture."""
    page.type(PROMPT, prompt)
    page.click("#txt2img_generate")
    page.until(f"{INFO}.includes(arguments[0])", expected)
    return page.run(INFO)


def test_tick_choose_and_generate(page: Browser) -> None:
    assert page.run(TICKED) is False
    assert "APL" not in generate(page, "a photo of a dog", "a photo of a dog")
    page.click(f"{BOX} .label-wrap")
    page.until(TICKED)
    choose(page, "front")
    page.until(
        "return document.querySelector('#script_txt2img_apl_fit').innerText.includes('Fits')"
    )
    said = generate(page, "a photo of a man", "a photo of a man")
    assert "APL prefix: front" in said and "APL hash: " in said
    shot(page, "a1111-accordion")


def test_png_info_and_paste_bring_it_back(page: Browser, a1111: Webui) -> None:
    drawn = a1111.draw("a photo of a man", True, "bracket", 0.0, 0.5)
    page.open(f"{a1111.url}/?__theme=light")
    page.until(f"return document.querySelector('{BOX}-visible-checkbox') !== null")
    assert page.run(TICKED) is False
    page.type(PROMPT, drawn.infotext)
    page.click("#paste")
    page.until(TICKED)
    page.until(f"{CHOSEN} === 'bracket'")
    end = "return document.querySelector('#script_txt2img_apl_end input[type=number]').value"
    page.until(f"{end} === '0.5'")
    page.type("#txt2img_seed input", "1")
    said = generate(page, "a photo of a man", "APL prefix: bracket")
    assert "APL steps: 0-0.5" in said
    shot(page, "a1111-pasted")


def test_an_error_is_seen_and_there_is_no_picture(page: Browser) -> None:
    choose(page, "wrong_family")
    said = generate(page, "a photo of somebody", "SD 2.x")
    assert "Refused" in said and "clip_h 1024" in said
    pictures = "return document.querySelectorAll('#txt2img_gallery img').length"
    assert page.run(pictures) == 0
    shot(page, "a1111-error")


def test_cards_put_the_tag_into_the_prompt(page: Browser) -> None:
    page.type(PROMPT, "a photo of a man")
    page.run(
        "[...document.querySelectorAll('#txt2img_extra_tabs > .tab-nav button')]"
        ".find(one => one.innerText.trim() === 'APL').click()"
    )
    page.until("return document.querySelectorAll('#txt2img_apl_cards .card').length === 5")
    page.run(
        "[...document.querySelectorAll('#txt2img_apl_cards .card')]"
        ".find(one => one.dataset.name === 'front').click()"
    )
    page.until(f"return document.querySelector('{PROMPT}').value.includes('<apl:front>')")
    shot(page, "a1111-cards", "#txt2img_apl_cards")


def test_the_settings_have_a_page(page: Browser) -> None:
    page.run(
        "[...document.querySelectorAll('#tabs > .tab-nav button')]"
        ".find(one => one.innerText.trim() === 'Settings').click()"
    )
    page.until("return document.querySelector('#setting_apl_on_by_default input') !== null")
    page.run(
        "[...document.querySelectorAll('#settings > .tab-nav button')]"
        ".find(one => one.innerText.trim() === 'APL Prefix').click()"
    )
    page.until("return document.querySelector('#setting_apl_default_prefix').offsetParent !== null")
    shot(page, "a1111-settings", "#setting_apl_folders")
