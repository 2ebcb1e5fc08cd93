# pyright: reportMissingImports=false
"""A whole run: make or read the pictures, train, look at the result; the host stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from PIL import Image
from torch import Tensor

from apl_core.atomic import numbered
from apl_core.errors import ConfigError, HostError, RunError
from apl_core.example_kinds import Kind, Target
from apl_core.formats import write_prefix
from apl_core.prefix import Prefix, Rows
from apl_core.training.callbacks import Control, Event, Extended, Phase, Stepped, Validated
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.learner import learner
from apl_core.training.loop import Model, Trainer
from apl_core.training.material import Material, Picture, pictures_to_draw
from apl_core.training.micro import out_of_memory
from apl_core.training.people import ListedPerson
from apl_core.training.text_stage import FROM_TEXTS
from apl_core.training.verdict import goes_on, in_short, verdict

from ..families import family_of
from .denoiser import ComfyDenoiser, sampled_levels
from .encoder import ComfyEncoder
from .pictures import LatentSampler, save, scheduler_of, sheet
from .source import given_picture, kind_of
from .trainable import load, trainable

NO_GRADIENT = ("does not require grad", "no autograd formula")
"""What PyTorch says where the host's own functions cannot be learned through."""

LOOKED_AT = 3
"""Names in a preview."""


@dataclass(frozen=True)
class Job:
    """What a node asks for, beside the model; `cfg` 0 is what is usual for its family."""

    config: TrainConfig
    people: Sequence[ListedPerson]
    things: Sequence[str]
    others: Sequence[str]
    size: tuple[int, int]
    per_name: int
    steps: int
    cfg: float
    pictures: Sequence[tuple[Tensor, str]] = ()
    start: Prefix | None = None
    preview_every: int = 50


@dataclass
class Watcher:
    """Passes progress on: `told(done, total, preview)` after every picture and every step.

    `said` gets a line about what was measured.
    """

    told: Callable[[int, int, Image.Image | None], None]
    total: int
    said: Callable[[str], None] = lambda line: None
    done: int = 0
    losses: list[float] = field(default_factory=list[float])

    def picture(self) -> None:
        """One more picture is made, or one more step."""
        self.done += 1
        self.told(self.done, self.total, None)

    def preview(self, image: Image.Image) -> None:
        """A preview is ready."""
        self.told(self.done, self.total, image)

    def __call__(self, event: Event) -> None:
        """Hear of an event of the training loop."""
        if isinstance(event, Stepped):
            self.losses.append(event.loss)
            self.picture()
        elif isinstance(event, Phase) and event.name == FROM_TEXTS:
            self.picture()
        elif isinstance(event, Extended):
            self.total += event.steps - event.step
            self.said(goes_on(event))
        elif isinstance(event, Validated) and (found := in_short(event.figures)):
            self.said(f"step {event.step}: {found}")


@dataclass(frozen=True)
class Trained:
    """The prefix, the loss of every step, and pictures (B, H, W, 3): without it, then with it.

    There are no pictures, and no losses, of what was learned on texts alone.
    """

    prefix: Prefix
    losses: list[float]
    pictures: Tensor

    @property
    def verdict(self) -> str:
        """What was measured of it, in words."""
        return verdict(self.prefix.card.figures, self.prefix.card.recipe)


def train(
    job: Job, model: Any | None, clip: Any, vae: Any | None, folder: RunFolder, watcher: Watcher
) -> Trained:
    """Learn a prefix for the loaded model into `folder`; on texts alone where there is no MODEL.

    Of five names or more an eighth is kept for validation; the step that does best on them is kept,
    otherwise the last one. An interrupt saves what is learned so far and then stops the graph.
    Raises HostError for a model that cannot be trained on or memory that does not suffice, and the
    core's errors.
    """
    try:
        if clip is None:
            raise _incomplete("no CLIP", "a CLIP")
        if model is None:
            return _train_on_texts(job, clip, folder, watcher)
        if vae is None:
            raise _incomplete("no VAE", "a VAE")
        return _train(job, model, clip, vae, folder, watcher)
    except RunError as error:
        if error.__cause__ is None or not out_of_memory(error.__cause__):
            raise
        why = error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in NO_GRADIENT):
            raise
        raise HostError(
            "train a prefix",
            "no gradient comes through these weights: they are packed, or an attention without "
            "gradients reads them (SageAttention, FlashAttention of some versions)",
            "load files with fp8, fp16 or bf16 weights, and start ComfyUI with PyTorch's attention",
        ) from error
    management.unload_all_models()  # as ComfyUI itself does where memory runs out
    raise HostError(
        "train a prefix",
        f"there is not enough memory for one example of {job.size[0]} x {job.size[1]} pixels",
        "give a smaller width and height, or close other programs; what was learned before is in "
        f"{folder.path}",
    ) from why


