"""`apl train` and `apl resume`: on a pocket model, or on a real checkpoint."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import ConfigError, RunError

from . import arguments
from .common import READING, Verbs, add_any_model, is_checkpoint, load_model, verb
from .setting_flags import add_settings, settings_from

if TYPE_CHECKING:
    from apl_core.prefix import Prefix
    from apl_core.training.callbacks import Callback, Control
    from apl_core.training.config import TrainConfig
    from apl_core.training.folder import RunFolder
    from apl_core.training.loop import Trainer

    from ..checkpoints.train import CheckpointOrigin
    from ..pocket.train import PocketOrigin

_OWN_PICTURES = {"per_name": 8, "draw_steps": 20}
_REAL_ONLY = (*READING, *_OWN_PICTURES, "data", "vram", "size", "device", "compile")


def add(verbs: Verbs) -> None:
    """Add `train` and `resume`."""
    train = verb(
        verbs,
        "train",
        run_train,
        "learn a prefix into a run folder",
        "apl train --model sd15.safetensors --names names.txt --out runs/mine",
    )
    add_any_model(train)
    train.add_argument("--out", type=arguments.out_folder, help="the run's folder; must be new")
    train.add_argument("--names", type=Path, help="text file of names to learn from, one a line")
    train.add_argument("--start", type=Path, help="a prefix file to go on from")
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="print the settings, on a checkpoint also expected memory and time, and stop",
    )
    add_settings(train)
    real = train.add_argument_group("on a real checkpoint")
    real.add_argument("--data", type=Path, metavar="DIR", help="pictures with a metadata.jsonl")
    real.add_argument("--vram", type=int, choices=(4, 6, 8, 12, 24), help="preset for a card of GB")
    real.add_argument("--size", type=arguments.pixels, help="side of the pictures in pixels")
    real.add_argument(
        "--per-name", type=arguments.whole(1, 10_000), help="pictures drawn of each of --names (8)"
    )
    real.add_argument(
        "--draw-steps", type=arguments.steps, help="DDIM steps for those pictures (20)"
    )
    real.add_argument(
        "--device", default=None, help="cuda, cuda:1, cpu ... (the GPU if there is one)"
    )
    real.add_argument(
        "--compile", action="store_true", help="let torch.compile build the U-Net's kernels first"
    )
    resume = verb(
        verbs,
        "resume",
        run_resume,
        "go on with a run that was stopped or killed",
        "apl resume runs/mine",
    )
    resume.add_argument("folder", type=Path, help="the run's folder")
    for each in (train, resume):
        each.add_argument(
            "--tensorboard", action="store_true", help="write TensorBoard's files into the run too"
        )


def run_train(given: argparse.Namespace) -> int:
    """Learn a prefix from the beginning."""
    if not is_checkpoint(given.model):
        return _train_pocket(given)
    return _train_checkpoint(given)


def _train_pocket(given: argparse.Namespace) -> int:
    from apl_core.formats import read_prefix
    from apl_core.training.config import TrainConfig

    from ..names import read_names
    from ..pocket.train import POCKET, PocketOrigin, chosen_people

    arguments.refuse_on_pocket(given, _REAL_ONLY)
    config = TrainConfig.from_mapping(settings_from(given), POCKET)
    if given.dry_run:
        print(config.to_toml(), end="")
        return 0
    names = None if given.names is None else read_names(given.names)
    start = None if given.start is None else read_prefix(given.start)
    model = load_model(given.model)
    chosen_people(model.world, names)
    origin = PocketOrigin(str(model.folder), names)
    folder = _new_folder(given.out, config)
    origin.save(folder)
    return _go(folder, config, origin, start, given.tensorboard)


def _train_checkpoint(given: argparse.Namespace) -> int:
    from apl_core.formats import read_prefix
    from apl_core.training.config import TrainConfig

    from ..checkpoints.compiling import check_compiler
    from ..checkpoints.detect import detect
    from ..checkpoints.load import check_reading
    from ..checkpoints.presets import (
        REAL,
        dtype_for,
        fitted,
        forecast,
        own_device,
        picture_size,
        preset_for,
    )
    from ..checkpoints.self_generated import jobs
    from ..checkpoints.train import CheckpointOrigin
    from ..checkpoints.training_data import read_data
    from ..names import read_names

    settings = settings_from(given)
    config = TrainConfig.from_mapping(settings, REAL)
    if (given.data is None) == (given.names is None):
        raise ConfigError(
            "train on a checkpoint",
            "it needs pictures to learn from",
            "give --names FILE, and the model draws its own, or --data DIR with a metadata.jsonl",
        )
    _own_pictures(given)
    device = own_device(given.device)
    found = detect(given.model, given.prediction)
    preset = preset_for(found, given.vram, device)
    size = picture_size(found, preset, given.size)
    config = fitted(config, preset, dtype_for(preset, device), settings)
    names = None if given.names is None else read_names(given.names)
    if names is None:
        texts = [text for row in read_data(given.data, config) for text in row.texts]
    else:
        texts = [row.text for row in jobs(names, given.per_name, config.seed)]
    check_reading(found, given.tokenizer, given.clip_skip, texts)
    if given.dry_run:
        print(config.to_toml() + f"\n{found.sentence}\nsize {size}")
        print(forecast(found, config, preset, size, device).text(config, str(device)))
        return 0
    start = None if given.start is None else read_prefix(given.start)
    if given.compile:
        check_compiler(device)
    origin = CheckpointOrigin(
        str(given.model.resolve()),
        None if given.data is None else str(given.data.resolve()),
        names,
        given.per_name,
        size,
        given.vram,
        None if given.tokenizer is None else str(given.tokenizer.resolve()),
        given.clip_skip,
        given.prediction,
        given.device,
        given.draw_steps,
        given.compile,
    )
    with _together():
        folder = _new_folder(given.out, config, origin)
        return _go(folder, config, origin, start, given.tensorboard)


def _own_pictures(given: argparse.Namespace) -> None:
    """Fill in how own pictures are drawn; ConfigError if it is told and there are others."""
    if given.data is not None:
        arguments.refuse_ignored(
            given,
            tuple(_OWN_PICTURES),
            "the pictures of --data are drawn already",
            "leave it out, or give --names instead of --data",
        )
    for name, usual in _OWN_PICTURES.items():
        if getattr(given, name) is None:
            setattr(given, name, usual)


def run_resume(given: argparse.Namespace) -> int:
    """Go on with a run from its last saved state."""
    from apl_core.training.config import TrainConfig
    from apl_core.training.folder import RunFolder

    from ..checkpoints.train import CheckpointOrigin
    from ..pocket.train import PocketOrigin
    from ..settings import read_toml

    folder = RunFolder(given.folder)
    if not folder.config.is_file():
        raise RunError(
            f"resume {given.folder}",
            "there is no run in this folder (no config.toml)",
            "give the folder that `apl train --out` made",
        )
    config = TrainConfig.from_mapping(read_toml(folder.config))
    origin = CheckpointOrigin.of(folder)
    with _together():
        return _go(folder, config, origin or PocketOrigin.of(folder), None, given.tensorboard)


def _new_folder(
    out: Path | None, config: TrainConfig, origin: CheckpointOrigin | None = None
) -> RunFolder:
    """The run's folder with its settings in it, made by the first process."""
    from apl_core.training.folder import RunFolder
    from apl_core.training.parallel import Group

    if out is None:
        raise ConfigError("train", "--out is missing", "give a new folder for the run")
    folder = RunFolder(out)
    if Group().rank == 0:
        folder.create(config)
        if origin is not None:
            origin.save(folder)
    return folder


