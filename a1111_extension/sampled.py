"""The last look before each step: what is sampled was made with the prefix.

A second pass, a refiner and passes of other extensions bring conditioning of their own, which the
start of sampling does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from apl_core.errors import HostError

from . import guidance
from .refusal import refusal
from .request import Request

AskedBy = Callable[[Any], "Request | None"]
_ARGUMENTS = ("x", "sigma", "uncond", "cond", "cond_scale")


class Marked(list[Any]):
    """Conditioning of negative prompts, which a webui keeps in a plain list, with a mark on it."""

    apl_key: tuple[str, str]
    apl_rows: bool


def marked(conds: Any, key: tuple[str, str], rows: bool) -> Any:
    """Conditioning that says which request it was made for, and whether rows are in it."""
    if type(conds) is list:
        conds = Marked(conds)
    conds.apl_key, conds.apl_rows = key, rows
    return conds


def has_rows(conds: Any) -> bool:
    """Whether the prefix was put into a text of this conditioning: an empty one has none."""
    return bool(getattr(conds, "apl_rows", False))


def check(asked: Request, denoiser: Any, given: Mapping[str, Any]) -> None:
    """Refused unless a step draws from conditioning with the prefix alone."""
    cond, uncond = given["cond"], given["uncond"]
    if getattr(cond, "apl_key", None) != asked.key:
        raise refusal(_replaced("a pass would be drawn from conditioning without the prefix"))
    covered = uncond is None or getattr(uncond, "apl_key", None) == asked.key
    if not covered and not _pushed_away(denoiser, cond, given.get("cond_scale")):
        raise refusal(_replaced("the negative prompt could be drawn from, and has no prefix"))


def _pushed_away(denoiser: Any, cond: Any, scale: object) -> bool:
    if denoiser.p.is_hr_pass:
        scale = getattr(denoiser.p, "hr_cfg", scale)
    steps_along_it = getattr(denoiser, "need_last_noise_uncond", False)
    if steps_along_it or not guidance.is_the_hosts_own(denoiser):
        return False
    if not isinstance(scale, (int, float)):
        return False
    scale *= getattr(denoiser, "cond_scale_miltiplier", 1.0)  # the host's spelling
    return guidance.pushes_away(scale, guidance.weight_sums(cond))


def _replaced(found: str) -> HostError:
    return HostError(
        "anonymize this image",
        f"{found}: another extension replaced something",
        "switch that extension off",
    )


def stepping(asked_by: AskedBy, original: Any) -> Any:
    """The host's `CFGDenoiser.forward`, which every step calls, behind the check."""

    @wraps(original)
    def forward(denoiser: Any, *args: Any, **kwargs: Any) -> Any:
        asked = asked_by(denoiser.p)
        if asked is not None:
            check(asked, denoiser, dict(zip(_ARGUMENTS, args, strict=False)) | kwargs)
        return original(denoiser, *args, **kwargs)

    return forward


def swapping(asked_by: AskedBy, original: Any) -> Any:
    """The host's `CFGDenoiser.update_inner_model`: a refiner's conditioning, before its step."""

    @wraps(original)
    def update_inner_model(denoiser: Any) -> Any:
        result = original(denoiser)
        asked = asked_by(denoiser.p)
        if asked is not None:
            check(asked, denoiser, denoiser.sampler.sampler_extra_args)
        return result

    return update_inner_model
