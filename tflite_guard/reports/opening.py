"""What came out in the sentences that a person would say: the first line of a comment, and a report in a line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import msgspec

from tflite_guard.reports import wording
from tflite_guard.reports.markup import code, prose
from tflite_guard.reports.wording import Explanation, Problem, count
from tflite_guard.results import FailedSlice, MetricResult, Report, Verdict
from tflite_guard.rules import RULES
from tflite_guard.text import figures
from tflite_guard.text.plain import plain
from tflite_guard.vocabulary import METRICS

IN_POINTS = {one.name for one in METRICS.values() if one.share and one.needs_labels}
"""Metrics of which people say that so many points of a hundred are lost."""
MOST_NAMES = 2
LONGEST_REASON = 120
MOST_DIGITS = 4


class _Voice(msgspec.Struct, frozen=True):
    """How text from a report is put into a sentence."""

    name: Callable[[str], str]
    text: Callable[[str], str]


HTML = _Voice(code, prose)
PLAIN = _Voice(plain, plain)


def opening(report: Report, problems: list[Problem]) -> str:
    """The worst problem with its cause, as HTML; where there is none, that all is well."""
    said = _first(report, problems, HTML)
    return said[:1].upper() + said[1:]  # a name stands in an element


def brief(report: Report, longest: int) -> str:
    """Every problem in plain text, the worst first, as far as they fit; where there is none, that all is well."""
    problems = wording.problems(report)
    told = _first(report, problems, PLAIN)
    for place, (problem, why) in enumerate(wording.explained_once(problems)[1:], 1):
        more, rest = f"; {_told(problem, why, PLAIN)}", f"; {len(problems) - place:,} more"
        if len(told + more) + (0 if problem is problems[-1] else len(rest)) > longest:
            return plain(told, longest - len(rest)) + rest
        told += more
    return plain(told, longest)


def _first(report: Report, problems: list[Problem], voice: _Voice) -> str:
    if not report.models:
        return "nothing was checked"
    return _told(problems[0], problems[0].explanation, voice) if problems else _well(report, voice)


def _well(report: Report, voice: _Voice) -> str:
    """What is said where nothing is amiss, or where what is has no words."""
    named = [(model, variant) for model in report.models for variant in model.variants]
    if wording.comparisons(report):
        return voice.text(wording.headline(report))
    counts = Counter(variant.judged for _, variant in named)
    if len(named) == 1 and counts[Verdict.PASS]:
        ((model, variant),) = named
        return f"{voice.name(variant.name)} of {voice.name(model.name)} is within tolerance"
    if named and counts[Verdict.PASS] == len(named):
        return f"all {len(named):,} variants are within tolerance"
    parts = (f"{count(counts[one], 'variant')} {word}" for one, word in wording.WORDS.items() if counts[one])
    return ", ".join(parts) or "nothing was checked"


def _told(problem: Problem, why: Explanation | None, voice: _Voice) -> str:
    said = _said(problem, voice)
    return said if why is None or why.rule not in RULES else f"{said}: {RULES[why.rule].brief}"


def _said(problem: Problem, voice: _Voice) -> str:
    subject, metric = _subject(problem, voice), problem.metric
    if problem.finding is not None:
        return f"{subject}: {RULES[problem.rule].brief if problem.rule in RULES else voice.name(problem.rule)}"
    if metric is not None:
        return _of_metric(subject, metric, voice)
    if problem.observed:
        return f"{subject} differ from our own run"
    return f"{subject} could not be evaluated: {voice.text(plain(problem.message, LONGEST_REASON))}"


def _subject(problem: Problem, voice: _Voice) -> str:
    """`int8 of digits`."""
    model, names = voice.name(problem.title), problem.variants
    if not names:
        return f"the reference of {model}" if problem.rule == "reference" else model
    listed = " and ".join(map(voice.name, names)) if len(names) <= MOST_NAMES else count(len(names), "variant")
    return f"the recorded outputs of {listed} of {model}" if problem.observed else f"{listed} of {model}"


def _of_metric(subject: str, metric: MetricResult, voice: _Voice) -> str:
    of = f"{voice.name(metric.name)} of {subject}"
    if metric.error is not None:
        return f"{of} could not be computed: {voice.text(plain(metric.error, LONGEST_REASON))}"
    value = wording.value_of(metric) if metric.value is None else figures.exact(metric.value, metric.metric)
    limit = next((figure for kind, figure in wording.limits(metric) if kind == metric.failed_limit), "")
    allowed = voice.text(limit)
    match metric.failed_limit:
        case "max_class_drop" | "max_slice_drop" if metric.failed_slice is not None:
            return _lost_on(subject, metric, metric.failed_slice, allowed, voice)
        case "max_drop" | "max_relative_drop" if metric.drop is not None and metric.drop > 0:
            return _dropped(subject, metric, allowed, voice)
        case "min" | "max" as side if not wording.unproven(metric):
            return f"{of} is {value}, {'below' if side == 'min' else 'above'} the {side}imum of {allowed}"
        case "max_regression":
            return f"{of} is {value} where the baseline had {wording.baseline_of(metric)}"
    kind = f" of {voice.name(metric.failed_limit)} {allowed}" if limit and metric.failed_limit else ""
    return f"{of} is {value}, {'not proven to be' if wording.unproven(metric) else 'not'} within the tolerance{kind}"


def _dropped(subject: str, metric: MetricResult, allowed: str, voice: _Voice) -> str:
    name, drop = voice.name(metric.name), metric.drop or 0.0
    limit = (metric.tolerance or {}).get(metric.failed_limit or "")
    if metric.metric in IN_POINTS and metric.failed_limit == "max_drop" and isinstance(limit, int | float):
        points, allowed = _points(drop, limit)
        lost = f"{subject} lost {points} points of {name}"
    else:
        lost = f"{name} of {subject} is {wording.in_words(wording.worse_by(metric))}"
    if metric.failed_limit == "max_relative_drop":
        allowed = f"{voice.name('max_relative_drop')} {allowed}"
    return f"{lost}, not proven to be within {allowed}" if wording.unproven(metric) else f"{lost} (allowed {allowed})"


def _lost_on(subject: str, metric: MetricResult, failed: FailedSlice, allowed: str, voice: _Voice) -> str:
    """`int8 of digits lost 18.0 points of accuracy on class 3 (allowed 5.0)`."""
    name, drop, whose = voice.name(metric.name), failed.slice.drop or 0.0, voice.text(plain(failed.name))
    limit = (metric.tolerance or {}).get(metric.failed_limit or "")
    if metric.metric in IN_POINTS and isinstance(limit, int | float) and drop > 0:
        points, allowed = _points(drop, limit)
        lost = f"{subject} lost {points} points of {name} on {whose}"
    else:
        worse = wording.in_words(figures.worse_by(drop, failed.slice.reference, failed.slice.variant))
        lost = f"{name} of {subject} is {worse} on {whose}"
    return f"{lost}, not proven to be within {allowed}" if wording.unproven(metric) else f"{lost} (allowed {allowed})"


def _points(drop: float, limit: float) -> tuple[str, str]:
    """Both in hundredths, with digits that tell them apart, and with all of the limit's where it has few."""
    told = [(f"{100 * drop:.{digits}f}", f"{100 * limit:.{digits}f}") for digits in range(1, MOST_DIGITS + 1)]
    apart = [pair for pair in told if pair[0] != pair[1]]
    whole = (pair for pair in apart if math.isclose(float(pair[1]), 100 * limit))
    return next(whole, (apart or told[-1:])[0])
