"""What a run on a checkpoint keeps for validation: names and pictures nothing is learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from apl_core.captions import alike
from apl_core.example_kinds import Target
from apl_core.objective import Example
from apl_core.training.people import ListedPerson
from apl_core.training.validation import kept_free, validation_examples

from ..metadata_jsonl import CaptionedPicture
from .training_data import example, neutral_of


def kept_apart(
    rows: Sequence[CaptionedPicture],
    kept: Sequence[ListedPerson],
    latents: Callable[[str], Tensor],
    target: Target,
) -> tuple[list[CaptionedPicture], list[Example]]:
    """Rows to learn from, and examples to validate on; no examples where there are no names.

    Name prompts are those of the rows that name one of `kept`, on latents of people without a
    name. An eighth of the name-free rows, two or more, goes to validation where there are four.
    """
    names = {alike(person.name) for person in kept}
    named = [row for row in rows if row.kind == "identity" and alike(row.name) in names]
    learned = [row for row in rows if row.kind == "identity" and alike(row.name) not in names]
    if not named or not learned:
        return list(rows), []
    free: list[Example] = []
    for kind in ("things", "people"):
        whole = [row for row in rows if row.kind == kind]
        count = kept_free(len(whole))
        free += [example(row, latents(row.file_name), target) for row in whole[:count]]
        learned += whole[count:]
    faces = [row for row in rows if row.kind == "people"] or learned
    texts = list(dict.fromkeys((row.text, neutral_of(row, target)) for row in named))
    some_faces = [latents(row.file_name) for row in faces[: len(texts)]]
    return learned, validation_examples(texts, some_faces, free)
