"""What a variant's measurements mean: its metrics judged, its findings, its verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tflite_guard.files import png
from tflite_guard.judgement import findings
from tflite_guard.judgement.verdict import judge, within_steps
from tflite_guard.manifest.types import DatasetSpec, Ignore, Tolerance, VariantSpec
from tflite_guard.protocol import Diagnosed, Evaluation, Measured, ObservedMeasured
from tflite_guard.results import (
    Artifact,
    Changed,
    ErrorInfo,
    Finding,
    Measurement,
    MetricResult,
    Observed,
    ReferenceResult,
    Slices,
    VariantResult,
    Verdict,
)
from tflite_guard.vocabulary import METRICS

Recorded = Callable[[str], float | None]
"""A metric's name to its value in the baseline."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one variant before any tolerance is applied."""

    evaluation: Evaluation | None = None
    """None where it could not be evaluated."""
    cached: bool = False
    error: ErrorInfo | None = None
    shared: bool = False
    """The error is the reference's, so it is every variant's."""


def variant_result(
    variant: VariantSpec,
    outcome: Outcome,
    seconds: dict[str, float],
    baseline: Recorded,
    data: DatasetSpec | None = None,
) -> VariantResult:
    """One variant with its metrics judged against its tolerances and its baseline.

    Args:
        variant: what was asked.
        outcome: what was measured.
        seconds: phase to seconds; empty where the cache answered.
        baseline: gives a metric's recorded value by name.
        data: what it was evaluated on, to be compared with what it was calibrated on.
    """
    how = findings.made_as(variant.conversion)
    evaluation = outcome.evaluation
    if evaluation is None:
        told = (
            () if outcome.shared else findings.accepted([*findings.of_error(outcome.error)], variant.judgement.ignore)
        )
        return VariantResult(
            variant.name, how, Verdict.ERROR, False, None, (), told, (), outcome.error, seconds, line=variant.line
        )
    names = () if data is None else data.class_order or ()
    metrics, found = _judged(evaluation.measurements, variant, baseline, names)
    made = evaluation.artifact
    observed = _observed(evaluation.observed, variant, names)
    told = findings.accepted(
        [*findings.of_variant(evaluation, variant, metrics, data), *found], variant.judgement.ignore
    )
    error = _float_operators_error(made, variant)
    verdicts = [*(metric.verdict for metric in metrics), *(finding.verdict for finding in told)]
    verdicts += [observed.verdict] if observed else []
    return VariantResult(
        name=variant.name,
        quantization=how,
        verdict=Verdict.ERROR if error else Verdict.worst(verdicts),
        cached=outcome.cached,
        artifact=made,
        metrics=tuple(metrics),
        findings=told,
        remedies=(),
        error=error,
        seconds=seconds,
        observed=observed,
        line=variant.line,
        by_class=_by_class(evaluation.measurements, metrics),
        by_slice=tuple(one for item in evaluation.measurements for one in item.measurement.by_slice),
        changed=_redrawn(evaluation.changed),
        confidence=evaluation.confidence,
    )


def _by_class(measured: Sequence[Measured], metrics: Sequence[MetricResult]) -> Slices | None:
    """The classes to show: of the metric that one of them fails, else of the first that has classes."""
    found = [
        (result.failed_limit != "max_class_drop", item.measurement.by_class)
        for item, result in zip(measured, metrics, strict=True)
        if item.measurement.by_class is not None
    ]
    return min(found, key=lambda one: one[0], default=(True, None))[1]


def _redrawn(changed: Changed | None) -> Changed | None:
    """With nothing but pixels in the pictures, which come from a child that is not trusted."""
    if changed is None:
        return None
    worst = (replace(one, picture=one.picture and png.redrawn(one.picture)) for one in changed.worst)
    return replace(changed, worst=tuple(worst))


def _judged(
    measured: Sequence[Measured], variant: VariantSpec, baseline: Recorded, names: Sequence[str]
) -> tuple[list[MetricResult], list[Finding]]:
    metrics: list[MetricResult] = []
    told: list[Finding] = []
    for item in measured:
        result, found = judge(
            item.measurement, variant.judgement.tolerances.get(item.of), baseline(item.measurement.name), names
        )
        metrics.append(result)
        told.extend(found)
    return metrics, told


def _observed(observed: ObservedMeasured | None, variant: VariantSpec, names: Sequence[str]) -> Observed | None:
    if observed is None or variant.evaluation.observed_outputs is None:
        return None
    tolerance = variant.judgement.observed_tolerance
    metrics, _ = _judged(observed.measurements, variant, lambda _: None, names)
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


