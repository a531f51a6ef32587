"""Metrics by class and by slice against scikit-learn, scipy and a loop over the examples."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import recall_score, top_k_accuracy_score

from tflite_guard.errors import DataError
from tflite_guard.judgement.intervals import newcombe_paired, student, wilson
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics import concatenate, measure, per_example
from tflite_guard.metrics.slices import by_slice, checked
from tflite_guard.results import Measurement, Slice


def measured(
    metric: str,
    outputs: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray | None,
    slices: dict[str, np.ndarray] | None = None,
    groups: np.ndarray | None = None,
    batch: int = 7,
    **options: Any,
) -> Measurement:
    spec = MetricSpec(metric, metric, **options)
    parts = [slice(start, start + batch) for start in range(0, len(outputs), batch)]
    scores = [per_example(spec, outputs[p], reference[p], None if labels is None else labels[p]) for p in parts]
    named = {key: checked(key, values) for key, values in (slices or {}).items()}
    return measure(spec, concatenate(scores), groups=groups, slices=named)


def scores(seed: int, count: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    reference = generator.random((count, classes), np.float32)
    return reference + generator.normal(0, 0.2, reference.shape), reference, generator.integers(0, classes, count)


def quantile(count: int) -> float:
    return NormalDist().inv_cdf(1 - 0.05 / (2 * count))


def table(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int, int, int]:
    """Both right, only the reference, only the variant, neither: by a loop."""
    found = [0, 0, 0, 0]
    for own, other in zip(ours, theirs, strict=True):
        found[0 if own and other else 1 if other else 2 if own else 3] += 1
    return found[0], found[1], found[2], found[3]


# By class


@given(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.integers(2, 6),
    st.booleans(),
    st.sampled_from(["accuracy", "f1_macro"]),
)
def test_accuracy_of_a_class_is_scikit_learns_recall(
    seed: int, count: int, classes: int, one_hot: bool, metric: str
) -> None:
    outputs, reference, labels = scores(seed, count, classes)
    given = np.eye(classes)[labels] if one_hot else labels
    found = measured(metric, outputs, reference, given, batch=1 + seed % 9).by_class
    assert found is not None
    there = sorted(set(labels.tolist()))
    theirs, ours = (
        recall_score(labels, s.argmax(1), labels=there, average=None, zero_division=0) for s in (reference, outputs)
    )
    assert (found.metric, found.kind, found.key, found.count) == (metric, metric, None, len(there))
    told = {one.label: one for one in found.worst}
    for label, before, after in zip(there, theirs, ours, strict=True):
        one, own = told[label], labels == label
        assert one.examples == own.sum()
        assert (one.reference, one.variant, one.drop) == pytest.approx((before, after, before - after))
        counts = table(outputs[own].argmax(1) == label, reference[own].argmax(1) == label)
        assert one.counts == counts
        assert one.interval == pytest.approx(newcombe_paired(*counts, quantile(len(there))))
    drops = [one.drop for one in found.worst]
    assert drops == sorted(drops, reverse=True)
    assert found.lost == sum(one.interval[0] > 0 for one in found.worst)


def test_top_k_accuracy_of_a_class_is_scikit_learns_on_its_examples() -> None:
    outputs, reference, labels = scores(3, 400, 6)
    found = measured("top_k_accuracy", outputs, reference, labels, k=2).by_class
    assert found is not None
    for one in found.worst:
        own = labels == one.label
        expected = (
            top_k_accuracy_score(labels[own], values[own], k=2, labels=range(6)) for values in (reference, outputs)
        )
        assert (one.reference, one.variant) == pytest.approx(tuple(expected))


def test_examples_without_a_label_are_of_no_class() -> None:
    found = measured("accuracy", np.eye(2)[[1, 1]], np.eye(2)[[0, 0]], np.array([255, 0]), ignore_index=255).by_class
    assert found is not None
    assert [(one.label, one.examples, one.drop) for one in found.worst] == [(0, 1, 1.0)]


@pytest.mark.parametrize(
    ("shape", "labels", "options"),
    [((9, 4, 2), np.zeros((9, 4), np.int64), {}), ((9, 3), np.eye(3, dtype=np.int64)[[0] * 9], {"multi_label": True})],
)
def test_several_decisions_an_example_are_of_no_class(shape: Any, labels: np.ndarray, options: Any) -> None:
    assert measured("accuracy", np.full(shape, 0.7), np.full(shape, 0.7), labels, **options).by_class is None


def test_of_many_classes_those_that_can_decide_are_told_and_all_that_lost_are_counted() -> None:
    """200 classes of two examples, all lost; one of 30 that lost a little; one of 400 that has certainly lost."""
    labels = np.concatenate([np.arange(200).repeat(2), np.full(30, 200), np.full(400, 201), np.full(30, 202)])
    reference = np.eye(203)[labels]
    decided = labels.copy()
    decided[:400] = 202
    decided[400:402] = 0
    decided[430:530] = 0
    found = measured("accuracy", np.eye(203)[decided], reference, labels, batch=1000).by_class
    assert found is not None
    assert (found.count, len(found.worst)) == (203, 100)
    told = {one.label: one for one in found.worst}
    assert {200, 201} & told.keys() == {201}, "the larger drop of those with enough examples"
    assert told[201].drop == 0.25
    assert max(one.interval[0] for one in found.worst) == told[201].interval[0] > 0
    pair = newcombe_paired(0, 2, 0, 0, quantile(203))
    assert max(one.interval[1] for one in found.worst) == pytest.approx(pair[1])
    assert found.lost == 1 + 200 * (pair[0] > 0)


# By slice


@pytest.mark.parametrize("values", [np.array(["day", "night", "dusk"]), np.array([7, -1, 12]), np.array([True, False])])
def test_accuracy_by_slice_is_that_of_a_loop_over_its_examples(values: np.ndarray) -> None:
    outputs, reference, labels = scores(1, 300, 4)
    kinds = values[np.random.default_rng(5).integers(0, len(values), 300)]
    (found,) = measured("accuracy", outputs, reference, labels, {"kind": kinds}).by_slice
    assert (found.key, found.count) == ("kind", len(values))
    named = {True: "true", False: "false"} if values.dtype == bool else {one: str(one) for one in values.tolist()}
    told = {one.label: one for one in found.worst}
    for value, name in named.items():
        right = [[], []]
        for at in range(300):
            if kinds[at] == value:
                right[0].append(int(np.argmax(reference[at])) == labels[at])
                right[1].append(int(np.argmax(outputs[at])) == labels[at])
        theirs, ours = map(np.array, right)
        one = told[name]
        assert (one.examples, one.reference, one.variant) == (len(ours), theirs.mean(), ours.mean())
        assert one.drop == pytest.approx(theirs.mean() - ours.mean())
        assert one.interval == pytest.approx(newcombe_paired(*table(ours, theirs), quantile(len(values))))


def test_an_error_by_slice_has_students_interval_of_the_paired_differences() -> None:
    generator = np.random.default_rng(0)
    labels = generator.normal(size=400)
    reference, outputs = labels + generator.normal(0, 0.1, 400), labels + generator.normal(0.05, 0.3, 400)
    kinds = np.array(["a", "b", "few"])[np.r_[generator.integers(0, 2, 385), [2] * 15]]
    (found,) = measured("mae", outputs[:, None], reference[:, None], labels[:, None], {"k": kinds}).by_slice
    told = {one.label: one for one in found.worst}
    for name in ("a", "b"):
        own = kinds == name
        theirs, ours = np.abs(reference - labels)[own], np.abs(outputs - labels)[own]
        one = told[name]
        assert (one.reference, one.variant, one.drop) == pytest.approx(
            (theirs.mean(), ours.mean(), ours.mean() - theirs.mean())
        )
        interval = stats.ttest_rel(ours, theirs).confidence_interval(1 - 0.05 / 3)
        assert one.interval == pytest.approx((interval.low, interval.high), rel=1e-4)
        assert one.counts is None
    assert told["few"].interval is None, "15 scores tell no spread"


def test_fidelity_by_slice_has_a_value_and_no_drop() -> None:
    outputs, reference, _ = scores(2, 100, 3)
    kinds = np.array(["a", "b"]).repeat(50)
    (found,) = measured("agreement", outputs, reference, None, {"k": kinds}).by_slice
    for one in found.worst:
        own = kinds == one.label
        same = int((outputs[own].argmax(1) == reference[own].argmax(1)).sum())
        assert (one.reference, one.drop, one.variant) == (None, None, same / 50)
        assert one.interval == pytest.approx(wilson(same, 50, quantile(2)))
    assert found.worst[0].variant <= found.worst[1].variant
    assert found.lost == 0


def test_examples_without_a_label_are_of_no_slice() -> None:
    outputs, reference, labels = scores(2, 100, 3)
    labels[::3] = 255
    kinds = np.array(["a", "b"])[np.random.default_rng(1).integers(0, 2, 100)]
    (found,) = measured("accuracy", outputs, reference, labels, {"k": kinds}, ignore_index=255).by_slice
    for one in found.worst:
        own = (kinds == one.label) & (labels != 255)
        assert (one.examples, one.variant) == (own.sum(), (outputs.argmax(1) == labels)[own].mean())


def test_what_is_no_mean_has_no_slices() -> None:
    outputs, reference, labels = scores(2, 100, 3)
    kinds = {"k": np.array(["a", "b"]).repeat(50)}
    assert measured("f1_macro", outputs, reference, labels, kinds).by_slice == ()
    assert measured("sqnr", outputs, reference, None, kinds).by_slice == ()


def test_examples_that_belong_together_have_no_intervals() -> None:
    outputs, reference, labels = scores(2, 100, 3)
    kinds = {"k": np.array(["a", "b"]).repeat(50)}
    found = measured("accuracy", outputs, reference, labels, kinds, groups=np.arange(100) // 5)
    assert found.by_class is not None
    for cut in (found.by_class, *found.by_slice):
        assert cut.lost == 0
        assert {one.interval for one in cut.worst} == {None}


def test_scores_beyond_what_floats_hold_have_no_slices_or_no_interval() -> None:
    labels, kinds = np.zeros((40, 1)), {"k": np.array(["a"] * 40)}
    reference = np.linspace(1e160, 2e160, 40)[:, None]
    (found,) = measured("mae", reference * 2, reference, labels, kinds).by_slice
    assert found.worst[0].interval is None
    assert np.isfinite([found.worst[0].reference, found.worst[0].variant, found.worst[0].drop]).all()


def test_where_one_slice_has_no_finite_value_there_is_none_to_pass() -> None:
    scores = {"reference": np.array([1e308, 1e308, -1e308, -1e308]), "candidate": np.zeros(4)}
    blank = Measurement("m", "python", None, 0.0, True, reference=0.0, drop=0.0)
    cuts = {"good": np.array(["a", "b", "a", "b"]), "bad": np.array(["a", "a", "b", "b"])}
    with np.errstate(over="ignore", invalid="ignore"):
        assert by_slice(blank, scores, cuts, independent=True) == ()
        assert len(by_slice(blank, scores, {"good": cuts["good"]}, independent=True)) == 1


def test_slices_are_few_and_have_short_names() -> None:
    assert len(set(checked("k", np.arange(100)))) == 100
    with pytest.raises(
        DataError, match=r"'speaker' has 101 different values .* name a key that puts examples into a few"
    ):
        checked("speaker", np.arange(101))
    with pytest.raises(DataError, match="a value of 'k' has more than 100 characters"):
        checked("k", np.array(["x" * 101]))
    assert checked("k", np.array(["x"], "<U500")).tolist() == ["x"]


@pytest.mark.parametrize("freedom", [19, 30, 200, 10_000])
@pytest.mark.parametrize("count", [1, 10, 100])
def test_students_quantile_is_scipys(freedom: int, count: int) -> None:
    assert student(freedom, quantile(count)) == pytest.approx(stats.t.ppf(1 - 0.05 / (2 * count), freedom), rel=1e-3)


def test_slices_are_plain_data() -> None:
    found = measured("accuracy", *scores(1, 30, 3), {"k": np.arange(30) % 2}).by_slice[0].worst[0]
    assert isinstance(found, Slice)
    assert [type(one) for one in (found.label, found.examples, found.reference, found.variant)] == [
        str,
        int,
        float,
        float,
    ]
