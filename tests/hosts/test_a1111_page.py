"""A1111, real, in a real browser: tick, generate, PNG info, paste, cards, grid, an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import webui_hosts
from a1111_host import Webui
from browser import Browser
from conftest import furnished
from webui_page import (
    BOX,
    CHOSEN,
    FITS,
    PICTURES,
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

require_browser("a1111")


@pytest.fixture(scope="module")
def page(a1111: Webui) -> Iterator[Browser]:
    """The loaded page, set to the smallest picture."""
    a1111.get("/probe/wrapped")
    with Browser() as window:
        opened(window, a1111)
        for field, value in (("width", 64), ("height", 64), ("steps", 2)):
            window.type(f"#txt2img_{field} input[type=number]", str(value))
        window.type("#txt2img_seed input", "1")
        yield window


def test_tick_choose_and_generate(page: Browser, a1111: Webui) -> None:
    assert "APL" not in generate(page, "a photo of a dog", "a photo of a dog")
    page.click(f"{BOX} .label-wrap")
    page.until(TICKED)
    choose(page, "front")
    page.until(FITS)
    said = generate(page, "a photo of a man", "a photo of a man")
    assert "APL prefix: front" in said and "APL hash: " in said
    shot(page, a1111, "accordion")


def test_a_grid_over_off_and_on(page: Browser, a1111: Webui) -> None:
    draw_a_grid(page, a1111)


def test_png_info_and_paste_bring_it_back(page: Browser, a1111: Webui) -> None:
    drawn = a1111.draw("a photo of a man", True, "bracket", 0.0, 0.5)
    opened(page, a1111)
    paste(page, drawn.infotext)
    page.until(TICKED)
    page.until(f"{CHOSEN} === 'bracket'")
    end = "return document.querySelector('#script_txt2img_apl_end input[type=number]').value"
    page.until(f"{end} === '0.5'")
    page.type("#txt2img_seed input", "1")
    said = generate(page, "APL prefix: bracket", "a photo of a man")
    assert "APL steps: 0-0.5" in said
    shot(page, a1111, "pasted")


def test_pasting_a_plain_picture_does_not_untick(page: Browser, a1111: Webui) -> None:
    plain = a1111.draw("a photo of a dog")
    end = "return document.querySelector('#script_txt2img_apl_end input[type=number]').value"
    for ticked in (True, False):
        paste(page, plain.infotext.replace("Steps: 2", f"Steps: {2 + ticked}"))
        steps = "return document.querySelector('#txt2img_steps input[type=number]').value"
        page.until(f"{steps} === '{2 + ticked}'")
        assert page.run(TICKED) is ticked
        assert page.run(CHOSEN) == "bracket" and page.run(end) == "0.5"
        if ticked:
            page.click(f"{BOX}-visible-checkbox")
            page.until(f"return !({TICKED.removeprefix('return ')})")
    page.click(f"{BOX}-visible-checkbox")
    page.until(TICKED)


def test_the_line_tells_the_room_and_the_part_of_the_steps(page: Browser, a1111: Webui) -> None:
    line = "return document.querySelector('#script_txt2img_apl_fit').innerText"
    choose(page, "front")
    page.until(f"{line}.includes('room for 65 tokens')")
    said = page.run(line)
    assert "Only from 0% to 50% of the steps" in said and "clip_" not in said
    choose(page, "other")
    page.until(f"{line}.includes('room for 71 tokens')")
    assert "Only from 0% to 50% of the steps" in page.run(line)
    page.type("#script_txt2img_apl_end input[type=number]", "1")
    page.until(f"return !({line.removeprefix('return ')}.includes('Only from'))")


def test_an_error_is_seen_and_there_is_no_picture(page: Browser, a1111: Webui) -> None:
    choose(page, "wrong_family")
    said = generate(page, "SD 2.x", "a photo of somebody")
    assert "Refused: anonymize with the prefix" in said and "clip_" not in said
    assert page.run(PICTURES) == 0
    shot(page, a1111, "error")


def test_cards_put_the_tag_into_the_prompt(page: Browser, a1111: Webui) -> None:
    take_a_card(page, a1111, cards=5)


def test_the_console_has_only_the_webuis_own_errors(page: Browser) -> None:
    """These come without the extension, too (the two `props` with the first picture)."""
    own = ("iframeResizer", "webui-assets", "reading 'props'")
    assert [one for one in page.errors() if not any(known in one for known in own)] == []


def test_the_settings_have_a_page(page: Browser, a1111: Webui) -> None:
    open_the_settings(page, a1111)


def test_a_locked_box_stays_ticked(tmp_path: Path) -> None:
    data = furnished(tmp_path / "locked")
    box = f"document.querySelector('{BOX} input[type=checkbox]')"
    with webui_hosts.new("a1111", data, ("--apl-enforce", "front")) as webui, Browser() as window:
        window.open(f"{webui.url}/?__theme=light")
        window.until(f"return {box} !== null")
        assert window.run(f"return {box}.disabled && {box}.checked")
        window.run(f"{box}.click()")
        assert window.run(f"return {box}.checked")
        paste(window, webui.draw("a photo of a man").infotext.replace("front", "bracket"))
        window.until("return document.querySelector('#txt2img_seed input').value === '1'")
        assert window.run(CHOSEN) == "front" and window.run(f"return {box}.checked")
        shot(window, webui, "locked", BOX)
