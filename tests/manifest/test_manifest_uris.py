"""URIs in a manifest: where they may stand, and what must stand beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tflite_guard.manifest import Manifest
from tflite_guard.manifest.types import FileSpec

Make = Callable[..., dict[str, Any]]
ROOT = "https://a.example/"
PIN = "AB" * 32


def test_a_uri_may_stand_for_every_single_file(read: Callable[..., Manifest], manifest: Make) -> None:
    images = {"source": "images", "path": "data/images", "class_order": ["cat"], "labels_file": f"{ROOT}l.csv"}
    data = {"source": "npz", "path": f"{ROOT}e.npz", "inputs": "image", "labels": "label", "sha256": PIN}
    written = manifest(
        datasets={"test": data, "images": images | {"labels": "label", "labels_sha256": PIN}},
        reference={"keras": f"{ROOT}m.keras", "sha256": PIN},
        variants=[
            {"name": "shipped", "tflite": f"{ROOT}m.tflite", "sha256": PIN},
            {"name": "made", "recipe": f"{ROOT}r.json", "sha256": PIN},
            {"name": "seen", "quantization": "int8", "observed_outputs": f"{ROOT}o.npz", "observed_sha256": PIN},
        ],
    )
    (model,) = read(written, data_roots=[ROOT]).models
    shipped, made, seen = model.variants
    assert model.reference.file == elsewhere("m.keras")
    assert model.evaluation.file == elsewhere("e.npz")
    assert not model.evaluation.pictures, "who may see what is not in the repository is for the dataset to say"
    assert shipped.conversion.tflite == elsewhere("m.tflite")
    assert made.conversion.recipe == elsewhere("r.json")
    assert seen.evaluation.observed_outputs == elsewhere("o.npz")


def elsewhere(name: str) -> FileSpec:
    return FileSpec(ROOT + name, PIN.lower(), ROOT + name)


def test_the_hash_is_asked_for_by_the_name_of_its_key(messages: Callable[..., list[str]], manifest: Make) -> None:
    labels = {"source": "npy", "path": "data/array.npy", "labels": "label", "labels_file": f"{ROOT}l.npy"}
    written = manifest(
        datasets={"labels": labels},
        reference={"tflite": f"{ROOT}m.tflite"},
        variants=[
            {"name": "made", "recipe": f"{ROOT}r.json"},
            {"name": "seen", "quantization": "int8", "observed_outputs": f"{ROOT}o.npz", "sha256": PIN},
            {"name": "named", "recipe": "static_wi8_ai8", "sha256": PIN},
        ],
    )
    end = "beside it: what sha256sum prints of the file"
    idle = '"sha256" applies only beside "tflite" or the path of a recipe file'
    assert messages(written, data_roots=[ROOT]) == [
        f'"{ROOT}l.npy" needs "labels_sha256" {end}',
        f'"{ROOT}m.tflite" needs "sha256" {end}',
        f'"{ROOT}r.json" needs "sha256" {end}',
        f'"{ROOT}o.npz" needs "observed_sha256" {end}',
        idle,
        idle,
    ]


def test_what_cannot_be_one_file_is_refused(messages: Callable[..., list[str]], manifest: Make) -> None:
    folder = {"saved_model": f"{ROOT}m.zip", "sha256": PIN}
    for reference, told in (
        (folder, "is fetched as one file, and a SavedModel (a folder with saved_model.pb) is many; fetch it in a step"),
        ({"keras": f"{ROOT}m", "sha256": PIN}, "does not say by its name which Keras model it is; it must end in"),
        ({"keras": "file:///m.keras", "sha256": PIN}, "has the scheme file, which is not read; https, s3 and gs are"),
    ):
        (message,) = messages(manifest(reference=reference), data_roots=[ROOT])
        assert told in message


def test_files_that_are_here_can_be_pinned_by_the_same_keys(messages: Callable[..., list[str]], manifest: Make) -> None:
    seen = {"name": "seen", "quantization": "int8", "observed_outputs": "data/recorded.npz", "observed_sha256": PIN}
    (message,) = messages(manifest(variants=[seen]))
    assert message.startswith("data/recorded.npz has sha256 ")
