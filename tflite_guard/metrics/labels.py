"""Outputs to decisions, labels to class numbers: the door where shapes, dtypes and ranges are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.errors import DataError, EvaluationError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.vocabulary import METRICS

Array = NDArray[Any]
Rows = Sequence[int] | NDArray[np.int64]
USUALLY_IGNORED = (255, -1, -100)
"""Labels that data sets of segmentation give to what is of no class."""


@dataclass(frozen=True)
class Compared:
    """One batch of one output: what a metric looks at."""

    spec: MetricSpec
    outputs: Array
    """The variant's, (n, ...) of any real dtype."""
    reference: Array
    """The reference's, of the same shape."""
    labels: Array | None
    rows: Rows
    """(n,) Each example's row in the data's source, from 0, for messages."""

    def example(self, position: int | np.integer[Any]) -> str:
        """One of the examples in words."""
        return _example(self.rows, position)


def _example(rows: Rows, position: int | np.integer[Any]) -> str:
    return f"example {rows[int(position)]} (from 0)"


def require_finite(spec: MetricSpec, values: Array, whose: str, rows: Rows) -> None:
    """Raise EvaluationError of kind `non-finite-output` for a batch (n, ...) with NaN or infinity in it."""
    finite = np.isfinite(values)
    if finite.all():
        return
    first = _example(rows, np.flatnonzero(~flat(finite).all(1))[0])
    count = int((~finite).sum())
    raise EvaluationError(
        "non-finite-output",
        f"{spec.name}: {whose} holds NaN or infinity, first in {first}, in {count} of {values.size} values of its "
        "batch; such outputs cannot be judged",
    )


def is_decided(outputs: Array) -> bool:
    """Whether outputs are decisions already: integers, as of a model that ends in ArgMax."""
    return outputs.dtype.kind in "iub"


def is_one_unit(outputs: Array) -> bool:
    """Whether outputs are one score per decision, shape (n,) or (n, ..., 1), and the decision is binary."""
    return outputs.ndim == 1 or outputs.shape[-1] == 1


def flat(values: Array) -> Array:
    """The same values as (n, values), also where n is 0."""
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def class_count(outputs: Array) -> int | None:
    """How many classes decisions on these outputs have; None where the outputs are class numbers."""
    if is_decided(outputs):
        return None
    return 2 if is_one_unit(outputs) else int(outputs.shape[-1])


def binary_threshold(spec: MetricSpec) -> float:
    """What a single unit must reach to decide for class 1."""
    if spec.threshold is not None:
        return spec.threshold
    return 0.0 if spec.from_logits else 0.5


def decisions(spec: MetricSpec, outputs: Array) -> tuple[Array, Array]:
    """Class numbers (n, ...) int64 and which of them were ties (n, ...) bool.

    The largest of the last axis decides, ties take the lowest index. A single unit decides for class
    1 above the threshold, and a value on it is a tie, which the lowest index (0) takes; with `multi_label` every unit
    does so for itself. Integer outputs are decisions already. Raises DataError for a `threshold` where there is more
    than one unit that decides together, and for `multi_label` where there is one unit alone.
    """
    if spec.multi_label:
        if is_one_unit(outputs):
            raise DataError(f'{spec.name}: the output has one unit, which is one decision; remove "multi_label"')
        if is_decided(outputs):
            return outputs.astype(np.int64), np.zeros(outputs.shape, bool)
        threshold = binary_threshold(spec)
        return (outputs > threshold).astype(np.int64), outputs == threshold
    if is_decided(outputs):
        decided = outputs[..., 0] if outputs.ndim > 1 and outputs.shape[-1] == 1 else outputs
        return decided.astype(np.int64), np.zeros(decided.shape, bool)
    if is_one_unit(outputs):
        units = outputs if outputs.ndim == 1 else outputs[..., 0]
        threshold = binary_threshold(spec)
        return (units > threshold).astype(np.int64), units == threshold
    if spec.threshold is not None:
        raise DataError(
            f"{spec.name}: a threshold decides on an output of one unit, but this one has {outputs.shape[-1]} "
            f"(the largest decides); remove the threshold{_or_multi_label(spec)}"
        )
    return outputs.argmax(-1).astype(np.int64), at_largest(outputs, 1)


def _or_multi_label(spec: MetricSpec) -> str:
    """The way out for labels of which several may apply, of a metric that knows such."""
    if "multi_label" not in METRICS[spec.metric].options:
        return ""
    return ', or, where several classes or none may apply, set "multi_label": true on the metric'


def at_largest(outputs: Array, k: int) -> Array:
    """Where the k-th and the next largest value of the last axis are equal, (n, ...) bool."""
    size = outputs.shape[-1]
    ordered = np.partition(outputs, (size - k - 1, size - k), axis=-1)
    return np.asarray(ordered[..., size - k - 1] == ordered[..., size - k])


