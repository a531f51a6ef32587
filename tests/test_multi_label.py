"""Labels of which several may apply, told from one-hot ones by what labels and outputs are like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from tests.conftest import Finished, Run, write_manifest
from tests.plain_loop import raw_outputs

EXAMPLES, UNITS = 300, 5
METRICS = ("accuracy", "f1_macro", "agreement")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of the same weights, `sigmoid.tflite` and `softmax.tflite`, and their inputs."""
    import keras
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("multi-label")
    rng = np.random.default_rng(11)
    kernel = rng.normal(size=(8, UNITS)).astype(np.float32)
    for activation in ("sigmoid", "softmax"):
        x = keras.Input((8,), name="x")
        model = keras.Model(x, keras.layers.Dense(UNITS, activation, name="tags")(x))
        model.set_weights([kernel, np.zeros(UNITS, np.float32)])
        converted = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        (folder / f"{activation}.tflite").write_bytes(converted)
    np.save(folder / "x.npy", rng.normal(size=(EXAMPLES, 8)).astype(np.float32))
    return folder


@pytest.fixture
def labels(models: Path) -> np.ndarray:
    """Tags that are often right; each of the first hundred examples has exactly one, as in a sorted file."""
    outputs = probabilities(models, "sigmoid")
    tags = (outputs + np.random.default_rng(2).normal(size=outputs.shape) * 0.3 > 0.5).astype(np.int64)
    tags[:100] = np.eye(UNITS, dtype=np.int64)[outputs[:100].argmax(1)]
    return tags


def probabilities(models: Path, activation: str) -> np.ndarray:
    return raw_outputs(models / f"{activation}.tflite", np.load(models / "x.npy"))


def judged(run: Run, models: Path, activation: str, labels: np.ndarray, *metrics: Any) -> Finished:
    np.savez(models / "data.npz", x=np.load(models / "x.npy"), tags=labels)
    file = {"tflite": f"{activation}.tflite"}
    model = {"name": "m", "reference": file, "evaluation": "d", "variants": [{"name": "shipped", **file}]}
    manifest = {
        "schema_version": 1,
        "datasets": {"d": {"source": "npz", "path": "data.npz", "inputs": "x", "labels": "tags"}},
        "models": [{**model, "metrics": list(metrics) or list(METRICS)}],
    }
    return run("check", write_manifest(models, manifest), "--format", "json")


def test_tags_are_judged_unit_by_unit_where_nobody_says_so(run: Run, models: Path, labels: np.ndarray) -> None:
    decided = probabilities(models, "sigmoid") > 0.5
    expected = {
        "accuracy": 1 - sk.hamming_loss(labels, decided),
        "f1_macro": sk.f1_score(labels, decided, average="macro"),
        "agreement": 1.0,
    }
    for given in (labels, labels.astype(np.float32), labels.astype(bool)):
        finished = judged(run, models, "sigmoid", given)
        assert finished.code == 0, finished.out + finished.err
        assert {name: finished.metric("shipped", name)["value"] for name in METRICS} == pytest.approx(expected)
        assert [one["rule"] for one in finished.model("m")["findings"]] == ["multi-label"]


def test_what_is_said_is_not_told_again(run: Run, models: Path, labels: np.ndarray) -> None:
    finished = judged(run, models, "sigmoid", labels, {"metric": "accuracy", "multi_label": True})
    decided = probabilities(models, "sigmoid") > 0.5
    assert finished.metric("shipped", "accuracy")["value"] == pytest.approx(1 - sk.hamming_loss(labels, decided))
    assert finished.model("m")["findings"] == []


def test_a_threshold_is_that_of_each_unit(run: Run, models: Path, labels: np.ndarray) -> None:
    finished = judged(run, models, "sigmoid", labels, {"metric": "f1_macro", "threshold": 0.3})
    expected = sk.f1_score(labels, probabilities(models, "sigmoid") > 0.3, average="macro")
    assert finished.metric("shipped", "f1_macro")["value"] == pytest.approx(expected)


def test_one_hot_labels_are_classes_beside_sigmoids_too(run: Run, models: Path, labels: np.ndarray) -> None:
    classes = labels.argmax(1)
    finished = judged(run, models, "sigmoid", np.eye(UNITS, dtype=np.int64)[classes])
    expected = sk.accuracy_score(classes, probabilities(models, "sigmoid").argmax(1))
    assert finished.metric("shipped", "accuracy")["value"] == expected


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_bad_one_hot_label_is_an_error_where_classes_exclude_each_other(
    run: Run, models: Path, labels: np.ndarray, activation: str
) -> None:
    metric = {"metric": "accuracy"} | ({"multi_label": False} if activation == "sigmoid" else {})
    finished = judged(run, models, activation, labels, metric)
    assert finished.code == 3
    assert "is not exactly one 1 among 0s" in finished.variant("shipped")["error"]["message"]
