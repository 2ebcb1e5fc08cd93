"""One optimizer step's gradient: ours, and the authors' for comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..example_kinds import Kind, Weighting
from ..objective import TargetBatch, encode_unique, example_weights, per_example_loss
from ..ports import DenoiserPort, TextEncoderPort
from ..prefix import Rows
from ..tokens import room
from .config import TrainConfig
from .micro import MicroBatch
from .parallel import Group

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(
    config: TrainConfig, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Mixed precision as the settings ask for it."""
    if config.mixed_precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[config.mixed_precision])


def gradient(
    config: TrainConfig,
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    batch: TargetBatch,
    rows: Rows,
    group: Group,
    scale: float,
    unit: float = 1.0,
    micro: MicroBatch | None = None,
) -> tuple[float, dict[str, float]]:
    """Add the gradient of `scale` times the loss to the rows; loss and error per kind of example.

    Every kind counts by its weight: sum over kinds of w_kind * mean error, in `unit` (see
    `scale.caption_change`). Micro-batches and the shares of several processes add up to the same
    gradient. RunError if memory is too small for one example.
    """
    weights = example_weights(batch.kinds, config.weights)
    each = torch.zeros(len(batch), dtype=torch.float64)

    def run(part: list[int]) -> None:
        with autocast(config, denoiser.device):
            found = _per_example_loss(config, encoder, denoiser, batch.pick(part), rows, unit)
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

    size = micro or MicroBatch(config.micro_batch)
    for some in by_chunks(encoder, batch.prompts, room(rows.n)):
        size.each([some[i] for i in group.share(len(some))], run_whole)
    group.add_up([each])
    losses = {kind: _mean(each, batch.kinds, kind) for kind in dict.fromkeys(batch.kinds)}
    return float((each * torch.tensor(weights, dtype=torch.float64)).sum()), losses


def by_chunks(
    encoder: TextEncoderPort, prompts: Sequence[str], space: int
) -> Sequence[Sequence[int]]:
    """Places of prompts of as many chunks of `space` tokens each, most often all of them.

    Encoded together, shorter ones would be filled up with empty chunks that no host gives them.
    """
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(max(len(encoder.pieces(prompt)) - 1, 0) // space, []).append(place)
    return list(groups.values())


def _mean(each: Tensor, kinds: Sequence[Kind], kind: Kind) -> float:
    return float(each[[k == kind for k in kinds]].mean())


def _per_example_loss(
    config: TrainConfig,
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    batch: TargetBatch,
    rows: Rows,
    unit: float,
) -> Tensor:
    if config.recipe != "paper":
        weighting = cast(Weighting, config.weighting)
        rows = replace(rows, everywhere=config.proportion_empty_prompts > 0)
        return per_example_loss(encoder, denoiser, batch, rows, weighting, config.contrasts, unit)
    return paper_loss(encoder, denoiser, batch, rows)


def paper_loss(
    encoder: TextEncoderPort, denoiser: DenoiserPort, batch: TargetBatch, rows: Rows
) -> Tensor:
    """The authors' loss per example: MSE(p, n - g (sg p - n)), g = 1, p and sg p two forwards.

    The residual is (1 + g)(p - n), so the gradient is ours times (1 + g) = 2.
    """
    conditioning = encode_unique(encoder, batch.prompts, rows)
    with torch.no_grad():
        again = denoiser.predict_noise(batch.x_t, batch.t, conditioning).float()
    predicted = denoiser.predict_noise(batch.x_t, batch.t, conditioning).float()
    target = batch.target - (again - batch.target)
    return (predicted - target).square().flatten(1).mean(1)


def clip(gradients: Mapping[str, Tensor], limit: float) -> None:
    """Scale gradients in place so that their joint norm is at most `limit` (0: leave them)."""
    if limit:
        norms: list[Tensor] = [g.norm() for g in gradients.values()]  # pyright: ignore[reportUnknownMemberType]
        norm = cast(Tensor, torch.stack(norms).norm())  # pyright: ignore[reportUnknownMemberType]
        factor = (limit / (norm + 1e-12)).clamp(max=1)
        for gradient in gradients.values():
            gradient.mul_(factor)
