"""Metrics: per-example scores batch by batch, then one value with its 95 % confidence interval.

`per_example` looks at one batch, `concatenate` joins batches, `measure` gives the number. Scores are
plain arrays that can be stored; their dtypes matter (bool is a right-or-wrong decision).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tflite_guard.errors import DataError, EvaluationError
from tflite_guard.judgement import intervals
from tflite_guard.manifest.types import Detection, MetricSpec
from tflite_guard.metrics import detection, statistics
from tflite_guard.metrics import scores as scoring
from tflite_guard.metrics.bootstrap import Statistic, has_width, percentile_interval, replicates
from tflite_guard.metrics.labels import Compared, Rows, flat, require_finite
from tflite_guard.metrics.scores import Scores
from tflite_guard.metrics.slices import by_class, by_slice
from tflite_guard.results import Measurement
from tflite_guard.vocabulary import METRICS

Array = NDArray[Any]
Interval = tuple[float, float]
PythonMetric = Callable[[Any, Any], Any]


class NamedArrays(list[Array]):
    """A model's outputs for a user's own metric: by place, in the model's order, and by name."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        super().__init__(arrays.values())
        self._arrays = arrays

    def __getitem__(self, key: Any) -> Any:
        return self._arrays[key] if isinstance(key, str) else super().__getitem__(key)

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._arrays.keys()


_NOT_FINITE = (
    "the metric is not a finite number on these examples: the values are too large, or their differences too small, "
    "for float64"
)

__all__ = [
    "BY_NAME",
    "Decoded",
    "Scores",
    "concatenate",
    "looked_at",
    "measure",
    "measure_python",
    "per_example",
    "statistic",
]


@dataclass(frozen=True)
class _Metric:
    """How a metric looks at a batch, and how it becomes a number."""

    score: Callable[[Compared], Scores]
    statistic: Callable[[MetricSpec, Scores], Statistic]


BY_NAME = {
    "accuracy": _Metric(scoring.accuracy, statistics.mean),
    "top_k_accuracy": _Metric(scoring.top_k_accuracy, statistics.mean),
    "f1_macro": _Metric(scoring.confusion, statistics.f1_macro),
    "roc_auc": _Metric(scoring.ranking, statistics.roc_auc),
    "average_precision": _Metric(scoring.ranking, statistics.average_precision),
    "mean_iou": _Metric(scoring.confusion, statistics.mean_iou),
    "mean_average_precision": _Metric(detection.against_labels, detection.mean_average_precision),
    "mae": _Metric(scoring.absolute_to_labels, statistics.mean),
    "rmse": _Metric(scoring.squared_to_labels, statistics.root_mean),
    "r2": _Metric(scoring.residuals, statistics.determination),
    "agreement": _Metric(scoring.agreement, statistics.mean),
    "detection_agreement": _Metric(detection.against_reference, detection.mean_average_precision),
    "sqnr": _Metric(scoring.powers, statistics.signal_to_noise),
    "cosine_similarity": _Metric(scoring.cosine_similarity, statistics.mean),
    "max_abs_error": _Metric(scoring.largest_difference, statistics.largest),
    "mean_abs_error": _Metric(scoring.mean_difference, statistics.mean),
    "kl_divergence": _Metric(scoring.kl_divergence, statistics.mean),
}


Decoded = dict[tuple[str, str, Detection], Array]
"""A detector's boxes by whose they are, the output and how it is read: metrics that read alike share them."""


def looked_at(
    spec: MetricSpec, arrays: Mapping[str, Array], output: str, whose: str, rows: Rows, decoded: Decoded
) -> Array:
    """What a metric looks at of a model's outputs, (n, ...): an output as it is, or a detector's boxes.

    `whose` and `rows` are for messages, as in `per_example`, which takes what comes of it and raises the same errors.
    `decoded` is what other metrics have looked at of the same batch.
    """
    if spec.detection is None:
        return arrays[output]
    # From which overlap on a box is found says nothing of how it is read.
    key = (whose, output, replace(spec.detection, iou=None))
    if key not in decoded:
        for name in detection.outputs_of(spec.detection, output):
            require_finite(spec, arrays[name], f"{whose} output {name!r}", rows)
        decoded[key] = detection.detections(spec, arrays, output)
    return decoded[key]


