"""The learning rate over a run."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Rate at a step of so many: linear warm-up, then constant or falling to 0 along a cosine."""
    if step < config.lr_warmup_steps:
        return config.learning_rate * (step + 1) / config.lr_warmup_steps
    if config.lr_scheduler == "constant":
        return config.learning_rate
    share = (step - config.lr_warmup_steps) / max(steps - config.lr_warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
