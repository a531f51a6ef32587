"""The page: everything is in it, hostile text changes nothing but text, and it stays small."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import html
from msgspec.structs import fields, replace

from tests.conftest import ROOT
from tests.diagnosed import GUILTY, PATCH, diagnosed, diagnosis, failing
from tests.sample import COMMANDS, HOSTILE, PICTURE, fixed, full, named
from tflite_guard import rules
from tflite_guard.files import png
from tflite_guard.reports import FORMATS, wording
from tflite_guard.reports.html import LIMIT, TEMPLATES, choices, examples, histograms, ladder, phrases, render, tensors
from tflite_guard.reports.html.geometry import Axis
from tflite_guard.reports.html.page import BOUNDS, page
from tflite_guard.results import (
    Changed,
    ChangedAnswer,
    Confidence,
    Diagnosis,
    Experiment,
    Finding,
    Histogram,
    ModelResult,
    Remedy,
    Report,
    Rung,
    Slice,
    Slices,
    TensorLoss,
    VariantResult,
    Verdict,
)

SCHEMA = json.loads((ROOT / "schemas/report-v1.schema.json").read_text())
EXTREMES = st.sampled_from([0.0, -0.0, 5e-324, 1e-320, 1.7e308, -1.7e308, 1e-9]) | st.floats(
    allow_nan=False, allow_infinity=False
)


def parsed(report: Report) -> Any:
    return html.document_fromstring(render(report))


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


def spoken(element: Any) -> str:
    """The words of an element, with a space where a line or a cell ends."""
    text = html.tostring(element, encoding="unicode", with_tail=False)
    return words(html.fragment_fromstring(re.sub(r"<br>|</t[dh]>", r" \g<0>", text), create_parent=True))


def skeleton(element: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(str(one.tag), tuple(one.attrib)) for one in element.iter()]


def card(document: Any, title: str) -> Any:
    (found,) = [one for one in document.iter("article") if words(one.find("h3")).endswith(title)]
    return found


# What is in it


@pytest.mark.parametrize("report", [full(), diagnosed()], ids=["full", "diagnosed"])
def test_every_problem_is_told_with_its_cause_and_its_line(report: Report) -> None:
    cards = [words(one) for one in parsed(report).iter("article")]
    for problem in wording.problems(report):
        (text,) = [one for one in cards if problem.where in one and problem.message in one]
        assert f"{problem.model.manifest.path}:{problem.line}" in text
        why = problem.explanation
        assert why is None or why.cause is None or why.cause in text


def test_the_cause_stands_under_what_failed_with_its_proof_its_place_and_its_remedy() -> None:
    one = card(parsed(diagnosed()), "keyword-spotting / int8")
    told = {words(term): words(term.getnext()) for term in one.iter("dt")}
    assert list(told) == ["Cause", "Proof", "Place", "Remedy"]
    assert told["Cause"].endswith("outputs clip. (calibration-range-mismatch)")
    assert told["Proof"] == (
        "Calibrated with 128 evaluation inputs: 96 % of the loss comes back, 95 % interval [91 %, 99 %], "
        "on examples that chose nothing."
    )
    assert told["Place"].startswith("operator DEPTHWISE_CONV_2D block3/dw_conv, tensor model/block3/")
    assert told["Remedy"].startswith("Keep block3 in float and measure the ranges ✓ verified Evaluated on examples")
    rows = [[words(cell) for cell in row] for row in one.find(".//table").iter("tr")]
    assert rows[1:] == [
        ["accuracy", "0.9805", "0.9131", "0.9760", "max_drop 0.02"],
        ["sqnr", "–", "11.38 dB", "33.10 dB", "min 20 dB"],
        ["size", "–", "24.0 kB", "31.2 kB", "–"],
        ["operators in float", "–", "0", "3", "–"],
    ]
    assert json.loads(one.find(".//pre").text_content()) == PATCH


def test_an_unproven_cause_is_said_to_be_one() -> None:
    one = card(parsed(diagnosed()), "keyword-spotting / dynamic_range")
    assert "No single change gives half of the loss back" in words(one)
    assert "Proof" not in words(one)
    assert phrases.proof(Experiment("head in float", 0.6, None)).endswith(
        "comes back; not confirmed on other examples."
    )
    assert "not verified" in render(diagnosed())


def test_each_figure_is_the_one_that_other_renderings_have() -> None:
    document = parsed(diagnosed())
    (row,) = [spoken(one) for one in document.iter("tr") if "proven pass" in words(one)]
    figures = "0.9800 0.9700 0.0100 [0.0020, 0.0310] ?"
    assert row == f"proof 24.0 kB, 3.5× smaller accuracy {figures} max_drop 0.02, proven pass – ✗ fail"
    assert document.get_element_by_id("environment").getnext().text_content().count("2.21.0") == 1


def test_a_table_has_no_column_for_what_no_figure_has() -> None:
    sample = fixed()

    def heads(model: ModelResult) -> list[str]:
        document = parsed(replace(sample, models=(model,)))
        return [words(cell) for cell in document.xpath('//div[@aria-label="Metrics of all variants"]//thead//th')]

    def bare(variant: VariantResult) -> VariantResult:
        metrics = (replace(one, confidence_interval=None, baseline=None, conclusive=None) for one in variant.metrics)
        return replace(variant, metrics=tuple(metrics), observed=None)

    model = sample.models[0]
    assert {"95 % interval", "baseline"} <= {*heads(model)}
    assert heads(replace(model, variants=tuple(bare(one) for one in model.variants))) == [
        *("variant", "metric", "float", "quantized", "worse by", "tolerance", "verdict")
    ]


def test_findings_of_the_reference_are_there_with_the_reason_why_they_are_ignored() -> None:
    section = spoken(parsed(full()).find("body"))
    assert "ignored warning an example's outputs depend on its batch (ignored: as trained) (batch-dependent)" in section
    assert re.search(r"accuracy 0\.9800 min 0\.99 ✗ fail", section)


def test_every_tensor_is_in_the_table_beside_the_chart() -> None:
    document = parsed(diagnosed())
    shown = [one for one in document.iter("table") if "Tensors in the order of execution" in words(one)]
    rows = max(([[words(cell) for cell in row] for row in one.findall("tbody/tr")] for one in shown), key=len)
    assert [row[0] for row in rows] == [str(number) for number in range(1, 41)]
    guilty = diagnosis().tensors[GUILTY]
    assert rows[GUILTY][1:] == [
        f"{guilty.tensor}{guilty.operator}",
        "9.40 dB",
        phrases.decibels(guilty.cumulative),
        "31 %",
        "61",
        phrases.ranges(guilty),
        phrases.ends(guilty.calibrated) + phrases.ends(guilty.evaluated),
    ]


# The charts


def test_the_ladder_shows_where_it_breaks() -> None:
    drawn = ladder.ladder(failing(), diagnosis())
    assert drawn is not None
    assert (drawn.measure, drawn.broken, drawn.from_reference) == ("accuracy", "int8", True)
    assert [bar.text for bar in drawn.bars[-3:]] == ["0.9131 · 11.38 dB", "0.9131 · 11.38 dB", "not measured"]


def test_the_ladder_goes_by_sqnr_where_the_reference_has_no_value_of_the_metric() -> None:
    rungs = (Rung("reference", None, None), Rung("float32", 1.0, None, identical=True), Rung("int8", 0.9, 17.2))
    drawn = ladder.ladder(failing(), replace(diagnosis(), metric="agreement", ladder=rungs))
    assert drawn is not None
    assert (drawn.measure, drawn.from_reference, drawn.broken) == ("SQNR", False, "int8")
    assert [bar.text for bar in drawn.bars] == ["–", "1.0000 · identical", "0.9000 · 17.20 dB"]
    assert drawn.bars[1].end == "97%", "no noise at all is the longest bar"
    assert ladder.ladder(failing(), replace(diagnosis(), metric="agreement", ladder=rungs[:2])) is None


def test_by_sqnr_it_breaks_where_most_noise_comes_in_not_where_most_decibels_go() -> None:
    levels = {"float32": 121.0, "float16": 72.0, "weights": 41.0, "int8": 11.4}
    rungs = (Rung("reference", None, None), *(Rung(name, None, level) for name, level in levels.items()))
    drawn = ladder.ladder(failing(), replace(diagnosis(), metric="sqnr", ladder=rungs))
    assert drawn is not None
    assert drawn.broken == "int8"


def test_a_metric_of_which_less_is_better_breaks_where_it_grows() -> None:
    rungs = (Rung("reference", 0.1, None), Rung("float32", 0.05, None), Rung("int8", 0.3, None))
    drawn = ladder.ladder(failing(), replace(diagnosis(), metric="mae", ladder=rungs))
    assert drawn is not None
    assert drawn.broken == "int8"


def test_the_line_of_what_is_allowed_is_the_tolerance() -> None:
    accuracy, sqnr = failing().metrics
    assert choices.allowed(accuracy) == pytest.approx(0.9605)
    assert choices.allowed(sqnr) == 20.0
    assert choices.allowed(replace(accuracy, higher_is_better=False)) == pytest.approx(1.0005)
    assert choices.allowed(replace(accuracy, tolerance={"max_drop": 0.02, "min": 0.9})) is None
    assert choices.allowed(replace(accuracy, tolerance={"max_relative_drop": 0.02})) is None
    assert choices.allowed(None) is None


def test_of_too_many_tensors_those_that_lose_most_are_kept_in_order() -> None:
    kept = tensors.numbered(diagnosis().tensors, 5)
    assert [number for number, _ in kept] == sorted(number for number, _ in tensors.worst(kept))
    assert GUILTY + 1 in dict(kept)


@given(st.lists(EXTREMES, max_size=4), EXTREMES, st.floats(0, 0.2))
def test_an_axis_holds_whatever_it_is_given(values: list[float], value: float, margin: float) -> None:
    axis = Axis.over(values, margin)
    assert -1.8e308 < axis.low <= axis.high < 1.8e308
    assert 0 <= axis.share(value) <= 1
    assert 1 <= len(axis.ticks(4)) <= 12


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.962, "96 %"),
        (0.996, "99.60 %"),
        (0.0004, "0.04 %"),
        (-0.004, "−0.4 %"),
        (2.5, "250 %"),
    ],
)
def test_fractions_in_percent(fraction: float, shown: str) -> None:
    assert phrases.share(fraction) == shown


# Whom a loss hits, and how values lie in their ranges


def test_the_class_that_lost_most_is_named_and_every_class_is_in_the_table() -> None:
    document = parsed(diagnosed())
    sentences = {words(one) for one in document.iter("p")}
    assert "Class 7 lost most: it went from 0.9900 to 0.8000, on 300 examples." in sentences
    (table, _) = [one for one in document.iter("table") if one.getparent().get("aria-label") == "Accuracy by class"]
    rows = [[words(cell) for cell in row] for row in table.findall("tbody/tr")]
    assert rows[0] == ["7", "300", "0.9900", "0.8000", "0.1900", "[0.1000, 0.3000]"]
    assert [row[0] for row in rows] == ["7", "1", "0"]


def test_classes_with_names_go_by_them() -> None:
    report = diagnosed()
    names = ("zero", "one", "two", "three", "four", "five", "six", "bird <b>seven</b>")
    named = replace(report, models=tuple(replace(one, classes=names) for one in report.models))
    document = parsed(named)
    told = spoken(document)
    assert "Bird <b>seven</b> lost most: it went from 0.9900 to 0.8000, on 300 examples." in told
    (table, _) = [one for one in document.iter("table") if one.getparent().get("aria-label") == "Accuracy by class"]
    assert [words(row[0]) for row in table.findall("tbody/tr")] == ["bird <b>seven</b>", "one", "zero"]
    (changed, _) = [one for one in document.iter("table") if "changed" in one.getparent().get("aria-label", "")]
    rows = [[words(row[at]) for at in (1, 2, 4)] for row in changed.findall("tbody/tr")]
    assert rows[0] == ["bird <b>seven</b>", "bird <b>seven</b>", "four"]
    assert rows[-1] == ["–", "zero", "one"]


def test_a_class_is_drawn_from_the_references_accuracy_to_the_variants() -> None:
    better = Slice(1, 10, 0.8, 0.9, -0.1, None, (8, 0, 1, 1))
    found = Slices("accuracy", "accuracy", None, 40, 0, (Slice(3, 10, 1.0, 0.5, 0.5, None, (5, 5, 0, 0)), better))
    drawn = examples.chart(found)
    assert drawn is not None
    worse, other = drawn.rows
    assert (worse.name, worse.text, worse.worse) == ("class 3", "10 → 5 of 10 right", True)
    assert not other.worse
    assert float(worse.variant[:-1]) < float(other.reference[:-1]) < float(other.variant[:-1])
    assert float(other.variant[:-1]) < float(worse.reference[:-1])
    assert examples.lost_most(replace(found, worst=(better,))) == "None of 40 classes has lost."


def test_slices_stand_beside_classes_with_a_chart_where_they_are_shares() -> None:
    document = parsed(diagnosed())
    headings = [words(one) for one in document.iter("h4")]
    named = [one for one in headings if " by " in one]
    assert named[:5] == [
        "Accuracy by class",
        "accuracy by lighting",
        "top3 by lighting",
        "mae by lighting",
        "agreement by lighting",
    ]
    tables = {one.getparent().get("aria-label"): one for one in document.iter("table")}
    rows = [[words(cell) for cell in row] for row in tables["accuracy by lighting"].findall("tbody/tr")]
    assert rows[0] == ["night", "200", "0.9600", "0.7000", "0.2600", "[0.2000, 0.3300]"]
    assert rows[1][0] == "day <b>"
    (fidelity,) = [[words(cell) for cell in row] for row in tables["agreement by lighting"].findall("tbody/tr")]
    assert fidelity == ["night", "7", "–", "0.7500", "–", "[0.5000, 0.9000]"]
    told = spoken(document)
    assert "Night lost most: it went from 0.9600 to 0.7000, on 200 examples." in told
    assert "Night fares worst of 1 slice: 0.7500, on 7 examples." in told
    titles = [words(one) for one in document.iter("title")]
    assert "accuracy by lighting, of the reference and of this variant" in titles
    assert "mae by lighting, of the reference and of this variant" not in titles


def test_of_many_tables_by_slice_some_are_shown_and_the_rest_is_counted() -> None:
    many = replace(failing(), by_slice=failing().by_slice * 5)
    document = parsed(replace(diagnosed(), models=(replace(diagnosed().models[0], variants=(many,)),)))
    assert sum(" by " in words(one) for one in document.iter("h4")) == 12
    assert "9 more tables by slice are in report.json." in spoken(document)


def test_how_sure_both_are_stands_beside_accuracy() -> None:
    told = "Mean confidence 0.6200 (float 0.9700), expected calibration error 0.2900 (float 0.0120), on 1000 examples."
    report = diagnosed()
    assert told in spoken(parsed(report))
    sure = Confidence("agreement", 9, 0.97, 0.62, None, None)
    changed = replace(report, models=(replace(report.models[0], variants=(replace(failing(), confidence=sure),)),))
    assert "Mean confidence 0.6200 (float 0.9700), on 9 examples." in spoken(parsed(changed))
    assert "mean confidence 0.6200 (float 0.9700)" in FORMATS["markdown"].text(changed)


def test_what_changed_is_told_with_a_picture_and_without() -> None:
    document = parsed(diagnosed())
    told = "86 of 1000 examples have a different answer from the reference's: 78 that the reference has right, 8 that"
    assert any(told in words(one) for one in document.iter("p"))
    first = next(document.iter("img"))
    assert first.get("alt") == "Input of example 657: label 7, reference 7, this variant 4"
    assert spoken(first.getparent()) == "7 → 4 #657"
    label = "Examples that changed their answer"
    table = next(one for one in document.iter("table") if one.getparent().get("aria-label") == label)
    rows = [[words(cell) for cell in row] for row in table.findall("tbody/tr")]
    assert rows == [
        ["657", "7", "7", "0.999", "4", "0"],
        ["20seven/<b>20</b>.png", "7", "7", "0.871", "1", "0.25"],
        ["3", "–", "0", "–", "1", "–"],
    ]


FORGED = {
    "markup": '"><script>alert(1)</script>',
    "drawing": base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>").decode(),
    "other type": base64.b64encode(b"GIF89a" + bytes(60)).decode(),
    "padding": PICTURE + "=" * 8,
    "line": PICTURE[:20] + "\n" + PICTURE[20:],
    "cut off": PICTURE[:60],
    "size": PICTURE * 400,
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_is_no_small_png_is_no_picture(forged: str) -> None:
    answer = ChangedAnswer(1, 7, 7, 4, 0.9, 0.1, forged)
    changed = replace(examples_of(failing()), worst=(answer,))
    model = replace(diagnosed().models[0], variants=(replace(failing(), changed=changed),))
    text = render(replace(diagnosed(), models=(model,)))
    assert "<img" not in text
    assert "alert" not in text


def examples_of(variant: VariantResult) -> Changed:
    assert variant.changed is not None
    return variant.changed


def test_pictures_give_way_before_anything_else_does() -> None:
    noise = png.picture(random.Random(1).randbytes(64 * 64 * 3), 64, 64, 3)
    answers = tuple(ChangedAnswer(at, 7, 7, 4, 0.9, 0.1, noise) for at in range(20))
    variant = replace(failing(3), by_slice=(), changed=replace(examples_of(failing()), worst=answers))
    variants = tuple(replace(variant, name=f"int8-{at}") for at in range(40))
    text = render(replace(diagnosed(), models=(replace(diagnosed().models[0], variants=variants),)))
    assert len(text.encode()) <= LIMIT
    found = html.document_fromstring(text)
    pictures = [len(list(one.iter("img"))) for one in found.find_class("variant")]
    assert pictures[0] == 12
    assert {one.get("src") for one in found.iter("img")} == {f"data:image/png;base64,{noise}"}, "none is cut off"
    assert 0.9e6 < sum(pictures) * len(noise) <= 1e6
    assert all(f"int8-{at}" in text for at in range(40))


def test_bars_outside_the_range_are_marked_and_a_single_value_is_seen() -> None:
    found = Histogram("t", "ADD", (0.0, 4.0), (-4.0, 4.0), (1, 0, 1_000_000, 7), (), 0.2, None, 32, 0)
    drawn = histograms.drawing(found)
    (panel,) = drawn.panels
    assert [bar.outside for bar in panel.bars] == [True, False, False]
    assert panel.bars[0].height >= 3
    assert panel.bars[1].height == histograms.PLOT
    assert drawn.ends == ("49.5%", "97%")
    assert panel.text == "evaluation data, 32 examples: 20 % outside"
    assert histograms.told(found) == (
        "The file's range is [0, 4.0000]. Values fill about 100 % of it on evaluation data. "
        "Outside of it lie 20 % of the values on evaluation data."
    )


def test_a_range_that_is_too_wide_is_told_to_be_empty() -> None:
    counts = (0, 0, 5, 0, *[0] * 60)
    found = Histogram("t", "ADD", (-8.0, 8.0), (-8.0, 8.0), counts, tuple([1] * 64), 0.0, 0.0, 32, 32)
    assert histograms.told(found) == (
        "The file's range is [−8.0000, 8.0000]. Values fill about 2 % of it on evaluation data and 100 % of it on "
        "calibration data. No value lies outside of it."
    )
    assert [panel.text.split(",")[0] for panel in histograms.drawing(found).panels] == [
        "calibration data",
        "evaluation data",
    ]


# What it never does


def test_it_loads_nothing_and_runs_nothing() -> None:
    document = parsed(diagnosed())
    (policy,) = [one.get("content") for one in document.iter("meta") if one.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert not {"script", "link", "iframe", "object", "form"} & {one.tag for one in document.iter()}
    assert [one.get("src") for one in document.iter("img")] == [f"data:image/png;base64,{PICTURE}"] * 2
    assert not [name for one in document.iter() for name in one.attrib if name.startswith("on") or name == "style"]
    links = {one.get("href") for one in document.iter("a")}
    pages = {rules.page(rule) for rule in rules.RULES}
    assert rules.page("coarse-output") in links
    for link in links:
        assert link in pages or document.get_element_by_id(link[1:]) is not None
    assert not re.search(r"url\(|@import", render(diagnosed()))


def test_nothing_is_marked_as_safe() -> None:
    sources = [*TEMPLATES.iterdir(), *TEMPLATES.parent.glob("*.py")]
    assert not [one.name for one in sources if re.search(r"\|\s*safe|Markup|autoescape (false|=)", one.read_text())]


def everywhere(report: Report, text: str) -> Report:
    """A diagnosed report with a text in every place of it where words of a file can be."""

    def finding(one: Finding) -> Finding:
        experiment = one.experiment and replace(one.experiment, name=text)
        ignored = one.ignored and text
        place = {"tensor": one.tensor and text, "operator": one.operator and text}
        return replace(
            one, message=text, rule=text, evidence={text: [text]}, experiment=experiment, ignored=ignored, **place
        )

    def remedy(one: Remedy) -> Remedy:
        also = {text: {text: [text]}}
        return replace(one, title=text, patch={"keep_float": [text]}, metrics={text: 0.9}, also=also)

    def of_diagnosis(one: Diagnosis) -> Diagnosis:
        return replace(
            one,
            metric=text,
            ladder=tuple(replace(rung, note=text) for rung in one.ladder),
            tensors=tuple(replace(tensor, tensor=text, operator=text) for tensor in one.tensors),
            tried=tuple(replace(experiment, name=text) for experiment in one.tried),
            front=tuple(map(remedy, one.front)),
            note=one.note and text,
            histograms=tuple(replace(histogram, tensor=text, operator=text) for histogram in one.histograms),
        )

    def changed(one: Changed) -> Changed:
        return replace(one, metric=text, worst=tuple(replace(answer, picture=text) for answer in one.worst))

    def cut(one: Slices) -> Slices:
        return replace(one, metric=text, key=text, worst=tuple(replace(part, label=text) for part in one.worst))

    def variant(one: VariantResult) -> VariantResult:
        return replace(
            one,
            name=text,
            metrics=tuple(replace(metric, name=text) for metric in one.metrics),
            findings=tuple(map(finding, one.findings)),
            remedies=tuple(map(remedy, one.remedies)),
            diagnosis=one.diagnosis and of_diagnosis(one.diagnosis),
            by_class=one.by_class and replace(one.by_class, metric=text),
            by_slice=tuple(map(cut, one.by_slice)),
            changed=one.changed and changed(one.changed),
        )

    def model(one: ModelResult) -> ModelResult:
        return replace(one, name=text, variants=tuple(map(variant, one.variants)), classes=(text,) * 10)

    return replace(report, models=(model(report.models[0]), *named(text).models), environment={text: text})


@settings(deadline=None, max_examples=20)
@given(HOSTILE)
@example(" ".join(one[:90] for one in COMMANDS))
@example("x" * 100_000)
def test_hostile_names_change_nothing_but_text(text: str) -> None:
    rendered = render(everywhere(diagnosed(), text))
    rendered.encode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rendered)
    assert skeleton(html.document_fromstring(rendered)) == SKELETON


SKELETON = skeleton(html.document_fromstring(render(everywhere(diagnosed(), "harmless"))))


def holders(value: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every struct in a result, with its fields and their values."""
    if isinstance(value, msgspec.Struct):
        for field in fields(value):
            yield value, field.name, getattr(value, field.name)
            yield from holders(getattr(value, field.name))
    elif isinstance(value, tuple):
        for one in value:
            yield from holders(one)


