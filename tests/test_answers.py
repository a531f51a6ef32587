"""Accuracy by class, changed examples and histograms of a real model, against scikit-learn and plain loops."""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from PIL import Image
from sklearn.metrics import recall_score

from tests.conftest import EXAMPLES, Finished, Run, manifest_of, run_cli, write_manifest
from tests.plain_loop import real_outputs

BROKEN = EXAMPLES / "digits-broken/tflite-guard.json"


@pytest.fixture(scope="module")
def checked(shared_cache: Path) -> Finished:
    return run_cli("check", BROKEN, "--format", "json", "--cache-dir", shared_cache)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.load(EXAMPLES / "digits/data/evaluation.npz")["image"]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.load(EXAMPLES / "digits/data/evaluation.npz")["label"]


def outputs_of(variant: str, shared_cache: Path, folder: Path, images: np.ndarray) -> np.ndarray:
    path = folder / f"{variant}.tflite"
    arguments = ("convert", "digits", variant, "-o", path, "--manifest", BROKEN, "--cache-dir", shared_cache)
    assert run_cli(*arguments).code == 0
    return real_outputs(path, images)


@pytest.fixture(scope="module")
def int8(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> np.ndarray:
    return outputs_of("int8", shared_cache, tmp_path_factory.mktemp("int8"), pixels.astype(np.float32) / 16)


@pytest.fixture(scope="module")
def reference(pixels: np.ndarray) -> np.ndarray:
    import keras

    model = keras.models.load_model(EXAMPLES / "digits/models/digits.keras")
    return model.predict(pixels.astype(np.float32) / 16, verbose=0)


def test_classes_are_scikit_learns_recall(
    checked: Finished, int8: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> None:
    found = checked.variant("int8")["by_class"]
    assert (found["metric"], found["key"], found["count"]) == ("accuracy", None, 10)
    theirs, ours = (recall_score(labels, one.argmax(1), average=None) for one in (reference, int8))
    told = {one["label"]: one for one in found["worst"]}
    for label in range(10):
        one = told[label]
        assert one["examples"] == int((labels == label).sum())
        assert (one["reference"], one["variant"]) == pytest.approx((theirs[label], ours[label]))
    assert found["worst"][0]["label"] == int(np.argmax(theirs - ours))
    assert (theirs - ours).max() > 0.1, "the example is broken enough to tell"
    accuracy = checked.metric("int8", "accuracy")
    both, lost, gained, _ = np.array([one["counts"] for one in told.values()]).sum(0)
    assert both + gained == round(accuracy["value"] * len(labels))
    assert both + lost == round(accuracy["reference"] * len(labels))


def test_slices_are_those_of_a_plain_loop_and_the_worst_fails(
    run: Run, light_digits: Path, reference: np.ndarray, labels: np.ndarray, pixels: np.ndarray
) -> None:
    path = light_digits / "data/evaluation.npz"
    dark = np.random.default_rng(0).random(len(labels)) < 0.3
    device = np.arange(len(labels)) % 3
    np.savez(path, image=pixels, label=labels, dark=dark, device=device)
    ours = real_outputs(light_digits / "app/digits_int8.tflite", pixels.astype(np.float32) / 16).argmax(1)
    theirs = reference.argmax(1)
    expected = {}
    for key, values in (("dark", dark), ("device", device)):
        for value in np.unique(values):
            own = values == value
            right = [float(np.mean(answers[own] == labels[own])) for answers in (theirs, ours)]
            name = str(value).lower()
            expected[key, name] = (int(own.sum()), *right)
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"]["slices"] = ["dark", "device"]
    drops = {name: before - after for name, (_, before, after) in expected.items()}
    worst = max(drops, key=lambda one: drops[one])
    manifest["models"][0]["tolerances"] = {"accuracy": {"max_slice_drop": drops[worst] - 1e-6}}
    finished = run("check", write_manifest(light_digits, manifest), "--format", "json", "--diagnose", "never")
    told = {
        (found["key"], one["label"]): (one["examples"], one["reference"], one["variant"])
        for found in finished.variant("shipped")["by_slice"]
        for one in found["worst"]
        if found["metric"] == "accuracy"
    }
    assert told.keys() == expected.keys()
    for name, figures in expected.items():
        assert told[name] == pytest.approx(figures)
    failed = finished.metric("shipped", "accuracy")
    assert (finished.code, failed["verdict"], failed["failed_limit"]) == (1, "fail", "max_slice_drop")
    assert failed["failed_slice"]["name"] == f"{worst[0]} {worst[1]!r}"
    manifest["models"][0]["tolerances"] = {"accuracy": {"max_slice_drop": drops[worst]}}
    assert run("check", write_manifest(light_digits, manifest), "--diagnose", "never").code == 0


def test_examples_that_changed_are_those_of_a_plain_loop(
    checked: Finished, int8: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> None:
    found = checked.variant("int8")["changed"]
    expected: list[tuple[bool, float, int]] = []
    for at, (theirs, ours) in enumerate(zip(reference, int8, strict=True)):
        before, after = int(np.argmax(theirs)), int(np.argmax(ours))
        if before != after:
            expected.append((before != labels[at], -(float(theirs[before]) - float(theirs[after])), at))
    expected.sort()
    assert found["changed"] == len(expected) == round((1 - checked.metric("int8", "agreement")["value"]) * len(labels))
    assert found["lost"] == sum(not wrong for wrong, _, _ in expected)
    assert found["lost"] - found["gained"] == round(checked.metric("int8", "accuracy")["drop"] * len(labels))
    assert [one["example"] for one in found["worst"]] == [at for _, _, at in expected[:20]]
    for one, (_, margin, at) in zip(found["worst"], expected, strict=False):
        assert one["reference_margin"] == pytest.approx(-margin, abs=1e-5)
        assert one["variant_margin"] == pytest.approx(float(int8[at].max() - int8[at][one["reference"]]), abs=1e-6)
        assert (one["label"], one["reference"], one["variant"]) == (
            labels[at],
            reference[at].argmax(),
            int8[at].argmax(),
        )


def test_the_pictures_are_the_examples_inputs(checked: Finished, pixels: np.ndarray) -> None:
    worst = checked.variant("int8")["changed"]["worst"]
    assert [one["picture"] is not None for one in worst] == [True] * 12 + [False] * 8
    for one in worst[:12]:
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["picture"]))))
        image = pixels[one["example"], :, :, 0].astype(np.float64)
        assert np.abs(seen - (image - image.min()) / (image.max() - image.min()) * 255).max() <= 0.5


