"""What a detector gives, in any of its layouts, as boxes with scores and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.errors import DataError
from tflite_guard.manifest.types import Detection, MetricSpec

Array = NDArray[Any]
Read = tuple[Array, Array, Array | None]
"""Boxes (n, m, 4), scores (n, m) and classes (n, m); without classes scores are (n, m, classes)."""
MOST = 100
"""Boxes of an example that count, those with the largest scores: as COCO's evaluation has it."""
MOST_CANDIDATES = 30_000
"""Boxes of an example that non-maximum suppression looks at, those with the largest scores."""
BEYOND = 2.0
"""Boxes as fractions of the image reach a little beyond it; what reaches this far is in pixels."""


def outputs_of(options: Detection, output: str) -> tuple[str, ...]:
    """The names of the outputs that hold the boxes; `output` is the head where one is decoded."""
    named = (options.boxes, options.scores, options.classes, options.count)
    return (output,) if options.decode is not None else tuple(one for one in named if one is not None)


def detections(spec: MetricSpec, arrays: Mapping[str, Array], output: str) -> Array:
    """The boxes of each example, best first: float32 (n, MOST, 6) of xmin, ymin, xmax, ymax, score, class.

    Coordinates are fractions of the model's input; what is no box has class -1 and zeros. `arrays` are a model's
    outputs by name, (n, …) each. Raises DataError where they do not have the layout that `spec` says.
    """
    options = spec.detection
    assert options is not None
    boxes, scores, classes = _read(spec, options, arrays, output)
    _require_units(spec, options, boxes, scores)
    if options.units == "pixels":
        assert options.size is not None
        height, width = options.size
        boxes = boxes / np.array([width, height, width, height], np.float32)
    found = np.zeros((len(boxes), MOST, 6), np.float32)
    found[..., 5] = -1
    for at, example in enumerate(found):
        _fill(example, boxes[at], scores[at], None if classes is None else classes[at], options)
    return found


def _read(spec: MetricSpec, options: Detection, arrays: Mapping[str, Array], output: str) -> Read:
    if options.decode is None:
        return _listed(spec, options, arrays)
    head = arrays[output]
    if head.ndim != 3:
        raise DataError(
            f"{spec.name}: output {output!r} has shape {list(head.shape[1:])} per example; a head that is decoded has "
            "two axes, of boxes and of their values"
        )
    return (_end_to_end if options.decode == "yolo_end2end" else _yolo)(spec, options, head.astype(np.float32))


def _fill(example: Array, boxes: Array, scores: Array, classes: Array | None, options: Detection) -> None:
    """The best boxes of one example; without `classes` scores are (boxes, classes), and each pair is a candidate."""
    places, labels = (
        np.nonzero(scores > options.score_threshold) if classes is None else _kept(scores, classes, options)
    )
    values = scores[places, labels] if classes is None else scores[places]
    order = np.argsort(-values, kind="stable")[:MOST_CANDIDATES]
    places, labels, values = places[order], labels[order], values[order]
    if classes is None:
        best = _suppressed(boxes[places], labels, options.nms_iou)
        places, labels, values = places[best], labels[best], values[best]
    count = min(MOST, len(places))
    example[:count, :4] = boxes[places[:count]]
    example[:count, 4] = values[:count]
    example[:count, 5] = labels[:count]


def _kept(scores: Array, classes: Array, options: Detection) -> tuple[Array, Array]:
    places = np.flatnonzero(scores > options.score_threshold)
    return places, np.rint(classes[places])


def _suppressed(boxes: Array, classes: Array, most_overlap: float) -> list[int]:
    """Greedy non-maximum suppression within each class: places of the best boxes, which come in falling order."""
    best: list[int] = []
    left = np.arange(len(boxes))
    while len(left) and len(best) < MOST:
        first, left = left[0], left[1:]
        best.append(int(first))
        rival = (classes[left] == classes[first]) & (_overlap(boxes[first], boxes[left]) > most_overlap)
        left = left[~rival]
    return best


