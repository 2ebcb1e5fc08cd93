"""Names that settings had before the field's words: read for one version, and told once each."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

RENAMED = {
    "vectors": "num_vectors",
    "behind": "num_suffix_vectors",
    "init": "prefix_init",
    "warm_steps": "text_steps",
    "warm_start_steps": "text_steps",
    "contrast": "weight_contrast",
    "empty": "proportion_empty_prompts",
    "rate": "learning_rate",
    "warmup": "lr_warmup_steps",
    "decay": "lr_scheduler",
    "clip": "max_grad_norm",
    "pool": "target_cache",
    "pool_uses": "target_cache_uses",
    "autocast": "mixed_precision",
    "check_every": "validate_every",
}
GONE = {
    **dict.fromkeys(("lowest_t", "min_timestep"), "max_snr"),
    **dict.fromkeys(("lowest_t_free", "min_timestep_free"), "max_snr_free"),
}
"""Settings of the former learners, and what stands for them."""

_VALUES = {("mixed_precision", "off"): "no"}

log = logging.getLogger("apl")


def renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by today's names; ConfigError where both names of one are given.

    So for settings of the former learners: their noise levels and step sizes meant something else.
    """
    settings: dict[str, Any] = {}
    if gone := [name for name in given if name in GONE]:
        raise ConfigError(
            f"set {gone[0]}",
            "it is a setting of the former learner, whose step sizes and noise levels meant "
            "something else",
            "start a new run: what the old one has learned is in its prefix.safetensors and stays "
            f"valid. In a file of settings leave it and learning_rate out, or give {GONE[gone[0]]}",
        )
    for name, value in given.items():
        new = RENAMED.get(name, name)
        if new != name:
            if new in given:
                raise ConfigError(
                    f"set {new}", f"it is given twice, as {name} too", f"leave {name} out"
                )
            _tell(f"`{name}` is called {new} now")
        if isinstance(value, str) and (new, value) in _VALUES:
            today = _VALUES[new, value]
            _tell(f'`{new} = "{value}"` is written {new} = "{today}" now')
            value = today
        settings[new] = value
    return settings


def renamed_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl by today's names."""
    return renamed(row) if "rate" in row and "learning_rate" not in row else row


@functools.cache
def _tell(line: str) -> None:
    log.warning("%s", line)
