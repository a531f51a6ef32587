"""What calibration data says beside the evaluation data, whatever the figures are. No numpy."""

from __future__ import annotations

from collections.abc import Iterator

from tflite_guard.manifest.types import DatasetSpec
from tflite_guard.protocol import CalibrationFacts, InputSpans, Reach
from tflite_guard.results import Finding
from tflite_guard.rules import finding
from tflite_guard.text import figures

PREPARED_UNLIKE = 1.3
"""A ratio of input ranges from which a preprocessing that differs is at fault."""
PREPARED_ALIKE = 1.5
"""The same where it does not differ, and the data may be another selection alone."""
MOVED = 0.4
"""How far apart, in widths, the centres of ranges may lie."""
FEWEST = 10
"""Examples below which ranges and repetitions are chance."""
SHARED = 0.05
HALVES_DISAGREE = 8.0
"""A ratio of the ranges of two halves: three of eight bits. Of 300 sets of 50 and more draws from Laplace, log-normal
and Student's t distributions (3 degrees of freedom) at most 3 reach it; data of images and sound reach 1.1."""
FEWEST_HALVED = 50
"""Examples below which what the furthest of them add is chance."""


def of_data(facts: CalibrationFacts, calibration: DatasetSpec, evaluation: DatasetSpec) -> Iterator[Finding]:
    """What calibration data holds, by itself and beside other data that is evaluated."""
    yield from _degenerate(facts, calibration)
    if facts.examples >= FEWEST_HALVED:
        yield from _halves(facts, calibration)
    if calibration.name != evaluation.name and facts.examples >= FEWEST:
        yield from _ranges(facts, calibration, evaluation)
        yield from _shared(facts, calibration, evaluation)


def _degenerate(facts: CalibrationFacts, calibration: DatasetSpec) -> Iterator[Finding]:
    told = []
    if facts.examples > 1 and 2 * facts.distinct <= facts.examples:
        told.append(f"only {facts.distinct:,} of {facts.examples:,} examples differ")
    if 2 * facts.constant > facts.examples:
        told.append(f"{facts.constant:,} of {facts.examples:,} examples hold one value throughout")
    if told:
        yield finding(
            "calibration-degenerate",
            f"of the calibration data {calibration.name!r} {' and '.join(told)}; look for a broken path or a generator "
            "that yields one buffer again and again",
            examples=facts.examples,
            distinct=facts.distinct,
            constant=facts.constant,
        )


def _halves(facts: CalibrationFacts, calibration: DatasetSpec) -> Iterator[Finding]:
    """At most one: of the input whose range the fewest examples set, in which random halves of the data disagree."""
    found = [(count, ratio, one) for one in facts.reaches for count, ratio in [_few(one)] if count]
    if not found:
        return
    count, ratio, one = min(found, key=lambda each: each[:2])
    whole, rest = figures.span(one.ranges[0]), figures.span(one.ranges[count])
    which = "the example that reaches" if count == 1 else f"the {count} examples that reach"
    yield finding(
        "calibration-outliers",
        f"input {one.input!r} reaches over {whole} in the calibration data {calibration.name!r}, and over {rest} "
        f"without {which} furthest: two halves of the data can disagree by a factor of {ratio:.3g}, so that other "
        "examples would give another model; remove what is not real input, or give more examples like it",
        input=one.input,
        extreme=count,
        examples=facts.examples,
        ratio=round(ratio, 2),
        range=[round(end, 6) for end in one.ranges[0]],
        without=[round(end, 6) for end in one.ranges[count]],
    )


def _few(one: Reach) -> tuple[int, float]:
    """The fewest examples that make an input's range so much wider, and how much; 0 where there are none."""
    widths = [high - low for low, high in one.ranges]
    ratios = ((count, widths[0] / width) for count, width in enumerate(widths) if width > 0)
    return next((pair for pair in ratios if pair[1] > HALVES_DISAGREE), (0, 1.0))


def _ranges(facts: CalibrationFacts, calibration: DatasetSpec, evaluation: DatasetSpec) -> Iterator[Finding]:
    """At most one: of the input whose ranges differ most."""
    differs = calibration.preprocess != evaluation.preprocess
    worst = max(facts.inputs, key=_unlike, default=None)
    apart = 0.0 if worst is None else _unlike(worst)
    unlike = worst is not None and apart > (PREPARED_UNLIKE if differs else PREPARED_ALIKE)
    if not (unlike or differs):
        return
    names = f"{calibration.name!r}", f"{evaluation.name!r}"
    told = f"the calibration data {names[0]} is preprocessed differently from the evaluation data {names[1]}"
    if worst is not None and unlike:
        spans = figures.span(worst.calibration), figures.span(worst.evaluation)
        held = (
            f"input {worst.input!r} is mostly {spans[0]} in the calibration data and {spans[1]} in the evaluation data"
        )
        advice = f"apply the preprocessing of {names[1]} to {names[0]}" if differs else "scale both alike"
        told = f"{told}: {held}; {advice}" if differs else f"{held} ({names[0]} and {names[1]}); {advice}"
    else:
        told += ", though the ranges of their inputs agree; give both the same preprocessing if their sources are alike"
    yield finding(
        "calibration-range-mismatch",
        told,
        None if unlike else "note",
        preprocess_differs=differs,
        **({} if worst is None else _evidence(worst)),
    )


def _evidence(one: InputSpans) -> dict[str, object]:
    rounded = {side: [round(end, 6) for end in ends] for side, ends in _sides(one).items()}
    return {"input": one.input, **rounded}


def _sides(one: InputSpans) -> dict[str, tuple[float, float]]:
    return {"calibration": one.calibration, "evaluation": one.evaluation}


def _unlike(one: InputSpans) -> float:
    """How many times as wide the wider range is; of ranges that lie apart at least 2."""
    (low, high), (bottom, top) = one.calibration, one.evaluation
    widths = high - low, top - bottom
    if min(widths) <= 0:
        return 1.0
    moved = abs((low + high) - (bottom + top)) / 2 > MOVED * max(widths)
    return max(max(widths) / min(widths), 2.0 if moved else 1.0)


def _shared(facts: CalibrationFacts, calibration: DatasetSpec, evaluation: DatasetSpec) -> Iterator[Finding]:
    if facts.shared > SHARED * facts.examples:
        yield finding(
            "calibration-shared",
            f"{facts.shared:,} of {facts.examples:,} examples of the calibration data {calibration.name!r} are in the "
            f"evaluation data {evaluation.name!r} too, so the figures flatter the model; calibrate on other examples",
            shared=facts.shared,
            examples=facts.examples,
        )
