"""Values to places in a drawing, whatever the values are. Standard library only.

Places across are in percent of the width that the page has, places down in pixels. So text keeps its size on a phone,
where a picture that is scaled down could not be read.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from tflite_guard.text import figures

MOST_TICKS = 12
TOP, BOTTOM = 18, 220
"""Of a plot."""
LEFT, RIGHT = 2, 97
"""Margins in percent, so that the mark of an extreme value and the label of a tick are whole."""
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Axis:
    """A range of values; never empty, never infinite."""

    low: float
    high: float

    @staticmethod
    def over(values: Iterable[float | None], margin: float = 0.0) -> Axis:
        """From the smallest to the largest that there is, and a fraction of that more on either side."""
        kept = [float(value) for value in values if value is not None and math.isfinite(value)] or [0.0]
        low, high = min(kept), max(kept)
        more = high * margin - low * margin if low < high else abs(low) * 0.1 or 1.0
        return Axis(max(low - more, -_LARGEST), min(high + more, _LARGEST))

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1 at the high end; what lies beyond is at the end."""
        whole = self.high / 2 - self.low / 2
        share = (value / 2 - self.low / 2) / whole if whole > 0 else 0.0
        return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0

    def ticks(self, about: int) -> list[float]:
        """About so many round values on it; its ends where there are none."""
        step = _round_step((self.high - self.low) / about)
        if step is None:
            return [self.low, self.high]
        first = math.ceil(self.low / step)
        found = [(first + place) * step for place in range(MOST_TICKS)]
        return [value for value in found if value <= self.high + step * 1e-9]


def _round_step(least: float) -> float | None:
    """The smallest of 1, 2 and 5 times a power of ten that is no smaller; None where floats do not reach."""
    if not 1e-300 < least < 1e300:
        return None
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5, 10) if factor * power >= least), 10 * power)


def percent(share: float, low: float = 0.0, high: float = 100.0) -> str:
    """A share as a place in an SVG that is as wide as the page lets it: `37.5%`, between two margins."""
    return f"{low + share * (high - low):.2f}".rstrip("0").rstrip(".") + "%"


def across(axis: Axis, value: float, low: float = LEFT, high: float = RIGHT) -> str:
    """A value's place from left to right."""
    return percent(axis.share(value), low, high)


def down(axis: Axis, value: float) -> float:
    """A value's place in a plot, whose high end is at the top."""
    return round(BOTTOM - axis.share(value) * (BOTTOM - TOP), 1)


def label(value: float) -> str:
    """A round value."""
    return figures.real(value)


@dataclass(frozen=True)
class Tick:
    """A round value on an axis."""

    at: str
    label: str


@dataclass(frozen=True)
class Level:
    """A round value of a vertical axis."""

    y: float
    label: str
