"""A small project on disk for manifests to be about: files that look right and files that do not."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tflite_guard.errors import ManifestError
from tflite_guard.manifest import Manifest, load

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
NPY = b"\x93NUMPY\x01\x00"
TFLITE = b"\x1c\x00\x00\x00TFL3" + b"\0" * 16
HDF5 = b"\x89HDF\r\n\x1a\n" + b"\0" * 16
PICKLE = b"\x80\x04\x95\x05\x00."


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), NPY)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: the folder `repo` with a .git, beside it files that it must not reach. Read only."""
    outside = tmp_path_factory.mktemp("project")
    root = outside / "repo"
    for folder in (
        ".git",
        "models/digits_qat/variables",
        "models/unfetched",
        "models/pruned",
        "models/scoped",
        "data/images/cat",
        "data/masks/cat",
        "app",
        "recipes",
        "app/assets",
    ):
        (root / folder).mkdir(parents=True)
    _zip(outside / "outside.npz", "image.npy", "label.npy")
    _zip(root / "models/digits.keras", "config.json", "metadata.json", "model.weights.h5")
    _zip(root / "models/zip_named.h5", "config.json")
    for name in ("evaluation", "calibration"):
        _zip(root / f"data/{name}.npz", "image.npy", "label.npy", "recording.npy")
    _zip(root / "data/recorded.npz", "output_0.npy")
    _zip(root / "models/torch.keras", "archive/data.pkl")
    whole = (root / "models/digits.keras").read_bytes()
    rules = [{"regex": ".*", "op_config": {"activation_tensor_config": {"num_bits": 8}}}]
    for name, content in {
        "models/digits.h5": HDF5,
        "models/digits.tflite": TFLITE,
        "models/digits_qat/saved_model.pb": b"\x0a\x05scope\x12\x17FakeQuantWithMinMaxVars\x1a\x01x",
        "models/scoped/saved_model.pb": b"\x0a\x25MyFakeQuantum/FakeQuantWithMinMaxVars\x12\x06MatMul",
        "models/pruned/saved_model.pb": b"\x08\x01 graph",
        "models/digits_qat/variables/variables.index": b"index",
        "models/unfetched/saved_model.pb": POINTER,
        "app/digits_int8.tflite": TFLITE,
        "app/assets/digits_int8.tflite": TFLITE,
        "models/pointer.keras": POINTER,
        "models/pickled.h5": PICKLE,
        "models/empty.tflite": b"",
        "models/truncated.keras": whole[: len(whole) // 2],
        "models/onnx.tflite": b"\x08\x07onnxonnx",
        "data/array.npy": NPY,
        "data/images/cat/1.png": b"\x89PNG",
        "data/masks/cat/1.png": b"\x89PNG",
        "data/labels.csv": b"file,label\n",
        "data/table.csv": b"a,b,label\n",
        "data/records.tfrecord": b"\x80\x02\0\0\0\0\0\0",
        "data/pointer.npz": POINTER,
        "recipes/static.json": json.dumps(rules).encode(),
        "recipes/fitted.json": b'[{"algorithm_key": "GPTQ"}]',
        "recipes/weights.json": b"[{}]",
        "recipes/broken.json": b"{",
    }.items():
        (root / name).write_bytes(content)
    (root / "data/link.npz").symlink_to(outside / "outside.npz")
    os.mkfifo(root / "data/pipe.npz")
    return root


@pytest.fixture
def read(project: Path, request: pytest.FixtureRequest) -> Callable[..., Manifest]:
    """Load a manifest, given as text or as a JSON value, as if it lay in the project's folder."""

    def run(manifest: str | bytes | Any, **options: Any) -> Manifest:
        data = manifest if isinstance(manifest, str | bytes) else json.dumps(manifest, indent=1)
        path = project / f"{abs(hash(request.node.nodeid))}.json"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        try:
            return load(str(path), **options)
        finally:
            path.unlink()

    return run


@pytest.fixture
def problems(read: Callable[..., Manifest]) -> Callable[..., list[str]]:
    """The problems of a manifest as `line:column: message`, none when it is valid."""

    def run(manifest: str | bytes | Any, **options: Any) -> list[str]:
        try:
            read(manifest, **options)
        except ManifestError as error:
            return [f"{found.line}:{found.column}: {found.message}" for found in error.problems]
        return []

    return run


@pytest.fixture
def messages(problems: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """The problems of a manifest without their places."""
    return lambda manifest, **options: [found.split(": ", 1)[1] for found in problems(manifest, **options)]


@pytest.fixture
def manifest() -> Callable[..., dict[str, Any]]:
    """A valid manifest with one model, whose keys can be replaced; `datasets` and `defaults` go to the top."""

    def make(**changes: Any) -> dict[str, Any]:
        datasets = {
            "test": {"source": "npz", "path": "data/evaluation.npz", "inputs": "image", "labels": "label"},
            "unlabelled": {"source": "npz", "path": "data/evaluation.npz", "inputs": "image"},
            "calib": {"source": "npz", "path": "data/calibration.npz", "inputs": "image"},
        }
        datasets.update(changes.pop("datasets", {}))
        top = {"schema_version": 1, "datasets": datasets}
        if "defaults" in changes:
            top["defaults"] = changes.pop("defaults")
        model = {
            "name": "digits",
            "reference": {"keras": "models/digits.keras"},
            "evaluation": "test",
            "calibration": "calib",
            "metrics": ["accuracy", "agreement", "size_bytes", "max_abs_error"],
            "variants": ["int8"],
        }
        model.update(changes)
        return {**top, "models": [{key: value for key, value in model.items() if value is not None}]}

    return make
