"""SARIF 2.1.0, for GitHub's code scanning and other viewers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from tflite_guard.reports import json
from tflite_guard.reports.alerts import Alert, alerts
from tflite_guard.reports.wording import LONGEST_MESSAGE
from tflite_guard.results import MetricResult, Report, Verdict
from tflite_guard.rules import NOT_EVALUATED, RULES, Rule, page
from tflite_guard.text.plain import plain

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
HOME = "https://github.com/tflite-guard/tflite-guard"
MOST_RESULTS = 5000
"""What GitHub shows of the 25,000 that it takes."""
LARGEST = 9_000_000
"""Bytes of results; GitHub takes 10 MB after compression, and nobody knows how well messages compress."""


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
        "rules": [_rule(RULES.get(rule) or _unlisted(first[rule])) for rule in rules],
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


def _unlisted(alert: Alert) -> Rule:
    """The rule of an error, of which there are many kinds, or of a finding of a later version."""
    if alert.verdict is None:
        meaning = f"A finding of the rule {alert.rule}."
        return Rule(alert.rule, alert.level, alert.rule, meaning, "The message says what to do.")
    return replace(NOT_EVALUATED, id=alert.rule, title=f"Could not be evaluated: {alert.rule.partition('/')[2]}")


def _rule(rule: Rule) -> dict[str, Any]:
    severity = "recommendation" if rule.severity == "note" else rule.severity
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in re.split(r"\W+", rule.id)) or rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.meaning},
        "help": {"text": rule.advice},
        **({} if (address := page(rule.id)) is None else {"helpUri": address}),
        "defaultConfiguration": {"level": rule.severity},
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
        **_suppressions(alert),
        "properties": _figures(alert),
    }


def _suppressions(alert: Alert) -> dict[str, Any]:
    """Of an ignored finding: that the manifest, which is outside of what is judged, accepts it, and why."""
    if alert.ignored is None:
        return {}
    return {"suppressions": [{"kind": "external", "justification": plain(alert.ignored, LONGEST_MESSAGE)}]}


def _logical(alert: Alert) -> Sequence[dict[str, str]]:
    model = {"name": plain(alert.model.name), "fullyQualifiedName": alert.title, "kind": "model"}
    if alert.variant is None:
        return [model]
    return [{"name": plain(alert.variant), "fullyQualifiedName": alert.where, "kind": "variant"}]


def _figures(alert: Alert) -> dict[str, Any]:
    named = {"model": plain(alert.model.name)}
    if alert.variant is not None:
        named["variant"] = plain(alert.variant)
    if alert.cause is not None:
        named["cause"] = plain(alert.cause.rule, 100)
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
