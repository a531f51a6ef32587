"""What only the page says, in words and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tflite_guard.reports import wording
from tflite_guard.reports.wording import Problem
from tflite_guard.results import Experiment, Finding, MetricResult, Remedy, TensorLoss, VariantResult
from tflite_guard.text import figures
from tflite_guard.text.plain import plain

LONGEST_NAME = 100
MOST_LINES, LONGEST_LINE = 200, 300
"""Of a change to a manifest."""
RUNGS = {
    "reference": "float reference",
    "float32": "float TFLite",
    "float16": "float16",
    "weights": "weights only",
    "int16x8": "16-bit activations",
    "int8": "int8",
    "file": "shipped file",
    "application": "application's own outputs",
}
"""Rungs of the ladder, as a reader knows them."""


def name(text: str, longest: int = LONGEST_NAME) -> str:
    """A name from a file, of limited length."""
    return plain(text, longest)


def share(fraction: float) -> str:
    """A fraction in percent, with the digits that tell it from nothing and from all."""
    of_hundred = fraction * 100
    size = abs(of_hundred)
    if size > 1e6:
        digits = f"{of_hundred:.3g}"
    elif 99 < size < 101 and size != 100:
        digits = f"{of_hundred:.2f}"
    else:
        digits = f"{of_hundred:.0f}" if size >= 1 or size == 0 else f"{of_hundred:.2g}"
    return f"{digits} %".replace("-", "−")


def interval(ends: tuple[float, float]) -> str:
    """The ends of an interval of fractions."""
    return f"[{share(ends[0])}, {share(ends[1])}]"


def proof(experiment: Experiment) -> str:
    """What an experiment showed."""
    back = f"{share(experiment.recovered)} of the loss comes back"
    if experiment.confidence_interval is None:
        return f"{plain(experiment.name)}: {back}; not confirmed on other examples."
    ends = interval(experiment.confidence_interval)
    return f"{plain(experiment.name)}: {back}, 95 % interval {ends}, on examples that chose nothing."


def decibels(value: float | None) -> str:
    """A signal to noise ratio."""
    return figures.number(value, "sqnr")


def ends(of: tuple[float, float]) -> str:
    """A range of values in real units."""
    return figures.interval(of, "")


def ranges(tensor: TensorLoss) -> str:
    """Both ranges of a tensor in a sentence."""
    return f"Calibrated {ends(tensor.calibrated)}, on the evaluation data {ends(tensor.evaluated)}"


def rung(key: str) -> str:
    """A rung's name, as a reader knows it."""
    return RUNGS.get(key) or name(key, 24)


def sentence(problem: Problem) -> Iterator[tuple[str, bool]]:
    """A problem's message in parts, with whether each is the metric's name, which may be any words."""
    named = "" if problem.metric is None else plain(problem.metric.name)
    before, found, after = problem.message.partition(named) if named else (problem.message, "", "")
    yield from ((before, False), (found, True), (after, False))


def lines(patch: dict[str, Any]) -> list[str]:
    """A change of a manifest as lines of JSON, indented."""
    found = json.dumps(patch, indent=2, ensure_ascii=False).split("\n")
    left_out = [f"… {len(found) - MOST_LINES:,} more lines, which report.json holds"] if len(found) > MOST_LINES else []
    return [plain(line, LONGEST_LINE) for line in found[:MOST_LINES]] + left_out


def removes(patch: Any) -> bool:
    """Whether a change takes keys away, which a merge patch says with null."""
    return patch is None or (isinstance(patch, dict) and any(removes(inner) for inner in patch.values()))


def evidence(finding: Finding) -> list[tuple[str, str]]:
    """The figures behind a finding."""
    return [(key, _figure(value)) for key, value in finding.evidence.items() if value is not None]


def _figure(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def metric_of(variant: VariantResult, named: str) -> MetricResult | None:
    """The variant's own result of a metric."""
    return next((metric for metric in variant.metrics if metric.name == named), None)


def kind(variant: VariantResult, named: str) -> str:
    """Of which kind a metric is, which gives its unit and its digits."""
    metric = metric_of(variant, named)
    return named if metric is None else metric.metric


def with_remedy(variant: VariantResult, remedy: Remedy) -> list[tuple[str, str, str, str, str]]:
    """Each metric with a remedy: its name, the reference's value, the present one, the remedy's, what is allowed."""
    return [_with_remedy(variant, named, value) for named, value in remedy.metrics.items()]


def _with_remedy(variant: VariantResult, named: str, value: float | None) -> tuple[str, str, str, str, str]:
    shown = figures.number(value, kind(variant, named))
    metric = metric_of(variant, named)
    if metric is None:
        return named, "–", "–", shown, "–"
    reference = figures.number(metric.reference, metric.metric)
    return named, reference, wording.value_of(metric), shown, wording.tolerance(metric)
