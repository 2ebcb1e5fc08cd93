"""One run on the checkpoint that A1111 has loaded: its plan, and the webui put back afterwards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from apl_core.errors import ConfigError, RunError
from apl_core.formats import read_prefix
from apl_core.prefix import Rows
from apl_core.training.callbacks import (
    Callback,
    Control,
    Event,
    Extended,
    Phase,
    Stepped,
    Validated,
)
from apl_core.training.config import PER_NAME, PICTURE_STEPS, TrainConfig, preset
from apl_core.training.folder import RunFolder
from apl_core.training.learner import learner
from apl_core.training.loop import Model, Trainer
from apl_core.training.material import Material, pictures_to_draw
from apl_core.training.people import ListedPerson, people_in
from apl_core.training.verdict import goes_on, in_short, verdict

from ..hosts import Host, report
from ..webui import module
from .material import make_latents, sample
from .ports import HostDenoiser, HostEncoder, pictures, refuse_unfit

_LATENT = 8
"""Pixels per side of one place of a latent."""

_SIZE = 512
_FITTED = {"micro_batch": 1}
"""A card that already holds the webui's model has room for one example at a time."""


@dataclass(frozen=True)
class TrainPlan:
    """What a run in a folder is to do; made before it begins, so that refusals come at once."""

    folder: Path
    people: tuple[ListedPerson, ...]
    config: TrainConfig
    size: int
    per_name: int
    draw_steps: int

    @staticmethod
    def of(folder: Path, host: Host, model: Any) -> TrainPlan:
        """The plan of a run that was ordered, or began earlier, on a loaded model; AplErrors."""
        from apl_trainer.settings import read_toml
        from apl_trainer.ui.run_request import SETTINGS, RunRequest

        refuse_unfit(host, model)
        order, run = RunRequest.of(folder), RunFolder(folder)
        loaded = model.sd_checkpoint_info.filename
        if Path(order.model).resolve() != Path(loaded).resolve():  # models are often links
            raise RunError(
                f"go on with {folder.name}",
                f"it learns on {Path(order.model).name}, and {Path(loaded).name} is loaded",
                "load the checkpoint that it began with",
            )
        if order.look:
            raise ConfigError(
                "look at the pictures before they are learned from",
                "a run on the loaded checkpoint keeps them as latents",
                "leave that out, or train with `apl ui`",
            )
        settings = read_toml(folder / SETTINGS)
        size = settings.pop("size", _SIZE)
        counts = settings.pop("per_name", PER_NAME), settings.pop("draw_steps", PICTURE_STEPS)
        if not all(isinstance(count, int) and 0 < count <= 1000 for count in counts):
            raise ConfigError(
                "draw the pictures to learn from",
                f"per_name and draw_steps are {counts[0]!r} and {counts[1]!r}",
                "give whole numbers from 1 to 1000",
            )
        if not isinstance(size, int) or not 64 <= size <= 1024 or size % 64:
            raise ConfigError(
                "train on pictures of this size",
                f"{size} pixels",
                "give a multiple of 64 from 64 to 1024",
            )
        if run.config.is_file():
            config = TrainConfig.from_mapping(read_toml(run.config))
        else:
            config = TrainConfig.from_mapping(_FITTED | settings, preset(order.preset))
        people = people_in("\n".join(order.names or ()), described=config.target == "description")
        return TrainPlan(folder, people, config, size, *counts)

    def learn(self, host: Host, folder: Path, status: Any) -> str | None:
        """Do it; a sentence about what came out, None if it was stopped."""
        from apl_trainer.ui.worker_main import WorkerCallbacks

        control, run = Control(), RunFolder(folder)
        watchers = WorkerCallbacks(folder, status, control, False)

        def tell(event: Event) -> None:
            _show(event, control)
            watchers(event)

        tell(Phase("waiting for the webui's queue", 0, 0))
        with module("call_queue").queue_lock, borrowed(host) as model:
            if not run.config.is_file():
                run.create(self.config)
            trainer = self._trainer(host, model, run, tell, control)
            prefix = trainer.run()
            if control.stop.is_set():
                return None
            assert trainer.previewer is not None
            trainer.previewer(prefix.rows(), folder / "sheet.png")
        return f"{prefix.n} vectors, kept at step {prefix.card.steps}. " + verdict(
            prefix.card.figures
        )

    def draw(self, host: Host, folder: Path, status: Any) -> str:
        """Draw a trial of this run into its folder, on the loaded checkpoint; AplErrors."""
        from apl_trainer.ui.trial_job import draw_into

        prefix = read_prefix(RunFolder(self.folder).prefix)
        status.say("waiting for the webui's queue")
        with module("call_queue").queue_lock, borrowed(host) as model, torch.no_grad():
            report(host, prefix, model, fingerprints=True)
            ports = HostEncoder(host, model, self.size), HostDenoiser(model)
            draw_into(folder, status, self._painter(model, *ports), prefix.rows())
        return f"{self.size} pixels, {self.draw_steps} steps, on the loaded checkpoint."

    def _painter(self, model: Any, encoder: HostEncoder, denoiser: HostDenoiser) -> Any:
        """What draws a trial without rows and with them."""
        side, steps = self.size // _LATENT, self.draw_steps

        def paint(trial: Any, rows: Rows, progress: Callable[[int, int], None]) -> list[Tensor]:
            encoder.encode([trial.prompt], rows)  # refused before anything is drawn
            latents = [
                sample(
                    encoder,
                    denoiser,
                    [trial.prompt],
                    (4, side, side),
                    trial.seed,
                    used,
                    steps,
                    negative=trial.negative,
                    tell=lambda done, _, before=before: progress(before + done, 2 * steps),
                )
                for before, used in ((0, None), (steps, rows))
            ]
            return [pictures(model, each) for each in latents]

        return paint

    def _trainer(
        self, host: Host, model: Any, run: RunFolder, tell: Callback, control: Control
    ) -> Trainer:
        from apl_trainer.ui.trial_job import between

        encoder, denoiser = HostEncoder(host, model, self.size), HostDenoiser(model)
        side = self.size // _LATENT
        shape, seed = (4, side, side), self.config.seed
        shown = pictures_to_draw(self.people, self.per_name, seed)

        def drawn(done: int, total: int) -> None:
            tell(Phase("drawing the pictures to learn from", done, total))

        latents = make_latents(
            run.path / "latents.safetensors",
            encoder,
            denoiser,
            shown,
            shape,
            seed,
            drawn,
            self.draw_steps,
        )

        def preview(rows: Rows, path: Path) -> None:
            """Without the prefix above, with it below."""
            texts = [f"a photo of {person.name}" for person in self.people[:3]]
            texts += [one.text for one in shown if one.kind == "people"][:1]
            both = [
                sample(encoder, denoiser, texts, shape, 0, each, self.draw_steps)
                for each in (None, rows)
            ]
            strips = [torch.cat(list(pictures(model, latents)), 2) for latents in both]
            sheet = torch.cat(strips, 1).permute(1, 2, 0)
            picture = (255 * sheet).round().byte().cpu().numpy()
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)

        asked = between(run.path, self._painter(model, encoder, denoiser))
        return learner(
            self.config,
            Model(encoder, denoiser, model.sd_checkpoint_info.name_for_extra),
            Material(shown, latents.__getitem__),
            self.people,
            run,
            previewer=preview,
            callbacks=[tell],
            control=replace(control, between=asked),
        )


