"""Whom a loss hits: accuracy by class as a chart, and pictures of examples whose answer has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tflite_guard.files import png
from tflite_guard.reports import wording
from tflite_guard.reports.html import phrases
from tflite_guard.reports.html.geometry import LEFT, RIGHT, Axis, Tick, across, label, percent
from tflite_guard.results import ByClass, Changed, ChangedAnswer, ClassAccuracy
from tflite_guard.text import figures

MOST_DRAWN = 10
"""Classes in the chart; the table has more."""
ROW = 40
"""Height of a class in pixels: its name and counts, and the bar below."""
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
    """One class: a bar from the reference's accuracy to the variant's."""

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
    """The classes that lost most."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    height: int

    @property
    def said(self) -> str:
        """The chart in words."""
        return "; ".join(f"{row.name}: {row.text}" for row in self.rows)


def called(label: int, classes: Sequence[str]) -> str:
    """A class by its name, where it has one, else by its number."""
    return phrases.name(classes[label], LONGEST_CLASS) if 0 <= label < len(classes) else str(label)


def _class(label: int, classes: Sequence[str]) -> str:
    told = called(label, classes)
    return f"class {told}" if told == str(label) else told


def chart(found: ByClass, classes: Sequence[str] = ()) -> Chart:
    """The classes that lost most, on an axis that all of them share."""
    drawn = found.worst[:MOST_DRAWN]
    values = [one.accuracy(right) for one in drawn for right in (one.reference, one.variant)]
    axis = Axis.over([*values, 1.0], margin=0.04)
    rows = tuple(_row(one, _class(one.label, classes), axis, at * ROW) for at, one in enumerate(drawn))
    ticks = tuple(Tick(across(axis, tick), label(tick)) for tick in axis.ticks(4) if tick <= 1)
    return Chart(rows, ticks, len(rows) * ROW + 26)


def _row(one: ClassAccuracy, name: str, axis: Axis, y: int) -> Row:
    reference, variant = one.accuracy(one.reference), one.accuracy(one.variant)
    low, high = sorted((axis.share(reference), axis.share(variant)))
    text = f"{one.reference:,} → {one.variant:,} of {one.examples:,} right"
    start, width = percent(low, LEFT, RIGHT), percent(high - low, 0, RIGHT - LEFT)
    places = across(axis, reference), across(axis, variant)
    return Row(name, text, y, start, width, *places, worse=variant < reference)


def lost_most(found: ByClass, classes: Sequence[str] = ()) -> str:
    """The class that lost most, in a sentence."""
    first = found.worst[0]
    if first.drop <= 0:
        return f"None of {found.classes:,} classes has lost accuracy."
    reference, variant = (
        figures.number(first.accuracy(right), "accuracy") for right in (first.reference, first.variant)
    )
    examples = wording.count(first.examples, "example")
    named = _class(first.label, classes)
    return f"{named[:1].upper()}{named[1:]} lost most: its accuracy went from {reference} to {variant}, on {examples}."


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
