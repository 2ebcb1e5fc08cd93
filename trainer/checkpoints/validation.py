"""What a run on a checkpoint keeps for validation: names and pictures nothing is learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from apl_core.captions import alike
from apl_core.example_kinds import Target
from apl_core.objective import Example
from apl_core.training.people import ListedPerson
from apl_core.training.validation import validation_examples

from ..metadata_jsonl import CaptionedPicture
from .training_data import example

_FEW = 4


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
    learned = [row for row in rows if row not in named]
    if not named or not any(row.kind == "identity" for row in learned):
        return list(rows), []
    free: list[Example] = []
    for kind in ("things", "people"):
        whole = [row for row in learned if row.kind == kind]
        some = whole[: max(len(whole) // 8, 2)] if len(whole) >= _FEW else []
        free += [example(row, latents(row.file_name), target) for row in some]
        learned = [row for row in learned if row not in some]
    faces = [row for row in rows if row.kind == "people"] or learned
    prompts = [example(row, latents(row.file_name), target) for row in named]
    texts = list(dict.fromkeys((one.prompt, one.neutral) for one in prompts))
    some_faces = [latents(row.file_name) for row in faces[: len(texts)]]
    return learned, validation_examples(texts, some_faces, free)
