"""Means with bootstrap intervals; pictures of one name are resampled together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval over `count` values."""

    value: float
    low: float
    high: float
    count: int

    def percent(self) -> str:
        """Such as `4.7 (1.6-8.2)`."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}-{100 * self.high:.1f})"

    def plain(self) -> dict[str, float | int | None]:
        """The four numbers for JSON; what is not a number becomes null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        known = {k: None if np.isnan(v) else v for k, v in numbers.items()}
        return {**known, "count": self.count}

    @staticmethod
    def of(plain: Mapping[str, float | int | None]) -> Mean:
        """What `plain` gave."""
        nan = float("nan")
        value, low, high = (plain[k] for k in ("value", "low", "high"))
        count = plain["count"]
        return Mean(
            nan if value is None else value,
            nan if low is None else low,
            nan if high is None else high,
            int(count or 0),
        )


def mean(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, resamples: int = 1000
) -> Mean:
    """Mean of the values that are not NaN, with a percentile bootstrap over groups.

    Values of one group (say, the pictures of one name) are not independent of one another, so
    whole groups are drawn (cluster bootstrap, Davison & Hinkley 1997, ch. 3.8).
    """
    array = np.asarray(values, float)
    known = ~np.isnan(array)
    if not known.any():
        return Mean(float("nan"), float("nan"), float("nan"), 0)
    labels = list(range(len(array))) if groups is None else list(groups)
    order = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    member = np.array([order[label] for label in labels])
    sums = np.bincount(member[known], array[known], len(order))
    counts = np.bincount(member[known], minlength=len(order))
    drawn = np.random.default_rng(0).integers(0, len(order), (resamples, len(order)))
    with np.errstate(invalid="ignore"):
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.nanpercentile(means, (2.5, 97.5))
    return Mean(float(array[known].mean()), float(low), float(high), int(known.sum()))
