"""GitLab's code quality report: what a merge request shows beside the manifest."""

from __future__ import annotations

from typing import Any

from tflite_guard.plain import plain
from tflite_guard.reports import json
from tflite_guard.reports.alerts import Alert, Level, alerts
from tflite_guard.results import Report, Verdict

SEVERITIES = {Verdict.ERROR: "blocker", Verdict.FAIL: "critical", Verdict.WARN: "minor"}
OF_FINDINGS: dict[Level, str] = {"error": "major", "warning": "minor", "note": "info"}
LONGEST_PATH = 4096


def render(report: Report) -> str:
    """The problems and findings as a JSON list; an empty one where there are none."""
    return json.text([_issue(alert) for alert in alerts(report)])


def _issue(alert: Alert) -> dict[str, Any]:
    severity = OF_FINDINGS[alert.level] if alert.verdict is None else SEVERITIES[alert.verdict]
    return {
        "description": f"{alert.where}: {alert.message}",
        "check_name": alert.rule,
        "fingerprint": alert.fingerprint,
        "severity": severity,
        "location": {
            "path": plain(alert.model.manifest.repository_path, LONGEST_PATH),
            "lines": {"begin": max(alert.line, 1)},
        },
    }
