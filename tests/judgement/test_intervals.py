"""Intervals of proportions and the bootstrap: right by the literature, and right in simulation.

The simulations are of paired accuracies. Their allowance is four standard errors of the simulation.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.utils import resample as sklearn_resample

from tflite_guard.judgement.intervals import examples_needed, examples_needed_by_width, newcombe_paired, wilson
from tflite_guard.metrics.bootstrap import lower_tail, percentile_interval, replicates, resample

Z = 1.959963984540054
DRAWS = 20_000


def tango(b: np.ndarray, c: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Tango 1998 (Statistics in Medicine 17:891): the score interval, by bisection of its statistic."""
    b, c = b.astype(float), c.astype(float)

    def statistic(delta: np.ndarray) -> np.ndarray:
        second = -b - c + (2 * n - b + c) * delta
        third = -c * delta * (1 - delta)
        q = (np.sqrt(np.maximum(second**2 - 8 * n * third, 0)) - second) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return (b - c - n * delta) / np.sqrt(np.maximum(variance, 1e-300))

    estimate = (b - c) / n
    ends = []
    for outer, sign in ((-1 + 1e-9, 1), (1 - 1e-9, -1)):
        inside, outside = estimate.copy(), np.full_like(estimate, outer)
        for _ in range(60):
            middle = (inside + outside) / 2
            within = sign * statistic(middle) <= Z
            inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def drawn_tables(n: int, accuracy: float, discordant: float, drop: float, seed: int = 0) -> np.ndarray:
    """Counts (draws, 4): both right, only the reference, only the variant, neither."""
    only_reference, only_variant = (discordant + drop) / 2, (discordant - drop) / 2
    both = accuracy - only_reference
    rates = [both, only_reference, only_variant, 1 - both - only_reference - only_variant]
    return np.random.default_rng(seed).multinomial(n, rates, DRAWS)


def newcombe_of(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, index = np.unique(tables, axis=0, return_inverse=True)
    ends = np.array([newcombe_paired(*(int(x) for x in table)) for table in found])[index.reshape(-1)]
    return ends[:, 0], ends[:, 1]


def allowance(rate: float) -> float:
    return 4 * math.sqrt(rate * (1 - rate) / DRAWS)


SIZES = [100, 1_000, 10_000]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("discordant", [0.01, 0.02, 0.05, 0.1])
def test_without_a_true_change_at_most_5_percent_of_intervals_exclude_zero(n, discordant):
    low, high = newcombe_of(drawn_tables(n, 0.9, discordant, 0.0))
    assert np.mean((low > 0) | (high < 0)) <= 0.05 + allowance(0.05)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("drop", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("extra", [0.01, 0.05])
def test_a_true_drop_is_covered_by_at_least_95_percent_of_intervals(n, drop, extra):
    low, high = newcombe_of(drawn_tables(n, 0.9, drop + extra, drop))
    assert np.mean((low <= drop) & (drop <= high)) >= 0.95 - allowance(0.95)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("discordant", "drop"), [(0.02, 0.0), (0.05, 0.0), (0.06, 0.02), (0.1, 0.05)])
def test_widths_are_within_10_percent_of_the_score_intervals_and_never_zero(n, discordant, drop):
    tables = drawn_tables(n, 0.9, discordant, drop)
    low, high = newcombe_of(tables)
    score_low, score_high = tango(tables[:, 1], tables[:, 2], n)
    assert (high - low).min() > 0
    assert np.mean(high - low) == pytest.approx(np.mean(score_high - score_low), rel=0.1)


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        # Newcombe 1998, method 10; and Bentur et al. 2009 in Fagerland, Lydersen and Laake 2017, chapter 8.
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((1, 1, 7, 12), (-0.5069, -0.0256)),
    ],
)
def test_newcombe_gives_published_intervals(counts, published):
    assert newcombe_paired(*counts) == pytest.approx(published, abs=5e-5)


@given(st.tuples(*[st.integers(0, 200)] * 4).filter(any))
def test_newcombe_holds_its_estimate_has_width_and_turns_with_its_arguments(counts):
    a, b, c, d = counts
    low, high = newcombe_paired(a, b, c, d)
    assert -1 <= low < high <= 1
    assert low <= (b - c) / sum(counts) <= high
    assert newcombe_paired(a, c, b, d) == pytest.approx((-high, -low))


