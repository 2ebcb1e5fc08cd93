"""A training run on a real checkpoint: material in, the core's trainer out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import torch
import torch.distributed as dist

from apl_core.captions import alike
from apl_core.prefix import Prefix
from apl_core.schedule import Prediction
from apl_core.training.callbacks import Callback, Control, Phase
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer
from apl_core.training.parallel import Group

from ..metadata_jsonl import CaptionedPicture
from ..run_paths import read_origin, save_origin
from .compiling import check_compiler
from .detect import detect
from .load import STEPS, CheckpointModel, Options, load_checkpoint
from .presets import dtype_for, own_device, picture_size, preset_for, text_dtype_for
from .previews import Previews
from .self_generated import draw_data, jobs
from .training_data import DataSource, LatentCache, heldout_names, read_data

_PATHS = ("checkpoint", "data", "tokenizer")


@dataclass(frozen=True)
class CheckpointOrigin:
    """Where a run's model and data come from, kept beside its settings so that it can resume.

    Without `data` the model draws its own pictures of `names` into the run's folder.
    """

    checkpoint: str
    data: str | None = None
    names: tuple[str, ...] | None = None
    per_name: int = 8
    size: int | None = None
    vram: int | None = None
    tokenizer: str | None = None
    clip_skip: int | None = None
    prediction: str | None = None
    device: str | None = None
    draw_steps: int = STEPS
    compile: bool = False

    def save(self, folder: RunFolder) -> None:
        """Write `origin.json` into a run folder."""
        save_origin(folder, asdict(self), _PATHS)

    @staticmethod
    def of(folder: RunFolder) -> CheckpointOrigin | None:
        """Read `origin.json`; None if the run is on a pocket model, RunError if it is broken."""
        return read_origin(folder, _PATHS, CheckpointOrigin._made)

    @staticmethod
    def _made(data: dict[str, Any]) -> CheckpointOrigin | None:
        if "checkpoint" not in data:
            return None
        hints = get_type_hints(CheckpointOrigin)
        kinds = {
            name: {get_origin(kind) or kind for kind in get_args(hint) or (hint,)}
            for name, hint in hints.items()
        }
        if wrong := [name for name, value in data.items() if type(value) not in kinds[name]]:
            raise ValueError(f"{', '.join(wrong)} is of another kind")
        return CheckpointOrigin(**data)


def load_origin(origin: CheckpointOrigin, say: Callable[[str], None]) -> CheckpointModel:
    """The run's model on its device, prepared for training."""
    found = detect(Path(origin.checkpoint), cast("Prediction | None", origin.prediction))
    device = own_device(origin.device)
    preset = preset_for(found, origin.vram, device)
    options = Options(
        None if origin.tokenizer is None else Path(origin.tokenizer),
        origin.clip_skip,
        cast("Prediction | None", origin.prediction),
        dtype_for(preset, device),
        text_dtype_for(found, preset, device),
        str(device),
    )
    if origin.compile:
        check_compiler(device)
    model = load_checkpoint(Path(origin.checkpoint), options, say)
    unet = model.denoiser.unet
    if preset.checkpointing:
        unet.enable_gradient_checkpointing()
    if device.type == "cuda":
        cast(Any, unet).to(memory_format=torch.channels_last)
    if origin.compile:
        cast(Any, unet).compile()
    return model


def checkpoint_run(
    model: CheckpointModel,
    config: TrainConfig,
    folder: RunFolder,
    origin: CheckpointOrigin,
    callbacks: Sequence[Callback] = (),
    control: Control | None = None,
    start: Prefix | None = None,
) -> Trainer:
    """A trainer on a checkpoint, its latents encoded and its VAE moved out of the way."""
    group = Group()

    def tell(name: str, done: int, total: int) -> None:
        if group.rank == 0:
            for callback in callbacks:
                callback(Phase(name, done, total))

    found, device = model.recognized, own_device(origin.device)
    size = picture_size(found, preset_for(found, origin.vram, device), origin.size)
    data = Path(origin.data) if origin.data else folder.path / "data"
    sampler = model.sampler(origin.draw_steps, size=size, batch=4 if device.type == "cuda" else 1)
    if origin.data is None:
        work = jobs(origin.names or (), origin.per_name, config.seed)
        model.encoder.check(row.text for row in work)
        draw_data(sampler, work, data, tell, group)
        _meet(group)
    rows = read_data(data, config)
    model.encoder.check(text for row in rows for text in row.texts)
    cache = LatentCache(data / ".latents", model.latents, size)
    cache.prepare([data / row.file_name for row in rows], tell, group)
    _meet(group)
    model.latents.vae.to("cpu")  # pyright: ignore[reportArgumentType]
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Trainer(
        config,
        Model(model.encoder, model.denoiser, model.name),
        DataSource(rows, lambda name: cache.get(data / name), config),
        folder,
        callbacks=callbacks,
        control=control,
        start=start,
        names_trained=len(names_in(rows)),
        previewer=Previews(sampler, names_in(rows), heldout_names(data)),
    )


def names_in(rows: Sequence[CaptionedPicture]) -> list[str]:
    """Whom a dataset names, in its order."""
    named = (row.name for row in reversed(rows) if row.kind == "identity" and row.name)
    return list({alike(name): name for name in named}.values())[::-1]


def _meet(group: Group) -> None:
    if group.size > 1:
        dist.barrier()
