"""The terminal's tables: a model's variants with a row for each metric, and models that pass with a row each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from tflite_guard.reports import wording
from tflite_guard.results import MetricResult, ModelResult, VariantResult, Verdict
from tflite_guard.text import figures
from tflite_guard.text.plain import plain

STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.ERROR: "bold red"}
WIDE = 110
"""Columns from which variant, size and metric have columns of their own."""
UNASKED = "comparison"
"""What a rung is there for that nobody asked for."""
LONGEST_WORD = 20
"""Of a name; a longer one is folded before any figure is crowded."""
_INDENTED_WORD = re.compile(r"(?:^ )?\S+")

_Row = list[Text]
_Kind = Literal["name", "figure", "limit", "whole"]


class _Layout(msgspec.Struct, frozen=True):
    wide: bool
    gap: int
    """Columns of space between two of the table, 1 to 3."""
    foldable: tuple[_Kind, ...] = ()
    """What may be broken at spaces."""
    brief: bool = True
    """The baseline is below the value and not beside it, and verdicts are marks without words."""


_WIDE = (
    _Layout(True, 3, brief=False),
    _Layout(True, 2, ("name",), brief=False),
    _Layout(True, 2, ("name",)),
    _Layout(True, 1, ("name",)),
)
_NARROW = (
    _Layout(False, 2, ("name",)),
    _Layout(False, 1, ("name",)),
    _Layout(False, 1, ("name", "limit")),
    _Layout(False, 1, ("name", "limit", "figure")),
)


class _Column(msgspec.Struct, frozen=True):
    title: str
    kind: _Kind


class _Group(msgspec.Struct, frozen=True):
    """A variant's rows, and the line above them where the layout is narrow."""

    head: Text
    rows: list[_Row]


def variants(model: ModelResult, rungs: Sequence[VariantResult], width: int) -> Iterator[Table | Text]:
    """Some of a model's rungs, in the roomiest layout that fits; the narrowest folds figures, and loses none."""
    measured = any(rung.metrics or rung.observed for rung in rungs)
    for layout in (*(_WIDE if width >= WIDE and measured else ()), *_NARROW):
        columns, groups = _columns(model, layout), [_group(model, rung, layout) for rung in rungs]
        widths = _widths(columns, [row for group in groups for row in group.rows], layout, width)
        if widths is not None:
            break
    if layout.wide:
        yield _table(columns, [group.rows for group in groups], layout, widths)
        return
    if measured:
        yield _table(columns, [], layout, widths)
    for position, group in enumerate(groups):
        if position and measured:
            yield Text("")
        yield group.head
        if group.rows:
            yield _table(columns, [group.rows], layout, widths, header=False)


def comparison(model: ModelResult, rungs: Sequence[VariantResult], width: int) -> Iterator[Table]:
    """A beside B, which was evaluated: the sizes, then a row for each metric."""
    names = ("A", "B", "B worse", "95 % interval")
    columns = [_Column("metric", "name"), *(_Column(title, "figure") for title in names)]
    for variant in rungs:
        sizes = [figures.size(model.reference.size_bytes), _size(variant), wording.compression(variant, model)]
        rows = [[Text("size"), *map(Text, sizes), Text("")]]
        rows += [
            [Text(plain(metric.name)), *_figures(metric, ""), Text(_interval(metric), "dim")]
            for metric in variant.metrics
        ]
        for layout in (_Layout(True, 3), _Layout(True, 2, ("name",)), _Layout(True, 1, ("name", "figure"))):
            widths = _widths(columns, rows, layout, width)
            if widths is not None:
                break
        yield _table(columns, [rows], layout, widths)


def passing(models: Sequence[tuple[ModelResult, str]], width: int) -> Table:
    """Models that pass with their titles, a row each: how the variant fares that loses most."""
    columns = [
        _Column("", "whole"),
        _Column("model", "name"),
        _Column("metric", "name"),
        _Column("float", "figure"),
        _Column("worst", "figure"),
        _Column("worse", "figure"),
        _Column("variant", "name"),
        _Column("size", "figure"),
    ]
    rows = [_passing_row(model, title) for model, title in models]
    for layout in (_Layout(True, 3), _Layout(True, 2, ("name",)), _Layout(True, 1, ("name",))):
        widths = _widths(columns, rows, layout, width)
        if widths is not None:
            break
    return _table(columns, [rows], layout, widths)


def _passing_row(model: ModelResult, title: str) -> _Row:
    found = wording.closest(model)
    if found is None:
        return [_mark(Verdict.PASS, None, brief=True), Text(title, "bold"), *(Text("") for _ in range(6))]
    variant, metric = found
    head = [_mark(Verdict.PASS, metric.conclusive, brief=True), Text(title, "bold")]
    of = f" (of {len(model.variants):,})" if len(model.variants) > 1 else ""
    name = Text.assemble(plain(variant.name), (of, "dim"))
    reference, value, drop = _figures(metric, "")
    if wording.moved(metric):
        value = _with_baseline(value, metric)
    return [*head, Text(plain(metric.name)), reference, value, drop, name, Text(_size(variant))]