def test_the_number_of_an_example_is_its_row_in_the_data_under_a_limit(
    run: Run,
    light_digits: Path,
    labels: np.ndarray,
) -> None:
    """Most examples' labels are told wrong by another place."""
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"] |= {"limit": 300, "preprocess": [{"cast": "float32"}]}
    path = write_manifest(light_digits, manifest)
    found = run("check", path, "--format", "json", "--diagnose", "never").variant("shipped")["changed"]
    assert found["examples"] == 300
    assert len(found["worst"]) > 5
    assert [one["label"] for one in found["worst"]] == [labels[one["example"]] for one in found["worst"]]


def with_noise(tflite: Path, to: Path, seed: int = 1) -> None:
    """The same model with other weights in its largest tensor, written over the bytes that hold them."""
    interpreter = Interpreter(model_path=str(tflite))
    interpreter.allocate_tensors()
    content, stored = tflite.read_bytes(), []
    for one in interpreter.get_tensor_details():
        with suppress(ValueError):  # an activation, which is nowhere
            values = interpreter.get_tensor(one["index"])
            stored += [values] if values.dtype == np.int8 and content.count(values.tobytes()) == 1 else []
    weights = max(stored, key=lambda one: one.size)
    noise = np.random.default_rng(seed).normal(0, 30, weights.shape)
    other = np.clip(weights + noise, -127, 127).astype(np.int8)
    to.write_bytes(content.replace(weights.tobytes(), other.tobytes()))


def test_examples_that_got_worse_since_the_baseline_are_those_of_a_plain_loop(
    run: Run, light_digits: Path, pixels: np.ndarray, labels: np.ndarray
) -> None:
    tflite, path = light_digits / "app/digits_int8.tflite", light_digits / "tflite-guard.json"
    with_noise(tflite, tflite)  # so that there is something to get better
    images = pixels.astype(np.float32) / 16
    then = real_outputs(tflite, images)
    assert run("baseline", "update", path).code == 0
    recorded = light_digits / "tflite-guard.baseline.json"
    line = json.loads(recorded.read_text())["models"]["digits"]["variants"]["shipped"]["wrong"]["rows"]
    expanded = [row for run in line.split() for row in range(int(run.split("-")[0]), int(run.split("-")[-1]) + 1)]
    assert expanded == np.flatnonzero(then.argmax(1) != labels).tolist()
    kept = recorded.read_bytes()
    assert run("baseline", "update", path).code == 0
    assert recorded.read_bytes() == kept
    with_noise(tflite, tflite, seed=2)
    now = real_outputs(tflite, images)
    expected, better = [], 0
    for at, (before, after) in enumerate(zip(then, now, strict=True)):
        label = int(labels[at])
        if before.argmax() == label and after.argmax() != label:
            expected.append((-(float(after.max()) - float(after[label])), at))
        better += bool(before.argmax() != label and after.argmax() == label)
    expected.sort()
    assert len(expected) > 20
    assert better
    whole = run("check", path, "--format", "json", "--diagnose", "never")
    found = whole.variant("shipped")["since_baseline"]
    assert (found["metric"], found["examples"], found["of"]) == ("accuracy", len(labels), len(labels))
    assert (found["worse"], found["better"]) == (len(expected), better)
    assert [one["example"] for one in found["worst"]] == [at for _, at in expected[:20]]
    for one, (margin, at) in zip(found["worst"], expected, strict=False):
        assert one["margin"] == pytest.approx(-margin, abs=1e-6)
        assert (one["label"], one["variant"]) == (labels[at], now[at].argmax())

    # It is told to people, and of other data nothing is.
    told = run("check", path, "--format", "markdown", "--diagnose", "never").out
    assert f"{len(expected):,} that were right are wrong" in told
    assert f"example {expected[0][1]} was" in told
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"]["limit"] = 300
    write_manifest(light_digits, manifest)
    other = run("check", path, "--format", "json", "--diagnose", "never").variant("shipped")
    assert other["since_baseline"] is None
    assert other["wrong"] is not None


