"""SARIF 2.1.0, for GitHub's code scanning and other viewers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tflite_guard.plain import plain
from tflite_guard.reports import json
from tflite_guard.reports.alerts import NOT_EVALUATED, Alert, Level, alerts
from tflite_guard.reports.wording import LONGEST_MESSAGE
from tflite_guard.results import MetricResult, Report, Verdict

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
HOME = "https://github.com/tflite-guard/tflite-guard"
MOST_RESULTS = 5000
"""What GitHub shows of the 25,000 that it takes."""
LARGEST = 9_000_000
"""Bytes of results; GitHub takes 10 MB after compression, and nobody knows how well messages compress."""


@dataclass(frozen=True)
class _Rule:
    level: Level
    short: str
    full: str
    help: str


RULES = {
    "tolerance-exceeded": _Rule(
        "error",
        "A tolerance is exceeded",
        "A converted model is worse than its float reference, or than its baseline, by more than the manifest allows.",
        "Look at the calibration data and its preprocessing first, then at the operators that lose most. If the loss "
        "is acceptable, change the tolerance in the manifest.",
    ),
    "metric-not-computed": _Rule(
        "error",
        "A metric could not be computed",
        "A metric has no value, for example because the outputs hold NaN or infinity. That is never a pass.",
        "The message says why. Check the model's outputs, the labels and the metric's options in the manifest.",
    ),
    "observed-outputs": _Rule(
        "error",
        "Outputs recorded by the application differ",
        "Outputs that the application or the device recorded are outside the tolerances, or differ from what the same "
        "artifact gives here.",
        "Compare the application's preprocessing, the version of its runtime and its kernels with those of the check.",
    ),
    "not-proven": _Rule(
        "error",
        "A required proof is missing",
        "The tolerance asks that a confidence interval be inside the limit, and there is no interval.",
        'Remove "require" from the tolerance, or choose a metric that has an interval.',
    ),
    "underpowered-evaluation": _Rule(
        "warning",
        "Too few examples",
        "The confidence interval holds the limit: with other examples the verdict could differ.",
        "Evaluate on more examples. The message says about how many would do.",
    ),
    "partially-quantized": _Rule(
        "note",
        "Operators compute in float",
        "Some operators of an integer model compute in float, so a device without float support cannot run it.",
        "Replace the operators, or set `require_integer` on the variant to make this an error.",
    ),
    "no-baseline": _Rule(
        "note",
        "The baseline holds no value",
        "The tolerance limits the change since the baseline, and the baseline has no value of this metric.",
        "Record one with `tflite-guard baseline update`.",
    ),
}


def render(report: Report) -> str:
    """The problems and findings as one run."""
    found = alerts(report)
    shown = found[:MOST_RESULTS]
    rules = list(dict.fromkeys([*RULES, *(alert.rule for alert in shown)]))
    positions = {rule: position for position, rule in enumerate(rules)}
    first = {alert.rule: alert for alert in reversed(shown)}
    driver = {
        "name": plain(report.tool.name),
        "version": plain(report.tool.version),
        "informationUri": HOME,
        "rules": [_rule(rule, RULES.get(rule) or _unlisted(first[rule])) for rule in rules],
    }
    results = list(_fitting([_result(alert, positions[alert.rule]) for alert in shown]))
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(report, len(found) - len(results))],
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "The root of the repository."}}},
        "results": results,
    }
    return json.text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _fitting(results: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    size = 0
    for result in results:
        size += len(json.text(result).encode())
        if size > LARGEST:
            return
        yield result


def _invocation(report: Report, left_out: int) -> dict[str, Any]:
    notes: list[dict[str, Any]] = []
    if left_out:
        text = f"{left_out:,} more results, none worse than these, are left out; report.json has all of them."
        notes.append({"level": "warning", "message": {"text": text}})
    if not report.models:
        why = (plain(note, LONGEST_MESSAGE) for note in report.notes)
        notes += [{"level": "error", "message": {"text": text}} for text in why]
    return {"executionSuccessful": report.verdict is not Verdict.ERROR, "toolExecutionNotifications": notes}


def _unlisted(alert: Alert) -> _Rule:
    """The rule of an error, of which there are many kinds, or of a finding that has no text here."""
    kind = alert.rule.removeprefix(NOT_EVALUATED)
    if alert.verdict is None:
        return _Rule(alert.level, kind, f"A finding of the rule {kind}.", "The message says what to do.")
    return _Rule(
        "error",
        f"Could not be evaluated: {kind}",
        "A variant or a whole model could not be evaluated, so nothing is known of its quality.",
        "The message says what to do.",
    )


def _rule(identifier: str, rule: _Rule) -> dict[str, Any]:
    severity = "recommendation" if rule.level == "note" else rule.level
    return {
        "id": identifier,
        "name": "".join(word.capitalize() for word in re.split(r"\W+", identifier)) or identifier,
        "shortDescription": {"text": rule.short},
        "fullDescription": {"text": rule.full},
        "help": {"text": rule.help},
        "defaultConfiguration": {"level": rule.level},
        "properties": {"tags": ["quantization"], "precision": "very-high", "problem.severity": severity},
    }


def _result(alert: Alert, rule: int) -> dict[str, Any]:
    manifest = alert.model.manifest
    artifact = {"uri": quote(manifest.repository_path, safe="/", errors="replace"), "uriBaseId": "%SRCROOT%"}
    return {
        "ruleId": alert.rule,
        "ruleIndex": rule,
        "level": alert.level,
        "message": {"text": _unlinked(f"{alert.where}: {alert.message}")},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": artifact, "region": {"startLine": max(alert.line, 1)}},
                "logicalLocations": _logical(alert),
            }
        ],
        # GitHub reads this name alone. Without it, variants that share the line of a tolerance become one alert.
        "partialFingerprints": {"primaryLocationLineHash": alert.fingerprint},
        "properties": _figures(alert),
    }


def _logical(alert: Alert) -> Sequence[dict[str, str]]:
    model = {"name": plain(alert.model.name), "fullyQualifiedName": alert.title, "kind": "model"}
    if alert.variant is None:
        return [model]
    return [{"name": plain(alert.variant), "fullyQualifiedName": alert.where, "kind": "variant"}]


def _figures(alert: Alert) -> dict[str, Any]:
    named = {"model": plain(alert.model.name)}
    if alert.variant is not None:
        named["variant"] = plain(alert.variant)
    return named | ({} if alert.metric is None else _of_metric(alert.metric))


def _of_metric(metric: MetricResult) -> dict[str, Any]:
    limits = {name: limit for name, limit in (metric.tolerance or {}).items() if name.startswith(("max", "min"))}
    figures = {
        "metric": plain(metric.name),
        "reference": metric.reference,
        "value": metric.value,
        "drop": metric.drop,
        "confidenceInterval": metric.confidence_interval,
        "tolerance": {plain(name): limit for name, limit in limits.items() if isinstance(limit, int | float)} or None,
        "conclusive": metric.conclusive,
        "examples": metric.examples,
        "baseline": metric.baseline,
        "regression": metric.regression,
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _unlinked(text: str) -> str:
    """A message in which `[text](target)`, SARIF's own form of a link, cannot be."""
    return text.replace("](", "] (")
