"""A1111, real: tag, infotext, grid, API, settings, Reload UI, neighbors."""

from __future__ import annotations

import pytest
from a1111_host import Answer, Refused, Webui

PROMPT = "a photo of a man"


def ticked(a1111: Webui, name: str = "front") -> str:
    """Pixels of the plain picture with a prefix."""
    return a1111.draw(PROMPT, True, name).pixels


def test_the_tag_is_the_checkbox(a1111: Webui) -> None:
    answer = a1111.draw(f"{PROMPT} <apl:front>")
    assert answer.pixels == ticked(a1111)
    assert "APL prefix: front" in answer.infotext
    stepped = a1111.draw(f"{PROMPT} <apl:front:0-0.5>")
    assert stepped.pixels == a1111.draw(PROMPT, True, "front", 0.0, 0.5).pixels
    assert a1111.draw(f"{PROMPT} <apl:other>", True, "front").pixels == ticked(a1111, "other")


def test_a_style_can_hold_the_tag(a1111: Webui) -> None:
    drawn = a1111.draw(PROMPT, styles=["anonymous"])  # a style is added behind a comma
    assert drawn.pixels == a1111.draw(f"{PROMPT}, ", True, "front").pixels


def test_infotext_says_what_was_applied_and_brings_it_back(a1111: Webui) -> None:
    plain = a1111.draw(PROMPT)
    assert "APL" not in plain.infotext
    for args in ((True, "front"), (True, "bracket", 0.0, 0.5)):
        drawn = a1111.draw(PROMPT, *args)
        assert again(a1111, drawn.infotext) == drawn.pixels
    assert "APL hash: " in drawn.infotext
    assert "APL steps: 0-0.5" in drawn.infotext
    assert again(a1111, plain.infotext) == plain.pixels


def test_a_renamed_prefix_is_found_by_its_hash(a1111: Webui) -> None:
    drawn = a1111.draw(PROMPT, True, "front")
    said = drawn.infotext.replace("APL prefix: front", "APL prefix: its old name")
    assert again(a1111, said) == drawn.pixels


def again(a1111: Webui, infotext: str) -> str:
    """Pixels of a request that is nothing but pasted parameters."""
    return a1111.answer("/sdapi/v1/txt2img", {"infotext": infotext}).pixels


def test_the_grid_has_our_axes(a1111: Webui) -> None:
    found = a1111.get("/sdapi/v1/script-info")
    script = next(one for one in found if one["name"] == "x/y/z plot" and not one["is_img2img"])
    labels = script["args"][0]["choices"]
    assert [one for one in labels if one.startswith("[APL]")] == [
        "[APL] Prefix",
        "[APL] Anonymize",
        "[APL] Steps",
    ]

    def grid(axis: str, values: str) -> list[str]:
        args = [labels.index(axis), values, [], 0, "", [], 0, "", []]
        args += [False, True, False, False, False, False, False, 0, True]
        body = {"prompt": PROMPT, "steps": 2, "width": 64, "height": 64, "seed": 1}
        body |= {"sampler_name": "Euler", "script_name": "x/y/z plot", "script_args": args}
        body["alwayson_scripts"] = {"apl": {"args": [True, "other"]}}
        cells = a1111.answer("/sdapi/v1/txt2img", body).images[-len(values.split(",")) :]
        return [Answer([cell], {}).pixels for cell in cells]

    off = a1111.draw(PROMPT).pixels
    assert grid("[APL] Anonymize", "off, on, off") == [off, ticked(a1111, "other"), off]
    assert grid("[APL] Prefix", "front, other") == [ticked(a1111), ticked(a1111, "other")]
    half = a1111.draw(PROMPT, True, "other", 0.0, 0.5).pixels
    assert grid("[APL] Steps", "0-1, 0-0.5") == [ticked(a1111, "other"), half]


def test_script_info_describes_the_arguments(a1111: Webui) -> None:
    mine = [one for one in a1111.get("/sdapi/v1/script-info") if one["name"] == "apl"]
    assert [one["is_img2img"] for one in mine] == [False, True]
    labels = [arg["label"] for arg in mine[0]["args"]]
    assert labels == [
        "Anonymize faces",
        "Prefix",
        "Anonymize from (share of the steps)",
        "Anonymize until (share of the steps)",
    ]
    assert mine[0]["args"][0]["value"] is False


def test_our_own_routes(a1111: Webui) -> None:
    found = {one["name"]: one for one in a1111.get("/apl/prefixes")}
    assert set(found) == {"front", "bracket", "other", "wrong_family", "broken"}
    front = found["front"]
    assert (front["usable"], front["vectors"], front["behind"]) == (True, 10, 0)
    assert front["family"] == "SD 1.x"
    assert not found["wrong_family"]["usable"] and "SD 2.x" in found["wrong_family"]["problem"]
    assert not found["broken"]["usable"]
    status = a1111.get("/apl/status")
    assert status["host"] == "A1111" and status["enforced"] is None
    assert status["checkpoint"] == "first" and status["encoders"] == {"clip_l": 768}


def test_our_settings_are_there_and_folders_are_not_for_the_api(a1111: Webui) -> None:
    options = a1111.get("/sdapi/v1/options")
    assert {"apl_default_prefix", "apl_on_by_default", "apl_folders"} <= set(options)
    a1111.post("/sdapi/v1/options", {"apl_folders": "/"})
    assert a1111.get("/sdapi/v1/options")["apl_folders"] == ""
    a1111.post("/sdapi/v1/options", {"apl_default_prefix": "other"})
    assert a1111.draw(PROMPT, True, "").pixels == ticked(a1111, "other")
    a1111.post("/sdapi/v1/options", {"apl_default_prefix": ""})


def test_neighbors_with_common_names_and_a_second_clone(a1111: Webui) -> None:
    assert a1111.get("/probe/owners") == ["apl-probe"] * 3
    assert a1111.log().count("is already held by") == 1
    assert "Two copies of APL Prefix" in a1111.log()
    assert a1111.get("/probe/wrapped") == 1


def test_reload_ui_hooks_anew_and_only_once(a1111: Webui) -> None:
    want = [a1111.draw(PROMPT).pixels, ticked(a1111)]
    a1111.reload()
    assert a1111.get("/probe/wrapped") == 1
    assert [a1111.draw(PROMPT).pixels, ticked(a1111)] == want
    with pytest.raises(Refused, match="there is none"):
        a1111.draw(PROMPT, True, "nothing like it")
