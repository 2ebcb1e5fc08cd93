"""What a run on a pocket model is validated on, and the pictures that show how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from apl_core.example_kinds import PERSON
from apl_core.objective import Example
from apl_core.prefix import Rows
from apl_core.training.callbacks import PhaseReport
from apl_core.training.material import KEPT_FREE, KEPT_NAMED
from apl_core.training.validation import PromptValidator

from ..evaluation.before_after import save_before_after
from ..evaluation.conditions import EvalPrompts
from ..report.sheet import SCALE
from .captions import TEMPLATES
from .eval_prompts import identity_prompts, people_prompts, things_prompts
from .model import WorldModel
from .source import PocketSource
from .world import Person

_STEPS = 8
_SHOWN = 8  # prompts of each kind in a preview
_FIRST = 900_000  # seeds that no evaluation uses
_CHOOSING = "Held out for choosing the step: names not learned from. The person should change."


def validation_examples(
    model: WorldModel, people: Sequence[Person], named: int = KEPT_NAMED, free: int = KEPT_FREE
) -> list[Example]:
    """Names of some people on faces of nobody in particular, and name-free captions.

    Captions of this world are few: some of the name-free ones are met while learning as well.
    """
    source, random = PocketSource(model, people, "person", 1), torch.Generator().manual_seed(_FIRST)
    some = [e for kind in ("people", "things") for e in source.draw(kind, free, random)]
    faces = [example.latent for example in some if example.kind == "people"]
    found: list[Example] = []
    for number in range(named):
        person = people[number % len(people)]
        template = TEMPLATES[number // len(people) % len(TEMPLATES)]
        texts = (template.format(words) for words in (person.name, PERSON))
        found.append(Example("identity", faces[number % len(faces)], *texts))
    return found + some


def pocket_validator(
    model: WorldModel, people: Sequence[Person], progress: PhaseReport
) -> PromptValidator:
    """The measure of every model, on names kept for choosing."""
    examples = validation_examples(model, people)
    return PromptValidator(model.encoder, model.denoiser, examples, progress=progress)


class PocketPreviewer:
    """Contact sheet of a few validation prompts: without the prefix above, with it below."""

    def __init__(self, model: WorldModel, people: Sequence[Person]) -> None:
        named = identity_prompts(model.world, people[:_SHOWN], 1, _FIRST)
        self.sampler = model.sampler(_STEPS)
        self.prompts = EvalPrompts(
            (),
            tuple(named),
            tuple(people_prompts(model.world, _SHOWN, _FIRST + 1000)),
            tuple(things_prompts(model.world, _SHOWN, _FIRST + 2000)),
        )
        self._plain: Tensor | None = None

    def __call__(self, rows: Rows, path: Path) -> None:
        """Write the sheet as PNG."""

        def pictures(places: list[int]) -> list[Tensor]:
            every = [*self.prompts.named, *self.prompts.free]
            requests = [every[i].request() for i in places]
            if self._plain is None:
                self._plain = self.sampler.draw(requests, None)
            return [self._plain, self.sampler.draw(requests, rows)]

        save_before_after(path, self.prompts, pictures, SCALE, {"heldout": _CHOOSING})
