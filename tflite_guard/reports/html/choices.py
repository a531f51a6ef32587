"""Remedies as a chart: what each costs and what it gives; and what experiments gave back."""

from __future__ import annotations

from dataclasses import dataclass

from tflite_guard.reports.html import phrases
from tflite_guard.reports.html.geometry import Axis, Level, Tick, across, down, label, percent
from tflite_guard.results import Diagnosis, Experiment, MetricResult, VariantResult
from tflite_guard.text import figures

MARGINS = 8, 94
"""In percent: the labels of the vertical axis stand in the first, half a mark in the second."""


@dataclass(frozen=True)
class _Choice:
    """A mark before it has a place."""

    label: str
    title: str
    size: int
    value: float
    verified: bool


@dataclass(frozen=True)
class Point:
    """A choice, or what there is now."""

    x: str
    y: float
    label: str
    said: str
    verified: bool


@dataclass(frozen=True)
class Front:
    """Choices by size and metric."""

    points: tuple[Point, ...]
    now: Point | None
    allowed: float | None
    """How far down the line of what the tolerance allows is."""
    levels: tuple[Level, ...]
    ticks: tuple[Tick, ...]

    @property
    def said(self) -> str:
        """The chart in words."""
        return "; ".join(one.said for one in (*self.points, self.now) if one)


def front(variant: VariantResult, diagnosis: Diagnosis, most: int) -> Front | None:
    """The choices that have both a size and the metric; None where fewer than two marks would be seen."""
    metric, kind = phrases.metric_of(variant, diagnosis.metric), phrases.kind(variant, diagnosis.metric)
    chosen, now, limit = _chosen(diagnosis, most), _now(variant, metric), allowed(metric)
    marks = [*chosen, *([now] if now else [])]
    if not chosen or len(marks) < 2:
        return None
    sizes = Axis.over((one.size for one in marks), margin=0.08)
    values = Axis.over([*(one.value for one in marks), limit], margin=0.08)

    def point(one: _Choice) -> Point:
        said = f"{one.title}, {figures.number(one.value, kind)}, {figures.size(one.size)}"
        return Point(across(sizes, one.size, *MARGINS), down(values, one.value), one.label, said, one.verified)

    return Front(
        tuple(map(point, chosen)),
        point(now) if now else None,
        None if limit is None else down(values, limit),
        tuple(Level(down(values, tick), label(tick)) for tick in values.ticks(4)),
        tuple(Tick(across(sizes, tick, *MARGINS), figures.size(int(tick))) for tick in sizes.ticks(3)),
    )


def _chosen(diagnosis: Diagnosis, most: int) -> list[_Choice]:
    return [
        _Choice(str(at), f"{at}: {phrases.name(remedy.title)}", remedy.size_bytes, value, remedy.verified)
        for at, remedy in enumerate(diagnosis.front[:most], 1)
        if remedy.size_bytes is not None and (value := remedy.metrics.get(diagnosis.metric)) is not None
    ]


def _now(variant: VariantResult, metric: MetricResult | None) -> _Choice | None:
    if metric is None or metric.value is None or variant.artifact is None:
        return None
    return _Choice("now", "now", variant.artifact.size_bytes, metric.value, True)


def allowed(metric: MetricResult | None) -> float | None:
    """The value at which the tolerance ends, for the line in a chart; None where no one line says it."""
    tolerance = (metric and metric.tolerance) or {}
    limits = {name: value for name, value in tolerance.items() if name.startswith(("min", "max"))}
    if metric is None or len(limits) != 1:
        return None
    ((name, value),) = limits.items()
    if not isinstance(value, int | float):
        return None
    if name in ("min", "max"):
        return float(value)
    if name != "max_drop" or metric.reference is None:
        return None
    return metric.reference - value if metric.higher_is_better else metric.reference + value


def recovered(experiment: Experiment) -> str:
    """How wide the bar of an experiment is: nothing to all of the loss."""
    return percent(Axis(0.0, 1.0).share(experiment.recovered))
