"""What is found about variants and references, from facts and measurements by hand; nothing about healthy ones."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from tests.sample import PICTURE
from tflite_guard.judgement.findings import accepted, of_reference, of_variant
from tflite_guard.judgement.intervals import newcombe_paired, simultaneous
from tflite_guard.judgement.judging import Outcome, reference_result, variant_result
from tflite_guard.manifest.types import (
    Conversion,
    EvaluationOptions,
    FileSpec,
    Ignore,
    Judgement,
    Tolerance,
    VariantSpec,
)
from tflite_guard.protocol import (
    Decided,
    DegenerateScale,
    Evaluation,
    Facts,
    InputRange,
    Measured,
    ObservedMeasured,
    OutputFacts,
    Scales,
    Stuck,
)
from tflite_guard.results import (
    Artifact,
    Changed,
    ChangedAnswer,
    Finding,
    Measurement,
    ReferenceResult,
    Slice,
    Slices,
    VariantResult,
    Verdict,
)
from tflite_guard.vocabulary import Kernels

HEALTHY = OutputFacts("digit", 1000, decided=Decided(1000, 980, 120, 10, 10))


def accuracy(counts: tuple[int, int, int, int] = (930, 50, 20, 0), **settings: Any) -> Measurement:
    a, b, c, _ = counts
    n, drop = sum(counts), (b - c) / sum(counts)
    defaults: dict[str, Any] = {
        "reference": (a + b) / n,
        "drop": drop,
        "confidence_interval": (drop - 0.01, drop + 0.01),
        "examples": n,
        "counts": counts,
    }
    return Measurement("accuracy", "accuracy", None, (a + c) / n, True, **(defaults | settings))


def evaluation(*measured: Measurement, **settings: Any) -> Evaluation:
    defaults: dict[str, Any] = {
        "artifact": Artifact(1000, "0" * 64, 10, quantized_tensors=20),
        "observed": None,
        "outputs": (HEALTHY,),
    }
    return Evaluation(tuple(Measured(one.name, one) for one in measured), **(defaults | settings))


def judged(found: Evaluation, conversion: Conversion | None = None, **judgement: Any) -> VariantResult:
    variant = VariantSpec("v", conversion or Conversion("int8"), judgement=Judgement(**judgement))
    return variant_result(variant, Outcome(found), {}, lambda _: None)


def rules(found: Evaluation, conversion: Conversion | None = None, **judgement: Any) -> list[tuple[str, str]]:
    return [(one.rule, one.severity) for one in judged(found, conversion, **judgement).findings]


def suspicions(output: OutputFacts, *measured: Measurement) -> list[str]:
    found = list(of_reference(evaluation(*(measured or (accuracy(),)), outputs=(output,))))
    assert {one.rule for one in found} <= {"reference-suspect"}
    return [one.message for one in found]


def test_of_a_healthy_model_nothing_is_found() -> None:
    result = judged(evaluation(accuracy((975, 5, 3, 17), ties=2)))
    assert (result.findings, result.verdict, result.metrics[0].verdict) == ((), Verdict.PASS, None)
    assert suspicions(HEALTHY) == []


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (
            (0, 250, True),
            'between 0 and 250: if training scaled pixels to 0 to 1 outside the model, add {"scale": 0.0039',
        ),
        ((0, 255, False), 'and if to -1 to 1, {"scale": 0.00784313725490196} and {"offset": -1}; else check'),
        ((-1, 1, True), "between -1 and 1: if training left pixels at 0 to 255, or the model scales them itself, take"),
        ((-1, 1, False), "check the preprocessing (scale, order of the channels, resizing), the labels"),
        ((-3, 250, True), "check the preprocessing (scale, order of the channels, resizing), the labels"),
    ],
)
def test_a_suspect_reference_is_told_with_what_its_inputs_say_of_their_scale(given: Any, advice: str) -> None:
    broken = replace(HEALTHY, saturated=1000)
    (found,) = of_reference(evaluation(accuracy(), outputs=(broken,), inputs=(InputRange("x", *given),)))
    assert advice in found.message


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ((0, 255, True), 'the model scales its inputs itself (rescaling), so "preprocess" must not; check the order'),
        ((0, 1, True), 'and the model scales its inputs itself (rescaling): take the scaling out of "preprocess"'),
    ],
)
def test_a_model_that_scales_its_inputs_gets_no_advice_to_scale_them(given: Any, advice: str) -> None:
    broken = replace(HEALTHY, saturated=1000)
    seen = evaluation(accuracy(), outputs=(broken,), inputs=(InputRange("x", *given),), scaling=("rescaling",))
    (found,) = of_reference(seen)
    assert advice in found.message
    assert '"scale":' not in found.message


def test_classes_and_changed_answers_are_the_results_with_nothing_but_pixels_in_pictures() -> None:
    given = [PICTURE, "<svg onload=alert(1)>", None]
    answers = tuple(ChangedAnswer(at, 7, 7, 4, 0.9, 0.1, one) for at, one in enumerate(given))
    by_class = Slices("accuracy", "accuracy", None, 1, 0, (Slice(7, 3, 1.0, 0.0, 1.0),))
    found = evaluation(accuracy(by_class=by_class), changed=Changed("accuracy", 1000, 3, 3, 0, answers))
    result = judged(found)
    assert result.by_class == by_class
    assert result.changed is not None
    assert [one.picture for one in result.changed.worst] == [PICTURE, None, None]
    assert replace(result.changed, worst=()) == Changed("accuracy", 1000, 3, 3, 0, ())


def test_a_reference_no_better_than_the_most_frequent_label_is_told_with_both_numbers() -> None:
    (message,) = suspicions(replace(HEALTHY, decided=Decided(1000, 312, 333, 3, 3)))
    assert "right in 0.3120 of decisions" in message
    assert "most frequent label is right in 0.3330" in message
    assert suspicions(replace(HEALTHY, decided=Decided(1000, 334, 333, 3, 3))) == []


def test_imbalanced_labels_that_no_accuracy_is_taken_of_are_no_suspicion() -> None:
    f1 = replace(accuracy(), name="f1_macro", metric="f1_macro")
    assert suspicions(replace(HEALTHY, decided=Decided(1000, 940, 950, 2, 2)), f1) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decided": Decided(1000, 100, 120, 10, 1)}, "always decides for one class"),
        ({"decided": Decided(0, 0, 0, 0, 1)}, "always decides for one class"),
        ({"constant": True}, "same outputs for all 1,000 examples"),
        ({"saturated": 950}, "zeros and ones for 950 of 1,000"),
        ({"decided": None, "r2": -0.5}, "R2 of −0.5"),
    ],
)
def test_what_is_suspicious_of_a_reference(changes: dict[str, Any], words: str) -> None:
    (message,) = suspicions(replace(HEALTHY, **changes))
    assert words in message


@pytest.mark.parametrize(
    "changes",
    [
        {"saturated": 949},
        {"decided": None, "r2": 0.01},
        {"decided": Decided(1000, 1000, 1000, 1, 1)},
        {"examples": 19, "decided": Decided(19, 2, 5, 10, 1)},
        {"decided": Decided(0, 0, 0, 0, 2)},
        {"examples": 1, "decided": None, "constant": True},
    ],
)
def test_what_is_not_suspicious_of_a_reference(changes: dict[str, Any]) -> None:
    assert suspicions(replace(HEALTHY, **changes)) == []


def test_a_ranking_no_better_than_chance_is_suspicious() -> None:
    auc = replace(accuracy(), name="auc", metric="roc_auc", counts=None, reference=0.5, value=0.5)
    assert "chance has 0.5" in suspicions(replace(HEALTHY, decided=None), auc)[0]
    assert suspicions(replace(HEALTHY, decided=None), replace(auc, reference=0.51)) == []


def test_a_reference_that_needs_its_batch_is_not_suspected_of_wrong_data_too() -> None:
    silent = replace(HEALTHY, constant=True)
    found = of_reference(evaluation(accuracy(), outputs=(silent,), reference=Facts(batch_dependent=True)))
    assert [one.rule for one in found] == ["batch-dependent"]


def test_one_output_of_several_may_be_constant() -> None:
    counted = OutputFacts("count", 1000, constant=True)
    assert not [*of_reference(evaluation(accuracy(), outputs=(HEALTHY, counted)))]
    silent = replace(HEALTHY, constant=True)
    assert len([*of_reference(evaluation(accuracy(), outputs=(silent, counted)))]) == 2


@pytest.mark.parametrize(
    ("conversion", "quantized", "told"),
    [
        (Conversion("dynamic_range"), 0, True),
        (Conversion("dynamic_range"), 1, False),
        (Conversion(recipe="weight_only_wi8_afp32"), 0, True),
        (Conversion("float32"), 0, False),
        (Conversion("float16"), 0, False),
        (Conversion(tflite=FileSpec("/a.tflite")), 0, False),
    ],
)
def test_a_quantization_that_quantized_nothing_is_a_warning(conversion: Conversion, quantized: int, told: bool) -> None:
    found = evaluation(artifact=Artifact(1000, "0" * 64, 10, quantized_tensors=quantized))
    assert rules(found, conversion) == [("nothing-quantized", "warning")] * told
    assert judged(found, conversion).verdict is (Verdict.WARN if told else Verdict.PASS)


@pytest.mark.parametrize(
    ("measured", "limit", "told"),
    [
        # 139 lost of 1,000 with 476 ties, of which the reference has none: out of tolerance, and certain without one.
        (accuracy((590, 148, 9, 253), ties=476, lost_ties=140), 0.02, "warning"),
        (accuracy((590, 148, 9, 253), ties=476, lost_ties=74), None, "warning"),
        # As many ties in the reference: they cost nothing.
        (accuracy((590, 148, 9, 253), ties=476, reference_ties=476, lost_ties=148), 0.02, None),
        # Less than half of what was lost.
        (accuracy((590, 148, 9, 253), ties=9, lost_ties=9), 0.02, None),
        (accuracy((590, 148, 9, 253), ties=476, lost_ties=73), 0.02, "note"),
        # Many ties and no loss.
        (accuracy((975, 5, 5, 15), ties=30, lost_ties=5), 0.02, "note"),
        (accuracy((975, 5, 5, 15), ties=9), 0.02, None),
    ],
)
def test_ties_are_told_and_warned_of_where_they_cost(measured: Measurement, limit: float | None, told: str) -> None:
    tolerances = {} if limit is None else {"accuracy": Tolerance(max_drop=limit)}
    found = judged(evaluation(measured), tolerances=tolerances).findings
    assert [one.severity for one in found if one.rule == "coarse-output"] == ([told] if told else [])
    if told:
        (one,) = [one for one in found if one.rule == "coarse-output"]
        assert f"{measured.ties} of 1,000 decisions are ties" in one.message
        assert "logits" in one.message


def test_how_it_ran_is_told_of_the_reference_or_else_of_the_file() -> None:
    both = Facts(state_reset=True, batch_dependent=True)
    alike = evaluation(accuracy(), facts=both, reference=both)
    assert rules(alike) == []
    assert [(one.rule, one.severity) for one in of_reference(alike)] == [
        ("batch-dependent", "warning"),
        ("state-reset", "note"),
    ]
    own = evaluation(accuracy(), facts=both)
    assert rules(own) == [("batch-dependent", "note"), ("state-reset", "note")]
    assert [*of_reference(own)] == []


def test_operators_that_are_not_built_in_are_named() -> None:
    made = Artifact(1000, "0" * 64, 10, quantized_tensors=1, custom_operators=("FlexErf", "Mine"))
    (found,) = judged(evaluation(accuracy(), artifact=made)).findings
    assert (found.rule, found.severity) == ("select-ops", "note")
    assert "FlexErf, Mine" in found.message
    assert "Flex)" in found.message


def test_an_output_that_stopped_varying_is_told() -> None:
    stuck = Stuck(spread=0.4, width=0.5, clear=True)
    dead = evaluation(accuracy(), outputs=(replace(HEALTHY, stuck=stuck),))
    assert rules(dead) == [("constant-output", "error")]
    assert judged(dead).verdict is Verdict.FAIL
    assert judged(dead, ignore=(Ignore("constant-output", "a version number"),)).verdict is Verdict.PASS
    barely = replace(HEALTHY, stuck=replace(stuck, spread=0.001, clear=False))
    assert rules(evaluation(accuracy(), outputs=(barely,))) == [("constant-output", "warning")]
    assert rules(evaluation(accuracy(), outputs=(replace(HEALTHY, examples=1, stuck=stuck),))) == []


def test_the_class_that_lost_most_is_named_where_chance_does_not_explain_it() -> None:
    lost = Slice(3, 100, 0.95, 0.8, 0.15, (0.02, 0.28), (78, 17, 2, 3))
    small = Slice(1, 10, 1.0, 0.8, 0.2, (-0.1, 0.5), (8, 2, 0, 0))
    found = accuracy(by_class=Slices("accuracy", "accuracy", None, 400, 120, (small, lost)))
    told = judged(evaluation(found))
    assert told.by_class == found.by_class
    (one,) = [one for one in told.findings if one.rule == "class-lost"]
    assert (one.severity, one.evidence["label"], one.evidence["interval"]) == ("note", 3, [0.02, 0.28])
    assert "class 3 has lost beyond chance: accuracy of its 100 examples went from 0.9500 to 0.8000" in one.message
    # Of 400 classes a report lists 100, and all that have lost are counted.
    assert one.message.endswith("at 95 % for all classes at once; 119 more have, too")
    by_chance = accuracy(by_class=Slices("accuracy", "accuracy", None, 2, 0, (small,)))
    assert "class-lost" not in [rule for rule, _ in rules(evaluation(by_chance))]


def test_of_each_key_the_slice_that_lost_most_is_named() -> None:
    def cut(key: str, *worst: Slice) -> Slices:
        return Slices("accuracy", "accuracy", key, len(worst), sum(bool(one.interval) for one in worst), worst)

    night = Slice("night", 50, 1.0, 0.7, 0.3, (0.1, 0.5))
    found = accuracy(by_slice=(cut("lighting", night, Slice("day", 50, 1.0, 1.0, 0.0)), cut("device", night)))
    told = [one for one in judged(evaluation(found)).findings if one.rule == "slice-lost"]
    assert [(one.evidence["key"], one.evidence["label"]) for one in told] == [
        ("lighting", "night"),
        ("device", "night"),
    ]
    assert told[0].message.startswith(
        "lighting 'night' has lost beyond chance: accuracy of its 50 examples went from 1.0000 to 0.7000"
    )


def test_the_classes_shown_are_those_of_the_metric_that_one_of_them_fails() -> None:
    of = {
        name: Slices(name, name, None, 1, 0, (Slice(0, 50, 1.0, 0.5, 0.5),)) for name in ("accuracy", "top_k_accuracy")
    }
    first = accuracy(by_class=of["accuracy"])
    second = replace(accuracy(by_class=of["top_k_accuracy"]), name="top_k_accuracy", metric="top_k_accuracy")
    assert judged(evaluation(first, second)).by_class == of["accuracy"]
    failing = {"top_k_accuracy": Tolerance(max_class_drop=0.1)}
    assert judged(evaluation(first, second), tolerances=failing).by_class == of["top_k_accuracy"]


def test_intervals_of_classes_hold_at_once() -> None:
    """Ten classes of 50 examples, of which the variant decides 1 in 25 otherwise, right or wrong by the same chance."""
    draws, excluding, runs = Random(5), 0, 1000
    z = simultaneous(10)
    for _ in range(runs):
        lows = []
        for _ in range(10):
            kinds = Counter(draws.choices("bfsn", (0.88, 0.02, 0.02, 0.08), k=50))
            low, high = newcombe_paired(*(kinds[kind] for kind in "bfsn"), z)
            lows.append(low > 0 or high < 0)
        excluding += any(lows)
    assert excluding / runs <= 0.05


APART = {"default": 80.0, "reference": 11.0, "micro": 0.0}
RIGHT = "agree exactly with the micro kernels, and differ by up to 80 with the default ones, 11 with the reference ones"
OTHERS = (
    "agree within 1.5 quantization steps with the reference kernels, and differ by up to 3 with the default ones; this "
    'variant is evaluated with the default ones: set "kernels": "reference" to judge what runs there'
)
TWO = "agree exactly with the default and reference kernels"


@pytest.mark.parametrize(
    ("steps", "own", "told"),
    [
        (APART, "micro", RIGHT),
        ({"default": 3.0, "reference": 1.5}, "default", OTHERS),
        ({"default": 0.0, "reference": 0.0, "micro": 2.0}, "default", TWO),
        ({"default": 1.0, "reference": 1.0}, "default", None),
    ],
)
def test_a_recording_says_which_kernels_it_agrees_with(steps: dict[str, float], own: Kernels, told: str | None) -> None:
    found = evaluation(accuracy(), observed=ObservedMeasured((), steps))
    variant = VariantSpec("v", Conversion("int8"), EvaluationOptions(kernels=own))
    messages = [one.message for one in of_variant(found, variant, judged(found).metrics) if one.severity == "note"]
    assert [message for message in messages if told is not None and told in message] == messages
    assert len(messages) == (told is not None)


def test_channels_of_unlike_range_are_told_from_others_that_stopped_varying() -> None:
    scores = Stuck(spread=0.9, width=640, clear=True, channels=(4, 5), count=2, of=6)
    (found,) = judged(evaluation(accuracy(), outputs=(replace(HEALTHY, stuck=scores),))).findings
    assert found.message.startswith("2 of 6 channels of output 'digit' (the first is 4) are the same for all 1,000 ")
    assert "share one scale, which holds values that lie 640 apart" in found.message
    lost = replace(scores, width=1.0, channels=(5,), count=1)
    (found,) = judged(evaluation(accuracy(), outputs=(replace(HEALTHY, stuck=lost),))).findings
    assert found.message.startswith("channel 5 (of 6) of output 'digit' is the same for all 1,000 examples, where")
    assert "rounded or clipped" in found.message


def test_a_warning_makes_a_variant_warn_and_an_ignored_one_does_not() -> None:
    found = evaluation(artifact=Artifact(1000, "0" * 64, 10))
    assert judged(found).verdict is Verdict.WARN
    kept = judged(found, ignore=(Ignore("nothing-quantized", "it is tiny"),))
    assert (kept.verdict, kept.findings[0].ignored) == (Verdict.PASS, "it is tiny")
    (failed,) = accepted([Finding("a", "error", "m")], ())
    assert failed.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("tolerance", "verdict"),
    [
        (Tolerance(min=0.98), Verdict.PASS),
        (Tolerance(min=0.99), Verdict.FAIL),
        (Tolerance(min=0.99, level="warning"), Verdict.WARN),
    ],
)
def test_the_reference_has_tolerances_of_its_own(tolerance: Tolerance, verdict: Verdict) -> None:
    blank = ReferenceResult("keras", "m.keras", {})
    result, found = reference_result(blank, [Outcome(), Outcome(evaluation(accuracy()))], {"accuracy": tolerance}, ())
    assert (result.verdict, result.metrics, found) == (verdict, {"accuracy": 0.98}, ())
    (check,) = result.checks
    assert (check.value, check.verdict, check.drop, check.reference) == (0.98, verdict, None, None)


def test_a_reference_without_a_value_is_never_a_pass() -> None:
    broken = replace(accuracy(), value=None, reference=None, drop=None, error="no examples")
    blank = ReferenceResult("keras", "m.keras", {})
    result, _ = reference_result(blank, [Outcome(evaluation(broken))], {"accuracy": Tolerance(min=0.5)}, ())
    assert result.verdict is Verdict.ERROR
    assert reference_result(blank, [Outcome()], {"accuracy": Tolerance(min=0.5)}, ()) == (blank, ())


def test_scales_that_nothing_can_be_held_to_are_told_with_the_tensor() -> None:
    scales = Scales((DegenerateScale("sub", 7.8e-9, constant=True), DegenerateScale("w", 0.0, constant=False)))
    (found,) = judged(evaluation(accuracy(), scales=scales)).findings
    assert (found.rule, found.severity) == ("degenerate-scale", "warning")
    assert "'sub' has the scale 7.8e-09" in found.message
    assert "1 more" in found.message
