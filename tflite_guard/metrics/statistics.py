"""From per-example scores to one number: each metric as a function of how often every example counts.

A statistic takes weights (resamples, n) float64 and gives (resamples, 2) float64: the reference's value
and the variant's, NaN where undefined. Weights of one give the value itself, drawn ones the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.errors import EvaluationError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.bootstrap import Statistic
from tflite_guard.metrics.scores import Scores

Array = NDArray[Any]


def undefined(message: str) -> EvaluationError:
    """The metric has no value on these examples."""
    return EvaluationError("undefined-metric", message)


def mean(_spec: MetricSpec, scores: Scores) -> Statistic:
    """The mean of `reference` and `candidate`, each (n,)."""
    return _of_means(scores, lambda means: means)


def root_mean(_spec: MetricSpec, scores: Scores) -> Statistic:
    """The square root of the mean, each (n,)."""
    return _of_means(scores, np.sqrt)


def _of_means(scores: Scores, finish: Callable[[Array], Array]) -> Statistic:
    candidate = scores["candidate"].astype(np.float64)
    reference = scores.get("reference")
    columns = np.stack([np.full(len(candidate), np.nan) if reference is None else reference, candidate], 1)
    known = ~np.isnan(columns).all(0)
    filled = np.where(known, columns, 0.0)

    def statistic(weights: Array) -> Array:
        means = finish((weights @ filled) / weights.sum(1, keepdims=True))
        return np.where(known, means, np.nan)

    return statistic


def signal_to_noise(_spec: MetricSpec, scores: Scores) -> Statistic:
    """10 log10(sum of signal / sum of noise) in dB; infinite without noise."""
    columns = np.stack([scores["signal"], scores["noise"]], 1)
    if columns[:, 0].sum() == 0 and columns[:, 1].sum() > 0:
        raise undefined("the reference's outputs are all zero, so they have no power to compare noise with")

    def statistic(weights: Array) -> Array:
        sums = weights @ columns
        with np.errstate(divide="ignore", invalid="ignore"):
            decibels = 10 * np.log10(sums[:, 0] / sums[:, 1])
        return np.stack([np.full(len(sums), np.nan), decibels], 1)

    return statistic


def largest(_spec: MetricSpec, scores: Scores) -> Statistic:
    """The maximum of `candidate` (n,) over the examples that count."""

    def statistic(weights: Array) -> Array:
        values = np.where(weights > 0, scores["candidate"], -np.inf).max(1)
        return np.stack([np.full(len(values), np.nan), values], 1)

    return statistic


def determination(_spec: MetricSpec, scores: Scores) -> Statistic:
    """R2 = 1 - sum of squared residuals / sum of squares around the labels' mean, averaged over the output's values."""
    labels = scores["label"]
    constant = np.flatnonzero(np.ptp(labels, axis=0) == 0)
    if constant.size:
        which = "the labels are" if labels.shape[1] == 1 else f"the labels of value {constant[0]} are"
        raise undefined(f"{which} the same in every example, so R2 is undefined; use mae or rmse")
    # Centred, so that the difference of squares below keeps its digits.
    centred = labels - labels.mean(0)
    columns = np.concatenate([scores["reference"], scores["candidate"], centred, np.square(centred)], 1)

    def statistic(weights: Array) -> Array:
        reference, candidate, first, second = np.split(weights @ columns, 4, axis=1)
        total = second - np.square(first) / weights.sum(1, keepdims=True)
        total = np.where(total > 1e-12 * second, total, np.nan)
        return np.stack([(1 - part / total).mean(1) for part in (reference, candidate)], 1)

    return statistic


def f1_macro(_spec: MetricSpec, scores: Scores) -> Statistic:
    """F1 = 2 TP / (2 TP + FP + FN), averaged over classes that occur in labels or decisions."""
    return _by_class(scores, lambda right, decided, actual: _ratio(2 * right, decided + actual))


def mean_iou(_spec: MetricSpec, scores: Scores) -> Statistic:
    """IoU = TP / (TP + FP + FN) of the pooled confusion matrix, averaged over classes that occur."""
    return _by_class(scores, lambda right, decided, actual: _ratio(right, decided + actual - right))


def _ratio(part: Array, whole: Array) -> Array:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _by_class(scores: Scores, score: Callable[[Array, Array, Array], Array]) -> Statistic:
    counts = _pooled(scores) if "actual" in scores else _counted(scores)

    def statistic(weights: Array) -> Array:
        actual, *models = counts(weights)
        with np.errstate(invalid="ignore"):
            values = [np.nanmean(score(right, decided, actual), axis=1) for decided, right in models]
        return np.stack(values, 1)

    return statistic


Counts = Callable[[Array], tuple[Any, ...]]
"""Weights to (actual, (reference decided, right), (variant decided, right)), each (resamples, classes)."""


def _pooled(scores: Scores) -> Counts:
    columns = {key: scores[key].astype(np.float64) for key in scores if scores[key].ndim == 2}

    def counts(weights: Array) -> tuple[Any, ...]:
        sums = {key: weights @ column for key, column in columns.items()}
        models = [(sums[key], sums[f"{key}_right"]) for key in ("reference", "candidate")]
        return sums["actual"], *models

    return counts


def _counted(scores: Scores) -> Counts:
    named = np.stack([scores["label"], scores["reference"], scores["candidate"]])
    classes, numbers = np.unique(named, return_inverse=True)
    label, *decided = numbers.reshape(named.shape)

    def tally(of: Array, weights: Array) -> Array:
        # Row by row: a matrix product would need a column for each class, and there may be thousands.
        return np.stack([np.bincount(of, row, minlength=len(classes)) for row in weights])

    def counts(weights: Array) -> tuple[Any, ...]:
        models = [(tally(model, weights), tally(label, weights * (model == label))) for model in decided]
        return tally(label, weights), *models

    return counts


def roc_auc(spec: MetricSpec, scores: Scores) -> Statistic:
    """The area under the ROC curve, ties counting half; of several classes, each against the rest, averaged."""
    return _one_against_rest(spec, scores, _area)


def average_precision(spec: MetricSpec, scores: Scores) -> Statistic:
    """The sum of precision times gain in recall over the thresholds; of several classes, each against the rest."""
    return _one_against_rest(spec, scores, _precision)


Curve = Callable[[Array, Array, Array, Array], Array]


def _one_against_rest(spec: MetricSpec, scores: Scores, curve: Curve) -> Statistic:
    applies, reference, candidate = _as_columns(scores)
    _check_classes(applies)
    ranked = [
        [_ranked(model[:, c], applies[:, c]) for c in range(applies.shape[1])] for model in (reference, candidate)
    ]

    def statistic(weights: Array) -> Array:
        # float32 holds sums of whole weights exactly up to 16.7 million and halves the memory traffic.
        drawn = np.ascontiguousarray(weights.T, np.float32)
        support = weights @ applies
        share = support / support.sum(1, keepdims=True) if spec.average == "weighted" else 1 / applies.shape[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            values = [np.stack([_curve_values(ranking, drawn, curve) for ranking in model], 1) for model in ranked]
        return np.stack([(value * share).sum(1) for value in values], 1)

    return statistic


@dataclass(frozen=True)
class _Ranking:
    """One class's scores, sorted once from the largest, cut where runs of equal scores hold positives.

    Only the weights between cuts are summed for a resample.
    """

    order: Array
    """Examples from the largest score to the smallest."""
    cuts: Array
    """Where, in that order, the sums between cuts start."""
    before: Array
    after: Array
    """How many cuts lie before, and up to the end of, each run that holds positives."""
    positives: Array
    """Positive examples from the largest score to the smallest."""
    runs: Array
    """Where, among the positives, each run starts."""


def _ranked(scores: Array, positive: Array) -> _Ranking:
    falling = -scores.astype(np.float64)
    order = np.argsort(falling, kind="stable")
    positives = order[positive[order] > 0]
    own, runs = np.unique(falling[positives], return_index=True)
    start, end = (np.searchsorted(falling[order], own, side=side) for side in ("left", "right"))
    cuts = np.unique(np.concatenate([[0], start, end[end < len(scores)]]))
    return _Ranking(order, cuts, np.searchsorted(cuts, start), np.searchsorted(cuts, end), positives, runs)


def _curve_values(ranking: _Ranking, weights: Array, curve: Curve) -> Array:
    """The curve's area on each resample, from weights (n, resamples)."""
    steps = np.add.reduceat(weights[ranking.order], ranking.cuts, axis=0)
    reached = np.zeros((len(steps) + 1, weights.shape[1]))
    np.cumsum(steps, axis=0, dtype=np.float64, out=reached[1:])
    found = np.add.reduceat(weights[ranking.positives], ranking.runs, axis=0).astype(np.float64)
    return curve(found, reached[ranking.before], reached[ranking.after], reached[-1])


