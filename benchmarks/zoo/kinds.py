"""Held-out people in prompts as people really type them, without a prefix and with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from apl_core.encoding import ReferenceEncoder
from apl_core.prefix import Rows
from apl_trainer.models.clip_text import ids_of
from apl_trainer.models.joint import JointEncoder
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.model import WorldModel
from apl_trainer.pocket.recognizer import Reading
from apl_trainer.pocket.render_pool import RenderPool
from apl_trainer.report.page import Table

from ..paper.prompts import VARIATIONS, Named, variation
from .build import Loader
from .places import frozen

_SEED = 70_000  # of prompts that nothing else asks


def measure(
    model: WorldModel,
    rows: Rows,
    names: int,
    workers: int,
    second: Callable[[Tensor], Reading] | None = None,
) -> Table:
    """Who is recognized in each kind of prompt, in percent; either of two people counts.

    `second`, another recognizer, reads the pictures with the prefix again.
    """
    tokenize = tokens_of(model.encoder)
    people, vectors = model.world.group("heldout")[:names], next(iter(rows.vectors.values()))
    asked = {kind: variation(kind, people, 2, _SEED, tokenize, len(vectors)) for kind in VARIATIONS}
    number = {person.name: place for place, person in enumerate(model.world.people)}
    lines: list[list[str]] = []
    with RenderPool(model.folder, EVALUATION_STEPS, workers, Loader()) as renderer:
        for kind, named in asked.items():
            requests = [one.request() for one in named]
            plain, drawn = (renderer.draw(requests, one) for one in (None, rows))
            readings = [plain.reading, drawn.reading]
            if second is not None:
                with torch.no_grad():
                    readings.append(second(drawn.pictures))
            cells = [f"{100 * recognized_share(one, named, number):.1f}" for one in readings]
            faces = float(drawn.reading.is_face().float().mean())
            lines.append([kind, *cells, f"{100 * faces:.1f}"])
    again = ["prefix, second recognizer"] if second is not None else []
    about = f"Percent of {2 * len(people)} pictures, {len(people)} held-out names."
    titles = ("prompt", "no prefix", "prefix", *again, "faces with it")
    return Table("Kinds of prompts", about, titles, lines)


def tokens_of(encoder: Any) -> Callable[[str], list[int]]:
    """What tells how far back a name stands: the one encoder, T5 of two, the first of two CLIPs."""
    if isinstance(encoder, ReferenceEncoder):
        return encoder.towers[0].tokenize
    if isinstance(encoder, JointEncoder):
        encoder = encoder.t5
    tokenizer = frozen(encoder).tokenizer
    return lambda text: ids_of(tokenizer, text)


def recognized_share(reading: Reading, named: Sequence[Named], number: dict[str, int]) -> float:
    """Pictures in which somebody is recognized whom the prompt names."""
    seen = reading.top("identity").tolist()
    hits = (
        found in {number[name] for name in (one.who, one.other) if name is not None}
        for found, one in zip(seen, named, strict=True)
    )
    return sum(hits) / len(named)
