"""Tolerances against measurements: the only place where a number meets a threshold. Standard library only.

The point estimate decides, unless `require` makes the interval decide; the interval says whether the
examples were enough to tell. Exactly at a limit passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tflite_guard.judgement.intervals import (
    MOST_EXAMPLES,
    Interval,
    examples_needed,
    examples_needed_by_width,
    newcombe_paired,
    simultaneous,
    wilson,
)
from tflite_guard.judgement.slices import FEWEST, called
from tflite_guard.manifest.types import Tolerance
from tflite_guard.results import FailedSlice, Finding, Measurement, MetricResult, Slice, Slices, Verdict
from tflite_guard.rules import finding
from tflite_guard.text import figures
from tflite_guard.vocabulary import ToleranceKind

# 0.98 - 0.96 is 0.020000000000000018: rounding must not turn "exactly at the limit" into a failure.
RELATIVE_SLACK = 1e-9
# What subtracting two values near `reference` can lose, for limits that are small beside the values.
ROUNDING = 1e-15


@dataclass(frozen=True)
class _Bound:
    """One limit turned so that larger is worse: a number passes up to `limit`."""

    kind: ToleranceKind
    sign: int
    """1 where the limit is an upper one, -1 for `min`."""
    limit: float
    number: float
    interval: Interval | None
    slack: float
    certain: bool
    """The outputs equal the reference's and the limit is about the difference: passes without an interval."""
    settled: bool
    """A sequential evaluation was certain of the side."""
    slice: Slice | None = None
    """The class or slice that is limited; None where the metric on all examples is."""
    of: Slices | None = None
    """What the slice is one of."""

    def allows(self, number: float) -> bool:
        """Whether a number of the limit's own scale is within it."""
        return self.certain or self.sign * (number - self.limit) <= self.slack

    def worst_and_best(self) -> Interval | None:
        if self.interval is None:
            return None
        low, high = self.interval
        return (high, low) if self.sign > 0 else (low, high)

    def decided(self) -> bool | None:
        """Whether the interval lies on one side of the limit; None without an interval."""
        if self.certain or self.settled:
            return True
        ends = self.worst_and_best()
        return None if ends is None else self.allows(ends[0]) == self.allows(ends[1])


def judge(
    measurement: Measurement, tolerance: Tolerance | None, baseline: float | None, names: Sequence[str] = ()
) -> tuple[MetricResult, tuple[Finding, ...]]:
    """The verdict on one measurement, and what a user should know about it.

    `baseline` is the value recorded for this metric: None without one, infinity where the outputs then
    equalled the reference's, which any that no longer do have lost beyond every limit. A metric that could not be
    computed is an error whatever the tolerance; one without a tolerance has no verdict. `names` are those of the
    classes, by number. Findings have the rules `underpowered-evaluation`, `not-proven` and `no-baseline`.
    """
    error = _error(measurement, tolerance)
    if error is not None:
        return _result(measurement, tolerance, baseline, Verdict.ERROR, error=error), ()
    if tolerance is None:
        return _result(measurement, None, baseline, None), ()
    bounds = _bounds(measurement, tolerance, baseline)
    failed = next((bound for bound in bounds if _fails(bound, tolerance.require)), None)
    beyond = Verdict.WARN if tolerance.level == "warning" else Verdict.FAIL
    result = _result(
        measurement,
        tolerance,
        baseline,
        Verdict.PASS if failed is None else beyond,
        failed=failed,
        conclusive=_conclusive(bounds),
        names=names,
    )
    return result, tuple(_findings(measurement, tolerance, baseline, bounds, names))


def within_steps(difference: float, tolerance: float | None) -> Verdict | None:
    """The verdict on the largest difference between recorded outputs and our own, in quantization steps.

    None without a tolerance.
    """
    if tolerance is None:
        return None
    if difference <= tolerance * (1 + RELATIVE_SLACK):
        return Verdict.PASS
    return Verdict.FAIL


