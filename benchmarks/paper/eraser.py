"""A closed-form eraser of listed names, for comparison: cross-attention weights are edited.

In the manner of UCE (arXiv 2308.14761), written anew: every key and value projection W becomes
the W' that sends the states of a name prompt to where W sends those of the neutral prompt, and
keeps what W does with name-free prompts. With c a state of a name prompt, c* the one that stands
for it in the neutral prompt, and p a state to keep,

    W' = W (sum c* c' + k sum p p' + r I) (sum c c' + k sum p p' + r I)^-1

which is ridge regression, solved once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apl_core.encoding import ReferenceEncoder


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over states: `cross` (D, D) of c* c', `within` (D, D) of c c', and how many."""

    cross: Tensor
    within: Tensor
    count: float

    @staticmethod
    def of(old: Tensor, new: Tensor) -> Moments:
        """Of states old (N, D) that are to be read as new (N, D)."""
        a, b = old.double(), new.double()
        return Moments(b.T @ a, a.T @ a, len(a))


def edit(weight: Tensor, erased: Moments, kept: Moments, preserve: float, ridge: float) -> Tensor:
    """W' for a projection W (out, D); the three sums are means, so that counts do not matter."""
    size = weight.shape[1]
    keep = preserve * kept.within / kept.count
    still = ridge * torch.eye(size, dtype=torch.float64) * keep.diagonal().mean()
    left = erased.cross / erased.count + keep + still
    right = erased.within / erased.count + keep + still
    edited = torch.linalg.solve(right, (weight.double() @ left).T).T  # `right` is symmetric
    return edited.to(weight.dtype)


def pairs(
    encoder: ReferenceEncoder, names: Sequence[str], templates: Sequence[str], neutral: str
) -> tuple[Tensor, Tensor]:
    """States (N, D) of name prompts, and those that they are to be read as.

    Both rows are aligned at the end of the subject: a name's tokens go to the neutral subject's
    last token, what follows goes to what follows there, padding to padding.
    """
    tower = encoder.towers[0]
    old: list[Tensor] = []
    new: list[Tensor] = []
    for template in templates:
        before = len(tower.tokenize(template.split("{}")[0])) + 1  # BOS
        wanted = encoder.encode([template.format(neutral)], None).cross[0]
        last = before + len(tower.tokenize(neutral)) - 1
        states = encoder.encode([template.format(n) for n in names], None).cross
        for name, found in zip(names, states, strict=True):
            end = before + len(tower.tokenize(name)) - 1
            target = torch.arange(before, len(found)) + last - end
            target = target.clamp(last, len(wanted) - 1)
            old.append(found[before:])
            new.append(wanted[target])
    return torch.cat(old), torch.cat(new)


def projections(unet: nn.Module) -> list[nn.Linear]:
    """The key and value projections of all cross-attention layers."""
    return [
        module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(("attn2.to_k", "attn2.to_v"))
    ]


@torch.no_grad()
def erase(
    encoder: ReferenceEncoder,
    unet: nn.Module,
    names: Sequence[str],
    templates: Sequence[str],
    neutral: str,
    keep: Sequence[str],
    preserve: float = 0.5,
    ridge: float = 1e-3,
) -> int:
    """Edit `unet` in place so that listed names read as `neutral`; returns the bytes in fp16.

    `keep` are name-free prompts whose keys and values are to stay.
    """
    erased = Moments.of(*pairs(encoder, names, templates, neutral))
    states = torch.cat([encoder.encode([text], None).cross[0] for text in keep])
    kept = Moments.of(states, states)
    layers = projections(unet)
    for layer in layers:
        layer.weight.copy_(edit(layer.weight, erased, kept, preserve, ridge))
    return sum(2 * layer.weight.numel() for layer in layers)
