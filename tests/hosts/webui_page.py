"""The txt2img page of a webui in a real browser, as a hand would use it; A1111 and Forge alike.

With APL_SCREENSHOTS=FOLDER the pictures of the documentation are taken on the way.
"""

from __future__ import annotations

import os
from pathlib import Path

import browser
import pytest
import webui_hosts
from a1111_host import Webui
from browser import Browser

BOX = "#script_txt2img_apl_enabled"
PREFIX = "#script_txt2img_apl_prefix"
PROMPT, WIDTH = "#txt2img_prompt textarea", "#txt2img_width input[type=number]"
INFO = (
    "return ['info', 'log'].map(one => document.querySelector(`#html_${one}_txt2img`).innerText)"
    ".join(' ')"
)
CHOSEN = f"return document.querySelector('{PREFIX} input').value"
TICKED = f"return document.querySelector('{BOX}-visible-checkbox').checked"
LINE = "#script_txt2img_apl_fit"
FITS = f"return document.querySelector('{LINE}').innerText.includes('Fits')"
GALLERY = "document.querySelectorAll('#txt2img_gallery img')"
PICTURES = f"return {GALLERY}.length"
SCRIPT = "#txt2img_script_container #script_list"
AXIS = "#script_txt2img_xyz_plot_x_type"


def require_browser(name: str) -> None:
    """Skip the module or the test where no browser can look at the page of this webui."""
    if browser.driver() is None:
        pytest.skip("no chromedriver", allow_module_level=True)
    if any(part.startswith(".") for part in webui_hosts.INSTALLED[name].parts):
        pytest.skip(f"{name} serves no page from a hidden folder", allow_module_level=True)


def load(page: Browser, webui: Webui) -> None:
    """Load the page of a webui."""
    for _ in range(2):  # Neo's page loads itself anew two seconds after a session first saw it
        page.open(f"{webui.url}/?__theme=light")
        page.run("sessionStorage.setItem('physton_icon_refreshed', '1')")


def opened(page: Browser, webui: Webui) -> None:
    """Load the page, and wait until our box is there; nothing is ticked."""
    load(page, webui)
    page.until(f"return document.querySelector('{BOX}-visible-checkbox') !== null")
    assert page.run(TICKED) is False


def shot(page: Browser, webui: Webui, name: str, selector: str = BOX) -> None:
    """Save a picture for the documentation if one is wanted."""
    if folder := os.environ.get("APL_SCREENSHOTS"):
        page.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        page.until("return document.fonts.ready.then(() => true)")
        page.shot(Path(folder) / f"{webui.name.lower()}-{name}.png")


def choose(page: Browser, name: str, field: str = PREFIX) -> None:
    """Pick an entry of a list as a mouse would."""
    page.until(  # a field that is still hidden takes no focus, and lists come late: ask again
        f"const found = [...document.querySelectorAll('{field} ul.options li')]"
        ".find(one => one.innerText.includes(arguments[0]));"
        "if (found) { found.dispatchEvent(new MouseEvent('mousedown', {bubbles: true}));"
        " return true }"
        f"const box = document.querySelector('{field} input'); box?.blur(); box?.focus();"
        "return false",
        name,
    )
    page.until(f"return document.querySelector('{field} input').value === arguments[0]", name)


def generate(page: Browser, expected: str, prompt: str | None = None) -> str:
    """The line of generation parameters (or the error) under the picture."""
    if prompt is not None:
        page.type(PROMPT, prompt)
    page.click("#txt2img_generate")
    page.until(f"{INFO}.includes(arguments[0])", expected)
    return page.run(INFO)


def paste(page: Browser, infotext: str) -> None:
    """Type generation parameters as the prompt and press the arrow; in Neo they stay there."""
    page.type(WIDTH, "128")  # or a second one would seem to be done before it has begun
    page.type(PROMPT, infotext)
    page.click("#paste")
    page.until(f"return document.querySelector('{WIDTH}').value === '64'")
    page.type(PROMPT, infotext.partition("\n")[0])


def tab(page: Browser, bar: str, name: str) -> None:
    """Click the tab of this name."""
    page.until(
        f"const found = [...document.querySelectorAll('{bar} > .tab-nav button')]"
        ".find(one => one.innerText.trim() === arguments[0]);"
        "found?.click(); return found !== undefined",
        name,
    )


def take_a_card(page: Browser, webui: Webui, cards: int) -> None:
    """The cards beside Lora's put their tag into the prompt."""
    page.type(PROMPT, "a photo of a man")
    tab(page, "#txt2img_extra_tabs", "APL")
    page.until(
        "return document.querySelectorAll('#txt2img_apl_cards .card').length === arguments[0]",
        cards,
    )
    page.run(
        "[...document.querySelectorAll('#txt2img_apl_cards .card')]"
        ".find(one => one.dataset.name === 'front').click()"
    )
    page.until(f"return document.querySelector('{PROMPT}').value.includes('<apl:front>')")
    shot(page, webui, "cards", "#txt2img_apl_cards")
    tab(page, "#txt2img_extra_tabs", "Generation")


def draw_a_grid(page: Browser, webui: Webui) -> None:
    """A grid over off and on, its axis and values chosen by mouse."""
    choose(page, "X/Y/Z plot", SCRIPT)
    choose(page, "[APL] Anonymize", AXIS)
    fill = "document.querySelector('#txt2img_script_container #xyz_grid_fill_x_tool_button')"
    page.until(f"return {fill} !== null && {fill}.offsetParent !== null")
    page.run(f"{fill}.click()")
    page.until(
        "const chosen = [...document.querySelectorAll('#txt2img_script_container .token')]"
        ".map(one => one.innerText.trim()); return chosen.includes('off') && chosen.includes('on')"
    )
    page.type(PROMPT, "a photo of a man")
    page.click("#txt2img_generate")
    page.until(
        f"return [...{GALLERY}].some(one => one.naturalWidth >= 128)"
    )  # two beside each other
    shot(page, webui, "grid", "#txt2img_gallery")
    choose(page, "None", SCRIPT)


def open_the_settings(page: Browser, webui: Webui) -> None:
    """Our page among the settings."""
    tab(page, "#tabs", "Settings")
    page.until("return document.querySelector('#setting_apl_on_by_default input') !== null")
    tab(page, "#settings", "APL Prefix")
    page.until("return document.querySelector('#setting_apl_default_prefix').offsetParent !== null")
    shot(page, webui, "settings", "#setting_apl_folders")