def _area(found: Array, before: Array, after: Array, total: Array) -> Array:
    """Mann-Whitney: pairs that are ordered wrongly, ties half, from midranks over all examples."""
    positives = found.sum(0)
    wrong = (found * (before + after)).sum(0) / 2 - np.square(positives) / 2
    return np.asarray(1 - wrong / (positives * (total - positives)))


def _precision(found: Array, _before: Array, after: Array, _total: Array) -> Array:
    # A run that this resample did not draw adds nothing; 0 / 0 must not spoil the sum.
    precision = np.cumsum(found, axis=0) / np.where(after > 0, after, 1.0)
    return np.asarray((found * precision).sum(0) / found.sum(0))


def _as_columns(scores: Scores) -> tuple[Array, Array, Array]:
    """Which classes apply (n, classes) float64 and both models' scores; two exclusive classes become one column."""
    label, reference, candidate = scores["label"], scores["reference"], scores["candidate"]
    if candidate.ndim == 1:
        return label.astype(np.float64)[:, None], reference[:, None], candidate[:, None]
    applies = label if label.ndim == 2 else label[:, None] == np.arange(candidate.shape[1])
    applies = applies.astype(np.float64)
    if candidate.shape[1] == 2 and (applies.sum(1) == 1).all():
        return applies[:, 1:], _margin(reference), _margin(candidate)
    return applies, reference, candidate


def _margin(pair: Array) -> Array:
    return np.asarray(pair[:, 1:].astype(np.float64) - pair[:, :1])


def _check_classes(applies: Array) -> None:
    positives = applies.sum(0)
    lacking = np.flatnonzero((positives == 0) | (positives == len(applies)))
    if lacking.size and applies.shape[1] == 1:
        raise undefined(f"every label is class {int(positives[0] > 0)}; examples of both classes are needed")
    if lacking.size:
        named = ", ".join(str(c) for c in lacking[:5]) + (", ..." if lacking.size > 5 else "")
        raise undefined(f"examples with and without each class are needed; lacking for class {named}")
