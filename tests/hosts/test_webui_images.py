"""A1111 and Forge, real and whole: what reaches the U-Net, with the box ticked and without."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import a1111_expected
import pytest
import torch
import webui_hosts
from a1111_expected import PREFIXES, Reference, expected
from a1111_host import Refused, Webui
from a1111_kinds import KINDS
from conftest import random_prefix

from apl_core.formats import write_prefix


@pytest.fixture(scope="module")
def untouched(webui: Webui, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pixels of every kind from a webui that does not have the extension."""
    data = tmp_path_factory.mktemp("bare")
    with webui_hosts.new(webui.name.lower(), data, clones=()) as bare:
        return {name: bare.draw(kind.prompt, **kind.request).pixels for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def reference(webui: Webui, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Conditioning of every kind, by plain transformers."""
    return a1111_expected.reference(webui, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("name", KINDS)
def test_off_is_the_webui_without_the_extension(
    webui: Webui, untouched: dict[str, str], name: str
) -> None:
    kind = KINDS[name]
    assert webui.draw(kind.prompt, False, "front", **kind.request).pixels == untouched[name]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", KINDS)
def test_the_unet_gets_the_reference(
    webui: Webui, reference: Reference, name: str, prefix: str
) -> None:
    kind = KINDS[name]
    webui.probe()
    off = webui.draw(kind.prompt, **kind.request)
    off_conds, off_unconds = webui.seen(), webui.seen("uncond")
    webui.probe()
    on = webui.draw(kind.prompt, True, prefix, **kind.request)
    conds, unconds = webui.seen(), webui.seen("uncond")
    assert len(conds) >= len(kind.calls)
    for seen, want in zip(
        off_conds, expected(reference[None, name], name, len(conds)), strict=True
    ):
        assert torch.equal(seen, want)
    for seen, want in zip(conds, expected(reference[prefix, name], name, len(conds)), strict=True):
        assert torch.equal(seen, want)
    for seen, want in zip(unconds, off_unconds, strict=True):
        assert torch.equal(seen, want)
    assert (on.pixels == off.pixels) == (name == "empty")
    assert ("APL prefix" in on.infotext) == (name != "empty"), "no text was read with it"


def test_a_step_range_is_the_prefix_in_these_steps_only(webui: Webui, reference: Reference) -> None:
    webui.probe()
    answer = webui.draw(KINDS["long"].prompt, True, "front", 0.25, 0.75, steps=4)
    prefixes = (None, "front", "front", None)
    for seen, prefix in zip(webui.seen(), prefixes, strict=True):
        assert torch.equal(seen, reference[prefix, "long"][0])
    assert "APL steps: 0.25-0.75" in answer.infotext


def test_refiner_and_another_checkpoint_get_the_prefix_too(
    webui: Webui, reference: Reference
) -> None:
    more = {"steps": 4, "refiner_checkpoint": "second", "refiner_switch_at": 0.5}
    for request in (more, {"override_settings": {"sd_model_checkpoint": "second"}}):
        webui.probe()
        webui.draw("a photo of a man", True, "bracket", **request)
        seen = webui.seen()
        assert len(seen) == request.get("steps", 2)
        assert all(torch.equal(one, reference["bracket", "plain"][0]) for one in seen)


def test_no_request_gets_the_result_of_another(webui: Webui) -> None:
    def draw(which: str) -> str:
        args = {"off": (False, "front")}.get(which, (True, which))
        return webui.draw("a photo of a man", *args).pixels

    modes = ("off", "front", "bracket", "other")
    want = {mode: draw(mode) for mode in modes}
    assert len(set(want.values())) == len(modes)
    order = ("off", "front", "off", "other", "front", "front", "bracket", "off", "off", "other")
    assert [draw(mode) for mode in order] == [want[mode] for mode in order]
    with ThreadPoolExecutor(2) as clients:
        both = list(clients.map(draw, order * 2))
    assert both == [want[mode] for mode in order * 2]


def test_live_previews_and_an_interrupt_leave_nothing(webui: Webui, reference: Reference) -> None:
    settings = {"live_previews_enable": True, "show_progress_every_n_steps": 1}
    webui.post("/sdapi/v1/options", settings | {"show_progress_type": webui.quick_preview})
    for args, prefix in (((False, "front"), None), ((True, "front"), "front")):
        want, task = webui.draw("a photo of a man", *args).pixels, f"task({secrets.token_hex(8)})"
        webui.probe()
        with ThreadPoolExecutor(1) as client:
            drawing = client.submit(
                webui.draw, "a photo of a man", *args, steps=150, force_task_id=task
            )
            while not webui.post("/internal/progress", {"id_task": task})["live_preview"]:
                assert not drawing.done()
                time.sleep(0.1)
            webui.post("/sdapi/v1/interrupt", {})
            interrupted = drawing.result()
        seen = webui.seen()
        assert 0 < len(seen) < 150
        assert all(torch.equal(one, reference[prefix, "plain"][0]) for one in seen)
        assert ("APL prefix" in interrupted.infotext) == (prefix is not None)
        assert webui.draw("a photo of a man", *args).pixels == want


@pytest.mark.parametrize("trouble", ["cond", "sampling"])
def test_nothing_is_left_behind_by_an_exception(webui: Webui, trouble: str) -> None:
    off, on = webui.draw(), webui.draw("a photo of a man", True, "front")
    webui.probe(trouble=trouble)
    with pytest.raises(Refused, match="broken on purpose"):
        webui.draw("another prompt", True, "front")
    webui.probe()
    again = webui.draw()
    assert (again.pixels, again.infotext) == (off.pixels, off.infotext)
    assert webui.draw("a photo of a man", True, "front").pixels == on.pixels


@pytest.mark.parametrize("trouble", ["encoder", "rows", "conditioning"])
def test_another_extension_in_the_way_is_an_error(webui: Webui, trouble: str) -> None:
    webui.probe(trouble=trouble)
    with pytest.raises(Refused, match="another extension") as caught:
        webui.draw("a prompt for " + trouble, True, "front")
    assert caught.value.status == 422
    bare = webui.draw("a prompt for " + trouble)  # nothing is asked, nothing is refused
    assert "apl" not in bare.infotext.lower()
    webui.probe()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((True, "fron"), "did you mean 'front'"),
        ((True, "../front"), "no prefix|dots"),
        ((True, "broken"), "safetensors file"),
        ((True, "wrong_family"), "it is for SD 2.x; the loaded checkpoint is SD 1.x"),
        ((True, "front", 0.6, 0.4), "start below the end"),
        ((True, "front", 0.1, 0.2), "none of the 2 sampling steps"),
        (("yes", "front"), "true or false"),
        ((True, 7), "name of a prefix"),
        ((True, "front", "0"), "number from 0 to 1"),
    ],
)
def test_what_cannot_be_done_is_an_error(webui: Webui, args: tuple[object, ...], said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        webui.draw("a photo of a man", *args)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a man <|endoftext|> more", "end-of-text"),
        ("a <apl:front> man <apl:other>", "name different ones"),
        ("a <apl:fron> man", "did you mean"),
    ],
)
def test_prompts_that_lead_past_it_are_errors(webui: Webui, prompt: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        webui.draw(prompt, True, "front")


def test_an_inner_pass_of_another_extension_is_prefixed_as_well(
    webui: Webui, reference: Reference
) -> None:
    on, off = ((True, "bracket"), "bracket"), ((False, "bracket"), None)
    for (args, prefix), how in product((on, off), (True, "alone")):  # alone: nothing is handed on
        webui.probe(inner=how)
        webui.draw("a photo of a man", *args)
        seen = webui.seen()
        assert len(seen) == 4
        assert all(torch.equal(one, reference[prefix, "plain"][0]) for one in seen)


def test_a_model_switch_changes_nothing(webui: Webui) -> None:
    for args in ((False, "front"), (True, "front")):
        want = webui.draw("a photo of a man", *args).pixels
        for checkpoint in ("second", "first"):
            settings = {"sd_model_checkpoint": checkpoint}
            answer = webui.draw("a photo of a man", *args, override_settings=settings)
            assert answer.pixels == want


def test_a_replaced_file_is_used_at_once(webui: Webui) -> None:
    path = webui.prefixes / "replaced.safetensors"
    write_prefix(random_prefix(1, 10), path)
    first = webui.draw("a photo of a man", True, "replaced")
    assert first.pixels == webui.draw("a photo of a man", True, "front").pixels
    write_prefix(random_prefix(3, 4), path)
    second = webui.draw("a photo of a man", True, "replaced")
    assert second.pixels == webui.draw("a photo of a man", True, "other").pixels
    path.unlink()
    with pytest.raises(Refused, match=r"did you mean|there is none"):
        webui.draw("a photo of a man", True, "replaced")
