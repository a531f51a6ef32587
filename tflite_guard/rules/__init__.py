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
from tflite_guard.rules.verdicts import NOT_EVALUATED, VERDICTS

__all__ = ["GROUPS", "NOT_EVALUATED", "RULES", "Rule", "explained_by", "finding", "page"]

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


def explained_by(name: str) -> Rule | None:
    """The rule of a name in reports; of an error, `could-not-evaluate/KIND`, the kind's own where it has one.

    None for a rule of another version, whose id may be anything.
    """
    general, _, kind = name.partition("/")
    return RULES.get(name) or (RULES.get(kind, NOT_EVALUATED) if general == NOT_EVALUATED.id else None)


def page(name: str) -> str | None:
    """Where what reports call by a name is explained; None where nothing does."""
    rule = explained_by(name)
    return None if rule is None else f"{_PAGES}/{rule.id}.md"


def finding(rule: str, message: str, severity: Severity | None = None, /, **evidence: Any) -> Finding:
    """A finding of a rule, with the rule's severity unless another is given; the keywords are its evidence."""
    return Finding(rule, severity or RULES[rule].severity, message, evidence=evidence)
