"""How a member of the zoo learns to draw: from the pocket model, prediction by prediction.

The pocket model's U-Net is the teacher (arXiv 1503.02531; 2202.00512 for diffusion models). On the
same noised picture, with the same caption in either one's words, the member's transformer learns
the teacher's prediction of the clean picture. It never sees the teacher's text encoder, and the
recognizer that measures has no part in it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from apl_core.ports import DenoiserPort
from apl_trainer.models.transformer import FlowDenoiser
from apl_trainer.models.unet import UnetDenoiser
from apl_trainer.pocket.model import PocketModel
from apl_trainer.pocket.networks import to_latents

from .material import Lesson, Texts

_BATCH, _BUCKETS = 64, 12
_HIGH, _OFTEN = 600, 0.35  # this share of noise levels is drawn above: there the words decide
_SHARP = 8.0  # most weight of an error where there is little noise
_DROPPED, _OTHER = 0.1, 0.5  # captions without words; pictures of something else


def painter_loss(
    denoiser: FlowDenoiser | UnetDenoiser,
    teacher: PocketModel,
    lesson: Lesson,
    states: Texts,
    taught: Texts,
) -> Callable[[torch.Generator], Tensor]:
    """The loss of one batch, of captions as the member and as its teacher reads them.

    The last of either's states is that of the empty text.
    """
    unet, empty = teacher.denoiser.unet, len(lesson)
    its = teacher.denoiser.schedule
    schedule = its if isinstance(denoiser, FlowDenoiser) else denoiser.schedule
    alike = (schedule.alphas_cumprod[:, None] - its.alphas_cumprod).abs().argmin(1)
    buckets = states.lengths[:empty].argsort().chunk(_BUCKETS)
    kinds = torch.arange(empty) < lesson.faces

    def other(rows: Tensor, random: torch.Generator) -> Tensor:
        """Other pictures of the same kind for a part of the rows."""
        faces = torch.randint(lesson.faces, rows.shape, generator=random)
        things = torch.randint(lesson.faces, empty, rows.shape, generator=random)
        lots = torch.rand(rows.shape, generator=random) < _OTHER
        return torch.where(lots, torch.where(kinds[rows], faces, things), rows)

    def loss(random: torch.Generator) -> Tensor:
        bucket = buckets[int(torch.randint(len(buckets), (1,), generator=random))]
        rows = bucket[torch.randint(len(bucket), (_BATCH,), generator=random)]
        dropped = torch.rand(_BATCH, generator=random) < _DROPPED
        latents = to_latents(lesson.pictures[other(rows, random)].float() / 255)
        noise = torch.randn(latents.shape, generator=random)
        t = torch.randint(schedule.steps, (_BATCH,), generator=random)
        high = torch.randint(_HIGH, schedule.steps, (_BATCH,), generator=random)
        t = torch.where(torch.rand(_BATCH, generator=random) < _OFTEN, high, t)
        x_t = schedule.q_sample(latents, noise, t)
        asked = torch.where(dropped, empty, rows).tolist()
        with torch.no_grad():
            wanted = unet(x_t, alike[t], taught.pick(asked).cross).sample
        texts = states.pick(asked)
        signal, sigma = schedule.coefficients(t, x_t)
        if isinstance(denoiser, FlowDenoiser):
            total = signal + sigma
            found = denoiser.output(x_t / total, (sigma / total).flatten(), texts)
        else:
            found = schedule.to_x0(denoiser.predict_noise(x_t, t, texts), x_t, t, "eps")
        each = (found - wanted).square().flatten(1).mean(1)
        return (each * (signal / sigma).square().flatten().clamp(1, _SHARP)).mean()

    return loss


def only(denoiser: DenoiserPort) -> nn.Module:
    """The one network of a denoiser."""
    (network,) = denoiser.modules
    return network


@torch.no_grad()
def begin_as(denoiser: UnetDenoiser, teacher: nn.Module) -> None:
    """Give a U-Net the teacher's weights wherever it has such of the same shape."""
    own = denoiser.unet.state_dict()
    same = {k: v for k, v in teacher.state_dict().items() if v.shape == own.get(k, v[:0]).shape}
    denoiser.unet.load_state_dict(own | same)


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """The weight matrices inside a transformer's blocks, which Muon moves; no tables."""
    blocks = [b for b in network.modules() if isinstance(b, nn.ModuleList)]
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    inside = {id(w): w for block in blocks for w in block.parameters() if w.dim() == 2}
    return [w for key, w in inside.items() if key not in tables]