def with_figures(value: Any, figure: float) -> Any:
    """A diagnosis whose every figure is this one."""
    if isinstance(value, msgspec.Struct):
        return replace(value, **{one.name: with_figures(getattr(value, one.name), figure) for one in fields(value)})
    if isinstance(value, tuple):
        return tuple(with_figures(one, figure) for one in value)
    if isinstance(value, dict):
        return {name: with_figures(one, figure) for name, one in value.items()}
    return figure if isinstance(value, float) else value


@settings(deadline=None, max_examples=30)
@given(EXTREMES)
def test_whatever_the_figures_of_a_diagnosis_are_it_is_drawn(figure: float) -> None:
    report = diagnosed(3)
    variant = replace(failing(3), diagnosis=with_figures(diagnosis(3), figure))
    model = replace(report.models[0], variants=(variant, with_figures(failing(3), figure)))
    rendered = render(replace(report, models=(model,)))
    places = re.findall(r'\s(?:x|y|x1|x2|y1|y2|cx|cy|width|height)="(-?[\d.e+-]+|[^"]*)%?"', rendered)
    assert len(places) > 100
    assert all(-10 <= float(one) <= 600 for one in places if one)


# How large it is


def test_two_hundred_tensors_are_a_quarter_of_a_megabyte() -> None:
    assert len(render(diagnosed(200)).encode()) - len(render(diagnosed(3)).encode()) < 250_000