def _error(measurement: Measurement, tolerance: Tolerance | None) -> str | None:
    if measurement.error is not None:
        return measurement.error
    if measurement.value is None and not measurement.identical:
        return "the metric has no value"
    if tolerance is None:
        return None
    if tolerance.max_class_drop is not None and not _cuts(measurement, "max_class_drop"):
        return "max_class_drop does not apply here: it needs one decision per example, with one class as its label"
    if tolerance.max_slice_drop is not None and not _cuts(measurement, "max_slice_drop"):
        return "max_slice_drop does not apply here: there are no slices on each of which the metric has a finite value"
    if measurement.value is None or measurement.drop is not None:
        return None
    meaningless = [kind for kind in tolerance.limits() if kind.endswith("_drop")]
    if meaningless:
        return f"{meaningless[0]} does not apply here: the reference has no {measurement.metric} to drop from"
    return None


def _bounds(measurement: Measurement, tolerance: Tolerance, baseline: float | None) -> list[_Bound]:
    if measurement.value is None:
        # The outputs equal the reference's: nothing can be better, whatever was recorded.
        return []
    found: list[_Bound] = []
    for kind, limit in tolerance.limits().items():
        if kind == "max_class_drop" or kind == "max_slice_drop":
            found.append(_deciding(measurement, kind, limit, tolerance.require))
        elif (bound := _bound(measurement, kind, limit, baseline)) is not None:
            found.append(bound)
    return found


def _cuts(measurement: Measurement, kind: ToleranceKind) -> list[Slices]:
    """By what examples are cut for a limit of each class or of each slice; empty where nothing drops there."""
    every = measurement.by_slice if kind == "max_slice_drop" else (measurement.by_class,)
    return [of for of in every if of is not None and of.worst and all(one.drop is not None for one in of.worst)]


def _deciding(measurement: Measurement, kind: ToleranceKind, limit: float, require: str | None) -> _Bound:
    """The class or slice that decides: what fails, the proven first, else what is the nearest to it by its interval."""

    def bound(one: Slice, of: Slices) -> _Bound:
        slack = RELATIVE_SLACK * abs(limit) + ROUNDING * (abs(one.reference or 0.0) + abs(one.variant))
        return _Bound(kind, 1, limit, one.drop or 0.0, one.interval, slack, measurement.identical, False, one, of)

    def nearness(one: _Bound) -> float:
        return one.number if one.interval is None else one.interval[1]

    every = [bound(one, of) for of in _cuts(measurement, kind) for one in of.worst]
    failed = [one for one in every if _fails(one, require)]
    if failed:
        return max(failed, key=lambda one: (one.decided() is True, one.number))
    return max(every, key=nearness)


def _bound(measurement: Measurement, kind: ToleranceKind, limit: float, baseline: float | None) -> _Bound | None:
    """The limit of the metric on all examples; None where there is nothing to hold against it."""
    value, drop, reference = measurement.value, measurement.drop, measurement.reference or 0.0
    told = measurement.settled
    assert value is not None
    slack = RELATIVE_SLACK * abs(limit) + ROUNDING * abs(value) + ROUNDING * abs(reference)
    match kind:
        case "max_drop" | "max_relative_drop":
            assert drop is not None
            allowed = limit if kind == "max_drop" else limit * abs(reference)
            return _Bound(kind, 1, allowed, drop, measurement.confidence_interval, slack, measurement.identical, told)
        case "min" | "max":
            sign = 1 if kind == "max" else -1
            certain = measurement.identical and drop is None
            return _Bound(kind, sign, limit, value, _value_interval(measurement), slack, certain, told)
        case "max_regression":
            # The baseline was mostly measured on the same examples, so the value's own interval says
            # nothing about the change: the point estimate decides.
            regression = _regression(measurement, baseline)
            return None if regression is None else _Bound(kind, 1, limit, regression, None, slack, False, told)
        case _:
            raise AssertionError(kind)


def _value_interval(measurement: Measurement) -> Interval | None:
    if measurement.value_interval is not None or measurement.drop is not None:
        return measurement.value_interval
    return measurement.confidence_interval


