"""What a code host shows at a line of the manifest: problems and findings, worst first, one a variant.

Each has a fingerprint that stays the same while figures, lines and other variants change.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from tflite_guard.reports import wording
from tflite_guard.results import Finding, MetricResult, ModelResult, Report, Severity, VariantResult, Verdict
from tflite_guard.rules import NOT_EVALUATED
from tflite_guard.text import figures
from tflite_guard.text.plain import plain

LEVELS: dict[Verdict, Severity] = {Verdict.ERROR: "error", Verdict.FAIL: "error", Verdict.WARN: "warning"}
ORDER: tuple[Severity, ...] = ("error", "warning", "note")
WITHOUT_REFERENCE = ("min", "max", "max_regression")
"""The limits whose failure is told without the float reference."""


@dataclass(frozen=True)
class Alert:
    """One problem or finding of one variant, or of a model."""

    level: Severity
    verdict: Verdict | None
    """None of a finding."""
    rule: str
    model: ModelResult
    title: str
    """The model's, told apart from others of its name."""
    variant: str | None
    """None where it is the model's."""
    metric: MetricResult | None
    message: str
    line: int
    """Of the manifest; 0 where unknown."""
    fingerprint: str
    ignored: str | None = None
    """Of a finding that the manifest accepts: why."""
    cause: Finding | None = None
    """The finding that an experiment has proven to be the cause of the problem."""

    @property
    def where(self) -> str:
        """`model / variant`."""
        return self.title + ("" if self.variant is None else f" / {plain(self.variant)}")


def alerts(report: Report) -> list[Alert]:
    """Problems, and findings that no problem tells of, the worst first; no two have one fingerprint."""
    # The first where a report from elsewhere has two of one name.
    owners = {id(model): {one.name: one for one in reversed(model.variants)} for model in report.models}
    causes = {id(one): wording.primary(one) for model in report.models for one in model.variants}
    found = [
        alert
        for problem in wording.problems(report)
        for alert in _of_problem(problem, owners[id(problem.model)], causes)
    ]
    titles = wording.titles(report)
    found += [_of_finding(titles[id(model)], model, variant, one) for model, variant, one in untold_findings(report)]
    seen: Counter[str] = Counter()
    for position, alert in enumerate(found):
        seen[alert.fingerprint] += 1
        if (times := seen[alert.fingerprint]) > 1:
            found[position] = replace(alert, fingerprint=_hash([alert.fingerprint, times]))
    return sorted(found, key=lambda alert: ORDER.index(alert.level))


def untold_findings(report: Report) -> Iterator[tuple[ModelResult, VariantResult | None, Finding]]:
    """Findings but those that are problems or the cause of one, in the report's order; a model's are of no variant."""
    for model in report.models:
        yield from ((model, None, finding) for finding in model.findings if finding.verdict is Verdict.PASS)
        for variant in model.variants:
            yield from ((model, variant, finding) for finding in wording.untold(variant))


def fingerprint(
    rule: str, model: ModelResult, variant: str | None, metric: str | None, observed: bool, *more: str | None
) -> str:
    """A hash of what something is about, and of nothing that was measured."""
    return _hash([rule, model.manifest.repository_path, model.name, variant, metric, observed, *more])


def explained(problem: wording.Problem, why: wording.Explanation | None) -> str:
    """A problem's message with the reference where it does not have it, and with its explanation."""
    sentences, metric = [problem.message], problem.metric
    if metric is not None and metric.reference is not None and metric.failed_limit in WITHOUT_REFERENCE:
        reference = figures.exact(metric.reference, metric.metric, metric.value)
        ends = metric.confidence_interval
        within = f", 95 % interval {figures.interval(ends, metric.metric)}" if ends and metric.drop is not None else ""
        sentences.append(f"The float reference has {reference}: {wording.in_words(wording.worse_by(metric))}{within}.")
    if why is not None:
        sentences.append(why.text)
    return " ".join(sentences)


def _of_problem(
    problem: wording.Problem, owners: Mapping[str, VariantResult], causes: Mapping[int, Finding | None]
) -> Iterator[Alert]:
    """One for each variant, so that a variant's does not change when another comes to share its error."""
    rule = rule_of(problem)
    finding = problem.finding
    more = () if finding is None else (finding.tensor, finding.operator)
    for variant in problem.variants or (None,):
        owner = None if variant is None else owners[variant]
        metric = problem.metric if finding is None else _metric(owner, finding)
        line = problem.line
        if owner is not None and len(problem.variants) > 1:
            line = owner.line or line
        name = None if metric is None else metric.name
        identity = fingerprint(rule, problem.model, variant, name, problem.observed, *more)
        yield Alert(
            LEVELS[problem.verdict],
            problem.verdict if finding is None else None,
            rule,
            problem.model,
            problem.title,
            variant,
            metric,
            explained(problem, problem.explanation),
            line,
            identity,
            cause=None if owner is None else causes[id(owner)],
        )


def rule_of(problem: wording.Problem) -> str:
    """The rule that code hosts know a problem by."""
    if problem.observed:
        return "observed-outputs"
    if problem.finding is not None:
        return problem.rule
    if problem.rule == "reference" and problem.metric is not None and problem.metric.error is None:
        return "reference-tolerance"
    if problem.metric is None:
        return f"{NOT_EVALUATED.id}/{plain(problem.rule, 100)}"
    return "metric-not-computed" if problem.metric.error is not None else "tolerance-exceeded"


def _metric(variant: VariantResult | None, finding: Finding) -> MetricResult | None:
    """The metric of a variant that a finding is about, if it is about one."""
    of = finding.evidence.get("metric")
    return None if variant is None else next((one for one in variant.metrics if one.name == of), None)


def _of_finding(title: str, model: ModelResult, variant: VariantResult | None, finding: Finding) -> Alert:
    whose = None if variant is None else variant.name
    metric = _metric(variant, finding)
    name = None if metric is None else metric.name
    identity = fingerprint(finding.rule, model, whose, name, False, finding.tensor, finding.operator)
    return Alert(
        finding.severity,
        None,
        plain(finding.rule, 100),
        model,
        title,
        whose,
        metric,
        wording.told(finding),
        (variant.line if variant else 0) or model.line,
        identity,
        finding.ignored,
    )


def _hash(identity: list[str | int | None]) -> str:
    text = json.dumps(identity, ensure_ascii=False, separators=(",", ":"))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
