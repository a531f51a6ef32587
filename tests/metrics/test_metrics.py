"""Every metric against scikit-learn, scipy or a plain loop, and what a user gets for data that does not fit."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from tflite_guard.errors import DataError, EvaluationError
from tflite_guard.judgement.intervals import newcombe_paired, wilson
from tflite_guard.manifest.types import FunctionSpec, MetricSpec
from tflite_guard.metrics import BY_NAME, NamedArrays, concatenate, measure, measure_python, per_example
from tflite_guard.metrics.bootstrap import resample
from tflite_guard.metrics.labels import Compared, class_labels
from tflite_guard.results import Measurement
from tflite_guard.vocabulary import METRICS

N, CLASSES = 240, 4
VALUES = {"mae", "rmse", "r2"}


def spec_of(metric: str, **options) -> MetricSpec:
    return MetricSpec(name=metric, metric=metric, **options)


def measured(spec, outputs, reference, labels=None, groups=None, batch=None) -> Measurement:
    size = batch or max(len(outputs), 1)
    starts = range(0, len(outputs), size)
    batches = [
        per_example(
            spec,
            outputs[s : s + size],
            reference[s : s + size],
            None if labels is None else labels[s : s + size],
            rows=range(s, s + len(outputs)),
        )
        for s in starts
    ]
    return measure(spec, concatenate(batches), groups=groups)


def models(seed: int = 0, shape: tuple[int, ...] = (N, CLASSES), noise: float = 0.5):
    """A reference's and a variant's logits, and class labels that they often get right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, shape[-1], shape[:-1])
    reference = rng.normal(size=shape) + 1.5 * np.eye(shape[-1])[labels]
    return (reference + noise * rng.normal(size=shape)).astype(np.float32), reference.astype(np.float32), labels


