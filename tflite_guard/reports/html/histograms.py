"""How the values of a tensor are spread on calibration and on evaluation data, beside the range of the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tflite_guard.reports import wording
from tflite_guard.reports.html import phrases
from tflite_guard.reports.html.geometry import LEFT, RIGHT, Axis, Tick, across, label, percent
from tflite_guard.results import Histogram

MOST = 3
HEAD, PLOT, GAP = 22, 64, 14
"""Heights in pixels: what a panel is of, its bars, and what is below them."""


@dataclass(frozen=True)
class Bar:
    """The values of one bin."""

    x: str
    y: float
    height: float
    outside: bool


@dataclass(frozen=True)
class Panel:
    """Values on one data set."""

    text: str
    y: int
    base: int
    kind: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Drawing:
    """Panels one above the other on one axis."""

    panels: tuple[Panel, ...]
    width: str
    """Of a bar."""
    ends: tuple[str, str]
    """Where the quantized range begins and ends."""
    bottom: int
    ticks: tuple[Tick, ...]
    height: int

    @property
    def said(self) -> str:
        """The chart in words."""
        return "; ".join(panel.text for panel in self.panels)


def drawing(found: Histogram) -> Drawing:
    """Calibration above evaluation."""
    axis = Axis.over(found.span)
    data = [
        ("calibration", "bar", found.calibration, found.calibration_outside, found.calibration_examples),
        ("evaluation", "evaluated", found.evaluation, found.evaluation_outside, found.evaluation_examples),
    ]
    kept = [one for one in data if one[3] is not None]
    panels = tuple(
        _panel(found, axis, counts, f"{name} data", kind, outside or 0.0, examples, at * (HEAD + PLOT + GAP))
        for at, (name, kind, counts, outside, examples) in enumerate(kept)
    )
    bottom = len(panels) * (HEAD + PLOT + GAP) - GAP
    bins = max(len(found.evaluation), 1)
    return Drawing(
        panels,
        percent(1 / bins, 0, RIGHT - LEFT),
        (across(axis, found.quantized[0]), across(axis, found.quantized[1])),
        bottom,
        tuple(Tick(across(axis, tick), label(tick)) for tick in axis.ticks(4)),
        bottom + 26,
    )


def _panel(
    found: Histogram, axis: Axis, counts: Sequence[int], name: str, kind: str, outside: float, examples: int, y: int
) -> Panel:
    most, base = max(counts, default=0), y + HEAD + PLOT
    held = [axis.share(end) for end in found.quantized]
    bars = []
    for at, count in enumerate(counts):
        if count > 0:
            # By the logarithm, so that a single value is seen beside a million.
            height = round(PLOT * math.log1p(count) / math.log1p(most), 1)
            middle = (at + 0.5) / len(counts)
            beyond = middle < held[0] or middle > held[1]
            bars.append(Bar(percent(at / len(counts), LEFT, RIGHT), round(base - height, 1), height, beyond))
    text = f"{name}, {wording.count(examples, 'example')}: {phrases.share(outside)} outside"
    return Panel(text, y, base, kind, tuple(bars))


def told(found: Histogram) -> str:
    """How the values lie in the range, in words."""
    outside = [("evaluation", found.evaluation_outside), ("calibration", found.calibration_outside)]
    known = [(name, fraction) for name, fraction in outside if fraction is not None]
    parts = [f"{phrases.share(fraction)} of the values on {name} data" for name, fraction in known if fraction > 0]
    beyond = f"Outside of it lie {' and '.join(parts)}." if parts else "No value lies outside of it."
    return f"The file's range is {phrases.ends(found.quantized)}. {_filled(found)} {beyond}"


def _filled(found: Histogram) -> str:
    """How much of the range there are values in, to the width of a bin."""
    axis = Axis.over(found.span)
    low, high = (axis.share(end) for end in found.quantized)
    parts = []
    for name, counts in (("evaluation", found.evaluation), ("calibration", found.calibration)):
        filled = [at for at, count in enumerate(counts) if count > 0]
        if filled and high > low:
            first, last = filled[0] / len(counts), (filled[-1] + 1) / len(counts)
            within = max(min(last, high) - max(first, low), 0.0) / (high - low)
            parts.append(f"{phrases.share(within)} of it on {name} data")
    return f"Values fill about {' and '.join(parts)}." if parts else ""
