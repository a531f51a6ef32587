"""What passes, what fails, and what is said about evaluations that are too small to tell."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from msgspec.structs import replace

from tflite_guard.judgement.intervals import newcombe_paired, wilson
from tflite_guard.judgement.verdict import judge, within_steps
from tflite_guard.manifest.types import Tolerance
from tflite_guard.results import Measurement, Slice, Slices, Verdict
from tflite_guard.text.figures import interval

PASS, WARN, FAIL, ERROR = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.ERROR


def accuracy(counts=(930, 50, 20, 0), **changes) -> Measurement:
    a, b, c, _ = counts
    n = sum(counts)
    return replace(
        Measurement(
            name="accuracy",
            metric="accuracy",
            output=None,
            higher_is_better=True,
            reference=(a + b) / n,
            value=(a + c) / n,
            drop=(a + b) / n - (a + c) / n,
            confidence_interval=newcombe_paired(*counts),
            value_interval=wilson(a + c, n),
            interval_method="newcombe-paired",
            examples=n,
            counts=counts,
        ),
        **changes,
    )


def agreement(same: int, n: int) -> Measurement:
    interval = wilson(same, n)
    return Measurement(
        name="agreement",
        metric="agreement",
        output=None,
        higher_is_better=True,
        value=same / n,
        confidence_interval=interval,
        value_interval=interval,
        interval_method="wilson",
        examples=n,
        counts=(same, 0, 0, n - same),
    )


def error_metric(value=2.0, reference=1.5, interval=(0.4, 0.6), **changes) -> Measurement:
    return replace(
        Measurement(
            name="mae",
            metric="mae",
            output=None,
            higher_is_better=False,
            reference=reference,
            value=value,
            drop=value - reference,
            confidence_interval=interval,
            value_interval=(1.8, 2.2),
            interval_method="bootstrap",
            examples=400,
        ),
        **changes,
    )


def size(value: int) -> Measurement:
    return Measurement("size_bytes", "size_bytes", None, value, False)


def verdict_of(measurement, baseline=None, **limits):
    return judge(measurement, Tolerance(**limits), baseline)[0].verdict


def rules(measurement, baseline=None, **limits):
    return [finding.rule for finding in judge(measurement, Tolerance(**limits), baseline)[1]]


def test_without_a_tolerance_a_metric_has_no_verdict_and_nothing_is_conclusive():
    result, findings = judge(accuracy(), None, None)
    assert (result.verdict, result.conclusive, result.tolerance, findings) == (None, None, None, ())


@pytest.mark.parametrize(
    ("measurement", "limits", "verdict"),
    [
        (accuracy(), {"max_drop": 0.04}, PASS),
        (accuracy(), {"max_drop": 0.02}, FAIL),
        (accuracy(), {"max_drop": 0.02, "level": "warning"}, WARN),
        (accuracy(), {"max_relative_drop": 0.05}, PASS),
        (accuracy(), {"max_relative_drop": 0.01}, FAIL),
        (accuracy(), {"min": 0.94}, PASS),
        (accuracy(), {"min": 0.96}, FAIL),
        (accuracy(), {"min": 0.94, "max_drop": 0.01}, FAIL),
        (agreement(95, 100), {"min": 0.9}, PASS),
        (agreement(95, 100), {"min": 0.96}, FAIL),
        (error_metric(), {"max_drop": 0.6}, PASS),
        (error_metric(), {"max_drop": 0.4}, FAIL),
        (error_metric(), {"max": 2.5}, PASS),
        (error_metric(), {"max": 1.9}, FAIL),
        (size(1000), {"max": 1000}, PASS),
        (size(1001), {"max": 1000}, FAIL),
        (error_metric(value=0.5, reference=0.0), {"max_relative_drop": 0.5}, FAIL),
        (error_metric(value=0.0, reference=0.0), {"max_relative_drop": 0.5}, PASS),
        (error_metric(value=-1.9, reference=-2.0), {"max_relative_drop": 0.1}, PASS),
        (error_metric(value=-1.9, reference=-2.0), {"max_relative_drop": 0.01}, FAIL),
    ],
)
def test_the_measured_value_decides(measurement, limits, verdict):
    assert verdict_of(measurement, **limits) is verdict


def test_exactly_at_a_limit_passes_despite_rounding():
    measurement = accuracy((960, 20, 0, 20))
    assert measurement.drop > 0.02, "0.98 - 0.96 in binary"
    assert verdict_of(measurement, max_drop=0.02) is PASS
    assert verdict_of(measurement, max_drop=0.02 - 1e-6) is FAIL
    assert verdict_of(error_metric(value=0.1 * 3, reference=0.2), max=0.3) is PASS
    assert verdict_of(error_metric(value=1e6 + 0.001, reference=1e6), max_drop=0.001) is PASS, "digits lost to 1e6"
    assert verdict_of(error_metric(value=3.0 * (1 + 1e-10)), max=3.0) is PASS, "the rounding of a long sum"
    assert verdict_of(accuracy((700, 0, 0, 300)), max_drop=0.0) is PASS
    assert verdict_of(accuracy((699, 1, 0, 300)), max_drop=0.0) is FAIL


def test_the_limit_that_failed_is_named_and_the_tolerance_is_kept_as_written():
    result, _ = judge(accuracy(), Tolerance(max_drop=0.05, min=0.99, line=7, require="proven_fail"), None)
    assert result.failed_limit == "min"
    assert result.tolerance == {"max_drop": 0.05, "min": 0.99, "require": "proven_fail", "line": 7}


@pytest.mark.parametrize(
    ("limits", "conclusive"),
    [
        ({"max_drop": 0.06}, True),
        ({"max_drop": 0.005}, True),
        ({"max_drop": 0.03}, False),
        ({"min": 0.9}, True),
        ({"min": 0.95}, False),
        ({"max_drop": 0.06, "min": 0.95}, False),
        ({"max_regression": 0.1}, None),
    ],
)
def test_conclusive_means_the_interval_lies_on_one_side_of_every_limit(limits, conclusive):
    assert judge(accuracy(), Tolerance(**limits), 0.95)[0].conclusive is conclusive


def test_a_minimum_is_held_against_the_interval_of_the_value_and_not_of_the_drop():
    # The paired drop is known to a hair here, the accuracy itself is not.
    measurement = accuracy((70, 0, 0, 30))
    assert judge(measurement, Tolerance(min=0.65), None)[0].conclusive is False
    assert judge(measurement, Tolerance(min=0.55), None)[0].conclusive is True


@pytest.mark.parametrize(
    ("require", "limit", "verdict"),
    [
        (None, 0.031, PASS),
        (None, 0.029, FAIL),
        ("proven_pass", 0.031, FAIL),
        ("proven_pass", 0.048, PASS),
        ("proven_fail", 0.029, PASS),
        ("proven_fail", 0.013, FAIL),
    ],
)
def test_require_makes_the_end_of_the_interval_decide(require, limit, verdict):
    low, high = accuracy().confidence_interval
    assert 0.013 < low < 0.029
    assert 0.031 < high < 0.048
    assert verdict_of(accuracy(), max_drop=limit, require=require) is verdict


@pytest.mark.parametrize(("require", "limit", "verdict"), [("proven_pass", 0.91, FAIL), ("proven_fail", 0.97, PASS)])
def test_require_takes_the_other_end_for_a_minimum(require, limit, verdict):
    assert verdict_of(agreement(95, 100), min=limit, require=require) is verdict
    assert verdict_of(agreement(95, 100), min=limit) is not verdict


def test_nothing_is_proven_without_an_interval():
    measurement = error_metric(confidence_interval=None, interval_note="all examples belong to one group")
    assert verdict_of(measurement, max_drop=0.9, require="proven_pass") is FAIL
    assert verdict_of(measurement, max_drop=0.9, require="proven_pass", level="warning") is WARN
    (finding,) = judge(measurement, Tolerance(max_drop=0.9, require="proven_pass"), None)[1]
    assert finding.rule == "not-proven"
    assert "all examples belong to one group" in finding.message
    # A failure that cannot be proven must not let everything through.
    assert verdict_of(measurement, max_drop=0.4, require="proven_fail") is FAIL
    assert verdict_of(measurement, max_drop=0.9, require="proven_fail") is PASS


@pytest.mark.parametrize("limits", [{}, {"max_drop": 1.0}, {"level": "warning", "max_drop": 1.0}])
def test_what_could_not_be_measured_is_an_error_and_never_a_pass(limits):
    result, _ = judge(accuracy(error="there are no examples to measure", value=None), Tolerance(**limits), None)
    assert (result.verdict, result.error) == (ERROR, "there are no examples to measure")
    assert verdict_of(accuracy(value=None, drop=None), **limits) is ERROR
    assert judge(accuracy(value=None), None, None)[0].verdict is ERROR


def test_a_drop_of_a_metric_without_a_reference_value_is_an_error():
    result, _ = judge(agreement(9, 10), Tolerance(max_drop=0.1), None)
    assert result.verdict is ERROR
    assert "max_drop does not apply here" in (result.error or "")


def test_identical_outputs_pass_what_compares_with_the_reference():
    infinite = Measurement("sqnr", "sqnr", None, None, True, identical=True, examples=10)
    for require in (None, "proven_pass", "proven_fail"):
        assert verdict_of(infinite, min=1000.0, require=require) is PASS
    same = replace(accuracy((80, 0, 0, 20)), identical=True)
    assert verdict_of(same, max_drop=0.0, require="proven_pass") is PASS
    assert rules(same, max_drop=0.01) == []
    assert verdict_of(same, min=0.9) is FAIL, "the reference itself is not good enough"
    agreed = replace(agreement(10, 10), identical=True)
    assert verdict_of(agreed, min=0.99, require="proven_pass") is PASS


@pytest.mark.parametrize(
    ("baseline", "limit", "regression", "verdict"),
    [(0.97, 0.02, 0.02, PASS), (0.98, 0.02, 0.03, FAIL), (0.9, 0.0, -0.05, PASS), (0.95, 0.0, 0.0, PASS)],
)
def test_the_change_since_the_baseline_is_gated(baseline, limit, regression, verdict):
    result, _ = judge(accuracy(), Tolerance(max_regression=limit), baseline)
    assert result.regression == pytest.approx(regression)
    assert (result.verdict, result.baseline) == (verdict, baseline)
    assert result.failed_limit == ("max_regression" if verdict is FAIL else None)


def infinite(**changes) -> Measurement:
    return replace(Measurement("sqnr", "sqnr", None, None, True, identical=True, examples=10), **changes)


@pytest.mark.parametrize(
    ("measurement", "recorded", "verdict", "regression"),
    [
        (infinite(), math.inf, PASS, 0.0),
        (infinite(), 40.0, PASS, None),
        (infinite(value=90.0, identical=False), math.inf, FAIL, None),
        (infinite(value=90.0, identical=False, higher_is_better=False), math.inf, FAIL, None),
    ],
)
def test_what_was_identical_must_stay_so(measurement, recorded, verdict, regression):
    result, findings = judge(measurement, Tolerance(max_regression=1000.0), recorded)
    assert (result.verdict, result.regression, findings) == (verdict, regression, ())
    assert result.failed_limit == ("max_regression" if verdict is FAIL else None)
    assert result.baseline_identical is (recorded == math.inf)
    assert result.baseline == (None if recorded == math.inf else recorded)


def test_identical_outputs_without_a_baseline_are_told_of_it():
    assert rules(infinite(), max_regression=0.1) == ["no-baseline"]
    assert judge(infinite(), Tolerance(max_regression=0.1), None)[0].baseline_identical is False


def test_a_smaller_size_is_no_regression():
    assert verdict_of(size(900), 1000, max_regression=0) is PASS
    assert verdict_of(size(1100), 1000, max_regression=50) is FAIL
    assert verdict_of(size(1100), 1000, max_regression=100) is PASS


def test_the_change_since_the_baseline_is_judged_by_the_value_alone():
    assert verdict_of(accuracy(), 0.96, max_regression=0.02, require="proven_pass") is PASS
    assert rules(accuracy(), 0.96, max_regression=0.02) == []


def test_without_a_baseline_the_limit_is_said_not_to_apply():
    result, (finding,) = judge(accuracy(), Tolerance(max_regression=0.01), None)
    assert (result.verdict, result.regression) == (PASS, None)
    assert (finding.rule, finding.severity) == ("no-baseline", "note")


def needed_of(measurement, **limits) -> int | None:
    findings = judge(measurement, Tolerance(**limits), None)[1]
    (finding,) = [f for f in findings if f.rule == "underpowered-evaluation"]
    assert finding.severity == "note"
    assert finding.evidence["examples"] == measurement.examples
    return finding.evidence["needed"]


@pytest.mark.parametrize("limit", [0.015, 0.02, 0.05])
def test_the_examples_needed_for_a_drop_are_enough_and_not_far_too_many(limit):
    measurement = accuracy((93, 5, 2, 0))
    needed = needed_of(measurement, max_drop=limit)
    low, high = newcombe_paired(*(count * needed / 100 for count in measurement.counts))
    assert limit < low or high < limit
    low, high = newcombe_paired(*(count * 0.9 * needed / 100 for count in measurement.counts))
    assert low <= limit <= high


@pytest.mark.parametrize("limit", [0.9, 0.97])
def test_the_examples_needed_for_a_minimum_are_enough_and_not_far_too_many(limit):
    needed = needed_of(agreement(95, 100), min=limit)
    low, high = wilson(0.95 * needed, needed)
    assert limit < low or high < limit
    low, high = wilson(0.95 * 0.9 * needed, 0.9 * needed)
    assert low <= limit <= high


def test_the_examples_needed_for_a_resampled_metric_follow_the_square_root():
    assert needed_of(error_metric(interval=(0.3, 0.8)), max_drop=0.6) == 3_601
    assert needed_of(error_metric(interval=(0.3, 0.8)), max_drop=0.4) == 1_601


def test_groups_are_what_more_is_needed_of():
    grouped = accuracy((93, 5, 2, 0), groups=10, interval_method="bootstrap-groups")
    resampled = replace(grouped, confidence_interval=(-0.07, 0.13))
    assert needed_of(resampled, max_drop=0.08) == pytest.approx(100 * (0.1 / 0.05) ** 2, rel=0.05)
    effective = accuracy((100, 0, 0, 0), groups=10, interval_method="newcombe-paired-groups")
    effective = replace(effective, confidence_interval=newcombe_paired(10, 0, 0, 0))
    needed = needed_of(effective, max_drop=0.1)
    assert newcombe_paired(needed / 10, 0, 0, 0)[1] < 0.1
    assert newcombe_paired(0.9 * needed / 10, 0, 0, 0)[1] > 0.1


def test_a_drop_at_its_limit_would_take_more_than_a_million_examples():
    (finding,) = judge(accuracy((960, 20, 0, 20)), Tolerance(max_drop=0.02), None)[1]
    assert finding.evidence["needed"] is None
    assert "more than a million examples would do" in finding.message


def test_the_warning_says_how_large_the_evaluation_set_should_be():
    (finding,) = judge(accuracy((93, 5, 2, 0)), Tolerance(max_drop=0.05), None)[1]
    assert finding.message == (
        "accuracy: 100 examples are too few to tell whether the drop is within max_drop 0.05: "
        f"its 95 % interval is [−0.0283, 0.0939]; about {finding.evidence['needed']:,} examples would do "
        "at the rates seen"
    )


def test_the_warning_has_the_interval_of_the_table_and_the_limit_of_the_manifest():
    for tolerance, said in (
        (Tolerance(max_relative_drop=0.05), "the drop is within max_relative_drop 0.05 (here 0.0490)"),
        (Tolerance(max_drop=0.0501234567), "the drop is within max_drop 0.0501234567"),
    ):
        result, (finding,) = judge(accuracy((93, 5, 2, 0)), tolerance, None)
        assert f"{said}: its 95 % interval is {interval(result.confidence_interval, 'accuracy')};" in finding.message
        assert "[−0.0283, 0.0939]" in finding.message


def test_of_several_undecided_limits_the_most_demanding_is_reported():
    measurement = agreement(95, 100)
    both = judge(measurement, Tolerance(min=0.945, max=0.99), None)[1]
    assert both[0].evidence["limit"] == "min"


def test_the_line_is_that_of_the_limit_that_failed():
    tolerance = Tolerance(max_drop=0.05, min=0.99, level="warning", line=8, lines={"min": 5, "max_drop": 12})
    assert judge(accuracy((93, 2, 2, 3)), tolerance, None)[0].tolerance["line"] == 5
    assert judge(accuracy((83, 15, 2, 0)), tolerance, None)[0].tolerance["line"] == 12
    passing = judge(accuracy((100, 0, 0, 0)), tolerance, None)[0]
    assert passing.tolerance == {"max_drop": 0.05, "min": 0.99, "level": "warning", "line": 8}


@pytest.mark.parametrize("limit", [5e-324, 1e-320, 1e-200, 1.7e308])
@pytest.mark.parametrize("kind", ["max_drop", "max_relative_drop", "max", "max_regression"])
def test_a_limit_of_any_size_gives_a_verdict(kind, limit):
    for value, reference in ((0.0, 0.0), (0.6, 0.1), (1.7e308, 1.7e308)):
        drop = value - reference
        measured = error_metric(value=value, reference=reference, drop=drop, interval=(drop - 0.1, drop + 0.1))
        assert judge(measured, Tolerance(**{kind: limit}), 0.0)[0].verdict in (PASS, FAIL)


def test_huge_values_are_not_within_every_limit():
    measured = error_metric(value=1.7e308, reference=1e308, drop=0.7e308, interval=(0.6e308, 0.8e308))
    assert judge(measured, Tolerance(max_drop=1.0), None)[0].verdict is FAIL


def test_recorded_outputs_are_within_their_steps():
    assert within_steps(3, None) is None
    assert within_steps(3, 3) is PASS
    assert within_steps(4, 3) is FAIL
    assert within_steps(float("nan"), 3) is FAIL


# Classes and slices


def part(label: int | str, lost: int, examples: int, count: int = 10) -> Slice:
    """A class of which the reference has all right, and the variant has lost some."""
    counts = (examples - lost, lost, 0, 0)
    z = NormalDist().inv_cdf(1 - 0.05 / (2 * count))
    drop = lost / examples
    return Slice(label, examples, 1.0, 1 - drop, drop, newcombe_paired(*counts, z), counts)


def by_class(*worst: Slice, **changes) -> Measurement:
    return accuracy((990, 10, 0, 0), by_class=Slices("accuracy", "accuracy", None, 10, 0, worst), **changes)


@pytest.mark.parametrize(
    ("lost", "examples", "verdict", "conclusive"),
    [
        (5, 100, PASS, False),  # exactly at the limit
        (6, 100, FAIL, False),
        (40, 100, FAIL, True),
        (0, 1000, PASS, True),
        (1, 19, PASS, False),  # 5.3 %, by one of few examples
        (1, 3, PASS, False),
        (19, 19, FAIL, True),  # few, and lost altogether
        (2, 20, FAIL, False),
    ],
)
def test_a_class_may_lose_what_max_class_drop_allows(lost, examples, verdict, conclusive):
    result, _ = judge(by_class(part(3, lost, examples), part(0, 0, 5000)), Tolerance(max_class_drop=0.05), None)
    assert (result.verdict, result.conclusive) == (verdict, conclusive)
    assert result.failed_limit == ("max_class_drop" if verdict is FAIL else None)
    told = None if result.failed_slice is None else (result.failed_slice.name, result.failed_slice.slice.label)
    assert told == (("class 3", 3) if verdict is FAIL else None)


def test_a_pass_is_as_sure_as_the_class_of_which_least_is_known():
    sure, few = part(1, 200, 5000), part(2, 0, 30)
    assert sure.drop > few.drop
    result, (told,) = judge(by_class(sure, few), Tolerance(max_class_drop=0.05), None)
    assert (result.verdict, result.conclusive) == (PASS, False)
    assert "30 examples of class 2 are too few" in told.message
    assert judge(by_class(sure), Tolerance(max_class_drop=0.05), None)[0].conclusive is True


def test_a_class_goes_by_its_name_and_a_slice_by_its_key():
    lost = by_class(part(1, 40, 100))
    named = judge(lost, Tolerance(max_class_drop=0.05), None, ("cat", "dog"))[0].failed_slice
    assert named is not None
    assert named.name == "class 1 ('dog')"
    cut = accuracy(
        (990, 10, 0, 0), by_slice=(Slices("accuracy", "accuracy", "lighting", 1, 1, (part("night", 9, 90),)),)
    )
    named = judge(cut, Tolerance(max_slice_drop=0.05), None)[0].failed_slice
    assert named is not None
    assert named.name == "lighting 'night'"


def test_of_several_that_fail_the_one_that_is_proven_is_named_and_of_these_the_worst():
    large, small, certain = part(1, 5, 20), part(2, 60, 400), part(3, 100, 400)
    assert large.drop == certain.drop > small.drop
    result, _ = judge(by_class(large, small, certain), Tolerance(max_class_drop=0.05), None)
    assert result.failed_slice is not None
    assert (result.failed_slice.slice, result.conclusive) == (certain, True)


def test_of_all_keys_the_worst_slice_is_named():
    cuts = tuple(
        Slices("accuracy", "accuracy", key, 1, 1, (part(key, lost, 100, 1),)) for key, lost in (("a", 30), ("b", 60))
    )
    result, _ = judge(accuracy((990, 10, 0, 0), by_slice=cuts), Tolerance(max_slice_drop=0.05), None)
    assert result.failed_slice is not None
    assert result.failed_slice.name == "b 'b'"


@pytest.mark.parametrize(
    ("require", "lost", "verdict"),
    [("proven_pass", 0, FAIL), ("proven_fail", 9, PASS), ("proven_fail", 40, FAIL), (None, 9, FAIL)],
)
def test_the_interval_of_all_classes_at_once_decides_where_proof_is_asked_for(require, lost, verdict):
    result, _ = judge(by_class(part(3, lost, 100)), Tolerance(max_class_drop=0.05, require=require), None)
    assert result.verdict is verdict
    proven = judge(by_class(part(3, 0, 1000)), Tolerance(max_class_drop=0.05, require="proven_pass"), None)[0]
    assert proven.verdict is PASS


def test_without_intervals_few_examples_decide_too():
    lost = replace(part(3, 1, 3), interval=None)
    result, _ = judge(by_class(lost), Tolerance(max_class_drop=0.05), None)
    assert (result.verdict, result.conclusive) == (FAIL, None)


def test_without_an_interval_no_class_is_proven():
    lost = replace(part(3, 0, 100), interval=None)
    result, (told,) = judge(by_class(lost), Tolerance(max_class_drop=0.05, require="proven_pass"), None)
    assert (result.verdict, told.rule) == (FAIL, "not-proven")
    assert "prove it with: classes and slices have none where examples come in groups" in told.message


def test_how_many_examples_of_a_class_would_tell():
    result, (told,) = judge(by_class(part(3, 9, 100)), Tolerance(max_class_drop=0.05), None, ("a", "b", "c", "cat"))
    assert (told.rule, result.conclusive) == ("underpowered-evaluation", False)
    assert (
        "accuracy: 100 examples of class 3 ('cat') are too few to tell whether the drop is within max_class_drop 0.05"
        in told.message
    )
    needed = told.evidence["needed"]
    z = NormalDist().inv_cdf(1 - 0.05 / 20)

    def low(n: int) -> float:
        return newcombe_paired(0.91 * n, 0.09 * n, 0, 0, z)[0]

    assert low(needed) > 0.05 >= low(needed - 1)


def test_equal_outputs_lose_nothing_on_any_class_however_few_they_are():
    result, told = judge(by_class(part(3, 0, 2), identical=True), Tolerance(max_class_drop=0.01), None)
    assert (result.verdict, result.conclusive, told) == (PASS, True, ())


@pytest.mark.parametrize("limit", ["max_class_drop", "max_slice_drop"])
def test_a_limit_of_what_there_is_not_is_no_pass(limit):
    result, _ = judge(accuracy(), Tolerance(**{limit: 0.05}), None)
    assert result.verdict is ERROR
    assert result.error is not None
    assert result.error.startswith(f"{limit} does not apply here")
