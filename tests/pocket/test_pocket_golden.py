"""A short run on one process has a recorded digest: who changes what is learned sees it here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_trainer.pocket.model import load_pocket
from apl_trainer.pocket.train import PocketOrigin, pocket_run

CONFIG = TrainConfig(steps=6, max_steps=0, target_cache=48, validate_every=3)
DIGESTS = (
    "0d695c7a1ae3297b6675e4194dc0c0912b67aa1bf82610ebc17cebe317a005af",
    "db0885b429fefa3793af65e1841f122985460b6be576a11537e5b2c0b5616ff8",
)
"""On the two kinds of processors it was recorded on: they add up in another order."""

LOSSES = [
    *(4.26195096122101, 2.1198239059730746, 1.313161207223311),
    *(1.6707422944833528, 1.0472204196965322, 1.6616747911437415),
]
RECORDED_ON = "AVX512"
"""With torch 2.13 and 2.14; kernels for other instructions add up in another order."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads add up in an order of their own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_short_run_learns_what_it_always_learned(tmp_path: Path) -> None:
    model, folder = load_pocket(), RunFolder(tmp_path / "run")
    folder.create(CONFIG)
    prefix = pocket_run(model, CONFIG, folder, PocketOrigin(str(model.folder), None)).run()
    losses = [row["loss"] for row in folder.rows() if "loss" in row]
    assert losses == pytest.approx(LOSSES, rel=1e-3)
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == RECORDED_ON:
        assert prefix.digest in DIGESTS
    else:
        warnings.warn(f"no digest for {capability}: the losses alone were compared", stacklevel=1)
