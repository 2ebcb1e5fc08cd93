"""What rows do before anything is learned: random words and words of prompts, seen and hidden."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from apl_core.prefix import Rows
from apl_core.training.validation import PromptValidator
from apl_trainer.models.language import LanguageEncoder
from apl_trainer.pocket.captions import FILLERS
from apl_trainer.pocket.validation import validation_examples
from apl_trainer.report.page import Table

from .build import Loader
from .places import frozen

_PEOPLE, _NAMED, _FREE = 8, 8, 10


def starts(encoder: LanguageEncoder) -> dict[str, Rows]:
    """Rows by what they are."""
    table = encoder.token_embedding(encoder.key)
    random = torch.Generator().manual_seed(0)
    words = table[torch.randint(len(table), (32,), generator=random)]
    ids = encoder.tokenizer(", ".join(FILLERS), add_special_tokens=False).input_ids
    said = table[torch.tensor((ids * 2)[:32])]

    def rows(vectors: Tensor, behind: int = 0) -> Rows:
        return Rows({encoder.key: vectors}, behind)

    return {
        "22 random words in front, 10 behind": rows(words, 10),
        "the same, ten times as long": rows(10 * words, 10),
        "22 random words in front": rows(words[:22]),
        "10 random words behind": rows(words[:10], 10),
        "4 random words in front": rows(words[:4]),
        "22 words of a prompt in front": rows(said[:22]),
        "10 words of a prompt behind": rows(said[:10], 10),
    }


def measure(folder: Path) -> Table:
    """`name_left`, drift of things and of people: rows seen by the denoiser, and hidden from it."""
    models = [Loader(place)(folder) for place in ("tokens", "hidden")]
    people = list(models[0].world.group("train"))[:_PEOPLE]
    examples = validation_examples(models[0], people, _NAMED, _FREE)
    validators = [PromptValidator(m.encoder, m.denoiser, examples) for m in models]
    encoder = frozen(models[0].encoder)
    lines: list[list[str]] = []
    for title, rows in starts(encoder).items():
        cells: list[str] = []
        for validator in validators:
            found = validator(rows).figures
            keys = ("name_left", "drift_things", "drift_people")
            cells.append(", ".join(f"{100 * found[key]:.0f}" for key in keys))
        lines.append([title, *cells])
    about = "Percent: what is left of names, drift of things, of people."
    return Table("Rows before learning", about, ("rows", "seen", "hidden"), lines)