def per_example(
    spec: MetricSpec, outputs: Array, reference: Array, labels: Array | None, rows: Rows | None = None
) -> Scores:
    """The scores of one batch of one output; every array's first axis is the examples.

    `outputs` and `reference` are the variant's and the reference's, of one shape (n, ...) and any real
    dtype. `rows` are the examples' rows in the data's source, for messages. Raises EvaluationError of
    kind `non-finite-output` for NaN or infinity, `output-shape` for shapes that differ, and DataError
    for labels that do not fit.
    """
    outputs, reference = np.asarray(outputs), np.asarray(reference)
    if outputs.shape != reference.shape:
        raise EvaluationError(
            "output-shape",
            f"{spec.name}: the variant's output has shape {outputs.shape}, the reference's {reference.shape}; "
            "they must be the same to be compared",
        )
    if len(outputs) and not outputs.size:
        raise EvaluationError("output-shape", f"{spec.name}: an output of shape {outputs.shape} holds no values")
    batch = Compared(spec, outputs, reference, labels, range(len(outputs)) if rows is None else rows)
    require_finite(spec, reference, "the reference's output", batch.rows)
    require_finite(spec, outputs, "the variant's output", batch.rows)
    identical = np.asarray(flat(np.equal(outputs, reference)).all(1))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is told by `measure`
        return {**BY_NAME[spec.metric].score(batch), "identical": identical}


def concatenate(batches: list[Scores]) -> Scores:
    """The scores of several batches as those of one. Counts by class are padded to the most classes seen."""
    if not batches:
        return {}
    return {key: _joined([batch[key] for batch in batches]) for key in batches[0]}


def statistic(spec: MetricSpec, scores: Scores) -> Statistic:
    """The metric as a function of how often each example counts.

    It takes weights (k, n) and gives (k, 2), the reference's value and the variant's, NaN where undefined.
    """
    counted = scores.get("counted")
    if counted is None:
        return BY_NAME[spec.metric].statistic(spec, scores)
    kept = BY_NAME[spec.metric].statistic(spec, {key: array[counted] for key, array in scores.items()})
    return lambda weights: kept(weights[:, counted])


