"""What facts and measurements say beside verdicts: findings about a variant, and about the reference. No numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from tflite_guard.judgement import calibrated
from tflite_guard.judgement.slices import called
from tflite_guard.manifest.types import Conversion, DatasetSpec, FileSpec, Ignore, VariantSpec
from tflite_guard.protocol import (
    Evaluation,
    InputRange,
    ObservedMeasured,
    OutputFacts,
    Scales,
    Sequential,
    Stuck,
    WeightFacts,
)
from tflite_guard.results import Artifact, ErrorInfo, Finding, Measurement, MetricResult, Slice, Slices
from tflite_guard.rules import finding
from tflite_guard.text import figures
from tflite_guard.vocabulary import Kernels

FEWEST = 20
"""Examples below which a reference is compared with nothing simpler: too few to tell a bad one from chance."""
LEAST_FOUND = 0.01
"""Mean average precision of a detector below which it finds next to nothing; boxes at random have a tenth of that."""
SATURATED = 0.95
COARSE = 0.01
"""The share of ties, beyond the reference's own, that is told whatever they cost."""
TRUE_PAIR = 1.0
"""Quantization steps by which weights of one training differ at most."""
SAME_WEIGHTS = 0.999
"""The cosine that they have at least; another scale, as of a folded normalization, leaves it at 1."""
WHITE = 255
PIXELS_FROM = 100
"""The least that the largest of many values is where they are pixels of 8 bits."""
UNLIKE = 1 / 64
"""The share of an output's range below which 8 bits have few steps for a channel, or none."""
UNQUANTIZED = ("float32", "float16")


def accepted(findings: Sequence[Finding], ignore: Sequence[Ignore]) -> tuple[Finding, ...]:
    """The findings, those that the manifest accepts with its reason."""
    reasons = {entry.rule: entry.reason for entry in ignore}
    return tuple(replace(one, ignored=reasons.get(one.rule)) for one in findings)


def made_as(conversion: Conversion) -> str | None:
    """The quantization or recipe by name; None of an existing .tflite."""
    recipe = conversion.recipe
    return conversion.quantization or (Path(recipe.path).name if isinstance(recipe, FileSpec) else recipe)


def of_variant(
    evaluation: Evaluation, variant: VariantSpec, metrics: Sequence[MetricResult], data: DatasetSpec | None = None
) -> Iterator[Finding]:
    """What a variant's file, its data and its outputs say, worst first.

    `metrics` are its measurements judged, in their order; `data` is what it was evaluated on.
    """
    made = evaluation.artifact
    yield from _nothing_quantized(made, variant.conversion)
    yield from _constant(evaluation)
    yield from _coarse(evaluation, metrics)
    if evaluation.calibration is not None and variant.conversion.calibration is not None and data is not None:
        yield from calibrated.of_data(evaluation.calibration, variant.conversion.calibration, data)
    yield from _lost(evaluation, () if data is None else data.class_order or ())
    yield from _stale(evaluation.weights)
    if evaluation.observed is not None:
        yield from _nearest_kernels(evaluation.observed, variant.evaluation.kernels)
    yield from _sequential(evaluation.sequential)
    yield from _as_it_ran(evaluation)
    yield from _of_scales(evaluation.scales)
    yield from _operators(made, variant)


def _sequential(found: Sequential | None) -> Iterator[Finding]:
    if found is None:
        return
    confidence = f"{100 * found.confidence:.10g} % confidence"
    yield finding(
        "sequential-evaluation",
        f"decided after {found.examples:,} of {found.of:,} examples: at {confidence} the verdict on all of them is the "
        "same; the figures are of those that were evaluated"
        if found.early
        else f"all {found.of:,} examples were needed: no fewer of them decide at {confidence}",
        examples=found.examples,
        of=found.of,
        confidence=found.confidence,
    )


def of_error(error: ErrorInfo | None) -> Iterator[Finding]:
    """What an error that ended an evaluation proves by itself."""
    if error is not None and error.kind == "non-finite-output":
        message = "NaN or infinity appears in the converted model, where the reference is finite on the same data"
        yield replace(finding("nan-output", message), primary=True)
    if error is not None and error.kind == "unassigned-variables":
        message = "the file reads variables that nothing in it assigns: its weights were left out when it was converted"
        yield replace(finding("unassigned-variables", message), primary=True)