class Loss(msgspec.Struct, frozen=True):
    """What a diagnosis is to explain."""

    metric: str
    """The measurement's name."""
    higher_is_better: bool
    failed: bool
    """The artifact itself is out of tolerance."""
    healthy: float | None
    """The value to come back to; None means the reference's own."""
    application: bool = False
    """What the user's application recorded is out of tolerance."""


def loss_of(result: VariantResult) -> Loss | None:
    """What a diagnosis of a variant is to explain; None where there is nothing that experiments can measure."""
    observed = result.observed
    application = observed is not None and observed.verdict is not Verdict.PASS
    usable = _usable(result.metrics)
    failed = _failed(usable)
    # An artifact that passes is measured by what its application loses.
    theirs = [] if observed is None or failed else _failed(_usable(observed.metrics))
    candidates = failed or theirs
    chosen = next((one for one in candidates if one.reference is not None), next(iter(candidates or usable), None))
    if chosen is None:
        return None
    healthy = None
    if chosen.reference is None and failed:
        healthy = (chosen.tolerance or {}).get(chosen.failed_limit or "")
        healthy = chosen.baseline if chosen.failed_limit == "max_regression" else healthy
    if chosen.reference is None and healthy is None and failed:
        return None
    return Loss(chosen.name, chosen.higher_is_better, bool(failed), healthy, application)


def _usable(metrics: Sequence[MetricResult]) -> list[MetricResult]:
    """Those that an experiment can measure."""
    sized = METRICS["size_bytes"]
    return [one for one in metrics if one.value is not None and METRICS.get(one.metric, sized).has_interval]


def _failed(metrics: Sequence[MetricResult]) -> list[MetricResult]:
    return [one for one in metrics if one.problem is not None]


def with_diagnosis(result: VariantResult, found: Diagnosed, ignore: Sequence[Ignore]) -> VariantResult:
    """A variant's result with what a diagnosis found; the cause before all else."""
    told = findings.accepted(found.findings, ignore)
    verdict = Verdict.worst([result.verdict, *(one.verdict for one in told)])
    proven = {one.rule for one in told if one.primary}
    return replace(
        result,
        verdict=verdict,
        # What is proven is not told a second time as a suspicion.
        findings=(*told, *(one for one in result.findings if one.rule not in proven)),
        remedies=found.remedies,
        diagnosis=found.diagnosis,
    )


def _float_operators_error(made: Artifact, variant: VariantSpec) -> ErrorInfo | None:
    if not made.float_operators or not variant.judgement.require_integer:
        return None
    return ErrorInfo(
        "float-operators",
        f"{findings.float_operators(made)}, and the variant has `require_integer`; replace those operators, or "
        "remove it",
    )


def reference_result(
    reference: ReferenceResult, outcomes: Sequence[Outcome], tolerances: dict[str, Tolerance], ignore: Sequence[Ignore]
) -> tuple[ReferenceResult, tuple[Finding, ...]]:
    """The reference with its own values, each judged by its tolerance, and what is found about it.

    Every variant that was evaluated in full has measured the reference alike, so the first of them says it all.
    """
    evaluated = [outcome.evaluation for outcome in outcomes if outcome.evaluation is not None]
    evaluation = next((one for one in evaluated if not _partial(one)), next(iter(evaluated), None))
    if evaluation is None:
        return reference, ()
    evaluation = _on_all(evaluation)
    measured = {item.of: item.measurement for item in evaluation.measurements}
    checks = tuple(judge(_of_reference(measured[name]), tolerance, None)[0] for name, tolerance in tolerances.items())
    values: dict[str, float | None] = {
        one.name: one.reference for one in measured.values() if one.reference is not None
    }
    verdict = Verdict.worst(check.verdict for check in checks) if checks else None
    result = replace(reference, metrics=values, verdict=verdict, checks=checks)
    return result, findings.accepted([*findings.of_reference(evaluation)], ignore)


def _partial(evaluation: Evaluation) -> bool:
    return evaluation.sequential is not None and evaluation.sequential.early


def _on_all(evaluation: Evaluation) -> Evaluation:
    """With the reference's values on all examples, where the variant was evaluated on a part of them."""
    found = evaluation.sequential
    if found is None or not found.early:
        return evaluation
    measured = (
        replace(
            item,
            measurement=replace(
                item.measurement, reference=found.reference.get(item.measurement.name), examples=found.of
            ),
        )
        for item in evaluation.measurements
    )
    return replace(evaluation, measurements=tuple(measured))


def _of_reference(measured: Measurement) -> Measurement:
    """The reference's own value as a measurement; its interval was not taken."""
    return Measurement(
        name=measured.name,
        metric=measured.metric,
        output=measured.output,
        value=measured.reference,
        higher_is_better=measured.higher_is_better,
        interval_note="of the reference alone",
        examples=measured.examples,
        groups=measured.groups,
        ties=measured.reference_ties,
        error=measured.error,
    )
