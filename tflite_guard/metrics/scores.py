"""Per-example scores: what each metric keeps of one batch of one output.

Every function takes one batch and gives named arrays whose first axis is the examples. Scores of one
example depend on that example alone, so batches can be of any size. A score of dtype bool is one
right-or-wrong decision, which has intervals of proportions; a fraction of several decisions is float64,
even where it happens to be 0 or 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.errors import DataError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.labels import (
    Compared,
    at_largest,
    class_count,
    class_labels,
    decisions,
    flat,
    indicator_labels,
    is_decided,
    is_one_unit,
    value_labels,
)

Array = NDArray[Any]
Scores = dict[str, Array]

# Probabilities are kept above this, so that a quantized probability of 0 costs at most ln(1e12) = 27.6 nats.
SMALLEST_PROBABILITY = 1e-12
PROBABILITIES_SUM_WITHIN = 1e-2


def accuracy(batch: Compared) -> Scores:
    """`candidate`, `reference`: right decisions; of several decisions, the fraction that is right.

    Of one decision an example, `label`: the class, (n,) int64.
    """
    candidate, tie = decisions(batch.spec, batch.outputs)
    decided, reference_tie = decisions(batch.spec, batch.reference)
    numbers, counted = class_labels(batch, candidate.shape)
    return {
        **_fractions({"candidate": candidate == numbers, "reference": decided == numbers}, counted),
        **({} if batch.spec.multi_label else _single_label(numbers)),
        "tie": _any(tie & counted),
        "reference_tie": _any(reference_tie & counted),
    }


def top_k_accuracy(batch: Compared) -> Scores:
    """As `accuracy`, right where fewer than k outputs come before the label's (ties: the lower index first)."""
    spec, outputs = batch.spec, batch.outputs
    if is_one_unit(outputs) or is_decided(outputs):
        raise DataError(f"{spec.name}: top_k_accuracy needs an output with a score for each class")
    if spec.k >= outputs.shape[-1]:
        raise DataError(
            f"{spec.name}: with k = {spec.k} and {outputs.shape[-1]} classes every decision counts as right; lower k"
        )
    numbers, counted = class_labels(batch, outputs.shape[:-1])
    right = {
        "candidate": _rank(outputs, numbers) < spec.k,
        "reference": _rank(batch.reference, numbers) < spec.k,
    }
    return {
        **_fractions(right, counted),
        **_single_label(numbers),
        "tie": _any(at_largest(outputs, spec.k) & counted),
        "reference_tie": _any(at_largest(batch.reference, spec.k) & counted),
    }


def confusion(batch: Compared) -> Scores:
    """What F1 and IoU pool. One decision per example: `label`, `candidate`, `reference` as class numbers (n,).

    With `multi_label` each label is a class, of which the decisions for it count, (n, labels) int64.
    Several: how many positions, by class, are `actual`, decided (`candidate`, `reference`) and right
    (`candidate_right`, `reference_right`), each (n, classes) int64.
    """
    candidate, tie = decisions(batch.spec, batch.outputs)
    decided = decisions(batch.spec, batch.reference)[0]
    numbers, counted = class_labels(batch, candidate.shape)
    common = {"tie": _any(tie & counted), "counted": _any(counted)}
    if batch.spec.multi_label:
        actual, ours, theirs = ((values == 1) & counted for values in (numbers, candidate, decided))
        applied = {"actual": actual, "candidate": ours, "reference": theirs}
        applied |= {"candidate_right": ours & actual, "reference_right": theirs & actual}
        return {**{key: _by_label(value) for key, value in applied.items()}, **common}
    if _is_single(candidate):
        single = {"label": numbers, "candidate": candidate, "reference": decided}
        return {**{key: value.reshape(-1) for key, value in single.items()}, **common}
    classes = class_count(batch.outputs) or 1 + max(int(a.max(initial=0)) for a in (numbers, candidate, decided))
    return {
        "actual": _tally(numbers, counted, classes),
        "candidate": _tally(candidate, counted, classes),
        "reference": _tally(decided, counted, classes),
        "candidate_right": _tally(numbers, counted & (candidate == numbers), classes),
        "reference_right": _tally(numbers, counted & (decided == numbers), classes),
        **common,
    }


