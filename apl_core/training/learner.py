"""The learner of every host: pictures, names and a frozen model in, the trainer of a run out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..example_kinds import Target
from ..prefix import Prefix
from .callbacks import Callback, Control, Previewer, phase_report
from .config import TrainConfig
from .folder import RunFolder
from .lessons import NameLessons
from .loop import Model, Trainer
from .material import LatentSource, Material, split
from .people import ListedPerson, kept_for_validation
from .validation import PromptValidator


def learner(
    config: TrainConfig,
    model: Model,
    material: Material,
    people: Sequence[ListedPerson],
    folder: RunFolder,
    *,
    previewer: Previewer | None = None,
    callbacks: Sequence[Callback] = (),
    control: Control | None = None,
    start: Prefix | None = None,
) -> Trainer:
    """A trainer with this project's lessons; of five names or more some are kept for validation.

    Without a denoiser nothing is validated, and every name is learned from.

    The same seed and people give the same texts on every host whose tokenizer is the same.
    """
    learned, kept = kept_for_validation(people) if model.denoiser else (people, [])
    without = [person.name for person in kept]
    lessons = NameLessons.of(
        learned, cast(Target, config.target), model.encoder, config.num_vectors, without
    )
    parts = split(material, people, lessons, config.seed)
    validator = None
    if parts.validation and config.validate_every and model.denoiser:
        validator = PromptValidator(
            model.encoder,
            model.denoiser,
            parts.validation,
            config.micro_batch,
            config.seed,
            phase_report(callbacks),
        )
    return Trainer(
        config,
        model,
        LatentSource(material, lessons, people, parts.places, parts.texts),
        folder,
        validator=validator,
        previewer=previewer,
        callbacks=callbacks,
        control=control,
        start=start,
        names_trained=len(learned),
    )
