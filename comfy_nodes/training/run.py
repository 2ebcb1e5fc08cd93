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

from apl_core.errors import ConfigError, HostError
from apl_core.formats import write_prefix
from apl_core.objective import Kind, Target
from apl_core.prefix import Prefix, Rows
from apl_core.training.config import TrainConfig
from apl_core.training.events import Control, Event, Stepped
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer

from .borrowed import borrowed, load
from .pictures import Painter, save, sheet
from .ports import ComfyDenoiser, ComfyEncoder
from .source import TEMPLATES, Person, Shown, ShownSource, person_in

LOOKED_AT = 3
"""Names in a preview."""


@dataclass(frozen=True)
class Job:
    """What a node asks for, beside the model."""

    config: TrainConfig
    people: Sequence[Person]
    things: Sequence[str]
    others: Sequence[str]
    size: tuple[int, int]
    per_name: int
    steps: int
    cfg: float
    pictures: Sequence[tuple[Tensor, str]] = ()
    start: Prefix | None = None


@dataclass
class Watcher:
    """Passes progress on: `told(done, total, preview)` after every picture and every step."""

    told: Callable[[int, int, Image.Image | None], None]
    total: int
    done: int = 0
    losses: list[float] = field(default_factory=list[float])

    def picture(self) -> None:
        """One more picture is made."""
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


@dataclass(frozen=True)
class Trained:
    """The prefix, the loss of every step, and pictures (B, H, W, 3): without it, then with it."""

    prefix: Prefix
    losses: list[float]
    pictures: Tensor


def train(
    job: Job, model: Any, clip: Any, vae: Any, folder: RunFolder, watcher: Watcher
) -> Trained:
    """Learn a prefix for the loaded model into `folder`.

    An interrupt saves what is learnt so far into the folder and then stops the graph. Raises
    HostError for a model that cannot be trained on, and the core's errors.
    """
    if clip is None or vae is None:
        raise HostError(
            "train a prefix",
            "the checkpoint has no text encoder or no VAE",
            "connect a CLIP and a VAE that belong to the model",
        )
    at_once = job.config.micro_batch or job.config.batch
    encoder, denoiser = ComfyEncoder(clip, at_once), ComfyDenoiser(model, at_once)
    folder.create(job.config)
    with torch.inference_mode(False), torch.no_grad():
        painter = Painter(model, clip, vae, job.size, job.steps, job.cfg)
        shown = _shown(job, painter, watcher)
        texts = [f"a photo of {person.name}" for person in job.people[:LOOKED_AT]]
        before: list[Tensor] = []

        def look(rows: Prefix | Rows) -> tuple[Tensor, Tensor]:
            pair = painter.before_and_after(texts, job.config.seed, rows, *before)
            before[:] = [pair[0]]
            watcher.preview(sheet(*pair))
            return pair

        def preview(rows: Rows, path: Path) -> None:
            save(sheet(*look(rows)), path)
            load(model, clip)  # the VAE may have pushed them out

        name = type(model.model).__name__
        control = Control()

        def trainer() -> Trainer:
            return Trainer(
                job.config,
                Model(encoder, denoiser, f"ComfyUI {name}"),
                ShownSource(shown, job.people, _target(job)),
                folder,
                previewer=preview,
                listeners=[watcher],
                control=control,
                start=job.start,
                names_trained=len(job.people),
            )

        with borrowed(model, clip):
            try:
                prefix = trainer().run()
            except management.InterruptProcessingException:
                if folder.state.exists():
                    control.stop.set()
                    trainer().run()  # resumes, stops before its first step, writes the prefix
                raise
        pictures = torch.cat(look(prefix))
    return Trained(prefix, list(watcher.losses), pictures)


def new_folder(root: Path, name: str) -> RunFolder:
    """A run folder under `root` that does not exist yet; ConfigError for an unusable name."""
    if not re.fullmatch(r"[\w][\w .-]{0,60}", name) or name.strip(" .") != name:
        raise ConfigError(
            "name the run",
            f"{name!r} is no name for a folder",
            "use letters, digits, spaces, - and _",
        )
    path, number = root / name, 2
    while path.exists():
        path, number = root / f"{name}-{number}", number + 1
    return RunFolder(path)


def keep(trained: Trained, home: Path, run: RunFolder) -> Path:
    """Put the prefix where APL Load Prefix finds it, under the run's name."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{run.path.name}.safetensors"
    write_prefix(trained.prefix, path)
    return path


def pictures_to_make(job: Job) -> int:
    """How many pictures the model has to make itself before the first step."""
    read = _read_kinds(job)
    made = 0 if "identity" in read else len(job.people) * job.per_name
    made += 0 if "things" in read else len(job.things)
    return made + (0 if "people" in read else len(job.others))


def _shown(job: Job, painter: Painter, watcher: Watcher) -> dict[Kind, list[Shown]]:
    """Latents of every kind: those of given pictures, and of own ones for kinds without."""
    shown: dict[Kind, list[Shown]] = {"identity": [], "things": [], "people": []}
    for pixels, text in job.pictures:
        person = person_in(text, job.people)
        kind: Kind = "identity" if person else "things"
        shown[kind] += [Shown(latent, text, person) for latent in painter.read(pixels)]
    seeds = iter(range(job.config.seed, job.config.seed + 1_000_000))

    def make(kind: Kind, text: str, person: Person | None = None) -> None:
        shown[kind].append(Shown(painter.paint(text, next(seeds)), text, person))
        watcher.picture()

    if not shown["identity"]:
        for person in job.people:
            for number in range(job.per_name):
                make("identity", TEMPLATES[number % len(TEMPLATES)].format(person.name), person)
    if not shown["things"]:
        for text in job.things:
            make("things", text)
    for text in job.others:
        make("people", text)
    return shown


def _read_kinds(job: Job) -> set[Kind]:
    return {"identity" if person_in(text, job.people) else "things" for _, text in job.pictures}


def _target(job: Job) -> Target:
    return job.config.target  # pyright: ignore[reportReturnType] - the settings check it
