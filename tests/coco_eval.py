"""COCO's average precision by its own packages, of detections and true boxes as plain arrays."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np


def _records(detections: np.ndarray, truth: np.ndarray, images: np.ndarray) -> tuple[dict[str, Any], list[Any]]:
    """The two files that the packages read; `images` are the examples, some perhaps several times."""
    annotations, results = [], []
    for image, example in enumerate(images, 1):
        for xmin, ymin, xmax, ymax, label, crowd in truth[example].astype(float):
            if label >= 0:
                box = [xmin, ymin, xmax - xmin, ymax - ymin]
                common = {"image_id": image, "category_id": int(label) + 1, "bbox": box}
                number = len(annotations) + 1
                annotations.append({**common, "id": number, "area": box[2] * box[3], "iscrowd": int(crowd)})
        for xmin, ymin, xmax, ymax, score, label in detections[example].astype(float):
            if label >= 0:
                box = [xmin, ymin, xmax - xmin, ymax - ymin]
                results.append({"image_id": image, "category_id": int(label) + 1, "bbox": box, "score": score})
    classes = range(1, int(max(truth[..., 4].max(), detections[..., 5].max())) + 2)
    dataset = {
        "info": {},
        "images": [{"id": image + 1} for image in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": one, "name": str(one)} for one in classes],
    }
    return dataset, results


def average_precision(
    package: str,
    detections: np.ndarray,
    truth: np.ndarray,
    iou: float | None = None,
    images: np.ndarray | None = None,
) -> float:
    """AP of detections (n, m, 6: corners, score, class) against true boxes (n, k, 6: corners, class, crowd)."""
    dataset, results = _records(detections, truth, np.arange(len(truth)) if images is None else images)
    with contextlib.redirect_stdout(io.StringIO()):
        if package == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            wanted = COCO()
            wanted.dataset = dataset
            wanted.createIndex()
            evaluation = COCOeval(wanted, wanted.loadRes(results), "bbox")
        else:
            from faster_coco_eval import COCO, COCOeval_faster

            wanted = COCO(dataset)
            evaluation = COCOeval_faster(wanted, wanted.loadRes(results), "bbox")
        if iou is not None:
            evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return float(precision[precision > -1].mean())
