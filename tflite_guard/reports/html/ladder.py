"""The ladder as a chart: a bar for each rung."""

from __future__ import annotations

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
    rungs = diagnosis.ladder[:MOST_RUNGS]
    kind = phrases.kind(variant, diagnosis.metric)
    base = next((rung.value for rung in rungs if rung.name == "reference"), None)
    values = [rung.sqnr if base is None else rung.value for rung in rungs]
    if all(value is None for value in values):
        return None
    start = 0.0 if base is None else base
    axis = Axis.over([*values, start], margin=0.04)
    worst = _largest_step(values, start, base is None or _higher_is_better(variant, diagnosis.metric), base is None)
    bars = tuple(
        _bar(rung, value, axis, start, kind, at, at == worst)
        for at, (rung, value) in enumerate(zip(rungs, values, strict=True))
    )
    ticks = tuple(Tick(across(axis, tick), label(tick)) for tick in axis.ticks(4))
    measure = "SQNR" if base is None else diagnosis.metric
    return Ladder(measure, bars, ticks, across(axis, start), base is not None, len(rungs) * ROW + 26)


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


def _largest_step(values: Sequence[float | None], start: float, higher_is_better: bool, sqnr: bool) -> int | None:
    """The place of the value that is farthest down from the one before; None where none is."""
    known = [(at, value if higher_is_better else -value) for at, value in enumerate(values) if value is not None]
    if not sqnr:
        known = [(-1, start if higher_is_better else -start), *known]
    steps = [(before / 2 - after / 2, at) for (_, before), (at, after) in pairwise(known)]
    largest, at = max(steps, key=lambda step: step[0], default=(0.0, 0))
    return at if largest > 0 else None


def _higher_is_better(variant: VariantResult, named: str) -> bool:
    metric = phrases.metric_of(variant, named)
    if metric is not None:
        return metric.higher_is_better
    return METRICS[named].higher_is_better if named in METRICS else True