def of_reference(evaluation: Evaluation) -> Iterator[Finding]:
    """What the reference's own outputs say, as any variant's evaluation has seen them."""
    if evaluation.reference.batch_dependent:
        yield finding(
            "batch-dependent",
            "the reference's outputs for an example depend on what else is in its batch, so everything was run one "
            "example at a time; export the model for inference (in Keras: training=False)",
        )
    measured = [item.measurement for item in evaluation.measurements]
    silent = all(output.constant for output in evaluation.outputs)
    for output in evaluation.outputs:
        own = [one for one in measured if one.output in (None, output.output)]
        # What a model that needs its batch gives one by one says nothing of the data.
        if not evaluation.reference.batch_dependent and (reasons := _suspicions(output, own, silent)):
            whose = "the reference" if len(evaluation.outputs) == 1 else f"the reference's output {output.output!r}"
            check = _to_check(evaluation.inputs, evaluation.scaling)
            yield finding(
                "reference-suspect",
                f"{whose} {' and '.join(reasons)}; {check} before any variant",
                output=output.output,
                **_figures(output),
            )
        if output.multi_label:
            whose = "the labels" if len(evaluation.outputs) == 1 else f"the labels of output {output.output!r}"
            yield finding(
                "multi-label",
                f"{whose} name several of its units in an example, or none, so accuracy, f1_macro and agreement judge "
                'each unit by itself, above its threshold or not; write "multi_label": true on the metric, or false '
                "and correct the labels",
                output=output.output,
            )
    yield from _blind(measured)
    if evaluation.reference.state_reset:
        yield _state_reset("the reference")


def _blind(measured: Sequence[Measurement]) -> Iterator[Finding]:
    """A detector that finds next to nothing loses nothing when it is converted."""
    for one in measured:
        known = one.metric == "mean_average_precision" and one.examples >= FEWEST and one.reference is not None
        if known and one.reference is not None and one.reference < LEAST_FOUND:
            yield finding(
                "reference-suspect",
                f"the reference finds next to nothing: its {one.name} is {figures.number(one.reference, one.metric)}; "
                "check how its boxes are read (decode, box_format, objectness, box_axis, units, size), the order of "
                "the classes and the preprocessing, before any variant",
                metric=one.name,
                value=one.reference,
            )
            return


def _to_check(inputs: Sequence[InputRange], scaling: Sequence[str]) -> str:
    """What may be wrong with the data of a reference that fits it badly; pixels tell their scale by their range.

    `scaling` are the layers of the model that scale inputs, behind which they are pixels as they come.
    """
    rest = "the order of the channels, resizing, the labels and the order of the classes"
    itself = f"the model scales its inputs itself ({', '.join(scaling)})"
    for one in inputs:
        given = f"its inputs lie between {one.smallest:g} and {one.largest:g}"
        small = one.image and one.smallest >= -1 and one.largest <= 1
        if scaling and small:
            return f'{given}, and {itself}: take the scaling out of "preprocess" or the data; else check {rest}'
        if not scaling and one.smallest >= 0 and PIXELS_FROM <= one.largest <= WHITE:
            return (
                f"{given}: if training scaled pixels to 0 to 1 outside the model, add "
                f'{{"scale": {1 / WHITE!r}}} to "preprocess", and if to -1 to 1, {{"scale": {2 / WHITE!r}}} and '
                f'{{"offset": -1}}; else check {rest}'
            )
        if small:
            return (
                f"{given}: if training left pixels at 0 to 255, or the model scales them itself, take the scaling out "
                f'of "preprocess" or the data; else check {rest}'
            )
    if scaling:
        return f'{itself}, so "preprocess" must not; check {rest}'
    return "check the preprocessing (scale, order of the channels, resizing), the labels and the order of the classes"