def _train(
    job: Job, model: Any, clip: Any, vae: Any, folder: RunFolder, watcher: Watcher
) -> Trained:
    cfg = job.cfg or family_of(clip).cfg
    levels = sampled_levels(model, scheduler_of(model), job.steps) if cfg == 1 else None
    at_once = job.config.micro_batch or job.config.batch
    encoder, denoiser = ComfyEncoder(clip), ComfyDenoiser(model, at_once, levels)
    folder.create(job.config)
    with torch.inference_mode(False), torch.no_grad():
        sampler = LatentSampler(model, clip, vae, job.size, job.steps, cfg)
        material = _material(job, sampler, watcher)
        texts = [f"a photo of {person.name}" for person in job.people[:LOOKED_AT]]
        before: list[Tensor] = []

        def look(rows: Prefix | Rows) -> tuple[Tensor, Tensor]:
            pair = sampler.before_and_after(texts, job.config.seed, rows, *before)
            before[:] = [pair[0]]
            watcher.preview(sheet(*pair))
            return pair

        def preview(rows: Rows, path: Path) -> None:
            save(sheet(*look(rows)), path)
            load(model, clip)  # the VAE may have pushed them out

        control = Control()

        def ask(event: Event) -> None:
            """Ask for the previews between two validations, which bring one of their own."""
            config, every = job.config, job.preview_every
            if isinstance(event, Stepped) and every and event.step % every == 0:
                own = config.validate_every and event.step % config.validate_every == 0
                if not own and event.step < event.steps:
                    control.preview.set()

        name = f"ComfyUI {type(model.model).__name__}"
        named = Model(encoder, denoiser, name, encoder.family.name)

        def trainer() -> Trainer:
            return learner(
                job.config,
                named,
                material,
                job.people,
                folder,
                previewer=preview if job.preview_every else None,
                callbacks=[watcher, ask],
                control=control,
                start=job.start,
            )

        with trainable(model, clip):
            try:
                prefix = trainer().run()
            except management.InterruptProcessingException:
                if folder.state.exists():
                    control.stop.set()
                    trainer().run()  # resumes, stops before its first step, writes the prefix
                raise
        pictures = torch.cat(look(prefix))
    return Trained(prefix, list(watcher.losses), pictures)


def _train_on_texts(job: Job, clip: Any, folder: RunFolder, watcher: Watcher) -> Trained:
    """Learn on the text encoders alone; an interrupt ends it, and what is learned is written."""
    if not job.config.text_steps:
        raise _incomplete(
            "no MODEL", "a MODEL and a VAE, or set text_steps to learn on texts alone"
        )
    encoder, control = ComfyEncoder(clip), Control()
    target: Target = job.config.target  # pyright: ignore[reportAssignmentType] - settings check it
    given = [given_picture(text, job.people, target) for _, text in job.pictures]
    material = Material([*given, *drawn(job)], lambda _: torch.zeros(1, 1, 1))

    def listen(_: Event) -> None:
        if management.processing_interrupted():
            control.stop.set()

    folder.create(job.config)
    with trainable(None, clip):
        prefix = learner(
            job.config,
            Model(
                encoder,
                None,
                f"ComfyUI {type(clip.cond_stage_model).__name__}",
                encoder.family.name,
            ),
            material,
            job.people,
            folder,
            callbacks=[watcher, listen],
            control=control,
            start=job.start,
        ).run()
        management.throw_exception_if_processing_interrupted()
    return Trained(prefix, [], torch.zeros(0, *reversed(job.size), 3))


def _incomplete(found: str, fix: str) -> HostError:
    return HostError(
        "train a prefix", f"{found} is connected, or its file has none", f"connect {fix}"
    )


def new_folder(root: Path, name: str) -> RunFolder:
    """A run folder under `root` that does not exist yet; ConfigError for an unusable name."""
    if not re.fullmatch(r"[\w][\w .-]{0,60}", name) or name.strip(" .") != name:
        raise ConfigError(
            "name the run",
            f"{name!r} is not a valid folder name",
            "use letters, digits, spaces, - and _",
        )
    return RunFolder(numbered(root / name))


def keep(trained: Trained, home: Path, run: RunFolder) -> Path:
    """Put the prefix where APL Load Prefix finds it, under the run's name."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{run.path.name}.safetensors"
    write_prefix(trained.prefix, path)
    return path


def drawn(job: Job) -> list[Picture]:
    """The pictures that the model has to draw itself before the first step."""
    given = {kind_of(text, job.people) for _, text in job.pictures}
    own: dict[Kind, Sequence[str]] = {"things": job.things, "people": job.others}
    every = pictures_to_draw(job.people, job.per_name, job.config.seed, own)
    return [picture for picture in every if picture.kind not in given]


def _material(job: Job, sampler: LatentSampler, watcher: Watcher) -> Material:
    """Connected pictures, and those of every other kind drawn by the model, with their latents."""
    target: Target = job.config.target  # pyright: ignore[reportAssignmentType] - settings check it
    pictures: list[Picture] = []
    latents: list[Tensor] = []
    for pixels, text in job.pictures:
        found = sampler.read(pixels)
        pictures += [given_picture(text, job.people, target)] * len(found)
        latents += list(found)
    for number, picture in enumerate(drawn(job)):
        pictures.append(picture)
        latents.append(sampler.paint(picture.text, job.config.seed + number))
        watcher.picture()
    return Material(pictures, latents.__getitem__)