def measure(
    spec: MetricSpec,
    scores: Scores,
    *,
    groups: Array | None = None,
    seed: int = 0,
    slices: Mapping[str, Array] | None = None,
) -> Measurement:
    """The metric's value, its drop from the reference and a 95 % interval, aggregated in float64.

    `groups` (n,) says which examples belong together, in any dtype; `slices` are texts (n,) by key, by whose values a
    mean is given, too. A metric that has no finite value on these examples, or no examples at all, comes back with
    `error` set and no value.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # `_valued` looks at what comes of it
        return _measure(spec, scores, groups, seed, slices or {})


def _measure(
    spec: MetricSpec, scores: Scores, groups: Array | None, seed: int, slices: Mapping[str, Array]
) -> Measurement:
    counted = scores.get("counted")
    if groups is not None and scores and len(groups) != len(next(iter(scores.values()))):
        raise DataError(f"{spec.name}: the groups of {len(groups)} examples are given, but others were measured")
    if counted is not None:
        groups = None if groups is None else np.asarray(groups)[counted]
        slices = {key: values[counted] for key, values in slices.items()}
        scores = {key: array[counted] for key, array in scores.items()}
    blank = _blank(spec, scores)
    if not blank.examples:
        left_out = "" if counted is None or not len(counted) else ": ignore_index leaves every label out"
        return replace(blank, error=f"there are no examples to measure{left_out}")
    try:
        found = BY_NAME[spec.metric].statistic(spec, scores)
    except EvaluationError as error:
        return replace(blank, error=str(error))
    proportion = scores if _is_proportion(scores) else None
    measured = _summarize(blank, found, proportion, groups, seed, METRICS[spec.metric].has_interval)
    return _cut(measured, scores, groups, slices if METRICS[spec.metric].mean else {})


def _cut(measured: Measurement, scores: Scores, groups: Array | None, slices: Mapping[str, Array]) -> Measurement:
    """With what it is on each class and each slice, where it has a value."""
    if measured.error is not None:
        return measured
    independent = groups is None
    return replace(
        measured,
        by_class=by_class(measured, scores, independent=independent),
        by_slice=by_slice(measured, scores, slices, independent=independent),
    )


def measure_python(
    spec: MetricSpec,
    function: PythonMetric,
    outputs: Sequence[Array],
    reference: Sequence[Array],
    labels: Any,
    *,
    groups: Array | None = None,
    seed: int = 0,
    slices: Mapping[str, Array] | None = None,
) -> Measurement:
    """A user's own metric, called once with the reference's outputs and once with the variant's.

    `outputs` and `reference` hold one whole array per output; `labels` is passed on as it is (an array, or arrays by
    output where there are several). The
    function gives per-example scores (n,), whose mean is the metric, or one number, which has no
    interval. Raises EvaluationError of kind `python-metric` when it fails or gives anything else.
    """
    examples = len(outputs[0])
    theirs, ours = (_called(spec, function, values, labels, examples) for values in (reference, outputs))
    if theirs.shape != ours.shape:
        raise _python_error(spec, "gives one number for one model and scores for the other")
    if not examples:
        return replace(_blank(spec, {}), error="there are no examples to measure")
    if ours.ndim == 0:
        one = np.stack([theirs, ours])[None]
        blank = replace(_blank(spec, {}), examples=examples)
        return _valued(blank, one[0], interval_note="the function gives one number, not a score for each example")
    scores = {"candidate": ours, "reference": theirs}
    with np.errstate(over="ignore", invalid="ignore"):
        measured = _summarize(_blank(spec, scores), statistics.mean(spec, scores), None, groups, seed, True)
        return _cut(measured, scores, groups, slices or {})


def _summarize(
    blank: Measurement,
    statistic: Statistic,
    proportion: Scores | None,
    groups: Array | None,
    seed: int,
    has_interval: bool,
) -> Measurement:
    measured = _valued(blank, statistic(np.ones((1, blank.examples)))[0])
    index = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    measured = replace(measured, groups=None if index is None else int(index.max()) + 1)
    if proportion is not None:
        measured = replace(measured, counts=_counts(proportion), lost_ties=_lost_ties(proportion))
    if measured.value is None or not has_interval:
        note = None if measured.value is None else "a maximum has no confidence interval"
        return replace(measured, interval_note=note)
    if measured.groups == 1:
        return replace(measured, interval_note="all examples belong to one group, which says nothing about others")
    if proportion is not None and index is None:
        return _with_proportion(measured, "")
    if measured.examples == 1:
        return replace(measured, interval_note="one example says nothing about others")
    return _with_bootstrap(measured, replicates(statistic, blank.examples, index, seed))


def _valued(blank: Measurement, values: Array, interval_note: str | None = None) -> Measurement:
    """With the reference's and the variant's value, and how much worse the variant is."""
    reference, value = (float(v) for v in values)
    if blank.metric == "sqnr" and blank.identical:
        # No noise at all: the value would be infinite, which no report can hold.
        return replace(blank, interval_note="the outputs equal the reference's")
    if _compares_with_labels(blank) != np.isfinite(reference) or not np.isfinite(value):
        return replace(blank, error=_NOT_FINITE)
    if np.isnan(reference):
        return replace(blank, value=value, interval_note=interval_note)
    drop = reference - value if blank.higher_is_better else value - reference
    if not np.isfinite(drop):
        return replace(blank, error=_NOT_FINITE)
    return replace(blank, value=value, reference=reference, drop=drop, interval_note=interval_note)


def _compares_with_labels(blank: Measurement) -> bool:
    """Whether the reference has a value of its own, which must then be finite; others have NaN in its place."""
    return blank.metric not in METRICS or METRICS[blank.metric].needs_labels


def _with_proportion(measured: Measurement, suffix: str) -> Measurement:
    """Closed-form intervals from the counts; with the suffix `-groups`, as if each group were one example."""
    assert measured.counts is not None
    n = measured.examples if measured.groups is None else measured.groups
    a, b, c, d = (count * n / measured.examples for count in measured.counts)
    own = intervals.wilson(a + c, n)
    if measured.drop is None:
        return replace(measured, confidence_interval=own, value_interval=own, interval_method="wilson" + suffix)
    paired = intervals.newcombe_paired(a, b, c, d)
    return replace(measured, confidence_interval=paired, value_interval=own, interval_method="newcombe-paired" + suffix)


def _with_bootstrap(measured: Measurement, drawn: Array) -> Measurement:
    values = drawn[:, 1]
    units = measured.groups or measured.examples
    own = percentile_interval(values, units)
    main = own if measured.drop is None else percentile_interval(_drops(measured, drawn), units)
    if main is None:
        return replace(measured, interval_note="the metric is undefined in too many resamples of the examples")
    if not has_width(main):
        if measured.counts is not None:
            return _with_proportion(measured, "-groups")
        alike = "the variant scores as the reference does" if measured.drop == 0 else "the figure stays the same"
        return replace(
            measured,
            interval_note=f"{alike} whichever examples are drawn, so there is no spread to make an interval of",
        )
    return replace(
        measured,
        confidence_interval=main,
        value_interval=own if own is not None and has_width(own) else None,
        interval_method="bootstrap" if measured.groups is None else "bootstrap-groups",
    )


def _drops(measured: Measurement, drawn: Array) -> Array:
    difference = drawn[:, 0] - drawn[:, 1]
    return difference if measured.higher_is_better else -difference


def _is_proportion(scores: Scores) -> bool:
    return scores["candidate"].dtype == bool if "candidate" in scores else False


def _counts(scores: Scores) -> tuple[int, int, int, int]:
    """Both right, only the reference, only the variant, neither; without a reference, right and wrong."""
    ours = scores["candidate"]
    theirs = scores.get("reference", ours)
    return (
        int((ours & theirs).sum()),
        int((theirs & ~ours).sum()),
        int((ours & ~theirs).sum()),
        int((~ours & ~theirs).sum()),
    )


def _lost_ties(scores: Scores) -> int:
    """How many of the variant's wrong decisions, where the reference is right or is what is compared with, are ties."""
    ours = scores["candidate"]
    return int((scores.get("tie", False) & ~ours & scores.get("reference", True)).sum())