def _suspicions(output: OutputFacts, measured: Sequence[Measurement], silent: bool) -> list[str]:
    """`silent`: no output varies. One among several that do may be constant by design, unless labels say otherwise."""
    labelled = output.r2 is not None or (output.decided is not None and output.decided.classes_labelled > 0)
    if output.constant and output.examples > 1 and (silent or labelled):
        return [f"gives the same outputs for all {output.examples:,} examples"]
    if output.examples < FEWEST:
        return []
    reasons = [*_of_decisions(output, measured)]
    if output.r2 is not None and output.r2 < 0:
        reasons.append(
            f"has an R2 of {figures.number(output.r2, 'r2')}: it is further from the labels than their mean is"
        )
    for one in measured:
        if one.metric == "roc_auc" and one.reference is not None and one.reference <= 0.5:
            reasons.append(f"has a roc_auc of {figures.number(one.reference, 'roc_auc')}, where chance has 0.5")
    if output.saturated >= SATURATED * output.examples:
        share = f"{output.saturated:,} of {output.examples:,} examples"
        reasons.append(f"gives nothing but zeros and ones for {share}, as with inputs of a wrong scale")
    return reasons


def _of_decisions(output: OutputFacts, measured: Sequence[Measurement]) -> Iterator[str]:
    seen = output.decided
    if seen is None or seen.classes_labelled == 1:
        return
    if seen.classes_decided == 1:
        labels = f", where the labels have {seen.classes_labelled:,}" if seen.classes_labelled else ""
        yield f"always decides for one class{labels}"
    elif (
        seen.classes_labelled
        and seen.right <= seen.most_frequent
        and any(one.metric in ("accuracy", "top_k_accuracy") for one in measured)
    ):
        right, constant = (figures.number(n / seen.decisions, "accuracy") for n in (seen.right, seen.most_frequent))
        yield f"is right in {right} of decisions, where always answering the most frequent label is right in {constant}"


def _figures(output: OutputFacts) -> dict[str, float | int | bool | None]:
    seen = output.decided
    found: dict[str, float | int | bool | None] = {
        "examples": output.examples,
        "constant": output.constant,
        "saturated": output.saturated,
        "r2": output.r2,
    }
    if seen is not None and seen.decisions:
        found |= {"accuracy": seen.right / seen.decisions, "most_frequent": seen.most_frequent / seen.decisions}
        found |= {"classes_decided": seen.classes_decided, "classes_labelled": seen.classes_labelled}
    return found


def _nothing_quantized(made: Artifact, conversion: Conversion) -> Iterator[Finding]:
    how = made_as(conversion)
    if how is not None and how not in UNQUANTIZED and not made.quantized_tensors:
        yield finding(
            "nothing-quantized",
            f"{how} was asked for, but no tensor in the file is quantized, so it is a float model: constants of fewer "
            "than 1,024 elements stay in float without calibration; choose int8, or drop the variant",
            quantization=how,
        )


def _constant(evaluation: Evaluation) -> Iterator[Finding]:
    for output in evaluation.outputs:
        examples = output.examples if evaluation.sequential is None else evaluation.sequential.examples
        if (stuck := output.stuck) is None or examples < 2:
            continue
        what = f"output {output.output!r}"
        if stuck.count == 1:
            what = f"channel {stuck.channels[0]} (of {stuck.of}) of {what}"
        elif stuck.count:
            what = f"{stuck.count} of {stuck.of} channels of {what} (the first is {stuck.channels[0]})"
        verbs = ("are", "vary") if stuck.count > 1 else ("is", "varies")
        yield finding(
            "constant-output",
            f"{what} {verbs[0]} the same for all {examples:,} examples, where the reference's {verbs[1]} by up to "
            f"{stuck.spread:.3g}: {_why_constant(stuck)}",
            None if stuck.clear else "warning",
            output=output.output,
            examples=examples,
            spread=stuck.spread,
            width=stuck.width,
            channels=list(stuck.channels),
        )


def _why_constant(stuck: Stuck) -> str:
    if stuck.count and stuck.spread < UNLIKE * stuck.width:
        return (
            f"all channels share one scale, which holds values that lie {stuck.width:.3g} apart, and its steps are too "
            "large for these; bring the channels to a like range (as boxes divided by the size of the image), or give "
            "them outputs of their own"
        )
    return "everything is rounded or clipped to one value; look at the calibration data"


