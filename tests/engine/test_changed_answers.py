"""Decisions batch by batch against the whole arrays looked at once, by scikit-learn and by numpy."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tflite_guard.datasets import Batch, Dataset
from tflite_guard.engine import answers
from tflite_guard.engine.answers import Answers
from tflite_guard.manifest.types import DatasetSpec, MetricSpec
from tflite_guard.results import ChangedAnswer


def collected(
    outputs: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray | None,
    inputs: dict[str, np.ndarray] | None = None,
    rows: Any = None,
    batch: int = 7,
    **options: Any,
) -> Answers:
    spec = MetricSpec("accuracy", "accuracy", **options)
    rows = range(len(outputs)) if rows is None else rows
    answers = Answers(spec, "out", None if labels is None else "")
    for start in range(0, len(outputs), batch):
        part = slice(start, start + batch)
        given = {name: values[part] for name, values in (inputs or {"x": np.zeros((len(outputs), 3))}).items()}
        answers.add(
            Batch(given, {} if labels is None else {"": labels[part]}, None, start, rows[part]),
            outputs[part],
            reference[part],
        )
    return answers


def scores(seed: int, count: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    reference = generator.random((count, classes), np.float32)
    return reference + generator.normal(0, 0.2, reference.shape), reference, generator.integers(0, classes, count)


@given(st.integers(0, 10_000), st.integers(1, 80), st.booleans())
def test_changed_answers_are_the_worst_of_all_in_any_batches(seed: int, count: int, labelled: bool) -> None:
    outputs, reference, labels = scores(seed, count, 4)
    rows = np.sort(np.random.default_rng(seed).choice(1000, count, replace=False))
    found = collected(outputs, reference, labels if labelled else None, rows=rows, batch=1 + seed % 9).changed()
    assert found is not None
    theirs, ours = reference.argmax(1), outputs.argmax(1)
    changed = np.flatnonzero(theirs != ours)
    margin = {at: float(reference[at, theirs[at]]) - float(reference[at, ours[at]]) for at in changed.tolist()}
    right = {at: labelled and bool(labels[at] == theirs[at]) for at in margin}
    order = sorted(margin, key=lambda at: (not right[at], -margin[at]))
    assert (found.examples, found.changed) == (count, len(changed))
    assert [one.example for one in found.worst] == [int(rows[at]) for at in order[:20]]
    assert [one.reference_margin for one in found.worst] == pytest.approx([margin[at] for at in order[:20]])
    assert all(one.variant_margin is not None and one.variant_margin > 0 for one in found.worst)
    if labelled:
        assert found.lost == sum(right.values())
        assert found.gained == ((ours == labels) & (theirs != ours)).sum()
    else:
        assert (found.lost, found.gained) == (None, None)


def test_a_single_unit_is_as_sure_as_it_is_far_from_the_threshold() -> None:
    reference, outputs = np.array([[0.9], [0.2], [0.75]]), np.array([[0.4], [0.1], [0.5]])
    answers = collected(outputs, reference, np.array([1, 0, 0]))
    found = answers.changed()
    assert found is not None
    assert found.worst == (
        ChangedAnswer(0, 1, 1, 0, pytest.approx(0.4), pytest.approx(0.1)),
        ChangedAnswer(2, 0, 1, 0, 0.25, 0.0),
    )
    assert (found.lost, found.gained) == (1, 1)


def test_changed_answers_have_their_files_unless_examples_are_not_to_be_shown() -> None:
    reference, outputs = np.array([[0.9], [0.2]]), np.array([[0.4], [0.1]])
    for shown, file in ((True, "cat/5.png"), (False, None)):
        answers = Answers(MetricSpec("accuracy", "accuracy"), "out", None, pictures=shown)
        answers.add(
            Batch({"x": np.zeros((2, 3))}, {}, None, 0, [5, 7]), outputs, reference, lambda row: f"cat/{row}.png"
        )
        found = answers.changed()
        assert found is not None
        assert [(one.example, one.file) for one in found.worst] == [(5, file)]


def test_decisions_without_scores_have_no_margin() -> None:
    found = collected(np.array([3, 1]), np.array([2, 1]), np.array([2, 1])).changed()
    assert found is not None
    assert found.worst == (ChangedAnswer(0, 2, 2, 3, None, None),)


def test_examples_without_a_label_come_last() -> None:
    reference = np.eye(2)[[0, 0]] * [[9.0], [1.0]]
    answers = collected(np.eye(2)[[1, 1]], reference, np.array([255, 0]), ignore_index=255)
    changed = answers.changed()
    assert changed is not None
    assert [(one.example, one.label) for one in changed.worst] == [(1, 0), (0, None)]


def test_several_decisions_an_example_have_no_answer() -> None:
    answers = collected(np.zeros((9, 4, 2)), np.zeros((9, 4, 2)), np.zeros((9, 4), np.int64))
    assert answers.changed() is None


@pytest.mark.parametrize(
    ("metrics", "decides"),
    [
        ([("sqnr", {}), ("f1_macro", {}), ("accuracy", {})], "f1_macro"),
        ([("agreement", {}), ("accuracy", {})], "accuracy"),
        ([("accuracy", {"multi_label": True}), ("agreement", {})], "agreement"),
        ([("mae", {}), ("sqnr", {})], None),
    ],
)
def test_the_first_metric_with_labels_of_classes_decides(metrics: list[Any], decides: str | None) -> None:
    columns = [(MetricSpec(name, name, **options), "out", "") for name, options in metrics]
    data = Dataset(DatasetSpec("test", "npz", None, "x", pictures=False), {}, {}, {}, Empty(), range(3))
    found = Answers.first(columns, data)
    assert (None if found is None else found.spec.name) == decides
    assert found is None or (found.labels is None, found.pictures) == (decides == "agreement", False)


class Empty:
    """A source that is never read."""

    examples = 3

    def read(self, keys: Any, rows: Any, size: int) -> Any:
        raise AssertionError


# Pictures


def pictures(images: np.ndarray, **others: np.ndarray) -> list[np.ndarray | None]:
    """What is seen of examples that have all changed their answer."""
    count = len(images)
    found = collected(np.eye(2)[[1] * count], np.eye(2)[[0] * count], None, {"image": images, **others}).changed()
    assert found is not None
    read = {one.example: one.picture for one in found.worst}
    return [_read(read[at]) for at in sorted(read)]


def _read(picture: str | None) -> np.ndarray | None:
    return None if picture is None else np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def test_an_image_is_scaled_from_its_own_darkest_to_its_brightest() -> None:
    (grey,) = pictures(np.array([[[[-1.0], [0.0]], [[1.0], [3.0]]]], np.float32))
    assert grey is not None
    assert grey.tolist() == [[0, 64], [128, 255]]
    (colour,) = pictures(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3))
    assert colour is not None
    assert colour.shape == (2, 2, 3)
    assert (colour.min(), colour.max()) == (0, 255)
    (flat,) = pictures(np.full((1, 4, 4, 1), 7.0, np.float32))
    assert flat is not None
    assert not flat.any()


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(224, 224, (64, 64)), (300, 10, (64, 2)), (8, 65, (7, 64)), (1, 500, (1, 64))]
)
def test_a_large_image_is_made_small_by_means(height: int, width: int, shown: tuple[int, int]) -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32)[None, None, :, None], (1, height, width, 1))
    (found,) = pictures(ramp.copy())
    assert found is not None
    assert found.shape == shown
    expected = np.array(
        [part.mean() for part in np.split(ramp[0, 0, :, 0], np.arange(1, shown[1]) * width // shown[1])]
    )
    expected = (expected - expected.min()) / (expected.max() - expected.min()) * 255
    assert np.abs(found[0] - expected).max() <= 0.51


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8)),
        np.zeros((2, 8, 8, 2)),
        np.zeros((2, 8, 8, 1), np.int32),
        np.zeros((2, 3, 8, 8, 1)),
        np.zeros((2, 0, 8, 1)),
    ],
)
def test_what_is_no_image_has_no_picture(images: np.ndarray) -> None:
    assert pictures(images) == [None, None]


def test_of_several_inputs_none_is_the_picture() -> None:
    assert pictures(np.zeros((2, 8, 8, 1)), other=np.zeros((2, 1))) == [None, None]


def test_twelve_have_a_picture() -> None:
    found = pictures(np.zeros((40, 8, 8, 1)))
    assert [one is not None for one in found] == [True] * 12 + [False] * 8


@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 12), st.integers(0, 80))
def test_mistakes_are_the_first_of_all_in_any_batches_and_pieces(seed: int, count: int, most: int, cut: int) -> None:
    outputs, reference, labels = scores(seed, count, 4)
    rows = np.sort(np.random.default_rng(seed).choice(1000, count, replace=False))
    ends = min(cut, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "MOST_WRONG", most)
        parts = [
            collected(outputs[part], reference[part], labels[part], rows=rows[part], batch=1 + seed % 9)
            for part in (slice(0, ends), slice(ends, count))
        ]
        parts[0].join(parts[1])
        found = parts[0].mistakes()
    assert found is not None
    wrong = [at for at in range(count) if outputs[at].argmax() != labels[at]]
    kept = wrong[:most]
    assert [one.example for one in found.every] == [int(rows[at]) for at in kept]
    assert (found.examples, found.of) == (kept[-1] + 1 if len(kept) == most else count, count)
    for one, at in zip(found.every, kept, strict=True):
        assert (one.label, one.variant, one.reference) == (labels[at], outputs[at].argmax(), reference[at].argmax())
        assert one.margin == pytest.approx(outputs[at].max() - outputs[at][labels[at]])
