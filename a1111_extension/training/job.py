"""One run on the checkpoint that A1111 has loaded: its plan, and the webui put back afterwards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from apl_core.errors import ConfigError, RunError
from apl_core.objective import Example
from apl_core.prefix import Rows
from apl_core.training.callbacks import Callback, Control, Event, Phase, Stepped
from apl_core.training.config import CHECKPOINT, TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer
from apl_core.training.people import ListedPerson, kept_for_validation, people_in
from apl_core.training.validation import PromptValidator, validation_examples, verdict

from ..hosts import Host
from ..webui import module
from .material import FRAMES, PEOPLE, LatentSource, make_latents, named_prompts, prompts_of, sample
from .ports import HostDenoiser, HostEncoder, pictures, refuse_unfit

_LATENT = 8
"""Pixels per side of one place of a latent."""

_SIZE = 512
_BASE = replace(
    CHECKPOINT,
    steps=1000,
    batch_identity=2,
    batch_things=1,
    batch_people=2,
    micro_batch=1,
    target_cache=0,
)
"""A card that already holds the webui's model has room for one example at a time."""


@dataclass(frozen=True)
class TrainPlan:
    """What a run in a folder is to do; made before it begins, so that refusals come at once."""

    folder: Path
    people: tuple[ListedPerson, ...]
    config: TrainConfig
    size: int
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
        size, quick = settings.pop("size", _SIZE), order.preset == "quick"
        if not isinstance(size, int) or not 64 <= size <= 1024 or size % 64:
            raise ConfigError(
                "train on pictures of this size",
                f"{size} pixels",
                "give a multiple of 64 from 64 to 1024",
            )
        if run.config.is_file():
            config = TrainConfig.from_mapping(read_toml(run.config))
        else:
            steps = {"quick": 4, "thorough": 2 * _BASE.steps}.get(order.preset, _BASE.steps)
            config = TrainConfig.from_mapping(settings, replace(_BASE, steps=steps))
        people = people_in("\n".join(order.names or ()), described=config.target == "description")
        return TrainPlan(folder, people, config, size, 4 if quick else 20)

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

    def _trainer(
        self, host: Host, model: Any, run: RunFolder, tell: Callback, control: Control
    ) -> Trainer:
        encoder, denoiser = HostEncoder(host, model, self.size), HostDenoiser(model)
        side = self.size // _LATENT
        learned, kept = kept_for_validation(self.people)
        shape, prompts = (4, side, side), prompts_of(learned, self.config.target)

        def drawn(done: int, total: int) -> None:
            tell(Phase("drawing the pictures to learn from", done, total))

        latents = make_latents(
            run.path / "latents.safetensors",
            encoder,
            denoiser,
            prompts,
            shape,
            drawn,
            self.draw_steps,
        )

        free = [
            (place, Example(kind, latents[place], prompt, prompt))
            for place, (kind, prompt, _) in enumerate(prompts)
            if kind != "identity"
        ]
        held, validator = set[int](), None
        if kept and self.config.validate_every:
            held = {place for place, _ in (*free[:2], *free[-2:])}
            faces = [latents[i] for i, prompt in enumerate(prompts) if prompt[0] == "people"]
            named = [pair for person in kept for pair in named_prompts(person, self.config.target)]
            examples = validation_examples(named, faces, [e for i, e in free if i in held])
            validator = PromptValidator(encoder, denoiser, examples, 1)
        rest = [place for place in range(len(prompts)) if place not in held]

        def preview(rows: Rows, path: Path) -> None:
            """Without the prefix above, with it below."""
            texts = [*(FRAMES[0].format(one.name) for one in self.people[:3]), PEOPLE[0]]
            both = [
                sample(encoder, denoiser, texts, shape, 0, each, self.draw_steps)
                for each in (None, rows)
            ]
            strips = [torch.cat(list(pictures(model, latents)), 2) for latents in both]
            sheet = torch.cat(strips, 1).permute(1, 2, 0)
            picture = (255 * sheet).round().byte().cpu().numpy()
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)

        named = Model(encoder, denoiser, model.sd_checkpoint_info.name_for_extra)
        return Trainer(
            self.config,
            named,
            LatentSource([prompts[i] for i in rest], latents[rest]),
            run,
            validator,
            preview,
            [tell],
            control,
            names_trained=len(learned),
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
