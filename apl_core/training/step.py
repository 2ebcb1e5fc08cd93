"""One optimiser step's gradient: ours, and the authors' for comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..objective import Kind, Lesson, Weighting, encode_unique, errors, example_weights
from ..ports import DenoiserPort, TextEncoderPort
from ..prefix import Rows
from .config import TrainConfig
from .micro import MicroBatch
from .parallel import Group

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(
    config: TrainConfig, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Mixed precision as the settings ask for it."""
    if config.autocast == "off":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[config.autocast])


def gradient(
    config: TrainConfig,
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    lesson: Lesson,
    rows: Rows,
    group: Group,
    scale: float,
    micro: MicroBatch | None = None,
) -> tuple[float, dict[str, float]]:
    """Add the gradient of `scale` times the loss to the rows; loss and error per kind of example.

    Every kind counts by its weight: sum over kinds of w_kind * mean error. Micro-batches and the
    shares of several processes add up to the same gradient. RunError if memory is too small for
    one example.
    """
    weights = example_weights(lesson.kinds, config.weights)
    each = torch.zeros(len(lesson), dtype=torch.float64)

    def run(part: list[int]) -> None:
        with autocast(config, denoiser.device):
            found = _errors(config, encoder, denoiser, lesson.pick(part), rows)
        factor = torch.tensor([weights[i] for i in part], device=found.device)
        (scale * (factor * found).sum()).backward()  # pyright: ignore[reportUnknownMemberType]
        each[part] = found.detach().double().cpu()

    def run_whole(part: list[int]) -> None:
        before = {
            key: None if v.grad is None else v.grad.clone() for key, v in rows.vectors.items()
        }
        try:
            run(part)
        except (RuntimeError, MemoryError):
            for key, vectors in rows.vectors.items():  # one encoder's share may be in already
                vectors.grad = before[key]
            raise

    (micro or MicroBatch(config.micro_batch)).each(group.share(len(lesson)), run_whole)
    group.add_up([each])
    losses = {kind: _mean(each, lesson.kinds, kind) for kind in dict.fromkeys(lesson.kinds)}
    return float((each * torch.tensor(weights, dtype=torch.float64)).sum()), losses


def _mean(each: Tensor, kinds: Sequence[Kind], kind: Kind) -> float:
    return float(each[[k == kind for k in kinds]].mean())


def _errors(
    config: TrainConfig,
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    lesson: Lesson,
    rows: Rows,
) -> Tensor:
    if config.recipe != "paper":
        weighting = cast(Weighting, config.weighting)
        rows = replace(rows, everywhere=config.empty > 0)
        return errors(encoder, denoiser, lesson, rows, weighting, config.contrast)
    return paper_errors(encoder, denoiser, lesson, rows)


def paper_errors(
    encoder: TextEncoderPort, denoiser: DenoiserPort, lesson: Lesson, rows: Rows
) -> Tensor:
    """The authors' loss per example: MSE(p, n - g (sg p - n)), g = 1, p and sg p two forwards.

    The residual is (1 + g)(p - n), so the gradient is ours times (1 + g) = 2.
    """
    conditioning = encode_unique(encoder, lesson.prompts, rows)
    with torch.no_grad():
        again = denoiser.predict_noise(lesson.x_t, lesson.t, conditioning).float()
    predicted = denoiser.predict_noise(lesson.x_t, lesson.t, conditioning).float()
    target = lesson.target - (again - lesson.target)
    return (predicted - target).square().flatten(1).mean(1)


def clip(gradients: Mapping[str, Tensor], limit: float) -> None:
    """Scale gradients in place so that their joint norm is at most `limit` (0: leave them)."""
    if limit:
        norms: list[Tensor] = [g.norm() for g in gradients.values()]  # pyright: ignore[reportUnknownMemberType]
        norm = cast(Tensor, torch.stack(norms).norm())  # pyright: ignore[reportUnknownMemberType]
        factor = (limit / (norm + 1e-12)).clamp(max=1)
        for gradient in gradients.values():
            gradient.mul_(factor)