def ranking(batch: Compared) -> Scores:
    """`candidate`, `reference`: the outputs (n,) or (n, classes); `label`: class numbers or indicators."""
    shape = batch.outputs.shape
    outputs, reference = flat(batch.outputs), flat(batch.reference)
    if len(shape) > 1 and shape[-1] != outputs.shape[1]:
        raise DataError(f"{batch.spec.name}: {batch.spec.metric} needs one decision per example; outputs are {shape}")
    if outputs.shape[1] == 1:
        outputs, reference = outputs[:, 0], reference[:, 0]
    # Whole numbers are scores here, not decisions.
    scored = replace(batch, outputs=outputs.astype(np.float64) if is_decided(outputs) else outputs)
    return {"candidate": outputs, "reference": reference, "label": indicator_labels(scored)}


def absolute_to_labels(batch: Compared) -> Scores:
    """`candidate`, `reference`: mean absolute difference from the label, in the label's unit."""
    target = value_labels(batch)
    return {
        "candidate": _rows(np.abs(batch.outputs - target)).mean(1),
        "reference": _rows(np.abs(batch.reference - target)).mean(1),
    }


def squared_to_labels(batch: Compared) -> Scores:
    """`candidate`, `reference`: mean squared difference from the label."""
    target = value_labels(batch)
    return {
        "candidate": _rows(np.square(batch.outputs - target)).mean(1),
        "reference": _rows(np.square(batch.reference - target)).mean(1),
    }


def residuals(batch: Compared) -> Scores:
    """`label` and the squared differences from it, `candidate` and `reference`, each (n, values) float64."""
    target = value_labels(batch)
    return {
        "label": _rows(target),
        "candidate": _rows(np.square(batch.outputs - target)),
        "reference": _rows(np.square(batch.reference - target)),
    }


def agreement(batch: Compared) -> Scores:
    """`candidate`: the same decision as the reference; of several decisions, the fraction that is."""
    candidate, tie = decisions(batch.spec, batch.outputs)
    decided, reference_tie = decisions(batch.spec, batch.reference)
    same = candidate == decided
    scores = _fractions({"candidate": same}, np.ones(same.shape, bool))
    return {**scores, "tie": _any(tie), "reference_tie": _any(reference_tie)}


def powers(batch: Compared) -> Scores:
    """`signal`: the reference's power, `noise`: that of the difference, summed over an example's values."""
    signal = _rows(batch.reference)
    return {"signal": np.square(signal).sum(1), "noise": np.square(signal - _rows(batch.outputs)).sum(1)}


def cosine_similarity(batch: Compared) -> Scores:
    """`candidate`: cosine of the angle to the reference; 1 where both are zero, 0 where one is."""
    ours, theirs = _unit_scaled(_rows(batch.outputs)), _unit_scaled(_rows(batch.reference))
    power = np.square(ours).sum(1) * np.square(theirs).sum(1)
    cosine = (ours * theirs).sum(1) / np.sqrt(np.where(power > 0, power, 1.0))
    both_zero = ~ours.any(1) & ~theirs.any(1)
    return {"candidate": np.where(both_zero, 1.0, np.clip(cosine, -1.0, 1.0))}


def largest_difference(batch: Compared) -> Scores:
    """`candidate`: the largest absolute difference from the reference."""
    return {"candidate": np.abs(_rows(batch.outputs) - _rows(batch.reference)).max(1, initial=0.0)}


def mean_difference(batch: Compared) -> Scores:
    """`candidate`: the mean absolute difference from the reference."""
    return {"candidate": np.abs(_rows(batch.outputs) - _rows(batch.reference)).mean(1)}


def kl_divergence(batch: Compared) -> Scores:
    """`candidate`: sum of p ln(p / q) in nats, p the reference's probabilities and q the variant's.

    The mean over positions. Both are divided by their sum, since quantized probabilities need not add up
    to 1; q is kept above SMALLEST_PROBABILITY. Raises DataError where the reference's are not probabilities.
    """
    if not batch.spec.from_logits:
        _check_probabilities(batch)
    p = _probabilities(batch.spec, batch.reference)
    q = np.maximum(_probabilities(batch.spec, batch.outputs), SMALLEST_PROBABILITY)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / q), 0.0)
    return {"candidate": _rows(terms.sum(-1)).mean(1)}