@pytest.mark.parametrize("count", [30, 200])
def test_it_is_never_larger_than_its_limit(count: int) -> None:
    model = diagnosed(200).models[0]
    variants = tuple(failing(200, f"int8-{number}") for number in range(count))
    text = render(replace(diagnosed(), models=(replace(model, variants=variants),)))
    assert len(text.encode()) <= LIMIT
    assert "which report.json holds" in text


def test_text_that_grows_most_still_fits_in_the_smallest_bounds() -> None:
    report = everywhere(diagnosed(200), '"' * 100_000)
    many = replace(report, models=report.models * 8, notes=report.notes * 1000)
    assert len(page(many, BOUNDS[-1]).models) == BOUNDS[-1].models
    text = render(many)
    assert len(text.encode()) <= LIMIT
    assert html.document_fromstring(text).find(".//h1") is not None


# Everyone can read it


@pytest.mark.parametrize("report", [fixed(), full(), diagnosed()], ids=["fixed", "full", "diagnosed"])
def test_drawings_tables_and_headings_say_what_they_are(report: Report) -> None:
    document = parsed(report)
    for drawing in document.iter("svg"):
        assert drawing.get("role") == "img"
        assert words(drawing.find("title"))
    for table in document.iter("table"):
        assert table.findall(".//th")
        assert all(head.get("scope") in ("col", "row", "rowgroup") for head in table.iter("th"))
        region = table.getparent()
        assert (region.get("role"), region.get("tabindex")) == ("region", "0")
        assert region.get("aria-label")
    levels = [int(one.tag[1]) for one in document.iter("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    names = [one.get("id") for one in document.iter() if one.get("id")]
    assert len(set(names)) == len(names)
    assert all(one.get("aria-labelledby") in (None, *names) for one in document.iter())
    assert all(one[0].tag == "summary" for one in document.iter("details"))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_the_contrast_that_wcag_asks_for() -> None:
    style = (TEMPLATES / "style.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media")[:2])
    for theme in (light, dark):
        for ground in ("page", "raised"):
            for name in ("text", "muted", "link", "pass", "warn", "fail"):
                low, high = sorted((luminance(theme[ground]), luminance(theme[name])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)
        for name in ("mark", "other", "fail", "warn"):
            low, high = sorted((luminance(theme["page"]), luminance(theme[name])))
            assert (high + 0.05) / (low + 0.05) >= 3, name


# The other renderings


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_renders_a_diagnosis(name: str) -> None:
    text = FORMATS[name].text(diagnosed())
    assert "keyword-spotting" in text
    if name == "json":
        jsonschema.validate(json.loads(text), SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_sample_fills_every_field_of_a_diagnosis() -> None:
    filled = {(type(holder), name) for holder, name, value in holders(failing()) if value not in (None, (), {})}
    for kind in (Changed, ChangedAnswer, Confidence, Experiment, Histogram, Remedy, Slice, Slices, TensorLoss):
        assert {(kind, field.name) for field in fields(kind)} <= filled
    assert Verdict.FAIL is failing().verdict


def test_a_remedy_says_what_of_the_manifest_it_changes() -> None:
    """A patch of a dataset must not be put into the variant."""
    report = diagnosed()
    elsewhere = replace(failing().remedies[0], target="/datasets/calib")
    changed = replace(failing(), remedies=(elsewhere,))
    models = tuple(
        replace(model, variants=tuple(changed if one.name == changed.name else one for one in model.variants))
        for model in report.models
    )
    told = [words(one) for one in parsed(replace(report, models=models)).iter("p")]
    assert any("at /datasets/calib, change" in one for one in told)


def test_what_goes_with_a_remedy_elsewhere_has_its_place_and_its_lines() -> None:
    page = parsed(diagnosed())
    assert any("at /datasets/calib" in words(one) for one in page.iter("p"))
    assert any('"preprocess"' in words(one) for one in page.iter("pre"))
