"""Every manifest of the cookbook runs, on small files of the names that it gives; its tables are computed."""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.conftest import ROOT, run_cli
from tests.plain_loop import raw_outputs
from tflite_guard.datasets.preprocess import prepare
from tflite_guard.judgement.intervals import newcombe_paired

PAGE = (ROOT / "docs/cookbook.md").read_text()
MANIFESTS: list[str] = re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TITLES = re.findall(r"^## (.*?)\n(?=(?:(?!^## ).)*?^```json\n\{)", PAGE, re.DOTALL | re.MULTILINE)
FAMILIES = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `(\[\{.*\}\])` \|$", PAGE, re.MULTILINE)
EXAMPLES = 48
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the models and the data that the manifests name, and the manifests."""
    folder = tmp_path_factory.mktemp("kitchen")
    for name in (".git", "models", "arrays", "records", "tables", "photos"):
        (folder / name).mkdir()
    save_models(folder / "models")
    save_arrays(folder / "arrays")
    save_files(folder)
    np.savez(folder / "arrays/photos_outputs.npz", scores=recorded(folder))
    (pipeline,) = re.findall(r"```python\n(# pipeline.py\n.*?)```", PAGE, re.DOTALL)
    (folder / "pipeline.py").write_text(pipeline)
    for number, text in enumerate(MANIFESTS):
        (folder / f"{number}.json").write_text(text)
    return folder


def save_models(folder: Path) -> None:
    """Small networks with random weights."""
    keras.utils.set_random_seed(7)
    layers = keras.layers

    def classifier(given: keras.KerasTensor, x: keras.KerasTensor, classes: int = 3) -> keras.Model:
        return keras.Model(given, layers.Dense(classes, activation="softmax", name="scores")(x))

    image = keras.Input((32, 32, 3), name="image")
    convolved = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    photos = classifier(image, layers.Flatten()(convolved))
    photos.save(folder / "photos.keras")
    save_tflite(photos, folder / "photos.tflite")
    save_tflite(photos, folder / "jax.tflite")
    first = keras.Input((3, 32, 32), name="image", batch_size=1)
    save_tflite(keras.Model(first, photos(layers.Permute((2, 3, 1))(first))), folder / "torch.tflite")

    table = keras.Input((3,), name="sensors")
    keras.Model(table, layers.Dense(1)(layers.Dense(8, activation="tanh")(table))).save(folder / "power.keras")

    picture, facts = keras.Input((8, 8, 3), name="picture"), keras.Input((4,), name="facts")
    both = layers.Concatenate()([layers.Flatten()(picture), facts])
    classifier([picture, facts], layers.Dense(8, activation="relu")(both)).save(folder / "pairs.keras")

    window = keras.Input((32,), name="window")
    keras.Model(window, layers.Dense(32)(layers.Dense(16, activation="relu")(window))).save(
        folder / "autoencoder.keras"
    )

    pixels = keras.Input((16, 16, 3), name="image")
    classifier(pixels, layers.Conv2D(8, 3, padding="same", activation="relu")(pixels)).save(
        folder / "segmentation.keras"
    )

    framed = keras.Input((64, 64, 3), name="images")
    head = layers.Conv2D(7, 8, strides=8, activation="sigmoid")(framed)
    keras.Model(framed, layers.Reshape((64, 7))(head)).export(folder / "yolo_saved_model", verbose=False)

    tokens = keras.Input((12,), dtype="int32", name="tokens")
    averaged = layers.GlobalAveragePooling1D()(layers.Embedding(50, 8)(tokens))
    classifier(tokens, averaged).save(folder / "text.keras")

    samples = keras.Input((400,), name="samples")
    framed = layers.Conv1D(8, 40, strides=20, activation="relu")(layers.Reshape((400, 1))(samples))
    classifier(samples, layers.GlobalAveragePooling1D()(framed)).save(folder / "keyword.keras")


def save_tflite(model: keras.Model, path: Path) -> None:
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def save_arrays(folder: Path) -> None:
    def pixels(*shape: int) -> np.ndarray:
        return RNG.integers(0, 256, (EXAMPLES, *shape)).astype(np.uint8)

    for part in ("test", "train"):
        label = np.arange(EXAMPLES) % 3
        sound = (RNG.normal(size=(EXAMPLES, 400)) * 8000).clip(-32768, 32767).astype(np.int16)
        held = {
            "photos": {"image": pixels(32, 32, 3), "label": label},
            "pairs": {"image": pixels(8, 8, 3), "table": RNG.normal(size=(EXAMPLES, 4)), "label": label},
            "windows": {"window": RNG.normal(size=(EXAMPLES, 32)).astype(np.float32)},
            "tokens": {"tokens": RNG.integers(0, 50, (EXAMPLES, 12)), "label": label},
            "sound": {"samples": sound, "label": label, "recording": np.arange(EXAMPLES) // 2},
        }
        for name, arrays in held.items():
            np.savez(folder / f"{name}_{part}.npz", **arrays)


def save_files(folder: Path) -> None:
    """Photographs in folders, a table, and both kinds of records."""
    held = np.load(folder / "arrays/photos_test.npz")
    np.savez(folder / "records/test.npz", **held)
    with tf.io.TFRecordWriter(str(folder / "records/test.tfrecord")) as writer:
        for index, (image, label) in enumerate(zip(held["image"], held["label"], strict=True)):
            writer.write(message(image, label, b"camera-%d" % (index % 6)))
    for part in ("test", "train"):
        for index, image in enumerate(np.load(folder / f"arrays/photos_{part}.npz")["image"]):
            file = folder / "photos" / part / ("cat", "dog", "fox")[index % 3] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
        with (folder / f"tables/{part}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["pressure", "temperature", "humidity", "power"])
            rows.writerows(RNG.normal([1013, 18, 50, 4], [9, 6, 20, 1], (EXAMPLES, 4)).tolist())
    save_scenes(folder / "scenes")
    save_streets(folder / "streets")


def save_streets(folder: Path) -> None:
    """Photographs of several sizes, those of a town with masks of three classes, of which the top has no label."""
    for number in range(EXAMPLES):
        size = (24 + number, 40 - number // 2)
        mask = RNG.integers(0, 3, size).astype(np.uint8)
        mask[:2] = 255
        photo = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
        for name, pixels in (
            (f"photos/ulm/{number}.jpg", photo),
            (f"masks/ulm/{number}_mask.png", mask),
            (f"train/{number}.jpg", photo[::-1]),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)


def save_scenes(folder: Path) -> None:
    """Photographs of several sizes, of which some are annotated with boxes of three categories."""
    annotated = []
    for part in ("images", "train"):
        (folder / part).mkdir(parents=True)
        for number in range(24):
            width, height = 40 + number, 60 - number
            Image.fromarray(RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(
                folder / part / f"{number}.png"
            )
            if part == "images":
                annotated.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    boxes = [{"id": n, "image_id": n // 2, "category_id": n % 3, "bbox": [3, 4, 9 + n % 20, 20]} for n in range(40)]
    categories = [{"id": number, "name": name} for number, name in enumerate("abc")]
    text = json.dumps({"images": annotated, "annotations": boxes, "categories": categories})
    (folder / "boxes.json").write_text(text)


def message(image: np.ndarray, label: int, camera: bytes) -> bytes:
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png.getvalue()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "camera": tf.train.Feature(bytes_list=tf.train.BytesList(value=[camera])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def recorded(folder: Path) -> np.ndarray:
    images = np.load(folder / "arrays/photos_test.npz")["image"].astype(np.float32) / 255
    return raw_outputs(folder / "models/photos.tflite", images)


def test_every_recipe_of_the_list_has_its_manifest() -> None:
    expected = [
        "Images in folders",
        "CSV",
        "TFRecord",
        "tf.data",
        "Several inputs",
        "Autoencoder",
        "Segmentation",
        "Object detection",
    ]
    assert [*expected, "Text", "Audio", "Recorded outputs", "PyTorch", "JAX"] == TITLES
    assert len(MANIFESTS) == len(TITLES)


def test_every_manifest_runs(kitchen: Path, shared_cache: Path) -> None:
    """All in one run. The networks are random, so a tolerance may be exceeded; nothing may fail to be computed."""
    files = [f"{number}.json" for number in range(len(MANIFESTS))]
    options = ["--allow-code", "--diagnose", "never", "--format", "json", "--cache-dir", shared_cache]
    finished = run_cli("check", *files, *options, cwd=kitchen, timeout=600)
    assert finished.code in (0, 1), finished.err
    models = {model["name"]: model for model in finished.report["models"]}
    assert set(models) == {model["name"] for text in MANIFESTS for model in json.loads(text)["models"]}
    for model in models.values():
        for variant in model["variants"]:
            assert variant["error"] is None, (model["name"], variant)
            for metric in variant["metrics"]:
                assert metric["identical"] or metric["value"] is not None, (model["name"], metric)
    assert models["recorded"]["variants"][0]["verdict"] in ("pass", "warn")
    (agreement,) = [metric for metric in models["torch"]["variants"][0]["metrics"] if metric["name"] == "agreement"]
    assert agreement["value"] > 0.8


def test_every_family_of_keras_applications_is_there() -> None:
    ours = {name for names, _ in FAMILIES for name in re.findall(r"`(\w+)`", names)}
    folders = [path for path in Path(keras.applications.__file__).parent.iterdir() if path.is_dir()]
    theirs = {path.name for path in folders if not path.name.startswith("_")} - {"imagenet_utils"}
    assert ours == theirs


@pytest.mark.parametrize(
    ("family", "steps"), [(name, steps) for names, steps in FAMILIES for name in re.findall(r"`(\w+)`", names)]
)
def test_the_steps_of_a_family_are_its_preprocessing(family: str, steps: str) -> None:
    images = RNG.integers(0, 256, (3, 9, 7, 3)).astype(np.uint8)
    module = importlib.import_module(f"keras.applications.{family}")
    expected = np.asarray(module.preprocess_input(images.astype(np.float32)))
    ours = prepare(images, json.loads(steps), "here")
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_the_table_of_sizes_is_computed() -> None:
    def smallest(n: int, each: float) -> float:
        lost = 0
        while newcombe_paired(0.9 * n - lost - each, lost + each, each, 0.1 * n - each)[0] <= 0:
            lost += 1
        return lost / n

    def bound(n: int, each: float) -> float:
        return newcombe_paired(0.9 * n - each, each, each, 0.1 * n - each)[1]

    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    for size, *shown in rows:
        n = int(size.replace(",", ""))
        expected = [smallest(n, 0), smallest(n, 0.01 * n), bound(n, 0), bound(n, 0.01 * n)]
        assert shown == [f"{value:.4f}" for value in expected]