def _table(
    columns: Sequence[_Column],
    groups: Sequence[Sequence[_Row]],
    layout: _Layout,
    widths: Sequence[int] | None,
    header: bool = True,
) -> Table:
    """Rows below a header; without widths it is as narrow as the terminal."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", show_header=header)
    table.padding, table.collapse_padding = (0, min(layout.gap - 1, 1)), layout.gap < 3
    for position, column in enumerate(columns):
        table.add_column(
            column.title,
            justify="right" if column.kind == "figure" else "left",
            overflow="fold",
            width=None if widths is None else widths[position],
        )
    for group in groups:
        for row in group:
            table.add_row(*row, end_section=row is group[-1])
    return table


def _measured(model: ModelResult) -> Iterator[MetricResult]:
    return (metric for variant in model.variants for metric in variant.metrics)


def _columns(model: ModelResult, layout: _Layout) -> list[_Column]:
    measured = ["float", "variant", "worse", "95 % interval"]
    if not layout.brief and wording.has_baseline(_measured(model)):
        measured.append("baseline")
    return [
        *([_Column("variant", "name"), _Column("size", "whole")] if layout.wide else []),
        _Column("metric", "name"),
        *(_Column(title, "figure") for title in measured),
        _Column("tolerance", "limit"),
        _Column("", "whole"),
    ]


def _widths(columns: Sequence[_Column], rows: Sequence[_Row], layout: _Layout, width: int) -> list[int] | None:
    """How wide each column is, so that at most names are folded; None where that does not fit."""
    lines = [[column.title, *_lines(rows, position)] for position, column in enumerate(columns)]
    wanted = [max(map(cell_len, one)) for one in lines]
    widths = [
        min(whole, max(cell_len(column.title), *map(_longest_word, one))) if column.kind in layout.foldable else whole
        for column, one, whole in zip(columns, lines, wanted, strict=True)
    ]
    spare = width - sum(widths) - layout.gap * (len(widths) - 1)
    if spare < 0:
        return None
    for position, whole in enumerate(wanted):
        more = min(spare, whole - widths[position])
        widths[position] += more
        spare -= more
    return widths


def _lines(rows: Sequence[_Row], position: int) -> list[str]:
    return [line for row in rows for line in row[position].plain.split("\n")]


def _longest_word(line: str) -> int:
    return min(LONGEST_WORD, max(map(cell_len, _INDENTED_WORD.findall(line)), default=0))


def _group(model: ModelResult, variant: VariantResult, layout: _Layout) -> _Group:
    """A variant's rows; a line above them, or cells before the first ones, tell its name and size."""
    rows = _metric_rows(model, variant, layout)
    unasked = any(variant is rung for rung in model.hidden)
    names = [Text(plain(variant.name), "bold"), *([Text(f"({UNASKED})", "dim")] if unasked else [])]
    times = wording.compression(variant, model)
    sizes = [_size(variant), *([times] if times else [])]
    head = Text(" ").join([_mark(variant.judged, None, brief=True), *names])
    if variant.error is not None:
        head.append(f"  {wording.WORDS[Verdict.ERROR]}", "dim")
    elif variant.artifact is not None:
        head.append(f"  size {', '.join(sizes)}", "dim")
    if not layout.wide:
        return _Group(head, rows)
    rows = rows or [[*(Text("") for _ in _columns(model, layout)[3:]), _mark(variant.judged, None, layout.brief)]]
    heads = zip(_spread(names, len(rows)), _spread(list(map(Text, sizes)), len(rows)), strict=True)
    return _Group(head, [[*own, *row] for own, row in zip(heads, rows, strict=True)])


def _metric_rows(model: ModelResult, variant: VariantResult, layout: _Layout) -> list[_Row]:
    """A row for each metric, those of recorded outputs last."""
    told = [(metric, "") for metric in variant.metrics]
    told += [(metric, "observed ") for metric in (variant.observed.metrics if variant.observed else ())]
    beside = not layout.brief and wording.has_baseline(_measured(model))
    return [
        [*_cells(metric, what, beside, layout), _mark(metric.verdict, metric.conclusive, layout.brief)]
        for metric, what in told
    ]


def _spread(cells: Sequence[Text], rows: int) -> list[Text]:
    """One for each row; what is over stands in the last one, below."""
    alone = [*cells[: rows - 1], Text("\n").join(cells[rows - 1 :])]
    return [*alone, *(Text("") for _ in range(rows - len(alone)))]


def _cells(metric: MetricResult, prefix: str, beside: bool, layout: _Layout) -> list[Text]:
    """A metric's; the baseline is beside its value or below it."""
    style = STYLES[metric.problem] if metric.problem else ""
    reference, value, drop = _figures(metric, style)
    baseline = Text(wording.baseline_of(metric), "dim")
    if not beside and wording.change(metric):
        value = _with_baseline(value, metric)
    return [
        Text(" " * (not layout.wide) + prefix + plain(metric.name)),
        reference,
        value,
        drop,
        Text(_interval(metric), "dim"),
        *([baseline] if beside else []),
        Text(wording.tolerance(metric, ",\n"), "dim" if metric.tolerance is None else ""),
    ]


def _with_baseline(value: Text, metric: MetricResult) -> Text:
    return Text.assemble(value, "\n", (f"was {wording.baseline_of(metric)}", "dim"))


def _figures(metric: MetricResult, style: str) -> tuple[Text, Text, Text]:
    """What the reference has, what the variant has, and the drop; the two latter in a style."""
    reference = Text(figures.number(metric.reference, metric.metric), "" if metric.reference is not None else "dim")
    drop = Text(wording.worse_by(metric), style if metric.drop is not None else "dim")
    return reference, Text(wording.value_of(metric), style), drop


def _interval(metric: MetricResult) -> str:
    return figures.interval(metric.confidence_interval, metric.metric)


def _size(variant: VariantResult) -> str:
    return figures.size(variant.artifact.size_bytes if variant.artifact else None)


def _mark(verdict: Verdict | None, conclusive: bool | None, brief: bool) -> Text:
    word = "" if brief or verdict is None else f" {verdict.value}"
    text = Text(wording.MARKS[verdict] + word, STYLES[verdict] if verdict else "dim")
    if conclusive is False:
        text.append(" ?", "yellow")
    return text
