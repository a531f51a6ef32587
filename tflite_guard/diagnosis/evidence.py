"""Numbers that experiments and findings are made of. All in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from tflite_guard.diagnosis.lab import Array, Arrays, Range, Samples
from tflite_guard.results import Histogram

SURELY = 0.975
"""The share of resamples in which something is lost, for the loss not to be chance."""
MOSTLY = 0.9
"""The share of examples that are like others, for a set of them to be."""
BINS = 64
"""Of a histogram."""
STEPS = 255
"""From one end of a quantized range to the other."""
UNITS = 30.0
"""Times as large as another's are values of a channel that has another unit."""
BIT = 6.02
"""Decibels between a rounding and one of twice as many steps."""
ROBUST = (1.0, 99.0)
"""Percentiles between which values are compared where a few extremes must have no say."""


SAME_FUNCTION = 40.0
"""Decibels of a float model's outputs to those of the model that it was made from, where both compute the same."""


def noise(outputs: Arrays, reference: Arrays) -> float:
    """The mean power of the difference, over all values of all outputs, each scaled to its reference's own power.

    Where an output's channels have powers of different units, as boxes in pixels beside scores, each is scaled to its
    own.
    """
    parts = []
    for name, wanted in reference.items():
        exact = wanted.astype(np.float64)
        lost = np.square(outputs[name].astype(np.float64) - exact)
        parts.append(float(np.mean(lost / _power(exact))))
    return float(np.mean(parts))


def _power(exact: Array) -> Array:
    """The mean square around each value's mean over examples (n, ...), of channels of several units that of each.

    Probabilities have one unit, however seldom a class has more than a little.
    """
    squares = np.square(exact - exact.mean(0))
    whole = squares.mean(keepdims=True)
    best, widest = np.where(whole > 0, whole, 1.0), UNITS**2
    if exact.min() >= 0 and exact.max() <= 1:
        return best
    for axis in range(1, squares.ndim):
        each = squares.mean(tuple(other for other in range(squares.ndim) if other != axis), keepdims=True)
        alive = each[each > 0]
        if len(alive) > 1 and alive.max() / alive.min() >= widest:
            best, widest = np.where(each > 0, each, 1.0), alive.max() / alive.min()
    return best


def sqnr(outputs: Arrays, reference: Arrays) -> float | None:
    """10 log10 of the pooled signal over the pooled noise; None without noise or without signal."""
    signal = lost = 0.0
    for name, wanted in reference.items():
        exact = wanted.astype(np.float64)
        signal += float(np.square(exact).sum())
        lost += float(np.square(outputs[name].astype(np.float64) - exact).sum())
    return decibels(signal, lost)


def same_function(outputs: Arrays, reference: Arrays) -> bool:
    """Whether a float model computes what another does, but for rounding."""
    closeness = sqnr(outputs, reference)
    return closeness is None or closeness >= SAME_FUNCTION


def decibels(signal: float, lost: float) -> float | None:
    """10 log10(signal / lost); None where either is zero."""
    return 10 * float(np.log10(signal / lost)) if signal > 0 and lost > 0 else None


def tied(outputs: Arrays, reference: Arrays) -> float:
    """Of the decisions (the largest of the last axis) unlike the reference's, the fraction that are ties; 0 of none."""
    changed = ties = 0
    for name, wanted in reference.items():
        if wanted.ndim < 2 or wanted.shape[-1] < 2:
            continue
        given = outputs[name]
        other = given.argmax(-1) != wanted.argmax(-1)
        largest = (given == given.max(-1, keepdims=True)).sum(-1)
        changed += int(other.sum())
        ties += int((other & (largest > 1)).sum())
    return ties / changed if changed else 0.0


def distinct(samples: Samples) -> int:
    """How many examples differ in any value."""
    return len(_keys(samples))


def constants(samples: Samples) -> int:
    """How many examples hold one value throughout, of inputs of several values."""
    flat = [v.reshape(len(v), -1) for v in samples.inputs.values() if v[0].size > 1]
    if not flat:
        return 0
    return int(np.all([(v == v[:, :1]).all(1) for v in flat], axis=0).sum())


def spread(values: Array) -> tuple[float, float]:
    """The centre and the width between robust percentiles."""
    low, high = np.percentile(values.astype(np.float64), ROBUST)
    return float(low + high) / 2, float(high - low)


def among(values: Array, others: Array) -> bool:
    """Whether nearly every example's smallest, mean and largest value is one that examples of `others` have."""
    ours, theirs = (
        np.stack([flat.min(1), flat.mean(1), flat.max(1)])
        for flat in (one.reshape(len(one), -1).astype(np.float64) for one in (values, others))
    )
    low, high = theirs.min(1, keepdims=True), theirs.max(1, keepdims=True)
    return bool(((ours >= low) & (ours <= high)).all(0).mean() >= MOSTLY)


