"""Detectors: their heads against TensorFlow's own suppression, average precision against COCO's packages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.coco_eval import average_precision
from tflite_guard.errors import DataError, EvaluationError
from tflite_guard.manifest.types import Detection, MetricSpec
from tflite_guard.metrics import Decoded, concatenate, looked_at, measure, per_example, statistic

EXAMPLES, CLASSES = 60, 6
NO_DETECTION, NO_BOX = [0, 0, 0, 0, 0, -1], [0, 0, 0, 0, -1, 0]


def spec(metric: str = "mean_average_precision", threshold: float | None = None, **options: Any) -> MetricSpec:
    return MetricSpec(metric, metric, output="head", threshold=threshold, detection=Detection(**options))


def detections(options: MetricSpec, **arrays: np.ndarray) -> np.ndarray:
    return looked_at(options, arrays, "head", "the variant's", range(len(next(iter(arrays.values())))), {})


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.random((count, 2)) * 0.7
    return np.concatenate([corners, corners + 0.05 + rng.random((count, 2)) * 0.25], 1)


def scenes(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True boxes (some of crowds) and what two detectors make of them: misses, doubles, ties, wrong classes."""
    rng = np.random.default_rng(seed)
    truth = np.tile(np.array(NO_BOX, np.float32), (EXAMPLES, 9, 1))
    found = np.tile(np.array(NO_DETECTION, np.float32), (2, EXAMPLES, 100, 1))
    for example in range(EXAMPLES):
        count = rng.integers(0, 9)
        own = boxes(rng, count)
        truth[example, :count, :4] = own
        truth[example, :count, 4] = rng.integers(0, CLASSES, count)
        truth[example, :count, 5] = rng.random(count) < 0.1
        for model, noise in enumerate((0.01, 0.02)):
            rows = []
            for box, label in zip(own, truth[example, :count, 4], strict=True):
                if rng.random() < 0.85:
                    other = label if rng.random() < 0.9 else rng.integers(0, CLASSES)
                    rows.append([*(box + rng.normal(0, noise, 4)), round(rng.random(), 2), other])
                if rng.random() < 0.3:
                    rows.append([*(box + rng.normal(0, 0.02, 4)), round(rng.random(), 2), label])
            rows += [
                [*box, round(rng.random() * 0.7, 2), rng.integers(0, CLASSES + 1)]
                for box in boxes(rng, rng.integers(0, 6))
            ]
            rows = [[*row[:2], *np.maximum(row[:2], row[2:4]), *row[4:]] for row in rows]
            rows.sort(key=lambda row: -row[4])
            found[model, example, : len(rows)] = np.array(rows, np.float32).reshape(-1, 6)
    return truth, found[0], found[1]


TRUTH, REFERENCE, VARIANT = scenes()


def scored(options: MetricSpec, labels: np.ndarray | None = TRUTH, size: int = 7) -> dict[str, np.ndarray]:
    stretches = [slice(start, start + size) for start in range(0, EXAMPLES, size)]
    return concatenate(
        [
            per_example(
                options, VARIANT[one], REFERENCE[one], None if labels is None else labels[one], range(EXAMPLES)[one]
            )
            for one in stretches
        ]
    )


@pytest.mark.parametrize("package", ["pycocotools", "faster-coco-eval"])
@pytest.mark.parametrize("iou", [None, 0.5, 0.75])
def test_average_precision_is_what_cocos_packages_give(package, iou):
    found = measure(spec(iou=iou), scored(spec(iou=iou)))
    reference, variant = (average_precision(package, one, TRUTH, iou) for one in (REFERENCE, VARIANT))
    assert found.reference == pytest.approx(reference, abs=1e-12)
    assert found.value == pytest.approx(variant, abs=1e-12)
    assert found.drop == pytest.approx(reference - variant, abs=1e-12)
    assert found.interval_method == "bootstrap"


