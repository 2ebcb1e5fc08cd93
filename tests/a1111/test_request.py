"""What a request asks for, how it carries that, and what it says about it."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from apl_a1111 import config, request
from apl_a1111.refusal import Refused
from apl_a1111.request import HASH, NAME, STEPS

from apl_core.errors import AplError
from apl_core.formats import write_prefix
from apl_core.library import Library
from apl_core.prefix import Prefix


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A library with the prefixes a and b, and the webui's settings that are read."""
    for seed, name in enumerate("ab"):
        rows = torch.randn(3, 768, generator=torch.Generator().manual_seed(seed))
        write_prefix(Prefix({"clip_l": rows}), tmp_path / f"{name}.safetensors")
    said = SimpleNamespace(default="b", folder=tmp_path)
    monkeypatch.setattr(config, "library", lambda: Library([tmp_path]))
    monkeypatch.setattr(config, "roots", lambda: (tmp_path,))
    monkeypatch.setattr(config, "default_prefix", lambda: said.default)
    monkeypatch.setattr(request, "tag_words", lambda: {"apl", "lora", "other"})
    return said


def asking(*prompts: str, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(all_prompts=list(prompts), extra_generation_params={}, **more)


def read(p: Any, *args: object) -> request.Request | None:
    return request.read(p, *(*args, *(False, "a", 0.0, 1.0)[len(args) :]))


def test_arguments_axes_and_tags() -> None:
    assert read(asking("x")) is None
    cases = [
        (asking("x"), (True, "a"), "a", "0-1"),
        (asking("x"), (True, ""), "b", "0-1"),
        (asking("x"), (True, "a", 0.2, 0.5), "a", "0.2-0.5"),
        (asking("x", "y <apl:b>"), (), "b", "0-1"),
        (asking("x <apl:b:0-0.5>"), (True, "a", 0.2, 0.9), "b", "0-0.5"),
        (asking("x", all_hr_prompts=["<apl:b>"]), (), "b", "0-1"),
        (asking("x", apl_axes={"name": "b"}), (), "b", "0-1"),
        (asking("x <apl:a>", apl_axes={"name": "b"}), (), "b", "0-1"),
        (asking("x", apl_axes={"enabled": True}), (), "a", "0-1"),
    ]
    for p, args, name, steps in cases:
        got = read(p, *args)
        assert got is not None and (got.name, str(got.steps)) == (name, steps)
    assert read(asking("<apl:a>", apl_axes={"enabled": False}), True) is None


@pytest.mark.parametrize(
    "args",
    [
        ("on",),
        (1,),
        (None,),
        (True, 3),
        (True, "c"),
        (True, "../a"),
        (True, "a", "0"),
        (True, "a", True),
    ],
)
def test_arguments_that_make_no_sense_are_errors(args: tuple[object, ...]) -> None:
    with pytest.raises(AplError):
        read(asking("x"), *args)


def test_tags_that_disagree_are_an_error() -> None:
    with pytest.raises(AplError, match="different ones"):
        read(asking("<apl:a>", "<apl:b>"))


def test_a_picture_does_not_hand_on_what_another_said_of_operator_mode() -> None:
    p = asking("x")
    p.extra_generation_params["APL"] = "a somebody's"
    request.attach(p, read(p, True, "b"))
    assert "APL" not in p.extra_generation_params


def test_a_request_carries_its_outcome_and_says_so() -> None:
    p = asking("x")
    outcome = read(p, True, "a", 0.0, 0.5)
    request.attach(p, outcome)
    said = p.extra_generation_params
    assert outcome is not None and request.of(p) is outcome
    assert json.loads(json.dumps(said)) == {
        NAME: "a",
        HASH: outcome.prefix.short_digest,
        STEPS: "0-0.5",
    }
    inner = asking("y")
    inner.extra_generation_params = said
    assert request.of(inner) is outcome
    inner.extra_generation_params = copy.deepcopy(said)
    again = request.of(inner)
    assert again is not None and again.key == outcome.key
    inner.extra_generation_params = json.loads(json.dumps(said))
    again = request.of(inner)
    assert again is not None and again.key == outcome.key
    request.attach(p, None)
    assert said == {} and request.of(p) is None


def test_a_refusal_is_raised_with_a_status_and_a_sentence() -> None:
    from apl_a1111.refusal import refusal

    p = asking("x")
    with pytest.raises(AplError) as caught:
        read(p, True, "c")
    request.attach(p, refusal(caught.value))
    for one in (p, SimpleNamespace(extra_generation_params=p.extra_generation_params)):
        with pytest.raises(Refused) as raised:
            request.of(one)
        assert vars(raised.value)["status_code"] == 422
        detail = vars(raised.value)["detail"]
        assert detail == str(caught.value) and "find the prefix 'c'" in detail
    assert "report this" in str(refusal(ZeroDivisionError("x")))


def test_a_refusal_names_no_folder_of_the_server(settings: SimpleNamespace) -> None:
    from apl_a1111.refusal import public, refusal

    try:
        open("/srv/somebody/secret place/models/x.safetensors").close()
    except OSError as error:
        assert "/srv" not in str(refusal(error)) and "x.safetensors" in str(refusal(error))
    inside = settings.folder / "my faces" / "a.safetensors"
    assert public(f"read {inside}: broken") == f"read my faces{os.sep}a.safetensors: broken"
    assert public(r"read C:\Users\me\a.pt") == "read a.pt"
    for text in ("a/b and https://example.org/a/b", "GET </apl/x/y>", "0/75", "models/apl"):
        assert public(text) == text
    assert public("for SDXL (clip_l 768 + clip_g 1280); SD 1.x (clip_l 768)") == "for SDXL; SD 1.x"


def test_equal_keys_mean_equal_conditioning() -> None:
    keys = [
        one.key
        for one in (
            read(asking("x"), True, "a"),
            read(asking("x"), True, "b"),
            read(asking("x"), True, "a", 0.0, 0.5),
        )
        if one is not None
    ]
    assert len(set(keys)) == 3


def test_tags_reach_requests_that_the_script_did_not_see() -> None:
    params = [SimpleNamespace(items=["a", "0-0.5"])]
    inner = asking("y")
    request.read_late(inner, params)
    got = request.of(inner)
    assert got is not None and (got.name, str(got.steps)) == ("a", "0-0.5")
    late = asking("y")  # the script saw no tag, then another extension wrote one
    request.attach(late, None)
    late.prompts = ["y", "z < APL:b >"]
    request.read_late(late)
    got = request.of(late)
    assert got is not None and got.name == "b" and late.prompts == ["y", "z <apl:b>"]
    off = asking("y", apl_axes={"enabled": False})
    request.read_late(off, params)
    assert request.of(off) is None
    ticked = asking("y")
    request.attach(ticked, read(ticked, True, "b", 0.0, 0.5))
    request.read_late(ticked, [SimpleNamespace(items=["a"])])  # a tag wins, as at the start
    got = request.of(ticked)
    assert got is not None and (got.name, str(got.steps)) == ("a", "0-0.5")
    for text in ("<apl:c>", "<apl:", "<apl:a> <apl:b>", "\uff1capl:a\uff1e"):
        wrong = asking("y", negative_prompts=[text])
        request.read_late(wrong)
        with pytest.raises(Refused):
            request.of(wrong)


def test_no_prefix_is_chosen_for_anybody(settings: SimpleNamespace) -> None:
    settings.default = "gone"
    with pytest.raises(AplError, match="'gone' of the settings is not there"):
        read(asking("x"), True, "")
    assert request.preset(["a", "b"]) == ""
    settings.default = ""
    for name in ("", None):
        with pytest.raises(AplError, match="several: a, b"):
            read(asking("x"), True, name)
    (settings.folder / "b.safetensors").unlink()
    got = read(asking("x"), True, "")
    assert got is not None and got.name == "a" and request.preset(["a"]) == "a"
    (settings.folder / "a.safetensors").unlink()
    with pytest.raises(AplError, match="there is no prefix yet") as caught:
        read(asking("x"), True, "")
    assert str(settings.folder) not in str(caught.value)


def test_a_tag_with_another_word_and_the_name_of_a_prefix_is_refused() -> None:
    with pytest.raises(AplError, match=r"no 'alp' tags here.*<apl:a>"):
        read(asking("x <alp:a>"))
    with pytest.raises(AplError, match="no 'alp' tags here"):
        read(asking("x", all_negative_prompts=["<alp:a:1>"]), True)
    for text in ("<lora:a:1>", "<alp:nobody>", "<other:b>"):
        assert read(asking(text)) is None


def test_a_pass_that_is_begun_within_a_picture_is_a_part_of_it() -> None:
    outer, inner, later = asking("x"), asking("y"), asking("z")
    with request.under_way(outer):
        outcome = read(outer, True, "a")
        request.attach(outer, outcome)
        with request.under_way(inner):
            request.attach(inner, None)  # our script ran for it, and nobody ticked its box
            assert request.of(inner) is outcome
            with request.under_way(asking("w")):
                pass
        with request.under_way(outer):  # as after a reload that left an old wrapper behind
            assert request.of(outer) is outcome
    with request.under_way(later):
        assert request.of(later) is None
    with pytest.raises(ZeroDivisionError), request.under_way(outer):
        raise ZeroDivisionError
    with request.under_way(later):
        assert request.of(later) is None
