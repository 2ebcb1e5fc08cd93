"""A1111, real: a prefix that the operator has switched on for everybody.

Every request goes to a webui that enforces and to one without this project. What comes back from
the first is covered or refused, and never the picture of the second.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webui_hosts
from a1111_host import Refused, Webui
from a1111_kinds import HIRES, picture
from conftest import LOGIN, fill
from lora_file import write_lora

PROMPT, NAME = "a photo of a man", "a photo of Ada Example"
NEAR = 0.1
"""Mean distance of pixels, of 255, under which two pictures are one: a tenth of what the prefix
changes in the plain picture of this random model. The same request twice is 0 apart."""


def data_of(factory: pytest.TempPathFactory, name: str) -> Path:
    data = factory.mktemp(name)
    write_lora(data / "models" / "Lora" / "random_lora.safetensors")
    (data / "styles.csv").write_text(f"name,prompt,negative_prompt\nnamed,{NAME},{NAME}\n")
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's prefixes; `locked` is a bracket."""
    folder = tmp_path_factory.mktemp("operator") / "prefixes"
    fill(folder)
    shutil.copy(folder / "bracket.safetensors", folder / "locked.safetensors")
    return folder


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Webui]:
    """A webui started with --apl-enforce, whose settings ask for the old emphasis."""
    data = data_of(tmp_path_factory, "operated")
    settings = {"use_old_emphasis_implementation": True, "disabled_extensions": ["gone"]}
    (data / "config.json").write_text(json.dumps(settings))
    arguments = ("--api-auth", LOGIN, "--apl-enforce", "locked", "--apl-dir", str(folder))
    with webui_hosts.new("a1111", data, arguments, login=LOGIN) as webui:
        yield webui


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """The same webui without this project."""
    data = data_of(tmp_path_factory, "bare")
    with webui_hosts.new("a1111", data, ("--nowebui",), clones=()) as webui:
        yield webui


def script(name: str, *args: object) -> dict[str, Any]:
    return {"script_name": name, "script_args": list(args)}


def grid(axis: int, values: str) -> dict[str, Any]:
    more = [False, True, False, False, False, False, False, 0, True]
    return script("x/y/z plot", axis, values, [], 0, "", [], 0, "", [], *more)


TURNED = {"init_images": [picture()], "denoising_strength": 0.7}
ALTERNATIVE = script(
    "img2img alternative test", "", True, True, NAME, "", True, 2, True, 1.5, 0.0, False
)
FROM_FILE = script("prompts from file or textbox", False, False, "start", f"{NAME}\n--prompt x")
MATRIX = script("prompt matrix", False, False, "positive", "comma", 0)
REQUESTS: dict[str, dict[str, Any]] = {
    "the name": {"prompt": NAME},
    "weight -1": {"prompt": " :-1", "negative_prompt": NAME},
    "weight 0": {"prompt": "x :0", "negative_prompt": NAME},
    "weights that cancel": {"prompt": "x :1 AND x :-1", "negative_prompt": NAME},
    "guidance 0": {"prompt": "", "negative_prompt": NAME, "cfg_scale": 0},
    "guidance -7": {"prompt": "", "negative_prompt": NAME, "cfg_scale": -7},
    "guidance 1": {"prompt": NAME, "cfg_scale": 1},
    "a style's negative": {"prompt": " :-1", "styles": ["named"]},
    "a schedule of the negative": {"prompt": " :-1", "negative_prompt": f"[x:{NAME}:0.5]"},
    "a long negative": {"prompt": " :-1", "negative_prompt": f"{NAME}, " * 40},
    "emphasis": {"prompt": " :-1", "negative_prompt": f"({NAME}:1.4)"},
    "BREAK": {"prompt": " :-1", "negative_prompt": f"x BREAK {NAME}"},
    "no emphasis": {"prompt": NAME, "override_settings": {"emphasis": "None"}},
    "a LoRA alone": {"prompt": "<lora:random_lora:1>"},
    "no-break spaces": {"prompt": "\u00a0\u00a0<lora:random_lora:1>"},
    "nothing": {"prompt": ""},
    "hires, its negative": {
        **HIRES,
        "prompt": "x",
        "hr_prompt": " :-1",
        "hr_negative_prompt": NAME,
    },
    "refiner": {
        "prompt": " :-1",
        "negative_prompt": NAME,
        "steps": 4,
        "refiner_checkpoint": "second",
        "refiner_switch_at": 0.5,
    },
    "img2img": {"prompt": " :-1", "negative_prompt": NAME, **TURNED},
    "img2img alternative": {"prompt": NAME, **TURNED, **ALTERNATIVE},
    "prompts from a file": {"prompt": "", **FROM_FILE},
    "a grid": {"prompt": " :-1", "negative_prompt": NAME, **grid(6, "0, -7")},
    "a prompt matrix": {"prompt": f"x|{NAME}", **MATRIX},
    "another checkpoint": {"prompt": NAME, "override_settings": {"sd_model_checkpoint": "second"}},
    "the token's end": {"prompt": f"x <|endoftext|> {NAME}"},
    "the negative's end": {"prompt": " :-1", "negative_prompt": f"x <|endoftext|> {NAME}"},
    "padding": {"prompt": f"{NAME} x " * 30, "override_settings": {"pad_cond_uncond": True}},
}
REFUSED = {"the token's end", "the negative's end"}


