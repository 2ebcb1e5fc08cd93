"""What `apl train`, `apl pocket train` and `apl resume` share: a run and whoever watches it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apl_core.errors import ConfigError

from . import arguments
from .setting_flags import add_settings

if TYPE_CHECKING:
    from apl_core.prefix import Prefix
    from apl_core.training.callbacks import Callback, Control
    from apl_core.training.config import TrainConfig
    from apl_core.training.folder import RunFolder
    from apl_core.training.loop import Trainer

    from ..checkpoints.train import CheckpointOrigin
    from ..pocket.train import PocketOrigin


class TrainingRun(Protocol):
    """A run on some kind of model, to begin or to go on with."""

    @property
    def origin(self) -> CheckpointOrigin | PocketOrigin:
        """What is kept of it in its folder."""
        ...

    @property
    def compile(self) -> bool:
        """Whether torch.compile builds kernels for it."""
        ...

    def load(self, say: Callable[[str], None]) -> Any:
        """Its model."""
        ...

    def trainer(
        self,
        model: Any,
        config: TrainConfig,
        folder: RunFolder,
        callbacks: Sequence[Callback],
        control: Control,
        start: Prefix | None,
    ) -> Trainer:
        """A trainer on the loaded model."""
        ...

    def measured_by(self, prefix: Path) -> str:
        """The command that measures its prefix."""
        ...


def add_training(train: argparse.ArgumentParser, dry_run: str) -> None:
    """The options that both kinds of models have."""
    train.add_argument("--out", type=arguments.out_folder, help="the run's folder; must be new")
    train.add_argument("--names", type=Path, help="text file of names to learn from, one a line")
    train.add_argument("--start", type=Path, help="a prefix file to go on from")
    train.add_argument("--dry-run", action="store_true", help=dry_run)
    add_tensorboard(train)
    add_settings(train)


def add_tensorboard(verb: argparse.ArgumentParser) -> None:
    """The option of whoever watches with TensorBoard."""
    verb.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard's files into the run too"
    )


def begin(given: argparse.Namespace, config: TrainConfig, run: TrainingRun) -> int:
    """Make a run's folder and learn from the beginning; 0, or 1 if it was stopped."""
    from apl_core.formats import read_prefix
    from apl_core.training.folder import RunFolder
    from apl_core.training.parallel import Group

    start = None if given.start is None else read_prefix(given.start)
    if given.out is None:
        raise ConfigError("train", "--out is missing", "give a new folder for the run")
    folder = RunFolder(given.out)
    with several_processes():
        if Group().rank == 0:
            folder.create(config)
            run.origin.save(folder)
        return learn(folder, config, run, start, given.tensorboard)


@contextmanager
def several_processes() -> Iterator[None]:
    """Join the other processes if torchrun started this one."""
    import torch
    import torch.distributed as dist

    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def learn(
    folder: RunFolder,
    config: TrainConfig,
    run: TrainingRun,
    start: Prefix | None,
    tensorboard: bool,
) -> int:
    """Learn in a run's folder, shown on the terminal; 0, or 1 if it was stopped."""
    from apl_core.training.callbacks import Control
    from apl_core.training.parallel import Group
    from apl_core.training.verdict import verdict

    from ..callbacks import LeaveBeforeLearning, ProgressBar, stop_on_interrupt
    from ..checkpoints.compiling import compiling
    from ..report.curves import save_curves
    from ..tensorboard_callback import TensorBoardCallback

    control, first = Control(), Group().rank == 0
    callbacks: list[Callback] = [ProgressBar(), LeaveBeforeLearning(control.stop.is_set)]
    with stop_on_interrupt(control), ExitStack() as stack:
        if tensorboard and first:
            callbacks.append(stack.enter_context(TensorBoardCallback(folder.path)))
        model = run.load(print if first else lambda text: None)
        trainer = run.trainer(model, config, folder, callbacks, control, start)
        with compiling(run.compile):
            prefix = trainer.run()
    if not first:
        return 0
    save_curves(folder.rows(), folder.path / "curves.svg")
    if control.stop.is_set():
        print(f"stopped and saved. Go on with: apl resume {folder.path}")
        return 1
    print(f"{folder.prefix}\n  kept step {prefix.card.steps}")
    if "name_left" in prefix.card.figures or not prefix.card.figures:
        print(f"  {verdict(prefix.card.figures, prefix.card.recipe)}")
    print(f"  measure it with: {run.measured_by(folder.prefix)}")
    return 0
