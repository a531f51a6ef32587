"""The numbers of a diagnosis against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.lab import Samples


def test_sqnr_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    exact, other = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    signal = noise = 0.0
    for row, theirs in zip(exact.tolist(), other.tolist(), strict=True):
        for a, b in zip(row, theirs, strict=True):
            signal += a * a
            noise += (a - b) * (a - b)
    assert evidence.sqnr({"y": other}, {"y": exact}) == pytest.approx(10 * math.log10(signal / noise))
    assert evidence.sqnr({"y": exact}, {"y": exact}) is None


def test_noise_is_relative_to_what_each_output_varies() -> None:
    exact = np.array([[0.0, 10.0], [2.0, 14.0]])
    other = exact + np.array([[1.0, -1.0], [1.0, 1.0]])
    # Each value's variance: 1 and 4, in the mean 2.5; each squared difference is 1.
    assert evidence.noise({"y": other}, {"y": exact}) == pytest.approx(1 / 2.5)


@given(st.floats(0.05, 0.9), st.floats(0.0, 1.0), st.booleans())
def test_the_recovered_fraction_is_that_of_the_definition(bad: float, part: float, higher: bool) -> None:
    reference = 0.95
    sign = 1 if higher else -1
    worse, better = sign * bad, sign * (bad + part * (reference - bad))
    resamples = np.tile([[sign * reference, worse]], (10, 1)), np.tile([[sign * reference, better]], (10, 1))
    found = evidence.recovered(None, *resamples, higher_is_better=higher)
    assert found is not None
    assert found[0] == pytest.approx(part, abs=1e-9)


def test_nothing_is_recovered_where_nothing_is_lost() -> None:
    same = np.tile([[0.9, 0.9]], (10, 1))
    assert evidence.recovered(None, same, same, higher_is_better=True) is None


def test_the_interval_of_the_recovered_fraction_holds_what_is_true() -> None:
    """Over many draws the 95 % interval holds the true fraction about as often as it says."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        reference, bad = rng.random(300) < 0.9, rng.random(300) < 0.6
        new = np.where(rng.random(300) < 0.7, reference, bad)
        weights = evidence.weights_drawn(300, 400, seed=int(rng.integers(1 << 30)))
        both = [np.stack([weights @ reference, weights @ one], 1) / 300 for one in (bad, new)]
        found = evidence.recovered(None, *both, higher_is_better=True)
        assert found is not None
        assert found[1] is not None
        held += found[1][0] <= 0.7 <= found[1][1]
    assert 0.9 <= held / 200 <= 0.99


def test_duplicates_and_constants_are_counted() -> None:
    rows = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 3.0], [4.0, 5.0]])
    samples = Samples({"x": rows})
    assert evidence.distinct(samples) == 3
    assert evidence.constants(samples) == 1
    assert evidence.shared(samples, Samples({"x": rows[1:2]})) == 1


def test_an_extreme_example_stands_out() -> None:
    values = np.random.default_rng(2).normal(size=(50, 8))
    values[7] *= 40
    far = evidence.extremes(values)
    assert far.argmax() == 7
    assert far[7] > 20
    assert np.delete(far, 7).max() < 3


def test_the_outlier_ratio_is_of_the_second_largest_of_few_weights() -> None:
    weights = np.array([[1.0, 2.0, 3.0, -300.0], [1.0, 1.0, 1.0, 1.0]])
    assert evidence.outlier_ratio(weights).tolist() == [100.0, 1.0]


def test_ties_among_changed_decisions_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(4)
    exact = rng.random((200, 6))
    coarse = np.round(exact * 4) / 4
    changed = tied = 0
    for row, other in zip(coarse.tolist(), exact.tolist(), strict=True):
        if row.index(max(row)) != other.index(max(other)):
            changed += 1
            tied += row.count(max(row)) > 1
    assert changed > 10
    assert evidence.tied({"y": coarse}, {"y": exact}) == pytest.approx(tied / changed)
    assert evidence.tied({"y": exact}, {"y": exact}) == 0.0
    assert evidence.tied({"y": coarse[:, :1]}, {"y": exact[:, :1]}) == 0.0


def test_a_part_of_the_examples_is_among_them_and_scaled_ones_are_not() -> None:
    rng = np.random.default_rng(5)
    real = rng.normal(size=(400, 16)) * rng.uniform(0.5, 2, size=(400, 1))
    faint = real[np.abs(real).max(1) < np.median(np.abs(real).max(1))]
    assert evidence.among(faint, real)
    assert not evidence.among(real * 8, real)
    assert not evidence.among(real / 255, real)


def test_a_histogram_holds_every_value_and_the_range() -> None:
    rng = np.random.default_rng(3)
    evaluation, calibration = list(rng.normal(0, 4, (20, 50))), list(rng.normal(0, 1, (30, 50)))
    found = evidence.histogram("t", "ADD", (-2.0, 3.0), evaluation, calibration)
    assert found is not None
    everything = np.concatenate([*evaluation, *calibration])
    assert found.span == (everything.min(), everything.max())
    assert (sum(found.evaluation), sum(found.calibration)) == (1000, 1500)
    assert (len(found.evaluation), len(found.calibration)) == (64, 64)
    assert (found.evaluation_examples, found.calibration_examples) == (20, 30)
    step = 5 / 255
    beyond = sum(1 for row in evaluation for value in row.tolist() if not -2 - step <= value <= 3 + step)
    assert found.evaluation_outside == beyond / 1000
    alone = evidence.histogram("t", "ADD", (-100.0, 100.0), evaluation, [])
    assert alone is not None
    assert (alone.span, alone.calibration, alone.calibration_outside) == ((-100.0, 100.0), (), None)


def test_there_is_no_histogram_without_values_or_a_range() -> None:
    assert evidence.histogram("t", "ADD", (0.0, 1.0), [], [np.ones(3)]) is None
    assert evidence.histogram("t", "ADD", (0.0, np.inf), [np.ones(3)], []) is None
