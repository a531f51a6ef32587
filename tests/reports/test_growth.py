"""What a report costs to tell grows with it and not with its square, seen by counting calls and not by a clock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.sample import fixed
from tflite_guard.reports import FORMATS, wording
from tflite_guard.results import Finding, Report, Verdict

FEW, MANY = 30, 120


def with_findings(count: int) -> Report:
    """One failing variant with its cause, and so many other findings, of which every third makes it worse."""
    report = fixed()
    model = report.models[0]
    failing = next(one for one in model.variants if one.verdict is Verdict.FAIL)
    cause = Finding("zero-point-shift", "warning", "the cause", primary=True)
    others = (
        Finding("coarse-output", ("warning", "note", "note")[number % 3], f"finding {number}", tensor=f"t{number}")
        for number in range(count)
    )
    return replace(report, models=(replace(model, variants=(replace(failing, findings=(cause, *others)),)),))


def with_variants(count: int) -> Report:
    """One model with so many failing variants."""
    report = fixed()
    model = report.models[0]
    failing = next(one for one in model.variants if one.verdict is Verdict.FAIL)
    variants = tuple(replace(failing, name=f"v{number}", line=number) for number in range(count))
    return replace(report, models=(replace(model, variants=variants),))


def with_models(count: int) -> Report:
    """So many models of one failing variant."""
    report = with_variants(1)
    return replace(report, models=tuple(replace(report.models[0], name=f"m{number}") for number in range(count)))


def calls(work: Callable[[], Any]) -> int:
    """How many functions some work calls, those of built-in types included."""
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counted


def told(report: Report) -> None:
    """The sentences that text, Markdown and the page are made of, which bound how many of them they lay out."""
    wording.explained_once(wording.problems(report))
    wording.in_short(wording.problems(report))
    for model in report.models:
        wording.findings(model)


WAYS: dict[str, Callable[[Report], object]] = {"wording": told} | {
    name: FORMATS[name].text for name in ("github", "sarif", "junit", "gitlab")
}


@pytest.mark.parametrize("of", [with_findings, with_variants, with_models])
@pytest.mark.parametrize("way", WAYS)
def test_four_times_as_much_is_told_with_four_times_the_work(way: str, of: Callable[[int], Report]) -> None:
    few, many = of(FEW), of(MANY)
    WAYS[way](few)  # what is loaded and kept once counts for neither
    assert calls(lambda: WAYS[way](many)) < 5 * calls(lambda: WAYS[way](few))
