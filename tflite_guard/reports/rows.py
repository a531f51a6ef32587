"""A report as rows for a data frame: one for each metric, flat, of values that JSON has, always with the same keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tflite_guard.reports import wording
from tflite_guard.results import MetricResult, ModelResult, Observed, Report, VariantResult
from tflite_guard.vocabulary import TOLERANCES

_OF_MODEL = ("model", "manifest", "model_verdict")
_OF_VARIANT = ("variant", "variant_verdict", "quantization", "size_bytes", "sha256", "cause")
_OF_METRIC = ("metric", "kind", "output", "reference", "value", "identical", "drop", "interval_low", "interval_high")
_JUDGED = (
    "examples",
    *TOLERANCES,
    "failed_limit",
    "failed_slice",
    "verdict",
    "conclusive",
    "baseline",
    "regression",
    "error",
)
KEYS = (*_OF_MODEL, "of", *_OF_VARIANT, *_OF_METRIC, *_JUDGED)
"""What each row has, in this order; None where there is nothing to say."""


def rows(report: Report) -> list[dict[str, Any]]:
    """The rows, in the report's order. What could not be evaluated has one, without a metric."""
    titles = wording.titles(report)
    found = (row for model in report.models for row in _model(model, titles[id(model)]))
    return [dict.fromkeys(KEYS) | row for row in found]


def _model(model: ModelResult, title: str) -> Iterator[dict[str, Any]]:
    whose = {"model": title, "manifest": model.manifest.path, "model_verdict": model.verdict.value}
    if model.error is not None and not model.variants:
        yield whose | {"verdict": model.verdict.value, "error": model.error.message}
    for check in model.reference.checks:
        yield whose | {"of": "reference"} | _metric(check)
    for variant in model.variants:
        yield from (whose | row for row in _variant(variant))


def _variant(variant: VariantResult) -> Iterator[dict[str, Any]]:
    cause = wording.primary(variant)
    whose = {
        "variant": variant.name,
        "variant_verdict": variant.verdict.value,
        "quantization": variant.quantization,
        "size_bytes": variant.artifact and variant.artifact.size_bytes,
        "sha256": variant.artifact and variant.artifact.sha256,
        "cause": cause and cause.rule,
    }
    if variant.error is not None:
        yield whose | {"of": "variant", "verdict": variant.verdict.value, "error": variant.error.message}
    for metric in variant.metrics:
        yield whose | {"of": "variant"} | _metric(metric)
    if variant.observed is not None:
        yield from (whose | {"of": "observed"} | row for row in _observed(variant.observed))


def _observed(observed: Observed) -> Iterator[dict[str, Any]]:
    yield from map(_metric, observed.metrics)
    if observed.tolerance is not None:
        verdict = observed.steps_verdict and observed.steps_verdict.value
        steps = observed.max_steps.get(observed.kernels)
        yield {"metric": "observed_tolerance", "value": steps, "max": observed.tolerance, "verdict": verdict}


def _metric(one: MetricResult) -> dict[str, Any]:
    low, high = one.confidence_interval or (None, None)
    return {
        "metric": one.name,
        "kind": one.metric,
        "output": one.output,
        "reference": one.reference,
        "value": one.value,
        "identical": one.identical,
        "drop": one.drop,
        "interval_low": low,
        "interval_high": high,
        "examples": one.examples,
        **{name: (one.tolerance or {}).get(name) for name in TOLERANCES},
        "failed_limit": one.failed_limit,
        "failed_slice": one.failed_slice and one.failed_slice.name,
        "verdict": one.verdict and one.verdict.value,
        "conclusive": one.conclusive,
        "baseline": one.baseline,
        "regression": one.regression,
        "error": one.error,
    }