def width(pair: Range) -> float:
    """Of a quantized range, which always holds zero."""
    return max(pair[1], 0.0) - min(pair[0], 0.0)


def extremes(values: Array) -> Array:
    """Each example's largest distance from the common median, over the median of those: (n,)."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    furthest = np.abs(flat - np.median(flat)).max(1)
    typical = float(np.median(furthest))
    return furthest / typical if typical > 0 else np.ones(len(flat))


def channel_spread(channels: Array) -> float:
    """The largest channel's range over the median of the channels that have any; 1 where there is nothing to compare.

    `channels` is (channels, 2).
    """
    sizes = np.abs(channels).max(1)
    alive = sizes[sizes > 0]
    return float(alive.max() / np.median(alive)) if len(alive) > 1 else 1.0


def outlier_ratio(weights: Array) -> Array:
    """Of a constant by its output channels (the first axis): the largest value over the 95th percentile of each."""
    flat = np.abs(weights.reshape(len(weights), -1).astype(np.float64)) if weights.ndim > 1 else np.abs(weights)[None]
    usual = np.percentile(flat, 95, axis=1, method="lower")
    return np.where(usual > 0, flat.max(1) / np.where(usual > 0, usual, 1), 1.0)


def weights_drawn(count: int, resamples: int = 1000, seed: int = 0) -> Array:
    """How often each example is drawn in each bootstrap resample, (resamples, count); the first row is all ones."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)
    drawn[0] = 1.0
    return drawn


def recovered(
    healthy: float | None, bad: Array, new: Array, *, higher_is_better: bool
) -> tuple[float, tuple[float, float] | None] | None:
    """The fraction of the loss that comes back, with its 95 % bootstrap interval.

    Args:
        healthy: the value to come back to; None means the reference's own.
        bad: (k, 2), the metric of the reference and of the bad model by resample; the first row is the data itself.
        new: the same of the experiment's.
        higher_is_better: which way is better.

    Returns:
        None where nothing is lost on these examples; no interval where that anything is lost may be chance.
    """
    sign = 1.0 if higher_is_better else -1.0
    goal = sign * (bad[:, 0] if healthy is None else np.full(len(bad), healthy))
    lost = goal - sign * bad[:, 1]
    gained = sign * (new[:, 1] - bad[:, 1])
    if not np.isfinite(lost[0]) or lost[0] <= 0 or not np.isfinite(gained[0]):
        return None
    usable = np.isfinite(lost) & np.isfinite(gained) & (lost > 0)
    value = float(gained[0] / lost[0])
    if usable.mean() < SURELY:
        return value, None
    low, high = np.percentile(gained[usable] / lost[usable], (2.5, 97.5))
    return value, (float(low), float(high))


def shared(one: Samples, other: Samples) -> int:
    """How many examples of the first are among the second."""
    return len(_keys(one) & _keys(other))


def _keys(samples: Samples) -> set[bytes]:
    return {
        hashlib.sha256(b"".join(np.ascontiguousarray(v[i]).tobytes() for v in samples.inputs.values())).digest()
        for i in range(samples.count)
    }


def histogram(
    tensor: str, operator: str, quantized: Range, evaluation: Sequence[Array], calibration: Sequence[Array]
) -> Histogram | None:
    """How values are spread beside the range that they are quantized with; None without values or without a range.

    `evaluation` and `calibration` hold the values of one example each, flat; the latter may be empty.
    """
    if not np.isfinite(quantized).all() or not any(len(values) for values in evaluation):
        return None
    ours, theirs = (
        np.concatenate(parts).astype(np.float64) if parts else np.empty(0) for parts in (evaluation, calibration)
    )
    ends = [
        *quantized,
        *(float(end) for values in (ours, theirs) if len(values) for end in (values.min(), values.max())),
    ]
    low, high = min(ends), max(ends)
    counts = [tuple(np.histogram(values, BINS, (low, high))[0].tolist()) for values in (ours, theirs)]
    return Histogram(
        tensor=tensor,
        operator=operator,
        quantized=quantized,
        span=(low, high),
        evaluation=counts[0],
        calibration=counts[1] if len(theirs) else (),
        evaluation_outside=_outside(ours, quantized),
        calibration_outside=_outside(theirs, quantized) if len(theirs) else None,
        evaluation_examples=len(evaluation),
        calibration_examples=len(calibration),
    )


def _outside(values: Array, quantized: Range) -> float:
    """The fraction that lies a step and more outside: what is nearer is rounded, as everything is."""
    low, high = quantized
    step = (high - low) / STEPS
    return float(((values < low - step) | (values > high + step)).mean())