def _regression(measurement: Measurement, baseline: float | None) -> float | None:
    if baseline is None:
        return None
    if math.isinf(baseline):
        return 0.0 if measurement.identical else math.inf
    if measurement.value is None:
        return None
    change = measurement.value - baseline
    return -change if measurement.higher_is_better else change


def _fails(bound: _Bound, require: str | None) -> bool:
    """Whether a limit is exceeded, by the number or by the end of the interval that must decide."""
    ends = bound.worst_and_best()
    if bound.slice is not None and bound.slice.examples < FEWEST and require is None:
        require = "proven_fail"
    if require is None or bound.kind == "max_regression" or bound.certain:
        return not bound.allows(bound.number)
    if require == "proven_pass":
        return ends is None or not bound.allows(ends[0])
    # A failure cannot be proven without an interval; passing everything would be worse than the point estimate.
    return not bound.allows(bound.number if ends is None else ends[1])


def _conclusive(bounds: list[_Bound]) -> bool | None:
    decided = [bound.decided() for bound in bounds if bound.kind != "max_regression"]
    known = [one for one in decided if one is not None]
    return all(known) if known else None


def _findings(
    measurement: Measurement,
    tolerance: Tolerance,
    baseline: float | None,
    bounds: list[_Bound],
    names: Sequence[str],
) -> Iterable[Finding]:
    undecided = [bound for bound in bounds if bound.decided() is False]
    if undecided:
        needs = [(_needed(measurement, bound), bound) for bound in undecided]
        needed, bound = max(needs, key=lambda need: need[0] or MOST_EXAMPLES + 1)
        yield _underpowered(measurement, tolerance, needed, bound, names)
    unproven = [b for b in bounds if b.kind != "max_regression" and b.interval is None and not b.certain]
    if tolerance.require == "proven_pass" and unproven:
        yield _not_proven(measurement, tolerance, unproven[0])
    if tolerance.max_regression is not None and baseline is None:
        yield finding(
            "no-baseline",
            f"{measurement.name}: the baseline holds no value, so max_regression is not applied; "
            "record one with `tflite-guard baseline update`",
            metric=measurement.name,
        )


def _underpowered(
    measurement: Measurement, tolerance: Tolerance, needed: int | None, bound: _Bound, names: Sequence[str]
) -> Finding:
    allowed = figures.limit(tolerance.limits()[bound.kind], measurement.metric, bound.kind)
    if bound.kind == "max_relative_drop":
        allowed += f" (here {figures.number(bound.limit, measurement.metric)})"
    quantity = "drop" if bound.kind.endswith("_drop") else "value"
    enough = "more than a million examples" if needed is None else f"about {needed:,} examples"
    examples, whose, level = measurement.examples, "", ""
    if bound.slice is not None and bound.of is not None:
        examples, whose = bound.slice.examples, f" of {called(bound.of.key, bound.slice, names)}"
        level = " for all at once"
    return finding(
        "underpowered-evaluation",
        f"{measurement.name}: {_counted(examples)}{whose} {'is' if examples == 1 else 'are'} too few to tell whether "
        f"the {quantity} is within {bound.kind} {allowed}: its 95 % interval{level} is "
        f"{figures.interval(bound.interval, measurement.metric)}; {enough} would do at the rates seen",
        metric=measurement.name,
        examples=examples,
        needed=needed,
        limit=bound.kind,
        limit_value=bound.limit,
    )


def _counted(examples: int) -> str:
    return f"{examples:,} example{'' if examples == 1 else 's'}"


def _not_proven(measurement: Measurement, tolerance: Tolerance, bound: _Bound) -> Finding:
    why = measurement.interval_note or "this metric has none"
    if bound.slice is not None:
        why = "classes and slices have none where examples come in groups, or where scores are few or all alike"
    return finding(
        "not-proven",
        f"{measurement.name}: {bound.kind} requires a proven pass, but there is no confidence interval to "
        f'prove it with: {why}; remove "require" to let the measured value decide',
        "warning" if tolerance.level == "warning" else None,
        metric=measurement.name,
        examples=measurement.examples,
        limit=bound.kind,
    )


