"""Node data for Model Explorer: which files, of which values, and whose place they take."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from tests.sample import HOSTILE, diagnosed, fixed, named
from tflite_guard import checking
from tflite_guard.errors import EvaluationError
from tflite_guard.reports import model_explorer
from tflite_guard.results import ModelResult, Report, TensorLoss, VariantResult
from tflite_guard.text.plain import file_names

FEW = (
    TensorLoss("a", "CONV_2D", 12.345678, 9.0, (0.0, 6.0), (0.0, 6.0), 0.01234, 200, "a/quantized"),
    TensorLoss("b", "ADD", None, 41.0, (0.0, 6.0), (0.0, 6.0), 0.0, 200, "b"),
    TensorLoss("float", "SIN", 3.0, 3.0, (0.0, 6.0), (0.0, 6.0), 0.0, 200),
)


def variant_of(*tensors: TensorLoss, name: str = "int8") -> VariantResult:
    found = diagnosed(fixed().models[0].variants[1])
    assert found.diagnosis is not None
    return replace(found, name=name, diagnosis=replace(found.diagnosis, tensors=tensors))


def report_of(*models: ModelResult) -> Report:
    return replace(fixed(), models=models)


def model_of(*variants: VariantResult, name: str = "digits") -> ModelResult:
    return replace(fixed().models[0], name=name, variants=variants)


def test_each_measure_is_a_file_of_the_values_by_the_names_of_the_judged_file() -> None:
    """What the file does not quantize and what loses nothing has no value."""
    written = {
        name: json.loads(text) for name, text in model_explorer.files(report_of(model_of(variant_of(*FEW)))).items()
    }
    assert {name: data["results"] for name, data in written.items()} == {
        "digits-int8-isolated.json": {"a/quantized": {"value": 12.35}},
        "digits-int8-cumulative.json": {"a/quantized": {"value": 9.0}, "b": {"value": 41.0}},
        "digits-int8-clipped.json": {"a/quantized": {"value": 1.234}, "b": {"value": 0.0}},
    }
    assert written["digits-int8-isolated.json"]["name"] == "int8: SQNR alone (dB)"
    for data in written.values():
        limits = [threshold["value"] for threshold in data["thresholds"]]
        assert limits == sorted(limits)
        assert all(re.fullmatch("#[0-9a-f]{6}", threshold["bgColor"]) for threshold in data["thresholds"])


def test_what_was_not_diagnosed_has_none() -> None:
    assert model_explorer.files(report_of(model_of(*fixed().models[0].variants))) == {}
    assert model_explorer.files(report_of(model_of(variant_of()))) == {}


def test_names_of_files_are_safe_and_none_is_another_ones() -> None:
    """Whatever models and variants are called, and where two names come to the same."""
    models = [
        model_of(variant_of(*FEW, name="b-c"), variant_of(*FEW, name="B-C"), name="a"),
        model_of(variant_of(*FEW, name="c"), variant_of(*FEW, name="../../x"), name="a-b"),
        model_of(variant_of(*FEW, name="\x1b[31m"), variant_of(*FEW, name="n" * 500), name=".."),
    ]
    names = [name for name in model_explorer.files(report_of(*models)) if name.endswith("-clipped.json")]
    assert names[:4] == [
        "a-b-c-clipped.json",
        "a-B-C-2-clipped.json",
        "a-b-c-3-clipped.json",
        "a-b-.._.._x-clipped.json",
    ]
    assert names[4] == "_31m-clipped.json"
    assert len(names) == 6
    assert all(len(name) < 255 for name in names)


@given(HOSTILE)
def test_a_files_name_never_leads_elsewhere(text: str) -> None:
    names = file_names([text, text])
    assert len({name.lower() for name in names}) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) for name in names)


@settings(deadline=None)
@given(HOSTILE)
def test_hostile_names_are_json_and_nothing_that_a_runner_obeys(text: str) -> None:
    for file, content in model_explorer.files(named(text)).items():
        assert os.path.basename(file) == file
        json.loads(content)
        assert "##[" not in content


# Files of a report folder


def test_node_data_takes_the_place_of_an_earlier_runs(tmp_path: Path) -> None:
    own = tmp_path / "out/model-explorer"
    checking.write(report_of(model_of(variant_of(*FEW, name="old"))), (), str(tmp_path / "out"))
    assert (own / "digits-old-isolated.json").exists()
    checking.write(report_of(model_of(variant_of(*FEW))), (), str(tmp_path / "out"))
    assert sorted(os.listdir(own)) == [f"digits-int8-{one}.json" for one in ("clipped", "cumulative", "isolated")]
    checking.write(report_of(model_of(*fixed().models[0].variants)), (), str(tmp_path / "out"))
    assert not own.exists()


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/kept.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model-explorer").symlink_to(tmp_path / "theirs")
    checking.write(report_of(model_of(variant_of(*FEW))), (), str(tmp_path / "out"))
    assert os.listdir(tmp_path / "theirs") == ["kept.json"]
    assert not (tmp_path / "out/model-explorer").is_symlink()
    assert len(os.listdir(tmp_path / "out/model-explorer")) == 3


def test_a_file_in_its_place_is_told_after_everything_else_is_written(tmp_path: Path) -> None:
    (tmp_path / "model-explorer").write_text("")
    with pytest.raises(EvaluationError, match=r"model-explorer: cannot be written \(.*\); write elsewhere"):
        checking.write(report_of(model_of(variant_of(*FEW))), (), str(tmp_path))
    assert (tmp_path / "report.json").exists()
    assert (tmp_path / "report.gitlab.json").exists()
