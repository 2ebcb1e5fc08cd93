"""Two gloo processes against one at the same global batch."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import PAPER_STEP, Child
from tiny_train import timeless

from apl_core.formats import read_prefix
from apl_core.training.parallel import Group

PLANS: dict[str, dict[str, Any]] = {
    "fresh targets": {"learning_rate": 0.00125},
    "kept targets": {
        "learning_rate": 0.00125,
        "target_cache": 13,
        "target_cache_uses": 4,
        "batch_identity": 3,
    },
    "one example": {**PAPER_STEP, "learning_rate": 1e-4},
}


def free_port() -> int:
    with socket.socket() as callback:
        callback.bind(("127.0.0.1", 0))
        return callback.getsockname()[1]


def two_processes(folder: Path, **changes: Any) -> list[str]:
    """Outputs of both, started as torchrun starts them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    children = [Child(folder, {**shared, "RANK": str(rank)}, **changes) for rank in (0, 1)]
    ends = [child.finish() for child in children]
    assert [code for code, _ in ends] == [0, 0], ends
    return [output for _, output in ends]


@pytest.mark.skipif(os.name == "nt", reason="gloo needs a POSIX system here")
@pytest.mark.parametrize("plan", PLANS)
def test_two_processes_learn_what_one_learns(plan: str, tmp_path: Path) -> None:
    """Up to rounding: sums over halves of a batch; the rate is low, for Adam enlarges it."""
    changes = {"steps": 6, **PLANS[plan]}
    code, output = Child(tmp_path / "one", **changes).finish()
    assert code == 0, output
    outputs = two_processes(tmp_path / "two", **changes)
    assert "step 6" in outputs[0] and "step" not in outputs[1]  # one of them tells
    one, two = (read_prefix(tmp_path / n / "prefix.safetensors") for n in ("one", "two"))
    moved = 6e-4  # the farthest that Adam can have moved a number
    difference = (one.vectors["pocket"] - two.vectors["pocket"]).abs()
    assert float(difference.mean()) < 0.01 * moved, float(difference.mean()) / moved
    assert (one.card.steps, one.behind) == (two.card.steps, two.behind)
    rows = timeless(tmp_path / "one"), timeless(tmp_path / "two")
    assert [r["step"] for r in rows[0]] == [r["step"] for r in rows[1]]
    for mine, theirs in zip(*rows, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2)


@pytest.mark.skipif(os.name == "nt", reason="gloo needs a POSIX system here")
def test_a_stop_file_stops_both_and_resuming_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stop").touch()
    two_processes(tmp_path / "run", steps=4)
    assert timeless(tmp_path / "run") == [] and not (tmp_path / "run" / "stop").exists()
    two_processes(tmp_path / "run", steps=4)
    assert [r["step"] for r in timeless(tmp_path / "run") if "loss" in r] == [1, 2, 3, 4]


def test_a_single_process_is_a_group_of_one() -> None:
    group = Group()
    assert (group.rank, group.size, group.share(3), group.agree(2.5)) == (0, 1, [0, 1, 2], 2.5)
    part = torch.ones(2, 3)
    group.add_up([part])
    assert group.gather(part, 2) is part and bool((part == 1).all())
