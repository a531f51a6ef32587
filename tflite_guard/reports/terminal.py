"""The terminal's rendering: what failed first and in words, then a table a model."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tflite_guard.reports import wording
from tflite_guard.reports.wording import Explanation
from tflite_guard.results import MetricResult, ModelResult, Report, Rung, VariantResult, Verdict
from tflite_guard.text import figures
from tflite_guard.text.plain import logged, plain

STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.ERROR: "bold red"}
NOT_A_TERMINAL_WIDTH = 132
WIDE = 124
"""Columns from which the size and the metric have columns of their own."""
LAYOUTS = ((False, 3, ("name",)), (True, 2, ("name",)), (True, 1, ("name",)), (True, 1, ("name", "limit")))
"""Narrow or not, the space between columns, and what may be folded; the roomiest first."""
LONGEST_WORD = 20
"""Of a name; a longer one is folded before any figure is crowded."""
_INDENTED_WORD = re.compile(r"(?:^ )?\S+")
_WHOLE = re.compile(r"\d (?:%|dB|B|[kMG]B)|\[[^\s\[\],]+(?: dB)?, [^\s\[\],]+\]")
"""What no line may break inside."""
_JOINT = "\ue000"
"""A character that is no space; in a name it becomes one, which harms nothing."""


def render(report: Report) -> str:
    """The report as plain text without escape sequences."""
    stream = io.StringIO()
    console = Console(file=stream, width=NOT_A_TERMINAL_WIDTH, color_system=None, force_terminal=False)
    console.print(View(report))
    return "\n".join(logged(line.rstrip()) for line in stream.getvalue().splitlines()) + "\n"


_Row = list[Text]


@dataclass(frozen=True)
class _Column:
    title: str
    kind: Literal["name", "figure", "limit", "mark"]


class View:
    """The report for a rich console; on a narrow one only names are folded."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report, titles = self._report, wording.titles(self._report)
        problems = wording.problems(report)
        for problem, why in wording.explained_once(problems):
            mark = (f"{wording.MARKS[problem.verdict]} ", STYLES[problem.verdict])
            rule = (f" ({problem.rule})", "dim") if problem.finding is not None else ""
            told = Text.assemble(mark, (problem.where, "bold"), f"  {problem.message}", rule)
            yield from _wrapped(told, console, options)
            for line in () if why is None else _explanation(why):
                yield from _wrapped(line, console, options, 2)
        if problems:
            yield Text("")
        for position, model in enumerate(report.models):
            yield Text("", end="\n" if position else "")
            yield _heading(model, titles[id(model)])
            if model.error is None:
                yield _table(model, options.max_width)
                for ladder in _ladders(model):
                    yield from _wrapped(ladder, console, options, 2)
                for finding in _findings(model):
                    yield from _wrapped(finding, console, options)
                yield from (Text(f"  note: {plain(note, 2000)}", style="dim") for note in model.notes)
        yield Text("")
        yield from (Text(f"note: {plain(note)}", style="dim") for note in report.notes)
        yield _footer(report)


def _wrapped(text: Text, console: Console, options: ConsoleOptions, indent: int = 0) -> Iterator[Text]:
    """The lines of a text, none of which breaks an interval or a number from its unit; indented, the rest further."""
    text.plain = _WHOLE.sub(lambda found: found[0].replace(" ", _JOINT), text.plain)
    for position, line in enumerate(text.wrap(console, options.max_width - 2 * indent)):
        line.plain = line.plain.replace(_JOINT, " ")
        line.pad_left(indent * (1 + bool(position)))
        yield line


def _explanation(why: Explanation) -> Iterator[Text]:
    """Cause, proof, place and remedy, then the lines for the manifest."""
    for label, sentence in why.sentences:
        rule = f" ({why.rule})" if label == "Cause" and why.rule else ""
        yield Text.assemble((f"{label}: ", "bold"), sentence, (rule, "dim"))
    if why.change:
        yield Text(why.change + (":" if why.patch else ""))
    for line in why.patch:
        yield Text(f"  {line}" + ("," if line is not why.patch[-1] else ""))


def _ladders(model: ModelResult) -> Iterator[Text]:
    """A line for each diagnosis: where on the way from the reference it is lost."""
    for variant in model.variants:
        if (found := variant.diagnosis) is None or not found.ladder:
            continue
        metric = next((one.metric for one in variant.metrics if one.name == found.metric), found.metric)
        rungs = " → ".join(_rung(one, metric) for one in found.ladder)
        yield Text.assemble((f"{plain(variant.name)}, {plain(found.metric)} by rung: ", "bold"), rungs)


def _rung(one: Rung, metric: str) -> str:
    value, decibels = wording.rung(one, metric)
    beside = plain(one.note) if one.note is not None else decibels
    return f"{plain(one.name)} {value}" + (f" ({beside})" if beside else "")


def _heading(model: ModelResult, title: str) -> Text:
    heading = Text.assemble((title, "bold"), (f"  {model.reference.kind} {plain(model.reference.path)}", "dim"))
    examples = max((m.examples for v in model.variants for m in v.metrics), default=0)
    if examples:
        heading.append(f"  {examples:,} examples", "dim")
    return heading


