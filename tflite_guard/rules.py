"""What a check can say beside a verdict: every rule with its id, its severity and its sentences. Standard library only.

SARIF, the pages of `docs/rules` and `ignore` in a manifest are made from, and held against, this one list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Rule:
    """One rule. Its id is stable: manifests name it in `ignore`, code hosts in alerts."""

    id: str
    severity: Severity
    title: str
    meaning: str
    """One or two sentences: what it says."""
    advice: str
    """What to do."""
    finding: bool = True
    """It is a finding, which a manifest may `ignore`; the others are verdicts and errors."""


_ALL = (
    Rule(
        "tolerance-exceeded",
        "error",
        "A tolerance is exceeded",
        "A converted model is worse than its float reference, or than its baseline, by more than the manifest allows.",
        "Look at the calibration data and its preprocessing first, then at the operators that lose most. If the loss "
        "is acceptable, change the tolerance in the manifest.",
        finding=False,
    ),
    Rule(
        "metric-not-computed",
        "error",
        "A metric could not be computed",
        "A metric has no value, for example because the outputs hold NaN or infinity. That is never a pass.",
        "The message says why. Check the model's outputs, the labels and the metric's options in the manifest.",
        finding=False,
    ),
    Rule(
        "observed-outputs",
        "error",
        "Outputs recorded by the application differ",
        "Outputs that the application or the device recorded are outside the tolerances, or differ from what the same "
        "artifact gives here.",
        "Compare the application's preprocessing, the version of its runtime and its kernels with those of the check.",
        finding=False,
    ),
    Rule(
        "not-proven",
        "error",
        "A required proof is missing",
        "The tolerance asks that a confidence interval be inside the limit, and there is no interval.",
        'Remove "require" from the tolerance, or choose a metric that has an interval.',
    ),
    Rule(
        "underpowered-evaluation",
        "warning",
        "Too few examples",
        "The confidence interval holds the limit: with other examples the verdict could differ.",
        "Evaluate on more examples. The message says about how many would do.",
    ),
    Rule(
        "partially-quantized",
        "note",
        "Operators compute in float",
        "Some operators of an integer model compute in float, so a device without float support cannot run it.",
        "Replace the operators, or set `require_integer` on the variant to make this an error.",
    ),
    Rule(
        "no-baseline",
        "note",
        "The baseline holds no value",
        "The tolerance limits the change since the baseline, and the baseline has no value of this metric.",
        "Record one with `tflite-guard baseline update`.",
    ),
)

RULES = {rule.id: rule for rule in _ALL}
"""By id, in the order in which SARIF lists them."""
