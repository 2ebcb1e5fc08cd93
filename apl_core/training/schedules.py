"""The optimizer of a run, and its rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .config import TrainConfig
from .muon import Muon


def new_optimizer(config: TrainConfig, leaves: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer that the settings ask for; each encoder's rows are a group of their own."""
    kind = Muon if config.optimizer == "muon" else torch.optim.Adam
    return kind([{"params": [leaf]} for leaf in leaves.values()], lr=config.learning_rate)


def set_rate(optimizer: torch.optim.Optimizer, rate: float, lengths: Mapping[str, float]) -> None:
    """Set a rate that is counted in the lengths of each encoder's token embeddings."""
    for group, length in zip(optimizer.param_groups, lengths.values(), strict=True):
        group["lr"] = rate * length


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Rate at a step of so many: linear warm-up, then constant or falling to 0 along a cosine."""
    if step < config.lr_warmup_steps:
        return config.learning_rate * (step + 1) / config.lr_warmup_steps
    if config.lr_scheduler == "constant":
        return config.learning_rate
    share = (step - config.lr_warmup_steps) / max(steps - config.lr_warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
