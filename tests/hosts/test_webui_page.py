"""The webuis in a browser: tick, generate, paste, grid, cards, settings, an error."""

from __future__ import annotations

import time

import pytest
import webui_hosts
from a1111_host import Webui
from browser import Browser
from webui_page import (
    BOX,
    CHOSEN,
    FITS,
    LINE,
    PICTURES,
    PROMPT,
    TICKED,
    choose,
    draw_a_grid,
    generate,
    open_the_settings,
    opened,
    paste,
    require_browser,
    shot,
    take_a_card,
)


def test_tick_generate_paste_and_an_error(newer: Webui) -> None:
    require_browser(newer.name.lower())
    drawn = newer.draw("a photo of a man", True, "front", 0.0, 0.5)
    with Browser(1400, 1400) as page:
        opened(page, newer)
        paste(page, newer.draw("a photo of a dog").infotext)
        page.until(f"return document.querySelector('{PROMPT}').value === 'a photo of a dog'")
        assert "APL" not in generate(page, "Steps: 2")
        page.click(f"{BOX} .label-wrap")
        page.until(TICKED)
        choose(page, "bracket")
        page.until(FITS)
        assert "APL hash: " in generate(page, "APL prefix: bracket")
        paste(page, drawn.infotext)
        page.until(f"{CHOSEN} === 'front'")
        said = generate(page, "APL prefix: front")
        assert "APL steps: 0-0.5" in said
        shot(page, newer, "accordion")
        paste(page, drawn.infotext.replace("APL prefix: front", "APL prefix: wrong_family"))
        page.until(f"{CHOSEN} === 'front'")  # the hash wins over a name
        hash_of = {one["name"]: one.get("hash", "") for one in newer.get("/apl/prefixes")}
        said = drawn.infotext.replace("APL prefix: front", "APL prefix: wrong_family")
        paste(page, said.replace(hash_of["front"], "0000000000"))
        page.until(f"{CHOSEN} === 'wrong_family'")
        assert "clip_" not in generate(page, "SD 2.x")
        assert page.run(PICTURES) == 0


def test_a_page_at_rest_asks_for_nothing(newer: Webui) -> None:
    """In gradio 4 HTML says that it has changed whenever a page has: writing then never ends."""
    require_browser(newer.name.lower())
    with Browser(1400, 1400) as page:
        opened(page, newer)
        page.click(f"{BOX} .label-wrap")
        page.until(TICKED)
        choose(page, "bracket")
        page.until(FITS)
        page.run("performance.setResourceTimingBufferSize(5000)")
        time.sleep(5)  # what the page asks when it opens
        page.run("performance.clearResourceTimings()")
        time.sleep(5)
        asked = page.run(
            "return performance.getEntriesByType('resource').map(one => one.name)"
            ".filter(one => /predict|queue\\/(join|data)/.test(one))"
        )
    assert not asked


def test_cards_grid_and_settings(newer: Webui) -> None:
    require_browser(newer.name.lower())
    with Browser(1400, 1400) as page:
        opened(page, newer)
        paste(page, newer.draw("a photo of a dog").infotext)  # the smallest picture
        page.until(f"return document.querySelector('{PROMPT}').value === 'a photo of a dog'")
        draw_a_grid(page, newer)
        take_a_card(page, newer, cards=5)
        open_the_settings(page, newer)


@pytest.mark.parametrize("name", webui_hosts.INSTALLED)
def test_the_first_minute_leads_to_the_trainer(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    require_browser(name)
    with (
        webui_hosts.new(name, tmp_path_factory.mktemp("empty")) as empty,
        Browser(1400, 1400) as page,
    ):
        opened(page, empty)
        page.click(f"{BOX} .label-wrap")
        page.until(TICKED)
        page.until(f"return document.querySelector('{LINE}').innerText.includes('no prefix yet')")
        shot(page, empty, "first-minute")
        generate(page, "there is no prefix yet", "a photo of a man")
        assert page.run(PICTURES) == 0
        page.click(f"{LINE} button")
        page.until("return document.querySelector('#tab_apl_trainer').offsetParent !== null")
