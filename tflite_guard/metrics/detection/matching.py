"""Which boxes are found: each example's detections against its true boxes, matched by pycocotools."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflite_guard.errors import DataError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.labels import Compared, required
from tflite_guard.vocabulary import MOST_BOXES

Array = NDArray[Any]
OVERLAPS = np.linspace(0.5, 0.95, 10)
"""COCO's: from which intersection over union on a box counts as found."""
ANSWERED = 0.25
"""From which score on a detection of the reference is an answer, where the metric does not say."""
ONE_CLASS_BEYOND = 1e6


def against_labels(batch: Compared) -> dict[str, Array]:
    """What average precision needs of both models' detections, against labelled boxes.

    `batch.outputs` and `batch.reference` are (n, m, 6) as `heads.detections` gives them. Labels are (n, k, 5) of xmin,
    ymin, xmax, ymax as fractions of the model's input and class, or (n, k, 6) with 1 for a crowd, as COCO has them;
    a class below 0 is no box. Raises DataError for others.
    """
    truth = _labelled(batch)
    return {
        "actual": _actual(truth),
        **_found("candidate", batch.spec, batch.outputs, truth),
        **_found("reference", batch.spec, batch.reference, truth),
    }


def against_reference(batch: Compared) -> dict[str, Array]:
    """The same of the variant's detections alone, against the reference's from the score `threshold` on."""
    theirs = batch.reference
    threshold = ANSWERED if batch.spec.threshold is None else batch.spec.threshold
    kept = (theirs[..., 5] >= 0) & (theirs[..., 4] >= threshold)
    truth = np.concatenate([theirs[..., :4], np.where(kept, theirs[..., 5], -1)[..., np.newaxis]], -1)
    truth = np.concatenate([truth, np.zeros_like(truth[..., :1])], -1)
    return {"actual": _actual(truth), **_found("candidate", batch.spec, batch.outputs, truth)}


def _labelled(batch: Compared) -> Array:
    labels, name = required(batch), batch.spec.name
    if labels.ndim != 3 or labels.shape[2] not in (5, 6):
        raise DataError(
            f"{name}: labels have shape {tuple(labels.shape[1:])} per example; boxes are (boxes, 5): xmin, ymin, xmax, "
            "ymax, class, with class -1 where there is none"
        )
    if labels.shape[1] > MOST_BOXES:
        raise DataError(f"{name}: labels have {labels.shape[1]:,} boxes per example, more than {MOST_BOXES:,}")
    if labels.dtype.kind not in "iuf":
        raise DataError(f"{name}: labels of boxes must be numbers, not {labels.dtype}")
    truth = labels.astype(np.float64)
    classes, real = truth[..., 4], truth[..., 4] >= 0
    wrong = real & ((classes != np.floor(classes)) | (classes > ONE_CLASS_BEYOND))
    _refuse(batch, wrong, "has a class that is no whole number")
    _refuse(batch, real & ~(truth[..., 2:4] >= truth[..., :2]).all(-1), "has a corner before its first one")
    _refuse(
        batch,
        real & (truth[..., :4].max(-1) > 2),
        "reaches far beyond the image; give boxes as fractions of the model's input, in x of its width, in y of its "
        "height",
    )
    return truth if truth.shape[2] == 6 else np.concatenate([truth, np.zeros_like(truth[..., :1])], -1)


def _refuse(batch: Compared, wrong: Array, what: str) -> None:
    if wrong.any():
        example, box = (int(place[0]) for place in np.nonzero(wrong))
        raise DataError(f"{batch.spec.name}: a label of {batch.example(example)}, box {box} (from 0), {what}")


def _actual(truth: Array) -> Array:
    """The class of each true box that has to be found, counted from 1; 0 is none. (n, boxes) int32."""
    to_find = (truth[..., 4] >= 0) & (truth[..., 5] == 0)
    classes = np.where(to_find, truth[..., 4] + 1, 0).astype(np.int32)
    return np.asarray(classes[:, : int(to_find.any(0).nonzero()[0].max(initial=-1)) + 1])


def overlaps(spec: MetricSpec) -> Array:
    """From which intersection over union on a box counts as found, float64."""
    iou = None if spec.detection is None else spec.detection.iou
    return OVERLAPS if iou is None else np.array([iou])


def _found(model: str, spec: MetricSpec, detections: Array, truth: Array) -> dict[str, Array]:
    """A model's detections (n, width): scores, classes from 1, and by bit of each overlap which have found a box.

    What lies on a crowd is neither right nor wrong, and its bits are in `…_passed`.
    """
    width = int((detections[..., 5] >= 0).sum(1).max(initial=0))
    hits, passed = (np.zeros((len(detections), width), np.uint16) for _ in range(2))
    for place, found, ignored in _matched(detections[:, :width], truth, overlaps(spec)):
        bits = (1 << np.arange(len(found), dtype=np.uint16))[:, np.newaxis]
        hits[place] = (bits * (found & ~ignored)).sum(0)
        passed[place] = (bits * ignored).sum(0)
    return {
        model: detections[:, :width, 4],
        f"{model}_class": (detections[:, :width, 5] + 1).astype(np.int32),
        f"{model}_hits": hits,
        f"{model}_passed": passed,
    }


def _matched(detections: Array, truth: Array, thresholds: Array) -> list[tuple[tuple[Array, Array], Array, Array]]:
    """By image and class: the places of detections (examples, ranks), which are matched, which are passed over.

    The last two are (thresholds, detections) bool.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    given = np.nonzero(detections[..., 5] >= 0)
    if not len(given[0]):
        return []
    real = np.nonzero(truth[..., 4] >= 0)
    classes = {int(one) for one in (*truth[real][:, 4], *detections[given][:, 5])}
    with redirect_stdout(io.StringIO()):  # it says at each step that it is at it
        wanted = COCO()
        wanted.dataset = {
            "images": [{"id": example} for example in range(len(truth))],
            "categories": [{"id": one} for one in sorted(classes)],
            # A match is the number of what is matched, so that 0 would be none.
            "annotations": [
                {**_box(example, values), "id": number, "area": 1.0, "iscrowd": int(values[5] != 0)}
                for number, (example, values) in enumerate(zip(real[0].tolist(), truth[real], strict=True), 1)
            ],
        }
        wanted.createIndex()
        offered = wanted.loadRes(
            [
                {**_box(example, values[[0, 1, 2, 3, 5]]), "score": float(values[4])}
                for example, values in zip(given[0].tolist(), detections[given].astype(np.float64), strict=True)
            ]
        )
        evaluation = COCOeval(wanted, offered, "bbox")
        evaluation.params.iouThrs = thresholds
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [detections.shape[1]]
        evaluation.evaluate()
    found = []
    for one in evaluation.evalImgs:
        if one is not None and len(one["dtIds"]):
            at = np.asarray(one["dtIds"]) - 1
            found.append(((given[0][at], given[1][at]), one["dtMatches"] > 0, one["dtIgnore"].astype(bool)))
    return found


def _box(example: int, values: Array) -> dict[str, Any]:
    xmin, ymin, xmax, ymax, label = values[:5].tolist()
    sides = [max(xmax - xmin, 0.0), max(ymax - ymin, 0.0)]
    return {"image_id": example, "category_id": int(label), "bbox": [xmin, ymin, *sides]}