@pytest.mark.parametrize("name", REQUESTS)
def test_no_request_gives_the_bare_picture(operated: Webui, bare: Webui, name: str) -> None:
    request = {"seed": 5, **REQUESTS[name]}
    prompt = request.pop("prompt")
    plain = bare.draw(prompt, **request)
    mark = f"APL: locked {operated.get('/apl/status')['hash']}"
    if name in REFUSED:
        with pytest.raises(Refused, match="end-of-text") as caught:
            operated.draw(prompt, **request)
        assert caught.value.status == 422
        return
    drawn = operated.draw(prompt, **request)
    assert len(drawn.images) == len(plain.images)
    assert all(mark in text for text in drawn.info["infotexts"])
    assert "APL" not in plain.infotext
    print(name, round(drawn.distance(plain), 2))
    assert drawn.distance(plain) > NEAR
    assert "init_images" in request or bare.draw(prompt, **request).pixels == plain.pixels


SETTINGS: dict[str, Any] = {
    "disabled_extensions": ["apl-prefix"],
    "disable_all_extensions": "all",
    "restore_config_state_file": "/tmp/state.json",
    "use_old_emphasis_implementation": True,
    "apl_on_by_default": True,
    "apl_default_prefix": "other",
    "apl_folders": "/",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_request_changes_what_keeps_it_on(operated: Webui, setting: str) -> None:
    want, settings = operated.draw(PROMPT).pixels, operated.get("/sdapi/v1/options")
    changed = {setting: SETTINGS[setting]}
    for restore in (True, False):
        more = {"override_settings": changed, "override_settings_restore_afterwards": restore}
        if setting == "apl_folders":  # a setting that no API may change is passed over
            assert operated.draw(PROMPT, **more).pixels == want
            continue
        with pytest.raises(Refused, match="it is locked") as caught:
            operated.draw(PROMPT, **more)
        assert caught.value.status == 422
    try:
        operated.post("/sdapi/v1/options", changed)
    except Refused as refused:
        assert refused.status == 422 and "it is locked" in refused.sentence
    assert operated.draw(PROMPT).pixels == want
    after = operated.get("/sdapi/v1/options")
    assert {key: after[key] for key in SETTINGS} == {key: settings[key] for key in SETTINGS}


def test_a_clip_skip_that_leaves_no_layer_is_refused(operated: Webui, bare: Webui) -> None:
    deepest, beyond = ({"CLIP_stop_at_last_layers": layers} for layers in (12, 13))
    operated.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 1})  # what is not saved sticks
    bare.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 1})
    drawn = operated.draw(NAME, override_settings=deepest)
    assert drawn.distance(bare.draw(NAME, override_settings=deepest)) > NEAR
    want = operated.draw(NAME)
    for more in ({"override_settings_restore_afterwards": False}, {}):
        with pytest.raises(Refused, match="no layer of the text encoder") as caught:
            operated.draw(NAME, override_settings=beyond, **more)
        assert caught.value.status == 422
        assert operated.draw(NAME).pixels == want.pixels


def test_the_page_and_the_status_say_so(operated: Webui) -> None:
    status = operated.get("/apl/status")
    assert status["enforced"] == "locked" and status["usable"]
    mine = next(one for one in operated.get("/sdapi/v1/script-info") if one["name"] == "apl")
    assert mine["args"][0]["label"] == "Anonymize faces (locked on by the operator: locked)"
    settings = operated.get("/sdapi/v1/options")
    assert settings["use_old_emphasis_implementation"] is False
    assert settings["disabled_extensions"] == ["gone"]
    assert "APL Trainer" not in json.dumps(operated.get("/config"))  # where extensions are closed


def test_our_routes_ask_for_the_login_of_the_api(operated: Webui) -> None:
    stranger = dataclasses.replace(operated, login="operator:guess")
    for path in ("/apl/status", "/apl/prefixes"):
        with pytest.raises(Refused) as caught:
            stranger.get(path)
        assert caught.value.status == 401


def test_other_extensions_that_encode_by_themselves_are_covered(
    operated: Webui, bare: Webui
) -> None:
    for trouble, more in (("conditioning", {}), ("second pass", HIRES)):
        drawn = []
        for webui in (operated, bare):
            webui.probe(trouble=trouble)
            drawn.append(webui.draw(f"{NAME} {trouble}", **more))
            webui.probe()
        assert drawn[0].distance(drawn[1]) > NEAR
        assert "APL: locked" in drawn[0].infotext