def _table(model: ModelResult, width: int) -> Table | Padding:
    """The roomiest layout that folds no figure; where there is none, the last, with all folded and nothing lost."""
    for narrow, gap, foldable in LAYOUTS[width < WIDE :]:
        columns, groups = _columns(model, narrow), _groups(model, narrow)
        widths = _widths(columns, groups, foldable)
        fits = sum(widths) + gap * (len(widths) - 1) + 2 * (not narrow) <= width
        if fits:
            break
    table = Table(box=SIMPLE_HEAD, show_edge=not narrow, pad_edge=False, header_style="bold")
    table.padding, table.collapse_padding = (0, min(gap - 1, 1)), narrow
    for column, least in zip(columns, widths, strict=True):
        table.add_column(
            column.title,
            justify="right" if column.kind == "figure" else "left",
            overflow="fold",
            no_wrap=fits and column.kind not in foldable,
            min_width=least if fits else None,
        )
    for group in groups:
        for row in group:
            table.add_row(*row, end_section=row is group[-1])
    # The edges of a wide one are empty lines and columns.
    return Padding(table, (1, 0), expand=False) if narrow else table


def _columns(model: ModelResult, narrow: bool) -> list[_Column]:
    measured = ["float", "variant", "worse", "95 % interval"]
    if _has_baseline(model) and not narrow:
        measured.append("baseline")
    return [
        _Column("variant", "name"),
        *([] if narrow else [_Column("size", "figure"), _Column("metric", "name")]),
        *(_Column(title, "figure") for title in measured),
        _Column("tolerance", "limit"),
        _Column("", "mark"),
    ]


def _widths(columns: list[_Column], groups: list[list[_Row]], foldable: Sequence[str]) -> list[int]:
    """What each column needs: its longest line, or where it may be folded its longest word."""
    widths = []
    for position, column in enumerate(columns):
        texts = [row[position].plain for group in groups for row in group]
        lines = [line for text in texts for line in text.split("\n")]
        if column.kind in foldable:
            words = [word for line in lines for word in _INDENTED_WORD.findall(line)]
            widths.append(max(cell_len(column.title), min(LONGEST_WORD, max(map(cell_len, words), default=0))))
        else:
            widths.append(max(map(cell_len, [column.title, *lines])))
    return widths


def _groups(model: ModelResult, narrow: bool) -> list[list[_Row]]:
    """The rows of each variant."""
    alone = [_rows(model, rung, f"{plain(rung.name)} (conversion alone)", narrow) for rung in model.hidden]
    return [*alone, *(_rows(model, variant, plain(variant.name), narrow) for variant in model.variants)]


def _rows(model: ModelResult, variant: VariantResult, name: str, narrow: bool) -> list[_Row]:
    size = Text(figures.size(variant.artifact.size_bytes if variant.artifact else None))
    times = Text(wording.compression(variant, model).removesuffix(" smaller"), "dim")
    title = Text(name, "bold")
    told = [(metric, "") for metric in variant.metrics]
    told += [(metric, "observed ") for metric in (variant.observed.metrics if variant.observed else ())]
    with_baseline = _has_baseline(model)
    rows = [
        [*_cells(metric, " " * narrow + what, with_baseline, narrow), _mark(metric.verdict, metric.conclusive, narrow)]
        for metric, what in told
    ]
    mark = _mark(variant.judged, None, narrow)
    if narrow:
        return [[title, size, times, Text(""), Text(""), Text(""), mark], *rows]
    rows = rows or [[*(Text("") for _ in range(6 + with_baseline)), mark]]
    head = [title, Text.assemble(size, " " if times else "", times)]
    return [[*(head if position == 0 else [Text(""), Text("")]), *row] for position, row in enumerate(rows)]


def _cells(metric: MetricResult, prefix: str, with_baseline: bool, narrow: bool) -> list[Text]:
    """A metric's; a narrow table has the baseline below the value."""
    style = STYLES[metric.problem] if metric.problem else ""
    value, baseline = Text(wording.value_of(metric), style), Text(wording.baseline_of(metric), "dim")
    if narrow and wording.change(metric):
        value = Text.assemble(value, "\n", ("was ", "dim"), baseline)
    return [
        Text(prefix + plain(metric.name)),
        Text(figures.number(metric.reference, metric.metric), "" if metric.reference is not None else "dim"),
        value,
        Text(wording.worse_by(metric), style if metric.drop is not None else "dim"),
        Text(figures.interval(metric.confidence_interval, metric.metric), "dim"),
        *([baseline] if with_baseline and not narrow else []),
        Text(wording.tolerance(metric, ",\n"), "dim" if metric.tolerance is None else ""),
    ]


def _mark(verdict: Verdict | None, conclusive: bool | None, narrow: bool) -> Text:
    word = "" if narrow or verdict is None else f" {verdict.value}"
    text = Text(wording.MARKS[verdict] + word, STYLES[verdict] if verdict else "dim")
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
        whose = f"{', '.join(map(plain, names))}: " if names else ""
        what = f"{whose}{wording.told(finding)} "
        severity = (f"  {wording.label(finding)}: ", style if finding.ignored is None else "dim")
        yield Text.assemble(severity, what, (f"({plain(finding.rule)})", "dim"))
    for note, names in wording.missing_intervals(model).items():
        yield Text(f"  no interval for {', '.join(map(plain, names))}: {plain(note)}", "dim")


def _footer(report: Report) -> Text:
    inconclusive = any(m.conclusive is False for model in report.models for v in model.variants for m in v.metrics)
    footer = Text.assemble((f"{wording.MARKS[report.verdict]} {report.verdict.value}", STYLES[report.verdict]))
    footer.append(f"  {wording.headline(report)}")
    if inconclusive:
        footer.append("\n? the interval holds the limit: with other examples the verdict could differ", "dim")
    return footer
