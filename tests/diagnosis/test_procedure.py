"""What a diagnosis names, on a network of plain arrays whose faults are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.diagnosis.conftest import PlainLab, examples, network
from tflite_guard.diagnosis.lab import Case, Samples
from tflite_guard.diagnosis.procedure import diagnose
from tflite_guard.manifest.types import Tolerance
from tflite_guard.protocol import Diagnosed

CASE = Case("accuracy", True, True, None, {"accuracy": Tolerance(max_drop=0.02)})


def calibrated(lab: PlainLab, data: np.ndarray) -> PlainLab:
    """The same network, its ranges taken on other data."""
    samples = Samples({"x": data})
    return replace(lab, calibration=samples, given=lab.ranges(samples))


def named(found: Diagnosed) -> list[str]:
    return [finding.rule for finding in found.findings if finding.primary]


def test_nothing_is_named_where_nothing_is_lost(healthy: PlainLab) -> None:
    found = diagnose(healthy, CASE)
    assert named(found) == []
    assert found.diagnosis.note is not None


def test_calibration_data_of_another_scale_is_named_with_its_proof(healthy: PlainLab) -> None:
    found = diagnose(calibrated(healthy, examples(200, seed=3) * 60), CASE)
    (cause,) = found.findings
    assert cause.rule == "calibration-range-mismatch"
    assert cause.primary
    assert cause.experiment is not None
    assert cause.experiment.recovered > 0.9
    assert cause.experiment.confidence_interval is not None
    assert cause.experiment.confidence_interval[0] > 0.5
    assert "calib" in cause.message


def test_one_example_again_and_again_is_named(healthy: PlainLab) -> None:
    one = np.repeat(examples(1, seed=4) * 0.1, 100, axis=0)
    assert named(diagnose(calibrated(healthy, one), CASE)) == ["calibration-degenerate"]


def test_a_few_extreme_examples_are_named(healthy: PlainLab) -> None:
    data = examples(200, seed=5)
    data[:3] *= 80
    found = diagnose(calibrated(healthy, data), CASE)
    assert named(found) == ["calibration-outliers"]
    assert found.findings[0].evidence["extreme"] == 3


def test_channels_of_unlike_range_are_named_with_their_tensor(healthy: PlainLab) -> None:
    factors = np.exp(np.random.default_rng(6).uniform(-5, 5, len(healthy.first)))
    faulty = replace(healthy, first=healthy.first * factors[:, None], second=healthy.second / factors)
    faulty.given = faulty.ranges(faulty.calibration)
    found = diagnose(faulty, CASE)
    assert named(found) == ["channel-imbalance"]
    assert found.findings[0].tensor == "hidden"


def test_a_file_made_from_other_weights_is_named(healthy: PlainLab) -> None:
    first, second = network(seed=7)
    shipped = replace(healthy, shipped=True, calibration=None, own={"W1": first, "W2": second})
    assert named(diagnose(shipped, CASE)) == ["stale-artifact"]


def test_a_file_made_for_other_inputs_is_named(healthy: PlainLab) -> None:
    shipped = replace(healthy, shipped=True, calibration=None, own={"W1": healthy.first / 255, "W2": healthy.second})
    shipped.given = {**healthy.given, "x": tuple(255 * end for end in healthy.given["x"])}
    found = diagnose(shipped, CASE)
    assert named(found) == ["input-range-mismatch"]
    assert "255" in found.findings[0].message


def test_what_has_not_failed_is_looked_at_and_nothing_is_named(healthy: PlainLab) -> None:
    found = diagnose(calibrated(healthy, examples(200, seed=3) * 60), replace(CASE, failed=False))
    assert found.findings == ()
    rungs = ["reference", "float32", "float16", "weights", "int8", "file"]
    assert [rung.name for rung in found.diagnosis.ladder] == rungs


def test_16_bits_hold_what_lies_a_step_beyond_the_8_bit_range(
    healthy: PlainLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A softmax in 8 bits ends at 255/256; in 16 bits its 1.0 is not lost."""
    given: dict[str, tuple[float, float]] = {}
    monkeypatch.setattr(healthy, "int16x8", given.update)
    healthy.given = {**healthy.given, "output": (0.0, 255 / 256)}
    diagnose(healthy, replace(CASE, failed=False))
    assert given["output"] == pytest.approx((-1 / 256, 1.0))


def test_the_histogram_is_of_the_tensor_that_the_cause_is_about(healthy: PlainLab) -> None:
    first = healthy.first.copy()
    first[0] *= 120
    second = healthy.second.copy()
    second[:, 0] /= 120
    lab = replace(healthy, first=first, second=second)
    found = diagnose(replace(lab, given=lab.ranges(lab.evaluation)), CASE)
    (cause,) = found.findings
    assert cause.tensor == "hidden"
    (histogram,) = found.diagnosis.histograms
    assert (histogram.tensor, histogram.operator) == ("hidden", "FULLY_CONNECTED")
    assert histogram.quantized == lab.ranges(lab.evaluation)["hidden"]


def test_without_a_tensor_the_histograms_are_of_what_clips_most(healthy: PlainLab) -> None:
    low, high = healthy.given["output"]
    given = {**healthy.given, "output": (low / 4, high / 4)}
    found = diagnose(replace(healthy, given=given, calibration=None), replace(CASE, failed=False))
    worst, *others = found.diagnosis.histograms
    assert worst.tensor == "output"
    assert len(others) == 2
    assert worst.evaluation_outside > 0.2
    assert (worst.calibration, worst.calibration_outside, worst.calibration_examples) == ((), None, 0)


def test_few_examples_prove_nothing(healthy: PlainLab) -> None:
    few = replace(healthy, evaluation=healthy.evaluation.take(range(20)), labels=healthy.labels[:20])
    found = diagnose(few, CASE)
    assert found.findings == ()
    assert "too few" in str(found.diagnosis.note)


@pytest.mark.parametrize("seed", range(6))
def test_healthy_networks_have_no_cause(healthy: PlainLab, seed: int) -> None:
    """Whatever is lost is within the tolerance, so that there is nothing to explain."""
    lab = calibrated(healthy, examples(200, seed=10 + seed))
    rows = np.arange(lab.evaluation.count)
    ((_, measured),) = lab.measured(lab.outputs(lab.artifact, lab.evaluation), rows)
    assert measured.drop is not None
    found = diagnose(lab, replace(CASE, failed=measured.drop > 0.02))
    assert named(found) == []
