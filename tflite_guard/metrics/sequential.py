"""What the mean over a whole set of examples must be, told from a part of them that was drawn at random.

Testing by betting for sampling without replacement: Waudby-Smith and Ramdas, "Confidence sequences for sampling without
replacement" (NeurIPS 2020) and "Estimating means of bounded random variables by betting" (JRSS B 86:1, 2024, section
5). Examples come in random order. Were the mean of all at most m, the mean of those still to come would follow, and a
bet on the next one at that price could not win on average. By Ville's inequality its wealth then exceeds 1 / alpha at
any time with a probability of at most alpha, whatever the scores, however often one looks and whenever one stops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import assert_never

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tflite_guard.metrics import slices
from tflite_guard.metrics.scores import Scores
from tflite_guard.results import Measurement
from tflite_guard.vocabulary import ToleranceKind

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Bounds = tuple[float, float]

# Shares of the wealth that are put on each next example, of which the mean wealth counts. So many, this far apart, win
# nearly what the best of them wins, from drops that are seen at once to shares of disagreement of one in a thousand.
STAKES = np.geomspace(1e-4, 1.0, 25)
# What sums of float64 may be wrong by, relative to the largest possible sum: to have nothing left proves something.
SUM_SLACK = 1e-9
BISECTIONS = 16
LONGEST = 4096
"""Examples of which all stakes are looked at together."""


class Drawn(msgspec.Struct, frozen=True):
    """Scores of examples in the random order in which they were drawn from a set of `size`."""

    values: Floats
    """(t,)"""
    counted: Bools
    """(t,), those that the mean is over; the others have no label."""
    size: int
    low: float
    """No score of the set is smaller."""
    high: float
    """No score of the set is larger."""

    def above(self, limit: float, alpha: float) -> bool:
        """Whether it is proven that the mean of the set is above a limit; wrong with a probability of at most alpha."""
        # With what does not count at the limit, the mean of all is on the same side as the mean of what counts.
        low = min(self.low, limit)
        return _disproved(np.where(self.counted, self.values, limit) - low, self.size, limit - low, alpha)

    def below(self, limit: float, alpha: float) -> bool:
        """Whether it is proven that the mean of the set is below a limit; wrong with a probability of at most alpha."""
        return self.mirrored.above(-limit, alpha)

    @property
    def mirrored(self) -> Drawn:
        """The same with every score's sign changed."""
        return replace(self, values=-self.values, low=-self.high, high=-self.low)

    def interval(self, alpha: float) -> Bounds:
        """Between what the mean of the set lies; each end is wrong with a probability of at most alpha."""
        low = self._lower_end(alpha)
        return low, -self.mirrored._lower_end(alpha)

    def _lower_end(self, alpha: float) -> float:
        """The largest limit that the mean is proven to be above, from below to within a step of bisection."""
        proven, open_ = self.low, self.high
        for _ in range(BISECTIONS):
            middle = (proven + open_) / 2
            proven, open_ = (middle, open_) if self.above(middle, alpha) else (proven, middle)
        return proven


def _disproved(values: Floats, size: int, mean: float, alpha: float) -> bool:
    """Whether bets against "`size` values, none negative, have at most this mean" won 1 / alpha times their stake.

    `values` (t,) are some of them in random order.
    """
    left = size * mean - np.concatenate([[0.0], np.cumsum(values)])
    left = np.where(np.abs(left) <= SUM_SLACK * size * max(mean, float(values.max(initial=0.0))), 0.0, left)
    if left[-1] < 0:
        return True  # what was drawn adds up to more than all may
    price = left[:-1] / (size - np.arange(len(values)))
    return any(wealth.max() >= -math.log(alpha) for wealth in _wealth(values, price))


def _wealth(values: Floats, price: Floats) -> Iterator[Floats]:
    """The logarithm of the mean wealth of all stakes after each example, piece by piece.

    An example multiplies it by 1 - stake + stake * value / price, where the price is the mean of what is still to come
    if the mean of all is the limit: not less than it truly is, so that nothing can be won on average.
    """
    # At a price of 0 only zeros can come, of which a bet wins and loses nothing.
    ratios = np.divide(values, price, out=np.ones(len(values)), where=price > 0)
    own = np.zeros((len(STAKES), 1))
    for start in range(0, len(ratios), LONGEST):
        with np.errstate(divide="ignore"):  # a stake of all may be lost
            growth = np.log1p(STAKES[:, None] * (ratios[start : start + LONGEST] - 1))
        own = own[:, -1:] + np.cumsum(growth, axis=1)
        largest = own.max(0)
        yield largest + np.log(np.exp(own - largest).mean(0))


