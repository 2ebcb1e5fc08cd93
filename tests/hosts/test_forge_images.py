"""Forge, real and whole: what reaches its U-Net, with the box ticked and without."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import a1111_expected
import a1111_host
import forge_host
import pytest
import torch
from a1111_expected import PREFIXES, Reference, expected
from a1111_host import Refused, Webui
from a1111_kinds import KINDS
from conftest import random_prefix

from apl_core.formats import write_prefix

if forge_host.installed() is None:
    pytest.skip(
        f"no Forge with its venv in {a1111_host.hosts_folder() / 'forge'}", allow_module_level=True
    )


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pixels of every kind from a Forge that does not have the extension."""
    host = forge_host.installed()
    assert host is not None
    with forge_host.Forge(host, tmp_path_factory.mktemp("bare"), clones=()) as webui:
        return {
            name: webui.draw(kind.prompt, **kind.request).pixels for name, kind in KINDS.items()
        }


@pytest.fixture(scope="module")
def reference(forge: Webui, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Conditioning of every kind, by plain transformers."""
    return a1111_expected.reference(forge, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("name", KINDS)
def test_off_is_forge_without_the_extension(
    forge: Webui, untouched: dict[str, str], name: str
) -> None:
    kind = KINDS[name]
    assert forge.draw(kind.prompt, False, "front", **kind.request).pixels == untouched[name]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", KINDS)
def test_the_unet_gets_the_reference(
    forge: Webui, reference: Reference, name: str, prefix: str
) -> None:
    kind = KINDS[name]
    forge.probe()
    off = forge.draw(kind.prompt, **kind.request)
    off_conds, off_unconds = forge.seen(), forge.seen("uncond")
    forge.probe()
    on = forge.draw(kind.prompt, True, prefix, **kind.request)
    conds, unconds = forge.seen(), forge.seen("uncond")
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


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_network_itself_is_called_with_it(
    forge: Webui, reference: Reference, prefix: str
) -> None:
    """Forge batches positive and negative prompts late; this looks behind that."""
    forge.probe()
    forge.draw(KINDS["long"].prompt, True, prefix)
    called = torch.cat(forge.seen("unet"))
    want = reference[prefix, "long"][0]
    assert len(called) == 2 and called.shape[1] % want.shape[1] == 0
    assert all(torch.equal(one, want[0].repeat(len(one) // want.shape[1], 1)) for one in called)


def test_a_step_range_is_the_prefix_in_these_steps_only(forge: Webui, reference: Reference) -> None:
    forge.probe()
    answer = forge.draw(KINDS["long"].prompt, True, "front", 0.25, 0.75, steps=4)
    prefixes = (None, "front", "front", None)
    for seen, prefix in zip(forge.seen(), prefixes, strict=True):
        assert torch.equal(seen, reference[prefix, "long"][0])
    assert "APL steps: 0.25-0.75" in answer.infotext


def test_refiner_and_another_checkpoint_get_the_prefix_too(
    forge: Webui, reference: Reference
) -> None:
    more = {"steps": 4, "refiner_checkpoint": "second", "refiner_switch_at": 0.5}
    for request in (more, {"override_settings": {"sd_model_checkpoint": "second"}}):
        forge.probe()
        forge.draw("a photo of a man", True, "bracket", **request)
        seen = forge.seen()
        assert len(seen) == request.get("steps", 2)
        assert all(torch.equal(one, reference["bracket", "plain"][0]) for one in seen)


def test_no_request_gets_the_result_of_another(forge: Webui) -> None:
    def draw(which: str) -> str:
        args = {"off": (False, "front")}.get(which, (True, which))
        return forge.draw("a photo of a man", *args).pixels

    modes = ("off", "front", "bracket", "other")
    want = {mode: draw(mode) for mode in modes}
    assert len(set(want.values())) == len(modes)
    order = ("off", "front", "off", "other", "front", "front", "bracket", "off", "off", "other")
    assert [draw(mode) for mode in order] == [want[mode] for mode in order]
    with ThreadPoolExecutor(2) as clients:
        both = list(clients.map(draw, order * 2))
    assert both == [want[mode] for mode in order * 2]


@pytest.mark.parametrize("trouble", ["cond", "sampling"])
def test_nothing_is_left_behind_by_an_exception(forge: Webui, trouble: str) -> None:
    off, on = forge.draw(), forge.draw("a photo of a man", True, "front")
    forge.probe(trouble=trouble)
    with pytest.raises(Refused, match="broken on purpose"):
        forge.draw("another prompt", True, "front")
    forge.probe()
    again = forge.draw()
    assert (again.pixels, again.infotext) == (off.pixels, off.infotext)
    assert forge.draw("a photo of a man", True, "front").pixels == on.pixels


@pytest.mark.parametrize("trouble", ["encoder", "rows", "conditioning"])
def test_another_extension_in_the_way_is_an_error(forge: Webui, trouble: str) -> None:
    forge.probe(trouble=trouble)
    with pytest.raises(Refused, match="another extension") as caught:
        forge.draw("a prompt for " + trouble, True, "front")
    assert caught.value.status == 422
    bare = forge.draw("a prompt for " + trouble)  # nothing is asked, nothing is refused
    assert "apl" not in bare.infotext.lower()
    forge.probe()


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
    ],
)
def test_what_cannot_be_done_is_an_error(forge: Webui, args: tuple[object, ...], said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        forge.draw("a photo of a man", *args)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a man <|endoftext|> more", "end-of-text"),
        ("a <apl:front> man <apl:other>", "name different ones"),
        ("a <apl:fron> man", "did you mean"),
    ],
)
def test_prompts_that_lead_past_it_are_errors(forge: Webui, prompt: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        forge.draw(prompt, True, "front")


def test_an_inner_pass_of_another_extension_is_prefixed_as_well(
    forge: Webui, reference: Reference
) -> None:
    for args, prefix in (((True, "bracket"), "bracket"), ((False, "bracket"), None)):
        forge.probe(inner=True)
        forge.draw("a photo of a man", *args)
        seen = forge.seen()
        assert len(seen) == 4
        assert all(torch.equal(one, reference[prefix, "plain"][0]) for one in seen)


def test_a_replaced_file_is_used_at_once(forge: Webui) -> None:
    path = forge.prefixes / "replaced.safetensors"
    write_prefix(random_prefix(1, 10), path)
    first = forge.draw("a photo of a man", True, "replaced")
    assert first.pixels == forge.draw("a photo of a man", True, "front").pixels
    write_prefix(random_prefix(3, 4), path)
    second = forge.draw("a photo of a man", True, "replaced")
    assert second.pixels == forge.draw("a photo of a man", True, "other").pixels
    path.unlink()
    with pytest.raises(Refused, match=r"did you mean|there is none"):
        forge.draw("a photo of a man", True, "replaced")


def again(forge: Webui, infotext: str) -> str:
    """Pixels of pasted parameters; Forge's API fails on every infotext if no styles are given."""
    return forge.answer("/sdapi/v1/txt2img", {"infotext": infotext, "styles": []}).pixels


def test_infotext_says_what_was_applied_and_brings_it_back(forge: Webui) -> None:
    plain = forge.draw()
    assert "APL" not in plain.infotext
    for args in ((True, "front"), (True, "bracket", 0.0, 0.5)):
        drawn = forge.draw("a photo of a man", *args)
        assert "TI: " not in drawn.infotext  # Forge would list the rows as an embedding
        assert again(forge, drawn.infotext) == drawn.pixels
    assert "APL prefix: bracket" in drawn.infotext and "APL steps: 0-0.5" in drawn.infotext
    said = drawn.infotext.replace("APL prefix: bracket", "APL prefix: its old name")
    assert again(forge, said) == drawn.pixels
    assert again(forge, plain.infotext) == plain.pixels


def test_tag_style_grid_and_status(forge: Webui) -> None:
    ticked = forge.draw("a photo of a man", True, "front").pixels
    assert forge.draw("a photo of a man <apl:front>").pixels == ticked
    styled = forge.draw("a photo of a man", styles=["anonymous"]).pixels
    assert styled == forge.draw("a photo of a man, ", True, "front").pixels
    scripts = forge.get("/sdapi/v1/script-info")
    grid = next(one for one in scripts if one["name"] == "x/y/z plot")
    labels = [one for one in grid["args"][0]["choices"] if one.startswith("[APL]")]
    assert labels == ["[APL] Prefix", "[APL] Anonymize", "[APL] Steps"]
    mine = next(one for one in scripts if one["name"] == "apl")
    assert mine["args"][0]["label"] == "Anonymize faces" and mine["args"][0]["value"] is False
    status = forge.get("/apl/status")
    assert (status["host"], status["checkpoint"]) == ("Forge", "first")
    assert status["encoders"] == {"clip_l": 768}
    found = {one["name"]: one["usable"] for one in forge.get("/apl/prefixes")}
    assert found == {name: name in ("front", "bracket", "other") for name in found}


def test_neighbors_with_common_names_and_a_second_clone(forge: Webui) -> None:
    assert forge.get("/probe/owners") == ["apl-probe"] * 3
    assert forge.log().count("is already held by") == 1
    assert "Two copies of APL Prefix" in forge.log()
    assert forge.get("/probe/wrapped") == 1


def test_reload_ui_hooks_anew_and_only_once(forge: Webui) -> None:
    def both() -> list[str]:
        return [forge.draw().pixels, forge.draw("a photo of a man", True, "front").pixels]

    want = both()
    forge.reload()
    assert forge.get("/probe/wrapped") == 1
    assert both() == want
    with pytest.raises(Refused, match="there is none"):
        forge.draw("a photo of a man", True, "nothing like it")
