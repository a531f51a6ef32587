"""Detectors, from manifest to report: numbers against COCO's own package on outputs of a plain loop, and the cause."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.coco_eval import average_precision
from tests.conftest import EXAMPLES, Finished, Run, manifest_of, run_cli, write_manifest
from tests.plain_loop import real_outputs

SIDE = 160
DETECTOR = EXAMPLES / "detector"


@pytest.fixture(scope="module")
def checked(shared_cache: Path) -> Finished:
    return run_cli("check", DETECTOR, "--format", "json", "--cache-dir", shared_cache, timeout=600)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    files = sorted((DETECTOR / "data/evaluation/images").iterdir())
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]).astype(np.float32) / 255


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    annotated = json.loads((DETECTOR / "data/evaluation/annotations.json").read_text())
    rows = np.tile(np.array([0, 0, 0, 0, -1, 0], float), (len(annotated["images"]), 10, 1))
    for one in annotated["annotations"]:
        x, y, width, height = one["bbox"]
        free = np.flatnonzero(rows[one["image_id"], :, 4] < 0)[0]
        rows[one["image_id"], free] = [x, y, x + width, y + height, one["category_id"] - 1, 0]
    return rows


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return float(common / (both - common))


def detected(heads: np.ndarray) -> np.ndarray:
    """A head's detections in pixels, box by box; of equal scores those of the first box come first."""
    rows = np.tile(np.array([0, 0, 0, 0, 0, -1], float), (len(heads), 100, 1))
    for found, head in zip(rows, heads, strict=True):
        pairs = [(-score, place, label) for place, box in enumerate(head) for label, score in enumerate(box[4:])]
        kept: list[tuple[np.ndarray, int]] = []
        for score, place, label in sorted(pair for pair in pairs if pair[0] < -0.001):
            x, y, width, height = head[place, :4].astype(float)
            box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            if len(kept) < 100 and all(other != label or overlap(box, one) <= 0.7 for one, other in kept):
                found[len(kept)] = [*box, -score, label]
                kept.append((box, label))
    return rows


