"""What a check does again after an edit: what depends on it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tflite_guard
from tests.conftest import Manifest, manifest_of, write_manifest
from tflite_guard.protocol import Request
from tflite_guard.run.workers import Worker

EVERYTHING = ["reference", "convert", "evaluate", "convert", "evaluate"]


@pytest.fixture
def folder(light_digits: Path) -> Path:
    """A model with two variants that the LiteRT Quantizer makes, which starts no TensorFlow."""
    manifest = manifest_of(light_digits)
    manifest["models"][0]["variants"] = [
        {"name": "dynamic", "recipe": "dynamic_wi8_afp32"},
        {"name": "weights", "recipe": "weight_only_wi8_afp32"},
    ]
    write_manifest(light_digits, manifest)
    return light_digits


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What children are asked to do, in the order of asking."""
    found: list[str] = []
    whole = Worker.writing
    names = {"RunReference": "reference", "ApplyRecipe": "convert", "Evaluate": "evaluate"}

    @contextmanager
    def told(self: Worker, request: Request[Any], **options: Any) -> Iterator[Any]:
        found.append(names[type(request).__name__])
        with whole(self, request, **options) as answer:
            yield answer

    monkeypatch.setattr(Worker, "writing", told)
    return found


def test_only_what_depends_on_an_edit_is_done_again(
    folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(manifest: Manifest) -> list[str]:
        asked.clear()
        write_manifest(folder, manifest)
        report = tflite_guard.check(folder, cache_dir=folder / "kept", diagnose="never")
        assert [variant.error for variant in report.models[0].variants] == [None, None]
        return sorted(asked)

    manifest = manifest_of(folder)
    (model,) = manifest["models"]
    assert work(manifest) == sorted(EVERYTHING)
    assert work(manifest) == []
    model["variants"][1]["recipe"] = "weight_only_wi4_afp32"
    assert work(manifest) == ["convert", "evaluate"]
    model["metrics"] = ["agreement"]
    model["tolerances"] = {}
    assert work(manifest) == ["evaluate", "evaluate"]
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_start", lambda _: pytest.fail("a child is started"))
        model["tolerances"] = {"agreement": {"min": 0.1}}
        model["variants"][0]["name"] = "renamed"
        model["variants"][1]["tolerances"] = {"agreement": {"min": 0.2, "require": "proven_pass"}}
        model["variants"][1]["ignore"] = [{"rule": "constant-output", "reason": "known"}]
        assert work(manifest) == []
    manifest["datasets"]["test"]["limit"] = 100
    assert work(manifest) == ["evaluate", "evaluate", "reference"]
