"""`apl demo`: the main job in a few minutes, on the embedded pocket model."""

from __future__ import annotations

import argparse

from . import arguments
from .common import Verbs, add_model, load_model, verb


def add(verbs: Verbs) -> None:
    """Add `demo`."""
    demo = verb(
        verbs,
        "demo",
        run,
        "learn a prefix on the pocket model, measure it, and show it",
        "apl demo --out runs",
    )
    add_model(demo)
    demo.add_argument(
        "--out", type=arguments.out_folder, default="runs", help="folder that gets the run"
    )
    demo.add_argument("--seed", type=arguments.run_seed, default=0, help="seed of the training")
    demo.add_argument(
        "--quick", action="store_true", help="a few steps and pictures: does it work?"
    )
    demo.add_argument("--json", action="store_true", help="print figures.json instead of a table")


def run(given: argparse.Namespace) -> int:
    """Run the demo."""
    from ..processes import workers_context

    workers_context()  # what the other process needs loads while this one does
    from apl_core.atomic import numbered
    from apl_core.training.callbacks import Control
    from apl_core.training.config import TrainConfig

    from ..callbacks import ProgressBar, stop_on_interrupt
    from ..pocket.demo import run_demo, small
    from ..pocket.metrics import PromptSet

    model = load_model(given.model)
    config = TrainConfig(seed=given.seed)
    prompts = PromptSet.of(model.world)
    if given.quick:
        config, prompts = small(config), PromptSet.of(model.world, names=4, seeds=2, free=4)
    out = numbered(given.out / "demo")
    control = Control()
    say = (lambda text: None) if given.json else print
    with stop_on_interrupt(control):
        flat = run_demo(model, config, out, prompts, [ProgressBar()], control, say)
    if flat is None:
        print(f"stopped and saved. Go on with: apl resume {out}")
        return 1
    if given.json:
        print((out / "figures.json").read_text(encoding="utf-8"))
        return 0
    print(
        f"\nlearned in {flat['seconds.prefix_training']:.0f} s, everything took "
        f"{flat['seconds.total']:.0f} s\n\n"
        f"look at   {out / 'sheet.png'}\n          {out / 'report.html'}\n\nnext:\n"
        f"  apl generate --prefix {out / 'prefix.safetensors'} "
        f'"a photo of {model.world.group("heldout")[0].name}"\n'
        f"  apl inspect {out / 'prefix.safetensors'}\n"
        f"  apl pocket train --target description --out runs/mine"
    )
    return 0
