"""Judges a prefix while it is learned, on names and prompts kept for choosing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from apl_core.prefix import Rows
from apl_core.training.callbacks import ValidationResult
from apl_core.training.parallel import Group

from ..evaluation.before_after import save_before_after
from ..evaluation.conditions import EvalPrompt, EvalPrompts
from ..report.sheet import SCALE
from .eval_prompts import identity_prompts, people_prompts, things_prompts
from .model import PocketModel
from .recognizer import Reading
from .world import Person

_STEPS = 8
_KINDS = 4  # kinds of prompts that the names take turns in
_CHOOSING = "Held out for choosing the step: names not learned from. The person should change."
_NAMED, _FREE, _THINGS = 16, 12, 20  # questions: few, for a validator is asked often


class PocketValidator:
    """Soft identity of validation names, and soft accuracy of name-free prompts, drawn quickly.

    The score adds up the probability that the recognizer gives to the person named, and what it
    takes away from the classes that name-free prompts asked for; lower is better. Processes that
    learn together draw a share each, and all of them see the same figures.
    """

    def __init__(self, model: PocketModel, people: Sequence[Person]) -> None:
        self.model = model
        self.sampler = model.sampler(_STEPS)
        first = 900_000  # seeds that no evaluation uses
        every = identity_prompts(model.world, people, _KINDS, first)
        each = -(-_NAMED // len(people))
        self.named = [q for i, q in enumerate(every) if (i // _KINDS - i) % _KINDS < each]
        self.free = people_prompts(model.world, _FREE, first + 1000)
        self.things = things_prompts(model.world, _THINGS, first + 2000)
        self.questions = [*self.named, *self.free, *self.things]
        self.plain = self._draw(None)
        self._judged: tuple[dict[str, Tensor], Tensor] | None = None

    def __call__(self, rows: Rows) -> ValidationResult:
        """Identity, drift and face figures of a prefix, and the score that they give."""
        pictures, reading = self._draw(rows)
        self._judged = {k: v.detach().clone() for k, v in rows.vectors.items()}, pictures
        n, m = len(self.named), len(self.named) + len(self.free)
        asked = torch.tensor([q.asked["identity"] for q in self.named])
        scores = reading.scores["identity"][:n]
        identity = scores.softmax(1)[range(n), asked]
        faces = reading.is_face()[:m].float()
        people, things = (
            _soft(self.plain[1], questions, start) - _soft(reading, questions, start)
            for questions, start in ((self.free, n), (self.things, m))
        )
        change = (pictures - self.plain[0]).square().flatten(1).mean(1)[n:]
        figures = {
            "identity": identity,
            "identity_top1": (scores.argmax(1) == asked).float(),
            "faces": faces,
            "drift_people": people,
            "drift_things": things,
            "change": change,
        }
        means = {name: float(values.mean()) for name, values in figures.items()}
        drift = max(means["drift_people"], 0) + max(means["drift_things"], 0)
        score = means["identity"] + drift + max(0.0, 0.98 - means["faces"])
        each = torch.cat([part / len(part) for part in (identity, people, things, 1 - faces)])
        return ValidationResult(score, means, tuple(each.tolist()))

    def validated(self, rows: Rows) -> Tensor | None:
        """Pictures of all questions, if it was these rows that were validated last."""
        if self._judged is None:
            return None
        vectors, pictures = self._judged
        return pictures if all(rows.vectors[k].equal(v) for k, v in vectors.items()) else None

    def _draw(self, rows: Rows | None) -> tuple[Tensor, Reading]:
        group, total = Group(), len(self.questions)
        mine = [self.questions[i].request() for i in group.share(total)]
        pictures = group.gather(self.sampler.draw(mine, rows), total)
        with torch.no_grad():
            return pictures, self.model.recognizer(pictures)


class PocketPreviewer:
    """Contact sheet of a few validation prompts: without the prefix above, with it below."""

    def __init__(self, validator: PocketValidator) -> None:
        self.validator = validator
        asked = validator.named, validator.free, validator.things
        self.prompts = EvalPrompts((), *(tuple(questions) for questions in asked))

    def __call__(self, rows: Rows, path: Path) -> None:
        """Write the sheet as PNG; what the validator has just drawn is not drawn again."""
        validator = self.validator

        def pictures(places: list[int]) -> list[Tensor]:
            drawn = validator.validated(rows)
            if drawn is None:
                requests = [validator.questions[i].request() for i in places]
                return [validator.plain[0][places], validator.sampler.draw(requests, rows)]
            return [validator.plain[0][places], drawn[places]]

        save_before_after(path, self.prompts, pictures, SCALE, {"heldout": _CHOOSING})


def _soft(reading: Reading, questions: Sequence[EvalPrompt], start: int) -> Tensor:
    """Mean probability of the classes that each question asked for, (B,); its row is `start` on."""
    found = [
        [float(reading.scores[head][row].softmax(0)[wanted]) for head, wanted in one.asked.items()]
        for row, one in enumerate(questions, start)
    ]
    return torch.tensor([sum(row) / len(row) for row in found])
