"""Bad input, as a user meets it: one message that names the file and what to do, the exit code of the contract,
no traceback, nothing half written, and every other model judged."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.conftest import EXAMPLES, Finished, Run, manifest_of, run_cli, write_manifest

EXAMPLE_COUNT = 100
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 63808\n"
# The longest message is still one that is read.
LONGEST = 330


@dataclass
class Project:
    """A folder with a manifest of LiteRT models, to make things wrong in; it is good as it is made."""

    folder: Path
    datasets: dict[str, Any] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("app", "data", "models"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / "digits/app/digits_int8.tflite", self.folder / "app/good.tflite")
        shutil.copy(EXAMPLES / "digits/models/digits.keras", self.folder / "models/good.keras")
        real = np.load(EXAMPLES / "digits/data/evaluation.npz")
        self.image, self.label = real["image"][:EXAMPLE_COUNT], real["label"][:EXAMPLE_COUNT]
        self.recorded = (0.02 + 0.8 * np.eye(10, dtype=np.float32))[self.label]
        np.savez(self.folder / "data/recorded.npz", scores=self.recorded)
        self.data("good")

    def data(self, name: str, preprocess: bool = True, **arrays: Any) -> str:
        """A dataset with some arrays replaced, in data/NAME.npz."""
        np.savez(self.folder / f"data/{name}.npz", **({"image": self.image, "label": self.label} | arrays))
        return self.dataset(name, f"data/{name}.npz", preprocess)

    def dataset(self, name: str, path: str, preprocess: bool = True) -> str:
        self.datasets[name] = {"source": "npz", "path": path, "inputs": "image", "labels": "label"}
        if preprocess:
            self.datasets[name]["preprocess"] = [{"cast": "float32"}, {"scale": 0.0625}]
        return name

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name

    def tflite(self, name: str, edit: Callable[[Any], None]) -> str:
        """The good .tflite with something changed, in app/NAME.tflite."""
        model = schema.ModelT.InitFromPackedBuf((self.folder / "app/good.tflite").read_bytes())
        edit(model)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return self.write(f"app/{name}.tflite", bytes(builder.Output()))

    def keras(self, name: str, change: Callable[[dict[str, bytes]], None]) -> str:
        """The good .keras with members changed, in models/NAME.keras."""
        with zipfile.ZipFile(self.folder / "models/good.keras") as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        change(members)
        with zipfile.ZipFile(
            self.folder / f"models/{name}.keras", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as target:
            for member, content in members.items():
                target.writestr(member, content)
        return f"models/{name}.keras"

    def model(self, name: str = "good", tflite: str = "app/good.tflite", **changes: Any) -> None:
        self.models.append(
            {
                "name": name,
                "reference": {"outputs": "data/recorded.npz"},
                "evaluation": "good",
                "metrics": ["accuracy", "agreement"],
                "variants": [{"name": "shipped", "tflite": tflite}],
            }
            | changes
        )

    def manifest(self) -> Path:
        path = self.folder / "tflite-guard.json"
        manifest = {"schema_version": 1, "datasets": self.datasets, "models": self.models}
        path.write_text(json.dumps(manifest, indent=2))
        return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def good(project: Project) -> Project:
    project.model()
    project.manifest()
    return project


def the_message(finished: Finished, code: int) -> str:
    """The only line on standard error of a run that ended with this code."""
    assert "Traceback" not in finished.out + finished.err
    lines = finished.err.splitlines()
    assert (finished.code, len(lines)) == (code, 1), finished.out + finished.err
    assert len(lines[0]) < LONGEST
    return lines[0]


# Manifests


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "1:1: no such file; tflite-guard init"),
        (b"", "1:1: the file is empty; tflite-guard init"),
        (b"models: []", "1:1: a value is expected here, not models"),
        (b"[1]", "1:1: a manifest is an object {…}, not an array"),
        (b'{"models": [', '1:13: the file ends too early; the "[" on line 1 is not closed'),
        (b'{\n  "schema_version": 2}', '2:21: "schema_version" is 2; this tflite-guard reads the number 1; install'),
        (b"\x93NUMPY", "1:1: byte 0x93 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_manifest_that_is_none(run: Run, tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "m.json").write_bytes(content)
    assert the_message(run("check", "m.json"), 2).startswith(f"m.json:{expected}")


def test_a_manifest_of_a_hundred_megabytes_is_not_read(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "m.json").open("wb") as stream:
        stream.truncate(100_000_000)
    started = time.monotonic()
    assert "m.json:1:1: 100,000,000 bytes are too many for a manifest" in the_message(run("check", "m.json"), 2)
    assert time.monotonic() - started < 20


def test_a_folder_as_manifest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.json").mkdir()
    assert the_message(run("check", "m.json"), 2) == (
        "tflite-guard: m.json: this folder has no tflite-guard.json; name one, or write one: "
        "tflite-guard init MODEL DATA"
    )


# What is wrong with files that a manifest names, seen before anything runs


def linked_out(project: Project) -> str:
    (project.folder.parent / "outside.npz").write_bytes((project.folder / "data/good.npz").read_bytes())
    (project.folder / "data/link.npz").symlink_to("../../outside.npz")
    return project.dataset("bad", "data/link.npz")


def truncated_keras(project: Project) -> str:
    whole = (project.folder / "models/good.keras").read_bytes()
    return project.write("models/bad.keras", whole[: len(whole) // 2])


Fault = Callable[[Project], Any]
SEEN_AT_ONCE: dict[str, tuple[Fault, str]] = {
    "truncated .keras": (
        lambda p: p.model(reference={"keras": truncated_keras(p)}),
        "models/bad.keras is a damaged or truncated zip file, or one of too many members, where a Keras model",
    ),
    "zero bytes as .keras": (
        lambda p: p.model(reference={"keras": p.write("models/bad.keras", b"")}),
        "models/bad.keras is empty (0 bytes)",
    ),
    "zero bytes as .tflite": (lambda p: p.model(tflite=p.write("app/bad.tflite", b"")), "app/bad.tflite is empty"),
    "another format": (
        lambda p: p.model(tflite=p.write("app/bad.tflite", b"\x08\x07ONNX is something else")),
        "app/bad.tflite is of an unknown format, where a .tflite model is expected",
    ),
    "a .tflite as Keras model": (
        lambda p: p.model(reference={"keras": "app/good.tflite"}),
        "app/good.tflite is a .tflite model, where a Keras model (.keras or .h5) is expected",
    ),
    "a pickle renamed": (
        lambda p: p.model(reference={"keras": p.write("models/bad.h5", pickle.dumps({"weights": [1.0]}))}),
        "models/bad.h5 is a Python pickle, which can run code and is never loaded; export",
    ),
    "an LFS pointer as .keras": (
        lambda p: p.model(reference={"keras": p.write("models/bad.keras", POINTER)}),
        'models/bad.keras is a Git LFS pointer, not the file it stands for; run "git lfs pull"',
    ),
    "an LFS pointer as .tflite": (
        lambda p: p.model(tflite=p.write("app/bad.tflite", POINTER)),
        'app/bad.tflite is a Git LFS pointer, not the file it stands for; run "git lfs pull"',
    ),
    "an LFS pointer as data": (
        lambda p: p.model(evaluation=p.dataset("bad", p.write("data/bad.npz", POINTER))),
        'data/bad.npz is a Git LFS pointer, not the file it stands for; run "git lfs pull"',
    ),
    "a missing file": (
        lambda p: p.model(tflite="app/god.tflite"),
        'no such file: app/god.tflite; did you mean "good.tflite"?',
    ),
    "a folder as data": (
        lambda p: p.model(evaluation=p.dataset("bad", "data")),
        "data is a folder, where an .npz file of arrays is expected",
    ),
    "truncated data": (
        lambda p: p.model(evaluation=p.dataset("bad", p.write("data/bad.npz", b"PK\x03\x04" + b"\0" * 100))),
        "data/bad.npz is a damaged or truncated zip file, or one of too many members, where an .npz file",
    ),
    "a missing key": (
        lambda p: p.model() or p.datasets["good"].update(labels="labels"),
        'data/good.npz has no key "labels"; did you mean "label"?',
    ),
    "an absolute path": (
        lambda p: p.model(evaluation=p.dataset("bad", "/etc/passwd")),
        "/etc/passwd leaves the repository",
    ),
    "an escaping path": (
        lambda p: p.model(evaluation=p.dataset("bad", "../outside.npz")),
        "../outside.npz leaves the repository",
    ),
    "a symlink out of the repository": (
        lambda p: p.model(evaluation=linked_out(p)),
        "data/link.npz leaves the repository",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", SEEN_AT_ONCE)
def test_a_file_that_is_wrong_is_told_at_its_place_in_the_manifest(run: Run, project: Project, fault: str) -> None:
    make, expected = SEEN_AT_ONCE[fault]
    make(project)
    project.manifest()
    message = the_message(run("check", cwd=project.folder), 2)
    place, _, told = message.partition(": ")
    path, line, _ = place.split(":")
    assert path == "tflite-guard.json"
    assert told.startswith(expected)
    named = told.removeprefix("no such file: ").split()[0].rstrip(";")
    assert named in (project.folder / path).read_text().splitlines()[int(line) - 1] or fault == "a missing key"
    if "leaves" in expected:
        assert told.endswith("; only --data-root DIR can allow that")


# What shows only when a model is run: its own error, and every other model is judged


def unknown_operator(model: Any) -> None:
    model.operatorCodes[4].builtinCode = model.operatorCodes[4].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[4].customCode = b"MyOperator"


def operator_of_the_future(model: Any) -> None:
    model.operatorCodes[4].version = 99


def schema_of_the_past(model: Any) -> None:
    model.version = 1


def not_a_number(model: Any) -> None:
    """The logarithm of the logarithm of the probabilities."""
    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOG
    code.version = 1
    model.operatorCodes.append(code)
    for _ in range(2):
        graph.tensors.append(copy.copy(graph.tensors[graph.outputs[0]]))
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = [graph.outputs[0]], [len(graph.tensors) - 1]
        graph.operators.append(operator)
        graph.outputs = [len(graph.tensors) - 1]
    model.signatureDefs[0].outputs[0].tensorIndex = graph.outputs[0]


def replaced(values: np.ndarray, index: Any, value: Any, dtype: Any = None) -> np.ndarray:
    changed = values.astype(dtype or values.dtype)
    changed[index] = value
    return changed


def damaged(project: Project) -> str:
    content = bytearray((project.folder / "data/good.npz").read_bytes())
    content[3000:3060] = bytes(60)
    return project.write("data/damaged.npz", bytes(content))


def recorded(project: Project, name: str, **arrays: Any) -> str:
    np.savez(project.folder / f"data/{name}.npz", **arrays)
    return f"data/{name}.npz"


def observed(project: Project, name: str, **arrays: Any) -> list[dict[str, Any]]:
    return [{"name": "shipped", "tflite": "app/good.tflite", "observed_outputs": recorded(project, name, **arrays)}]


OBJECTS = np.array([{} for _ in range(EXAMPLE_COUNT)], object)
Seen = tuple[Callable[[Project, str], None], str, str, str]
# Name: what is made wrong; the error's kind; how the message begins; what to do.
SEEN_IN_LITERT: dict[str, Seen] = {
    "shape": (
        lambda p, n: p.model(n, evaluation=p.data(n, image=np.zeros((EXAMPLE_COUNT, 9, 9, 1), np.uint8))),
        "data", "data/shape.npz: input image: the model takes [?, 8, 8, 1] and the data is", "9, 9, 1]",
    ),
    "dtype": (
        lambda p, n: p.model(n, evaluation=p.data(n, preprocess=False)),
        "data", "data/dtype.npz: input image: the model takes float32 and the data is uint8",
        'add the preprocess step {"cast": "float32"}',
    ),
    "text": (
        lambda p, n: p.model(n, evaluation=p.data(n, image=np.array(["seven"] * EXAMPLE_COUNT))),
        "data", "data/text.npz: image: must hold numbers, not <U5", "save a numeric array",
    ),
    "objects": (
        lambda p, n: p.model(n, evaluation=p.data(n, image=OBJECTS)),
        "data", "data/objects.npz: image: holds Python objects, which are never unpickled",
        "save a plain numeric array",
    ),
    "nan": (
        lambda p, n: p.model(n, evaluation=p.data(n, image=replaced(p.image, (70, 1), np.nan, np.float32))),
        "data", "data/nan.npz: image: example 70 (from 0) holds NaN or infinity", "correct it or leave it out",
    ),
    "none": (
        lambda p, n: p.model(n, evaluation=p.data(n, image=p.image[:0], label=p.label[:0])),
        "data", "data/none.npz: holds no examples", "a model needs some",
    ),
    "fewer": (
        lambda p, n: p.model(n, evaluation=p.data(n, label=p.label[:90])),
        "data", "data/fewer.npz: arrays must hold the same number of examples", "but have image: 100, label: 90; save",
    ),
    "range": (
        lambda p, n: p.model(n, evaluation=p.data(n, label=replaced(p.label, 70, 10))),
        "data", "data/range.npz: accuracy: the label of example 70 (from 0) is 10, which is out of range",
        "the output has 10 classes, from 0",
    ),
    "limited": (
        lambda p, n: (
            p.model(n, evaluation=p.data(n, label=np.where(np.arange(100) < 50, p.label, 10))),
            p.datasets[n].update(limit=20),
        ),
        "data", "data/limited.npz: accuracy: the label of example 52 (from 0) is 10, which is out of range",
        "the output has 10 classes, from 0",
    ),
    "fractions": (
        lambda p, n: p.model(n, evaluation=p.data(n, label=p.label + 0.5)),
        "data", "data/fractions.npz: accuracy: the label of example 0 (from 0) is 9.5, which is not a class number",
        "correct it",
    ),
    "damaged": (
        lambda p, n: p.model(n, evaluation=p.dataset(n, damaged(p))),
        "data", "data/damaged.npz: the file is damaged or in another format", "make it again",
    ),
    "cut": (
        lambda p, n: p.model(n, p.write("app/cut.tflite", (p.folder / "app/good.tflite").read_bytes()[:8000])),
        "model-file", "app/cut.tflite is a damaged .tflite model (truncated or altered)", "convert or copy it again",
    ),
    "noise": (
        lambda p, n: p.model(n, p.write("app/noise.tflite", b"\x1c\0\0\0TFL3" + b"\xff" * 400)),
        "model-file", "app/noise.tflite is a damaged .tflite model", "convert or copy it again",
    ),
    "custom": (
        lambda p, n: p.model(n, p.tflite(n, unknown_operator)),
        "no-kernel", "app/custom.tflite needs the custom operator MyOperator", "replace it in the model",
    ),
    "newer": (
        lambda p, n: p.model(n, p.tflite(n, operator_of_the_future)),
        "no-kernel", "app/newer.tflite needs a newer version of the operator MEAN", "install a newer ai-edge-litert",
    ),
    "old": (
        lambda p, n: p.model(n, p.tflite(n, schema_of_the_past)),
        "model-file", "LiteRT refuses app/old.tflite: Model provided is schema version 1", "convert it again",
    ),
    "undefined": (
        lambda p, n: p.model(n, p.tflite(n, not_a_number)),
        "non-finite-output", "app/undefined.tflite: output 'scores' holds NaN or infinity, first in example 0",
        "the conversion did it",
    ),
    "quantized-reference": (
        lambda p, n: p.model(n, reference={"tflite": "app/good.tflite"}),
        "model-file", "app/good.tflite: is quantized", "name the float .tflite",
    ),
    "recorded-rows": (
        lambda p, n: p.model(n, reference={"outputs": recorded(p, n, scores=p.recorded[:90])}),
        "data", "data/recorded-rows.npz: holds outputs of 90 examples where the evaluation data has 100",
        "record one row for each",
    ),
    "recorded-shape": (
        lambda p, n: p.model(n, reference={"outputs": recorded(p, n, scores=p.recorded[:, :7])}),
        "binding", "app/good.tflite: no output corresponds without doubt to the reference's scores [?, 7]",
        "it has output_0 [?, 10] float32",
    ),
    "recorded-nan": (
        lambda p, n: p.model(n, reference={"outputs": recorded(p, n, scores=replaced(p.recorded, 70, np.nan))}),
        "data", "data/recorded-nan.npz: scores: example 70 (from 0) holds NaN", "correct it or leave it out",
    ),
    "recorded-objects": (
        lambda p, n: p.model(n, reference={"outputs": recorded(p, n, scores=OBJECTS)}),
        "data", "data/recorded-objects.npz: scores: holds Python objects", "save a plain numeric array",
    ),
    "observed-rows": (
        lambda p, n: p.model(n, variants=observed(p, n, scores=p.recorded[:90])),
        "data", "data/observed-rows.npz: holds outputs of 90 examples where the evaluation data has 100",
        "record one row for each",
    ),
    "observed-shape": (
        lambda p, n: p.model(n, variants=observed(p, n, scores=p.recorded[:, :7])),
        "data", "data/observed-shape.npz: has shape [7] per example where the model's output 'scores' has [10]",
        "convert or record them alike",
    ),
    "observed-names": (
        lambda p, n: p.model(n, variants=observed(p, n, a=p.recorded, b=p.recorded)),
        "data", "data/observed-names.npz: has no array for output 'scores' (it has a, b)", "save one array per output",
    ),
}  # fmt: skip


def edited_layer(**settings: Any) -> Callable[[dict[str, bytes]], None]:
    """A change of a .keras: another class for its first activation."""

    def change(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        next(layer for layer in config["config"]["layers"] if layer["class_name"] == "ReLU").update(settings)
        members["config.json"] = json.dumps(config).encode()

    return change


def cut_saved_model(project: Project) -> str:
    shutil.copytree(EXAMPLES / "digits/models/digits_qat", project.folder / "models/cut")
    graph = project.folder / "models/cut/saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:5000])
    return "models/cut"


def reference(kind: str, make: Callable[[Project, str], str]) -> Callable[[Project, str], None]:
    return lambda project, name: project.model(name, reference={kind: make(project, name)})


MINE = {"module": "mine.layers", "class_name": "MyLayer", "registered_name": "mine>MyLayer"}
SEEN_IN_TENSORFLOW: dict[str, Seen] = {
    "cut": (
        reference("keras", lambda p, n: p.keras(n, lambda m: m.update({W: m[W][:5000]}))),
        "model-file", "models/cut.keras is a truncated or damaged .keras file", "save or copy it again",
    ),
    "damaged": (
        reference("keras", lambda p, n: p.write("models/damaged.keras", flipped(p))),
        "model-file", "models/damaged.keras is damaged (model.weights.h5 does not match its checksum)",
        "save or copy it again",
    ),
    "cut-h5": (
        reference("keras", lambda p, n: p.write("models/cut.h5", b"\x89HDF\r\n\x1a\n" + bytes(100))),
        "model-file", "models/cut.h5 is a truncated or damaged .h5 file", "save or copy it again",
    ),
    "cut-saved-model": (
        reference("saved_model", lambda p, n: cut_saved_model(p)),
        "model-file", "models/cut: saved_model.pb is truncated or damaged", "export the model again",
    ),
    "bomb": (
        reference("keras", lambda p, n: p.keras(n, lambda m: m.update({"assets/zeros": bytes(300 << 20)}))),
        "unsafe-model", "models/bomb.keras unpacks to", "as a zip bomb does; save the model again",
    ),
    "lambda": (
        reference("keras", lambda p, n: p.keras(n, edited_layer(class_name="Lambda"))),
        "unsafe-model", "models/lambda.keras holds a Lambda layer (stem_relu), which runs code when it is loaded",
        "run with --allow-code only if you trust",
    ),
    "custom-object": (
        reference("keras", lambda p, n: p.keras(n, edited_layer(**MINE))),
        "custom-object", "models/custom-object.keras needs the custom object MyLayer",
        "export the model as a SavedModel (model.export)",
    ),
    "shape-of-data": (
        lambda p, n: p.model(n, reference={"keras": "models/good.keras"}, metrics=["agreement"],
                             evaluation=p.data(n, image=np.zeros((EXAMPLE_COUNT, 9, 9, 1), np.uint8))),
        "data", "data/shape-of-data.npz: input image: the model takes [?, 8, 8, 1] and the data is", "9, 9, 1]",
    ),
}  # fmt: skip
W = "model.weights.h5"


def flipped(project: Project) -> bytes:
    content = bytearray((project.folder / "models/good.keras").read_bytes())
    content[20000:20060] = bytes(255 - byte for byte in content[20000:20060])
    return bytes(content)


def judged(folder: Path, faults: dict[str, Seen]) -> tuple[Finished, dict[str, Any]]:
    """One run of a good model between as many bad ones as there are faults, and its report."""
    project = Project(folder)
    for number, (name, (make, *_)) in enumerate(faults.items()):
        if number == len(faults) // 2:
            project.model()
        make(project, name)
    project.manifest()
    options = ("--no-cache", "--jobs", "1", "--format", "text", "--format", "json=report.json")
    finished = run_cli("check", *options, cwd=folder)
    assert finished.code == 3, finished.out + finished.err
    return finished, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def in_litert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, dict[str, Any]]:
    return judged(tmp_path_factory.mktemp("bad") / "project", SEEN_IN_LITERT)


@pytest.fixture(scope="module")
def in_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, dict[str, Any]]:
    return judged(tmp_path_factory.mktemp("bad") / "project", SEEN_IN_TENSORFLOW)


def in_full(finished: Finished) -> str:
    """What is told before the end, where it is told once more in short."""
    return finished.out.partition("What did not pass")[0]


def check_fault(result: tuple[Finished, dict[str, Any]], name: str, seen: Seen) -> None:
    finished, report = result
    _, kind, beginning, advice = seen
    (model,) = (model for model in report["models"] if model["name"] == name)
    error = model["error"] or model["variants"][0]["error"]
    assert model["verdict"] == model["variants"][0]["verdict"] == "error"
    assert error["kind"] == kind
    assert error["message"].startswith(beginning)
    assert advice in error["message"]
    assert len(error["message"]) < LONGEST
    told = " ".join(in_full(finished).split()).replace("- ", "-")  # as wrapped
    assert told.count(" ".join(error["message"].split()).replace("- ", "-")) == 1


@pytest.mark.parametrize("name", SEEN_IN_LITERT)
def test_what_litert_meets_is_that_models_error(in_litert: tuple[Finished, dict[str, Any]], name: str) -> None:
    check_fault(in_litert, name, SEEN_IN_LITERT[name])


@pytest.mark.parametrize("name", SEEN_IN_TENSORFLOW)
def test_what_tensorflow_meets_is_that_models_error(in_tensorflow: tuple[Finished, dict[str, Any]], name: str) -> None:
    check_fault(in_tensorflow, name, SEEN_IN_TENSORFLOW[name])


@pytest.mark.parametrize("group", ["in_litert", "in_tensorflow"])
def test_every_other_model_is_judged(request: pytest.FixtureRequest, group: str) -> None:
    finished, report = request.getfixturevalue(group)
    assert finished.code == 3
    assert finished.err == ""
    assert "Traceback" not in finished.out
    assert [model["name"] for model in report["models"] if model["verdict"] == "pass"] == ["good"]
    errors = [variant["error"] for model in report["models"] for variant in model["variants"] if variant["error"]]
    assert len(errors) == len(report["models"]) - 1
    assert not [error["message"] for error in errors if "/project/" in error["message"] or "\n" in error["message"]]


def test_an_error_that_variants_share_is_said_once(run: Run, project: Project) -> None:
    names = ["one", "two", "three"]
    project.model(
        evaluation=project.data("bad", label=project.label + 10),
        variants=[{"name": name, "tflite": "app/good.tflite"} for name in names],
    )
    finished = run("check", project.manifest())
    assert finished.code == 3
    assert in_full(finished).count("out of range") == 1
    assert finished.out.startswith(
        "✗ good / one, two, three  data/bad.npz: accuracy: the label of example 0 (from 0) is"
    )


# Places that cannot be written


def limited(size: int, *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Finished:
    """A run that can make no file larger than so many bytes: to the tool, a disk that is full."""
    code = (
        "import os, resource, sys; size = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'tflite_guard', *sys.argv[2:]])"
    )
    command = [sys.executable, "-c", code, str(size), *map(str, arguments)]
    finished = subprocess.run(
        command, cwd=cwd, env=os.environ | (env or {}), capture_output=True, text=True, timeout=120, check=False
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_room_for_scratch_files(good: Project, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = ("check", "--no-cache", "--format", "json")
    # So little that what the failure itself prints has no room either.
    finished = limited(500, *options, cwd=good.folder, env={"TMPDIR": str(scratch)})
    assert (finished.code, finished.err) == (3, "")
    error = finished.report["models"][0]["error"]
    assert error["kind"] == "disk-full"
    assert error["message"] == f"{scratch}: no space left; free some, or name another folder with TMPDIR"
    assert list(scratch.iterdir()) == []


def test_no_room_at_all(good: Project) -> None:
    message = the_message(limited(0, "check", "--no-cache", cwd=good.folder), 3)
    assert message.startswith("tflite-guard: ")
    assert "No usable temporary directory" in message
    assert message.endswith("; name another folder with TMPDIR")


def test_no_room_for_what_tensorflow_writes(good: Project) -> None:
    good.model("converted", reference={"keras": "models/good.keras"}, variants=["float32", *good.models[0]["variants"]])
    good.manifest()
    finished = limited(20_000, "check", "--no-cache", "--format", "json", cwd=good.folder)
    assert (finished.code, finished.err) == (3, "")
    float32, shipped = finished.report["models"][1]["variants"]
    assert float32["error"]["kind"] == "disk-full"
    assert float32["error"]["message"].endswith(": no space left; free some, or name another folder with TMPDIR")
    assert shipped["verdict"] == finished.report["models"][0]["verdict"] == "pass"


def test_no_room_in_the_cache(good: Project, tmp_path: Path) -> None:
    # What a child writes is small then, and the cache's own record is larger.
    good.datasets["good"]["limit"] = 5
    good.models[0]["metrics"] = ["size_bytes"]
    good.manifest()
    cache = tmp_path / "cache"
    finished = limited(600, "check", "--cache-dir", cache, "--format", "json", cwd=good.folder)
    assert (finished.code, finished.err) == (3, "")
    error = finished.report["models"][0]["variants"][0]["error"]
    assert error == {
        "kind": "disk-full",
        "message": f"{cache}: no space left; free some, or name another folder with --cache-dir",
        "place": None,
    }
    assert not list(cache.rglob("tmp-*"))
    assert run_cli("check", "--cache-dir", cache, cwd=good.folder).code == 0


def test_no_room_for_a_report(run: Run, good: Project, shared_cache: Path) -> None:
    whole = run("check", cwd=good.folder).out
    before = files_in(good.folder)
    options = ("check", "--cache-dir", shared_cache, "--format", "text")
    finished = limited(100, *options, "--report-dir", "out", cwd=good.folder)
    assert the_message(finished, 3).startswith("tflite-guard: out/report.")
    assert finished.err.endswith(": no space left; write elsewhere\n")
    assert finished.out == whole  # nothing is lost
    assert {path.name for path in (good.folder / "out").iterdir()} == {"annotations.txt", "report.gitlab.json"}
    shutil.rmtree(good.folder / "out")
    finished = limited(100, *options, "--format", "json=r.json", cwd=good.folder)
    assert the_message(finished, 3) == "tflite-guard: r.json: no space left; write elsewhere"
    assert finished.out == whole
    assert files_in(good.folder) == before


def test_no_room_for_a_model_or_a_baseline(run: Run, good: Project, shared_cache: Path) -> None:
    assert run("baseline", "update", cwd=good.folder).code == 0
    before = files_in(good.folder)
    finished = limited(100, "convert", "good", "shipped", "-o", "m.tflite", "--no-cache", cwd=good.folder)
    assert "no space left" in the_message(finished, 3) or "No usable temporary directory" in finished.err
    finished = limited(100, "baseline", "update", "--cache-dir", shared_cache, cwd=good.folder)
    assert the_message(finished, 3).startswith(
        "tflite-guard: tflite-guard.baseline.json: the baseline cannot be written"
    )
    assert files_in(good.folder) == before


@pytest.mark.parametrize(
    "arguments", [["--help"], ["schema", "report"], ["validate"], ["check"], ["check", "--format", "json"]]
)
def test_no_room_on_standard_output(good: Project, shared_cache: Path, arguments: list[str]) -> None:
    cache = ["--cache-dir", str(shared_cache)] if "check" in arguments else []
    command = [sys.executable, "-m", "tflite_guard", *arguments, *cache]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - not a file to be replaced
        finished = subprocess.run(
            command, cwd=good.folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
        assert subprocess.run(command, cwd=good.folder, stdout=full, stderr=full, check=False).returncode == 3
    assert (finished.returncode, finished.stderr) == (
        3, "tflite-guard: standard output: no space left; free some, or write elsewhere\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["check", "--format", "xml"],
            2,
            "--format xml: unknown; there are text, json, github, markdown, html, sarif, junit, gitlab",
        ),
        (["check", "--format", "json=no/r.json"], 2, "no/r.json: there is no folder no; create it first"),
        (["check", "--format", "json=data"], 2, "data: is a folder; name a file in it"),
        (["check", "--format", "json=/dev/full"], 3, "/dev/full: no space left; write elsewhere"),
        (["check", "--report-dir", "tflite-guard.json"], 2, "--report-dir tflite-guard.json: is a file; name a folder"),
        (["convert", "god", "shipped", "-o", "m.tflite"], 2, "tflite-guard.json has no model 'god'; it has good"),
        (["convert", "good", "int8", "-o", "m.tflite"], 2, "model 'good' has no variant 'int8'; it has shipped"),
        (["convert", "good", "shipped", "-o", "no/m.tflite"], 2, "no/m.tflite: there is no folder no; create it first"),
        (["convert", "good", "shipped", "-o", "data"], 2, "data: is a folder; name a file in it"),
        (["convert", "good", "shipped", "-o", "/dev/full"], 3, "/dev/full: no space left; write elsewhere"),
        (["init", "models/none.keras", "-o", "m.json"], 2, "models/none.keras: no such file or folder"),
        (["init", "app/good.tflite", "-o", "no/m.json"], 2, "no/m.json: there is no folder no; create it first"),
    ],
)
def test_a_wrong_name_or_place_is_told(run: Run, good: Project, arguments: list[str], code: int, message: str) -> None:
    before = files_in(good.folder)
    assert the_message(run(*arguments, cwd=good.folder), code) == f"tflite-guard: {message}"
    assert files_in(good.folder) == before


@pytest.mark.parametrize("place", ["tflite-guard.json", "tflite-guard.json/cache"])
def test_a_file_in_the_place_of_the_cache(run: Run, good: Project, place: str) -> None:
    message = the_message(run("check", "--cache-dir", place, cwd=good.folder), 2)
    assert message.startswith(f"tflite-guard: {good.folder / place}: the cache needs a folder, and a file is in")
    assert message.endswith("; name another --cache-dir")


# Files that tflite-guard itself wrote


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "is not a report (Input data was truncated); name a report.json that `tflite-guard check` wrote"),
        (b"PK\x03\x04\0\0", "is not a report (JSON is malformed"),
        (b"\xff\xfe[]", "is not a report (JSON is malformed"),
        (b"[" * 100_000, "is not a report ("),
        (b"[1]", 'is not a report ($: [1] is not of type "object"); name a report.json'),
        (b'{"schema_version": 2}', "is not a report ($"),
    ],
)
def test_a_report_that_is_none(run: Run, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "r.json").write_bytes(content)
    assert the_message(run("report", "r.json"), 2).startswith(f"tflite-guard: r.json: {message}")


@pytest.mark.parametrize("content", [b'{"models": [' + b"{}," * 1_100_000 + b"{}]}", b" " * (65 * 2**20)])
def test_a_report_beyond_measure_is_not_looked_through(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    message = the_message(run("report", "r.json"), 2)
    assert message.startswith("tflite-guard: r.json: is too large for a report, which has at most 64 MiB and 1,200,000")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON: "),
        (b"", "is not JSON: "),
        (b"\xff", "is not JSON: "),
        (b" " * (17 * 2**20), "is too large for a baseline"),
        (
            b'{"schema_version": 1, "models": {"good": {"variants": {"shipped": {"metrics": {"sqnr": '
            + b"9" * 400
            + b"}}}}}}",
            "is damaged: ",
        ),
        (b'{"x": 1}', "is not a baseline of schema_version 1 (it has None)"),
        (b'{"schema_version": 1, "models": {"good": 3}}', "is damaged: variants of model 'good' must be an object"),
    ],
)
def test_a_corrupted_baseline_is_told_and_update_mends_it(
    run: Run, good: Project, content: bytes, message: str
) -> None:
    good.write("tflite-guard.baseline.json", content)
    for command in (["check"], ["baseline", "show"]):
        told = the_message(run(*command, cwd=good.folder), 2)
        assert told.startswith(f"tflite-guard: tflite-guard.baseline.json: {message}")
        assert told.endswith("; write it again with `tflite-guard baseline update`")
    assert run("baseline", "update", cwd=good.folder).code == 0
    assert run("check", cwd=good.folder).code == 0


def test_a_report_in_a_locale_without_its_characters(run: Run, good: Project) -> None:
    finished = run("check", cwd=good.folder, env={"PYTHONIOENCODING": "latin-1"})
    assert (finished.code, finished.err) == (0, "")
    assert "? pass" in finished.out


def test_a_broken_image_with_a_strange_name_is_told(run: Run, light_digits: Path) -> None:
    folder = light_digits / "images"
    for label in ("0", "1"):
        (folder / label).mkdir(parents=True)
    (folder / "0" / os.fsdecode(b"\xff.png")).write_bytes(b"\x89PNG no more")
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"] = {
        "source": "images",
        "path": "images",
        "inputs": "image",
        "class_order": ["0", "1"],
        "labels": "label",
        "preprocess": [{"channels": "grayscale"}, {"resize": [8, 8]}, {"cast": "float32"}],
    }
    finished = run("check", write_manifest(light_digits, manifest))
    assert finished.code == 3
    assert "ff.png" in finished.out
    assert "crashed" not in finished.out
