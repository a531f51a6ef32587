"""What an evaluation collects: written piece by piece, read and joined, it gives what all examples at once give."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn import metrics as sklearn

from tflite_guard.datasets import Batch
from tflite_guard.engine import calibration_facts
from tflite_guard.engine.answers import Answers
from tflite_guard.engine.calibration_facts import Beside, Seen
from tflite_guard.engine.collected import Collected, Column, Kinds, Looks, joined
from tflite_guard.engine.facts import Ranges, Watch
from tflite_guard.errors import EvaluationError
from tflite_guard.manifest.types import Detection, MetricSpec
from tflite_guard.protocol import LARGEST_BATCH, Evaluation, Piece
from tflite_guard.results import Artifact
from tflite_guard.vocabulary import METRICS

N = 203
BATCH = 8
SAME = Evaluation((), Artifact(10, "0" * 64, 1), None)


def spec(metric: str, **options: Any) -> MetricSpec:
    return MetricSpec(metric, metric, **{"multi_label": False, **options})


rng = np.random.default_rng(3)


def _classes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference = rng.random((N, 5)).astype(np.float32)
    outputs = reference + rng.normal(0, 0.1, reference.shape).astype(np.float32)
    return outputs, reference, rng.integers(0, 5, N)


def _segments() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference = rng.random((N, 4, 4, 3)).astype(np.float32)
    outputs = reference + rng.normal(0, 0.2, reference.shape).astype(np.float32)
    labels = rng.integers(0, 3, (N, 4, 4))
    labels[rng.random(labels.shape) < 0.1] = 255
    return outputs, reference, labels


def _values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = rng.normal(1e3, 5, (N, 3))
    reference = (labels + rng.normal(0, 1, labels.shape)).astype(np.float32)
    return reference + rng.normal(0, 0.5, labels.shape).astype(np.float32), reference, labels


def _decided() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class numbers, whose largest no batch may know."""
    reference = rng.integers(0, 40, (N, 2))
    outputs = np.where(rng.random(reference.shape) < 0.1, 41, reference)
    return outputs, reference, rng.integers(0, 40, (N, 2))


def _labels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference = rng.random((N, 4)).astype(np.float32)
    outputs = reference + rng.normal(0, 0.1, reference.shape).astype(np.float32)
    return outputs, reference, rng.integers(0, 2, (N, 4))