def _show(event: Event, control: Control) -> None:
    """Show an event in the webui's progress, and take its interrupt button seriously."""
    state = module("shared").state
    if isinstance(event, Phase):
        state.job_no, state.job_count = event.done, event.total
        state.textinfo = f"APL: {event.name}"
    elif isinstance(event, Stepped):
        state.job_no, state.job_count = event.step, event.steps
        state.textinfo = f"APL: step {event.step} of {event.steps}, loss {event.loss:.3g}"
    elif isinstance(event, Extended):
        state.textinfo = f"APL: {goes_on(event)}"
    elif isinstance(event, Validated):
        state.textinfo = f"APL: step {event.step}, {in_short(event.figures)}"
    if state.interrupted or state.stopping_generation:
        control.stop.set()


@contextlib.contextmanager
def borrowed(host: Host) -> Iterator[Any]:
    """The loaded model for training, and everything of the webui as it was afterwards."""
    shared, hijack = module("shared"), module("sd_hijack")
    model = shared.sd_model
    refuse_unfit(host, model)
    lora = sys.modules.get("networks")  # the builtin extension's module
    if lora is not None:
        lora.loaded_networks.clear()
    shared.state.begin(job="apl-training")
    hijack.undo_optimizations()  # not every fast attention has a backward pass
    try:
        yield model
    finally:
        hijack.model_hijack.apply_optimizations()
        shared.state.end()
        module("devices").torch_gc()
