"""What a run consists of."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from tests.conftest import manifest_of, only, write_manifest
from tflite_guard.manifest import load
from tflite_guard.manifest.types import Conversion, FileSpec
from tflite_guard.run import pipeline
from tflite_guard.run.jobs import Options, hidden_rungs, jobs, named_files
from tflite_guard.run.steps import content
from tflite_guard.run.workshop import Hashes


def test_what_hashing_takes_counts_as_a_models_time(light_digits: Path) -> None:
    loaded = load(str(light_digits / "tflite-guard.json"))
    os.truncate(light_digits / "data/evaluation.npz", 2**42)  # has holes, so that reading it takes longest
    (model,) = pipeline.run([loaded], Options(timeout=1)).models
    assert model.error is not None
    assert model.error.kind == "timeout"


def test_a_job_names_every_file(digits: Path) -> None:
    loaded = load(str(write_manifest(digits, manifest_of(digits))))
    (job,) = jobs([loaded], Options())
    named = {Path(one.path).name for one in named_files(job.model) if isinstance(one, FileSpec)}
    assert named == {"digits.keras", "digits_qat", "digits_int8.tflite", "evaluation.npz", "calibration.npz"}


def test_a_recipe_is_a_file_only_where_it_is_one() -> None:
    path = FileSpec("/repository/recipe.json")
    assert list(named_files([Conversion(recipe="static_wi8_ai8"), Conversion(recipe=path)])) == [path]


def test_the_float_conversion_is_a_hidden_rung_unless_asked_for(digits: Path) -> None:
    (model,) = load(str(write_manifest(digits, only(manifest_of(digits), "int8")))).models
    (hidden,) = hidden_rungs(model)
    assert (hidden.conversion.quantization, hidden.conversion.source) == ("float32", model.reference)
    assert hidden_rungs(replace(model, variants=(*model.variants, hidden))) == []


def test_content_depends_on_what_is_in_files_and_not_on_their_names(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for path, text in ((one, "a"), (same, "a"), (other, "b")):
        path.write_text(text)
    found = [content(FileSpec(str(path)), Hashes(())) for path in (one, same, other)]
    assert found[0] == found[1] != found[2]