def _boxes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a detector with scores and classes, and true boxes, of some examples none."""
    corners = rng.random((N, 12, 2)) * 0.7
    reference = np.concatenate([corners, corners + 0.2, rng.random((N, 12, 1)), rng.integers(0, 3, (N, 12, 1))], -1)
    labels = np.concatenate([reference[:, :3, :4], np.where(rng.random((N, 3, 1)) < 0.2, -1, reference[:, :3, 5:])], -1)
    outputs = reference + rng.normal(0, 0.02, reference.shape) * (np.arange(6) < 5)
    return outputs.astype(np.float32), reference.astype(np.float32), labels


BOXES = Detection(decode="yolo_end2end")
RANKED = [spec("roc_auc"), spec("average_precision")]
KINDS: dict[str, tuple[Any, list[MetricSpec]]] = {
    "classes": (
        _classes,
        [
            spec("accuracy"),
            spec("top_k_accuracy", k=2),
            spec("f1_macro"),
            spec("mean_iou"),
            *RANKED,
            spec("agreement"),
            spec("sqnr"),
            spec("cosine_similarity"),
            spec("max_abs_error"),
            spec("mean_abs_error"),
            spec("kl_divergence", from_logits=True),
        ],
    ),
    "segments": (_segments, [spec("mean_iou", ignore_index=255), spec("accuracy", ignore_index=255)]),
    "values": (_values, [spec("mae"), spec("rmse"), spec("r2")]),
    "decided": (_decided, [spec("mean_iou"), spec("f1_macro"), spec("accuracy")]),
    "boxes": (
        _boxes,
        [spec("mean_average_precision", detection=BOXES), spec("detection_agreement", detection=BOXES)],
    ),
    "labels": (_labels, [spec("f1_macro", multi_label=True), spec("accuracy", multi_label=True), *RANKED]),
}


def collected(
    specs: Sequence[MetricSpec], arrays: Sequence[np.ndarray], first: int, last: int, calibration: Seen | None
) -> Collected:
    """What is collected of examples from `first` to before `last`, in batches that begin at multiples of BATCH."""
    outputs, reference, labels = arrays
    images = np.random.default_rng(0).random((N, 6, 6, 1)).astype(np.float32)
    columns = [Column(one, "out", "", one.name) for one in specs]
    watch = Watch("out", [(one, "") for one in specs])
    answers = Answers(specs[0], "out", "")
    deciding = specs[0].metric in ("accuracy", "f1_macro") and not specs[0].multi_label
    ranges = Ranges()
    beside = None if calibration is None else Beside(calibration, N, first)
    kinds = Kinds()
    for start in range(first, last, BATCH):
        rows = np.arange(start, min(start + BATCH, last))
        given, wanted = {"out": outputs[rows]}, {"out": reference[rows]}
        inputs = {"image": images[rows]}
        for column in columns:
            column.add(given, wanted, {"": labels[rows]}, rows, {})
        watch.add(given["out"], wanted["out"], {"": labels[rows]}, rows)
        ranges.add(inputs)
        batch = Batch(
            inputs,
            {"": labels[rows]},
            np.array([f"g{row // 3}" for row in rows]),
            start - first,
            rows,
            {"device": rows % 3, "speaker": np.array([f"s{row // 40}" for row in rows]), "indoor": rows % 2 == 0},
        )
        kinds.add(batch)
        if deciding:
            answers.add(batch, given["out"], wanted["out"])
        if beside is not None:
            beside.add(inputs)
    seen = None if beside is None else beside.seen()
    return Collected(columns, kinds, Looks({"out": watch}, frozenset(), ranges, answers if deciding else None, seen))


def calibration() -> Seen:
    """Calibration data of which some is evaluated too, one image twice."""
    images = np.random.default_rng(0).random((N, 6, 6, 1)).astype(np.float32)
    seen = Seen()
    seen.add({"image": images[[3, 90, 90, 200]]})
    seen.add({"image": np.ones((2, 6, 6, 1), np.float32)})
    return seen


def written(parts: Sequence[Collected], counts: Sequence[int], folder: Path) -> Collected:
    paths = [str(folder / f"{number}.npz") for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        part.write(path)
    return joined(paths, counts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", [(0, 104, N), (0, 64, 128, N), (0, 8, 16, 56, 120, N)], ids=len)
def test_pieces_give_what_all_examples_give(kind: str, ends: tuple[int, ...], tmp_path: Path) -> None:
    make, specs = KINDS[kind]
    arrays = make()
    seen = calibration()
    whole = collected(specs, arrays, 0, N, seen).evaluation(SAME, specs, 5)
    bounds = list(pairwise(ends))
    parts = [collected(specs, arrays, *some, seen) for some in bounds]
    found = written(parts, [last - first for first, last in bounds], tmp_path).evaluation(SAME, specs, 5)
    assert msgspec.json.encode(found) == msgspec.json.encode(whole)
    assert all(one.measurement.value is not None for one in found.measurements)
    cut = [one.measurement.by_slice for one in found.measurements if METRICS[one.measurement.metric].mean]
    assert all(
        [(one.key, one.count) for one in slices] == [("device", 3), ("speaker", 6), ("indoor", 2)] for slices in cut
    )
    assert found.calibration is not None
    assert (found.calibration.shared, found.calibration.distinct, found.calibration.constant) == (3, 4, 2)


def test_what_is_compared_with_calibration_data_ends_at_the_same_example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = 6 * 6 * 4
    monkeypatch.setattr(calibration_facts, "MOST_BYTES", 100 * size - 1)  # so the examples from 0 to 99
    make, specs = KINDS["values"]
    arrays, seen = make(), calibration()
    whole = collected(specs, arrays, 0, N, seen).evaluation(SAME, specs, 0)
    parts = [collected(specs, arrays, *some, seen) for some in ((0, 64), (64, 152), (152, N))]
    found = written(parts, [64, 88, N - 152], tmp_path).evaluation(SAME, specs, 0)
    assert found.calibration == whole.calibration
    assert whole.calibration is not None
    assert whole.calibration.shared == 2  # example 200 lies behind


def test_the_references_r2_is_that_of_other_programs(tmp_path: Path) -> None:
    make, specs = KINDS["values"]
    outputs, reference, labels = make()
    parts = [collected(specs, (outputs, reference, labels), *some, None) for some in ((0, 64), (64, N))]
    (facts,) = written(parts, [64, N - 64], tmp_path).evaluation(SAME, specs, 0).outputs
    assert facts.r2 == pytest.approx(sklearn.r2_score(labels, reference.astype(np.float64)), abs=1e-8)


def test_labels_that_pieces_read_differently_are_told() -> None:
    (make, _) = KINDS["labels"]
    arrays = make()
    one = collected([spec("accuracy", multi_label=True)], arrays, 0, 64, None)
    other = collected([spec("accuracy")], (*arrays[:2], arrays[2][:, 0]), 64, N, None)
    with pytest.raises(EvaluationError, match='set "multi_label" on the metric'):
        one.join(other)


@pytest.mark.parametrize("examples", [1, 63, 64, 65, 897, 12_800])
@pytest.mark.parametrize("of", [1, 2, 3, 5, 16])
def test_pieces_are_all_examples_once_and_begin_with_a_batch(examples: int, of: int) -> None:
    bounds = [Piece(number, of).bounds(examples) for number in range(1, of + 1)]
    covered = [place for first, last in bounds for place in range(first, last)]
    assert covered == list(range(examples))
    assert all(first % LARGEST_BATCH == 0 for first, last in bounds if first < last)
    sizes = [last - first for first, last in bounds]
    assert max(sizes) - min(sizes) <= 2 * LARGEST_BATCH
