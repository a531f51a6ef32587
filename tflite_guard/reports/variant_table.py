"""A model's variants as an HTML table, a row for each metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tflite_guard.reports import wording
from tflite_guard.reports.fitting import Block, Item
from tflite_guard.reports.markup import MARKS, code, prose
from tflite_guard.results import MetricResult, ModelResult, VariantResult, Verdict
from tflite_guard.text import figures

NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class _Column:
    """What a column says of a metric; nothing where there is nothing to say."""

    title: str
    align: str
    cell: Callable[[MetricResult], str]

    def of(self, metric: MetricResult) -> str:
        return f'<td align="{self.align}">{self.cell(metric)}</td>'


def table(model: ModelResult, variants: Sequence[VariantResult]) -> Block:
    """Variants with a row for each metric, worst first; columns that would be empty are left out."""
    metrics = [metric for variant in variants for metric in _metrics(variant)]
    columns = [column for column in _columns(model) if any(map(column.cell, metrics))]
    first = "file B" if model.is_comparison else "variant"
    head = "".join(f"<th>{title}</th>" for title in (first, "metric", *(column.title for column in columns)))
    order = list(Verdict)
    ranked = sorted(variants, key=lambda variant: order.index(variant.verdict), reverse=True)
    rows = (_rows(model, variant, columns) for variant in ranked)
    return Block(f"<table>\n<tr>{head}</tr>\n", rows, "</table>\n")


def _rows(model: ModelResult, variant: VariantResult, columns: list[_Column]) -> Item:
    """A variant, whole: its cell beside one row for each metric."""
    marked = not model.is_comparison
    rows = [_name(metric, marked=marked) + "".join(one.of(metric) for one in columns) for metric in variant.metrics]
    observed = variant.observed.metrics if variant.observed else ()
    rows += [_name(metric, "observed") + "".join(column.of(metric) for column in columns) for metric in observed]
    rows = rows or [f'<td colspan="{len(columns) + 1}">could not be evaluated</td>']
    alone = any(variant is rung for rung in model.hidden)
    details = [*(["conversion alone"] if alone else []), *_size(model, variant)]
    small = f"<br><sub>{', '.join(map(whole, details))}</sub>" if details else ""
    mark = "" if model.is_comparison and variant.judged is None else MARKS[variant.judged] + NBSP
    head = f'<td rowspan="{len(rows)}">{mark}{code(variant.name)}{small}</td>'
    return Item(f"<tr>{head}" + "</tr>\n<tr>".join(rows) + "</tr>\n", "" if alone else "variant")


def _size(model: ModelResult, variant: VariantResult) -> list[str]:
    size = [figures.size(variant.artifact.size_bytes)] if variant.artifact else []
    smaller = wording.compression(variant, model)
    return [*size, smaller] if smaller else size


def _metrics(variant: VariantResult) -> tuple[MetricResult, ...]:
    return (*variant.metrics, *(variant.observed.metrics if variant.observed else ()))


def _name(metric: MetricResult, what: str = "", marked: bool = True) -> str:
    mark = (
        ""
        if metric.verdict is Verdict.PASS or (metric.verdict is None and not marked)
        else MARKS[metric.verdict] + NBSP
    )
    return f"<td>{mark}{code(metric.name)}{f'<br><sub>{what}</sub>' if what else ''}</td>"


def _reference(metric: MetricResult) -> str:
    return "" if metric.reference is None else whole(figures.number(metric.reference, metric.metric))


def _value(metric: MetricResult) -> str:
    if metric.error is not None:
        return ""
    value = _stressed(wording.value_of(metric), metric)
    return value if metric.drop is not None else value + _interval(metric)


def _drop(metric: MetricResult) -> str:
    return "" if metric.drop is None else _stressed(wording.worse_by(metric), metric) + _interval(metric)


def _stressed(figure: str, metric: MetricResult) -> str:
    return f"<b>{whole(figure)}</b>" if metric.problem else whole(figure)


def _interval(metric: MetricResult) -> str:
    if metric.confidence_interval is None:
        return ""
    doubt = f"{NBSP}<b>?</b>" if metric.conclusive is False else ""
    return f"<br><sub>{whole(figures.interval(metric.confidence_interval, metric.metric))}{doubt}</sub>"


def whole(figure: str) -> str:
    """Kept on one line."""
    return figure.replace(" ", NBSP)


def _tolerance(metric: MetricResult) -> str:
    parts = ((code(name) if name else "", prose(rest)) for name, rest in wording.limits(metric))
    return ", ".join(f"{name} {rest}".lstrip() for name, rest in parts)


def _since(metric: MetricResult) -> str:
    change = wording.change(metric)
    if change in ("", "unchanged"):
        return change
    moved = "" if metric.regression is None else figures.number(abs(metric.regression), metric.metric) + " "
    return f"{whole(moved + change)}<br><sub>{whole(f'was {wording.baseline_of(metric)}')}</sub>"


def _columns(model: ModelResult) -> tuple[_Column, ...]:
    reference, value = wording.Sides.of(model).figures
    return (
        _Column(reference, "right", _reference),
        _Column(value, "right", _value),
        _Column("B worse by" if model.is_comparison else "worse by", "right", _drop),
        _Column("tolerance", "left", _tolerance),
        _Column("baseline", "left", _since),
    )
