"""The ladder as a chart: a bar for each rung."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tflite_guard.reports.html import phrases
from tflite_guard.reports.html.geometry import LEFT, RIGHT, Axis, Tick, across, label, percent
from tflite_guard.results import Diagnosis, Rung, VariantResult
from tflite_guard.text import figures
from tflite_guard.vocabulary import METRICS

ROW = 46
"""Height of a rung in pixels: its name and value, and the bar below."""
MOST_RUNGS = 20
LOUDEST = 300.0
"""Decibels either way, beyond which noise is not told apart."""


@dataclass(frozen=True)
class Bar:
    """One rung of the ladder."""

    name: str
    text: str
    """Its value or values, or why there are none."""
    y: int
    x: str
    width: str
    end: str
    """Where its value lies; empty where it has none."""
    breaks: bool
    """The largest step is down to this one."""


@dataclass(frozen=True)
class Ladder:
    """The rungs, each with a bar from the reference's value, or from zero, to its own."""

    measure: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    base: str
    from_reference: bool
    height: int

    @property
    def said(self) -> str:
        """The chart in words."""
        return "; ".join(f"{bar.name} {bar.text}" for bar in self.bars)

    @property
    def broken(self) -> str | None:
        """The name of the rung to which the largest step leads down."""
        return next((bar.name for bar in self.bars if bar.breaks), None)


def ladder(variant: VariantResult, diagnosis: Diagnosis) -> Ladder | None:
    """The ladder by the metric that is diagnosed where the reference has it, else by SQNR; None without values."""
    rungs, kind = diagnosis.ladder[:MOST_RUNGS], phrases.kind(variant, diagnosis.metric)
    base = next((rung.value for rung in rungs if rung.name == "reference"), None)
    if base is None:
        return _by_sqnr(rungs, kind)
    axis = Axis.over((rung.value for rung in rungs), margin=0.04)
    sign = -1 if _higher_is_better(variant, diagnosis.metric) else 1
    losses = [None if rung.value is None else sign * rung.value for rung in rungs]
    bars = _bars(rungs, [rung.value for rung in rungs], losses, axis, base, kind)
    return Ladder(diagnosis.metric, bars, _ticks(axis), across(axis, base), True, len(rungs) * ROW + 26)


def _by_sqnr(rungs: Sequence[Rung], kind: str) -> Ladder | None:
    """Bars from 0 dB. A step is the noise that it adds: from 120 to 70 dB is less of one than from 40 to 10."""
    known = [rung.sqnr for rung in rungs if rung.sqnr is not None]
    if not known:
        return None
    silent = [rung.identical and rung.sqnr is None for rung in rungs]
    axis = Axis.over([0.0, *known, *([1.3 * max(known)] if any(silent) else [])], margin=0.04)
    places = [axis.high if quiet else rung.sqnr for rung, quiet in zip(rungs, silent, strict=True)]
    bars = _bars(rungs, places, [_noise(rung) for rung in rungs], axis, 0.0, kind)
    return Ladder("SQNR", bars, _ticks(axis), across(axis, 0.0), False, len(rungs) * ROW + 26)


def _noise(rung: Rung) -> float | None:
    """The power of the noise to the signal's; None where it is not known."""
    if rung.sqnr is None:
        return 0.0 if rung.identical or rung.name == "reference" else None
    return math.pow(10.0, -min(max(rung.sqnr, -LOUDEST), LOUDEST) / 10)


def _ticks(axis: Axis) -> tuple[Tick, ...]:
    return tuple(Tick(across(axis, tick), label(tick)) for tick in axis.ticks(4))


def _bars(
    rungs: Sequence[Rung],
    places: Sequence[float | None],
    losses: Sequence[float | None],
    axis: Axis,
    start: float,
    kind: str,
) -> tuple[Bar, ...]:
    worst = _largest_step(losses)
    return tuple(
        _bar(rung, place, axis, start, kind, at, at == worst)
        for at, (rung, place) in enumerate(zip(rungs, places, strict=True))
    )


def _bar(rung: Rung, value: float | None, axis: Axis, start: float, kind: str, at: int, breaks: bool) -> Bar:
    name, text = phrases.rung(rung.name), said(rung, kind)
    if value is None:
        return Bar(name, text, at * ROW, "0%", "0%", "", breaks)
    low, high = sorted((axis.share(start), axis.share(value)))
    width = percent(high - low, 0, RIGHT - LEFT)
    return Bar(name, text, at * ROW, percent(low, LEFT, RIGHT), width, across(axis, value), breaks)


def said(rung: Rung, kind: str) -> str:
    """A rung's values, or that it has none."""
    parts = [] if rung.value is None else [figures.number(rung.value, kind)]
    if rung.sqnr is not None and (kind != "sqnr" or rung.value is None):
        parts.append(phrases.decibels(rung.sqnr))
    if rung.identical and rung.name != "reference":
        parts.append("identical")
    return " · ".join(parts) or ("–" if rung.name == "reference" else "not measured")


def _largest_step(losses: Sequence[float | None]) -> int | None:
    """The place of the loss that is the most above the one before; None where none is."""
    known = [(at, loss) for at, loss in enumerate(losses) if loss is not None]
    steps = [(after / 2 - before / 2, at) for (_, before), (at, after) in pairwise(known)]
    largest, at = max(steps, key=lambda step: step[0], default=(0.0, 0))
    return at if largest > 0 else None


def _higher_is_better(variant: VariantResult, named: str) -> bool:
    metric = phrases.metric_of(variant, named)
    if metric is not None:
        return metric.higher_is_better
    return METRICS[named].higher_is_better if named in METRICS else True