def _blank(spec: MetricSpec, scores: Scores) -> Measurement:
    traits = METRICS.get(spec.metric)
    examples = len(next(iter(scores.values()))) if scores else 0
    return Measurement(
        name=spec.name,
        metric=spec.metric,
        output=spec.output,
        value=None,
        higher_is_better=spec.higher_is_better if traits is None else traits.higher_is_better,
        examples=examples,
        ties=int(scores["tie"].sum()) if "tie" in scores else 0,
        reference_ties=int(scores["reference_tie"].sum()) if "reference_tie" in scores else 0,
        identical=bool(scores["identical"].all()) if examples and "identical" in scores else False,
    )


def _joined(arrays: list[Array]) -> Array:
    if arrays[0].ndim != 2:
        return np.concatenate(arrays)
    width = max(array.shape[1] for array in arrays)
    return np.concatenate([np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays])


def _called(spec: MetricSpec, function: PythonMetric, outputs: Sequence[Array], labels: Any, examples: int) -> Array:
    try:
        given = np.asarray(function(outputs, labels), np.float64)
    except Exception as error:
        raise _python_error(spec, f"fails with {type(error).__name__}: {error}") from error
    if given.shape not in ((), (examples,)):
        raise _python_error(
            spec, f"gives an array of shape {given.shape}; return one number or {examples} scores, one per example"
        )
    if not np.isfinite(given).all():
        raise _python_error(spec, "gives NaN or infinity")
    return given


def _python_error(spec: MetricSpec, what: str) -> EvaluationError:
    name = spec.python.name if spec.python is not None else ""
    return EvaluationError("python-metric", f"{spec.name}: the function {name} {what}")
