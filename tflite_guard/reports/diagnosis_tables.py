"""What a diagnosis did, as HTML tables: ladder, tensors that lose most, what was tried, front of remedies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tflite_guard.reports import wording
from tflite_guard.reports.fitting import Block, Item
from tflite_guard.reports.markup import code, prose
from tflite_guard.results import Diagnosis, Experiment, Remedy, Rung, TensorLoss, VariantResult
from tflite_guard.text import figures
from tflite_guard.text.plain import plain

NBSP = "\N{NO-BREAK SPACE}"
MOST_TENSORS = 10
MOST_TRIED = 20
LONGEST_TENSOR = 32
"""A comment is 800 pixels wide or less, and figures must be seen beside it."""
LONGEST_EXPERIMENT = 200


def tables(found: Diagnosis, variant: VariantResult) -> Iterator[Item | Block]:
    """The parts of a diagnosis that hold anything, each with what it is."""
    kinds = {metric.name: metric.metric for metric in variant.metrics}
    metric = kinds.get(found.metric, found.metric)
    parts = "some to choose, others to confirm, the rest to verify"
    yield Item(f"<p>{code(found.metric)} on {found.examples:,} examples, {parts}.</p>\n")
    yield _ladder(found, metric)
    yield _tensors(found.tensors)
    yield _tried(found)
    yield _front(found, metric)


def _ladder(found: Diagnosis, metric: str) -> Block:
    rows = ((code(one.name), *_rung(one, metric)) for one in found.ladder)
    return _table("The ladder", 1, ("rung", code(found.metric), "SQNR"), rows)


def _rung(one: Rung, metric: str) -> tuple[str, str]:
    value, decibels = map(_figure, wording.rung(one, metric))
    return value if one.note is None else prose(one.note), decibels


def _tensors(tensors: Sequence[TensorLoss]) -> Block:
    rows = (
        (
            f"{code(_short(one.tensor), LONGEST_TENSOR)}<br>{code(one.operator, LONGEST_TENSOR)}",
            _figure(figures.number(one.isolated, "sqnr")),
            _figure(figures.number(one.cumulative, "sqnr")),
            f"{_figure(figures.span(one.calibrated))}<br>{_figure(figures.span(one.evaluated))}",
            _figure(figures.percent(one.clipped)),
            f"{one.codes:,}",
        )
        for one in wording.most_lossy(tensors)[:MOST_TENSORS]
    )
    columns = ("tensor", "SQNR alone", "SQNR in the graph", "range given, and its own", "clipped", "codes")
    return _table("Tensors that lose most", 1, columns, rows)


def _short(name: str) -> str:
    """The last two segments of the first of the names that a converter has joined."""
    return "/".join(name.split(";")[0].split("/")[-2:])


def _tried(found: Diagnosis) -> Block:
    rows = (
        (prose(plain(one.name, LONGEST_EXPERIMENT)), _figure(figures.percent(one.recovered)), _interval(one))
        for one in found.tried[:MOST_TRIED]
    )
    return _table("What was tried", 1, ("change", "of the loss comes back", "95 % interval"), rows)


def _interval(one: Experiment) -> str:
    return (
        "" if one.confidence_interval is None else _figure(" to ".join(map(figures.percent, one.confidence_interval)))
    )


def _front(found: Diagnosis, metric: str) -> Block:
    columns = ("remedy", code(found.metric), "size", "operators in float", "verified")
    return _table("Remedies", 1, columns, (_remedy(one, found.metric, metric) for one in found.front))


def _remedy(one: Remedy, name: str, metric: str) -> tuple[str, ...]:
    value = _figure(figures.number(one.metrics.get(name), metric))
    size, verified = _figure(figures.size(one.size_bytes)), "✅" if one.verified else "–"
    return prose(plain(one.title, LONGEST_EXPERIMENT)), value, size, f"{one.float_operators:,}", verified


def _table(title: str, texts: int, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Block:
    """Rows of HTML below a title, nothing where there is none; all but the first columns, `texts`, are figures."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    items = (Item(f"<tr>{''.join(_cell(cell, at >= texts) for at, cell in enumerate(row))}</tr>\n") for row in rows)
    return Block(f"<p><b>{title}</b></p>\n<table>\n<tr>{head}</tr>\n", items, "</table>\n")


def _cell(content: str, figure: bool) -> str:
    return f'<td align="right">{content}</td>' if figure else f"<td>{content}</td>"


def _figure(text: str) -> str:
    """Kept on one line."""
    return text.replace(" ", NBSP)
