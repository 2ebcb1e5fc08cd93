"""`apl train` on a checkpoint, and `apl resume` for every run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import ConfigError, RunError
from apl_core.training.config import PER_NAME, TrainConfig

from . import arguments
from .common import Verbs, add_checkpoint, checkpoint_of, verb
from .setting_flags import settings_from
from .training import TrainingRun, add_tensorboard, add_training, begin, learn, several_processes

if TYPE_CHECKING:
    from apl_core.training.folder import RunFolder


TEXT_STEPS = 200
"""Steps of a run on texts alone, unless told."""


def add(verbs: Verbs) -> None:
    """Add `train` and `resume`."""
    train = verb(
        verbs,
        "train",
        run_train,
        "learn a prefix for a checkpoint into a run folder",
        "apl train --model sd15.safetensors --names names.txt --out runs/mine",
    )
    add_checkpoint(train)
    add_training(train, "print the settings and expected memory and time, and stop")
    train.add_argument("--data", type=Path, metavar="DIR", help="pictures with a metadata.jsonl")
    train.add_argument(
        "--vram",
        type=int,
        choices=(4, 6, 8, 12, 16, 24, 32, 48, 80, 96),
        help="preset for a card of GB",
    )
    train.add_argument("--size", type=arguments.pixels, help="side of the pictures in pixels")
    train.add_argument(
        "--per-name",
        type=arguments.whole(1, 10_000),
        help=f"pictures drawn of each of --names ({PER_NAME})",
    )
    train.add_argument(
        "--draw-steps",
        type=arguments.steps,
        help="sampling steps for those pictures (the model's own: SD 20)",
    )
    train.add_argument(
        "--device", default=None, help="cuda, cuda:1, cpu ... (the GPU if there is one)"
    )
    train.add_argument(
        "--compile", action="store_true", help="let torch.compile build the denoiser's kernels"
    )
    train.add_argument(
        "--texts-alone",
        action="store_true",
        help=f"load the text encoders only and learn on texts ({TEXT_STEPS} --text-steps): no "
        "picture is drawn, and nothing is measured",
    )
    resume = verb(
        verbs,
        "resume",
        run_resume,
        "go on with a run that was stopped or killed",
        "apl resume runs/mine",
    )
    resume.add_argument("folder", type=Path, help="the run's folder")
    add_tensorboard(resume)


def run_train(given: argparse.Namespace) -> int:
    """Learn a prefix from the beginning."""
    from ..checkpoints.compiling import check_compiler
    from ..checkpoints.load import check_reading
    from ..checkpoints.presets import TrainingSetup, forecast
    from ..checkpoints.self_generated import jobs
    from ..checkpoints.text_run import TextRun
    from ..checkpoints.train import CheckpointOrigin, CheckpointRun
    from ..checkpoints.training_data import read_data
    from ..names import read_people

    model, settings = checkpoint_of(given), settings_from(given)
    if given.texts_alone:
        settings = {"text_steps": TEXT_STEPS, **settings, "steps": 0}
    config = TrainConfig.from_mapping(settings)
    _check_data(given)
    setup = TrainingSetup.of(
        model,
        given.prediction,
        given.device,
        given.vram,
        given.size,
        given.texts_alone,
        given.quantize,
    )
    config = setup.fitted(config, settings)
    described = config.target == "description"
    people = None if given.names is None else read_people(given.names, described)
    per_name = given.per_name or PER_NAME
    work = [] if people is None else jobs(people, per_name, config.seed)
    texts = [row.text for row in work] + [person.name for person in people or ()]
    if people is None:
        texts = [text for row in read_data(given.data, config) for text in row.texts]
    check_reading(setup.info, given.tokenizer, given.clip_skip, texts)
    if given.dry_run:
        print(config.to_toml() + f"\n{setup.info.sentence}\nsize {setup.size}")
        if given.texts_alone:
            print("the denoiser is not loaded; no picture is drawn, and nothing is measured")
            return 0
        print(forecast(setup, config).text(config, str(setup.device)))
        return 0
    if given.compile:
        check_compiler(setup.device)
    origin = CheckpointOrigin(
        str(model.resolve()),
        None if given.data is None else str(given.data.resolve()),
        None if people is None else tuple(person.line for person in people),
        per_name,
        setup.size,
        given.vram,
        None if given.tokenizer is None else str(given.tokenizer.resolve()),
        given.clip_skip,
        given.prediction,
        given.device,
        given.draw_steps or setup.info.steps,
        given.compile,
        given.texts_alone,
        given.quantize,
    )
    if given.texts_alone:
        return begin(given, config, TextRun(origin, setup))
    return begin(given, config, CheckpointRun(origin, setup, work))


def _check_data(given: argparse.Namespace) -> None:
    """ConfigError unless there is one kind of pictures to learn from, told nothing in vain."""
    if given.texts_alone:
        arguments.refuse_ignored(
            given,
            ("data", "per_name", "draw_steps", "vram", "size", "compile"),
            "no picture has a part in a run on texts alone",
            "leave it out, or leave --texts-alone out",
        )
    if (given.data is None) == (given.names is None):
        raise ConfigError(
            "train on a checkpoint",
            "it needs pictures to learn from",
            "give --names FILE, and the model draws its own, or --data DIR with a metadata.jsonl",
        )
    if given.data is not None:
        arguments.refuse_ignored(
            given,
            ("per_name", "draw_steps"),
            "the pictures of --data are drawn already",
            "leave it out, or give --names instead of --data",
        )


def run_resume(given: argparse.Namespace) -> int:
    """Go on with a run from its last saved state."""
    from apl_core.training.folder import RunFolder

    from ..settings import read_toml

    folder = RunFolder(given.folder)
    if not folder.config.is_file():
        raise RunError(
            f"resume {given.folder}",
            "there is no run in this folder (no config.toml)",
            "give the folder that `apl train --out` or `apl pocket train --out` made",
        )
    config = TrainConfig.from_mapping(read_toml(folder.config))
    with several_processes():
        return learn(folder, config, _run_in(folder), None, given.tensorboard)


def _run_in(folder: RunFolder) -> TrainingRun:
    """The run that a folder tells of, on the kind of model that it was begun on."""
    from ..checkpoints.text_run import TextRun
    from ..checkpoints.train import CheckpointOrigin, CheckpointRun
    from ..pocket.model import load_pocket
    from ..pocket.train import PocketOrigin, PocketRun

    origin = CheckpointOrigin.of(folder)
    if origin is not None:
        kind = TextRun if origin.texts_alone else CheckpointRun
        return kind(origin, origin.setup())
    pocket = PocketOrigin.of(folder)
    return PocketRun(pocket, load_pocket(Path(pocket.model)))
