"""One variant's story on a page: what is lost, where, why, how that was proven, and what to change."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator

from tflite_guard.reports import wording
from tflite_guard.results import (
    Diagnosis,
    MetricResult,
    ModelResult,
    Report,
    Rung,
    VariantResult,
    Verdict,
)
from tflite_guard.text import figures
from tflite_guard.text.plain import logged, plain

WIDTH = 96
LONGEST = 2000
RUNGS = {
    "reference": "the reference",
    "float32": "converted, float32",
    "float16": "float16 weights",
    "weights": "8-bit weights alone",
    "int16x8": "16-bit activations",
    "int8": "8 bits, as the file",
    "file": "the file itself",
    "application": "your application",
}


def render(report: Report) -> str:
    """The story as plain text."""
    lines = [line for model in report.models for line in _model(model)]
    return "\n".join(logged(line.rstrip()) for line in lines) + "\n"


def render_html(report: Report) -> str:
    """The story for a notebook."""
    return f"<pre>{html.escape(render(report))}</pre>"


def _model(model: ModelResult) -> Iterator[str]:
    if model.error is not None:
        yield from _wrapped(f"✗ {plain(model.name)} could not be evaluated: {plain(model.error.message, LONGEST)}")
        return
    for finding in model.findings:
        yield from _wrapped(f"! the reference: {wording.told(finding)}")
    for variant in model.variants:
        yield from _variant(model, variant)


def _variant(model: ModelResult, variant: VariantResult) -> Iterator[str]:
    mark = wording.MARKS[variant.verdict]
    yield f"{mark} {plain(variant.name)} against {plain(model.reference.path)}"
    yield ""
    if variant.error is not None:
        yield from _wrapped(f"It could not be evaluated: {plain(variant.error.message, LONGEST)}", "  ")
        return
    yield "What is lost"
    for metric in variant.metrics:
        yield from _wrapped(wording.failure(metric) if metric.problem else _held(metric), "  ")
    for sentence in _recorded(variant):
        yield from _wrapped(sentence, "  ")
    if variant.verdict is Verdict.PASS:
        yield from _wrapped("Every tolerance holds, so there is nothing to explain.", "  ")
    if variant.diagnosis is not None and variant.diagnosis.ladder:
        yield from ("", "Where it is lost", *_ladder(variant.diagnosis, variant))
    yield from _explained(model, variant)


def _held(metric: MetricResult) -> str:
    own = (
        f" (the reference's: {figures.number(metric.reference, metric.metric)})" if metric.reference is not None else ""
    )
    return f"{plain(metric.name)} is {figures.number(metric.value, metric.metric)}{own}."


def _recorded(variant: VariantResult) -> Iterator[str]:
    """What is wrong with the outputs that the application recorded."""
    observed = variant.observed
    if observed is None:
        return
    for metric in observed.metrics:
        if metric.problem:
            yield f"Observed outputs: {wording.failure(metric)}"
    if observed.steps_verdict not in (None, Verdict.PASS):
        told = wording.steps(observed)
        yield told[:1].upper() + told[1:]


def _ladder(diagnosis: Diagnosis, variant: VariantResult) -> Iterator[str]:
    kinds = {one.name: one.metric for one in variant.metrics}
    metric = kinds.get(diagnosis.metric, "")
    yield f"  {'':22}  {plain(diagnosis.metric)[:14]:>14}  {'SQNR':>10}"
    for rung in diagnosis.ladder:
        value, name = figures.number(rung.value, metric), RUNGS.get(rung.name, plain(rung.name))
        yield f"  {name:22}  {value:>14}  {_sqnr(rung):>10}"


def _sqnr(rung: Rung) -> str:
    return "identical" if rung.identical else figures.number(rung.sqnr, "sqnr")


def _explained(model: ModelResult, variant: VariantResult) -> Iterator[str]:
    told = wording.explanation(model, variant)
    application = wording.of_application(variant)
    if told is not None:
        yield from _why(told)
    if application is not None and application is not wording.primary(variant):
        yield from _why(wording.explanation(model, variant, observed=True), " (the application)")
    for finding in wording.beside_causes(variant):
        yield from _wrapped(f"{wording.label(finding)}: {wording.told(finding)} ({plain(finding.rule)})", "  ")
    if told is not None and told.remedy is not None:
        yield from ("", "What to change", *_wrapped(told.remedy, "  "), *_wrapped(f"{told.change}:", "  "))
        yield from (f"    {line}" for line in told.patch)


def _why(told: wording.Explanation | None, whose: str = "") -> Iterator[str]:
    if told is None:
        return
    yield from ("", f"Why{whose}: {told.rule}" if told.rule is not None else f"Why{whose}")
    for label, sentence in told.sentences:
        if label != "Fix":
            yield from _wrapped(sentence if label == "Cause" else f"{label}: {sentence}", "  ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False) or [""]
