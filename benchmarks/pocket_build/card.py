"""A pocket model's card: what it draws without a prefix, measured, and how to measure it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apl_core.atomic import write_text
from apl_trainer.evaluation.conditions import Condition
from apl_trainer.evaluation.titles import CONDITION_TITLES
from apl_trainer.pocket.eval_prompts import UNKNOWN
from apl_trainer.pocket.evaluate import EVALUATION_STEPS
from apl_trainer.pocket.metrics import PromptSet, figures
from apl_trainer.pocket.model import ETA, GUIDANCE, GUIDED, PocketModel, load_pocket
from apl_trainer.pocket.recognizer import Reading
from apl_trainer.pocket.render_pool import Rendered, RenderPool
from apl_trainer.pocket.world import World
from apl_trainer.statistics import Mean, mean

from .dataset import invent

_BASE = {
    "identity_top1.trained": "identity top-1, train names",
    "identity_top1.heldout": "identity top-1, held-out names",
    "identity_top5.trained": "identity top-5, train names",
    "identity_top5.heldout": "identity top-5, held-out names",
    "face_found": "a face is found in a portrait",
    "scene": "hat, shirt, background beside a name, as asked",
    "people": "described people: gender, hair color, background as asked",
    "objects": "things as asked",
    "colours": "colors of things as asked",
    "backgrounds": "backgrounds of things as asked",
}


def write_card(folder: Path) -> Path:
    """Measure the model in `folder` and write card.md and card.json there."""
    model = load_pocket(folder)
    prompts = PromptSet.of(model.world)
    condition = Condition(CONDITION_TITLES["none"], free=True, brief=False)
    with RenderPool(folder, EVALUATION_STEPS) as renderer:
        drawn = Rendered.join(
            [f.result() for f in renderer.submit(condition.requests(prompts), condition.rows)]
        )
    base = figures(drawn, condition, prompts)
    reads = read_renders(model.recognizer, model.world)
    flat = {
        **{k: base[k].value for k in _BASE},
        **{f"reads.{k}": m.value for k, m in reads.items()},
    }
    write_text(folder / "card.json", json.dumps(flat, indent=1, sort_keys=True) + "\n")
    path = folder / "card.md"
    write_text(path, _words(model, base, reads))
    return path


def read_renders(
    recognizer: Callable[[Tensor], Reading], world: World, count: int = 2000
) -> dict[str, Mean]:
    """How often a recognizer is right on renders that it never saw."""
    rng = np.random.default_rng([world.seed, 77])
    half = count // 2
    subjects = invent(world, world.people, (half, half // 2, half // 2), rng)
    pictures = torch.from_numpy(subjects.draw(rng, lambda n: None)).float() / 255
    labels = subjects.labels()
    with torch.no_grad():
        scores = [recognizer(part).scores for part in pictures.split(250)]
    found: dict[str, Mean] = {}
    for head, label in labels.heads.items():
        best = torch.cat([s[head] for s in scores]).argmax(1).numpy()
        found[head] = mean(np.where(label == UNKNOWN, np.nan, best == label))
    return found


def _words(model: PocketModel, base: dict[str, Mean], reads: dict[str, Mean]) -> str:
    people = model.world.people
    rows = "\n".join(f"| {about} | {base[key].percent()} |" for key, about in _BASE.items())
    seen = ", ".join(f"{head} {100 * m.value:.1f}" for head, m in reads.items())
    example = model.world.group("train")[0].name
    guided = f"CFG {GUIDANCE:g} at noise levels {GUIDED.start} to {GUIDED.stop}"
    return f"""# Pocket model, world {model.world.seed}

A text-to-image diffusion model of cartoon faces with made-up names and of simple scenes,
32 x 32 pixels. Drawn, written and trained by this project's own code; nobody in it exists.
It is there to learn and measure prefixes on, and for nothing else.

- {len(people)} people, such as {example}: {len(model.world.group("train"))} train,
  {len(model.world.group("heldout"))} held out (known to this model, never to a prefix),
  {len(model.world.group("personal"))} for personalization (known to the recognizer alone).
- Text encoder: CLIP's transformer, 3 layers of width 128, which first reads what the pictures show
  and is then trained together with the U-Net, to please a critic too. U-Net: 2.9 million weights
  on 8 x 8 x 48 latents (a fixed rearrangement of pixels), x0 prediction, noise levels of SD's
  shape that end lower (trainer/pocket/networks.py says why).
- Weights in fp16. A small CNN tells who and what a picture shows; it is not the critic.

Without prefix, DDIM {EVALUATION_STEPS} steps with eta {ETA:g}, {guided}:

| | % (95 % interval) |
|---|---|
{rows}

The recognizer on 2,000 renders that it never saw, % right: {seen}.

Measured by `apl pocket card --model DIR`; built by
`apl pocket build --seed {model.world.seed} --minutes 112 --out DIR`.
"""
