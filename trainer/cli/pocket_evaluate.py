"""`apl pocket evaluate`: a prefix measured beside plain baselines on a pocket model."""

from __future__ import annotations

import argparse
import json

from . import arguments
from .common import Verbs, add_measurement, add_model, pocket_of, read_fitting, verb


def add(verbs: Verbs) -> None:
    """Add `pocket evaluate`."""
    evaluate = verb(
        verbs,
        "evaluate",
        run,
        "measure a prefix on a pocket model: identity, faces, fidelity, drift",
        "apl pocket evaluate --prefix runs/demo/prefix.safetensors --out measured",
    )
    evaluate.allow_abbrev = False  # --seed is not short for --seeds
    add_model(evaluate)
    add_measurement(evaluate)
    some = arguments.whole(1, 1000)
    evaluate.add_argument("--names", type=some, default=64, metavar="N", help="names a group")
    evaluate.add_argument(
        "--free", type=arguments.whole(1, 100_000), default=128, help="name-free prompts a group"
    )


def run(given: argparse.Namespace) -> int:
    """Measure a prefix beside the baselines."""
    from ..pocket.eval_report import detailed, write_outcome
    from ..pocket.evaluate import EVALUATION_STEPS, evaluate
    from ..pocket.metrics import PromptSet
    from ..pocket.render_pool import RenderPool

    model = pocket_of(given)
    prefix = read_fitting(given.prefix, model)
    prompts = PromptSet.of(model.world, given.names, given.seeds, given.free)
    with RenderPool(model.folder, EVALUATION_STEPS) as renderer:
        outcome = evaluate(model, renderer, prompts, prefix)
    if given.json:
        figures = {k: m.plain() for k, m in detailed(model, outcome).items()}
        print(json.dumps({**outcome.flat, "intervals": figures}, indent=1, sort_keys=True))
    else:
        print(outcome.table().text())
    if given.out:
        write_outcome(given.out, model, prefix, outcome)
    return 0
