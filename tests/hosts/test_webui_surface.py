"""A1111, Forge and Neo, real: tag, infotext, grid, API, settings, Reload UI, neighbors."""

from __future__ import annotations

import pytest
from a1111_host import Answer, Refused, Webui

from apl_trainer.verify.a1111_matrix import grid_of

PROMPT = "a photo of a man"


def ticked(webui: Webui, name: str = "front") -> str:
    """Pixels of the plain picture with a prefix."""
    return webui.draw(PROMPT, True, name).pixels


def test_the_tag_is_the_checkbox(webui: Webui) -> None:
    answer = webui.draw(f"{PROMPT} <apl:front>")
    assert answer.pixels == ticked(webui)
    assert "APL prefix: front" in answer.infotext
    stepped = webui.draw(f"{PROMPT} <apl:front:0-0.5>")
    assert stepped.pixels == webui.draw(PROMPT, True, "front", 0.0, 0.5).pixels
    assert webui.draw(f"{PROMPT} <apl:other>", True, "front").pixels == ticked(webui, "other")


def test_a_style_can_hold_the_tag(webui: Webui) -> None:
    drawn = webui.draw(PROMPT, styles=["anonymous"])  # a style is added behind a comma
    assert drawn.pixels == webui.draw(f"{PROMPT}, ", True, "front").pixels


def test_infotext_says_what_was_applied_and_brings_it_back(webui: Webui) -> None:
    plain = webui.draw(PROMPT)
    assert "APL" not in plain.infotext
    for args in ((True, "front"), (True, "bracket", 0.0, 0.5)):
        drawn = webui.draw(PROMPT, *args)
        assert "TI: " not in drawn.infotext  # Forge would list the rows as an embedding
        assert webui.pasted(drawn.infotext).pixels == drawn.pixels
    assert "APL prefix: bracket" in drawn.infotext and "APL hash: " in drawn.infotext
    assert "APL steps: 0-0.5" in drawn.infotext
    assert webui.pasted(plain.infotext).pixels == plain.pixels


def test_a_renamed_prefix_is_found_by_its_hash(webui: Webui) -> None:
    drawn = webui.draw(PROMPT, True, "front")
    said = drawn.infotext.replace("APL prefix: front", "APL prefix: its old name")
    assert webui.pasted(said).pixels == drawn.pixels


def test_the_grid_has_our_axes(webui: Webui) -> None:
    found = webui.get("/sdapi/v1/script-info")
    script = next(one for one in found if one["name"] == "x/y/z plot" and not one["is_img2img"])
    labels = script["args"][0]["choices"]
    assert [one for one in labels if one.startswith("[APL]")] == [
        "[APL] Prefix",
        "[APL] Anonymize",
        "[APL] Steps",
    ]

    def check(axis: str, values: list[str], wanted: list[str]) -> None:
        """Each value's cell is the picture that it stands for.

        reForge's own grids draw every cell but the last in another way, whatever the axis and with
        the box unticked: there each value is the last one once.
        """
        if webui.name != "reForge":
            assert cells(axis, ", ".join(values)) == wanted
            return
        for place, picture in enumerate(wanted, 1):
            turned = [*values[place:], *values[:place]]
            assert cells(axis, ", ".join(turned))[-1] == picture

    def cells(axis: str, values: str) -> list[str]:
        asked = grid_of(script, axis, values, cells=True)
        body = {"prompt": PROMPT, "steps": 2, "width": 64, "height": 64, "seed": 1}
        body |= {"sampler_name": "Euler", **asked}
        body["alwayson_scripts"] = {"apl": {"args": [True, "other"]}}
        images = webui.answer("/sdapi/v1/txt2img", body).images[-len(values.split(",")) :]
        return [Answer([image], {}).pixels for image in images]

    off, other = webui.draw(PROMPT).pixels, ticked(webui, "other")
    check("[APL] Anonymize", ["off", "on", "off"], [off, other, off])
    check("[APL] Prefix", ["front", "other"], [ticked(webui), other])
    half = webui.draw(PROMPT, True, "other", 0.0, 0.5).pixels
    check("[APL] Steps", ["0-1", "0-0.5"], [other, half])


def test_script_info_describes_the_arguments(webui: Webui) -> None:
    mine = [one for one in webui.get("/sdapi/v1/script-info") if one["name"] == "apl"]
    assert [one["is_img2img"] for one in mine] == [False, True]
    labels = [arg["label"] for arg in mine[0]["args"]]
    assert labels == [
        "Anonymize faces",
        "Prefix",
        "Anonymize from (share of the steps)",
        "Anonymize until (share of the steps)",
    ]
    assert mine[0]["args"][0]["value"] is False


def test_our_own_routes(webui: Webui) -> None:
    found = {one["name"]: one for one in webui.get("/apl/prefixes")}
    assert set(found) == {"front", "bracket", "other", "wrong_family", "broken"}
    front = found["front"]
    assert (front["usable"], front["vectors"], front["behind"]) == (True, 10, 0)
    assert front["family"] == "SD 1.x"
    assert not found["wrong_family"]["usable"] and "SD 2.x" in found["wrong_family"]["problem"]
    assert not found["broken"]["usable"]
    status = webui.get("/apl/status")
    assert status["host"] == webui.name and status["enforced"] is None
    assert status["checkpoint"] == "first" and status["encoders"] == {"clip_l": 768}


def test_the_default_prefix_of_our_settings_is_used(webui: Webui) -> None:
    webui.post("/sdapi/v1/options", {"apl_default_prefix": "other", "apl_on_by_default": False})
    assert webui.draw(PROMPT, True, "").pixels == ticked(webui, "other")
    webui.post("/sdapi/v1/options", {"apl_default_prefix": ""})


def test_neighbors_with_common_names_and_a_second_clone(webui: Webui) -> None:
    assert webui.get("/probe/owners") == ["apl-probe"] * 3
    assert webui.log().count("is already held by") == 1
    assert "Two copies of APL Prefix" in webui.log()
    assert webui.get("/probe/wrapped") == 1


def test_reload_ui_hooks_anew_and_only_once(webui: Webui) -> None:
    want = [webui.draw(PROMPT).pixels, ticked(webui)]
    webui.reload()
    assert webui.get("/probe/wrapped") == 1
    assert [webui.draw(PROMPT).pixels, ticked(webui)] == want
    with pytest.raises(Refused, match="there is none"):
        webui.draw(PROMPT, True, "nothing like it")