@pytest.mark.parametrize("variant", ["dynamic_range", "int8"])
def test_every_figure_is_cocos_on_the_outputs_of_a_plain_loop(
    checked: Finished, run: Run, variant: str, images: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "model.tflite"
    assert run("convert", "detector", variant, "-o", file, "--manifest", DETECTOR / "tflite-guard.json").code == 0
    reference = detected(keras.models.load_model(DETECTOR / "model.keras").predict(images, verbose=0))
    found = detected(real_outputs(file, images))
    for name, iou in (("mAP", None), ("AP50", 0.5)):
        metric = checked.metric(variant, name)
        assert metric["value"] == pytest.approx(average_precision("pycocotools", found, truth, iou), abs=1e-4)
        assert metric["reference"] == pytest.approx(average_precision("pycocotools", reference, truth, iou), abs=1e-4)
    answers = np.concatenate([reference[..., :4], reference[..., 5:], np.zeros_like(reference[..., :1])], -1)
    answers[..., 4][reference[..., 4] < 0.25] = -1
    agreement = checked.metric(variant, "detection_agreement")
    assert agreement["value"] == pytest.approx(average_precision("pycocotools", found, answers), abs=1e-4)
    assert agreement["drop"] is None


def test_boxes_and_scores_that_share_a_scale_are_the_cause_and_the_fix_holds(
    checked: Finished, run: Run, shared_cache: Path, tmp_path: Path
) -> None:
    (_, int8) = checked.report["models"][0]["variants"]
    assert checked.code == 1
    finding = next(one for one in int8["findings"] if one["primary"])
    assert finding["rule"] == "concat-range-mismatch"
    assert "share one scale" in finding["message"]
    assert finding["experiment"]["recovered"] > 0.8
    remedy = next(one for one in int8["remedies"] if one["verified"])
    folder = tmp_path / "detector"
    shutil.copytree(DETECTOR, folder)
    manifest = manifest_of(folder)
    manifest["models"][0]["variants"] = [{"name": "int8", "quantization": "int8", **remedy["patch"]}]
    write_manifest(folder, manifest)
    mended = run("check", folder, "--format", "json", "--cache-dir", shared_cache)
    assert mended.code == 0, mended.err
    before, after = checked.metric("int8", "mAP"), mended.metric("int8", "mAP")
    assert after["drop"] < before["drop"] / 2


ANCHORS = np.stack([*np.meshgrid(np.linspace(0.2, 0.8, 4), np.linspace(0.2, 0.8, 4)), np.full((4, 4), 0.3)] * 2, -1)
POST_PROCESSING = """
name: "TFLite_Detection_PostProcess"
attr { key: "max_detections" value { i: 10 } }
attr { key: "max_classes_per_detection" value { i: 1 } }
attr { key: "detections_per_class" value { i: 10 } }
attr { key: "use_regular_nms" value { b: true } }
attr { key: "nms_score_threshold" value { f: 0.01 } }
attr { key: "nms_iou_threshold" value { f: 0.6 } }
attr { key: "num_classes" value { i: 3 } }
attr { key: "y_scale" value { f: 10.0 } }
attr { key: "x_scale" value { f: 10.0 } }
attr { key: "h_scale" value { f: 5.0 } }
attr { key: "w_scale" value { f: 5.0 } }
"""


def post_processed(quantized: bool) -> bytes:
    """A detector of random weights that ends in TensorFlow Lite's detection post-processing."""
    rng = np.random.default_rng(0)
    first, boxes, scores = (rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((8, 8, 3, 8), (8, 4), (8, 4)))
    anchors = ANCHORS.reshape(16, -1)[:, [0, 1, 2, 2]].astype(np.float32)

    @tf.function(experimental_implements=POST_PROCESSING.replace("\n", " ").strip())
    def listed(boxes: Any, scores: Any, anchors: Any) -> Any:
        return tf.zeros((1, 10, 4)), tf.zeros((1, 10)), tf.zeros((1, 10)), tf.zeros((1,))

    @tf.function
    def serve(image: Any) -> Any:
        seen = tf.reshape(tf.nn.relu(tf.nn.conv2d(image, first, 8, "VALID")), (1, 16, 8))
        found = listed(seen @ boxes, tf.sigmoid(seen @ scores), tf.constant(anchors))
        return dict(zip(("boxes", "classes", "scores", "count"), found, strict=True))

    concrete = serve.get_concrete_function(tf.TensorSpec((1, 32, 32, 3), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    converter.allow_custom_ops = True
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([rng.random((1, 32, 32, 3)).astype(np.float32)] for _ in range(20))
    return bytes(converter.convert())


def listed_by_a_plain_loop(file: Path, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file)).get_signature_runner()
    rows = []
    for image in images:
        found = runner(image=image[np.newaxis])
        labels = np.where(np.arange(10) < found["count"], found["classes"][0], -1)
        boxes = found["boxes"][0][:, [1, 0, 3, 2]]
        rows.append(np.concatenate([boxes, found["scores"][0][:, np.newaxis], labels[:, np.newaxis]], -1))
    return np.array(rows)


def test_post_processed_boxes_are_judged_from_a_tflite_with_arrays_as_labels(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = rng.random((40, 32, 32, 3)).astype(np.float32)
    files = [tmp_path / "float.tflite", tmp_path / "int8.tflite"]
    for file, quantized in zip(files, (False, True), strict=True):
        file.write_bytes(post_processed(quantized))
    reference, found = (listed_by_a_plain_loop(file, images) for file in files)
    # Some of what the reference finds, a little off.
    labels = np.concatenate([reference[:, ::2, :4], reference[:, ::2, 5:]], -1)
    labels[..., :4] = np.clip(labels[..., :4] + rng.normal(0, 0.02, labels[..., :4].shape), 0, 1)
    np.savez(tmp_path / "data.npz", image=images, box=labels.astype(np.float32))
    boxes = {
        "metric": "mean_average_precision",
        "boxes": "boxes",
        "scores": "scores",
        "classes": "#1",
        "count": "count",
    }
    data = {"source": "npz", "path": "data.npz", "inputs": "image", "labels": "box"}
    model = {
        "name": "ssd",
        "reference": {"tflite": "float.tflite"},
        "evaluation": "data",
        "metrics": [{**boxes, "name": "mAP"}, {**boxes, "metric": "detection_agreement", "threshold": 0.3}],
        "variants": [{"name": "shipped", "tflite": "int8.tflite"}],
    }
    write_manifest(tmp_path, {"schema_version": 1, "datasets": {"data": data}, "models": [model]})
    checked = run("check", tmp_path, "--format", "json", "--diagnose", "never")
    assert checked.code == 0, checked.err
    truth = np.concatenate([labels, np.zeros_like(labels[..., :1])], -1).astype(np.float32)
    metric = checked.metric("shipped", "mAP")
    assert metric["value"] == pytest.approx(average_precision("pycocotools", found, truth), abs=1e-6)
    assert metric["reference"] == pytest.approx(average_precision("pycocotools", reference, truth), abs=1e-6)
    answers = np.concatenate([reference[..., :4], reference[..., 5:], np.zeros_like(reference[..., :1])], -1)
    answers[..., 4][reference[..., 4] < 0.3] = -1
    agreement = checked.metric("shipped", "detection_agreement")["value"]
    assert agreement == pytest.approx(average_precision("pycocotools", found, answers), abs=1e-6)
    assert 0 < agreement < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": "bxoes"}, "'boxes': the model has no output 'bxoes'; did you mean 'boxes'? Its outputs are 'boxes'"),
        ({"count": "boxes"}, "'count' names output 'boxes'"),
    ],
)
def test_outputs_that_hold_no_boxes_are_told(run: Run, tmp_path: Path, change: Any, message: str) -> None:
    (tmp_path / "float.tflite").write_bytes(post_processed(False))
    np.savez(tmp_path / "data.npz", image=np.zeros((2, 32, 32, 3), np.float32), box=np.zeros((2, 1, 5), np.float32))
    boxes = {"metric": "mean_average_precision", "boxes": "boxes", "scores": "scores", "count": "count", **change}
    model = {
        "name": "ssd",
        "reference": {"tflite": "float.tflite"},
        "evaluation": "data",
        "metrics": [boxes],
        "variants": [{"name": "same", "tflite": "float.tflite"}],
    }
    data = {"source": "npz", "path": "data.npz", "inputs": "image", "labels": "box"}
    write_manifest(tmp_path, {"schema_version": 1, "datasets": {"data": data}, "models": [model]})
    finished = run("check", tmp_path)
    assert message in " ".join((finished.out + finished.err).split())
    assert finished.code == (2 if "no output" in message else 3)


@pytest.mark.parametrize(("examples", "verdict"), [(20, "warn"), (19, "pass")])
def test_a_detector_that_finds_nothing_is_suspect_and_no_pass(
    run: Run, tmp_path: Path, examples: int, verdict: str
) -> None:
    (tmp_path / "float.tflite").write_bytes(post_processed(False))
    labels = np.tile(np.array([0.1, 0.1, 0.4, 0.4, 77], np.float32), (examples, 1, 1))
    images = np.random.default_rng(0).random((examples, 32, 32, 3), np.float32)
    np.savez(tmp_path / "data.npz", image=images, box=labels)
    model = {
        "name": "ssd",
        "reference": {"tflite": "float.tflite"},
        "evaluation": "data",
        "metrics": [{"metric": "mean_average_precision", "boxes": "boxes", "scores": "scores", "classes": "classes"}],
        "tolerances": {"mean_average_precision": {"max_drop": 0.01}},
        "variants": [{"name": "same", "tflite": "float.tflite"}],
    }
    data = {"source": "npz", "path": "data.npz", "inputs": "image", "labels": "box"}
    write_manifest(tmp_path, {"schema_version": 1, "datasets": {"data": data}, "models": [model]})
    finished = run("check", tmp_path, "--format", "json", "--diagnose", "never")
    assert finished.metric("same", "mean_average_precision")["drop"] == 0
    assert finished.report["verdict"] == verdict, finished.out
    found = [one["rule"] for one in finished.model("ssd")["findings"]]
    assert found == (["reference-suspect"] if verdict == "warn" else [])
