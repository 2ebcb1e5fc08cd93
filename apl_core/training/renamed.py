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
    "warm_steps": "warm_start_steps",
    "lowest_t": "min_timestep",
    "lowest_t_free": "min_timestep_free",
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
_VALUES = {("mixed_precision", "off"): "no"}

log = logging.getLogger("apl")


def renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by today's names; ConfigError where both names of one are given."""
    settings: dict[str, Any] = {}
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
