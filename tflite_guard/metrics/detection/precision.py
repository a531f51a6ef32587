"""Average precision of detections as a function of how often each example counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.errors import EvaluationError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.bootstrap import Statistic
from tflite_guard.metrics.detection.matching import overlaps

Array = NDArray[Any]
RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's: at which recalls precision is read."""
AT_ONCE = 2**22
"""Detections times resamples that are held at once: 32 MB."""


def mean_average_precision(spec: MetricSpec, scores: dict[str, Array]) -> Statistic:
    """COCO's AP: precision interpolated at 101 recalls, its mean over overlaps and over classes that have boxes.

    As `COCOeval.accumulate` of pycocotools computes it, for weights of examples. `scores` are what `matching` gives.
    """
    actual = scores["actual"]
    classes = np.unique(actual[actual > 0])
    if not len(classes):
        raise EvaluationError("undefined-metric", "no example has a box that could be found, so there is no recall")
    objects = np.stack([(actual == one).sum(1) for one in classes], 1).astype(np.float64)
    count = len(overlaps(spec))
    models = [
        None if model not in scores else [_ranked(model, scores, int(one), count) for one in classes]
        for model in ("reference", "candidate")
    ]
    longest = max(len(curve.examples) for model in models for curve in model or ())

    def statistic(weights: Array) -> Array:
        rows = max(1, AT_ONCE // max(1, longest))
        parts = [weights[start : start + rows] for start in range(0, len(weights), rows)]
        return np.concatenate([np.stack([_means(model, objects, part) for model in models], 1) for part in parts])

    return statistic


@dataclass(frozen=True)
class _Curve:
    """One class's detections from the largest score to the smallest, up to the last that finds a box at any overlap.

    Those that find none are wrong at every overlap, so only their sums between the others matter.
    """

    examples: Array
    """(detections,) Whose they are."""
    others: Array
    """(some,) Where, among them, those are that find a box, or lie on a crowd, at some overlap."""
    hits: Array
    wrong: Array
    """(overlaps, some) bool: whether these find one, and whether they are wrong."""


def _ranked(model: str, scores: dict[str, Array], label: int, overlaps: int) -> _Curve:
    example, rank = np.nonzero(scores[f"{model}_class"] == label)
    order = np.argsort(-scores[model][example, rank], kind="stable")
    example, rank = example[order], rank[order]
    bits = (1 << np.arange(overlaps, dtype=np.uint16))[:, np.newaxis]
    hits, passed = ((scores[f"{model}_{name}"][example, rank] & bits) > 0 for name in ("hits", "passed"))
    last = int(np.flatnonzero(hits.any(0)).max(initial=-1)) + 1
    example, hits, passed = example[:last], hits[:, :last], passed[:, :last]
    others = np.flatnonzero((hits | passed).any(0))
    return _Curve(example, others, hits[:, others], ~(hits | passed)[:, others])


def _means(model: list[_Curve] | None, objects: Array, weights: Array) -> Array:
    """The mean over classes of average precision (rows,); NaN where no class has boxes, or there is no such model."""
    if model is None:
        return np.full(len(weights), np.nan)
    total = weights @ objects
    each = np.stack([_average(curve, weights, total[:, at]) for at, curve in enumerate(model)], 1)
    known = total > 0
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, each, 0).sum(1) / known.sum(1))


def _average(curve: _Curve, weights: Array, total: Array) -> Array:
    """The average precision of one class (rows,), where `total` boxes of it are to be found (rows,)."""
    if not len(curve.others):
        return np.zeros(len(weights))
    drawn = weights[:, curve.examples].astype(np.float64)
    own = drawn[:, curve.others]
    drawn[:, curve.others] = 0
    starts = np.concatenate([[0], curve.others[:-1] + 1])
    plain = np.add.reduceat(drawn, starts, axis=1).cumsum(1)
    values = []
    for hits, wrong in zip(curve.hits, curve.wrong, strict=True):
        right = (own * hits).cumsum(1)
        judged = right + plain + (own * wrong).cumsum(1)
        precision = right / np.maximum(judged, np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = _reached(right / np.maximum(total, 1e-300)[:, np.newaxis])
        values.append((best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS))
    return np.asarray(np.mean(values, axis=0))


def _reached(recall: Array) -> Array:
    """How many of the recalls at which precision is read are reached by these, of any shape."""
    guess = np.minimum((recall * 100).astype(np.int64), 100)
    more, less = np.minimum(guess + 1, 100), guess
    return np.asarray(guess + ((guess < 100) & (RECALLS[more] <= recall)) + (RECALLS[less] <= recall))
