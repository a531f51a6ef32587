"""GitLab's code quality report: what a merge request shows beside the manifest."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from tflite_guard.reports import json
from tflite_guard.reports.alerts import Alert, alerts
from tflite_guard.reports.wording import LONGEST_MESSAGE
from tflite_guard.results import Report, Severity, Verdict
from tflite_guard.text.plain import plain
from tflite_guard.vocabulary import DEFAULT_MANIFEST

SEVERITIES = {Verdict.ERROR: "blocker", Verdict.FAIL: "critical", Verdict.WARN: "minor"}
OF_FINDINGS: dict[Severity, str] = {"error": "major", "warning": "minor", "note": "info"}
LONGEST_PATH = 4096


def render(report: Report) -> str:
    """The problems and findings as a JSON list; an empty one where there are none."""
    of_run = map(_of_run, report.notes) if not report.models else ()
    return json.text([*of_run, *map(_issue, alerts(report))])


def _of_run(note: str) -> dict[str, Any]:
    """Why a run came to nothing, at the place that the note begins with, if it does."""
    at = re.match(r"(.{1,4096}?):(\d{1,9}):\d+: ", note)
    return {
        "description": plain(note, LONGEST_MESSAGE),
        "check_name": "nothing-checked",
        "fingerprint": sha256(plain(note, LONGEST_MESSAGE).encode()).hexdigest(),
        "severity": SEVERITIES[Verdict.ERROR],
        "location": {
            "path": plain(at[1], LONGEST_PATH) if at else DEFAULT_MANIFEST,
            "lines": {"begin": max(int(at[2]), 1) if at else 1},
        },
    }


def _issue(alert: Alert) -> dict[str, Any]:
    level = alert.level if alert.ignored is None else "note"
    severity = OF_FINDINGS[level] if alert.verdict is None else SEVERITIES[alert.verdict]
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