def class_labels(batch: Compared, decided: tuple[int, ...]) -> tuple[Array, Array]:
    """Class numbers (n, ...) int64 of shape `decided`, and which count (n, ...) bool.

    Labels may be class numbers of that shape, axes of length 1 aside, or exactly one-hot of the
    shape of the outputs; with `multi_label` they are 0 or 1 for each unit. Positions of `ignore_index` do not count
    and become class 0.
    Raises DataError for any other shape or dtype, for fractions, and for numbers outside the classes.
    """
    labels, outputs = required(batch), batch.outputs
    if _core(labels.shape) == _core(decided):
        numbers = _integral(batch, labels).reshape(decided)
    elif _core(labels.shape) == _core(outputs.shape) and not is_decided(outputs):
        numbers = _from_one_hot(batch, labels.reshape(outputs.shape))
    else:
        raise _shape_error(batch, labels)
    ignored = batch.spec.ignore_index
    counted = np.ones(decided, bool) if ignored is None else numbers != ignored
    numbers = np.where(counted, numbers, 0)
    _check_range(batch, numbers)
    return numbers, counted


def value_labels(batch: Compared) -> Array:
    """Labels in float64 of the shape of the outputs. Raises DataError for another shape, NaN or infinity."""
    labels = required(batch)
    if _core(labels.shape) != _core(batch.outputs.shape):
        raise _shape_error(batch, labels)
    _check_numeric(batch, labels)
    values = labels.astype(np.float64).reshape(batch.outputs.shape)
    wrong = np.flatnonzero(~np.isfinite(flat(values)).all(1))
    if wrong.size:
        raise DataError(f"{_label(batch, wrong[0])} is NaN or infinite; correct it or leave the example out")
    return values


def indicator_labels(batch: Compared) -> Array:
    """Labels for one-against-rest scores: class numbers (n,) int64, or 0/1 indicators (n, classes) uint8.

    The outputs are (n,) or (n, classes). Indicators may name several classes of one example.
    """
    labels, shape = required(batch), batch.outputs.shape
    if len(shape) == 1 or _core(labels.shape) != _core(shape):
        return class_labels(batch, shape[:1])[0]
    numbers = _integral(batch, labels).reshape(shape)
    wrong = np.flatnonzero(((numbers != 0) & (numbers != 1)).any(1))
    if wrong.size:
        raise DataError(
            f"{_label(batch, wrong[0])} must say of each class whether it applies, as 0 or 1: "
            f"labels have the outputs' shape {labels.shape}"
        )
    return numbers.astype(np.uint8)


def required(batch: Compared) -> Array:
    """The labels, or a DataError that says how to name them."""
    if batch.labels is None:
        raise DataError(
            f"{batch.spec.name}: {batch.spec.metric} compares with labels, and the evaluation data has none; "
            "set `labels` on the dataset"
        )
    return np.asarray(batch.labels)


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of length 1, but with the examples' axis."""
    return (*shape[:1], *(size for size in shape[1:] if size != 1))


def _label(batch: Compared, position: int) -> str:
    return f"{batch.spec.name}: the label of {batch.example(position)}"


def _shape_error(batch: Compared, labels: Array) -> DataError:
    return DataError(
        f"{batch.spec.name}: labels of shape {labels.shape} do not fit outputs of shape {batch.outputs.shape}; "
        "each example needs a label for each of its decisions or values"
    )


def _check_numeric(batch: Compared, labels: Array) -> None:
    if labels.dtype.kind not in "iubf":
        raise DataError(f"{batch.spec.name}: labels must be numbers, not of dtype {labels.dtype}")


def _integral(batch: Compared, labels: Array) -> Array:
    _check_numeric(batch, labels)
    if labels.dtype.kind == "f":
        # Beyond 2 ** 53 a float no longer tells one whole number from the next.
        wrong = np.argwhere(~(np.isfinite(labels) & (labels == np.floor(labels)) & (np.abs(labels) < 2**53)))
        if len(wrong):
            found = labels[tuple(wrong[0])]
            raise DataError(
                f"{_label(batch, wrong[0][0])} is {found}, which is not a class number; correct it or leave it out"
            )
    return labels.astype(np.int64)


def _from_one_hot(batch: Compared, labels: Array) -> Array:
    _check_numeric(batch, labels)
    exact = ((labels == 0) | (labels == 1)).all(-1) & ((labels == 1).sum(-1) == 1)
    if not exact.all():
        raise DataError(
            f"{_label(batch, np.argwhere(~exact)[0][0])} is not exactly one 1 among 0s: labels of shape {labels.shape} "
            f"are taken as one-hot; give class numbers instead{_or_multi_label(batch.spec)}"
        )
    return np.asarray(labels.argmax(-1).astype(np.int64))


def _check_range(batch: Compared, numbers: Array) -> None:
    classes = 2 if batch.spec.multi_label else class_count(batch.outputs)
    outside = np.argwhere((numbers < 0) | (numbers >= (np.inf if classes is None else classes)))
    if len(outside):
        found = numbers[tuple(outside[0])]
        allowed = "class numbers count from 0" if classes is None else f"the output has {classes} classes, from 0"
        if classes == 2:
            allowed = "the decision is binary; write labels as 0 and 1" + (", 0 in place of -1" if found == -1 else "")
        if found in USUALLY_IGNORED and "ignore_index" in METRICS[batch.spec.metric].options:
            long_form = f'{{"metric": "{batch.spec.metric}", "ignore_index": {found}}}'
            allowed += f"; if {found} marks what is not to be counted, write the metric as {long_form}"
        raise DataError(f"{_label(batch, outside[0][0])} is {found}, which is out of range: {allowed}")
