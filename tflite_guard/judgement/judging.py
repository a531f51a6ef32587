"""What a variant's measurements mean: its metrics judged, its findings, its verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tflite_guard.judgement.verdict import judge, within_steps
from tflite_guard.manifest.types import Conversion, FileSpec, Ignore, VariantSpec
from tflite_guard.protocol import Evaluation, Measured, ObservedMeasured
from tflite_guard.results import (
    Artifact,
    ErrorInfo,
    Finding,
    MetricResult,
    Observed,
    VariantResult,
    Verdict,
)
from tflite_guard.rules import finding

Recorded = Callable[[str], float | None]
"""A metric's name to its value in the baseline."""


@dataclass(frozen=True)
class Outcome:
    """What became of one variant before any tolerance is applied."""

    evaluation: Evaluation | None = None
    """None where it could not be evaluated."""
    cached: bool = False
    error: ErrorInfo | None = None
    shared: bool = False
    """The error is the reference's, so it is every variant's."""


def variant_result(
    variant: VariantSpec, outcome: Outcome, seconds: dict[str, float], baseline: Recorded
) -> VariantResult:
    """One variant with its metrics judged against its tolerances and its baseline.

    Args:
        variant: what was asked.
        outcome: what was measured.
        seconds: phase to seconds; empty where the cache answered.
        baseline: gives a metric's recorded value by name.
    """
    how = _how(variant.conversion)
    evaluation = outcome.evaluation
    if evaluation is None:
        return VariantResult(
            variant.name, how, Verdict.ERROR, False, None, (), (), (), outcome.error, seconds, line=variant.line
        )
    metrics, findings = _judged(evaluation.measurements, variant, baseline)
    made = evaluation.artifact
    observed = _observed(evaluation.observed, variant)
    findings = accepted([*findings, *_integer_findings(made, variant)], variant.judgement.ignore)
    error = _float_operators_error(made, variant)
    verdicts = [*(metric.verdict for metric in metrics), *(finding.verdict for finding in findings)]
    verdicts += [observed.verdict] if observed else []
    return VariantResult(
        name=variant.name,
        quantization=how,
        verdict=Verdict.ERROR if error else Verdict.worst(verdicts),
        cached=outcome.cached,
        artifact=made,
        metrics=tuple(metrics),
        findings=tuple(findings),
        remedies=(),
        error=error,
        seconds=seconds,
        observed=observed,
        line=variant.line,
    )


def accepted(findings: Sequence[Finding], ignore: Sequence[Ignore]) -> list[Finding]:
    """The findings, those that the manifest accepts with its reason."""
    reasons = {entry.rule: entry.reason for entry in ignore}
    return [replace(one, ignored=reasons.get(one.rule)) for one in findings]


def _how(conversion: Conversion) -> str | None:
    """The quantization or recipe by name; None of an existing .tflite."""
    recipe = conversion.recipe
    return conversion.quantization or (Path(recipe.path).name if isinstance(recipe, FileSpec) else recipe)


def _judged(
    measured: Sequence[Measured], variant: VariantSpec, baseline: Recorded
) -> tuple[list[MetricResult], list[Finding]]:
    metrics: list[MetricResult] = []
    findings: list[Finding] = []
    for item in measured:
        result, found = judge(
            item.measurement, variant.judgement.tolerances.get(item.of), baseline(item.measurement.name)
        )
        metrics.append(result)
        findings.extend(found)
    return metrics, findings


def _observed(observed: ObservedMeasured | None, variant: VariantSpec) -> Observed | None:
    if observed is None or variant.evaluation.observed_outputs is None:
        return None
    tolerance = variant.judgement.observed_tolerance
    metrics, _ = _judged(observed.measurements, variant, lambda _: None)
    kernels = variant.evaluation.kernels
    own = within_steps(observed.max_steps[kernels], tolerance)
    return Observed(
        path=Path(variant.evaluation.observed_outputs.path).name,
        metrics=tuple(metrics),
        max_steps=observed.max_steps,
        kernels=kernels,
        tolerance=tolerance,
        steps_verdict=own,
        verdict=Verdict.worst([own, *(metric.verdict for metric in metrics)]),
    )


def _integer_findings(made: Artifact, variant: VariantSpec) -> list[Finding]:
    if not made.float_operators or variant.judgement.require_integer:
        return []
    message = f"{_float_operators(made)}; a device without float support cannot run it"
    return [finding("partially-quantized", message, float_operators=list(made.float_operators))]


def _float_operators_error(made: Artifact, variant: VariantSpec) -> ErrorInfo | None:
    if not made.float_operators or not variant.judgement.require_integer:
        return None
    return ErrorInfo("float-operators", f"{_float_operators(made)}, and the variant has `require_integer`")


def _float_operators(made: Artifact) -> str:
    count, shown = len(made.float_operators), ", ".join(made.float_operators[:3])
    more = f" and {count - 3} more" if count > 3 else ""
    return f"{count} of {made.operators} operators compute in float: {shown}{more}"


def reference_metrics(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """The reference's own values, which every evaluated variant has measured alike."""
    for outcome in outcomes:
        if outcome.evaluation is not None:
            measured = [item.measurement for item in outcome.evaluation.measurements]
            return {one.name: one.reference for one in measured if one.reference is not None}
    return {}
