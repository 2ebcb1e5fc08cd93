"""A1111, real: what reaches the U-Net, with the box ticked and without."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import a1111_expected
import a1111_host
import pytest
import torch
from a1111_expected import PREFIXES, Reference, expected
from a1111_host import Refused, Webui
from a1111_kinds import KINDS
from conftest import random_prefix

from apl_core.formats import write_prefix

if a1111_host.installed() is None:
    pytest.skip(
        f"no A1111 with its venv in {a1111_host.hosts_folder() / 'a1111'}", allow_module_level=True
    )


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pixels of every kind from a webui that does not have the extension."""
    host = a1111_host.installed()
    assert host is not None
    with Webui(host, tmp_path_factory.mktemp("bare"), clones=()) as webui:
        return {
            name: webui.draw(kind.prompt, **kind.request).pixels for name, kind in KINDS.items()
        }


@pytest.fixture(scope="module")
def reference(a1111: Webui, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Conditioning of every kind, by plain transformers."""
    return a1111_expected.reference(a1111, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("name", KINDS)
def test_off_is_the_webui_without_the_extension(
    a1111: Webui, untouched: dict[str, str], name: str
) -> None:
    kind = KINDS[name]
    assert a1111.draw(kind.prompt, False, "front", **kind.request).pixels == untouched[name]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", KINDS)
def test_the_unet_gets_the_reference(
    a1111: Webui, reference: Reference, name: str, prefix: str
) -> None:
    kind = KINDS[name]
    a1111.probe()
    off = a1111.draw(kind.prompt, **kind.request)
    off_conds, off_unconds = a1111.seen(), a1111.seen("uncond")
    a1111.probe()
    on = a1111.draw(kind.prompt, True, prefix, **kind.request)
    conds, unconds = a1111.seen(), a1111.seen("uncond")
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


def test_a_step_range_is_the_prefix_in_these_steps_only(a1111: Webui, reference: Reference) -> None:
    prompt = KINDS["long"].prompt
    a1111.probe()
    answer = a1111.draw(prompt, True, "front", 0.25, 0.75, steps=4)
    prefixes = (None, "front", "front", None)
    for seen, prefix in zip(a1111.seen(), prefixes, strict=True):
        assert torch.equal(seen, reference[prefix, "long"][0])
    assert "APL steps: 0.25-0.75" in answer.infotext


def test_refiner_gets_the_prefix_too(a1111: Webui, reference: Reference) -> None:
    more = {"steps": 4, "refiner_checkpoint": "second", "refiner_switch_at": 0.5}
    a1111.probe()
    a1111.draw("a photo of a man", True, "bracket", **more)
    seen = a1111.seen()
    assert len(seen) == 4
    assert all(torch.equal(one, reference["bracket", "plain"][0]) for one in seen)


def test_no_request_gets_the_result_of_another(a1111: Webui) -> None:
    def draw(which: str) -> str:
        args = {"off": (False, "front")}.get(which, (True, which))
        return a1111.draw("a photo of a man", *args).pixels

    modes = ("off", "front", "bracket", "other")
    want = {mode: draw(mode) for mode in modes}
    assert len(set(want.values())) == len(modes)
    order = ("off", "front", "off", "other", "front", "front", "bracket", "off", "off", "other")
    assert [draw(mode) for mode in order] == [want[mode] for mode in order]
    with ThreadPoolExecutor(2) as clients:
        both = list(clients.map(draw, order * 2))
    assert both == [want[mode] for mode in order * 2]


@pytest.mark.parametrize("trouble", ["cond", "sampling"])
def test_nothing_is_left_behind_by_an_exception(a1111: Webui, trouble: str) -> None:
    off, on = a1111.draw().pixels, a1111.draw("a photo of a man", True, "front").pixels
    a1111.probe(trouble=trouble)
    with pytest.raises(Refused, match="broken on purpose"):
        a1111.draw("another prompt", True, "front")
    a1111.probe()
    assert a1111.draw().pixels == off
    assert a1111.draw("a photo of a man", True, "front").pixels == on


@pytest.mark.parametrize("trouble", ["encoder", "rows", "conditioning"])
def test_another_extension_in_the_way_is_an_error(a1111: Webui, trouble: str) -> None:
    a1111.probe(trouble=trouble)
    with pytest.raises(Refused, match="another extension") as caught:
        a1111.draw("a prompt for " + trouble, True, "front")
    assert caught.value.status == 422
    a1111.draw("a prompt for " + trouble)  # nothing is asked, nothing is refused
    a1111.probe()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((True, "fron"), "did you mean 'front'"),
        ((True, "../front"), "no prefix|dots"),
        ((True, "broken"), "no safetensors file"),
        ((True, "wrong_family"), "it is for SD 2.x; the loaded checkpoint is SD 1.x"),
        ((True, "front", 0.6, 0.4), "start below the end"),
        ((True, "front", 0.1, 0.2), "none of the 2 sampling steps"),
        (("yes", "front"), "true or false"),
        ((True, 7), "name of a prefix"),
        ((True, "front", "0"), "number from 0 to 1"),
    ],
)
def test_what_cannot_be_done_is_an_error(a1111: Webui, args: tuple[object, ...], said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        a1111.draw("a photo of a man", *args)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a man <|endoftext|> more", "end-of-text"),
        ("a <apl:front> man <apl:other>", "name different ones"),
        ("a <apl:fron> man", "did you mean"),
    ],
)
def test_prompts_that_lead_past_it_are_errors(a1111: Webui, prompt: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        a1111.draw(prompt, True, "front")


def test_the_old_emphasis_implementation_is_refused(a1111: Webui) -> None:
    a1111.post("/sdapi/v1/options", {"use_old_emphasis_implementation": True})
    try:
        a1111.draw()
        with pytest.raises(Refused, match="old emphasis"):
            a1111.draw("a photo of a man", True, "front")
    finally:
        a1111.post("/sdapi/v1/options", {"use_old_emphasis_implementation": False})


def test_an_inner_pass_of_another_extension_is_prefixed_as_well(
    a1111: Webui, reference: Reference
) -> None:
    on, off = ((True, "bracket"), "bracket"), ((False, "bracket"), None)
    for (args, prefix), how in product((on, off), (True, "alone")):  # alone: nothing is handed on
        a1111.probe(inner=how)
        a1111.draw("a photo of a man", *args)
        seen = a1111.seen()
        assert len(seen) == 4
        assert all(torch.equal(one, reference[prefix, "plain"][0]) for one in seen)


def test_a_model_switch_changes_nothing(a1111: Webui) -> None:
    for args in ((False, "front"), (True, "front")):
        want = a1111.draw("a photo of a man", *args).pixels
        for checkpoint in ("second", "first"):
            settings = {"sd_model_checkpoint": checkpoint}
            answer = a1111.draw("a photo of a man", *args, override_settings=settings)
            assert answer.pixels == want


def test_a_replaced_file_is_used_at_once(a1111: Webui) -> None:
    path = a1111.prefixes / "replaced.safetensors"
    write_prefix(random_prefix(1, 10), path)
    first = a1111.draw("a photo of a man", True, "replaced")
    assert first.pixels == a1111.draw("a photo of a man", True, "front").pixels
    write_prefix(random_prefix(3, 4), path)
    second = a1111.draw("a photo of a man", True, "replaced")
    assert second.pixels == a1111.draw("a photo of a man", True, "other").pixels
    path.unlink()
    with pytest.raises(Refused, match=r"did you mean|there is none"):
        a1111.draw("a photo of a man", True, "replaced")
