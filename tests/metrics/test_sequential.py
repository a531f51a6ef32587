"""What is told of a whole set from a part: by plain loops, by every order of small sets, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tflite_guard.metrics.sequential import STAKES, Drawn, _wealth, settled, with_intervals, without_intervals
from tflite_guard.results import Measurement, Slice, Slices

DROP = (0.0, 1.0)


def drawn(values, size: int, low: float = 0.0, high: float = 1.0) -> Drawn:
    return Drawn(np.asarray(values, np.float64), np.ones(len(values), bool), size, low, high)


def wealth(values, size: int, low: float, limit: float) -> float:
    """The largest wealth of bets against a mean of at most `limit`, one example and one stake after the other."""
    most = 1.0
    for count in range(1, len(values) + 1):
        total = 0.0
        for stake in STAKES:
            own = 1.0
            for at in range(count):
                to_come = (size * limit - sum(values[:at])) / (size - at)
                if to_come < low - 1e-12:
                    return math.inf
                if to_come > low + 1e-12:
                    own *= 1 + stake * ((values[at] - low) / (to_come - low) - 1)
            total += own
        most = max(most, total / len(STAKES))
    return math.inf if sum(values) - size * limit > -(size - len(values)) * low + 1e-9 else most


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), min_size=1, max_size=12), st.integers(0, 9), st.data())
def test_it_is_the_bet_written_as_a_plain_loop(values, unseen, data) -> None:
    size, limit = len(values) + unseen, data.draw(st.sampled_from([-0.9, -0.3, 0.01, 0.4, 0.8]))
    expected = wealth(values, size, -1.0, limit)
    found = drawn(values, size, -1.0)
    for alpha in (0.5, 0.2, 0.05):
        if not math.isclose(expected, 1 / alpha, rel_tol=1e-6):
            assert found.above(limit, alpha) == (expected >= 1 / alpha)
            assert found.mirrored.below(-limit, alpha) == (expected >= 1 / alpha)


@pytest.mark.parametrize(("right", "size"), [(5, 10), (2, 11), (10, 11), (1, 12)])
def test_over_every_order_of_a_small_set_the_truth_cannot_be_bet_against(right: int, size: int) -> None:
    """Every order is as likely as any other, so these are exact means and probabilities, without a simulation."""
    orders = list(itertools.combinations(range(size), right))
    for ones, mean in ((1.0, right / size), (0.0, 1 - right / size)):
        paths = []
        for places in orders:
            values = np.where(np.isin(np.arange(size), places), ones, 1 - ones)
            price = (size * mean - np.cumsum(values) + values) / (size - np.arange(size))
            paths.append(np.exp(np.concatenate([*_wealth(values, price.round(12))])))
        # Before the last example, which is known: on average a bet at the true price neither wins nor loses.
        assert np.mean(paths, axis=0)[:-1] == pytest.approx(np.ones(size - 1))
    for alpha in (0.5, 0.1):
        parts = [drawn(np.isin(np.arange(size - 1), places), size) for places in orders]
        assert sum(part.above(right / size, alpha) for part in parts) <= alpha * len(orders)
        assert sum(part.below(right / size, alpha) for part in parts) <= alpha * len(orders)
        assert not any(part.above(right / size + 0.01, alpha) > part.above(right / size, alpha) for part in parts)


def test_what_cannot_change_any_more_is_certain_and_what_can_is_not() -> None:
    # 90 of 100 right are needed, and 90 are.
    assert drawn(np.ones(90), 100).above(0.9 - 1e-3, 1e-9)
    assert not drawn(np.ones(80), 100).above(0.9, 1e-9)
    # With 11 wrong no more than 89 can be.
    assert drawn(np.zeros(11), 100).below(0.9, 1e-15)
    assert not drawn(np.zeros(10), 100).below(0.9, 1e-15)
    # On the limit itself neither is ever so.
    at_limit = drawn(np.tile([1.0, 0.0], 50), 100)
    assert not at_limit.above(0.5, 1e-9)
    assert not at_limit.below(0.5, 1e-9)


def test_examples_without_a_label_have_no_say() -> None:
    rng = np.random.default_rng(3)
    right = rng.random(2000) < 0.95
    ignored = rng.random(2000) < 0.4
    part = Drawn(np.where(ignored, 0.0, right)[:1500], ~ignored[:1500], 2000, 0.0, 1.0)
    assert part.above(0.9, 0.05)
    assert not part.below(0.97, 1e-6) or right[~ignored].mean() < 0.97
    low, high = part.interval(0.025)
    assert low < right[~ignored].mean() < high
    assert not Drawn(np.zeros(100), np.zeros(100, bool), 2000, 0.0, 1.0).above(0.1, 0.05)


def test_intervals_hold_the_whole_sets_value_and_end_at_it() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(40):
        whole = rng.permutation(np.repeat([1.0, -1.0, 0.0], [30, 10, 560]))
        low, high = drawn(whole[:200], 600, -1.0).interval(0.025)
        missed += not low <= 20 / 600 <= high
    assert missed <= 4
    low, high = drawn(whole, 600, -1.0).interval(0.025)
    assert low == pytest.approx(20 / 600, abs=1e-4)
    assert high == pytest.approx(20 / 600, abs=1e-4)


def scores(lost: int, gained: int, size: int, rng: np.random.Generator):
    reference = np.repeat([True, False, True], [lost, gained, size - lost - gained])
    candidate = np.repeat([False, True, True], [lost, gained, size - lost - gained])
    order = rng.permutation(size)
    return {"reference": reference[order], "candidate": candidate[order]}


@pytest.mark.parametrize(
    ("lost", "gained", "limits"),
    [
        (20, 0, {"max_drop": 0.02}),  # exactly at the limit, which passes
        (21, 0, {"max_drop": 0.02}),  # one example beyond
        (60, 40, {"max_drop": 0.02}),
        (62, 41, {"max_relative_drop": 0.02, "min": 0.93}),
        (31, 10, {"max_drop": 0.02, "min": 0.97}),
    ],
)
def test_a_verdict_is_another_than_the_whole_sets_at_most_as_often_as_said(lost, gained, limits) -> None:
    """In growing blocks as an evaluation does it, with limits so close that guesses would often be wrong."""
    size, alpha = 1000, 0.3
    rng = np.random.default_rng(11)
    reference, value = (size - gained) / size, (size - lost) / size
    drop = round(reference - value, 9)
    allowed = {"max_drop": drop, "max_relative_drop": drop / reference, "min": -value}
    fails = any(allowed[kind] > (-limit if kind == "min" else limit) + 1e-12 for kind, limit in limits.items())
    wrong = early = 0
    for _ in range(100):
        drawn_scores = scores(lost, gained, size, rng)
        for seen in (128, 192, 288, 432, 648, 972):
            part = {key: values[:seen] for key, values in drawn_scores.items()}
            if settled(part, DROP, size, limits, None, alpha / (2 * len(limits))):
                early += 1
                mean = {key: float(values.mean()) for key, values in part.items()}
                told = mean["reference"] - mean["candidate"]
                ours = {"max_drop": told, "max_relative_drop": told / mean["reference"], "min": -mean["candidate"]}
                failed = any(ours[kind] > (-limit if kind == "min" else limit) for kind, limit in limits.items())
                wrong += failed != fails
                break
    assert wrong <= alpha * 100
    assert early


def test_a_baseline_counts_where_there_is_one() -> None:
    part = {"candidate": np.random.default_rng(0).permutation(np.repeat([True, False], [700, 100]))}
    assert not settled(part, DROP, 1000, {"max_regression": 0.0}, 0.874, 0.025)
    assert settled(part, DROP, 1000, {"max_regression": 0.0}, 0.99, 0.025)
    assert settled(part, DROP, 1000, {"max_regression": 0.0, "min": 0.5}, None, 0.025)


def test_a_part_has_intervals_of_the_whole_or_says_why_not() -> None:
    blank = Measurement("accuracy", "accuracy", None, 0.9, True, reference=1.0, drop=0.1, examples=100)
    candidate = np.random.default_rng(0).permutation(np.repeat([True, False], [90, 10]))
    part = {"reference": np.ones(100, bool), "candidate": candidate}
    found = with_intervals(blank, part, DROP, 200, 0.025)
    assert found.interval_method == "betting"
    assert found.confidence_interval is not None
    assert found.value_interval is not None
    assert found.confidence_interval[0] < 0.1 < found.confidence_interval[1]
    assert found.value_interval[0] == pytest.approx(1 - found.confidence_interval[1], abs=0.05)
    other = without_intervals(blank)
    assert other.confidence_interval is None
    assert other.interval_note is not None
    assert "stopped early" in other.interval_note


def test_no_class_and_no_slice_of_a_part_has_an_interval():
    cut = Slices("m", "accuracy", None, 1, 1, (Slice(3, 40, 1.0, 0.5, 0.5, (0.2, 0.7)),))
    whole = Measurement("m", "accuracy", None, 0.5, True, reference=1.0, drop=0.5, by_class=cut, by_slice=(cut,))
    scores = {"candidate": np.arange(40) % 2 == 0, "reference": np.ones(40, bool)}
    for found in (without_intervals(whole), with_intervals(whole, scores, DROP, 200, 0.025)):
        for one in (found.by_class, *found.by_slice):
            assert (one.lost, one.worst[0].interval, one.worst[0].drop) == (0, None, 0.5)