def _probabilities(spec: MetricSpec, outputs: Array) -> Array:
    """Float64 (n, ..., classes) that add up to 1; one unit becomes two classes."""
    values = outputs.astype(np.float64)
    if is_one_unit(values):
        units = flat(values)
        values = np.stack([np.zeros_like(units) if spec.from_logits else 1 - units, units], -1)
    if spec.from_logits:
        values = np.exp(values - values.max(-1, keepdims=True))
    values = np.maximum(values, 0.0)
    total = values.sum(-1, keepdims=True)
    # A quantized output may round every class to zero: it then says nothing, which is the uniform distribution.
    return np.where(total > 0, values / np.where(total > 0, total, 1.0), 1 / values.shape[-1])


def improbable(outputs: Array) -> Array:
    """Which outputs, (n, ...), are no distribution of probabilities; one unit is that of the second class."""
    values = outputs.astype(np.float64)
    wrong = (values < -PROBABILITIES_SUM_WITHIN) | (values > 1 + PROBABILITIES_SUM_WITHIN)
    if not is_one_unit(values):
        wrong = wrong.any(-1) | (np.abs(values.sum(-1) - 1) > PROBABILITIES_SUM_WITHIN)
    return np.asarray(wrong)


def _check_probabilities(batch: Compared) -> None:
    wrong = improbable(batch.reference)
    if wrong.any():
        raise DataError(
            f"{batch.spec.name}: the reference's output of {batch.example(np.argwhere(wrong)[0][0])} is not "
            'a distribution of probabilities; where outputs are logits, set "from_logits": true'
        )


def _is_single(decided: Array) -> bool:
    """One decision per example, by shape and not by value."""
    return int(np.prod(decided.shape[1:])) == 1


def _any(flags: Array) -> Array:
    return np.asarray(flat(flags).any(1))


def _rows(values: Array) -> Array:
    """Float64 (n, values), contiguous, so that a row's sum does not depend on the batch it came in."""
    return flat(np.ascontiguousarray(values, np.float64))


def _fractions(right: dict[str, Array], counted: Array) -> Scores:
    """Bool for one decision per example, else the right fraction of those that count; and which examples count."""
    if _is_single(counted):
        return {**{key: value.reshape(-1) for key, value in right.items()}, "counted": counted.reshape(-1)}
    total = flat(counted).sum(1)
    shares = {key: flat(value & counted).sum(1) / np.maximum(total, 1) for key, value in right.items()}
    return {**shares, "counted": total > 0}


def _single_label(numbers: Array) -> Scores:
    return {"label": numbers.reshape(-1)} if _is_single(numbers) else {}


def _rank(outputs: Array, numbers: Array) -> Array:
    """How many outputs come before the label's: strictly larger ones, and equal ones of a lower index."""
    own = np.take_along_axis(outputs, numbers[..., None], -1)
    lower = np.arange(outputs.shape[-1]) < numbers[..., None]
    return np.asarray(((outputs > own) | ((outputs == own) & lower)).sum(-1))


def _by_label(applies: Array) -> Array:
    """At how many of an example's positions each label applies, (n, labels) int64."""
    return np.asarray(applies.sum(tuple(range(1, applies.ndim - 1)), dtype=np.int64))


def _tally(numbers: Array, counted: Array, classes: int) -> Array:
    """How many of an example's positions hold each class, (n, classes) int64."""
    if numbers.min(initial=0) < 0:
        raise DataError("an output that holds class numbers has a negative one, so it cannot be compared by class")
    rows = np.broadcast_to(np.arange(len(numbers)).reshape(-1, *[1] * (numbers.ndim - 1)), numbers.shape)
    flat = (rows * classes + numbers)[counted]
    return np.bincount(flat, minlength=len(numbers) * classes).reshape(len(numbers), classes)


def _unit_scaled(rows: Array) -> Array:
    """Rows with a largest magnitude of 1, so that squares neither overflow nor vanish."""
    largest = np.abs(rows).max(1, initial=0.0)
    return np.asarray(rows / np.where(largest > 0, largest, 1.0)[:, None])