@contextmanager
def _together() -> Iterator[None]:
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


def _trainer(
    origin: PocketOrigin | CheckpointOrigin,
    config: TrainConfig,
    folder: RunFolder,
    callbacks: list[Callback],
    control: Control,
    start: Prefix | None,
) -> Trainer:
    from apl_core.training.parallel import Group

    from ..checkpoints.train import CheckpointOrigin, checkpoint_run, load_origin
    from ..pocket.train import pocket_run

    if isinstance(origin, CheckpointOrigin):
        model = load_origin(origin, print if not Group().rank else lambda text: None)
        return checkpoint_run(model, config, folder, origin, callbacks, control, start)
    pocket = load_model(Path(origin.model))
    return pocket_run(pocket, config, folder, origin, callbacks, control, start)


def _go(
    folder: RunFolder,
    config: TrainConfig,
    origin: PocketOrigin | CheckpointOrigin,
    start: Prefix | None,
    tensorboard: bool,
) -> int:
    import torch

    from apl_core.training.callbacks import Control
    from apl_core.training.parallel import Group

    from ..callbacks import ProgressBar, stop_on_interrupt
    from ..checkpoints.compiling import compiling
    from ..pocket.train import PocketOrigin
    from ..report.curves import save_curves
    from ..tensorboard_callback import TensorBoardCallback

    if isinstance(origin, PocketOrigin):
        torch.set_num_threads(1)  # more are slower for networks this small
    control = Control()
    callbacks: list[Callback] = [ProgressBar()]
    callbacks.append(_leave_before_learning(control))
    with stop_on_interrupt(control), ExitStack() as stack:
        if tensorboard and not Group().rank:
            callbacks.append(stack.enter_context(TensorBoardCallback(folder.path)))
        trainer = _trainer(origin, config, folder, callbacks, control, start)
        with compiling(not isinstance(origin, PocketOrigin) and origin.compile):
            prefix = trainer.run()
    if Group().rank:
        return 0
    save_curves(folder.rows(), folder.path / "curves.svg")
    if control.stop.is_set():
        print(f"stopped and saved. Go on with: apl resume {folder.path}")
        return 1
    print(f"{folder.prefix}\n  kept step {prefix.card.steps}")
    measure = f"apl evaluate --prefix {folder.prefix}"
    if not isinstance(origin, PocketOrigin):
        made = origin.data is not None and (Path(origin.data) / "manifest.json").is_file()
        whom = f"--data {origin.data}" if made else "--names FILE"  # `apl dataset`'s has groups
        measure += f" --model {origin.checkpoint} {whom} --out DIR"
    print(f"  measure it with: {measure}")
    return 0


def _leave_before_learning(control: Control) -> Callback:
    """A callback that ends a run which is stopped before its first step: there is nothing to save.

    Pictures and latents that are there stay; what is drawn or foretold goes on from there.
    """
    from apl_core.training.callbacks import Event, Phase, Stepped

    learning = False

    def on_event(event: Event) -> None:
        nonlocal learning
        learning |= isinstance(event, Stepped)
        if isinstance(event, Phase) and control.stop.is_set() and not learning:
            raise KeyboardInterrupt

    return on_event
