"""Where a negative prompt could draw, and what every sampling step is looked at for."""

from __future__ import annotations

import math
from collections import namedtuple
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
from apl_a1111 import config, guidance, sampled
from apl_a1111.refusal import Refused
from apl_a1111.steps import spliced

KEY = ("digest", "0-1")
ASKED: Any = SimpleNamespace(key=KEY)


class Denoiser:
    """What a webui's denoiser looks like from here."""

    def __init__(self, **given: Any) -> None:
        self.p = SimpleNamespace(is_hr_pass=False)
        vars(self).update(given)

    def combine_denoised(self) -> None: ...

    combine_denoised.__module__ = "modules.sd_samplers_cfg_denoiser"


@pytest.fixture(autouse=True)
def webui(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as a webui reads them; the real one is asked in tests/hosts/test_a1111_normal.py."""

    def get_multicond_prompt_list(prompts: list[str]) -> tuple[list[list[tuple[int, float]]]]:
        parts = [[part.rpartition(":") for part in one.split("AND")] for one in prompts]
        return ([[(0, float(part[2]) if part[1] else 1.0) for part in one] for one in parts],)

    modules = {
        "prompt_parser": SimpleNamespace(get_multicond_prompt_list=get_multicond_prompt_list),
        "sd_samplers_cfg_denoiser": SimpleNamespace(CFGDenoiser=Denoiser),
    }
    monkeypatch.setattr(config, "roots", lambda: ())
    monkeypatch.setattr(guidance, "module", modules.__getitem__)


def asking(*prompts: str, **more: Any) -> SimpleNamespace:
    p = {"prompts": list(prompts), "cfg_scale": 7.0, "sampler_name": "Euler", "enable_hr": False}
    return SimpleNamespace(**(p | more))


@pytest.mark.parametrize(
    ("p", "covered"),
    [
        (asking("x"), False),
        (asking("x", cfg_scale=1), False),
        (asking(""), False),
        (asking("x AND y :0.7"), False),
        (asking("x", "y"), False),
        (asking(" :-1"), True),
        (asking("x :0"), True),
        (asking("x :0.6 AND y :0.2"), True),
        (asking("x", "y :0.9"), True),
        *[(asking("x", cfg_scale=scale), True) for scale in (0, -7, 0.99, math.nan, None, "7")],
        (asking("x", cfg_scale=math.inf), True),
        (asking("x", sampler_name="DDIM CFG++"), True),
        (asking("x", hr_sampler_name="Euler a CFG++"), True),
        (asking("x", image_cfg_scale=1.5), True),
        (asking("x", image_cfg_scale=None), False),
        (asking("x", hr_prompts=["y :0"]), False),
        (asking("x", enable_hr=True, hr_prompts=["y :0"]), True),
        (asking("x", enable_hr=True, hr_prompts=["y"], hr_cfg=7), False),
        (asking("x", enable_hr=True, hr_prompts=["y"], hr_cfg=0.5), True),
    ],
)
def test_the_negative_prompt_is_covered_unless_it_is_shown_to_be_pushed_away(
    monkeypatch: pytest.MonkeyPatch, p: SimpleNamespace, covered: bool
) -> None:
    assert guidance.covers_negative(p) is covered
    monkeypatch.setattr(guidance, "COVERS_NEGATIVE", True)
    assert guidance.covers_negative(p) is True


def test_guidance_of_another_extension_covers_the_negative_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not guidance.covers_negative(asking("x"))
    host = Denoiser.combine_denoised
    for other in (lambda _denoiser: None, wraps(host)(lambda _denoiser: None)):
        monkeypatch.setattr(Denoiser, "combine_denoised", other)
        assert guidance.covers_negative(asking("x"))


def cond(*weights: float, key: object = KEY) -> SimpleNamespace:
    parts = [SimpleNamespace(weight=weight) for weight in weights]
    made = SimpleNamespace(batch=[parts])
    return made if key is None else sampled.marked(made, key, True)  # type: ignore[arg-type]


def step(**given: Any) -> None:
    """One call of a denoiser, as samplers make it."""
    denoiser = Denoiser(**given.pop("denoiser", {}))
    vars(denoiser.p).update(given.pop("p", {}))
    sampled.stepping(lambda _p: ASKED, lambda *_, **__: None)(denoiser, "x", "sigma", **given)


BARE: list[Any] = [["schedule"]]
COVERED = sampled.marked([["schedule"]], KEY, True)


def test_a_step_without_the_prefix_is_refused() -> None:
    step(cond=cond(1.0), uncond=BARE, cond_scale=7.0)
    step(cond=cond(1.0), uncond=None, cond_scale=7.0)
    for other in (None, ("another", "0-1")):
        with pytest.raises(Refused, match="a pass would be drawn"):
            step(cond=cond(1.0, key=other), uncond=BARE, cond_scale=7.0)
    swap = sampled.swapping(lambda _p: ASKED, lambda _denoiser: None)
    sampler = SimpleNamespace(sampler_extra_args={"cond": cond(1.0, key=None), "uncond": BARE})
    with pytest.raises(Refused, match="a pass would be drawn"):
        swap(Denoiser(sampler=sampler))


@pytest.mark.parametrize(
    "given",
    [
        {"cond": cond(-1.0), "cond_scale": 7.0},
        {"cond": cond(0.5, 0.3), "cond_scale": 7.0},
        {"cond": cond(1.0), "cond_scale": 0.0},
        {"cond": cond(1.0), "cond_scale": 7.0, "denoiser": {"cond_scale_miltiplier": 0.08}},
        {"cond": cond(1.0), "cond_scale": 7.0, "denoiser": {"need_last_noise_uncond": True}},
        {"cond": cond(1.0), "cond_scale": 7.0, "denoiser": {"combine_denoised": print}},
        {"cond": cond(1.0), "cond_scale": 7.0, "p": {"is_hr_pass": True, "hr_cfg": 0.5}},
    ],
)
def test_a_step_that_draws_from_a_bare_negative_prompt_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="negative prompt could be drawn"):
        step(uncond=BARE, **given)
    step(uncond=COVERED, **given)


def test_nothing_is_looked_at_where_nothing_is_asked() -> None:
    sampled.stepping(lambda _p: None, lambda *_, **__: None)(SimpleNamespace(p=None), cond=1)


def test_steps_of_a_negative_prompt_are_spliced_too() -> None:
    entry = namedtuple("entry", ["end_at_step", "cond"])
    bare, prefixed = [[entry(4, "bare")]], [[entry(4, "prefixed")]]
    (schedule,) = spliced(bare, prefixed, 4, range(1, 3))
    seen = [next(one.cond for one in schedule if i <= one.end_at_step) for i in range(4)]
    assert seen == ["bare", "prefixed", "prefixed", "bare"]
