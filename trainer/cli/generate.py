"""`apl generate`: pictures without and with a prefix, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import arguments
from .common import Verbs, add_any_model, load_any, read_fitting, verb


def add(verbs: Verbs) -> None:
    """Add `generate`."""
    generate = verb(
        verbs,
        "generate",
        run_generate,
        "draw prompts without and with a prefix, side by side",
        'apl generate --prefix runs/demo/prefix.safetensors "a photo of a woman with red hair"',
    )
    add_any_model(generate)
    generate.add_argument("prompts", nargs="+", help="what to draw")
    generate.add_argument("--prefix", type=Path, required=True, help="the prefix file")
    generate.add_argument("--negative", default="", help="negative prompt")
    generate.add_argument(
        "--count", type=arguments.whole(1, 256), default=4, help="pictures a prompt"
    )
    generate.add_argument(
        "--seed", type=arguments.seed, default=0, help="seed of the first picture"
    )
    generate.add_argument("--steps", type=arguments.steps, help=arguments.STEPS_HELP)
    generate.add_argument(
        "--guidance",
        type=arguments.guidance,
        help="CFG scale (3 on a pocket model, 7 on a checkpoint)",
    )
    generate.add_argument(
        "--size", type=arguments.pixels, help="side of a checkpoint's pictures in pixels"
    )
    generate.add_argument(
        "--out", type=arguments.new_png, default="generated.png", help="the PNG to write"
    )


def run_generate(given: argparse.Namespace) -> int:
    """Draw prompts without and with the prefix."""
    import torch
    from torch import Tensor

    from ..pocket.model import GUIDANCE, STEPS, PocketModel
    from ..report.sheet import png, sheet
    from ..sampling import Request
    from ..two_pictures import draw_two

    arguments.refuse_idle_negative(given)
    model = load_any(given)
    prefix = read_fitting(given.prefix, model)
    model.encoder.check([*given.prompts, given.negative])
    if isinstance(model, PocketModel):
        torch.set_num_threads(1)
        guidance = GUIDANCE if given.guidance is None else given.guidance
        sampler, scale = model.sampler(given.steps or STEPS, guidance), 3
    else:
        sampler, scale = model.sampler(given.steps, given.guidance, given.size), 1
    rows: list[Tensor] = []
    labels: list[str] = []
    for prompt in given.prompts:
        seeds = range(given.seed, given.seed + given.count)
        requests = [Request(prompt, seed, given.negative) for seed in seeds]
        rows += draw_two(model.encoder, sampler, requests, prefix.rows())
        labels += [f"{prompt}\n\n{label}" for label in ("no prefix", "with prefix")]
    png(sheet(rows, labels, scale=scale), given.out)
    print(given.out)
    return 0
