"""Percentile bootstrap over examples or over groups of examples (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Statistic = Callable[[Array], Array]
"""Weights (resamples, n) to (resamples, 2): the reference's value and the variant's, NaN where undefined."""

RESAMPLES = 2_000
PERCENTILES = (2.5, 97.5)
# One chunk of weights; 8 MB in float64 stays near the caches and bounds memory whatever n is.
CHUNK = 2**20


def resample(units: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Array]:
    """Chunks of float64 arrays (resamples, units): how often each unit was drawn, with replacement."""
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // units)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def replicates(statistic: Statistic, examples: int, groups: Array | None, seed: int) -> Array:
    """The statistic on every resample, float64 (RESAMPLES, 2); reference and variant share each draw.

    `groups` (examples,) holds the index of each example's group, from 0; groups are then drawn whole.
    """
    if groups is None:
        chunks = [statistic(weights) for weights in resample(examples, seed)]
    else:
        chunks = [statistic(weights[:, groups]) for weights in resample(int(groups.max()) + 1, seed)]
    return np.concatenate(chunks)


def percentile_interval(values: Array) -> tuple[float, float] | None:
    """The 2.5th and the 97.5th percentile of replicates (n,).

    Resamples where the statistic is undefined (NaN) are left out. None when they are more than half,
    or when an end is infinite.
    """
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return None
    # "linear" subtracts neighbours, so an infinite one would give NaN; either way there is no end.
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(defined, PERCENTILES)
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def has_width(interval: tuple[float, float]) -> bool:
    """Whether an interval is wider than rounding; one of zero width would claim certainty from silence."""
    low, high = interval
    return high - low > 1e-12 * max(abs(low), abs(high))
