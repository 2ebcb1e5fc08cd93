"""What a worker does: learning and measuring on a pocket model, learning on a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import ConfigError, RunError
from apl_core.metadata import printable
from apl_core.training.callbacks import Callback, Control, Phase, phase_report
from apl_core.training.config import PER_NAME, TrainConfig, preset
from apl_core.training.folder import RunFolder
from apl_core.training.renamed import renamed
from apl_core.training.verdict import verdict

from ..settings import read_toml
from .import_job import imported
from .review import reviewed
from .run_request import SETTINGS, RunRequest
from .trial_job import between, painter

if TYPE_CHECKING:
    from ..checkpoints.train import CheckpointRun

log = logging.getLogger("apl")


def learn_pocket(
    folder: Path, order: RunRequest, control: Control, callback: Callback
) -> str | None:
    """Learn and measure on a pocket model; a sentence about what came out, None if stopped."""
    from ..pocket.demo import learn_and_measure, verdict
    from ..pocket.eval_prompts import identity_prompts
    from ..pocket.metrics import PromptSet
    from ..pocket.model import load_pocket
    from ..pocket.source import training_people
    from ..pocket.train import PocketOrigin, chosen_people

    model = load_pocket(Path(order.model))
    people = chosen_people(model.world, order.names)
    run, origin = RunFolder(folder), PocketOrigin(order.model, order.names)
    if run.config.is_file():
        config = TrainConfig.from_mapping(read_toml(run.config))
    else:
        config = TrainConfig.from_mapping(read_toml(folder / SETTINGS), preset(order.preset))
        run.create(config)
        origin.save(run)
    names, seeds, free = (16, 2, 32) if order.preset == "quick" else (64, 4, 128)
    asked = training_people(people)[0][-names:]
    prompts = PromptSet.of(model.world, names, seeds, free)
    prompts = replace(prompts, trained=tuple(identity_prompts(model.world, asked, seeds)))
    control = replace(control, between=between(folder, painter(model, model.sampler())))
    callback(Phase("drawing pictures to compare with", 0, 0))
    flat = learn_and_measure(
        model,
        config,
        run,
        origin,
        prompts,
        [callback],
        control,
        lambda text: log.info("%s", text),
        tell=phase_report([callback]),
    )
    return None if flat is None else verdict(flat)


def learn_checkpoint(
    folder: Path, order: RunRequest, control: Control, callback: Callback
) -> str | None:
    """Learn on a checkpoint, from pictures that it draws itself; None if stopped."""
    from ..checkpoints.train import CheckpointOrigin, CheckpointRun

    order = imported(order, callback)
    place = RunFolder(folder)
    if place.config.is_file():
        config = TrainConfig.from_mapping(read_toml(place.config))
        origin = CheckpointOrigin.of(place)
        if origin is None:
            raise RunError(
                f"go on with {folder}", "it is not a run on a checkpoint", "start a new one"
            )
        run = CheckpointRun(origin, origin.setup())
    else:
        config, run = _ordered(folder, order)
        place.create(config)
        run.origin.save(place)
    model = run.load(lambda text: log.info("%s", text))
    if order.look:
        run = replace(run, origin=reviewed(model, run.origin, folder, callback))
    sampler = model.sampler(run.origin.draw_steps, size=run.setup.size)
    control = replace(control, between=between(folder, painter(model, sampler)))
    trainer = run.trainer(model, config, place, [callback], control)
    prefix = trainer.run()
    if control.stop.is_set():
        return None
    if trainer.previewer is not None:
        trainer.previewer(prefix.rows(), folder / "sheet.png")
    kept = f"{prefix.n} vectors learned on {model.name}, kept at step {prefix.card.steps}."
    return f"{kept} {verdict(prefix.card.figures, prefix.card.recipe)}"


def _ordered(folder: Path, order: RunRequest) -> tuple[TrainConfig, CheckpointRun]:
    """Settings and material of a new run on a checkpoint; AplErrors before anything is loaded."""
    from ..checkpoints.presets import TrainingSetup
    from ..checkpoints.quantize import KINDS
    from ..checkpoints.self_generated import jobs
    from ..checkpoints.train import CheckpointOrigin, CheckpointRun

    settings = renamed(read_toml(folder / SETTINGS))
    if order.look:
        settings.setdefault("target", "description")
    size, per_name = settings.pop("size", None), settings.pop("per_name", PER_NAME)
    draw_steps, fewer = settings.pop("draw_steps", None), settings.pop("quantize", None)
    if fewer not in (None, *KINDS):
        raise ConfigError(
            f"set quantize to {printable(str(fewer), 40)}",
            "there is no such kind",
            f"give one of {', '.join(KINDS)}, or leave it out",
        )
    for name, value in (("size", size), ("per_name", per_name), ("draw_steps", draw_steps)):
        if (type(value) is not int and not (value is None and name != "per_name")) or value == 0:
            raise ConfigError(
                f"set {name}", f"{printable(str(value), 40)} is not a number", "give one"
            )
    config = TrainConfig.from_mapping(settings, preset(order.preset))
    setup = TrainingSetup.of(Path(order.model), size=size, quantize=fewer)
    origin = CheckpointOrigin(
        order.model,
        names=order.names,
        per_name=per_name,
        size=setup.size,
        draw_steps=draw_steps or setup.info.steps,
        quantize=fewer,
    )
    work = jobs(origin.people, per_name, config.seed)
    return setup.fitted(config, settings), CheckpointRun(origin, setup, work)
