# pyright: reportMissingImports=false
"""A whole run: make or read the pictures, train, look at the result; the host stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
from apl_core.objective import Example
from apl_core.prefix import Prefix, Rows
from apl_core.training.callbacks import Control, Event, Stepped
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer
from apl_core.training.micro import out_of_memory
from apl_core.training.people import ListedPerson, kept_for_validation
from apl_core.training.validation import PromptValidator, kept_free, validation_examples, verdict

from .pictures import LatentSampler, save, sheet
from .ports import ComfyDenoiser, ComfyEncoder
from .source import TEMPLATES, CaptionedLatent, LatentSource, kind_of, neutral, person_in
from .trainable import load, trainable

LOOKED_AT = 3
"""Names in a preview."""


@dataclass(frozen=True)
class Job:
    """What a node asks for, beside the model."""

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
    previews: bool = True


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

    @property
    def verdict(self) -> str:
        """What was measured of it, in words."""
        return verdict(self.prefix.card.figures)


def train(
    job: Job, model: Any, clip: Any, vae: Any, folder: RunFolder, watcher: Watcher
) -> Trained:
    """Learn a prefix for the loaded model into `folder`.

    Of five names or more an eighth is kept for validation; the step that does best on them is kept,
    otherwise the last one. An interrupt saves what is learned so far and then stops the graph.
    Raises HostError for a model that cannot be trained on or memory that does not suffice, and the
    core's errors.
    """
    try:
        return _train(job, model, clip, vae, folder, watcher)
    except RunError as error:
        if error.__cause__ is None or not out_of_memory(error.__cause__):
            raise
        why = error
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
        sampler = LatentSampler(model, clip, vae, job.size, job.steps, job.cfg)
        shown = _shown(job, sampler, watcher)
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

        learned, kept = _split(shown, job)
        name = type(model.model).__name__
        control = Control()
        validator = PromptValidator(encoder, denoiser, kept, at_once) if kept else None

        def trainer() -> Trainer:
            return Trainer(
                job.config,
                Model(encoder, denoiser, f"ComfyUI {name}"),
                LatentSource(learned, job.people, _target(job)),
                folder,
                validator=validator,
                previewer=preview if job.previews else None,
                callbacks=[watcher],
                control=control,
                start=job.start,
                names_trained=len({one.person for one in learned["identity"]}),
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


def pictures_to_make(job: Job) -> int:
    """How many pictures the model has to make itself before the first step."""
    read = _read_kinds(job)
    learned, _ = kept_for_validation(job.people)
    made = 0 if "identity" in read else len(learned) * job.per_name
    made += 0 if "things" in read else len(job.things)
    return made + (0 if "people" in read else len(job.others))


def _shown(job: Job, sampler: LatentSampler, watcher: Watcher) -> dict[Kind, list[CaptionedLatent]]:
    """Latents of every kind: those of given pictures, and of own ones for kinds without."""
    shown: dict[Kind, list[CaptionedLatent]] = {"identity": [], "things": [], "people": []}
    for pixels, text in job.pictures:
        person, kind = person_in(text, job.people), kind_of(text, job.people)
        shown[kind] += [CaptionedLatent(latent, text, person) for latent in sampler.read(pixels)]
    seeds = iter(range(job.config.seed, job.config.seed + 1_000_000))

    def make(kind: Kind, text: str, person: ListedPerson | None = None) -> None:
        shown[kind].append(CaptionedLatent(sampler.paint(text, next(seeds)), text, person))
        watcher.picture()

    if not shown["identity"]:
        for person in kept_for_validation(job.people)[0]:
            for number in range(job.per_name):
                make("identity", TEMPLATES[number % len(TEMPLATES)].format(person.name), person)
    if not shown["things"]:
        for text in job.things:
            make("things", text)
    if not shown["people"]:
        for text in job.others:
            make("people", text)
    return shown


def _split(
    shown: Mapping[Kind, Sequence[CaptionedLatent]], job: Job
) -> tuple[dict[Kind, Sequence[CaptionedLatent]], list[Example]]:
    """What is learned from, and what is validated on: nothing where names or latents are few.

    An eighth of the people is kept for validation, and of each name-free kind two or more of its
    latents, if there are four. Their names are asked for on latents of people without a name.
    """
    learners, kept = kept_for_validation(job.people)
    identity = [one for one in shown["identity"] if one.person in learners]
    if not kept or not identity:
        return dict(shown), []
    learned: dict[Kind, Sequence[CaptionedLatent]] = {**shown, "identity": identity}
    free: list[Example] = []
    for kind in ("things", "people"):
        whole = shown[kind]
        count = kept_free(len(whole))
        free += [Example(kind, one.latent, one.text, one.text) for one in whole[:count]]
        learned[kind] = whole[count:]
    texts = [template.format(one.name) for one in kept for template in TEMPLATES[1:4]]
    named = [(text, neutral(text, job.people, _target(job))) for text in texts]
    faces = [one.latent for one in shown["people"] or identity]
    return learned, validation_examples(named, faces, free)


def _read_kinds(job: Job) -> set[Kind]:
    return {kind_of(text, job.people) for _, text in job.pictures}


def _target(job: Job) -> Target:
    return job.config.target  # pyright: ignore[reportReturnType] - the settings check it
