"""How far apart two sets of pictures are: pair by pair at the same seed, and as distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..statistics import Mean, mean

Matrix = NDArray[np.float64]


def pixel_change(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference (B,) of pictures (B, 3, H, W), pair by pair."""
    return (one - other).square().flatten(1).mean(1)


def feature_change(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """A perceptual distance (B,) on feature maps (B, C, h, w) of several depths, pair by pair.

    LPIPS (arXiv 1801.03924, eq. 1) with all channels weighing 1: at every place the channels are
    scaled to unit length, squared differences are added over channels, averaged over places and
    over depths. 0 for equal pictures, at most 2 where no feature is negative.
    """
    distances: list[Tensor] = []
    for a, b in zip(one, other, strict=True):
        a, b = (torch.nn.functional.normalize(x.float(), dim=1, eps=1e-8) for x in (a, b))
        distances.append((a - b).square().sum(1).flatten(1).mean(1))
    return torch.stack(distances).mean(0)


def meaning_change(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine (B,) of embeddings (B, D) of any length, pair by pair."""
    return 1 - torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=1)


def frechet(mean_1: Matrix, cov_1: Matrix, mean_2: Matrix, cov_2: Matrix) -> float:
    """Squared Frechet distance of two Gaussians with means (D,) and covariances (D, D).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) (Dowson & Landau 1982); the root is taken
    by symmetric eigenvalues, which needs no general matrix root and stays real.
    """
    values, vectors = np.linalg.eigh(cov_1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_2 @ root).clip(0)).sum()
    distance = np.square(mean_1 - mean_2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * cross
    return float(max(distance, 0.0))


def fid(one: Tensor, other: Tensor) -> float:
    """Frechet distance of features (N, D) and (M, D) (arXiv 1706.08500).

    It depends on the features and grows as N falls: compare it with that of two seeds only, on as
    many pictures. NaN below two pictures.
    """
    a, b = (x.double().cpu().numpy() for x in (one, other))
    if min(len(a), len(b)) < 2:
        return float("nan")
    return frechet(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def kid(one: Tensor, other: Tensor) -> float:
    """Kernel distance of features (N, D) and (M, D): unbiased MMD^2 (arXiv 1801.01401).

    Kernel (x.y / D + 1)^3. Its mean over samples of one distribution is 0, whatever N; it may be
    negative. NaN below two pictures.
    """
    a, b = (x.double().cpu().numpy() for x in (one, other))
    n, m = len(a), len(b)
    if min(n, m) < 2:
        return float("nan")

    def kernel(x: Matrix, y: Matrix) -> Matrix:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within_a, within_b = kernel(a, a), kernel(b, b)
    first = (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
    second = (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(first + second - 2 * kernel(a, b).mean())


def kid_mean(one: Tensor, other: Tensor, parts: int = 8) -> Mean:
    """KID averaged over `parts` disjoint parts of the pictures, with the interval of that mean."""
    count = max(min(parts, len(one) // 8, len(other) // 8), 1)
    random = torch.Generator().manual_seed(0)
    order = [torch.randperm(len(x), generator=random) for x in (one, other)]
    values = [kid(one[order[0][i::count]], other[order[1][i::count]]) for i in range(count)]
    return mean(values)
