"""The terminal's rendering: what failed first and in words, then a table a model."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tflite_guard.reports import wording
from tflite_guard.results import Finding, MetricResult, ModelResult, Report, VariantResult, Verdict

STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.ERROR: "bold red"}
NOT_A_TERMINAL_WIDTH = 132


def render(report: Report) -> str:
    """The report as plain text without escape sequences."""
    stream = io.StringIO()
    console = Console(file=stream, width=NOT_A_TERMINAL_WIDTH, color_system=None, force_terminal=False)
    console.print(renderable(report))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def renderable(report: Report) -> RenderableType:
    """The report for a rich console of any width."""
    parts: list[RenderableType] = []
    for verdict, where, sentence in wording.problems(report):
        parts.append(Text.assemble((f"{wording.MARKS[verdict]} ", STYLES[verdict]), (where, "bold"), f"  {sentence}"))
    if parts:
        parts.append(Text(""))
    for model in report.models:
        parts.append(_heading(model))
        if model.error is None:
            parts.append(_table(model))
            parts.extend(_findings(model))
    parts.append(Text(""))
    parts.extend(Text(f"note: {wording.plain(note)}", style="dim") for note in report.notes)
    parts.append(_footer(report))
    return Group(*parts)


def _heading(model: ModelResult) -> Text:
    heading = Text.assemble(
        (wording.plain(model.name), "bold"), (f"  {model.reference.kind} {wording.plain(model.reference.path)}", "dim")
    )
    examples = max((m.examples for v in model.variants for m in v.metrics), default=0)
    if examples:
        heading.append(f"  {examples:,} examples", "dim")
    return heading


def _table(model: ModelResult) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("variant", overflow="fold", min_width=8)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("metric", overflow="fold")
    for name in ("float", "variant", "drop"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    if _has_baseline(model):
        table.add_column("baseline", justify="right", no_wrap=True)
    table.add_column("tolerance", overflow="fold")
    table.add_column("", no_wrap=True)
    if model.float32 is not None:
        _add(table, model, model.float32, "float32 (conversion alone)")
    for variant in model.variants:
        _add(table, model, variant, wording.plain(variant.name))
    return table


def _add(table: Table, model: ModelResult, variant: VariantResult, name: str) -> None:
    times = wording.compression(variant, model)
    size = Text(wording.size(variant.artifact.size_bytes if variant.artifact else None))
    if times:
        size.append(f" {times}", "dim")
    title = Text(name, "bold")
    if not variant.metrics:
        padding = [""] * (6 if _has_baseline(model) else 5)
        table.add_row(title, size, *padding, "", _verdict(variant.verdict))
    rows = [(metric, "") for metric in variant.metrics]
    rows += [(metric, "observed ") for metric in (variant.observed.metrics if variant.observed else ())]
    for position, (metric, prefix) in enumerate(rows):
        last = position == len(rows) - 1
        cells = [title, size] if position == 0 else ["", ""]
        table.add_row(*cells, *_cells(metric, prefix, _has_baseline(model)), end_section=last)


def _cells(metric: MetricResult, prefix: str, baseline: bool) -> list[RenderableType]:
    style = "" if metric.verdict is Verdict.PASS else STYLES[metric.verdict]
    cells: list[RenderableType] = [
        Text(prefix + wording.plain(metric.name)),
        Text(wording.number(metric.reference, metric.metric), "" if metric.reference is not None else "dim"),
        Text(wording.value_of(metric), style),
        Text(wording.signed(metric.drop), style if metric.drop is not None else "dim"),
        Text(wording.interval(metric), "dim"),
    ]
    if baseline:
        cells.append(Text(wording.number(metric.baseline, metric.metric), "dim"))
    return [
        *cells,
        Text(wording.tolerance(metric), "dim" if metric.tolerance is None else ""),
        _verdict(metric.verdict, metric),
    ]


def _verdict(verdict: Verdict, metric: MetricResult | None = None) -> Text:
    text = Text(f"{wording.MARKS[verdict]} {verdict.value}", STYLES[verdict])
    if metric is not None and metric.conclusive is False:
        text.append(" ?", "yellow")
    return text


def _has_baseline(model: ModelResult) -> bool:
    return any(metric.baseline is not None for variant in model.variants for metric in variant.metrics)


def _findings(model: ModelResult) -> list[Text]:
    return [_finding(variant, finding) for variant in model.variants for finding in variant.findings]


def _finding(variant: VariantResult, finding: Finding) -> Text:
    style = {"error": "bold red", "warning": "yellow", "note": "dim"}[finding.severity]
    return Text.assemble(
        (f"  {finding.severity}: ", style),
        f"{wording.plain(variant.name)}: {wording.plain(finding.message, 2000)} ",
        (f"({finding.rule})", "dim"),
    )


def _footer(report: Report) -> Text:
    inconclusive = any(m.conclusive is False for model in report.models for v in model.variants for m in v.metrics)
    footer = Text.assemble((f"{wording.MARKS[report.verdict]} {report.verdict.value}", STYLES[report.verdict]))
    footer.append(f"  {wording.headline(report)}")
    if inconclusive:
        footer.append("\n? the interval holds the limit: with other examples the verdict could differ", "dim")
    return footer