def _coarse(evaluation: Evaluation, metrics: Sequence[MetricResult]) -> Iterator[Finding]:
    """At most one: of the metric that ties cost, else of the one with most ties."""
    candidates = []
    for item, result in zip(evaluation.measurements, metrics, strict=True):
        one = item.measurement
        # Of several decisions an example nearly always one is a tie, which says nothing.
        if one.counts is None:
            continue
        added = one.ties - one.reference_ties
        costs = _ties_cost(one, result)
        # At the k-th place quantized logits tie often, too, and it is seldom the label that is left out.
        told = one.metric != "top_k_accuracy" and added >= max(1, COARSE * one.examples)
        if costs or told:
            candidates.append((costs, added, one))
    if candidates:
        # The first that they cost, since the manifest has what matters most first; else the one with most of them.
        costs, _, one = next((found for found in candidates if found[0]), max(candidates, key=lambda found: found[1]))
        yield finding(
            "coarse-output",
            f"{one.name}: {one.ties:,} of {one.examples:,} decisions are ties among the variant's largest outputs "
            f"({one.reference_ties:,} among the reference's), and ties take the lowest index"
            f"{_cost(one) if costs else ''}; compare the range of the calibration data with the evaluation data's, and "
            "where the output is a softmax take its logits as the output, or leave the last operators in float "
            "(keep_float)",
            None if costs else "note",
            metric=one.name,
            ties=one.ties,
            reference_ties=one.reference_ties,
            lost_ties=one.lost_ties,
            examples=one.examples,
        )


def _cost(one: Measurement) -> str:
    return f": {one.lost_ties:,} {'decision is' if one.lost_ties == 1 else 'decisions are'} lost by that"


def _ties_cost(one: Measurement, result: MetricResult) -> bool:
    """Whether a metric is certainly worse, or out of its tolerance, and at least half of what it lost is ties."""
    certain = one.drop is not None and one.confidence_interval is not None and one.confidence_interval[0] > 0
    if one.counts is None or not (certain or result.problem is not None):
        return False
    _, only_reference, _, neither = one.counts
    lost = only_reference if one.drop is not None else neither
    return one.lost_ties > one.reference_ties and 2 * one.lost_ties >= lost


def _as_it_ran(evaluation: Evaluation) -> Iterator[Finding]:
    """What the reference does not have as well."""
    if evaluation.facts.batch_dependent and not evaluation.reference.batch_dependent:
        yield finding(
            "batch-dependent",
            "an example's outputs depend on what else is in its batch, though the reference's do not; it was run one "
            "example at a time, as an application runs it",
            "note",
        )
    if evaluation.facts.state_reset and not evaluation.reference.state_reset:
        yield _state_reset("the file")


def _state_reset(what: str) -> Finding:
    return finding(
        "state-reset",
        f"{what} carries state from call to call, and each example was evaluated as if it were the first; where the "
        'application keeps the state, set "state": "kept" and name what belongs together as the data\'s "group"',
    )


def _of_scales(scales: Scales) -> Iterator[Finding]:
    if scales.degenerate:
        named = [one.tensor for one in scales.degenerate]
        yield finding("degenerate-scale", degenerate_scales(scales), tensors=named)
    if names := scales.shared_biases:
        yield finding(
            "shared-bias",
            f"the bias of {len(names)} operators is stored for another scale than theirs (first {names[0]!r}): equal "
            "biases are stored once, and operators with different input scales share them; give each layer a bias of "
            "its own",
            tensors=list(names),
        )


def _operators(made: Artifact, variant: VariantSpec) -> Iterator[Finding]:
    if made.float_operators and not variant.judgement.require_integer:
        yield finding(
            "partially-quantized",
            f"{float_operators(made)}; a device without float support cannot run it",
            float_operators=list(made.float_operators),
        )
    if made.custom_operators:
        named, flex = ", ".join(made.custom_operators), any(one.startswith("Flex") for one in made.custom_operators)
        link = "the Select TF operators (Flex)" if flex else "what implements them"
        yield finding(
            "select-ops",
            f"operators outside LiteRT's built-in set: {named}; link {link} into the application, or replace them",
            operators=list(made.custom_operators),
        )


