"""Segmentation from files, from manifest to report: figures against scikit-learn's on outputs of a plain loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from tests.conftest import Finished, run_cli
from tests.plain_loop import real_outputs

HEIGHT, WIDTH = 24, 32
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
COLOURS = np.array([[200, 60, 50], [60, 180, 70], [70, 80, 210]], float)
RNG = np.random.default_rng(11)
PREPROCESS = [
    {"letterbox": {"size": [HEIGHT, WIDTH], "method": "nearest"}},
    {"cast": "float32"},
    {"scale": 0.00392156862745098},
]
NONE = 255


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A noisy photograph of coloured patches and the class of each pixel; its border has no label."""
    height, width = RNG.integers(16, 60, 2)
    rows, columns = np.mgrid[:height, :width]
    mask = (rows // 7 + columns // 9 + RNG.integers(3)) % 3
    photo = np.clip(COLOURS[mask] + RNG.normal(0, 55, (height, width, 3)), 0, 255).astype(np.uint8)
    mask[[0, -1]] = mask[:, [0, -1]] = NONE
    return photo, mask.astype(np.uint8)


def framed(pixels: np.ndarray, fill: int) -> np.ndarray:
    """The letterbox, pixel by pixel."""
    height, width = pixels.shape[:2]
    ratio = min(HEIGHT / height, WIDTH / width)
    rows, columns = round(height * ratio), round(width * ratio)
    result = np.full((HEIGHT, WIDTH, *pixels.shape[2:]), fill, np.uint8)
    for row in range(rows):
        for column in range(columns):
            source = pixels[(2 * row + 1) * height // (2 * rows), (2 * column + 1) * width // (2 * columns)]
            result[row + (HEIGHT - rows) // 2, column + (WIDTH - columns) // 2] = source
    return result


def segmenter(path: Path) -> keras.Model:
    """Tells a pixel's class by its neighbourhood's distance to each colour."""
    pixels = keras.Input((HEIGHT, WIDTH, 3), name="image")
    smooth = keras.layers.DepthwiseConv2D(3, padding="same", name="smooth")
    scores = keras.layers.Conv2D(3, 1, name="scores")
    model = keras.Model(pixels, keras.layers.Softmax()(scores(smooth(pixels))))
    smooth.set_weights([np.full((3, 3, 3, 1), 1 / 9), np.zeros(3)])
    centres = COLOURS / 255
    scores.set_weights([20 * centres.T[None, None], -10 * (centres**2).sum(1)])
    model.save(path)
    return model


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model, np.ndarray, np.ndarray]:
    folder = tmp_path_factory.mktemp("streets")
    (folder / ".git").mkdir()
    pixels, classes = [], []
    for number in range(30):
        photo, mask = scene()
        town = f"town{number % 3}"
        for part in ("photos", "masks"):
            (folder / part / town).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(folder / f"photos/{town}/{number:02}_photo.png")
        drawn = Image.fromarray(mask)
        if number % 2:
            drawn = Image.frombytes("P", drawn.size, mask.tobytes())
            drawn.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
        drawn.save(folder / f"masks/{town}/{number:02}_classes.png")
        pixels.append((town, framed(photo, 114)))
        classes.append((town, framed(mask, NONE)))
    order = sorted(range(30), key=lambda number: (pixels[number][0], number))
    model = segmenter(folder / "model.keras")
    data = {"source": "images", "path": "photos", "masks": "masks", "preprocess": PREPROCESS}
    data |= {"image_suffix": "_photo", "mask_suffix": "_classes"}
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "datasets": {"val": {**data, "labels": "label"}, "calib": data},
        "models": [
            {
                "name": "streets",
                "reference": {"keras": "model.keras"},
                "evaluation": "val",
                "calibration": "calib",
                "metrics": [{"metric": metric, "ignore_index": NONE} for metric in ("mean_iou", "accuracy")],
                "tolerances": {"mean_iou": {"max_drop": 0.05}},
                "variants": ["int8"],
            }
        ],
    }
    (folder / "tflite-guard.json").write_text(json.dumps(manifest))
    images = np.stack([pixels[number][1] for number in order]).astype(np.float32) * np.float32(PREPROCESS[2]["scale"])
    return folder, model, images, np.stack([classes[number][1] for number in order])


@pytest.fixture(scope="module")
def checked(streets: Any, shared_cache: Path) -> Finished:
    return run_cli("check", "--diagnose", "never", "--format", "json", "--cache-dir", shared_cache, cwd=streets[0])


def test_every_figure_is_scikit_learns_on_the_outputs_of_a_plain_loop(
    streets: Any, checked: Finished, shared_cache: Path, tmp_path: Path
) -> None:
    folder, model, images, classes = streets
    assert checked.code == 0, checked.err
    file = tmp_path / "int8.tflite"
    convert = ("convert", "streets", "int8", "-o", file, "--cache-dir", shared_cache)
    assert run_cli(*convert, cwd=folder).code == 0
    decided = {"reference": model.predict(images, verbose=0).argmax(-1), "value": real_outputs(file, images).argmax(-1)}
    kept = classes != NONE
    assert 0.3 < kept.mean() < 0.9
    for whose, found in decided.items():
        iou = jaccard_score(classes[kept], found[kept], average="macro")
        assert 0.6 < iou < 0.99
        assert checked.metric("int8", "mean_iou")[whose] == pytest.approx(iou, abs=1e-9)
        shares = [(own == answer)[own != NONE].mean() for own, answer in zip(classes, found, strict=True)]
        assert checked.metric("int8", "accuracy")[whose] == pytest.approx(np.mean(shares), abs=1e-9)


def test_another_mask_is_another_result_and_a_missing_one_is_named(
    streets: Any, checked: Finished, shared_cache: Path
) -> None:
    folder = streets[0]
    mask = folder / "masks/town1/01_classes.png"
    before = mask.read_bytes()
    again = ("check", "--diagnose", "never", "--format", "json", "--cache-dir", shared_cache)
    try:
        Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)
        changed = run_cli(*again, cwd=folder)
        assert changed.metric("int8", "mean_iou")["value"] < checked.metric("int8", "mean_iou")["value"]
        mask.unlink()
        missing = run_cli(*again, cwd=folder)
        assert missing.code == 3
        assert "masks/town1/01_classes.png: there is no such mask, which the image photos/town1/01_photo.png" in (
            missing.variant("int8")["error"]["message"] if missing.report["models"] else missing.err
        )
    finally:
        mask.write_bytes(before)
