"""What calibration data says beside evaluation data, from facts by hand; nothing about healthy data."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tflite_guard.judgement.findings import of_variant
from tflite_guard.judgement.judging import with_diagnosis
from tflite_guard.manifest.types import Conversion, DatasetSpec, VariantSpec
from tflite_guard.protocol import CalibrationFacts, Diagnosed, Evaluation, InputSpans, Reach, WeightFacts
from tflite_guard.results import Artifact, Diagnosis, Finding, VariantResult, Verdict

STEPS: tuple[dict[str, Any], ...] = ({"cast": "float32"}, {"scale": 0.5})
TEST = DatasetSpec("test", "npz", None, "image", preprocess=STEPS)
CALIB = replace(TEST, name="calib")
HEALTHY = CalibrationFacts(200, 200, 0, 0, (InputSpans("image", (0.0, 1.0), (0.0, 1.1)),))


def found(facts: CalibrationFacts, calibration: DatasetSpec = CALIB, weights: WeightFacts | None = None) -> list[Any]:
    evaluation = Evaluation(
        (), Artifact(1000, "0" * 64, 10, quantized_tensors=20), None, calibration=facts, weights=weights
    )
    variant = VariantSpec("int8", Conversion("int8", calibration=calibration))
    return [(one.rule, one.severity, one.message) for one in of_variant(evaluation, variant, (), TEST)]


def spans(calibration: tuple[float, float], evaluation: tuple[float, float] = (0.0, 1.0)) -> CalibrationFacts:
    return replace(HEALTHY, inputs=(InputSpans("image", calibration, evaluation),))


def test_of_healthy_data_nothing_is_found() -> None:
    assert found(HEALTHY) == []
    assert found(replace(HEALTHY, distinct=150, constant=20, shared=5)) == []
    assert found(spans((0.0, 0.7))) == []
    assert found(HEALTHY, weights=WeightFacts(0.5, 0.9999)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distinct": 1}, "only 1 of 200 examples differ"),
        ({"distinct": 100}, "only 100 of 200 examples differ"),
        ({"constant": 101, "distinct": 200}, "101 of 200 examples hold one value throughout"),
    ],
)
def test_calibration_data_that_holds_next_to_nothing(changes: dict[str, int], words: str) -> None:
    ((rule, severity, message),) = found(replace(HEALTHY, **changes))
    assert (rule, severity) == ("calibration-degenerate", "warning")
    assert words in message


@pytest.mark.parametrize("calibration", [(0.0, 0.5), (0.0, 255.0), (-1.0, 0.0), (-1.0, 1.0)])
def test_ranges_that_differ(calibration: tuple[float, float]) -> None:
    ((rule, severity, message),) = found(spans(calibration))
    assert (rule, severity) == ("calibration-range-mismatch", "warning")
    assert "'calib'" in message


def test_other_preprocessing_is_a_note_while_the_ranges_agree() -> None:
    other = replace(CALIB, preprocess=({"scale": 0.5}, {"cast": "float32"}))
    ((rule, severity, message),) = found(HEALTHY, other)
    assert (rule, severity) == ("calibration-range-mismatch", "note")
    assert "preprocessed differently" in message
    ((_, severity, message),) = found(spans((0.0, 0.7)), other)
    assert severity == "warning"
    assert "apply the preprocessing of 'test' to 'calib'" in message


def test_shared_examples_are_told_unless_both_are_one_dataset() -> None:
    ((rule, severity, message),) = found(replace(HEALTHY, shared=11))
    assert (rule, severity) == ("calibration-shared", "note")
    assert "11 of 200 examples" in message
    assert found(replace(HEALTHY, shared=200), TEST) == []


def test_few_examples_say_nothing_of_ranges() -> None:
    assert found(replace(spans((0.0, 9.0)), examples=9, distinct=9)) == []


def reach(*ends: float) -> CalibrationFacts:
    return replace(HEALTHY, reaches=(Reach("image", tuple((-0.5, end) for end in ends)),))


def test_a_range_that_a_few_examples_set() -> None:
    ((rule, severity, message),) = found(reach(40.0, 39.0, 1.0, 0.9))
    assert (rule, severity) == ("calibration-outliers", "warning")
    assert "without the 2 examples that reach furthest" in message
    assert "can disagree by a factor of 27" in message
    ((_, _, message),) = found(reach(40.0, 1.0, 0.9, 0.9))
    assert "without the example that reaches furthest" in message


def test_halves_that_agree_say_nothing() -> None:
    assert found(reach(1.0, 1.0, 1.0, 1.0)) == []
    assert found(reach(40.0, 39.0, 38.0, 37.0)) == []  # many reach as far
    assert found(reach(7.0, 0.5, 0.5, 0.5)) == []
    assert found(replace(reach(40.0, 1.0, 1.0, 1.0), examples=49, distinct=49)) == []


def test_other_weights_are_a_note() -> None:
    ((rule, severity, message),) = found(HEALTHY, weights=WeightFacts(229.4, 0.2))
    assert (rule, severity) == ("stale-artifact", "note")
    assert "229 quantization steps" in message
    assert found(HEALTHY, weights=WeightFacts(40.0, 0.9999)) == []


def test_what_is_proven_is_not_told_twice() -> None:
    cheap = Finding("calibration-range-mismatch", "warning", "cheap")
    other = Finding("stale-artifact", "note", "other")
    proven = Finding("calibration-range-mismatch", "warning", "proven", primary=True)
    result = VariantResult("int8", "int8", Verdict.FAIL, False, None, (), (cheap, other), (), None, {})
    told = with_diagnosis(result, Diagnosed(Diagnosis("accuracy", 100), (proven,)), ()).findings
    assert told == (proven, other)