def _needed(measurement: Measurement, bound: _Bound) -> int | None:
    """How many examples would put the limit outside the interval if the rates stayed as they are."""
    assert bound.interval is not None
    low, high = bound.interval
    distance = abs(bound.number - bound.limit)
    if distance <= bound.slack:
        return None
    # One in as many units as the interval took for independent: examples, or groups.
    examples = measurement.examples if bound.slice is None else bound.slice.examples
    units = examples if bound.slice is not None else measurement.groups or examples
    per_unit = examples / units
    if _in_closed_form(measurement, bound):
        needed = examples_needed(lambda n: _interval_at(measurement, bound, n), bound.limit, units)
    else:
        half_width = high - bound.number if bound.limit > bound.number else bound.number - low
        needed = examples_needed_by_width(half_width, distance, units)
    if needed is None or needed * per_unit > MOST_EXAMPLES:
        return None
    return round(needed * per_unit)


def _in_closed_form(measurement: Measurement, bound: _Bound) -> bool:
    if bound.slice is not None:
        return bound.slice.counts is not None
    return measurement.counts is not None and (measurement.interval_method or "").startswith(("newcombe", "wilson"))


def _interval_at(measurement: Measurement, bound: _Bound, n: float) -> Interval:
    if bound.slice is not None and bound.slice.counts is not None and bound.of is not None:
        both, lost, gained, neither = (count * n / bound.slice.examples for count in bound.slice.counts)
        return newcombe_paired(both, lost, gained, neither, simultaneous(bound.of.count))
    assert measurement.counts is not None
    a, b, c, d = (count * n / measurement.examples for count in measurement.counts)
    return newcombe_paired(a, b, c, d) if bound.kind in ("max_drop", "max_relative_drop") else wilson(a + c, n)


def _result(
    measurement: Measurement,
    tolerance: Tolerance | None,
    baseline: float | None,
    verdict: Verdict | None,
    *,
    failed: _Bound | None = None,
    conclusive: bool | None = None,
    error: str | None = None,
    names: Sequence[str] = (),
) -> MetricResult:
    regression = _regression(measurement, baseline)
    failed_limit = None if failed is None else failed.kind
    cut = None if failed is None or failed.slice is None or failed.of is None else (failed.of.key, failed.slice)
    return MetricResult(
        name=measurement.name,
        metric=measurement.metric,
        output=measurement.output,
        reference=measurement.reference,
        value=measurement.value,
        drop=measurement.drop,
        confidence_interval=measurement.confidence_interval,
        interval_method=measurement.interval_method,
        interval_note=measurement.interval_note,
        examples=measurement.examples,
        groups=measurement.groups,
        ties=measurement.ties,
        identical=measurement.identical,
        higher_is_better=measurement.higher_is_better,
        tolerance=None if tolerance is None else _as_written(tolerance, failed_limit),
        verdict=verdict,
        conclusive=conclusive,
        failed_limit=failed_limit,
        # Reports hold no infinity.
        baseline=None if baseline is None or math.isinf(baseline) else baseline,
        baseline_identical=baseline is not None and math.isinf(baseline),
        regression=None if regression is None or math.isinf(regression) else regression,
        error=error,
        failed_slice=None if cut is None else FailedSlice(called(*cut, names), cut[1]),
    )


def _as_written(tolerance: Tolerance, failed_limit: ToleranceKind | None) -> dict[str, Any]:
    """The limits with the line of the one that failed; without one, of the innermost object."""
    written: dict[str, Any] = {str(kind): limit for kind, limit in tolerance.limits().items()}
    if tolerance.level != "error":
        written["level"] = tolerance.level
    if tolerance.require is not None:
        written["require"] = tolerance.require
    line = tolerance.line if failed_limit is None else tolerance.lines.get(failed_limit, tolerance.line)
    return {**written, "line": line}
