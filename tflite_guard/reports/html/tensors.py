"""Errors along the graph as a chart, and the ranges of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tflite_guard.reports.html import phrases
from tflite_guard.reports.html.geometry import Axis, Level, down, label, percent
from tflite_guard.results import TensorLoss

WORST = 5
"""Tensors that are shown without being asked for."""


def numbered(tensors: Sequence[TensorLoss], most: int) -> list[tuple[int, TensorLoss]]:
    """Tensors with their numbers in the order of execution; of too many those that lose most by themselves."""
    every = list(enumerate(tensors, 1))
    kept = sorted(every, key=lambda one: (one[1].isolated is None, _isolated(one)))[:most]
    return sorted(kept, key=lambda one: one[0])


@dataclass(frozen=True)
class Dot:
    """A tensor's own error."""

    x: str
    y: float
    number: int
    said: str
    worst: bool


@dataclass(frozen=True)
class Segment:
    """A piece of a line."""

    x1: str
    y1: float
    x2: str
    y2: float


@dataclass(frozen=True)
class Graph:
    """Errors along the graph, in the order of execution."""

    dots: tuple[Dot, ...]
    line: tuple[Segment, ...]
    levels: tuple[Level, ...]
    said: str


def graph(tensors: Sequence[tuple[int, TensorLoss]]) -> Graph | None:
    """Tensors with their numbers, as dots for the isolated error and a line for the cumulative; None without any."""
    values = [value for _, tensor in tensors for value in (tensor.isolated, tensor.cumulative)]
    if all(value is None for value in values):
        return None
    axis = Axis.over([0.0, *values], margin=0.04)
    across = Axis(0.0, max(len(tensors) - 1, 1))
    places = [percent(across.share(at), 8, 98) for at in range(len(tensors))]
    numbers = {number for number, _ in worst(tensors)[:3]}
    dots = tuple(
        Dot(x, down(axis, one.isolated), number, _dot(number, one), number in numbers)
        for x, (number, one) in zip(places, tensors, strict=True)
        if one.isolated is not None
    )
    known = [
        (x, down(axis, t.cumulative)) for x, (_, t) in zip(places, tensors, strict=True) if t.cumulative is not None
    ]
    line = tuple(Segment(x1, y1, x2, y2) for (x1, y1), (x2, y2) in pairwise(known))
    levels = tuple(Level(down(axis, tick), f"{label(tick)} dB") for tick in axis.ticks(5))
    return Graph(dots, line, levels, _worst_said(tensors))


def _dot(number: int, tensor: TensorLoss) -> str:
    by_itself = f"{phrases.decibels(tensor.isolated)} by itself"
    return f"{number}: {phrases.name(tensor.operator)} {phrases.name(tensor.tensor)}, {by_itself}"


def _worst_said(tensors: Sequence[tuple[int, TensorLoss]]) -> str:
    return "; ".join(_dot(number, tensor) for number, tensor in worst(tensors)[:3] if tensor.isolated is not None)


def worst(tensors: Sequence[tuple[int, TensorLoss]]) -> list[tuple[int, TensorLoss]]:
    """The few that lose most by themselves, the worst first."""
    return sorted((one for one in tensors if one[1].isolated is not None), key=_isolated)[:WORST]


def _isolated(numbered: tuple[int, TensorLoss]) -> float:
    return 0.0 if numbered[1].isolated is None else numbered[1].isolated


@dataclass(frozen=True)
class Ranges:
    """A tensor's range as calibrated and as it is, on one axis."""

    calibrated: tuple[str, str]
    """Start and width."""
    evaluated: tuple[str, str]
    zero: str
    """Empty where zero is in neither."""


def ranges(tensor: TensorLoss) -> Ranges:
    """Two bars, one above the other."""
    axis = Axis.over([*tensor.calibrated, *tensor.evaluated])
    zero = percent(axis.share(0.0)) if axis.low <= 0 <= axis.high else ""
    return Ranges(_span(axis, tensor.calibrated), _span(axis, tensor.evaluated), zero)


def _span(axis: Axis, ends: tuple[float, float]) -> tuple[str, str]:
    low, high = sorted(map(axis.share, ends))
    return percent(low), percent(max(high - low, 0.01))
