"""The Anonymization Prompt Learning objective (arXiv 2405.16895), in parts that can be reused.

With the frozen denoiser eps, the frozen encoder tau and the prefix P, an example with prompt c
and neutral prompt c2 on a noised latent x_t costs

    || eps(x_t, t, tau(P + c)) - target ||^2
    target = eps(x_t, t, tau(c2)) - g (eps(x_t, t, tau(c)) - eps(x_t, t, tau(c2)))

For a general example c2 is c and the target is the frozen prediction itself. The repulsion g
pushes away from what the frozen model would draw for the name; the paper has g = 0. The target
does not depend on the prefix: it is computed without gradient, and can be kept and used again.

What one word changes can be a handful of pixels, such as a mouth, which no mean over a picture
notices. An example may therefore bring a contrast: its prompt with one word swapped ("woman" for
"man"). With d = eps(x_t, t, tau(contrast)) - eps(x_t, t, tau(c2)) it also costs

    (<eps(x_t, t, tau(P + c)) - target, d> / <d, d>)^2

the share of the swap that the prefix makes, squared: 0 where the word means what it meant, 1 where
it means the other one. A name is such a word in the place of its neutral one, so that d is there
already: what is left of every name counts alike, however little it changes in the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .example_kinds import Kind, Weighting
from .ports import Conditioning, DenoiserPort, TextEncoderPort
from .prefix import Rows
from .schedule import Schedule


@dataclass(frozen=True, eq=False)
class Example:
    """A clean latent (C, H, W), the prompt that gets the prefix, and the prompt of the target.

    `contrast_prompt` is the target's prompt with one word swapped; empty where there is none, and
    for names, whose contrast is the prompt itself.
    """

    kind: Kind
    latent: Tensor
    prompt: str
    neutral: str
    contrast_prompt: str = ""


@dataclass(frozen=True, eq=False)
class TargetBatch:
    """Noised examples with their fixed targets: x_t, target (B, C, H, W) and t (B,).

    `contrast_direction` (B, C, H, W) is what the swapped word or the name changes in the
    prediction; zero where there is none.
    """

    kinds: tuple[Kind, ...]
    prompts: tuple[str, ...]
    x_t: Tensor
    t: Tensor
    target: Tensor
    contrast_direction: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def pick(self, rows: Sequence[int]) -> TargetBatch:
        """The examples at `rows`."""
        index = torch.tensor(rows, device=self.t.device)
        return TargetBatch(
            tuple(self.kinds[i] for i in rows),
            tuple(self.prompts[i] for i in rows),
            self.x_t[index],
            self.t[index],
            self.target[index],
            self.contrast_direction[index],
        )

    def to(self, device: torch.device) -> TargetBatch:
        """The same on another device."""
        moved = (self.x_t, self.t, self.target, self.contrast_direction)
        return TargetBatch(self.kinds, self.prompts, *(tensor.to(device) for tensor in moved))

    @staticmethod
    def join(batches: Sequence[TargetBatch]) -> TargetBatch:
        """One batch out of several."""
        return TargetBatch(
            tuple(k for one in batches for k in one.kinds),
            tuple(p for one in batches for p in one.prompts),
            torch.cat([one.x_t for one in batches]),
            torch.cat([one.t for one in batches]),
            torch.cat([one.target for one in batches]),
            torch.cat([one.contrast_direction for one in batches]),
        )


def encode_unique(
    encoder: TextEncoderPort, texts: Sequence[str], rows: Rows | None
) -> Conditioning:
    """Encode texts, each different one once."""
    unique = list(dict.fromkeys(texts))
    index = {text: place for place, text in enumerate(unique)}
    encoded = encoder.encode(unique, rows)
    if len(unique) == len(texts):
        return encoded
    return encoded.pick(torch.tensor([index[text] for text in texts], device=encoded.cross.device))


@torch.no_grad()
def compute_targets(
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    examples: Sequence[Example],
    t: Tensor,
    noise: Tensor,
    repulsion: float = 0.0,
    with_contrast: bool = True,
) -> TargetBatch:
    """Noise examples at steps t (B,) with noise (B, C, H, W) and compute their fixed targets.

    One run of the frozen denoiser, without gradient; with repulsion or `with_contrast` it also
    holds the name prompts, and with `with_contrast` the contrast prompts.
    """
    x0 = torch.stack([e.latent for e in examples]).to(denoiser.device)
    t, noise = t.to(denoiser.device), noise.to(denoiser.device)
    x_t = denoiser.schedule.q_sample(x0, noise, t)
    count = len(examples)
    names = [i for i, e in enumerate(examples) if e.kind == "identity"]
    others = {i: examples[i].prompt for i in names} if repulsion or with_contrast else {}
    if with_contrast:
        for i, example in enumerate(examples):
            if example.contrast_prompt:
                others.setdefault(i, example.contrast_prompt)
    texts = [*(e.neutral for e in examples), *others.values()]
    rows = torch.tensor([*range(count), *others], device=x_t.device)
    conditioning = encode_unique(encoder, texts, None)
    predicted = denoiser.predict_noise(x_t[rows], t[rows], conditioning).float()
    target, change = predicted[:count].clone(), torch.zeros_like(predicted[:count])
    change[rows[count:]] = predicted[count:] - target[rows[count:]]
    target[names] -= repulsion * change[names]
    contrast_direction = change if with_contrast else torch.zeros_like(change)
    return TargetBatch(
        tuple(e.kind for e in examples),
        tuple(e.prompt for e in examples),
        x_t,
        t,
        target,
        contrast_direction,
    )


def example_weights(kinds: Sequence[Kind], weights: Mapping[Kind, float]) -> list[float]:
    """Weight of each example so that every kind counts by its weight, however many it has."""
    return [weights[kind] / kinds.count(kind) for kind in kinds]


def per_example_loss(
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    batch: TargetBatch,
    rows: Rows,
    weighting: Weighting = "eps",
    contrasts: Mapping[Kind, float] | None = None,
    unit: float = 1.0,
) -> Tensor:
    """Mean squared error of each example (B,) with the prefix in place; differentiable in it.

    It is counted in `unit`, the error that another caption makes. The squared share of a word's
    contrast_direction comes on top, times what `contrasts` says for the kind of example.
    """
    conditioning = encode_unique(encoder, batch.prompts, rows)
    predicted = denoiser.predict_noise(batch.x_t, batch.t, conditioning).float()
    off = predicted - batch.target
    found = squared_error(denoiser.schedule, off, batch.t, weighting) / unit
    if contrasts and any(contrasts.values()):
        weights = torch.tensor([contrasts[kind] for kind in batch.kinds], device=found.device)
        return found + weights * _share(off, batch).square()
    return found


def squared_error(schedule: Schedule, off: Tensor, t: Tensor, weighting: Weighting) -> Tensor:
    """Mean square (B,) of an error (B, C, H, W) in the noise prediction at steps t (B,).

    `x0` measures it on the clean latents that the two predictions mean: the error in the noise
    times (1 - alpha_bar) / alpha_bar, which does not fade where there is almost only noise.
    """
    found = off.square().flatten(1).mean(1)
    if weighting == "eps":
        return found
    signal, sigma = schedule.coefficients(t, found)
    return found * (sigma / signal).square()


def _share(off: Tensor, batch: TargetBatch) -> Tensor:
    """How far `off` goes along the contrast, (B,): 1 is the whole way; 0 where there is none.

    A change of less than a thousandth of the prediction is rounding, not a word: it fades out.
    """
    along = (off * batch.contrast_direction).flatten(1).sum(1)
    length, least = (x.square().flatten(1).sum(1) for x in (batch.contrast_direction, batch.target))
    return along / torch.maximum(length, 1e-6 * least + torch.finfo(length.dtype).tiny)