def settled(
    scores: Scores,
    bounds: Bounds,
    size: int,
    limits: Mapping[ToleranceKind, float],
    baseline: float | None,
    alpha: float,
) -> bool:
    """Whether it is certain on which side of its limits a metric of the whole set is, and the part is there too.

    Args:
        scores: of the examples drawn so far, in random order; the metric is the mean of `candidate`, larger is better.
        bounds: between what each score lies.
        size: how many examples the set has.
        limits: all must hold; one that is exceeded is enough.
        baseline: the recorded value of the metric; without one `max_regression` does not apply.
        alpha: the probability with which a limit may be misjudged.
    """
    sides = [
        _side(*_worsening(kind, limit, scores, bounds, baseline), _counted(scores), size, alpha)
        for kind, limit in limits.items()
        if kind != "max_regression" or baseline is not None
    ]
    return any(sides) or all(side is False for side in sides)


def _side(values: Floats, bounds: Bounds, limit: float, counted: Bools, size: int, alpha: float) -> bool | None:
    """Whether the mean of the set is above a limit; None where that is open, or the part is on the other side."""
    drawn = Drawn(values, counted, size, *bounds)
    if not counted.any():
        return None
    if float(values[counted].mean()) > limit:
        return True if drawn.above(limit, alpha) else None
    return False if drawn.below(limit, alpha) else None


def _worsening(
    kind: ToleranceKind, limit: float, scores: Scores, bounds: Bounds, baseline: float | None
) -> tuple[Floats, Bounds, float]:
    """Scores whose mean is above a number where a limit is exceeded, their bounds, and that number."""
    ours = scores["candidate"].astype(np.float64)
    low, high = bounds
    match kind:
        case "max_drop":
            return scores["reference"] - ours, (low - high, high - low), limit
        case "max_relative_drop":
            # drop <= limit x reference, with what depends on the reference on one side: a mean again.
            kept = [(1 - limit) * end for end in bounds]
            return (1 - limit) * scores["reference"] - ours, (min(kept) - high, max(kept) - low), 0.0
        case "max_regression":
            assert baseline is not None
            return -ours, (-high, -low), limit - baseline
        case "min":
            return -ours, (-high, -low), -limit
        case "max":
            return ours, bounds, limit
        case "max_class_drop" | "max_slice_drop":
            raise ValueError(f"{kind} is of parts of the examples, of which a part of them proves nothing")
        case _:
            assert_never(kind)


def without_intervals(measured: Measurement) -> Measurement:
    """A measurement on a part of a metric whose intervals do not allow for a part that was chosen by what it showed."""
    measured = slices.without_intervals(measured)
    if measured.value is None:
        return measured
    note = measured.interval_note or "the evaluation stopped early, which no interval of this metric allows for"
    return replace(measured, confidence_interval=None, value_interval=None, interval_method=None, interval_note=note)


def with_intervals(measured: Measurement, scores: Scores, bounds: Bounds, size: int, alpha: float) -> Measurement:
    """A measurement on a part with the intervals of what it is on the whole set, each end within `alpha`.

    `scores` are of the part, in random order, and `bounds` those of each score.
    """
    measured = slices.without_intervals(measured)
    if measured.value is None:
        return measured
    counted = _counted(scores)
    ours = scores["candidate"].astype(np.float64)
    low, high = bounds
    own = main = _around(measured.value, Drawn(ours, counted, size, low, high).interval(alpha))
    if measured.drop is not None:
        drops = Drawn(scores["reference"] - ours, counted, size, low - high, high - low)
        main = _around(measured.drop, drops.interval(alpha))
    return replace(
        measured, confidence_interval=main, value_interval=own, interval_method="betting", interval_note=None
    )


def _around(value: float, interval: Bounds) -> Bounds:
    """An interval with the part's own value in it: what was proven of the whole earlier may lie beside it by now."""
    return min(interval[0], value), max(interval[1], value)


def _counted(scores: Scores) -> Bools:
    return scores["counted"] if "counted" in scores else np.ones(len(scores["candidate"]), bool)
