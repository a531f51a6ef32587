"""Percentile bootstrap over examples or over groups of examples.

Efron and Tibshirani 1993, chapter 13, with percentiles moved outwards for few units as in Hesterberg 2015
(The American Statistician 69:371): plain percentiles are too narrow by the factor that n has over n - 1,
and take the normal where a t distribution is due. With 1,000 examples nothing changes, with 20 groups much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.judgement.intervals import student

Array = NDArray[Any]
Statistic = Callable[[Array], Array]
"""Weights (resamples, n) to (resamples, 2): the reference's value and the variant's, NaN where undefined."""

RESAMPLES = 2_000
# One chunk of weights; 8 MB in float64 stays near the caches and bounds memory whatever n is.
CHUNK = 2**20
KEPT = 2**25
"""Weights that are kept for the next metric or variant, of the same examples and seed: 64 MB in 16 bits."""


def resample(units: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Array]:
    """Chunks of float64 arrays (resamples, units): how often each unit was drawn, with replacement."""
    draws = _kept if units * resamples <= KEPT else _drawn
    for counts in draws(units, seed, resamples):
        yield counts.astype(np.float64)


@lru_cache(maxsize=1)
def _kept(units: int, seed: int, resamples: int) -> tuple[Array, ...]:
    return tuple(counts.astype(np.min_scalar_type(units)) for counts in _drawn(units, seed, resamples))


def _drawn(units: int, seed: int, resamples: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // units)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)


def replicates(statistic: Statistic, examples: int, groups: Array | None, seed: int) -> Array:
    """The statistic on every resample, float64 (RESAMPLES, 2); reference and variant share each draw.

    `groups` (examples,) holds the index of each example's group, from 0; groups are then drawn whole.
    """
    if groups is None:
        chunks = [statistic(weights) for weights in resample(examples, seed)]
    else:
        chunks = [statistic(weights[:, groups]) for weights in resample(int(groups.max()) + 1, seed)]
    return np.concatenate(chunks)


def percentile_interval(values: Array, units: int) -> tuple[float, float] | None:
    """The 95 % interval from replicates (n,) that drew from so many examples or groups, at least 2.

    Resamples where the statistic is undefined (NaN) are left out. None when they are more than half,
    or when an end is infinite.
    """
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return None
    tail = 100 * lower_tail(units)
    # Interpolation subtracts neighbours, so an infinite one would give NaN; either way there is no end.
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(defined, (tail, 100 - tail))
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def lower_tail(units: int) -> float:
    """The share of replicates to leave below the interval: 0.025 for many units, less for few."""
    return NormalDist().cdf(-sqrt(units / (units - 1)) * student(units - 1))


def has_width(interval: tuple[float, float]) -> bool:
    """Whether an interval is wider than rounding; one of zero width would claim certainty from silence."""
    low, high = interval
    return high - low > 1e-12 * max(abs(low), abs(high))
