"""What a check can say beside a verdict: every rule with its id, its severity and its sentences. Standard library only.

SARIF, the pages of `docs/rules`, `explain` and `ignore` in a manifest are made from, and held against, this one list.
"""

from __future__ import annotations

from typing import Any

from tflite_guard.results import Finding, Severity
from tflite_guard.rules.data import DATA
from tflite_guard.rules.files import FILES
from tflite_guard.rules.measured import MEASURED
from tflite_guard.rules.network import NETWORK
from tflite_guard.rules.rule import Rule
from tflite_guard.rules.verdicts import VERDICTS

__all__ = ["GROUPS", "RULES", "Rule", "finding", "page"]

GROUPS: dict[str, tuple[Rule, ...]] = {
    "Verdicts and errors": VERDICTS,
    "Measured and seen": MEASURED,
    "Causes in the data": DATA,
    "Causes in the network": NETWORK,
    "Causes in files and applications": FILES,
}
"""All rules, by what they are about."""

RULES = {rule.id: rule for group in GROUPS.values() for rule in group}
"""By id, in the order in which SARIF lists them."""

_PAGES = "https://github.com/tflite-guard/tflite-guard/blob/main/docs/rules"


def page(rule: str) -> str | None:
    """Where a rule is explained; None for one that has no page, whose id may be anything."""
    return f"{_PAGES}/{rule}.md" if rule in RULES else None


def finding(rule: str, message: str, severity: Severity | None = None, /, **evidence: Any) -> Finding:
    """A finding of a rule, with the rule's severity unless another is given; the keywords are its evidence."""
    return Finding(rule, severity or RULES[rule].severity, message, evidence=evidence)
