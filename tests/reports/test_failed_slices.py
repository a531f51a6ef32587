"""A failed `max_class_drop` or `max_slice_drop` in every rendering: which class it is, its figures and its limit."""

from __future__ import annotations

import html
import json
import re

import jsonschema
import pytest
from hypothesis import given
from msgspec.structs import replace

from tests.conftest import ROOT
from tests.sample import HOSTILE, fixed, metric, variant
from tflite_guard.reports import FORMATS
from tflite_guard.reports.opening import brief, opening
from tflite_guard.reports.rows import rows
from tflite_guard.reports.wording import brief_failure, failure, problems
from tflite_guard.results import FailedSlice, MetricResult, Report, Slice, Verdict

SCHEMA = json.loads((ROOT / "schemas/report-v1.schema.json").read_text())
NIGHT = Slice("night", 120, 0.98, 0.8, 0.18, (0.07, 0.3), (94, 23, 2, 1))


def failed(name: str = "lighting 'night'", kind: str = "max_slice_drop", **changes: object) -> MetricResult:
    return replace(
        metric(
            "accuracy",
            0.975,
            Verdict.FAIL,
            reference=0.98,
            drop=0.005,
            confidence_interval=(0.001, 0.01),
            tolerance={"max_drop": 0.01, kind: 0.05, "line": 14},
            failed_limit=kind,
            conclusive=True,
        ),
        failed_slice=FailedSlice(name, NIGHT),
        **changes,
    )


def report(one: MetricResult) -> Report:
    found = variant("int8", Verdict.FAIL, one)
    model = replace(fixed().models[0], variants=(found,), float32=None, verdict=Verdict.FAIL, notes=(), findings=())
    return replace(fixed(), models=(model,), verdict=Verdict.FAIL, notes=())


SENTENCE = (
    "accuracy of lighting 'night' (120 examples) went from 0.9800 to 0.8000, worse by 0.1800; max_slice_drop allows "
    "0.05. 95 % interval, for all at once, [0.0700, 0.3000]."
)


def test_the_sentence_has_the_slice_its_figures_and_its_limit() -> None:
    assert failure(failed()) == SENTENCE
    assert brief_failure(failed()) == "accuracy of lighting 'night' 0.9800 → 0.8000 (max_slice_drop 0.05)"
    unproven = failed(conclusive=False, tolerance={"max_slice_drop": 0.05, "require": "proven_pass"})
    assert failure(unproven) == f"{SENTENCE} The tolerance asks for proof, which the interval does not give."


def test_a_row_names_it() -> None:
    (row,) = [one for one in rows(report(failed())) if one["of"] == "variant"]
    assert (row["failed_limit"], row["failed_slice"], row["max_slice_drop"]) == (
        "max_slice_drop",
        "lighting 'night'",
        0.05,
    )


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_rendering_names_it(name: str) -> None:
    text = FORMATS[name].text(report(failed()))
    said = html.unescape(re.sub(r"<[^>]*>", "", text)) if name in ("html", "markdown", "junit") else text
    said = " ".join(said.replace("%25", "%").replace("\\u0027", "'").split())
    if name == "json":
        jsonschema.validate(json.loads(text), SCHEMA, cls=jsonschema.Draft202012Validator)
        (one,) = json.loads(text)["models"][0]["variants"][0]["metrics"]
        assert one["failed_slice"]["name"] == "lighting 'night'"
        assert one["failed_slice"]["slice"]["drop"] == 0.18
    else:
        assert "lighting 'night' (120 examples) went from 0.9800 to 0.8000, worse by 0.1800" in said
        assert "max_slice_drop allows 0.05" in said


def test_the_first_line_says_it_in_points() -> None:
    found = report(failed("class 3 ('cat')", "max_class_drop"))
    told = "int8 of keyword-spotting lost 18.0 points of accuracy on class 3 ('cat') (allowed 5.0)"
    assert brief(found, 200).startswith(told.replace("keyword-spotting", found.models[0].name))
    assert "lost 18.0 points of <code>accuracy</code> on class 3" in opening(found, problems(found))
    worse = replace(
        failed(),
        name="mae",
        metric="mae",
        failed_slice=FailedSlice("device '3'", replace(NIGHT, reference=1.0, variant=1.5, drop=0.5)),
    )
    assert "mae of int8 of" in brief(report(worse), 200)
    assert "is worse by 0.5000 on device '3' (allowed 0.05)" in brief(report(worse), 200)


MARKS = {
    "html": ("<",),
    "markdown": ("<li", "<script", "<img", "<details", "<!--", "]]>"),
    "junit": ("<",),
    "github": ("\n",),
    "text": ("\x1b", "\r", "\u202e"),
}


@pytest.mark.parametrize("name", list(MARKS))
@given(HOSTILE)
def test_a_slices_name_is_text_whatever_it_holds(name: str, text: str) -> None:
    plain, rendered = (FORMATS[name].text(report(failed(f"{key} '{key}'"))) for key in ("lighting", text))
    for mark in MARKS[name]:
        assert rendered.count(mark) == plain.count(mark)
