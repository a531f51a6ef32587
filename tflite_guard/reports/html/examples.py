"""Whom a loss hits: metrics by class and slice as charts, and pictures of examples whose answer has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tflite_guard.files import png
from tflite_guard.reports import wording
from tflite_guard.reports.html import phrases
from tflite_guard.reports.html.geometry import LEFT, RIGHT, Axis, Tick, across, label, percent
from tflite_guard.results import Changed, ChangedAnswer, Confidence, SinceBaseline, Slice, Slices, VariantResult
from tflite_guard.text import figures

MOST_DRAWN = 10
"""Classes in the chart; the table has more."""
ROW = 40
"""Height of a class in pixels: its name and counts, and the bar below."""
MOST_CUTS = 12
"""Tables by class and by slice of one variant."""
MOST_PICTURES = 12
"""Of one variant."""
LONGEST_CLASS = 24


class Url(str):
    """An address made here of nothing but pixels, which no length limits and no text of a file is in."""


def url(text: str) -> Url | None:
    """The address of a picture in base64, which anybody may have given; None where it is no small PNG."""
    redrawn = png.redrawn(text)
    return None if redrawn is None else Url(f"data:image/png;base64,{redrawn}")


@dataclass(frozen=True)
class Row:
    """One class or slice: a bar from the reference's accuracy to the variant's."""

    name: str
    text: str
    y: int
    x: str
    width: str
    reference: str
    variant: str
    worse: bool


@dataclass(frozen=True)
class Chart:
    """The classes or slices that lost most."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    height: int

    @property
    def said(self) -> str:
        """The chart in words."""
        return "; ".join(f"{row.name}: {row.text}" for row in self.rows)


def called(label: int, classes: Sequence[str]) -> str:
    """A class by its name, where it has one, else by its number."""
    return phrases.name(wording.called(label, classes), LONGEST_CLASS)


def _class(label: int, classes: Sequence[str]) -> str:
    told = called(label, classes)
    return f"class {told}" if told == str(label) else told


def _slice(one: Slice, classes: Sequence[str]) -> str:
    """A class, or a slice's value, in a sentence."""
    return _class(one.label, classes) if isinstance(one.label, int) else row_name(one, classes)


def cuts(one: VariantResult) -> list[Slices]:
    """What is shown by class and by slice, of a bounded number."""
    every = (*((one.by_class,) if one.by_class else ()), *one.by_slice)
    return [found for found in every[:MOST_CUTS] if found.worst]


def more_slices(one: VariantResult) -> int:
    """How many tables by slice are not shown."""
    return max(0, (one.by_class is not None) + len(one.by_slice) - MOST_CUTS)


def title(found: Slices) -> str:
    """What a table is of: `Accuracy by class`, `top3 by lighting`."""
    if found.key is not None:
        return f"{phrases.name(found.metric)} by {phrases.name(found.key)}"
    return "Top-k accuracy by class" if found.kind == "top_k_accuracy" else "Accuracy by class"


def row_name(one: Slice, classes: Sequence[str]) -> str:
    """A class or value in a table."""
    return called(one.label, classes) if isinstance(one.label, int) else phrases.name(str(one.label), LONGEST_CLASS)


def chart(found: Slices, classes: Sequence[str] = ()) -> Chart | None:
    """What lost most, on an axis that all share; None of what has no share of a whole."""
    drawn = found.worst[:MOST_DRAWN]
    values = [value for one in drawn for value in (one.reference, one.variant) if value is not None]
    if not all(one.reference is not None for one in drawn) or not all(0 <= value <= 1 for value in values):
        return None
    axis = Axis.over([*values, 1.0], margin=0.04)
    rows = tuple(_row(one, _slice(one, classes), axis, at * ROW, found) for at, one in enumerate(drawn))
    ticks = tuple(Tick(across(axis, tick), label(tick)) for tick in axis.ticks(4) if tick <= 1)
    return Chart(rows, ticks, len(rows) * ROW + 26)


def _row(one: Slice, name: str, axis: Axis, y: int, found: Slices) -> Row:
    reference, variant = one.reference or 0.0, one.variant
    low, high = sorted((axis.share(reference), axis.share(variant)))
    text = f"{figures.number(reference, found.kind)} → {figures.number(variant, found.kind)}"
    if one.counts is not None:
        both, lost, gained, _ = one.counts
        text = f"{both + lost:,} → {both + gained:,} of {one.examples:,} right"
    start, width = percent(low, LEFT, RIGHT), percent(high - low, 0, RIGHT - LEFT)
    places = across(axis, reference), across(axis, variant)
    return Row(name, text, y, start, width, *places, worse=one.drop is not None and one.drop > 0)


def lost_most(found: Slices, classes: Sequence[str] = ()) -> str:
    """What lost most, in a sentence."""
    first = found.worst[0]
    one = "class" if found.key is None else "slice"
    several = f"{found.count:,} {one if found.count == 1 else 'classes' if found.key is None else 'slices'}"
    named = _slice(first, classes)
    examples = wording.count(first.examples, "example")
    reference, variant = (figures.number(value, found.kind) for value in (first.reference, first.variant))
    if first.drop is None:
        return f"{named[:1].upper()}{named[1:]} fares worst of {several}: {variant}, on {examples}."
    if first.drop <= 0:
        return f"None of {several} has lost."
    return f"{named[:1].upper()}{named[1:]} lost most: it went from {reference} to {variant}, on {examples}."


def since_baseline(found: SinceBaseline) -> str:
    """How many examples got worse and better since the baseline, in a sentence."""
    told = wording.since_baseline(found)
    return f"{told[:1].upper()}{told[1:]}."


def sureness(found: Confidence, sides: wording.Sides) -> str:
    """How sure both models are, in sentences."""
    told = wording.confidence(found, sides)
    told = f"{told[:1].upper()}{told[1:]}, on {wording.count(found.examples, 'example')}."
    if found.reference_error is None:
        return told
    return f"{told} The error is how far accuracy is from confidence, in 15 bins of it."


def changes(found: Changed, sides: wording.Sides) -> str:
    """How many answers have changed, in a sentence."""
    examples = wording.count(found.examples, "example")
    if not found.changed:
        return f"On all of {examples} the answer is {sides.reference}'s."
    told = f"{found.changed:,} of {examples} have a different answer from {sides.reference}'s"
    if found.lost is None or found.gained is None:
        return f"{told}."
    neither = found.changed - found.lost - found.gained
    parts = [f"{found.lost:,} that {sides.reference} has right", f"{found.gained:,} that {sides.variant} has right"]
    return f"{told}: {', '.join([*parts, *([f'{neither:,} that neither has'] if neither else [])])}."


def described(one: ChangedAnswer, classes: Sequence[str], sides: wording.Sides) -> str:
    """An example with its answers, for those who do not see its picture."""
    given = "" if one.label is None else f"label {called(one.label, classes)}, "
    reference, variant = (called(answer, classes) for answer in (one.reference, one.variant))
    file = "" if one.file is None else f" ({phrases.name(one.file, LONGEST_CLASS)})"
    whose = sides.reference.removeprefix("the ")
    return f"Input of example {one.example}{file}: {given}{whose} {reference}, {sides.variant} {variant}"


def margin(value: float | None) -> str:
    """By how much an answer's score is above the other one's."""
    return "–" if value is None else figures.real(value, 3)
