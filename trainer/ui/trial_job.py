"""Draws what was asked for on the page: between two steps of a run, or in a process of its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from apl_core.errors import RunError
from apl_core.prefix import Rows

from ..callbacks import StatusFile
from ..report.sheet import png, to_image
from .reported import reported
from .run_request import RunRequest
from .trial import PICTURES, TRIED, TRY, Trial

if TYPE_CHECKING:
    from ..checkpoints.loaded import CheckpointModel
    from ..pocket.model import PocketModel
    from ..sampling import Progress, Sampler

Paint = Callable[[Trial, Rows, "Progress"], Sequence[Tensor]]
"""Both pictures (1, 3, H, W) of a trial, without the rows and with them."""

_ENLARGED = 8
"""How many times a pocket picture of 32 pixels is enlarged."""


def between(run: Path, paint: Paint) -> Callable[[Rows], None]:
    """What a run at work does between two steps: it draws what was asked for in its folder."""

    def look(rows: Rows) -> None:
        if (run / TRY).exists():
            reported(run / TRIED, partial(_draw_now, paint=paint, rows=rows))

    return look


def _draw_now(folder: Path, status: StatusFile, paint: Paint, rows: Rows) -> str:
    (folder.parent / TRY).unlink(missing_ok=True)
    draw_into(folder, status, paint, rows)
    return "With what it had learned at that step."


def draw_into(folder: Path, status: StatusFile, paint: Paint, rows: Rows) -> None:
    """Draw the trial of a folder into it; AplErrors before anything is drawn."""
    pictures = paint(Trial.of(folder), rows, partial(status.say, "pictures without and with"))
    for name, drawn in zip(PICTURES, pictures, strict=True):
        picture = to_image(drawn[0])
        if picture.width < 64:
            size = picture.width * _ENLARGED, picture.height * _ENLARGED
            picture = picture.resize(size, Image.Resampling.NEAREST)
        png(picture, folder / name)


def draw_trial(folder: Path, status: StatusFile) -> str:
    """Load the model of a run that is over and draw its trial; how to draw the same again."""
    from apl_core.formats import read_prefix

    from ..two_pictures import refuse_unfit

    run, trial = folder.parent, Trial.of(folder)
    file = run / "prefix.safetensors"
    if not file.is_file():
        raise RunError(f"draw with the prefix of {run.name}", "it has none yet", "let it learn")
    prefix = read_prefix(file)
    status.say("loading the model")
    order = RunRequest.of(run)
    load = _pocket if order.kind == "pocket" else _checkpoint
    model, sampler, told = load(run, order, trial)
    refuse_unfit(prefix, model.encoder, getattr(model, "family", ""))
    draw_into(folder, status, painter(model, sampler), prefix.rows())
    words = ["apl", "generate", *told, "--prefix", str(file), "--count", "1"]
    words += ["--seed", str(trial.seed)]
    words += ["--negative", trial.negative] if trial.negative else []
    return shlex.join([*words, trial.prompt])


def painter(model: PocketModel | CheckpointModel, sampler: Sampler) -> Paint:
    """What draws a trial on a loaded model."""
    from ..sampling import Request
    from ..two_pictures import draw_two

    def paint(trial: Trial, rows: Rows, progress: Progress) -> Sequence[Tensor]:
        request = Request(trial.prompt, trial.seed, trial.negative)
        return draw_two(model.encoder, sampler, [request], rows, progress)

    return paint


def _pocket(run: Path, order: RunRequest, trial: Trial) -> tuple[Any, Sampler, list[str]]:
    import torch

    from ..pocket.model import load_pocket
    from ..run_paths import BUILT_IN

    torch.set_num_threads(1)
    model = load_pocket(Path(order.model))
    told = [] if Path(order.model) == BUILT_IN else ["--model", order.model]
    return model, model.sampler(), told


def _checkpoint(run: Path, order: RunRequest, trial: Trial) -> tuple[Any, Sampler, list[str]]:
    """In the precision that `apl generate` draws in, at the run's size and steps."""
    from apl_core.training.folder import RunFolder

    from ..checkpoints.load import check_reading, load_detected
    from ..checkpoints.presets import drawing_dtypes
    from ..checkpoints.train import CheckpointOrigin

    origin = CheckpointOrigin.of(RunFolder(run))
    if origin is None:
        raise RunError(f"draw in {run}", "it is not a run on a checkpoint", "choose another run")
    setup = origin.setup()
    options = origin.options(setup)
    texts = (trial.prompt, trial.negative)
    check_reading(setup.info, options.tokenizer, options.clip_skip, texts)
    dtype, text_dtype = drawing_dtypes(setup.info, setup.device.type != "cpu")
    model = load_detected(setup.info, replace(options, dtype=dtype, text_dtype=text_dtype))
    read = {
        "--model": origin.checkpoint,
        "--tokenizer": origin.tokenizer,
        "--clip-skip": origin.clip_skip,
        "--prediction": origin.prediction,
        "--quantize": origin.quantize,
        "--steps": origin.draw_steps,
        "--size": setup.size,
    }
    told = [word for name, value in read.items() if value for word in (name, str(value))]
    return model, model.sampler(origin.draw_steps, size=setup.size), told