@pytest.mark.parametrize("iou", [None, 0.5])
def test_a_resample_is_the_examples_as_often_as_they_were_drawn(iou):
    """But for recalls that fall between two copies of an image, which weights reach at once."""
    curves = statistic(spec(iou=iou), scored(spec(iou=iou)))
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, EXAMPLES, EXAMPLES)
        weights = np.bincount(drawn, minlength=EXAMPLES)[np.newaxis].astype(float)
        for given, models in zip(curves(weights)[0], (REFERENCE, VARIANT), strict=True):
            assert given == pytest.approx(
                average_precision("pycocotools", models, TRUTH, iou, np.sort(drawn)), abs=2e-3
            )
    whole = np.ones((3, EXAMPLES)) * [[1], [2], [5]]
    np.testing.assert_allclose(curves(whole), curves(whole[:1]).repeat(3, 0), atol=2e-3)


def test_many_resamples_are_each_what_it_is_alone():
    curves = statistic(spec(), scored(spec()))
    weights = np.random.default_rng(1).integers(0, 3, (11, EXAMPLES)).astype(float)
    np.testing.assert_allclose(
        curves(weights), np.concatenate([curves(one[np.newaxis]) for one in weights]), atol=1e-12
    )


def test_agreement_takes_the_references_answers_as_the_truth():
    found = measure(spec("detection_agreement"), scored(spec("detection_agreement"), None))
    kept = REFERENCE[..., 4] >= 0.25
    truth = np.zeros((EXAMPLES, 100, 6), np.float32)
    truth[..., :4], truth[..., 4] = REFERENCE[..., :4], np.where(kept, REFERENCE[..., 5], -1)
    assert found.value == pytest.approx(average_precision("pycocotools", VARIANT, truth), abs=1e-12)
    assert found.reference is None
    same = per_example(spec("detection_agreement"), REFERENCE, REFERENCE, None)
    assert measure(spec("detection_agreement"), same).value == 1.0
    other = measure(spec("detection_agreement", 0.6), scored(spec("detection_agreement", 0.6), None))
    truth[..., 4] = np.where(REFERENCE[..., 4] >= 0.6, REFERENCE[..., 5], -1)
    assert other.value == pytest.approx(average_precision("pycocotools", VARIANT, truth), abs=1e-12)


def test_without_a_box_to_find_there_is_no_precision():
    none = np.tile(np.array(NO_BOX, np.float32), (EXAMPLES, 2, 1))
    assert (
        measure(spec(), scored(spec(), none)).error == "no example has a box that could be found, so there is no recall"
    )
    crowds = TRUTH.copy()
    crowds[..., 5] = 1
    assert measure(spec(), scored(spec(), crowds)).value is None


def test_a_model_that_finds_nothing_has_no_precision_at_any_recall():
    nothing = np.tile(np.array(NO_DETECTION, np.float32), (EXAMPLES, 100, 1))
    found = measure(spec(), per_example(spec(), nothing, REFERENCE, TRUTH))
    assert found.value == 0.0
    assert found.reference == pytest.approx(average_precision("pycocotools", REFERENCE, TRUTH), abs=1e-12)


def test_labels_without_crowds_need_no_column_for_them():
    whole = TRUTH.copy()
    whole[..., 5] = 0
    assert measure(spec(), scored(spec(), whole)) == measure(spec(), scored(spec(), whole[..., :5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[..., :4], r"labels have shape \(9, 4\) per example; boxes are \(boxes, 5\)"),
        (lambda t: t[:, 0], r"labels have shape \(6,\)"),
        (lambda t: np.repeat(t, 1_112, axis=1), "labels have 10,008 boxes per example, more than 10,000"),
        (lambda t: np.where(np.arange(6) < 4, t * 640, t), "give boxes as fractions of the model's input"),
        (lambda t: t[..., [2, 3, 0, 1, 4, 5]], "has a corner before its first one"),
        (lambda t: t + np.where(np.arange(6) == 4, 0.5 * (t[..., 4:5] >= 0), 0), "a class that is no whole number"),
    ],
)
def test_labels_that_are_no_boxes_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        per_example(spec(), VARIANT, REFERENCE, change(TRUTH).astype(np.float32))