def tags(seed: int = 5, shape: tuple[int, ...] = (N, 5)):
    """Sigmoids of a variant and of a reference, and 0/1 labels of which several or none hold."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(shape) < [0.1, 0.2, 0.5, 0.5, 0.8]).astype(np.int64)
    reference = np.clip(labels * 0.4 + rng.normal(0.3, 0.25, shape), 0, 1).astype(np.float32)
    return np.clip(reference + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32), reference, labels


def targets(seed: int = 0, shape: tuple[int, ...] = (N, 3)):
    rng = np.random.default_rng(seed)
    wanted = rng.normal(5, 2, shape)
    reference = wanted + rng.normal(0, 1, shape)
    return (reference + rng.normal(0.2, 0.5, shape)).astype(np.float32), reference.astype(np.float32), wanted


def test_every_metric_of_the_vocabulary_but_those_of_a_file_is_here():
    assert set(BY_NAME) == {name for name, traits in METRICS.items() if not traits.of_file}
    assert {*METRICS} - {*BY_NAME} == {"size_bytes", "arena_bytes", "macs"}


def top_k(labels, scores):
    return sk.top_k_accuracy_score(labels, scores, k=2, labels=range(scores.shape[1]))


def average_precision(average):
    return lambda labels, scores: sk.average_precision_score(np.eye(scores.shape[1])[labels], scores, average=average)


def area(average):
    def score(labels, scores):
        return sk.roc_auc_score(np.eye(scores.shape[1])[labels], scores, average=average)

    return score


def of_decisions(function, **options):
    return lambda labels, scores: function(labels, scores.argmax(1), **options)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("metric", "options", "expected"),
    [
        ("accuracy", {}, of_decisions(sk.accuracy_score)),
        ("top_k_accuracy", {"k": 2}, top_k),
        ("f1_macro", {}, of_decisions(sk.f1_score, average="macro")),
        ("mean_iou", {}, of_decisions(sk.jaccard_score, average="macro")),
        ("roc_auc", {}, area("macro")),
        ("roc_auc", {"average": "weighted"}, area("weighted")),
        ("average_precision", {}, average_precision("macro")),
        ("average_precision", {"average": "weighted"}, average_precision("weighted")),
    ],
)
def test_metrics_of_classes_equal_scikit_learn(metric, options, expected, dtype):
    outputs, reference, labels = models()
    # Steps of a quarter give ties, as quantization does; both sides see the same values.
    outputs, reference = (np.round(4 * a) / 4 + np.arange(CLASSES) / 64 for a in (outputs, reference))
    outputs, reference = outputs.astype(dtype), reference.astype(dtype)
    found = measured(spec_of(metric, **options), outputs, reference, labels)
    assert found.value == pytest.approx(expected(labels, outputs.astype(float)), abs=1e-12)
    assert found.reference == pytest.approx(expected(labels, reference.astype(float)), abs=1e-12)
    assert found.drop == pytest.approx(found.reference - found.value)
    assert found.examples == N


def test_the_area_of_probabilities_is_scikit_learns_one_against_rest():
    outputs, reference, labels = models()
    outputs, reference = softmax(outputs.astype(float), 1), softmax(reference.astype(float), 1)
    found = measured(spec_of("roc_auc"), outputs, reference, labels)
    assert found.value == pytest.approx(sk.roc_auc_score(labels, outputs, multi_class="ovr"))


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize(
    ("metric", "function"), [("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)]
)
def test_two_classes_are_ranked_by_one_score(metric, function, units):
    outputs, reference, labels = models(shape=(N, 2))
    outputs, reference = (np.round(4 * a) / 4 for a in (outputs, reference))
    margins = [a[:, 1] - a[:, 0] for a in (outputs, reference)]
    given = [m[:, None] for m in margins] if units == 1 else [outputs, reference]
    found = measured(spec_of(metric), *given, labels)
    assert found.value == pytest.approx(function(labels, margins[0]))
    assert found.reference == pytest.approx(function(labels, margins[1]))


def test_indicators_of_several_classes_are_ranked_class_by_class():
    outputs, reference, _ = models()
    applies = (np.random.default_rng(3).random((N, CLASSES)) < 0.4).astype(np.uint8)
    found = measured(spec_of("roc_auc"), outputs, reference, applies)
    assert found.value == pytest.approx(sk.roc_auc_score(applies, outputs, average="macro"))


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3), (N, 2, 3)])
@pytest.mark.parametrize(
    ("metric", "function"),
    [
        ("mae", sk.mean_absolute_error),
        ("rmse", lambda a, b: math.sqrt(sk.mean_squared_error(a, b))),
        ("r2", sk.r2_score),
    ],
)
def test_metrics_of_values_equal_scikit_learn(metric, function, shape):
    outputs, reference, wanted = targets(shape=shape)
    found = measured(spec_of(metric), outputs, reference, wanted)
    flat = [a.reshape(N, -1).astype(float) for a in (outputs, reference, wanted)]
    assert found.value == pytest.approx(function(flat[2], flat[0]))
    assert found.reference == pytest.approx(function(flat[2], flat[1]))
    worse = found.reference - found.value if metric == "r2" else found.value - found.reference
    assert found.drop == pytest.approx(worse)
    assert found.drop > 0


def test_fidelity_equals_a_plain_loop():
    outputs, reference, _ = models()
    signal = noise = agreed = cosine = mean = 0.0
    largest = 0.0
    for ours, theirs in zip(outputs.astype(float), reference.astype(float), strict=True):
        signal += sum(v * v for v in theirs)
        noise += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
        agreed += max(range(CLASSES), key=ours.__getitem__) == max(range(CLASSES), key=theirs.__getitem__)
        cosine += sum(ours * theirs) / math.sqrt(sum(ours**2) * sum(theirs**2))
        mean += sum(abs(ours - theirs)) / CLASSES
        largest = max(largest, *abs(ours - theirs))
    expected = {
        "sqnr": 10 * math.log10(signal / noise),
        "agreement": agreed / N,
        "cosine_similarity": cosine / N,
        "mean_abs_error": mean / N,
        "max_abs_error": largest,
    }
    for metric, value in expected.items():
        found = measured(spec_of(metric), outputs, reference)
        assert found.value == pytest.approx(value, rel=1e-12), metric
        assert found.reference is None
        assert found.drop is None


@pytest.mark.parametrize("logits", [True, False])
def test_kl_divergence_equals_scipys(logits):
    outputs, reference, _ = models()
    p, q = softmax(reference.astype(float), 1), softmax(outputs.astype(float), 1)
    given = (outputs, reference) if logits else (q, p)
    found = measured(spec_of("kl_divergence", from_logits=logits), *given)
    assert found.value == pytest.approx(np.mean([entropy(*pair) for pair in zip(p, q, strict=True)]))
    assert not found.higher_is_better


@pytest.mark.parametrize("logits", [True, False])
def test_kl_divergence_of_one_unit_is_that_of_its_two_classes(logits):
    z = np.random.default_rng(0).normal(size=(2, 50, 1))
    p, q = (1 / (1 + np.exp(-z))).reshape(2, 50)
    given = (z[1], z[0]) if logits else (q[:, None], p[:, None])
    found = measured(spec_of("kl_divergence", from_logits=logits), *given)
    assert found.value == pytest.approx(np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))


def test_a_probability_quantized_to_zero_costs_a_finite_divergence():
    found = measured(spec_of("kl_divergence"), np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    assert found.value == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-12))
    zeros = measured(spec_of("kl_divergence"), np.zeros((1, 2)), np.array([[0.5, 0.5]]))
    assert zeros.value == 0


def test_logits_taken_for_probabilities_are_refused():
    outputs, reference, _ = models()
    with pytest.raises(DataError, match=r'example 0 .*"from_logits": true'):
        measured(spec_of("kl_divergence"), outputs, reference)


# --- decisions ---------------------------------------------------------------------------------------------------


def test_ties_take_the_lowest_index_and_are_counted():
    outputs = np.array([[1, 1, 0], [0, 2, 2], [3, 0, 0], [5, 5, 5]], np.float32)
    found = measured(spec_of("accuracy"), outputs, np.eye(3)[[0, 1, 0, 0]] * 1.0, np.array([0, 2, 0, 0]))
    assert found.counts == (3, 0, 0, 1)
    assert found.ties == 3
    assert measured(spec_of("agreement"), outputs, outputs[::-1].copy()).ties == 3


def test_the_rank_of_a_label_counts_equal_outputs_of_lower_index():
    outputs = np.array([[2.0, 2.0, 2.0, 1.0]] * 4)
    found = measured(spec_of("top_k_accuracy", k=2), outputs, outputs, np.array([0, 0, 2, 3]))
    assert found.value == 0.5
    assert found.ties == 4
    assert measured(spec_of("top_k_accuracy", k=3), outputs, outputs, np.arange(4)).ties == 0


@pytest.mark.parametrize(
    ("options", "right"), [({}, 2), ({"threshold": 0.95}, 2), ({"from_logits": True}, 2), ({"threshold": -1.0}, 2)]
)
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 1)])
def test_one_unit_decides_for_class_1_above_its_threshold(options, right, shape):
    outputs = np.array([0.5, 0.49, 0.9, 0.6]).reshape(shape)
    found = measured(spec_of("accuracy", **options), outputs, outputs, np.array([1, 0, 1, 0]))
    assert found.value == right / 4
    assert found.interval_method == "newcombe-paired"
    assert measured(spec_of("f1_macro", **options), outputs, outputs, np.array([1, 0, 1, 0])).error is None


def test_a_unit_on_the_threshold_is_a_tie():
    outputs = np.array([[0.5], [0.4]])
    assert measured(spec_of("accuracy"), outputs, outputs, np.array([1, 0])).ties == 1


def test_a_threshold_for_several_units_is_refused():
    outputs, reference, labels = models()
    with pytest.raises(DataError, match="one unit, but this one has 4"):
        measured(spec_of("accuracy", threshold=0.5), outputs, reference, labels)


def test_integer_outputs_are_decisions_already():
    outputs = np.array([[[0, 1], [2, 2]], [[1, 1], [0, 7]]], np.int64)
    reference = np.array([[[0, 1], [2, 1]], [[1, 1], [0, 3]]], np.int64)
    assert measured(spec_of("agreement"), outputs, reference).value == 6 / 8
    found = measured(spec_of("mean_iou"), outputs, reference, reference, batch=1)
    flat = [a.reshape(-1) for a in (reference, outputs)]
    assert found.value == pytest.approx(sk.jaccard_score(*flat, average="macro"))
    assert measured(spec_of("accuracy"), reference[:, 0, 0], reference[:, 0, 0], np.array([0, 1])).value == 1


def test_several_decisions_an_example_are_a_fraction_and_resampled():
    outputs, reference, labels = models(shape=(60, 5, 6, 3))
    found = measured(spec_of("accuracy"), outputs, reference, labels)
    assert found.value == pytest.approx((outputs.argmax(-1) == labels).mean())
    assert found.interval_method == "bootstrap"
    assert found.counts is None
    assert measured(spec_of("agreement"), outputs, reference).interval_method == "bootstrap"
    same = measured(spec_of("accuracy"), reference, reference, reference.argmax(-1))
    assert same.value == 1
    assert same.confidence_interval is None
    assert "the variant scores as the reference does whichever examples are drawn" in (same.interval_note or "")


@pytest.mark.parametrize("metric", ["f1_macro", "mean_iou"])
def test_dense_outputs_pool_their_confusions(metric):
    outputs, reference, labels = models(shape=(30, 5, 6, 3))
    found = measured(spec_of(metric), outputs, reference, labels)
    function = sk.f1_score if metric == "f1_macro" else sk.jaccard_score
    assert found.value == pytest.approx(function(labels.reshape(-1), outputs.argmax(-1).reshape(-1), average="macro"))


@pytest.mark.parametrize("metric", ["accuracy", "top_k_accuracy", "f1_macro", "mean_iou"])
@pytest.mark.parametrize("ignored", [255, -1, 0])
def test_ignored_positions_are_left_out(metric, ignored):
    outputs, reference, labels = models(shape=(20, 7, 4))
    labels = labels + (ignored == 0)
    labels = np.where(labels > 3, 3, labels)
    labels[:, 2] = labels[4] = ignored
    found = measured(spec_of(metric, ignore_index=ignored, k=2), outputs, reference, labels)
    kept = labels != ignored
    fewer = [a[np.arange(20) != 4] for a in (outputs, reference, labels)]
    expected = {
        "accuracy": np.mean([(o.argmax(-1) == y)[y != ignored].mean() for o, _, y in zip(*fewer, strict=True)]),
        "f1_macro": sk.f1_score(labels[kept], outputs.argmax(-1)[kept], average="macro"),
        "mean_iou": sk.jaccard_score(labels[kept], outputs.argmax(-1)[kept], average="macro"),
    }
    assert found.examples == 19
    if metric in expected:
        assert found.value == pytest.approx(expected[metric])


def test_examples_that_are_all_ignored_leave_nothing_to_measure():
    outputs, reference, _ = models()
    found = measured(spec_of("accuracy", ignore_index=9), outputs, reference, np.full(N, 9))
    assert found.value is None
    assert "ignore_index leaves every label out" in (found.error or "")


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y.astype(np.uint8),
        lambda y: y.astype(np.float32),
        lambda y: y[:, None],
        lambda y: np.eye(CLASSES, dtype=np.int32)[y],
        lambda y: np.eye(CLASSES, dtype=np.float32)[y],
    ],
)
@pytest.mark.parametrize(
    "metric", ["accuracy", "top_k_accuracy", "f1_macro", "roc_auc", "average_precision", "mean_iou"]
)
def test_labels_of_one_meaning_give_one_answer(form, metric):
    outputs, reference, labels = models()
    spec = spec_of(metric, k=2)
    assert measured(spec, outputs, reference, form(labels)) == measured(spec, outputs, reference, labels)


def bad_labels():
    _, _, labels = models()
    out_of_range, half, twice, missing = labels.copy(), labels.astype(float), np.eye(CLASSES)[labels], labels[:-1]
    out_of_range[7], half[3], twice[5] = CLASSES, 0.5, 1
    yield out_of_range, r"label of example 7 \(from 0\) is 4, which is out of range: the output has 4 classes"
    yield -1 - labels, "out of range"
    yield half, r"label of example 3 \(from 0\) is 0.5, which is not a class number"
    yield twice, r"label of example 5 \(from 0\) is not exactly one 1"
    yield missing, r"\(239,\) do not fit outputs of shape \(240, 4\)"
    yield np.eye(3)[labels % 3], r"\(240, 3\) do not fit outputs of shape \(240, 4\)"
    yield labels.astype(str), "must be numbers"
    yield np.where(labels == 0, np.nan, labels), "is nan, which is not a class number"
    yield None, "the evaluation data has none"


@pytest.mark.parametrize(("labels", "message"), list(bad_labels()))
def test_labels_that_do_not_fit_are_named(labels, message):
    outputs, reference, _ = models()
    with pytest.raises(DataError, match=message):
        per_example(spec_of("accuracy"), outputs, reference, labels)


def test_an_example_is_named_by_its_number_in_the_whole_data():
    outputs, reference, labels = models()
    labels[200] = 17
    with pytest.raises(DataError, match=r"example 200 \(from 0\) is 17"):
        measured(spec_of("accuracy"), outputs, reference, labels, batch=64)


@pytest.mark.parametrize("metric", sorted(VALUES))
def test_value_labels_that_do_not_fit_are_named(metric):
    outputs, reference, wanted = targets()
    with pytest.raises(DataError, match=r"\(240, 2\) do not fit outputs of shape \(240, 3\)"):
        per_example(spec_of(metric), outputs, reference, wanted[:, :2])
    wanted[11, 1] = np.nan
    with pytest.raises(DataError, match=r"label of example 11 \(from 0\) is NaN or infinite"):
        per_example(spec_of(metric), outputs, reference, wanted)


def test_constant_labels_have_no_r2():
    outputs, reference, _ = targets()
    found = measured(spec_of("r2"), outputs, reference, np.full((N, 3), 2.0))
    assert found.value is None
    assert "R2 is undefined" in (found.error or "")


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_a_class_without_examples_is_an_error_and_never_a_pass(metric):
    outputs, reference, labels = models()
    labels[labels == 2] = 1
    found = measured(spec_of(metric), outputs, reference, labels)
    assert found.value is None
    assert "class 2" in (found.error or "")
    single = measured(spec_of(metric), outputs[:, 0], reference[:, 0], np.ones(N))
    assert "every label is class 1" in (single.error or "")


def test_as_many_ranks_as_classes_are_refused():
    outputs, reference, labels = models()
    with pytest.raises(DataError, match="k = 5 and 4 classes every decision counts as right"):
        per_example(spec_of("top_k_accuracy"), outputs, reference, labels)


# --- outputs -----------------------------------------------------------------------------------------------------


OF_OUTPUTS = {name for name in BY_NAME if not METRICS[name].of_boxes}
"""Those of boxes have tests of their own."""


@pytest.mark.parametrize("metric", sorted(OF_OUTPUTS))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("whose", ["variant", "reference"])
def test_nan_and_infinity_never_become_a_number(metric, bad, whose):
    arrays = dict(zip(("variant", "reference"), models()[:2], strict=True))
    arrays[whose][30, 1] = arrays[whose][30, 2] = bad
    with pytest.raises(
        EvaluationError, match=rf"the {whose}'s output .* first in example 130 \(from 0\), in 2 of"
    ) as caught:
        per_example(spec_of(metric, k=2), arrays["variant"], arrays["reference"], np.zeros(N), rows=range(100, 100 + N))
    assert caught.value.kind == "non-finite-output"


def test_outputs_of_another_shape_are_not_broadcast():
    outputs, reference, _ = models()
    with pytest.raises(EvaluationError, match=r"\(240, 1\), the reference's \(240, 4\)"):
        per_example(spec_of("sqnr"), outputs[:, :1], reference, None)


def any_labels(metric):
    if metric in VALUES:
        return targets(shape=(N, CLASSES))[2]
    return models()[2] if METRICS[metric].needs_labels else None


@pytest.mark.parametrize("metric", sorted(OF_OUTPUTS))
def test_no_examples_are_an_error(metric):
    outputs, reference, _ = models()
    labels = any_labels(metric)
    spec = spec_of(metric, k=2, from_logits=True)
    empty = per_example(spec, outputs[:0], reference[:0], None if labels is None else labels[:0])
    for scores in (concatenate([]), concatenate([empty])):
        found = measure(spec, scores)
        assert found.value is None
        assert found.examples == 0
        assert "no examples" in (found.error or "")


def test_identical_outputs_have_infinite_sqnr_and_say_so():
    _, reference, labels = models()
    found = measured(spec_of("sqnr"), reference.copy(), reference)
    assert (found.value, found.identical, found.error) == (None, True, None)
    silent = measured(spec_of("sqnr"), np.zeros((5, 2)), np.zeros((5, 2)))
    assert (silent.value, silent.identical, silent.error) == (None, True, None)
    assert measured(spec_of("accuracy"), reference.copy(), reference, labels).identical
    assert measured(spec_of("cosine_similarity"), reference.copy(), reference).value == 1


def test_only_equal_outputs_are_identical():
    huge = np.full((5, 2), 1e300)
    for outputs, reference in ((huge / 2, huge), (huge, huge * 2), (np.ones((5, 2)), huge), (huge + 1e290, huge)):
        found = measured(spec_of("sqnr"), outputs, reference)
        assert (found.value, found.identical) == (None, False)
        assert "not a finite number" in (found.error or "")
    assert measured(spec_of("sqnr"), huge, huge).identical


EXTREME = st.sampled_from([0.0, 1.0, -1.0, 5e-324, 1e-300, 1e155, -1e155, 1.7e308, -1.7e308])


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from([np.float64, np.float32]))
@pytest.mark.parametrize("metric", sorted(OF_OUTPUTS))
def test_extreme_values_are_measured_or_an_error_and_never_a_pass(metric, data, dtype):
    values = st.lists(EXTREME, min_size=24, max_size=24)
    if dtype is np.float32:
        values = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=24, max_size=24)
    outputs, reference, wanted = (np.array(data.draw(values), dtype).reshape(8, 3) for _ in range(3))
    labels = wanted if metric in VALUES else np.arange(8) % 3
    options = {"from_logits": True} if metric == "kl_divergence" else {"k": 2} if metric == "top_k_accuracy" else {}
    found = measured(spec_of(metric, **options), outputs, reference, labels)
    assert found.identical == np.array_equal(outputs, reference)
    numbers = [found.value, found.reference, found.drop, *(found.confidence_interval or ())]
    assert all(math.isfinite(number) for number in numbers if number is not None)
    assert (found.value is None) == (found.error is not None or (metric == "sqnr" and found.identical))
    assert found.error or (found.drop is not None) == METRICS[metric].needs_labels


def test_a_difference_beyond_float64_is_an_error():
    def function(outputs, _):
        return outputs[0][:, 0]

    low, high = np.full((5, 1), -1.7e308), np.full((5, 1), 1.7e308)
    for outputs, reference in ((low, high), (high, high)):
        found = measure_python(
            spec_of("python", python=FunctionSpec("m:f", "")), function, [outputs], [reference], None
        )
        assert (found.value, found.drop) == (None, None)
        assert "not a finite number" in (found.error or "")
    one = measure_python(spec_of("python"), lambda outputs, _: outputs[0][0, 0], [low], [high], None)
    assert "not a finite number" in (one.error or "")


def test_noise_on_a_silent_reference_has_no_sqnr():
    found = measured(spec_of("sqnr"), np.ones((5, 2)), np.zeros((5, 2)))
    assert found.value is None
    assert not found.identical
    assert "all zero" in (found.error or "")


def test_the_cosine_of_zero_vectors():
    outputs = np.array([[0.0, 0.0], [0.0, 0.0], [1e-200, 0.0]])
    reference = np.array([[0.0, 0.0], [1.0, 0.0], [1e200, 0.0]])
    scores = per_example(spec_of("cosine_similarity"), outputs, reference, None)
    assert scores["candidate"].tolist() == [1, 0, 1]


# --- intervals ---------------------------------------------------------------------------------------------------


def test_one_decision_an_example_has_newcombes_paired_interval():
    outputs, reference, labels = models()
    found = measured(spec_of("accuracy"), outputs, reference, labels)
    ours, theirs = (a.argmax(1) == labels for a in (outputs, reference))
    counts = ((ours & theirs).sum(), (theirs & ~ours).sum(), (ours & ~theirs).sum(), (~ours & ~theirs).sum())
    assert found.counts == counts
    assert found.confidence_interval == newcombe_paired(*(int(c) for c in counts))
    assert found.value_interval == wilson(int(ours.sum()), N)
    assert found.interval_method == "newcombe-paired"


def test_agreement_has_wilsons_interval():
    outputs, reference, _ = models()
    found = measured(spec_of("agreement"), outputs, reference)
    same = int((outputs.argmax(1) == reference.argmax(1)).sum())
    assert found.counts == (same, 0, 0, N - same)
    assert found.confidence_interval == found.value_interval == wilson(same, N)
    assert found.interval_method == "wilson"


@pytest.mark.parametrize("metric", sorted(OF_OUTPUTS - {"accuracy", "top_k_accuracy", "agreement", "max_abs_error"}))
def test_the_rest_is_resampled_and_the_interval_holds_the_estimate(metric):
    outputs, reference, _ = models()
    spec = spec_of(metric, from_logits=True)
    found = measured(spec, outputs, reference, any_labels(metric))
    assert found.interval_method == "bootstrap"
    low, high = found.confidence_interval
    centre = found.value if found.drop is None else found.drop
    assert low < centre < high
    assert found.value_interval[0] < found.value < found.value_interval[1]
    assert found == measured(spec, outputs, reference, any_labels(metric)), "seeded"


WEIGHTED = {
    "accuracy": of_decisions(sk.accuracy_score),
    "f1_macro": of_decisions(sk.f1_score, average="macro", zero_division=0),
    "mean_iou": of_decisions(sk.jaccard_score, average="macro", zero_division=0),
    "roc_auc": area("macro"),
    "average_precision": average_precision("macro"),
    "mae": sk.mean_absolute_error,
    "rmse": lambda y, o: math.sqrt(sk.mean_squared_error(y, o)),
    "r2": sk.r2_score,
}


@pytest.mark.parametrize("metric", sorted(WEIGHTED))
def test_a_resample_is_measured_as_scikit_learn_measures_its_examples(metric):
    outputs, reference, labels = (a[:40] for a in (targets if metric in VALUES else models)(5))
    spec = spec_of(metric)
    statistic = BY_NAME[metric].statistic(spec, per_example(spec, outputs, reference, labels))
    weights = next(resample(40, seed=1, resamples=25))
    for row, (theirs, ours) in zip(weights, statistic(weights), strict=True):
        drawn = np.repeat(np.arange(40), row.astype(int))
        assert theirs == pytest.approx(WEIGHTED[metric](labels[drawn], reference[drawn]))
        assert ours == pytest.approx(WEIGHTED[metric](labels[drawn], outputs[drawn]))


def test_groups_are_resampled_whole():
    outputs, reference, labels = models()
    groups = np.array([f"recording {i // 12}" for i in range(N)])
    found = measured(spec_of("accuracy"), outputs, reference, labels, groups)
    assert (found.groups, found.interval_method) == (20, "bootstrap-groups")
    alone = measured(spec_of("accuracy"), outputs, reference, labels, np.arange(N))
    assert alone.interval_method == "bootstrap-groups"
    assert alone.confidence_interval == pytest.approx(
        measured(spec_of("accuracy"), outputs, reference, labels).confidence_interval, abs=0.01
    )


def test_copies_of_an_example_in_a_group_add_no_certainty():
    outputs, reference, labels = models(shape=(40, CLASSES))
    copies = [np.repeat(a, 25, axis=0) for a in (outputs, reference, labels)]
    grouped = measured(spec_of("mean_abs_error"), *copies[:2], groups=np.repeat(np.arange(40), 25))
    once = measured(spec_of("mean_abs_error"), outputs, reference)
    widths = [m.confidence_interval[1] - m.confidence_interval[0] for m in (grouped, once)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_one_group_has_no_interval_and_says_why():
    outputs, reference, labels = models()
    found = measured(spec_of("accuracy"), outputs, reference, labels, np.zeros(N))
    assert found.confidence_interval is None
    assert "one group" in (found.interval_note or "")


def test_groups_that_do_not_differ_count_as_one_example_each():
    reference, labels = np.eye(2)[np.zeros(100, int)], np.zeros(100, int)
    groups = np.repeat(np.arange(5), 20)
    found = measured(spec_of("accuracy"), reference, reference, labels, groups)
    assert found.interval_method == "newcombe-paired-groups"
    assert found.confidence_interval == newcombe_paired(5, 0, 0, 0)
    agreed = measured(spec_of("agreement"), reference, reference, groups=groups)
    assert (agreed.interval_method, agreed.confidence_interval) == ("wilson-groups", wilson(5, 5))


def test_a_maximum_has_no_interval():
    outputs, reference, _ = models()
    found = measured(spec_of("max_abs_error"), outputs, reference)
    assert found.confidence_interval is None
    assert "maximum" in (found.interval_note or "")


# --- properties --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    metric=st.sampled_from(sorted(OF_OUTPUTS)),
    n=st.integers(2, 30),
    batch=st.integers(1, 30),
    seed=st.integers(0, 2**16),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_batches_of_any_size_give_one_measurement(metric, n, batch, seed, dtype):
    outputs, reference, labels = models(seed, (n, CLASSES))
    labels = outputs * 0.5 + np.arange(n)[:, None] if metric in VALUES else labels
    spec = spec_of(metric, k=2, from_logits=True)
    given_arrays = (outputs.astype(dtype), reference.astype(dtype), labels)
    assert measured(spec, *given_arrays, batch=batch) == measured(spec, *given_arrays)


@settings(max_examples=40, deadline=None)
@given(metric=st.sampled_from(sorted(OF_OUTPUTS)), seed=st.integers(0, 2**16))
def test_the_order_of_examples_does_not_change_a_value(metric, seed):
    outputs, reference, labels = models(seed, (60, CLASSES))
    labels = outputs * 0.5 + np.arange(60)[:, None] if metric in VALUES else labels
    order = np.random.default_rng(seed).permutation(60)
    spec = spec_of(metric, k=2, from_logits=True)
    here, there = (
        measured(spec, outputs, reference, labels),
        measured(spec, outputs[order], reference[order], labels[order]),
    )
    assert there.value == pytest.approx(here.value, rel=1e-12)
    assert (there.reference or 0) == pytest.approx(here.reference or 0, rel=1e-12)
    assert there.counts == here.counts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40))
def test_tied_scores_are_ranked_as_scikit_learn_does(rows):
    labels, ours, theirs = np.array(rows).T
    for metric, function in (("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        found = measured(spec_of(metric), ours.astype(float), theirs.astype(float), labels)
        if len(set(labels)) == 2:
            assert (found.value, found.reference) == pytest.approx((function(labels, ours), function(labels, theirs)))
        else:
            assert found.error is not None


# --- a user's own metric -----------------------------------------------------------------------------------------


def own(function, labels=None, groups=None, **options):
    outputs, reference, _ = models()
    spec = MetricSpec(name="own", metric="python", python=FunctionSpec("pkg.own:score", ""), **options)
    return measure_python(
        spec, function, NamedArrays({"y": outputs}), NamedArrays({"y": reference}), labels, groups=groups
    )


def test_scores_of_a_users_function_are_averaged_and_resampled():
    _, reference, labels = models()
    found = own(lambda o, y: -np.abs(o["y"][np.arange(N), y] - 1), labels)
    assert found.reference == pytest.approx(np.mean(-np.abs(reference[np.arange(N), labels] - 1)))
    assert found.drop == pytest.approx(found.reference - found.value)
    assert found.interval_method == "bootstrap"
    assert own(lambda o, _: np.zeros(N), groups=np.arange(N) // 10).groups == 24


def test_a_function_that_gives_one_number_has_no_interval():
    found = own(lambda o, _: float(o["y"].std()), higher_is_better=False)
    assert found.drop == pytest.approx(found.value - found.reference)
    assert found.confidence_interval is None
    assert "one number" in (found.interval_note or "")
    assert found.examples == N


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda o, y: 1 / 0, "fails with ZeroDivisionError"),
        (lambda o, y: o["y"], r"gives an array of shape \(240, 4\); return one number or 240 scores"),
        (lambda o, y: np.nan, "gives NaN"),
        (lambda o, y: "high", "fails with ValueError"),
    ],
)
def test_a_function_that_goes_wrong_is_named(function, message):
    with pytest.raises(EvaluationError, match=rf"pkg\.own:score {message}") as caught:
        own(function)
    assert caught.value.kind == "python-metric"


def test_a_function_that_changes_its_mind_is_an_error():
    given_back = iter([0.5, np.zeros(N)])
    with pytest.raises(EvaluationError, match="one number for one model"):
        own(partial(lambda results, o, y: next(results), given_back))


# --- labels of which several may apply


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("batch", [None, 7])
def test_labels_of_which_several_may_apply_are_scikit_learns(threshold: float | None, batch: int | None) -> None:
    outputs, reference, labels = tags()
    options = {"multi_label": True, "threshold": threshold}
    ours, theirs = (values > (threshold or 0.5) for values in (outputs, reference))
    for wanted in (labels, labels.astype(np.float32), labels.astype(bool)):
        found = measured(spec_of("accuracy", **options), outputs, reference, wanted, batch=batch)
        right = [1 - sk.hamming_loss(labels, decided) for decided in (ours, theirs)]
        assert (found.value, found.reference) == pytest.approx(right)
        assert found.interval_method == "bootstrap"
        found = measured(spec_of("f1_macro", **options), outputs, reference, wanted, batch=batch)
        expected = [sk.f1_score(labels, decided, average="macro") for decided in (ours, theirs)]
        assert (found.value, found.reference) == pytest.approx(expected)
    found = measured(spec_of("agreement", **options), outputs, reference, batch=batch)
    assert found.value == pytest.approx((ours == theirs).mean())


def test_tags_from_logits_at_positions_of_which_some_are_left_out() -> None:
    outputs, reference, labels = tags(shape=(60, 4, 5))
    logits = [np.where(values > 0.5, 1.0, -1.0).astype(np.float32) for values in (outputs, reference)]
    known = labels.copy()
    known[:, 0, 1] = -1
    spec = spec_of("f1_macro", multi_label=True, from_logits=True, ignore_index=-1)
    found = measured(spec, *logits, known, batch=11)
    scores = []
    for c in range(5):
        kept = known[..., c] != -1
        scores.append(sk.f1_score(labels[..., c][kept], (outputs[..., c] > 0.5)[kept]))
    assert found.value == pytest.approx(np.mean(scores))


def test_a_value_on_the_threshold_of_a_tag_is_a_tie_and_does_not_apply() -> None:
    outputs = np.array([[0.5, 0.9], [0.1, 0.9]], np.float32)
    found = measured(spec_of("accuracy", multi_label=True), outputs, outputs, np.array([[0, 1], [0, 0]]))
    assert (found.value, found.ties, found.reference_ties) == (0.75, 1, 1)


def test_tags_without_the_option_are_told_of_it() -> None:
    outputs, reference, labels = tags()
    for metric in ("accuracy", "f1_macro"):
        with pytest.raises(DataError, match='"multi_label": true'):
            measured(spec_of(metric), outputs, reference, labels)
        with pytest.raises(DataError, match=r'remove the threshold.*"multi_label": true'):
            measured(spec_of(metric, threshold=0.3), outputs, reference, labels)
    with pytest.raises(DataError, match=r"class numbers instead$"):
        measured(spec_of("mean_iou"), outputs, reference, labels)
    with pytest.raises(DataError, match='remove "multi_label"'):
        measured(spec_of("accuracy", multi_label=True), outputs[:, :1], reference[:, :1], labels[:, :1])
    with pytest.raises(DataError, match=r"is 2, which is out of range: the decision is binary"):
        measured(spec_of("accuracy", multi_label=True), outputs, reference, labels * 2)


def test_labels_of_minus_one_and_one_are_told_how_to_be_written() -> None:
    outputs, reference, labels = tags()
    with pytest.raises(DataError, match=r"is -1, which is out of range: the decision is binary.*0 in place of -1"):
        measured(spec_of("accuracy"), outputs[:, :1], reference[:, :1], labels[:, 0] * 2 - 1)


# --- ties


@pytest.mark.parametrize("metric", ["accuracy", "agreement"])
def test_ties_are_counted_of_both_models_and_those_that_cost_a_decision(metric: str) -> None:
    outputs, reference, labels = models(seed=11)
    outputs, reference = np.round(outputs), np.round(reference * 2) / 2
    found = measured(spec_of(metric), outputs, reference, labels if metric == "accuracy" else None, batch=7)
    ties, theirs, lost = 0, 0, 0
    for ours, other, label in zip(outputs.tolist(), reference.tolist(), labels.tolist(), strict=True):
        tie, decided, wanted = ours.count(max(ours)) > 1, ours.index(max(ours)), other.index(max(other))
        ties += tie
        theirs += other.count(max(other)) > 1
        if metric == "accuracy":
            lost += tie and decided != label and wanted == label
        else:
            lost += tie and decided != wanted
    assert 0 < lost < ties
    assert (found.ties, found.reference_ties, found.lost_ties) == (ties, theirs, lost)


@pytest.mark.parametrize("void", [255, -1])
def test_a_label_of_what_is_not_counted_is_told_with_what_to_write(void):
    labels = np.array([[0, void]])
    with pytest.raises(DataError, match=rf'write the metric as \{{"metric": "mean_iou", "ignore_index": {void}\}}'):
        class_labels(Compared(spec_of("mean_iou"), np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), labels, range(1)), (1, 2))
