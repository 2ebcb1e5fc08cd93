"""The rate of every step: warm-up, cosine, constant."""

import math
from itertools import pairwise

import pytest

from apl_core.training.config import TrainConfig
from apl_core.training.schedules import learning_rate


def test_a_cosine_rate_warms_up_and_falls_to_nothing() -> None:
    config = TrainConfig(steps=110, lr_warmup_steps=10, learning_rate=0.03)
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([0.003 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.03) and rates[60] == pytest.approx(0.015)
    assert rates[35] == pytest.approx(0.015 * (1 + math.cos(math.pi / 4)))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-4


def test_a_constant_rate_stays() -> None:
    config = TrainConfig(steps=50, lr_warmup_steps=4, learning_rate=0.02, lr_scheduler="constant")
    assert [learning_rate(config, s, 50) for s in (0, 3, 4, 49)] == pytest.approx(
        [0.005, 0.02, 0.02, 0.02]
    )
    cold = TrainConfig(lr_warmup_steps=0, lr_scheduler="constant", learning_rate=0.02)
    assert learning_rate(cold, 0, 50) == 0.02
