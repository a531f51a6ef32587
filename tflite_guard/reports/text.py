"""The terminal's rendering: what failed first and in words, then a table a model."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tflite_guard.plain import logged, plain
from tflite_guard.reports import wording
from tflite_guard.results import MetricResult, ModelResult, Report, VariantResult, Verdict

STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.ERROR: "bold red"}
NOT_A_TERMINAL_WIDTH = 132
WIDE = 124
"""Columns from which the size and the metric have columns of their own."""


def render(report: Report) -> str:
    """The report as plain text without escape sequences."""
    stream = io.StringIO()
    console = Console(file=stream, width=NOT_A_TERMINAL_WIDTH, color_system=None, force_terminal=False)
    console.print(View(report))
    return "\n".join(logged(line.rstrip()) for line in stream.getvalue().splitlines()) + "\n"


class View:
    """The report for a rich console; a narrow one gets a table that folds nothing."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report, narrow = self._report, options.max_width < WIDE
        problems = wording.problems(report)
        for problem in problems:
            mark = (f"{wording.MARKS[problem.verdict]} ", STYLES[problem.verdict])
            yield Text.assemble(mark, (problem.where, "bold"), f"  {problem.message}")
        if problems:
            yield Text("")
        for position, model in enumerate(report.models):
            yield Text("", end="\n" if position else "")
            yield _heading(model)
            if model.error is None:
                yield _table(model, narrow)
                yield from _findings(model)
                yield from (Text(f"  note: {plain(note, 2000)}", style="dim") for note in model.notes)
        yield Text("")
        yield from (Text(f"note: {plain(note)}", style="dim") for note in report.notes)
        yield _footer(report)


def _heading(model: ModelResult) -> Text:
    heading = Text.assemble(
        (plain(model.name), "bold"), (f"  {model.reference.kind} {plain(model.reference.path)}", "dim")
    )
    examples = max((m.examples for v in model.variants for m in v.metrics), default=0)
    if examples:
        heading.append(f"  {examples:,} examples", "dim")
    return heading


def _table(model: ModelResult, narrow: bool) -> Table:
    baseline = _has_baseline(model)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=narrow, header_style="bold")
    table.add_column("variant", overflow="fold", min_width=8)
    if not narrow:
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("metric", overflow="fold")
    for name in ("float", "variant", "drop", "95 % interval", *(["baseline"] if baseline else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tolerance", overflow="fold")
    table.add_column("", no_wrap=True)
    if model.float32 is not None:
        _add(table, model, model.float32, "float32 (conversion alone)", narrow)
    for variant in model.variants:
        _add(table, model, variant, plain(variant.name), narrow)
    return table


def _add(table: Table, model: ModelResult, variant: VariantResult, name: str, narrow: bool) -> None:
    size = wording.size(variant.artifact.size_bytes if variant.artifact else None)
    times = Text(wording.compression(variant, model), "dim")
    title = Text(name, "bold")
    rows = [_cells(metric, " " * narrow, model) for metric in variant.metrics]
    observed = variant.observed.metrics if variant.observed else ()
    rows += [_cells(metric, " " * narrow + "observed ", model) for metric in observed]
    marks = [_mark(metric.verdict, metric.conclusive, narrow) for metric in (*variant.metrics, *observed)]
    rows = [[*cells, mark] for cells, mark in zip(rows, marks, strict=True)]
    empty = [""] * (4 if _has_baseline(model) else 3)
    if narrow:
        rows.insert(0, [title, size, times, *empty, _mark(variant.verdict, None, narrow)])
    else:
        rows = rows or [["", "", "", *empty, _mark(variant.verdict, None, narrow)]]
        head: list[RenderableType] = [title, Text.assemble(size, " " if times else "", times)]
        rows = [[*(head if position == 0 else ["", ""]), *row] for position, row in enumerate(rows)]
    for row in rows:
        table.add_row(*row, end_section=row is rows[-1])


def _cells(metric: MetricResult, prefix: str, model: ModelResult) -> list[RenderableType]:
    style = "" if metric.verdict is Verdict.PASS else STYLES[metric.verdict]
    cells: list[RenderableType] = [
        Text(prefix + plain(metric.name)),
        Text(wording.number(metric.reference, metric.metric), "" if metric.reference is not None else "dim"),
        Text(wording.value_of(metric), style),
        Text(wording.signed(metric.drop), style if metric.drop is not None else "dim"),
        Text(wording.interval(metric), "dim"),
    ]
    if _has_baseline(model):
        cells.append(Text(wording.baseline_of(metric), "dim"))
    return [*cells, Text(wording.tolerance(metric), "dim" if metric.tolerance is None else "")]


def _mark(verdict: Verdict, conclusive: bool | None, narrow: bool) -> Text:
    text = Text(wording.MARKS[verdict] if narrow else f"{wording.MARKS[verdict]} {verdict.value}", STYLES[verdict])
    if conclusive is False:
        text.append(" ?", "yellow")
    return text


def _has_baseline(model: ModelResult) -> bool:
    return any(
        metric.baseline is not None or metric.baseline_identical
        for variant in model.variants
        for metric in variant.metrics
    )


def _findings(model: ModelResult) -> Iterator[Text]:
    """Each finding once, with all the variants that it is of; then why intervals are missing."""
    for finding, names in wording.findings(model):
        style = {"error": "bold red", "warning": "yellow", "note": "dim"}[finding.severity]
        what = f"{', '.join(map(plain, names))}: {plain(finding.message, wording.LONGEST_MESSAGE)} "
        yield Text.assemble((f"  {finding.severity}: ", style), what, (f"({plain(finding.rule)})", "dim"))
    for note, names in wording.missing_intervals(model).items():
        yield Text(f"  no interval for {', '.join(map(plain, names))}: {plain(note)}", "dim")


def _footer(report: Report) -> Text:
    inconclusive = any(m.conclusive is False for model in report.models for v in model.variants for m in v.metrics)
    footer = Text.assemble((f"{wording.MARKS[report.verdict]} {report.verdict.value}", STYLES[report.verdict]))
    footer.append(f"  {wording.headline(report)}")
    if inconclusive:
        footer.append("\n? the interval holds the limit: with other examples the verdict could differ", "dim")
    return footer
