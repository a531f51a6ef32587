"""In what order a run does its work."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import manifest_of, write_manifest
from tflite_guard.manifest import load
from tflite_guard.run import pipeline
from tflite_guard.run.jobs import Options
from tflite_guard.run.steps import Event


def test_what_needs_no_conversion_is_evaluated_first_and_reported_in_its_place(light_digits: Path) -> None:
    manifest = manifest_of(light_digits)
    manifest["models"][0]["variants"].insert(0, {"name": "recipe", "recipe": "dynamic_wi8_afp32"})
    loaded, seen = load(str(write_manifest(light_digits, manifest))), list[Event]()

    report = pipeline.run([loaded], Options(diagnose="never"), on_event=seen.append)

    assert [one.variant for one in seen if one.phase == "variant"] == ["shipped", "recipe"]
    assert [one.name for one in report.models[0].variants] == ["recipe", "shipped"]
    assert all(one.error is None for one in report.models[0].variants)