def _stale(weights: WeightFacts | None) -> Iterator[Finding]:
    if weights is not None and weights.steps > TRUE_PAIR and weights.cosine < SAME_WEIGHTS:
        yield finding(
            "stale-artifact",
            f"the file's weights are not those of the reference: they differ by up to {weights.steps:,.0f} "
            "quantization steps, where rounding makes half a step; convert it again, or name the model that it was "
            "made from",
            "note",
            steps=weights.steps,
            cosine=weights.cosine,
        )


def _lost(evaluation: Evaluation, names: Sequence[str]) -> Iterator[Finding]:
    """The class, and of each key the slice, that lost most of those that have certainly lost; of one metric each."""
    told: set[str | None] = set()
    for item in evaluation.measurements:
        for found in (item.measurement.by_class, *item.measurement.by_slice):
            certain = [] if found is None else [one for one in found.worst if one.interval and one.interval[0] > 0]
            if found is not None and found.lost and certain and found.key not in told:
                told.add(found.key)
                yield _certainly_lost(found, max(certain, key=lambda one: one.drop or 0.0), names)


def _certainly_lost(found: Slices, most: Slice, names: Sequence[str]) -> Finding:
    others = f"; {found.lost - 1:,} more {'has' if found.lost == 2 else 'have'}, too" if found.lost > 1 else ""
    reference, variant = (figures.number(value, found.kind) for value in (most.reference, most.variant))
    all_of_them = "classes" if found.key is None else "slices"
    return finding(
        "class-lost" if found.key is None else "slice-lost",
        f"{called(found.key, most, names)} has lost beyond chance: {found.metric} of its {most.examples:,} examples "
        f"went from {reference} to {variant}, worse by {figures.interval(most.interval, found.kind)} at 95 % for all "
        f"{all_of_them} at once{others}",
        metric=found.metric,
        label=most.label,
        examples=most.examples,
        drop=most.drop,
        interval=list(most.interval or ()),
        lost=found.lost,
        of=found.count,
        **({} if found.key is None else {"key": found.key}),
    )


def _nearest_kernels(observed: ObservedMeasured, own: Kernels) -> Iterator[Finding]:
    """Which kernels a recording agrees with, where they can be told apart by it."""
    steps = observed.max_steps
    least = min(steps.values())
    nearest = [name for name, most in steps.items() if most == least]
    if len(nearest) == len(steps):
        return
    agrees = "exactly" if least == 0 else f"within {figures.real(least)} quantization steps"
    others = ", ".join(f"{figures.real(most)} with the {name} ones" for name, most in steps.items() if most != least)
    told = f"recorded outputs agree {agrees} with the {' and '.join(nearest)} kernels, and differ by up to {others}"
    if own not in nearest:
        told += (
            f'; this variant is evaluated with the {own} ones: set "kernels": "{nearest[0]}" to judge what runs there'
        )
    yield finding("observed-kernels", told, kernels=own, nearest=nearest, max_steps=dict(steps))


def degenerate_scales(scales: Scales) -> str:
    """Which tensors have a scale to which nothing can be held, and what to do; of one at least."""
    first, *more = scales.degenerate
    others = f", and {len(more)} more {'have' if len(more) > 1 else 'has'} such" if more else ""
    if first.constant:
        return (
            f"activation {first.tensor!r} has the scale {first.scale:.3g}, as of one that is the same for all of the "
            f"calibration data{others}; integer kernels divide by it, and some abort: calibrate on data for which it "
            "varies, or take it out of the model"
        )
    return (
        f"tensor {first.tensor!r} has the scale {first.scale:.3g}{others}, which kernels divide by, or flush to zero: "
        "set near-zero weights to zero, or remove what computes it"
    )


def float_operators(made: Artifact) -> str:
    """How many operators compute in float, and the first of them."""
    count, shown = len(made.float_operators), ", ".join(made.float_operators[:3])
    more = f" and {count - 3} more" if count > 3 else ""
    return f"{count} of {made.operators} operators compute in float: {shown}{more}"
