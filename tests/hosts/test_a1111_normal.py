"""A1111, real: what people write, choose and paste is done or refused, and never without a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import webui_hosts
from a1111_host import Answer, Refused, Webui
from a1111_kinds import HIRES
from conftest import furnished

PROMPT = "a photo of a man"
NAME = "a photo of Ada Example"


def ticked(a1111: Webui, prompt: str = PROMPT, **more: Any) -> str:
    """Pixels of the picture with the box ticked."""
    return a1111.draw(prompt, True, "front", **more).pixels


@pytest.mark.parametrize("tag", ["<APL:front>", "< apl:front>", "<apl : front >", "<apl\n:front>"])
def test_case_and_blanks_in_a_tag_do_not_matter(a1111: Webui, tag: str) -> None:
    assert a1111.draw(f"{PROMPT} {tag}").pixels == ticked(a1111)
    drawn = a1111.draw(PROMPT, negative_prompt=f"ugly {tag}")
    assert drawn.pixels == ticked(a1111, negative_prompt="ugly ")
    assert "APL prefix: front" in drawn.infotext and "<apl" not in drawn.infotext


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt"])
@pytest.mark.parametrize(
    "tag",
    [
        *("<apl>", "<apl:>", "<apl:front", "\uff1capl:front\uff1e", "&lt;apl:front&gt;"),
        *("\\<apl:front\\>", "<apl:front:nonsense>", "<apl:front:0.7>", "<apl front>"),
        *("<alp:front>", "<apl:fron>"),
    ],
)
def test_what_is_no_tag_quite_is_refused_wherever_it_stands(
    a1111: Webui, tag: str, field: str
) -> None:
    texts = {"prompt": PROMPT, "negative_prompt": "ugly", field: f"a cat {tag}"}
    with pytest.raises(Refused, match=r"apl:front|apl:NAME|mean .front") as caught:
        a1111.draw(texts.pop("prompt"), **texts, **(HIRES if field.startswith("hr_") else {}))
    assert caught.value.status == 422
    assert "Fix: " in caught.value.sentence and str(a1111.data) not in caught.value.sentence


def test_a_tag_in_a_hires_text_is_for_the_whole_picture(a1111: Webui) -> None:
    want = ticked(a1111, hr_prompt="a cat", **HIRES)
    assert a1111.draw(PROMPT, hr_prompt="a cat<apl:front>", **HIRES).pixels == want
    want = ticked(a1111, hr_negative_prompt="ugly", **HIRES)
    drawn = a1111.draw(PROMPT, hr_negative_prompt="ugly<APL:front>", **HIRES)
    assert drawn.pixels == want


def test_tags_of_styles_are_read_or_refused(a1111: Webui) -> None:
    assert a1111.draw(PROMPT, styles=["pushed away"]).pixels == ticked(a1111)
    with pytest.raises(Refused, match="not closed"):
        a1111.draw(PROMPT, styles=["unclosed"])


def script(a1111: Webui, name: str, args: list[Any], **more: Any) -> list[str]:
    """Pixels of each picture that a script of the webui makes."""
    body: dict[str, Any] = {"prompt": PROMPT, "steps": 2, "width": 64, "height": 64, "seed": 1}
    body |= {"sampler_name": "Euler", "script_name": name, "script_args": args, **more}
    pictures = a1111.answer("/sdapi/v1/txt2img", body).images
    return [Answer([one], {}).pixels for one in pictures]


def test_tags_in_prompts_from_a_file(a1111: Webui) -> None:
    lines = f"{PROMPT}\n{PROMPT} <APL:front>\n{PROMPT}"
    name = "prompts from file or textbox"
    args = [False, False, "start", lines]
    bare = a1111.draw(PROMPT).pixels
    assert script(a1111, name, args, prompt="") == [bare, ticked(a1111), bare]
    with pytest.raises(Refused, match="not closed"):
        script(a1111, name, [*args[:3], f"{PROMPT}\n{PROMPT} <apl:front"], prompt="")


def test_a_bad_value_of_a_grid_is_told_before_the_first_cell(a1111: Webui) -> None:
    found = a1111.get("/sdapi/v1/script-info")
    grid = next(one for one in found if one["name"] == "x/y/z plot" and not one["is_img2img"])
    labels = grid["args"][0]["choices"]
    for axis, values, said in (
        ("[APL] Prefix", "front, fron", "did you mean 'front'"),
        ("[APL] Prefix", "front, broken", "broken"),
        ("[APL] Anonymize", "off, perhaps", "neither on nor off"),
        ("[APL] Steps", "0-1, 0.5", "two numbers with a dash"),
    ):
        args = [labels.index(axis), values, [], 0, "", [], 0, "", []]
        args += [False, True, False, False, False, False, False, 0, True]
        a1111.probe()
        with pytest.raises(Refused, match=said) as caught:
            script(a1111, "x/y/z plot", args)
        assert caught.value.status == 422 and a1111.seen() == []


def test_the_settings_have_a_heading_and_routes_name_no_folder(a1111: Webui) -> None:
    values = [one["props"].get("value") for one in a1111.get("/config")["components"]]
    told = next(one for one in values if isinstance(one, str) and '"_categories"' in one)
    assert ["APL Prefix", "Stable Diffusion"] in json.loads(told)["_categories"]
    for route in ("/apl/prefixes", "/apl/status"):
        assert str(a1111.data) not in json.dumps(a1111.get(route))


def test_a_pasted_tag_is_read_like_a_typed_one(a1111: Webui) -> None:
    said = a1111.draw(f"{PROMPT} < APL:front>").infotext
    assert a1111.pasted(said).pixels == ticked(a1111)
    with pytest.raises(Refused, match="not closed"):
        a1111.pasted(said.replace("<apl:front>", "<apl:front"))


def test_a_tag_that_comes_while_the_request_runs(a1111: Webui) -> None:
    a1111.probe(late=" <APL:front>")
    try:
        assert a1111.draw(PROMPT).pixels == ticked(a1111)
        assert a1111.draw(PROMPT, disable_extra_networks=True).pixels == ticked(a1111)
        a1111.probe(late="<apl:front")
        with pytest.raises(Refused, match="not closed"):
            a1111.draw(PROMPT)
    finally:
        a1111.probe()


def test_text_that_only_talks_about_it_is_drawn(a1111: Webui) -> None:
    for text in ("apl:front", "(apl:1.2)", "[apl:front:0.5]"):
        assert "APL prefix" not in a1111.draw(f"{PROMPT} {text}").infotext


def test_a_default_that_is_gone_is_refused_and_nothing_is_guessed(a1111: Webui) -> None:
    with pytest.raises(Refused, match="several: bracket, broken, front, other, wrong_family"):
        a1111.draw(PROMPT, True)
    a1111.post("/sdapi/v1/options", {"apl_default_prefix": "gone"})
    try:
        for args in ((True,), (True, ""), (True, None)):
            with pytest.raises(Refused, match="default prefix 'gone'"):
                a1111.draw(PROMPT, *args)
        assert ticked(a1111) != a1111.draw(PROMPT).pixels
    finally:
        a1111.post("/sdapi/v1/options", {"apl_default_prefix": ""})


def test_a_network_alone_is_drawn_with_the_prefix(a1111: Webui) -> None:
    for prompt in (
        "<lora:random_lora:0.7>",
        "\u00a0<lora:random_lora:0.7>",
        "<apl:front><lora:x:1>",
    ):
        a1111.probe()
        bare = a1111.draw(prompt.replace("<apl:front>", ""), False)
        covered = a1111.draw(prompt, True, "front")
        seen = a1111.seen()
        assert covered.pixels != bare.pixels
        assert not any(torch.equal(one, other) for one in seen[2:] for other in seen[:2])
    assert ticked(a1111, "") == a1111.draw("").pixels  # nobody is named, nothing is changed
    assert ticked(a1111, "<apl:front>") == a1111.draw("").pixels


def test_a_second_pass_without_the_prefix_is_not_drawn(a1111: Webui) -> None:
    a1111.probe(trouble="second pass")
    try:
        a1111.draw("a hires man", **HIRES)
        with pytest.raises(Refused, match="a pass would be drawn"):
            a1111.draw("a hires man", True, "front", **HIRES)
        assert len(a1111.seen()) == 2 + 4  # the refused one: its first pass alone
        refiner = {"steps": 4, "refiner_checkpoint": "second", "refiner_switch_at": 0.5}
        a1111.probe(trouble="after the swap")
        a1111.draw("a refined man", **refiner)
        with pytest.raises(Refused, match="a pass would be drawn"):
            a1111.draw("a refined man", True, "front", **refiner)
        assert len(a1111.seen()) == 4 + 2
    finally:
        a1111.probe()


DRAWN_FROM: dict[str, tuple[str, dict[str, Any]]] = {
    "weight below nothing": (" :-1", {}),
    "no weight": ("x :0", {}),
    "parts that sum to too little": ("x :0.6 AND y :0.2", {}),
    "no guidance": (PROMPT, {"cfg_scale": 0}),
    "guidance turned over": (PROMPT, {"cfg_scale": -7}),
    "little guidance": (PROMPT, {"cfg_scale": 0.9}),
    "a sampler that steps along it": (PROMPT, {"sampler_name": "DDIM CFG++"}),
    "hires weight": (PROMPT, {**HIRES, "hr_prompt": "x :0.2", "hr_negative_prompt": NAME}),
    "long": (" :-1", {"negative_prompt": ", ".join([NAME] * 20)}),
    "schedule": (" :-1", {"negative_prompt": f"[a cat:{NAME}:0.5]", "steps": 4}),
    "batch": (" :-1", {"batch_size": 2}),
}


@pytest.mark.parametrize("name", DRAWN_FROM)
def test_a_negative_prompt_that_draws_has_the_prefix(a1111: Webui, name: str) -> None:
    prompt, more = DRAWN_FROM[name]
    more = {"negative_prompt": NAME, "cfg_scale": 7, **more}
    a1111.probe()
    bare = a1111.draw(prompt, **more)
    bare_unconds = a1111.seen("uncond")
    a1111.probe()
    drawn = a1111.draw(prompt, True, "front", **more)
    unconds = a1111.seen("uncond")
    a1111.probe()  # the same texts as a prompt
    plain = {key: value for key, value in more.items() if key in ("steps", "batch_size")}
    plain |= HIRES if "enable_hr" in more else {}
    a1111.draw(more["negative_prompt"], True, "front", **plain)
    conds = a1111.seen()
    assert drawn.pixels != bare.pixels and unconds
    for seen in unconds:
        assert any(torch.equal(seen, want) for want in conds)
    assert not any(torch.equal(one, other) for one in unconds for other in bare_unconds)


def test_one_switch_covers_every_negative_prompt(a1111: Webui) -> None:
    """`guidance.COVERS_NEGATIVE`, off as delivered: equal to the same text as a prompt."""
    more = {**HIRES, "negative_prompt": NAME, "hr_negative_prompt": "ugly"}

    def unconds(*args: object) -> list[torch.Tensor]:
        a1111.draw(PROMPT, *args, **more)
        return a1111.seen("uncond")

    a1111.probe()
    a1111.draw(NAME, True, "front", hr_prompt="ugly", **HIRES)
    want = a1111.seen()
    a1111.probe()
    bare = unconds(True, "front")
    a1111.probe(trouble="switch")
    try:
        covered = unconds(True, "front")
        a1111.probe(trouble="switch")
        off = unconds()
    finally:
        a1111.probe()
    again = unconds(True, "front")
    assert len(covered) == len(want) and all(map(torch.equal, covered, want))
    assert not any(map(torch.equal, covered, bare))
    for seen in (off, again):
        assert len(seen) == len(bare) and all(map(torch.equal, seen, bare))


def test_guidance_of_another_extension_draws_from_the_prefix(a1111: Webui) -> None:
    a1111.probe()
    a1111.draw(NAME, True, "front")
    want = a1111.seen()
    a1111.probe(trouble="guidance")
    try:
        a1111.draw(PROMPT, True, "front", negative_prompt=NAME)
        assert all(map(torch.equal, a1111.seen("uncond"), want))
    finally:
        a1111.probe()


def test_a_negative_prompt_that_is_pushed_away_stays_as_it_is(a1111: Webui) -> None:
    for prompt in (PROMPT, "a cat AND a man :0.7", "a man :1.5"):
        a1111.probe()
        a1111.draw(prompt, negative_prompt=NAME)
        want = a1111.seen("uncond")
        a1111.probe()
        a1111.draw(prompt, True, "front", negative_prompt=NAME)
        assert all(map(torch.equal, a1111.seen("uncond"), want))


def test_the_old_emphasis_implementation_is_refused(a1111: Webui) -> None:
    a1111.post("/sdapi/v1/options", {"use_old_emphasis_implementation": True})
    try:
        a1111.draw()
        with pytest.raises(Refused, match="old emphasis"):
            a1111.draw("a photo of a man", True, "front")
    finally:
        a1111.post("/sdapi/v1/options", {"use_old_emphasis_implementation": False})


def test_folders_are_not_for_the_api(a1111: Webui) -> None:
    """A1111 keeps such settings to itself; Forge lets its API change every setting."""
    a1111.post("/sdapi/v1/options", {"apl_folders": "/"})
    assert a1111.get("/sdapi/v1/options")["apl_folders"] == ""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """A webui without any prefix."""
    data = furnished(tmp_path_factory.mktemp("empty"))
    for file in (data / "models" / "apl").iterdir():
        file.unlink()
    with webui_hosts.new("a1111", data) as webui:
        yield webui


def test_the_first_minute(empty: Webui, a1111: Webui) -> None:
    assert empty.draw(PROMPT).pixels == a1111.draw(PROMPT).pixels
    shown = json.dumps(empty.get("/config")["components"])
    assert "There is no prefix yet" in shown and f"{empty.data}/models/apl" not in shown
    for args in ((True,), (True, ""), (True, None, 0.0, 1.0)):
        with pytest.raises(Refused, match=r"there is no prefix yet.*models/apl") as caught:
            empty.draw(PROMPT, *args)
        assert str(empty.data) not in caught.value.sentence
    with pytest.raises(Refused, match="find the prefix 'front'"):
        empty.draw(f"{PROMPT} <apl:front>")
    assert empty.get("/apl/prefixes") == []
    shutil.copy(a1111.prefixes / "front.safetensors", empty.prefixes)
    assert empty.draw(PROMPT, True, "").pixels == ticked(a1111)  # the only one there is
