"""Settings on Python 3.10, which has no tomllib: what is read, and that it is what TOML says."""

from __future__ import annotations

import sys

import pytest

from apl_core.training.config import TrainConfig
from apl_trainer.plain_toml import loads

GOOD = 'steps = 1_000 # many\n\n# a comment\nx = 2e-3\nrecipe = "a # b \\" c"\nyes = true\n'
BAD = (
    "steps",
    "steps = ",
    "a = 1\na = 2",
    "[table]",
    "a.b = 1",
    "a = [1]",
    "a = {}",
    "a = 'x'",
    "a = nul",
    "a = null",
    'a = "x',
    "a = 1 2",
)


def test_it_reads_what_this_project_writes() -> None:
    assert TrainConfig.from_mapping(loads(TrainConfig().to_toml())) == TrainConfig()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no tomllib to compare with")
def test_it_agrees_with_toml() -> None:
    import tomllib

    assert loads(GOOD) == tomllib.loads(GOOD)


@pytest.mark.parametrize("text", BAD)
def test_everything_else_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        loads(text)
