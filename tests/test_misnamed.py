"""What a manifest names and its model does not have is an error of the manifest, told at its line and column."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Finished, Run, write_manifest

Wrong = dict[str, Any]
DATA: Wrong = {"source": "npz", "path": "data.npz", "inputs": {"x": "x"}, "labels": "y"}
MODEL: Wrong = {"metrics": [{"metric": "mae", "output": "left"}], "variants": [{"name": "own", "tflite": "m.tflite"}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model, of input `x` and outputs `left` and `right`, in every form, and data."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings(action="ignore"):  # Keras and numpy disagree on copies
        x = tf.keras.Input((4,), name="x")
        outputs = {"left": tf.keras.layers.Dense(2, name="one")(x), "right": tf.keras.layers.Dense(3, name="two")(x)}
        model = tf.keras.Model(x, outputs)
        model.save(folder / "m.keras")
        model.export(folder / "m", verbose=False)
        (folder / "m.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder / "m")).convert())
    data = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    told = {name: value.numpy() for name, value in model(data).items()}
    np.savez(folder / "data.npz", x=data, y=told["left"])
    np.savez(folder / "recorded.npz", **told)
    return folder


@pytest.fixture
def check(run: Run, models: Path) -> Callable[..., Finished]:
    """Check models of one manifest: name to the reference, what differs of the model, what differs of its data."""

    def call(cases: dict[str, tuple[Wrong, Wrong, Wrong]], *arguments: str) -> Finished:
        datasets = {name: DATA | data for name, (_, _, data) in cases.items()}
        entries = [
            {"name": name, "reference": reference, "evaluation": name} | MODEL | model
            for name, (reference, model, _) in cases.items()
        ]
        write_manifest(models, {"schema_version": 1, "datasets": datasets, "models": entries})
        return run("check", "tflite-guard.json", "--diagnose", "never", *arguments, cwd=models)

    return call


def place(folder: Path, written: str) -> str:
    """Where a text that stands once in the manifest begins, found by reading it."""
    text = (folder / "tflite-guard.json").read_text()
    assert text.count(written) == 1, written
    before = text[: text.index(written)]
    return f"tflite-guard.json:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


TFLITE = {"tflite": "m.tflite"}
BOXES = {"metric": "detection_agreement", "boxes": "left", "scores": "left"}


def mae(**options: str) -> Wrong:
    return {"metrics": [{"metric": "mae"} | options]}


def boxes(**options: str) -> Wrong:
    return {"metrics": [BOXES | options]}


KERAS, SAVED = {"keras": "m.keras"}, {"saved_model": "m"}
OWN = {"metrics": [{"python": "own:own", "output": "leaf"}]}
UNSAID = {"preprocess": {"input": [{"cast": "float32"}]}, "inputs": "x"}
SHIPPED = {"variants": [{"name": "own", "tflite": "m.tflite", "signature": "serv"}]}
CASES: dict[str, tuple[Wrong, Wrong, Wrong, str, str]] = {
    "output": (TFLITE, mae(output="lef"), {}, '"lef"', "did you mean 'left'? Its outputs are 'left', 'right'"),
    "python": (TFLITE, OWN, {}, '"leaf"', "did you mean 'left'?"),
    "boxes": (TFLITE, boxes(boxes="nowhere"), {}, '"nowhere"', "; its outputs are 'left', 'right'"),
    "scores": (TFLITE, boxes(scores="rihgt"), {}, '"rihgt"', "did you mean 'right'?"),
    "classes": (TFLITE, boxes(classes="rigth"), {}, '"rigth"', "did you mean 'right'?"),
    "count": (TFLITE, boxes(count="#2"), {}, '"#2"', "its outputs are 'left', 'right'"),
    "unsaid": (TFLITE, {"metrics": ["rmse"]}, {}, '"rmse"', 'add "output"; its outputs are'),
    "labels": (TFLITE, {"metrics": ["sqnr"]}, {"labels": {"lleft": "y"}}, '"lleft": "y"', "did you mean 'left'?"),
    "inputs": (TFLITE, {}, {"inputs": {"xx": "x"}}, '"xx": "x"', "did you mean 'x'? Its inputs are 'x'"),
    "preprocess": (TFLITE, {}, UNSAID, '"input": [', "names no input of the model: 'input'; its inputs are 'x'"),
    "signature": (TFLITE | {"signature": "serve"}, {}, {}, '"serve"', "has no signature 'serve'"),
    "shipped": (TFLITE, SHIPPED, {}, '"serv"', "no signature 'serv'"),
    "keras": (KERAS, mae(output="letf"), {}, '"letf"', "did you mean 'left'"),
    "shapes": (KERAS | {"input_shapes": {"z": [1, 4]}}, {}, {}, '"z": [', "no input 'z'"),
    "saved": (SAVED, mae(output="eft"), {}, '"eft"', "did you mean 'left'"),
    "saved signature": (SAVED | {"signature": "served"}, {}, {}, '"served"', "has no signature 'served'"),
}


def test_each_is_told_at_its_place_and_other_models_get_their_results(
    check: Callable[..., Finished], models: Path
) -> None:
    (models / "own.py").write_text("def own(outputs, reference, labels):\n    return 0.0\n")
    right: tuple[Wrong, Wrong, Wrong] = (TFLITE, {}, {})
    finished = check(
        {"right": right, **{name: case[:3] for name, case in CASES.items()}}, "--format", "json", "--allow-code"
    )
    assert finished.code == 2, finished.out + finished.err
    assert finished.metric("own", "mae", "right")["value"] == pytest.approx(0, abs=1e-6)
    assert finished.model("right")["verdict"] == "pass"
    for name, (_, _, _, written, hint) in CASES.items():
        model = finished.model(name)
        error = model["error"] or model["variants"][0]["error"]
        assert error["kind"] == "manifest", error
        where = place(models, written)
        assert error["message"].startswith(f"{where}: "), (name, where, error)
        assert hint in error["message"], (name, error)
        path, line, column = where.split(":")
        assert error["place"] == {"path": path, "line": int(line), "column": int(column)}


def test_renderings_lead_to_the_very_line(check: Callable[..., Finished], models: Path) -> None:
    wrong = (TFLITE, {"metrics": [{"metric": "mae", "output": "lef"}]}, {})
    finished = check({"wrong": wrong}, "--format", "github", "--format", "sarif=out.sarif", "--fail-on", "never")
    path, line, _ = place(models, '"lef"').split(":")
    assert finished.code == 2, "wrong manifests stay errors"
    assert f"::error file={path},line={line},title=wrong%3A could not be evaluated::" in finished.out
    assert f'"startLine": {line}' in (models / "out.sarif").read_text()


@pytest.mark.parametrize(
    ("model", "data", "written"),
    [
        ({"metrics": [{"metric": "mae", "output": "lef"}]}, {}, '"lef"'),
        ({"metrics": [BOXES | {"scores": "#2"}]}, {}, '"#2"'),
        ({"metrics": ["sqnr"]}, {"labels": {"lef": "y"}}, '"lef": "y"'),
    ],
)
def test_recorded_outputs_are_looked_into_before_anything_runs(
    check: Callable[..., Finished], run: Run, models: Path, model: Wrong, data: Wrong, written: str
) -> None:
    assert check({"wrong": ({"outputs": "recorded.npz"}, model, data)}).code == 2
    finished = run("validate", "tflite-guard.json", cwd=models)
    assert finished.code == 2
    assert finished.err.startswith(f"{place(models, written)}: recorded.npz has no output "), finished.err
    recorded = {"outputs": "recorded.npz"}
    assert check({"right": (recorded, {}, {}), "by place": (recorded, mae(output="#0"), {})}).code == 0