def test_who_swallows_the_refusal_has_nothing_to_draw_with(operated: Webui, bare: Webui) -> None:
    want = bare.draw(f"{NAME} swallowed")
    operated.probe(trouble="swallowing")
    drawn = operated.draw(f"{NAME} swallowed")
    other = operated.draw(PROMPT, seed=1)
    operated.probe()
    assert drawn.distance(want) > NEAR
    assert drawn.pixels == other.pixels  # no text drew it
    assert "APL" not in drawn.infotext


def test_reload_ui_keeps_it_also_without_the_extension(operated: Webui, bare: Webui) -> None:
    want, plain = operated.draw(NAME), bare.draw(NAME)
    since = operated.get("/apl/status")["since"]
    for names, scripts in ((["gone"], True), (["apl-prefix"], False), (["gone"], True)):
        operated.post("/probe/disabled", names)
        operated.reload()
        found = {one["name"] for one in operated.get("/sdapi/v1/script-info")}
        assert ("apl" in found) == scripts
        status = operated.get("/apl/status")
        assert status["enforced"] == "locked" and status["since"] == since
        fresh = operated.draw(f"{NAME} {len(found)}")
        assert f"APL: locked {status['hash']}" in fresh.infotext
        drawn = operated.draw(NAME)
        assert drawn.pixels == want.pixels and drawn.distance(plain) > NEAR
        operated.probe(trouble="encoder")
        with pytest.raises(Refused, match="another extension"):
            operated.draw(f"{NAME} after {len(found)}")
        operated.probe()
        with pytest.raises(Refused, match="it is locked"):
            operated.draw(PROMPT, override_settings={"disabled_extensions": ["x"]})


def test_a_checkpoint_of_another_family_stops_nobody_else(operated: Webui) -> None:
    """Whoever chooses it is refused; the next request has the checkpoint before it."""
    want, second = operated.draw(PROMPT).pixels, {"sd_model_checkpoint": "second.safetensors"}
    operated.post("/probe/misfit", "second")
    try:
        for restore in (True, False):
            more = {"override_settings": second, "override_settings_restore_afterwards": restore}
            with pytest.raises(Refused, match=r"locked.* the loaded checkpoint is") as caught:
                operated.draw(PROMPT, **more)
            assert caught.value.status == 422
            assert operated.draw(PROMPT).pixels == want
        with pytest.raises(Refused, match="the loaded checkpoint is"):
            operated.draw(PROMPT, refiner_checkpoint="second", refiner_switch_at=0.5, steps=4)
        assert operated.draw(PROMPT).pixels == want
        with pytest.raises(Refused, match="the loaded checkpoint is"):
            operated.post("/sdapi/v1/options", second)
        assert operated.draw(PROMPT).pixels == want
        assert operated.get("/sdapi/v1/options")["sd_model_checkpoint"].startswith("first")
    finally:
        operated.post("/probe/misfit", "none of them")
    drawn = operated.draw(PROMPT, override_settings=second)
    assert "APL: locked" in drawn.infotext


def starts(data: Path, *arguments: str, **environment: str) -> str:
    """What a webui says that does not start; fails if it does."""
    with (
        pytest.raises(RuntimeError, match="did not start") as caught,
        webui_hosts.new("a1111", data, ("--nowebui", *arguments), env=environment),
    ):
        pass
    return str(caught.value)


def test_it_does_not_start_without_what_it_enforces(
    tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    off = tmp_path_factory.mktemp("off")
    (off / "config.json").write_text(json.dumps({"disabled_extensions": ["apl-prefix"]}))
    given = ("--apl-dir", str(folder))
    # the webui runs nothing of an extension that is off: its own parser turns the option down
    assert "unrecognized arguments: --apl-enforce" in starts(off, "--apl-enforce", "locked")
    said = starts(tmp_path_factory.mktemp("absent"), *given, APL_ENFORCE="absent")
    assert "'absent' is enforced and APL Prefix cannot start" in said and "there is none" in said


def test_a_family_that_does_not_fit_refuses_every_picture(
    tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    data, given = tmp_path_factory.mktemp("family"), ("--nowebui", "--apl-dir", str(folder))
    with webui_hosts.new("a1111", data, given, env={"APL_ENFORCE": "wrong_family"}) as webui:
        for args in ((), (False, "front"), (True, "front")):
            for prompt in (PROMPT, "", " :-1"):
                with pytest.raises(
                    Refused, match=r"it is for SD 2.x; the loaded checkpoint is SD 1.x"
                ) as caught:
                    webui.draw(prompt, *args)
                assert caught.value.status == 422
        assert webui.get("/apl/status")["enforced"] == "wrong_family"