def heads(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, m, 4) as xmin, ymin, xmax, ymax with objectness (n, m) and scores of classes (n, m, 3)."""
    rng = np.random.default_rng(seed)
    centres = rng.random((4, 12, 2)) * 0.8 + 0.1
    near = np.repeat(centres, 5, axis=1) + rng.normal(0, 0.02, (4, 60, 2))
    sizes = 0.1 + rng.random((4, 60, 2)) * 0.15
    corners = np.concatenate([near - sizes / 2, near + sizes / 2], -1)
    scores = rng.random((4, 60, 3)) * (rng.random((4, 60, 3)) < 0.4)
    return corners.astype(np.float32), rng.random((4, 60)).astype(np.float32), scores.astype(np.float32)


def suppressed(corners: np.ndarray, scores: np.ndarray, iou: float, least: float) -> np.ndarray:
    """TensorFlow's own suppression within classes, in the form of `detections`."""
    import tensorflow as tf

    found = tf.image.combined_non_max_suppression(
        corners[:, :, np.newaxis][..., [1, 0, 3, 2]],
        scores,
        max_output_size_per_class=60,
        max_total_size=100,
        iou_threshold=iou,
        score_threshold=least,
        clip_boxes=False,
    )
    result = np.tile(np.array(NO_DETECTION, np.float32), (len(corners), 100, 1))
    for example, count in enumerate(found.valid_detections.numpy()):
        result[example, :count, :4] = found.nmsed_boxes.numpy()[example, :count][:, [1, 0, 3, 2]]
        result[example, :count, 4] = found.nmsed_scores.numpy()[example, :count]
        result[example, :count, 5] = found.nmsed_classes.numpy()[example, :count]
    return result


@pytest.mark.parametrize("iou", [0.3, 0.7])
@pytest.mark.parametrize("objectness", [False, True], ids=["v8", "v5"])
@pytest.mark.parametrize("units", ["relative", "pixels"])
@pytest.mark.parametrize("box_axis", [1, 2])
def test_a_yolo_head_is_decoded_in_each_of_its_layouts(iou, objectness, units, box_axis):
    corners, present, scores = heads()
    sides = corners[..., 2:] - corners[..., :2]
    centred = np.concatenate([corners[..., :2] + sides / 2, sides], -1)
    scale = np.array([320, 240, 320, 240]) if units == "pixels" else 1
    parts = [centred * scale, *([present[..., np.newaxis]] if objectness else []), scores]
    head = np.concatenate(parts, -1).astype(np.float32)
    head = head if box_axis == 1 else head.transpose(0, 2, 1)
    options = spec(
        decode="yolo", objectness=objectness, units=units, size=(240, 320), nms_iou=iou, score_threshold=0.05
    )
    wanted = suppressed(corners, scores * present[..., np.newaxis] if objectness else scores, iou, 0.05)
    found = detections(options, head=head)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    said = spec(**{**_told(options), "box_axis": box_axis})
    np.testing.assert_array_equal(detections(said, head=head), found)


def _told(options: MetricSpec) -> dict[str, Any]:
    import msgspec

    assert options.detection is not None
    return msgspec.structs.asdict(options.detection)


@pytest.mark.parametrize("box_format", ["yxyx", "xyxy", "xywh", "cxcywh"])
def test_listed_boxes_are_read_in_each_of_their_formats(box_format):
    corners, scores, _ = heads()
    sides = corners[..., 2:] - corners[..., :2]
    written = {
        "yxyx": corners[..., [1, 0, 3, 2]],
        "xyxy": corners,
        "xywh": np.concatenate([corners[..., :2], sides], -1),
        "cxcywh": np.concatenate([corners[..., :2] + sides / 2, sides], -1),
    }[box_format]
    labels = np.arange(60, dtype=np.float32) % 3 * np.ones((4, 1), np.float32)
    counts = np.array([[60], [7], [0], [1]], np.float32)
    options = spec(boxes="b", scores="s", classes="c", count="k", box_format=box_format)
    found = detections(options, b=written, s=scores, c=labels, k=counts)
    for example, count in enumerate((60, 7, 0, 1)):
        order = np.argsort(-scores[example, :count], kind="stable")
        np.testing.assert_allclose(found[example, :count, :4], corners[example][order], atol=1e-6)
        np.testing.assert_array_equal(found[example, :count, 4], scores[example][order])
        np.testing.assert_array_equal(found[example, :count, 5], labels[example][order])
        assert (found[example, count:] == NO_DETECTION).all()


def test_boxes_without_classes_are_of_one_and_those_without_scores_are_none():
    corners, scores, _ = heads()
    scores[:, 10:] = 0
    found = detections(spec(boxes="b", scores="s", box_format="xyxy"), b=corners, s=scores[..., np.newaxis])
    assert (found[:, :10, 5] == 0).all()
    assert (found[:, 10:, 5] == -1).all()


