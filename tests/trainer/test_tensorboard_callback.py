"""TensorBoard's files of a run, read back by TensorBoard itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_run import settings
from tiny_train import train

from apl_core.errors import AplError
from apl_core.training.callbacks import Previewed
from apl_core.training.folder import RunFolder
from apl_trainer.report.sheet import save_sheet
from apl_trainer.tensorboard_callback import TensorBoardCallback


def test_curves_and_previews_are_what_the_run_logged(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    save_sheet([torch.rand(2, 3, 8, 8)], tmp_path / "sheet.png")
    with TensorBoardCallback(tmp_path) as board:
        train(tmp_path / "run", settings(), board)
        board(Previewed(12, tmp_path / "sheet.png"))
    found = reading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [row["loss"] for row in RunFolder(tmp_path / "run").rows() if "loss" in row]
    assert [event.value for event in found.Scalars("loss")] == pytest.approx(logged, rel=1e-5)
    assert len(logged) == 12
    assert {"loss/identity", "learning_rate", "validation/score"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Images("preview")] == [12]


def test_without_tensorboard_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(AplError, match="pip install tensorboard"):
        TensorBoardCallback(tmp_path)
