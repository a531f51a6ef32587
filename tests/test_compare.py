"""`compare`: two .tflite files as they are, beside a plain loop over LiteRT and scikit-learn."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

import tflite_guard
from tests.conftest import EXAMPLES, Finished, Run, run_cli
from tests.plain_loop import real_outputs
from tflite_guard.errors import EvaluationError, UsageError
from tflite_guard.judgement.intervals import newcombe_paired
from tflite_guard.reports import FORMATS

Arrays = dict[str, np.ndarray]
PAIRS = [
    ("float32.tflite", "int8.tflite"),
    ("int8.tflite", "float32.tflite"),
    ("broken.tflite", "int8.tflite"),
    ("int8.tflite", "broken.tflite"),
]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    held = np.load(EXAMPLES / "digits/data/evaluation.npz")
    return {"image": held["image"].astype(np.float32) / 16, "label": held["label"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, arrays: Arrays) -> Path:
    """A float file, one that takes and gives int8, and one whose calibration data nobody had scaled."""
    folder = tmp_path_factory.mktemp("compare")
    for manifest, variant, name in (
        ("digits", "float32", "float32"),
        ("digits", "int8", "int8"),
        ("digits-broken", "int8", "broken"),
    ):
        asked = ("convert", "digits", variant, "-o", folder / f"{name}.tflite")
        where = ("--manifest", EXAMPLES / manifest / "tflite-guard.json", "--cache-dir", shared_cache)
        done = run_cli(*asked, *where)
        assert done.code == 0, done.err
    np.savez(folder / "data.npz", **arrays)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "own"))


def as_json(run: Run, folder: Path, *arguments: str) -> Finished:
    finished = run("compare", *arguments, "--format", "json", cwd=folder)
    assert (finished.code, finished.err) == (0, "")
    return finished


def told(text: str) -> str:
    return " ".join(text.split())


# --- the numbers


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_numbers_are_those_of_a_plain_loop(run: Run, folder: Path, arrays: Arrays, a: str, b: str) -> None:
    """Of each file by its own scales, whichever of them takes and gives integers."""
    first, second = (real_outputs(folder / one, arrays["image"]).astype(np.float64) for one in (a, b))
    label, n = arrays["label"], len(arrays["label"])
    finished = as_json(run, folder, a, b, "data.npz")
    (model,) = finished.report["models"]
    name = Path(b).stem

    accuracy = finished.metric(name, "accuracy")
    decided, others = first.argmax(1), second.argmax(1)
    assert accuracy["reference"] == pytest.approx(accuracy_score(label, decided), abs=1e-12)
    assert accuracy["value"] == pytest.approx(accuracy_score(label, others), abs=1e-12)
    right, still = decided == label, others == label
    counts = [int((x & y).sum()) for x, y in ((right, still), (right, ~still), (~right, still), (~right, ~still))]
    assert accuracy["drop"] == pytest.approx((counts[1] - counts[2]) / n, abs=1e-12)
    assert accuracy["confidence_interval"] == pytest.approx(newcombe_paired(*counts), abs=1e-12)
    assert accuracy["examples"] == n

    changed = finished.variant(name)["changed"]
    found = [changed["changed"], changed["lost"], changed["gained"]]
    assert found == [int((decided != others).sum()), counts[1], counts[2]]
    differing = set(np.flatnonzero(decided != others).tolist())
    assert {one["example"] for one in changed["worst"]} <= differing

    assert finished.metric(name, "agreement")["value"] == pytest.approx((decided == others).mean(), abs=1e-12)
    sqnr = 10 * np.log10((first**2).sum() / ((first - second) ** 2).sum())
    assert finished.metric(name, "sqnr")["value"] == pytest.approx(sqnr, abs=1e-3)
    assert model["reference"]["size_bytes"] == (folder / a).stat().st_size
    assert finished.variant(name)["artifact"]["size_bytes"] == (folder / b).stat().st_size


def test_swapped_files_give_the_mirrored_difference(run: Run, folder: Path) -> None:
    one = as_json(run, folder, "broken.tflite", "float32.tflite", "data.npz").metric("float32", "accuracy")
    other = as_json(run, folder, "float32.tflite", "broken.tflite", "data.npz").metric("broken", "accuracy")
    assert one["drop"] == pytest.approx(-other["drop"], abs=1e-12)
    assert one["drop"] < 0
    low, high = other["confidence_interval"]
    assert one["confidence_interval"] == pytest.approx([-high, -low], abs=1e-12)
    assert (one["reference"], one["value"]) == (other["value"], other["reference"])


# --- what people see


def test_nothing_is_judged_however_much_worse_b_is(run: Run, folder: Path) -> None:
    finished = run("compare", "float32.tflite", "broken.tflite", "data.npz", cwd=folder)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.splitlines()[0].split() == ["A", "float32", "B", "broken", "897", "examples"]
    assert "note: broken: accuracy: 72 of 897 decisions are ties among B's largest outputs (0 among A's)" in told(
        finished.out
    )
    assert re.search(r"^metric +A +B +B worse +95 % interval$", finished.out, re.M)
    assert re.search(r"^size +\S+ kB +\S+ kB +\S+× smaller$", finished.out, re.M)
    assert re.search(r"accuracy is 0\.\d+ in A and 0\.\d+ in B, worse by 0\.\d+, 95 % interval \[", told(finished.out))
    assert "both were given data.npz (image) as it is" in told(finished.out)


def test_a_difference_that_may_be_chance_is_said_to_be(run: Run, folder: Path) -> None:
    finished = as_json(run, folder, "float32.tflite", "int8.tflite", "data.npz")
    low, high = finished.metric("int8", "accuracy")["confidence_interval"]
    assert low <= 0 <= high
    text = run("compare", "float32.tflite", "int8.tflite", "data.npz", cwd=folder).out
    drop = finished.metric("int8", "accuracy")["drop"]
    assert ("the difference may be chance" in text) == (drop != 0)


def test_every_rendering_says_a_and_b_and_none_a_float_reference(run: Run, folder: Path) -> None:
    pages = folder / "pages"
    finished = run("compare", "int8.tflite", "broken.tflite", "data.npz", "--report-dir", pages, cwd=folder)
    assert finished.code == 0
    assert {one.file for one in FORMATS.values()} <= {one.name for one in pages.iterdir()}
    for name in ("report.txt", "report.md", "report.html"):
        text = re.sub(r"<style>.*?</style>", "", (pages / name).read_text(), flags=re.S)
        shown = re.sub(r"<[^>]*>", " ", text)
        assert not re.search(r"float reference|the reference|this variant|\bvariant\b|not judged|artifact\b", shown)
        assert re.search(r"accuracy is 0\.\d+ in A and 0\.\d+ in B", shown, re.I)
        assert "int8" in shown
    again = run("report", pages / "report.json", cwd=folder)
    assert again.out == finished.out


def test_files_of_one_name_are_told_apart_by_their_folders(run: Run, folder: Path) -> None:
    for place, name in (("old", "int8"), ("new", "broken")):
        (folder / place).mkdir()
        shutil.move(folder / f"{name}.tflite", folder / place / "model.tflite")
    finished = as_json(run, folder, "old/model.tflite", "new/model.tflite", "data.npz")
    (model,) = finished.report["models"]
    assert (model["name"], model["variants"][0]["name"]) == ("old/model", "new/model")
    assert model["reference"]["path"] == "old/model.tflite"


def test_two_copies_are_identical(run: Run, folder: Path) -> None:
    shutil.copy(folder / "int8.tflite", folder / "copy.tflite")
    finished = as_json(run, folder, "int8.tflite", "copy.tflite", "data.npz")
    assert finished.metric("copy", "sqnr")["identical"]
    assert finished.report["models"][0]["notes"][0] == "A and B are the same, byte for byte"


def test_without_labels_the_outputs_are_compared(run: Run, folder: Path, arrays: Arrays) -> None:
    np.savez(folder / "inputs.npz", image=arrays["image"])
    finished = as_json(run, folder, "int8.tflite", "float32.tflite", "inputs.npz")
    assert [one["name"] for one in finished.variant("float32")["metrics"]] == ["cosine_similarity", "sqnr"]
    assert "name them with --labels" in finished.report["models"][0]["notes"][-1]


# --- what cannot be compared


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["int8.tflite", "int8.tflite", "data.npz"], 2, "int8.tflite and int8.tflite are one file; name two"),
        (["int8.tflite", "link.tflite", "data.npz"], 2, "int8.tflite and link.tflite are one file; name two"),
        (["int8.tflite", "none.tflite", "data.npz"], 2, "none.tflite: no such file or folder"),
        (["int8.tflite", "data.npz", "data.npz"], 2, "data.npz: is not a .tflite model; name two, or ask"),
        (["data.npz", "int8.tflite", "data.npz"], 2, "data.npz: is not a .tflite model; name two, or ask"),
        (["int8.tflite", "float32.tflite", "none.npz"], 2, "none.npz: no such file or folder"),
        (["int8.tflite", "float32.tflite", "data.npz", "--labels", "digit"], 2, "--labels digit: data.npz has no arr"),
        (["int8.tflite", "float32.tflite", "other.npz"], 2, "do it beforehand, and give an .npz"),
        (["cut.tflite", "int8.tflite", "data.npz"], 3, "cut.tflite is a damaged .tflite model"),
    ],
)
def test_what_cannot_be_compared_is_told(run: Run, folder: Path, arguments: list[str], code: int, message: str) -> None:
    (folder / "link.tflite").symlink_to("int8.tflite")
    (folder / "cut.tflite").write_bytes((folder / "int8.tflite").read_bytes()[:3000])
    np.savez(folder / "other.npz", image=np.zeros((4, 5, 3), np.float32))
    finished = run("compare", *arguments, cwd=folder)
    assert (finished.code, finished.out) == (code, "")
    assert message in finished.err


def test_a_damaged_b_is_an_error_that_names_it_as_it_was_given(run: Run, folder: Path) -> None:
    (folder / "cut.tflite").write_bytes((folder / "int8.tflite").read_bytes()[:3000])
    finished = run("compare", "int8.tflite", "cut.tflite", "data.npz", cwd=folder)
    assert finished.code == 3
    assert "int8 / cut cut.tflite is a damaged .tflite model" in told(finished.out)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Float models with other inputs and outputs than the digits' one."""
    import keras
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("unlike")
    shape = np.load(EXAMPLES / "digits/data/evaluation.npz")["image"].shape[1:]
    for name, given, classes in (("inputs", (*shape[:1], 5, *shape[2:]), 10), ("outputs", shape, 7)):
        image = keras.Input(given, name="image")
        scores = keras.layers.Dense(classes, activation="softmax")(keras.layers.Flatten()(image))
        model = keras.Model(image, scores)
        (folder / f"{name}.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return folder


@pytest.mark.parametrize(("name", "side"), [("inputs", "input"), ("outputs", "output")])
def test_files_of_other_shapes_are_refused(run: Run, folder: Path, unlike: Path, name: str, side: str) -> None:
    shutil.copy(unlike / f"{name}.tflite", folder)
    finished = run("compare", "int8.tflite", f"{name}.tflite", "data.npz", cwd=folder)
    assert finished.code == 3
    assert f"{name}.tflite: no {side} corresponds without doubt to A's" in told(finished.out)
    assert "only files with the same inputs and outputs can be compared" in told(finished.out)


def test_a_manifest_still_refuses_a_quantized_reference(run: Run, folder: Path) -> None:
    """What `compare` allows must not make a quantized file the float reference of a check."""
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "datasets": {"test": {"source": "npz", "path": "data.npz", "inputs": "image", "labels": "label"}},
        "models": [
            {
                "name": "digits",
                "reference": {"tflite": "int8.tflite"},
                "evaluation": "test",
                "metrics": ["accuracy"],
                "variants": [{"name": "broken", "tflite": "broken.tflite"}],
            }
        ],
    }
    (folder / "tflite-guard.json").write_text(json.dumps(manifest))
    run("compare", "int8.tflite", "broken.tflite", "data.npz", cwd=folder)
    checked = run("check", cwd=folder)
    assert checked.code == 3
    assert "a reference must be a float model" in told(checked.out)
    manifest["models"][0]["reference"] = {"artifact": "int8.tflite"}
    (folder / "tflite-guard.json").write_text(json.dumps(manifest))
    assert run("validate", cwd=folder).code == 2


# --- Python


def test_arrays_are_compared_from_python(folder: Path, arrays: Arrays, shared_cache: Path) -> None:
    files = folder / "int8.tflite", folder / "broken.tflite"
    ways = ((arrays["image"], arrays["label"]), (arrays, "label"), (folder / "data.npz", "label"))
    for inputs, labels in ways:
        report = tflite_guard.compare(*files, inputs, labels, cache_dir=shared_cache)
        assert report.ok
        metric = report["int8"]["broken"]["accuracy"]
        assert metric.drop is not None
        assert metric.drop > 0
        assert metric.verdict is None
        assert f"in A and {metric.value:.4f} in B" in str(report)
        assert repr(report).startswith(f"<Report {report.verdict.value}: ")
    with pytest.raises(UsageError, match="are one file"):
        tflite_guard.compare(files[0], files[0], arrays["image"], arrays["label"])
    (folder / "cut.tflite").write_bytes(files[0].read_bytes()[:3000])
    with pytest.raises(EvaluationError, match="damaged"):
        tflite_guard.compare(folder / "cut.tflite", files[0], arrays["image"], cache_dir=shared_cache)
    assert not tflite_guard.compare(files[0], folder / "cut.tflite", arrays["image"], cache_dir=shared_cache).ok
