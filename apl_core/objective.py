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
from typing import Literal

import torch
from torch import Tensor

from .ports import Conditioning, DenoiserPort, TextEncoderPort
from .prefix import Rows

Kind = Literal["identity", "things", "people"]
KINDS: tuple[Kind, ...] = ("identity", "things", "people")
"""Kinds of examples: prompts that name somebody, name-free scenes, name-free people."""

Target = Literal["description", "person", "empty"]
"""What a name prompt is drawn to: its neutral description, "a person", or the empty prompt."""


Weighting = Literal["eps", "x0"]
"""Whether errors are measured on the noise (as the paper does) or on the clean latent."""


@dataclass(frozen=True, eq=False)
class Example:
    """A clean latent (C, H, W), the prompt that gets the prefix, and the prompt of the target.

    `contrast` is the target's prompt with one word swapped; empty where there is none, and for
    names, whose contrast is the prompt itself.
    """

    kind: Kind
    latent: Tensor
    prompt: str
    neutral: str
    contrast: str = ""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Noised examples with their fixed targets: x_t, target and swap (B, C, H, W), t (B,).

    `swap` is what the swapped word or the name changes in the prediction; zero where there is none.
    """

    kinds: tuple[Kind, ...]
    prompts: tuple[str, ...]
    x_t: Tensor
    t: Tensor
    target: Tensor
    swap: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def pick(self, rows: Sequence[int]) -> Lesson:
        """The examples at `rows`."""
        index = torch.tensor(rows, device=self.t.device)
        return Lesson(
            tuple(self.kinds[i] for i in rows),
            tuple(self.prompts[i] for i in rows),
            self.x_t[index],
            self.t[index],
            self.target[index],
            self.swap[index],
        )

    @staticmethod
    def join(lessons: Sequence[Lesson]) -> Lesson:
        """One lesson out of several."""
        return Lesson(
            tuple(k for one in lessons for k in one.kinds),
            tuple(p for one in lessons for p in one.prompts),
            torch.cat([one.x_t for one in lessons]),
            torch.cat([one.t for one in lessons]),
            torch.cat([one.target for one in lessons]),
            torch.cat([one.swap for one in lessons]),
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
def teach(
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    examples: Sequence[Example],
    t: Tensor,
    noise: Tensor,
    repulsion: float = 0.0,
    contrasts: bool = True,
) -> Lesson:
    """Noise examples at steps t (B,) with noise (B, C, H, W) and compute their fixed targets.

    One run of the frozen denoiser, without gradient; with repulsion or `contrasts` it also holds
    the name prompts, and with `contrasts` the contrasts of the examples that have one.
    """
    x0 = torch.stack([e.latent for e in examples]).to(denoiser.device)
    t, noise = t.to(denoiser.device), noise.to(denoiser.device)
    x_t = denoiser.schedule.q_sample(x0, noise, t)
    count = len(examples)
    names = [i for i, e in enumerate(examples) if e.kind == "identity"]
    others = {i: examples[i].prompt for i in names} if repulsion or contrasts else {}
    if contrasts:
        others |= {i: e.contrast for i, e in enumerate(examples) if e.contrast and i not in others}
    texts = [*(e.neutral for e in examples), *others.values()]
    rows = torch.tensor([*range(count), *others], device=x_t.device)
    conditioning = encode_unique(encoder, texts, None)
    predicted = denoiser.predict_noise(x_t[rows], t[rows], conditioning).float()
    target, change = predicted[:count].clone(), torch.zeros_like(predicted[:count])
    change[rows[count:]] = predicted[count:] - target[rows[count:]]
    target[names] -= repulsion * change[names]
    swap = change if contrasts else torch.zeros_like(change)
    return Lesson(
        tuple(e.kind for e in examples), tuple(e.prompt for e in examples), x_t, t, target, swap
    )


def example_weights(kinds: Sequence[Kind], weights: Mapping[Kind, float]) -> list[float]:
    """Weight of each example so that every kind counts by its weight, however many it has."""
    return [weights[kind] / kinds.count(kind) for kind in kinds]


def errors(
    encoder: TextEncoderPort,
    denoiser: DenoiserPort,
    lesson: Lesson,
    rows: Rows,
    weighting: Weighting = "eps",
    contrast: float = 0.0,
) -> Tensor:
    """Mean squared error of each example (B,) with the prefix in place; differentiable in it.

    `contrast` times the squared share of a word's swap comes on top.

    `x0` measures it on the clean latents that the two predictions mean: the error in the noise
    times (1 - alpha_bar) / alpha_bar, which does not fade where there is almost only noise.
    """
    conditioning = encode_unique(encoder, lesson.prompts, rows)
    predicted = denoiser.predict_noise(lesson.x_t, lesson.t, conditioning).float()
    off = predicted - lesson.target
    found = off.square().flatten(1).mean(1)
    if weighting == "x0":
        signal, sigma = denoiser.schedule.coefficients(lesson.t, found)
        found = found * (sigma / signal).square()
    return found + contrast * _share(off, lesson).square() if contrast else found


def _share(off: Tensor, lesson: Lesson) -> Tensor:
    """How far `off` goes along the swap, (B,): 1 is the whole way; 0 where nothing is swapped.

    A swap of less than a thousandth of the prediction is rounding, not a word: it fades out.
    """
    along = (off * lesson.swap).flatten(1).sum(1)
    length, least = (x.square().flatten(1).sum(1) for x in (lesson.swap, lesson.target))
    return along / torch.maximum(length, 1e-6 * least + torch.finfo(length.dtype).tiny)
