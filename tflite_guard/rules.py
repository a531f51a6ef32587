"""What a check can say beside a verdict: every rule with its id, its severity and its sentences. Standard library only.

SARIF, the pages of `docs/rules` and `ignore` in a manifest are made from, and held against, this one list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tflite_guard.results import Finding, Severity


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
        "reference-tolerance",
        "error",
        "The reference itself is out of tolerance",
        "The float reference's own value is outside the limits that the manifest sets in `reference.tolerances`.",
        "Mend the reference, its preprocessing or the evaluation data: what is compared with a bad reference proves "
        "nothing.",
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
        "note",
        "Too few examples",
        "The confidence interval holds the limit: with other examples the verdict could differ.",
        "Evaluate on more examples. The message says about how many would do.",
    ),
    Rule(
        "reference-suspect",
        "warning",
        "The reference looks broken",
        "The float reference does no better on these data than a constant answer would, decides for one class always, "
        "gives the same outputs for every example, or gives nothing but zeros and ones. A variant that agrees with it "
        "then proves nothing.",
        "Check the preprocessing (scale, order of the channels, resizing, layout), the labels and the order of the "
        "classes. The message says what was seen.",
    ),
    Rule(
        "batch-dependent",
        "warning",
        "An example's outputs depend on its batch",
        "The same example gives other outputs in a batch than alone, as with batch normalization left in training "
        "mode. Everything was then run one example at a time, as an application does.",
        "Export the model for inference (in Keras: `training=False`), so that an example's outputs are its own.",
    ),
    Rule(
        "state-reset",
        "note",
        "State was reset before each example",
        "The model carries state from one call to the next, and each example was evaluated as if it were the first.",
        'Where the application keeps the state between calls, set `"state": "kept"` on the model, and name what '
        "belongs together (the windows of a recording) as the `group` of the evaluation data.",
    ),
    Rule(
        "nothing-quantized",
        "warning",
        "Nothing is quantized",
        "A quantization was asked for, and no tensor of the file is quantized: it is a float model under another name.",
        "The quantizer leaves small constants in float (under 1,024 elements in `dynamic_range`), and operators that "
        "it does not know. Choose `int8`, or drop the variant.",
    ),
    Rule(
        "coarse-output",
        "warning",
        "The output is too coarse to decide",
        "In many examples several of the largest outputs are equal, where the reference's are not: the output's few "
        "quantization steps cannot tell the classes apart, and the lowest index decides.",
        "Where the output is a softmax, take its logits as the model's output, or leave the last operators in float "
        "with `keep_float`. A calibration on values of another range than the evaluation's leaves few steps, too.",
    ),
    Rule(
        "constant-output",
        "warning",
        "An output never varies",
        "The variant gives the same output for every example, where the reference's varies.",
        "Look at the calibration data and the scales of the output: everything is rounded or clipped to one value.",
    ),
    Rule(
        "select-ops",
        "note",
        "Operators outside the built-in set",
        "The file holds operators that LiteRT does not have by itself: of TensorFlow (Flex) or custom ones.",
        "Link what implements them into the application (for Flex, the Select TF operators), or replace them. "
        "Microcontrollers cannot run them.",
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


def finding(rule: str, message: str, severity: Severity | None = None, /, **evidence: Any) -> Finding:
    """A finding of a rule, with the rule's severity unless another is given; the keywords are its evidence."""
    return Finding(rule, severity or RULES[rule].severity, message, evidence=evidence)
