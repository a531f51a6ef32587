"""A forest plot in characters: drops with their intervals beside what is allowed, to be seen at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from tflite_guard.reports import wording
from tflite_guard.results import MetricResult
from tflite_guard.text import figures
from tflite_guard.text.plain import plain

COLUMNS = 44
LONGEST_NAME = 24
REACH = 5.0
"""How many times the largest limit the axis shows; an arrow beyond, so that one broken variant squeezes no other."""


@dataclass(frozen=True)
class Row:
    """One variant's drop."""

    name: str
    drop: float
    interval: tuple[float, float]
    limit: float
    remark: str


@dataclass(frozen=True)
class Line:
    """One line of a chart, the name apart because it comes from a file."""

    name: str
    rest: str


def row(name: str, metric: MetricResult) -> Row | None:
    """A metric as a row, where it has a drop, an interval and a `max_drop`."""
    limit = (metric.tolerance or {}).get("max_drop")
    if metric.drop is None or metric.confidence_interval is None or not isinstance(limit, int | float):
        return None
    low, high = sorted(metric.confidence_interval)
    remark = wording.worse_by(metric).rjust(8)
    if metric.problem:
        remark += f"  {metric.problem.value}"
    if metric.conclusive is False:
        remark += "  ?"
    return Row(_short(name), metric.drop, (low, high), float(limit), remark)


def lines(rows: Sequence[Row]) -> list[Line]:
    """The rows over one axis, aligned where every character is as wide as any other; empty if there is no axis."""
    axis = _Axis.over(rows)
    if axis is None:
        return []
    width = max(cell_len(one.name) for one in rows)
    drawn = [_line(one.name, width, f"{axis.draw(one)}  {one.remark}") for one in rows]
    return [*drawn, _line("", width, axis.labels())]


def _line(name: str, width: int, rest: str) -> Line:
    return Line(name, " " * (width - cell_len(name)) + "  " + rest.rstrip())


def _short(name: str) -> str:
    name = plain(name)
    return name if cell_len(name) <= LONGEST_NAME else set_cell_size(name, LONGEST_NAME - 1) + "…"


@dataclass(frozen=True)
class _Axis:
    """Values to columns. At both ends, one column is for what lies beyond and one for a value moved off its limit."""

    low: float
    high: float

    @staticmethod
    def over(rows: Sequence[Row]) -> _Axis | None:
        limits = max(one.limit for one in rows)
        reach = REACH * limits if limits > 0 else math.inf
        high = max(0.0, limits, min(reach, max(one.interval[1] for one in rows)))
        low = min(0.0, max(-reach, min(one.interval[0] for one in rows)))
        return _Axis(low, high) if 0 < high - low < math.inf else None

    def draw(self, one: Row) -> str:
        """One row: `├──●──┤` with `┃` at the limit and `┊` at zero."""
        limit = self._column(one.limit)
        low, drop, high = (
            self._beside(value, one.limit, limit) for value in (one.interval[0], one.drop, one.interval[1])
        )
        cells = [" "] * COLUMNS
        cells[self._column(0.0)] = "┊"
        cells[low : high + 1] = "─" * (high + 1 - low)
        cells[low], cells[high] = "├" if low > 0 else "←", "┤" if high < COLUMNS - 1 else "→"
        cells[limit] = "╂" if low < limit < high else "┃"
        if 0 < drop < COLUMNS - 1:
            cells[drop] = "●"
        return "".join(cells)

    def labels(self) -> str:
        """What the columns of zero and of both ends stand for."""
        cells = [" "] * COLUMNS
        zero = self._column(0.0)
        cells[zero] = "0"
        left, right = figures.signed(self.low), figures.signed(self.high)
        if self.low < 0 and zero > len(left) + 1:
            cells[1 : 1 + len(left)] = left
        if self.high > 0 and zero < COLUMNS - 2 - len(right):
            cells[COLUMNS - 1 - len(right) : COLUMNS - 1] = right
        return "".join(cells) + "  worse →"

    def _column(self, value: float) -> int:
        share = (value - self.low) / (self.high - self.low)  # infinite on a tiny axis, and cut before it is rounded
        return round(min(max(2 + share * (COLUMNS - 5), 0), COLUMNS - 1))

    def _beside(self, value: float, limit: float, limit_column: int) -> int:
        """The column of a value, kept on its own side of the limit when both would fall into one."""
        column = self._column(value)
        if column != limit_column or value == limit:
            return column
        return column + (1 if value > limit else -1)
