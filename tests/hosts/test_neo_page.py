"""Neo, real, in a browser: what its page has and other webuis' pages do not have."""

from __future__ import annotations

import json
from pathlib import Path

import forge_host
from browser import Browser
from conftest import furnished
from sdxl_host import add_prefixes, with_sdxl
from webui_page import (
    BOX,
    CHOSEN,
    FITS,
    LINE,
    PICTURES,
    TICKED,
    choose,
    generate,
    load,
    opened,
    require_browser,
)

require_browser("neo")

PRESET = "#forge_ui_preset"
CHECKPOINT = "return document.querySelector('#setting_sd_model_checkpoint input').value"
EXTRA = "#extra_options_txt2img #setting_apl_default_prefix"
SAID = f"document.querySelector('{LINE}').innerText"
SMALL = {"t2i_step": 2, "t2i_width": 64, "t2i_height": 64, "t2i_sampler": "Euler"}


def says(page: Browser, words: str) -> None:
    """Wait until the line under the prefix says this."""
    page.until(f"return {SAID}.includes(arguments[0])", words)


def test_presets_change_the_family_under_a_ticked_box_and_extra_options_the_default(
    tmp_path: Path,
) -> None:
    data = furnished(tmp_path / "data")
    add_prefixes(data / "models" / "apl")
    neo = with_sdxl("neo", data)
    assert isinstance(neo, forge_host.Neo)
    settings = {f"{preset}_{key}": value for preset in ("sd", "xl") for key, value in SMALL.items()}
    settings |= {
        "forge_checkpoint_sd": "first.safetensors",
        "forge_checkpoint_xl": "sdxl.safetensors",
    }
    settings |= {"extra_options_txt2img": ["apl_default_prefix"], **neo.settings()}
    (data / "config.json").write_text(json.dumps(settings))
    with neo, Browser(1400, 1400) as page:
        opened(page, neo)
        page.click(f"{BOX} .label-wrap")
        page.until(TICKED)
        choose(page, "front")
        says(page, "No checkpoint is loaded yet")  # Neo loads one with the first picture
        assert "Steps: 2" in generate(page, "APL prefix: front", "a photo of a man")
        says(page, "first: Fits")
        choose(page, "xl", PRESET)
        page.until(f"{CHECKPOINT}.includes('sdxl')")
        says(page, "sdxl is loaded with the next picture")
        generate(page, "it is for SD 1.x; the loaded checkpoint is SDXL")
        says(page, "this prefix is for SD 1.x; the loaded checkpoint is SDXL")
        assert page.run(PICTURES) == 0 and page.run(TICKED) and page.run(CHOSEN) == "front"
        choose(page, "xl bracket")
        page.until(FITS)
        generate(page, "APL prefix: xl bracket")
        choose(page, "sd", PRESET)
        page.until(f"{CHECKPOINT}.includes('first')")
        says(page, "first is loaded with the next picture")
        load(page, neo)
        page.click(f"{BOX} .label-wrap")
        choose(page, "xl bracket")
        says(page, "first is loaded with the next picture")
        generate(page, "it is for SDXL; the loaded checkpoint is SD 1.x", "a photo of a man")
        says(page, "this prefix is for SDXL; the loaded checkpoint is SD 1.x")
        assert page.run(PICTURES) == 0
        choose(page, "", f"{BOX} #script_txt2img_apl_prefix")
        generate(page, "no prefix is chosen, and there are several")
        choose(page, "other", EXTRA)
        generate(page, "APL prefix: other")
        assert page.run(PICTURES) > 0