def test_no_change_at_all_is_not_certainty():
    low, high = newcombe_paired(100, 0, 0, 0)
    assert low == -high
    assert high == pytest.approx(1 - wilson(100, 100)[0])


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (0, 10), (3, 10), (10, 10), (81, 263), (15, 148), (9_999, 10_000)]
)
def test_wilson_solves_the_score_equation(successes, n):
    low, high = wilson(successes, n)
    rate = successes / n
    for end in (low, high):
        if 0 < end < 1:
            assert abs(rate - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(Z)
    assert low <= rate <= high
    assert low < high


def test_wilson_is_that_of_the_textbook():
    # Newcombe 1998 (Statistics in Medicine 17:857), 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_the_number_of_examples_needed_is_the_smallest_that_decides():
    def at(n):
        return wilson(0.98 * n, n)

    needed = examples_needed(at, 0.97, 100)
    assert needed is not None
    assert at(needed)[0] > 0.97
    assert at(needed - 1)[0] <= 0.97


def test_a_number_of_examples_beyond_a_million_is_not_given():
    assert examples_needed(lambda n: wilson(0.5 * n, n), 0.5, 100) is None
    assert examples_needed_by_width(0.1, 0.0, 100) is None
    assert examples_needed_by_width(1.0, 1e-4, 100) is None
    assert examples_needed_by_width(0.2, 0.1, 100) == 401


@pytest.mark.parametrize("units", [7, 300, 20_000], ids=["bytes", "two bytes", "too many to keep"])
def test_resamples_are_those_of_their_seed_whatever_was_drawn_before(units):
    rng = np.random.default_rng(5)
    drawn = (
        rng.integers(0, units, (20, units)) if units * 20 <= 2**20 else rng.integers(0, units, (2**20 // units, units))
    )
    loop = np.stack([np.bincount(row, minlength=units) for row in drawn])
    for before in (5, 6, 5):
        next(resample(units, seed=before))
    np.testing.assert_array_equal(next(resample(units, seed=5))[: len(loop)], loop)


def test_resamples_draw_as_many_as_there_are_each_equally_often():
    weights = np.concatenate(list(resample(7, seed=3)))
    assert weights.shape == (2_000, 7)
    assert (weights.sum(1) == 7).all()
    assert np.abs(weights.mean(0) - 1).max() < 4 * math.sqrt(6 / 7 / 2_000)


def test_the_bootstrap_of_a_mean_agrees_with_a_plain_loop():
    values = np.random.default_rng(1).exponential(size=80)
    loop = [sklearn_resample(values, random_state=i).mean() for i in range(2_000)]

    def statistic(weights):
        return np.repeat((weights @ values / weights.sum(1))[:, None], 2, axis=1)

    low, high = percentile_interval(replicates(statistic, 80, None, seed=0)[:, 1], 10_000)
    assert (low, high) == pytest.approx(np.percentile(loop, [2.5, 97.5]), rel=0.03)


def test_a_statistic_that_is_mostly_undefined_or_infinite_has_no_interval():
    many = 10_000
    assert percentile_interval(np.array([np.nan] * 60 + [1.0] * 40), many) is None
    assert percentile_interval(np.array([np.nan] * 40 + [1.0] * 30 + [2.0] * 30), many) == (1.0, 2.0)
    assert percentile_interval(np.array([1.0] * 50 + [np.inf] * 50), many) is None


@pytest.mark.parametrize("units", [2, 3, 4, 5, 10, 20, 100, 10_000])
def test_percentiles_move_outwards_for_few_units(units):
    expected = norm.cdf(-math.sqrt(units / (units - 1)) * student.ppf(0.975, units - 1))
    assert lower_tail(units) == pytest.approx(expected, rel=0.02, abs=2e-4)
    found = percentile_interval(np.linspace(0, 1, 100_001), units)
    assert found == pytest.approx((expected, 1 - expected), rel=0.02, abs=2e-4)


def test_resampling_groups_holds_its_error_where_resampling_examples_does_not():
    """20 recordings of 50 windows, intra-class correlation 0.5, no true change."""
    rng = np.random.default_rng(5)
    by_group, by_example, runs = 0, 0, 1_000
    for seed in range(runs):
        # Dirichlet-multinomial counts with concentrations that add up to 1 have correlation 1 / (1 + 1).
        counts = np.stack([rng.multinomial(50, rate) for rate in rng.dirichlet([0.6, 0.2, 0.2], 20)])
        drops = (counts[:, 1] - counts[:, 2]) / 50

        def statistic(weights, drops=drops):
            return np.repeat((weights @ drops / weights.sum(1))[:, None], 2, axis=1)

        low, high = percentile_interval(replicates(statistic, 20, np.arange(20), seed)[:, 1], 20)
        by_group += low > 0 or high < 0
        low, high = newcombe_paired(*(int(count) for count in counts.sum(0)), 0)
        by_example += low > 0 or high < 0
    assert by_example / runs > 0.5
    assert abs(by_group / runs - 0.05) <= 0.01 + 4 * math.sqrt(0.05 * 0.95 / runs)
