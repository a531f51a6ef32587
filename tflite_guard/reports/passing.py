"""Models that pass in one HTML table: a row each, with the headline figure of the variant that does worst by it."""

from __future__ import annotations

from collections.abc import Sequence

from tflite_guard.reports import wording
from tflite_guard.reports.fitting import Block, Item
from tflite_guard.reports.markup import MARKS, code
from tflite_guard.reports.variant_table import NBSP, whole
from tflite_guard.results import MetricResult, ModelResult, VariantResult, Verdict
from tflite_guard.text import figures

_HEAD = "".join(f"<th>{title}</th>" for title in ("model", "worst value", "size"))


def table(models: Sequence[tuple[ModelResult, str]]) -> Block:
    """Models with their titles; narrow enough for a phone."""
    return Block(f"<table>\n<tr>{_HEAD}</tr>\n", (_row(*one) for one in models), "</table>\n")


def _row(model: ModelResult, title: str) -> Item:
    variant, metric = wording.closest(model) or (next(iter(model.variants), None), None)
    of = f" of {len(model.variants):,}" if len(model.variants) > 1 else ""
    shown = "" if variant is None else f"<br><sub>{code(variant.name)}{of}</sub>"
    named = f"{MARKS[_judged(model)]}{NBSP}{code(title)}{shown}"
    figures_of = [_value(metric), "" if variant is None else _size(model, variant)]
    row = f"<td>{named}</td>" + "".join(f'<td align="right">{one}</td>' for one in figures_of)
    return Item(f"<tr>{row}</tr>\n")


def _judged(model: ModelResult) -> Verdict | None:
    """PASS where anything of it was judged."""
    return Verdict.PASS if any(variant.judged for variant in model.variants) else None


def _value(metric: MetricResult | None) -> str:
    """The variant's value; below it of what, the reference's, and what the baseline had where that was another."""
    if metric is None:
        return ""
    small = [] if metric.reference is None else [f"float {figures.number(metric.reference, metric.metric)}"]
    small += [f"was {wording.baseline_of(metric)}"] if wording.moved(metric) else []
    doubt = f"{NBSP}<b>?</b>" if metric.conclusive is False else ""
    below = [code(metric.name), *map(whole, small)]
    return whole(wording.value_of(metric)) + doubt + "".join(f"<br><sub>{one}</sub>" for one in below)


def _size(model: ModelResult, variant: VariantResult) -> str:
    if variant.artifact is None:
        return ""
    smaller = wording.compression(variant, model)
    below = f"<br><sub>{whole(smaller)}</sub>" if smaller else ""
    return whole(figures.size(variant.artifact.size_bytes)) + below
