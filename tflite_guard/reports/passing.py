"""Models that pass in one HTML table: a row each, with the headline figure of the variant that does worst by it."""

from __future__ import annotations

from collections.abc import Sequence

from tflite_guard.reports import wording
from tflite_guard.reports.fitting import Block, Item
from tflite_guard.reports.markup import MARKS, code
from tflite_guard.reports.variant_table import NBSP, whole
from tflite_guard.results import MetricResult, ModelResult, VariantResult, Verdict
from tflite_guard.text import figures

_HEAD = "".join(f"<th>{title}</th>" for title in ("model", "worst variant", "value", "size"))


def table(models: Sequence[tuple[ModelResult, str]]) -> Block:
    """Models with their titles; narrow enough for a phone."""
    return Block(f"<table>\n<tr>{_HEAD}</tr>\n", (_row(*one) for one in models), "</table>\n")


def _row(model: ModelResult, title: str) -> Item:
    counted = f"<br><sub>{wording.count(len(model.variants), 'variant')}</sub>"
    named = f"{MARKS[_judged(model)]}{NBSP}{code(title)}{counted}"
    variant, metric = wording.closest(model) or (next(iter(model.variants), None), None)
    name = "" if variant is None else code(variant.name)
    shown = "" if metric is None else f"<br><sub>{code(metric.name)}</sub>"
    cells = [named, name + shown, _value(metric), "" if variant is None else _size(model, variant)]
    sides = ("left", "left", "right", "right")
    row = "".join(f'<td align="{side}">{cell}</td>' for side, cell in zip(sides, cells, strict=True))
    return Item(f"<tr>{row}</tr>\n")


def _judged(model: ModelResult) -> Verdict | None:
    """PASS where anything of it was judged."""
    return Verdict.PASS if any(variant.judged for variant in model.variants) else None


def _value(metric: MetricResult | None) -> str:
    """The variant's value, and below it the reference's, and what the baseline had where that was another."""
    if metric is None:
        return ""
    small = [] if metric.reference is None else [f"float {figures.number(metric.reference, metric.metric)}"]
    small += [f"was {wording.baseline_of(metric)}"] if wording.moved(metric) else []
    doubt = f"{NBSP}<b>?</b>" if metric.conclusive is False else ""
    return whole(wording.value_of(metric)) + doubt + "".join(f"<br><sub>{whole(one)}</sub>" for one in small)


def _size(model: ModelResult, variant: VariantResult) -> str:
    if variant.artifact is None:
        return ""
    smaller = wording.compression(variant, model)
    below = f"<br><sub>{whole(smaller)}</sub>" if smaller else ""
    return whole(figures.size(variant.artifact.size_bytes)) + below
