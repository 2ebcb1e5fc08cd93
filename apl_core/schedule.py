"""The noise schedule: how a clean latent is noised, and what a network's output says about noise.

Formulas: q(x_t | x_0) of DDPM (arXiv 2006.11239, eq. 4); v prediction (arXiv 2202.00512, app. D);
x_t = (1 - s) x_0 + s noise with velocity noise - x_0 of rectified flow (arXiv 2209.03003, eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["eps", "v", "x0", "flow"]
"""What a network predicts: the noise, the v of DDPM, the clean latent, or the flow's velocity."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Signal kept after each step: `alphas_cumprod` (T,), falling from about 1 to about 0.

    It is the share of x_t's variance that is signal. In DDPM that variance stays 1; in a rectified
    flow the factors of signal and noise sum to 1 instead, and `flow` (T,) is that of noise.
    """

    alphas_cumprod: Tensor
    flow: Tensor | None = None

    def __post_init__(self) -> None:
        values = self.alphas_cumprod
        if values.dim() != 1 or not bool(((values > 0) & (values <= 1)).all()):
            raise ValueError("alphas_cumprod must be a vector of values in (0, 1]")

    @staticmethod
    def scaled_linear(steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Schedule:
        """Stable Diffusion's schedule: betas linear in their square root."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
        return Schedule((1 - betas).cumprod(0).float())

    @staticmethod
    def rectified_flow(steps: int = 1000, most: float = 0.999, shift: float = 1.0) -> Schedule:
        """Noise from near 0 to `most`: x_t = (1 - s) x_0 + s noise.

        In equal steps u, or with a shift in s = shift u / (1 + (shift - 1) u) (arXiv 2403.03206,
        eq. 23). Nothing is left of the signal at 1, from which no noise prediction can be told.
        """
        noise = torch.linspace(most / steps, most, steps, dtype=torch.float64)
        noise = shift * noise / (1 + (shift - 1) * noise)
        signal = (1 - noise).square()
        return Schedule((signal / (signal + noise.square())).float(), noise.float())

    def to_zero_snr(self) -> Schedule:
        """The same schedule stretched so that nothing is left of the signal at its end.

        arXiv 2305.08891, algorithm 1; instead of 0 the last value is tiny, to divide by.
        """
        kept = self.alphas_cumprod.double().sqrt()
        stretched = (kept - kept[-1]) * kept[0] / (kept[0] - kept[-1])
        return Schedule(stretched.square().clamp_min(1e-8).float())

    @property
    def steps(self) -> int:
        """Number of noise levels T."""
        return self.alphas_cumprod.shape[0]

    def first_below(self, snr: float) -> int:
        """The first step whose signal-to-noise ratio is at most `snr`; the last if none is.

        The ratio is alpha_bar / (1 - alpha_bar) (arXiv 2107.00630, eq. 2).
        """
        kept = self.alphas_cumprod.double()
        within = (kept <= snr * (1 - kept)).nonzero()
        return int(within[0]) if len(within) else self.steps - 1

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise at steps t (B,), shaped to multiply `like`.

        sqrt(alpha_bar) and sqrt(1 - alpha_bar); in a flow 1 - s and s.
        """
        shape = (-1,) + (1,) * (like.dim() - 1)
        if self.flow is not None:
            noise = self.flow.to(like.device)[t].reshape(shape)
            return 1 - noise, noise
        kept = self.alphas_cumprod.to(like.device)[t].float()
        return kept.sqrt().reshape(shape), (1 - kept).sqrt().reshape(shape)

    def scaled(self, x: Tensor, t: Tensor) -> Tensor:
        """x_t of a schedule whose variance stays 1 as that of this one, (B, C, H, W)."""
        if self.flow is None:
            return x
        signal, noise = self.coefficients(t, x)
        return x * (signal.square() + noise.square()).sqrt()

    def q_sample(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = signal x_0 + sigma noise; all (B, C, H, W), t (B,)."""
        signal, sigma = self.coefficients(t, x0)
        return signal * x0 + sigma * noise

    def to_eps(self, output: Tensor, x_t: Tensor, t: Tensor, kind: Prediction) -> Tensor:
        """Noise prediction from a network's output of any kind."""
        if kind == "eps":
            return output
        signal, sigma = self.coefficients(t, x_t)
        if kind == "v":
            return signal * output + sigma * x_t
        if kind == "flow":
            return x_t + signal * output
        return (x_t - signal * output) / sigma

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor, kind: Prediction) -> Tensor:
        """Prediction of the clean latent from a network's output of any kind."""
        if kind == "x0":
            return output
        signal, sigma = self.coefficients(t, x_t)
        if kind == "v":
            return signal * x_t - sigma * output
        if kind == "flow":
            return x_t - sigma * output
        return (x_t - sigma * output) / signal
