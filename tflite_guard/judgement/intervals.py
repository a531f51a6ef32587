"""Confidence intervals of proportions in closed form, and how many examples an answer would take.

Standard library only. All intervals are two-sided at 95 %; their ends are one-sided bounds at 97.5 %.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt, tan
from statistics import NormalDist

Interval = tuple[float, float]

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
MOST_EXAMPLES = 1_000_000


def simultaneous(count: int) -> float:
    """The quantile for so many intervals that hold all at once at 95 % (Bonferroni), in place of `Z`.

    No independence is assumed: classes share a model.
    """
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * max(count, 1)))


def student(freedom: int, z: float = Z) -> float:
    """Student's t where the normal quantile is z.

    Exact for 1 and 2 degrees of freedom, else Abramowitz and Stegun 26.7.5; from 19 degrees on within 0.1 % up to
    z = 3.5.
    """
    inside = 2 * NormalDist().cdf(z) - 1
    if freedom == 1:
        return tan(pi * inside / 2)
    if freedom == 2:
        return inside * sqrt(2 / (1 - inside**2))
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def wilson(successes: float, n: float, z: float = Z) -> Interval:
    """The score interval of one proportion (Wilson 1927, JASA 22:209).

    Counts may be fractional, so that rates can be carried to another number of examples. Never of
    zero width, also at 0 and n successes. `n` must be positive.
    """
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * sqrt(max(0.0, rate * (1 - rate)) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes <= 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes >= n else min(1.0, (centre + half) / scale)
    return low, high


def newcombe_paired(both: float, first_only: float, second_only: float, neither: float, z: float = Z) -> Interval:
    """The interval of the difference of two proportions of the same examples, first minus second.

    Method 10 of Newcombe 1998 (Statistics in Medicine 17:2635-2650): the score intervals of the two
    proportions, combined by their correlation phi with its continuity correction. Takes the counts
    of the paired 2 x 2 table, which may be fractional. Never of zero width.
    """
    n = both + first_only + second_only + neither
    first, second = (both + first_only) / n, (both + second_only) / n
    (low1, high1), (low2, high2) = wilson(both + first_only, n, z), wilson(both + second_only, n, z)
    phi = _phi(both, first_only, second_only, neither)
    difference = (first_only - second_only) / n
    return (
        max(-1.0, difference - _combined(first - low1, high2 - second, phi)),
        min(1.0, difference + _combined(second - low2, high1 - first, phi)),
    )


def _phi(a: float, b: float, c: float, d: float) -> float:
    product = (a + b) * (c + d) * (a + c) * (b + d)
    if product == 0:
        return 0.0
    half = (a + b + c + d) / 2
    difference = a * d - b * c
    corrected = difference - half if difference > half else min(difference, 0.0)
    return corrected / sqrt(product)


def _combined(first: float, second: float, phi: float) -> float:
    return sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def examples_needed(interval_at: Callable[[float], Interval], limit: float, start: int) -> int | None:
    """The smallest number of examples, from `start`, at which an interval no longer holds the limit.

    `interval_at(n)` is the interval that n examples would give at the observed rates. None when more
    than a million would be needed.
    """

    def decided(n: int) -> bool:
        low, high = interval_at(n)
        return not low <= limit <= high

    too_few, enough = max(start, 1), max(start, 1)
    while not decided(enough):
        if enough >= MOST_EXAMPLES:
            return None
        too_few, enough = enough, min(2 * enough, MOST_EXAMPLES)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if decided(middle) else (middle, enough)
    return enough


def examples_needed_by_width(half_width: float, distance: float, n: int) -> int | None:
    """The number of examples that brings an interval's half-width down to its distance from a limit.

    For intervals without a formula: widths shrink with the square root of n. None when more than a
    million would be needed.
    """
    if distance <= 0:
        return None
    ratio = half_width / distance
    needed = ratio * ratio * n  # not **, which raises where this is infinite
    # One more than the quotient: at exactly that width the interval still touches the limit.
    return None if needed > MOST_EXAMPLES else int(needed) + 1
