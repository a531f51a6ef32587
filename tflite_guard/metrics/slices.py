"""A metric on each class and on each slice of the examples, with intervals that hold for all of them at once.

A class's accuracy is its recall. Where decisions are right or wrong intervals are those of paired proportions; of
other scores the interval is that of a mean, Student's t. Both are at 1 - 0.05/K for K slices (Bonferroni), which
takes nothing for independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tflite_guard.errors import DataError
from tflite_guard.judgement.intervals import Interval, newcombe_paired, simultaneous, student, wilson
from tflite_guard.judgement.slices import FEWEST, LONGEST_NAME, MOST_SLICES, listed
from tflite_guard.metrics.scores import Scores
from tflite_guard.results import Measurement, Slice, Slices

Array = NDArray[Any]


def by_class(measured: Measurement, scores: Scores, *, independent: bool) -> Slices | None:
    """By label, of one decision an example; None where scores have no single class as label.

    What is right is the metric's own decision: of `f1_macro` that of the largest output.
    """
    label = scores.get("label")
    if label is None or label.ndim != 1 or measured.metric not in ("accuracy", "top_k_accuracy", "f1_macro"):
        return None
    if measured.metric == "f1_macro":
        scores = {key: scores[key] == label for key in ("candidate", "reference")}
    return _cut(measured, scores, label, None, independent)


def by_slice(
    measured: Measurement, scores: Scores, slices: Mapping[str, Array], *, independent: bool
) -> tuple[Slices, ...]:
    """By each key's values (n,), of a metric that is the mean of examples' scores; by none where one is not finite."""
    found = [_cut(measured, scores, values, key, independent) for key, values in slices.items()]
    known = tuple(one for one in found if one is not None)
    return known if len(known) == len(found) else ()


def checked(key: str, values: Array) -> Array:
    """A key's values (n,) as text. Raises DataError for more than 100 different ones, and for overlong ones."""
    text = np.char.lower(values.astype(str)) if values.dtype.kind == "b" else values.astype(str)
    found = np.unique(text)
    if len(found) > MOST_SLICES:
        some = ", ".join(map(repr, found[:3].tolist()))
        raise DataError(
            f"slices: {key!r} has {len(found):,} different values ({some}, …), of which there may be {MOST_SLICES}; "
            "name a key that puts examples into a few kinds"
        )
    if len(found) and np.char.str_len(found).max() > LONGEST_NAME:
        raise DataError(f"slices: a value of {key!r} has more than {LONGEST_NAME} characters; shorten it")
    return text


def without_intervals(measured: Measurement) -> Measurement:
    """A measurement on a part of the examples that was chosen by what they showed."""

    def bare(found: Slices) -> Slices:
        return replace(found, lost=0, worst=tuple(replace(one, interval=None) for one in found.worst))

    return replace(
        measured,
        by_class=measured.by_class and bare(measured.by_class),
        by_slice=tuple(map(bare, measured.by_slice)),
    )


def _cut(
    measured: Measurement, scores: Mapping[str, Array], labels: Array, key: str | None, independent: bool
) -> Slices | None:
    """None where a figure is not finite."""
    names, index = np.unique(labels, return_inverse=True)
    examples = np.bincount(index)
    z = simultaneous(len(names))
    decided = scores["candidate"].dtype == bool
    found = _of_decisions(scores, index, examples, z) if decided else _of_means(measured, scores, index, examples, z)
    if found is None:
        return None
    every = [
        replace(one, label=name, interval=one.interval if independent else None)
        for one, name in zip(found, names.tolist(), strict=True)
    ]
    lost = sum(one.drop is not None and one.interval is not None and one.interval[0] > 0 for one in every)
    worst = listed(every, higher_is_better=measured.higher_is_better)
    return Slices(measured.name, measured.metric, key, len(names), lost, worst)


def _of_decisions(scores: Mapping[str, Array], index: Array, examples: Array, z: float) -> list[Slice]:
    ours = scores["candidate"]
    theirs = scores.get("reference")
    right = ours if theirs is None else theirs
    tables = zip(
        *(
            np.bincount(index[which], minlength=len(examples)).tolist()
            for which in (ours & right, right & ~ours, ours & ~right, ~ours & ~right)
        ),
        strict=True,
    )
    found = []
    for both, lost, gained, neither in tables:
        n = both + lost + gained + neither
        value = (both + gained) / n
        if theirs is None:
            found.append(Slice(0, n, None, value, None, wilson(both, n, z)))
            continue
        interval = newcombe_paired(both, lost, gained, neither, z)
        found.append(
            Slice(0, n, (both + lost) / n, value, (lost - gained) / n, interval, (both, lost, gained, neither))
        )
    return found


def _of_means(
    measured: Measurement, scores: Mapping[str, Array], index: Array, examples: Array, z: float
) -> list[Slice] | None:
    ours = scores["candidate"].astype(np.float64)
    theirs = scores.get("reference")
    values = _means(ours, index, examples)
    references = drops = None
    spread = ours
    if theirs is not None:
        references = _means(theirs.astype(np.float64), index, examples)
        spread = theirs - ours if measured.higher_is_better else ours - theirs
        drops = references - values if measured.higher_is_better else values - references
    centres = values if drops is None else drops
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.bincount(index, np.square(spread - centres[index]), minlength=len(examples))
    if not all(np.isfinite(one).all() for one in (values, references, drops) if one is not None):
        return None
    return [
        Slice(
            0,
            int(n),
            None if references is None else float(references[at]),
            float(values[at]),
            None if drops is None else float(drops[at]),
            _of_mean(float(centres[at]), float(squares[at]), int(n), z),
        )
        for at, n in enumerate(examples)
    ]


def _means(values: Array, index: Array, examples: Array) -> Array:
    return np.bincount(index, values, minlength=len(examples)) / examples


def _of_mean(mean: float, squares: float, n: int, z: float) -> Interval | None:
    """Student's interval of a mean; None of few examples, and without a spread, which would claim certainty."""
    if n < FEWEST:
        return None
    half = student(n - 1, z) * sqrt(squares / (n - 1) / n)
    return (mean - half, mean + half) if 1e-12 * abs(mean) < half < np.inf else None
