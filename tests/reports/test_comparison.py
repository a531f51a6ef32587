"""A comparison of two files in the renderings that people read: A and B, a sentence, and nothing judged."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from tests.reports.test_markdown import DANGEROUS, github, said, skeleton
from tests.sample import HOSTILE, accuracy, examples, fixed, metric, variant
from tflite_guard.reports import html, markdown, opening, terminal, wording
from tflite_guard.results import ErrorInfo, MetricResult, Report, Verdict
from tflite_guard.text.plain import plain

UNJUDGED: dict[str, Any] = {"tolerance": None, "conclusive": None, "failed_limit": None}


def unjudged(value: float, interval: tuple[float, float] | None, **others: Any) -> MetricResult:
    return replace(accuracy(value, interval or (0.0, 0.0), Verdict.PASS, **UNJUDGED, **others),
                   verdict=None, confidence_interval=interval)  # fmt: skip


def comparison(*metrics: MetricResult, error: ErrorInfo | None = None, name: str = "new") -> Report:
    """A of 84,000 bytes, called `old`, and B of 24,000."""
    verdict = Verdict.ERROR if error is not None else Verdict.PASS
    b = examples(variant(name, verdict, *metrics, quantization=None, error=error))
    b = replace(b, wrong=None, since_baseline=None)  # there is no baseline
    model = fixed().models[0]
    a = replace(model.reference, kind="artifact", path="old.tflite", size_bytes=84_000, verdict=None, checks=())
    model = replace(
        model, name="old", reference=a, variants=(b,), float32=None, verdict=verdict, notes=(), findings=(), error=None
    )
    return replace(fixed(), models=(model,), verdict=verdict, notes=())


WORSE = comparison(unjudged(0.95, (0.02, 0.04)))


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (
            [unjudged(0.95, (0.02, 0.04))],
            "accuracy is 0.9800 in A and 0.9500 in B, worse by 0.0300, 95 % interval [0.0200, 0.0400]",
        ),
        (
            [unjudged(0.99, (-0.03, 0.01))],
            "accuracy is 0.9800 in A and 0.9900 in B, better by 0.0100, 95 % interval [−0.0300, 0.0100], "
            "so the difference may be chance",
        ),
        ([unjudged(0.98, None)], "accuracy is 0.9800 in A and 0.9800 in B, no worse"),
        ([metric("sqnr", 20.0, None)], "sqnr of B with A is 20.00 dB"),
        ([metric("sqnr", None, None, identical=True)], "sqnr of B with A is identical"),
        ([], "nothing was measured"),
    ],
)
def test_the_first_figure_that_both_have_is_the_headline(metrics: list[MetricResult], told: str) -> None:
    report = comparison(*metrics)
    assert wording.headline(report) == told
    assert terminal.render(report).splitlines()[-1].startswith(told[:60])
    assert f"<h1>{told}</h1>" in html.render(report)
    assert opening.brief(report, 500) == told


def test_sizes_and_values_stand_beside_one_another() -> None:
    text = terminal.render(WORSE)
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert ["metric", "A", "B", "B worse", "95 % interval"] in rows
    assert ["size", "84.0 kB", "24.0 kB", "3.5× smaller"] in rows
    assert ["accuracy", "0.9800", "0.9500", "0.0300", "[0.0200, 0.0400]"] in rows


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_a_narrow_terminal_loses_no_figure(width: int) -> None:
    text = "".join(terminal.shown(WORSE, width).split())
    for figure in ("84.0kB", "24.0kB", "0.9800", "0.9500", "0.0300", "[0.0200,0.0400]"):
        assert figure in text
    assert max(map(len, terminal.shown(WORSE, width).splitlines())) <= width


def test_nothing_looks_judged() -> None:
    for text in (terminal.render(WORSE), markdown.render(WORSE), html.render(WORSE)):
        shown = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.S)
        assert not re.search("✓|✅|tolerance|not judged|float reference|float 0|the reference|this variant", shown)


def test_an_error_is_one() -> None:
    report = comparison(error=ErrorInfo("model-file", "new.tflite is a damaged .tflite model"))
    assert "could not be evaluated" in wording.headline(report)
    for text in (terminal.render(report), markdown.render(report), html.render(report)):
        assert "damaged" in text
        assert re.search("✗|❌", text)


@given(text=HOSTILE)
@settings(deadline=None)
def test_hostile_names_stay_text(text: str) -> None:
    """A report.json may come from elsewhere, and the headline names its metric."""
    report = comparison(replace(unjudged(0.95, (0.02, 0.04)), name=text), name=text)
    page = github(markdown.render(report))
    assert not re.search(DANGEROUS, said(page))
    assert [tag for tag, *_ in skeleton(page)[1:]][:3] == ["h2", "p", "table"]
    assert "<script" not in html.render(report)
    assert "\x1b" not in terminal.render(report)
    assert plain(text, 40) in wording.headline(report) or len(text) > 40