def test_no_picture_is_made_where_the_manifest_wants_none(run: Run, light_digits: Path) -> None:
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"] |= {"pictures": False, "preprocess": [{"cast": "float32"}]}
    path = write_manifest(light_digits, manifest)
    found = run("check", path, "--format", "json", "--diagnose", "never").variant("shipped")["changed"]
    assert len(found["worst"]) == 20
    assert {one["picture"] for one in found["worst"]} == {None}


def test_without_a_decision_there_are_no_answers(run: Run, light_digits: Path) -> None:
    manifest = manifest_of(light_digits)
    manifest["models"][0] |= {"metrics": ["sqnr"], "tolerances": {}}
    path = write_manifest(light_digits, manifest)
    variant = run("check", path, "--format", "json").variant("shipped")
    assert (variant["by_class"], variant["changed"]) == (None, None)


def values_of(model: Path, tensor: str, images: np.ndarray) -> np.ndarray:
    """A tensor of a float .tflite, example by example."""
    interpreter = Interpreter(
        model_path=str(model),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    (index,) = [one["index"] for one in interpreter.get_tensor_details() if one["name"] == tensor]
    found = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(index).ravel().copy())
    return np.concatenate(found)


def test_a_histogram_is_of_the_tensors_values_on_calibration_data(checked: Finished, float_tflite: Path) -> None:
    """Calibrated on 0 to 16 and evaluated on 0 to 1: most of the range stays empty."""
    histograms: list[dict[str, Any]] = checked.variant("int8")["diagnosis"]["histograms"]
    assert 1 <= len(histograms) <= 3
    data = np.load(EXAMPLES / "digits/data/calibration.npz")["image"].astype(np.float32)
    chosen = data[np.linspace(0, len(data) - 1, 32).astype(int)]
    for one in histograms:
        values = values_of(float_tflite, one["tensor"], chosen)
        counts = np.histogram(values, 64, one["span"])[0]
        # A value on the edge between two bins may fall to either side, by the order of sums.
        assert np.abs(np.cumsum(counts) - np.cumsum(one["calibration"])).max() <= 2
        assert (one["calibration_examples"], one["evaluation_examples"]) == (32, 32)
        assert sum(one["evaluation"]) == sum(one["calibration"]) == len(values)
        filled = np.flatnonzero(one["evaluation"])
        assert np.ptp(filled) < 10, "the evaluation data fill little of the range"
        assert np.ptp(np.flatnonzero(one["calibration"])) > 40
        assert one["evaluation_outside"] == 0


def test_classes_of_folders_have_their_names(
    run: Run, light_digits: Path, pixels: np.ndarray, labels: np.ndarray
) -> None:
    order = [f"digit {number}" for number in range(10)]
    for number, (image, label) in enumerate(zip(pixels[:60], labels[:60], strict=True)):
        folder = light_digits / "data/folders" / order[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(image.astype(np.uint8), 3, axis=2)).save(folder / f"{number}.png")
    manifest = manifest_of(light_digits)
    steps = [{"channels": "grayscale"}, {"cast": "float32"}, {"scale": 0.0625}]
    images = {"source": "images", "path": "data/folders", "labels": "label", "inputs": {"image": "image"}}
    manifest["datasets"]["test"] = {**images, "class_order": order, "preprocess": steps}
    finished = run("check", write_manifest(light_digits, manifest), "--format", "json", "--diagnose", "never")
    (model,) = finished.report["models"]
    assert model["classes"] == order
    for one in model["variants"][0]["by_class"]["worst"]:
        assert one["examples"] == int((labels[:60] == order.index(model["classes"][one["label"]])).sum())