def test_what_a_model_has_suppressed_itself_is_taken_as_it_is():
    corners, present, _ = heads()
    head = np.concatenate([corners * 64, present[..., np.newaxis], np.full((4, 60, 1), 2)], -1).astype(np.float32)
    found = detections(spec(decode="yolo_end2end", units="pixels", size=(64, 64)), head=head)
    order = np.argsort(-present, axis=1)
    np.testing.assert_allclose(found[:, :60, :4], np.take_along_axis(corners, order[..., np.newaxis], 1), atol=1e-6)
    np.testing.assert_array_equal(found[:, :60, 4], np.take_along_axis(present, order, 1))
    assert (found[:, :60, 5] == 2).all()


def test_of_many_boxes_the_hundred_best_count():
    rng = np.random.default_rng(0)
    corners, scores = boxes(rng, 300)[np.newaxis], rng.random((1, 300))
    found = detections(spec(boxes="b", scores="s", box_format="xyxy"), b=corners, s=scores)
    np.testing.assert_array_equal(found[0, :, 4], np.sort(scores[0].astype(np.float32))[::-1][:100])


@pytest.mark.parametrize(
    ("options", "shapes", "message"),
    [
        ({"decode": "yolo"}, {"head": (2, 7)}, "a head that is decoded has two axes"),
        ({"decode": "yolo"}, {"head": (2, 9, 9)}, 'say it as "box_axis": 1 or 2'),
        ({"decode": "yolo"}, {"head": (2, 4, 90)}, "has 4 values for each of 90 boxes; a YOLO head has 4 and one for"),
        ({"decode": "yolo", "objectness": True}, {"head": (2, 90, 5)}, "a YOLO head has 5 and one for each class"),
        ({"decode": "yolo_end2end"}, {"head": (2, 90, 7)}, "has 7 values for each box; .* there are 6"),
        ({"boxes": "b", "scores": "s"}, {"b": (2, 9, 5), "s": (2, 9)}, r"'boxes' names output 'b'.* \(boxes, 4\)"),
        ({"boxes": "b", "scores": "s"}, {"b": (2, 9, 4), "s": (2, 9, 3)}, r"'scores' names output 's'.*\(9,\)"),
        (
            {"boxes": "b", "scores": "s", "count": "k"},
            {"b": (2, 9, 4), "s": (2, 9), "k": (2, 2)},
            r"'count' names output 'k'.* \(\) or \(1,\)",
        ),
    ],
)
def test_outputs_of_another_layout_are_refused(options, shapes, message):
    with pytest.raises(DataError, match=message):
        detections(spec(**options), **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})


def test_boxes_in_pixels_are_not_taken_for_fractions():
    corners, _, scores = heads()
    head = np.concatenate([corners * 64, scores], -1).astype(np.float32)
    with pytest.raises(DataError, match='if they are in pixels of the model\'s input, write "units": "pixels"'):
        detections(spec(decode="yolo"), head=head)


def test_outputs_that_are_not_finite_are_told_with_their_example():
    corners, scores, _ = heads()
    scores[2, 5] = np.nan
    with pytest.raises(
        EvaluationError, match=r"the variant's output 's' holds NaN or infinity, first in example 2 \(from 0\)"
    ):
        detections(spec(boxes="b", scores="s"), b=corners, s=scores)


def test_metrics_share_boxes_only_where_they_read_them_alike() -> None:
    rng = np.random.default_rng(0)
    heads = {whose: {"head": rng.random((3, 60, 9), np.float32)} for whose in ("the variant's", "the reference's")}
    read = Detection(decode="yolo")
    ways = [read, replace(read, iou=0.5), replace(read, nms_iou=0.1), replace(read, score_threshold=0.9)]
    ways += [replace(read, objectness=True)]
    shared: Decoded = {}
    for way in ways:
        spec = MetricSpec("m", "mean_average_precision", detection=way)
        for whose, arrays in heads.items():
            alone = looked_at(spec, arrays, "head", whose, range(3), {})
            np.testing.assert_array_equal(looked_at(spec, arrays, "head", whose, range(3), shared), alone)
    assert len(shared) == 2 * (len(ways) - 1), "what differs in `iou` alone is decoded once"
