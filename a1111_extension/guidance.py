"""Where the negative prompt could draw, and so gets the prefix too.

A webui makes uncond + sum(weight * scale * (cond - uncond)) over the parts of a prompt, so the
negative prompt has the share 1 - scale * sum(weight): it is only pushed away from while that is
not positive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from .webui import module

COVERS_NEGATIVE = False
"""Whether the negative prompt always gets the prefix; if not, only where it could draw.

Off, for it costs people where something stands in the negative prompt (docs/negative.md).
"""


def covers_negative(p: Any) -> bool:
    """Whether the negative prompts of this request are encoded with the prefix."""
    return COVERS_NEGATIVE or not _pushes_away(p)


def pushes_away(scale: object, sums: Iterable[float]) -> bool:
    """Whether guidance is shown to be at least 1, and so is every sum of a prompt's weights."""
    known = isinstance(scale, (int, float)) and math.isfinite(scale)
    return known and scale >= 1 and all(math.isfinite(one) and one >= 1 for one in sums)  # type: ignore[operator]


def is_the_hosts_own(denoiser: Any) -> bool:
    """Whether a denoiser, or its class, puts both prompts together as the webui does."""
    combine = getattr(denoiser, "combine_denoised", None)
    own = getattr(combine, "__module__", None) == "modules.sd_samplers_cfg_denoiser"
    return own and not hasattr(combine, "__wrapped__")


def weight_sums(cond: Any) -> list[float]:
    """The sum of the weights of each picture's prompt, of conditioning that a webui has made."""
    return [sum(part.weight for part in parts) for parts in cond.batch]


def _pushes_away(p: Any) -> bool:
    if getattr(p, "image_cfg_scale", None) is not None:  # an "edit" model: guidance of another kind
        return False
    if not is_the_hosts_own(module("sd_samplers_cfg_denoiser").CFGDenoiser):
        return False
    names = [p.sampler_name, getattr(p, "hr_sampler_name", None)]
    if any("CFG++" in str(name) for name in names):  # it steps along the negative prompt
        return False
    scales, prompts = [p.cfg_scale], [*(p.prompts or [])]
    if getattr(p, "enable_hr", False):
        prompts += getattr(p, "hr_prompts", None) or []
        scales.append(getattr(p, "hr_cfg", p.cfg_scale))  # Forge and reForge have one of their own
    sums = _sums(prompts)
    return all(pushes_away(scale, sums) for scale in scales)


def _sums(prompts: Sequence[str]) -> list[float]:
    """Sums of weights as the webui itself reads them out of prompts with AND."""
    weights = module("prompt_parser").get_multicond_prompt_list(prompts)[0]
    return [sum(weight for _, weight in parts) for parts in weights]
