"""Mean confidence and expected calibration error against loops over the examples, in any batches and pieces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_guard.datasets import Batch
from tflite_guard.engine.answers import Answers
from tflite_guard.engine.confidence import Confidences
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.results import Confidence


def collected(
    outputs: np.ndarray, reference: np.ndarray, labels: np.ndarray | None, batch: int = 7, **options: Any
) -> Answers:
    from_logits = options.get("from_logits", False)
    answers = Answers(
        MetricSpec("accuracy", "accuracy", **options),
        "out",
        None if labels is None else "",
        confidences=Confidences(from_logits),
    )
    for start in range(0, len(outputs), batch):
        part = slice(start, start + batch)
        given = {} if labels is None else {"": labels[part]}
        rows = range(start, min(start + batch, len(outputs)))
        answers.add(Batch({"x": np.zeros((len(rows), 3))}, given, None, start, rows), outputs[part], reference[part])
    return answers


def loop(outputs: np.ndarray, labels: np.ndarray, probabilities: Callable[[Any], list[float]]) -> tuple[float, float]:
    """Mean confidence and calibration error, example by example and bin by bin."""
    confidences, rights = [], []
    for row, label in zip(outputs.tolist(), labels.tolist(), strict=True):
        each = probabilities(row)
        best = max(range(len(each)), key=lambda c: each[c])
        confidences.append(each[best])
        rights.append(best == label)
    error = 0.0
    for m in range(1, 16):
        bin_ = [at for at, c in enumerate(confidences) if (m - 1) / 15 < c <= m / 15 or (m == 1 and c == 0)]
        if bin_:
            accuracy = sum(rights[at] for at in bin_) / len(bin_)
            sure = sum(confidences[at] for at in bin_) / len(bin_)
            error += len(bin_) / len(confidences) * abs(accuracy - sure)
    return sum(confidences) / len(confidences), error


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(one - max(row)) for one in row]
    return [one / sum(powers) for one in powers]


def logits(seed: int, count: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    reference = generator.normal(0, 2, (count, classes))
    return reference + generator.normal(0, 1, reference.shape), reference, generator.integers(0, classes, count)


def of(found: Confidence | None) -> tuple[float, float, float | None, float | None]:
    assert found is not None
    return found.reference, found.variant, found.reference_error, found.variant_error


@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(2, 6))
def test_logits_are_those_of_a_loop(seed: int, count: int, classes: int) -> None:
    outputs, reference, labels = logits(seed, count, classes)
    found = collected(outputs, reference, labels, 1 + seed % 9, from_logits=True).confidence()
    (theirs, their_error), (ours, our_error) = (loop(one, labels, softmax) for one in (reference, outputs))
    assert of(found) == pytest.approx((theirs, ours, their_error, our_error), abs=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 80))
def test_probabilities_are_taken_as_an_application_reads_them(seed: int, count: int) -> None:
    """A variant whose output ends at 0.5 is half as sure, whatever its outputs are to one another."""
    _, reference, labels = logits(seed, count, 4)
    reference = np.array([softmax(row) for row in reference.tolist()])
    outputs = np.minimum(np.round(reference * 256) / 256, 0.5)
    found = collected(outputs, reference, labels, 1 + seed % 9).confidence()
    (theirs, their_error), (ours, our_error) = (loop(one, labels, list) for one in (reference, outputs))
    assert of(found) == pytest.approx((theirs, ours, their_error, our_error), abs=1e-9)
    assert ours <= 0.5


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_unit_is_as_sure_of_either_class(from_logits: bool) -> None:
    outputs, reference, _ = logits(1, 200, 1)
    labels = np.random.default_rng(1).integers(0, 2, 200)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    if not from_logits:
        outputs, reference = (np.vectorize(sigmoid)(one) for one in (outputs, reference))
    found = collected(outputs, reference, labels, from_logits=from_logits).confidence()
    expected = []
    for one in (reference, outputs):
        expected.append(loop(one, labels, lambda row: [1 - (p := sigmoid(row[0]) if from_logits else row[0]), p]))
    (theirs, their_error), (ours, our_error) = expected
    assert of(found) == pytest.approx((theirs, ours, their_error, our_error), abs=1e-9)


def test_a_bin_is_open_below() -> None:
    """A confidence of 0.6 is of the bin that ends there, as 0.55 is, and 0 is of the first."""
    reference = np.array([[0.6, 0.4], [0.55, 0.45], [0.5, 0.5], [1.0, 0.0]])
    outputs = np.array([[0.6, 0.4], [0.55, 0.45], [0.0, 0.0], [1.0, 0.0]])
    found = collected(outputs, reference, np.array([0, 1, 0, 0])).confidence()
    assert found is not None
    # One of two is right where 0.575 are sure; one is right where none is sure; one is right and sure.
    assert found.variant_error == pytest.approx((2 * abs(0.5 - 0.575) + 1 + 0) / 4)


def test_what_is_neither_probabilities_nor_said_to_be_logits_has_no_confidence() -> None:
    outputs, reference, labels = logits(0, 30, 3)
    assert collected(outputs, reference, labels).confidence() is None
    reference = np.array([softmax(row) for row in reference.tolist()])
    assert collected(outputs, reference, labels).confidence() is not None
    reference[29] *= 1.1  # one of them is enough
    assert collected(outputs, reference, labels).confidence() is None
    assert collected(outputs.argmax(1), reference.argmax(1), labels).confidence() is None


def test_without_labels_there_is_no_error_and_with_them_those_that_count_do() -> None:
    outputs, reference, labels = logits(0, 30, 3)
    bare = collected(outputs, reference, None, from_logits=True).confidence()
    assert bare is not None
    assert (bare.examples, bare.reference_error, bare.variant_error) == (30, None, None)
    labels[:10] = 255
    found = collected(outputs, reference, labels, ignore_index=255, from_logits=True).confidence()
    assert found is not None
    assert found.examples == 20
    assert found.variant == pytest.approx(loop(outputs[10:], labels[10:], softmax)[0])


def test_outputs_are_probabilities_only_where_all_pieces_say_so() -> None:
    outputs, reference, labels = logits(3, 20, 4)
    right = np.array([softmax(row) for row in reference.tolist()])
    first, other = collected(right, right, labels), collected(outputs, reference, labels)
    assert first.confidence() is not None
    first.join(other)
    assert first.confidence() is None


@given(st.integers(1, 79), st.integers(1, 20))
def test_pieces_give_the_whole_to_the_last_digit(cut: int, batch: int) -> None:
    outputs, reference, labels = logits(3, 80, 4)
    whole = collected(outputs, reference, labels, 7, from_logits=True)
    first = collected(outputs[:cut], reference[:cut], labels[:cut], batch, from_logits=True)
    first.join(collected(outputs[cut:], reference[cut:], labels[cut:], batch, from_logits=True))
    assert first.confidence() == whole.confidence()
