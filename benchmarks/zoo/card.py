"""What a member draws without a prefix, measured, and whether that is good enough to judge with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from apl_core.atomic import write_text
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.metrics import PendingImages, figures
from apl_trainer.pocket.render_pool import RenderPool

from ..recipe import FREE, Measure
from .build import Loader

LEAST: Mapping[str, float] = {
    "identity_top1.trained": 0.85,
    "identity_top1.heldout": 0.85,
    "things": 0.92,
    "people": 0.95,
    "face_found": 0.98,
}
"""What a member has to draw without a prefix before it may judge one."""


def write_card(folder: Path, workers: int) -> dict[str, float]:
    """Measure the member in `folder` and write card.json there."""
    prompts = Measure.of(Loader()(folder).world).prompts
    with RenderPool(folder, EVALUATION_STEPS, workers, Loader()) as renderer:
        drawn = PendingImages(renderer.submit(FREE.requests(prompts), None)).result(int)
    flat = {key: mean.value for key, mean in figures(drawn, FREE, prompts).items()}
    write_text(folder / "card.json", json.dumps(flat, indent=1, sort_keys=True) + "\n")
    return flat


def read_card(folder: Path) -> dict[str, float]:
    """The figures of a card; none if the member was not measured."""
    file = folder / "card.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def missed(card: Mapping[str, float]) -> list[str]:
    """What a member does not reach, in words: empty if it may judge."""
    return [
        f"{key} {100 * card.get(key, 0):.1f} (of {100 * least:.0f})"
        for key, least in LEAST.items()
        if card.get(key, 0) < least
    ]