def _overlap(box: Array, others: Array) -> Array:
    """Intersection over union of a box with each of others, (m,); 0 where both are empty."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.maximum(sides, 0).prod(1)
    own, theirs = (np.maximum(one[..., 2:] - one[..., :2], 0).prod(-1) for one in (box, others))
    union = own + theirs - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _listed(spec: MetricSpec, options: Detection, arrays: Mapping[str, Array]) -> Read:
    """Boxes (n, m, 4), scores (n, m) and classes (n, m), as outputs list them."""
    assert options.boxes is not None
    assert options.scores is not None
    boxes = arrays[options.boxes].astype(np.float32)
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise _layout(spec, "boxes", options.boxes, boxes, "(boxes, 4)")
    shape = boxes.shape[:2]
    scores = _column(spec, "scores", options.scores, arrays, shape)
    labels = None if options.classes is None else _column(spec, "classes", options.classes, arrays, shape)
    if options.count is not None:
        counts = arrays[options.count]
        if counts.size != shape[0]:
            raise _layout(spec, "count", options.count, counts, "() or (1,)")
        scores = np.where(np.arange(shape[1]) < np.rint(counts.reshape(-1, 1)), scores, -np.inf)
    return _corners(boxes, options.box_format), scores, np.zeros(shape, np.float32) if labels is None else labels


def _column(spec: MetricSpec, role: str, output: str, arrays: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    values = arrays[output]
    if values.size != shape[0] * shape[1] or values.ndim not in (2, 3):
        raise _layout(spec, role, output, values, f"({shape[1]},), one for each of the boxes")
    return values.reshape(shape).astype(np.float32)


def _layout(spec: MetricSpec, role: str, output: str, values: Array, wanted: str) -> DataError:
    return DataError(
        f"{spec.name}: {role!r} names output {output!r}, which has shape {tuple(values.shape[1:])} per example; it "
        f"must have {wanted}"
    )


def _yolo(spec: MetricSpec, options: Detection, head: Array) -> Read:
    """Boxes (n, m, 4) and scores (n, m, classes) of a YOLO head: centre and size, with v5 to v7 objectness, classes."""
    axis = options.box_axis
    if axis is None:
        if head.shape[1] == head.shape[2]:
            raise DataError(
                f"{spec.name}: the output has {head.shape[1]} by {head.shape[2]} values, so that nothing tells which "
                'axis counts the boxes; say it as "box_axis": 1 or 2'
            )
        axis = 1 if head.shape[1] > head.shape[2] else 2
    values = head if axis == 1 else head.transpose(0, 2, 1)
    first = 5 if options.objectness else 4
    if values.shape[2] <= first:
        raise DataError(
            f"{spec.name}: the output has {values.shape[2]} values for each of {values.shape[1]} boxes; a YOLO head "
            f"has {first} and one for each class"
        )
    scores = values[..., first:] * values[..., 4:5] if options.objectness else values[..., first:]
    return _corners(values[..., :4], "cxcywh"), scores, None


def _end_to_end(spec: MetricSpec, _options: Detection, head: Array) -> Read:
    """Boxes, scores and classes of a head that has gone through suppression: (n, m, 6) of corners, score, class."""
    if head.shape[2] != 6:
        raise DataError(
            f"{spec.name}: the output has {head.shape[2]} values for each box; after suppression in the model there "
            "are 6 (two corners, score, class)"
        )
    return head[..., :4], head[..., 4], head[..., 5]


def _corners(boxes: Array, box_format: str) -> Array:
    """Boxes (…, 4) as xmin, ymin, xmax, ymax."""
    if box_format == "yxyx":
        return boxes[..., [1, 0, 3, 2]]
    first, size = boxes[..., :2], boxes[..., 2:]
    if box_format == "xywh":
        return np.concatenate([first, first + size], -1)
    if box_format == "cxcywh":
        return np.concatenate([first - size / 2, first + size / 2], -1)
    return boxes


def _require_units(spec: MetricSpec, options: Detection, boxes: Array, scores: Array) -> None:
    """Raise DataError where boxes that should be fractions of the image are in pixels."""
    if options.units != "relative":
        return
    best = scores if scores.ndim == 2 else scores.max(-1)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    far = np.where(best[..., np.newaxis] > options.score_threshold, centres, 0).max(initial=0)
    if far > BEYOND:
        raise DataError(
            f"{spec.name}: boxes have centres up to {far:.6g}, but they are to be fractions of the image; if they are "
            'in pixels of the model\'s input, write "units": "pixels"'
        )
