"""Below what failed stands why, how that is proven, and what to change; the same in every rendering."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from tests.reports.test_markdown import github, in_sight, rows, text_of
from tests.sample import diagnosed, fixed, full, unexplained, variant
from tflite_guard.reports import FORMATS, story, wording
from tflite_guard.reports.alerts import alerts, untold_findings
from tflite_guard.reports.markdown import COMMENT_LIMIT, render
from tflite_guard.results import ErrorInfo, Experiment, Finding, ModelResult, Remedy, Report, VariantResult, Verdict
from tflite_guard.text.figures import percent, span

TOLD = sorted(set(FORMATS) - {"json", "html"})
"""What has the sentences as they are; the page has them in a table of its own, with tests of its own."""


def report_of(*variants: VariantResult) -> Report:
    return replace(fixed(), models=(model_of(*variants),), notes=())


def model_of(*variants: VariantResult) -> ModelResult:
    return replace(fixed().models[0], variants=variants)


def named(name: str) -> VariantResult:
    return next(one for one in fixed().models[0].variants if one.name == name)


FAILED = named("int8")


def shown(name: str, report: Report) -> str:
    """A rendering as one line of words."""
    text = FORMATS[name].text(report)
    if name == "markdown":
        text = " ".join(text_of(item) for item in github(text).findall("ul")[0])
    elif name == "junit":
        text = " ".join(one.text or "" for one in ElementTree.fromstring(text).iter() if one.tag != "system-out")
    elif name in ("sarif", "gitlab"):
        text = " ".join(alert.message for alert in alerts(report))
        assert text.split(". ")[0] in FORMATS[name].text(report)
    return " ".join(text.replace("%25", "%").split())


@pytest.mark.parametrize("name", TOLD)
def test_what_failed_is_followed_by_cause_proof_place_and_remedy(name: str) -> None:
    told = shown(name, report_of(diagnosed(FAILED)))
    parts = [
        "went from 0.9800 to 0.9100",
        "Cause: calibration data reach 0.0625",
        "Proof: recalibrated with evaluation inputs, 96 % of the loss comes back (95 % CI 91 to 100 %)",
        "Place: tensor",
        "Fix: calibrate on",
        "verified on examples that the search did not use: accuracy 0.9775, sqnr 24.12 dB, 24.0 kB",
        "In variant",
        '"calibration": "train"',
    ]
    places = [told.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("name", TOLD)
def test_without_a_proven_cause_that_is_said_with_what_was_tried(name: str) -> None:
    told = shown(name, report_of(unexplained(FAILED)))
    assert "No cause is proven: the drop of 0.0100 is too small" in told
    assert "Tried: dense and the operators around it in float, 4 %; conv" in told
    assert "and 1 more" in told
    assert "Cause:" not in told


@pytest.mark.parametrize("name", ["text", "markdown"])
def test_several_failures_of_a_variant_have_one_explanation(name: str) -> None:
    report = report_of(diagnosed(FAILED))
    assert len(wording.problems(report)) > 2
    assert shown(name, report).count("Proof:") == 1
    assert shown(name, report).count("Cause:") == 1


def test_annotations_tell_the_proof_once_and_the_cause_at_each() -> None:
    lines = [line for line in FORMATS["github"].text(report_of(diagnosed(FAILED))).splitlines() if "Cause:" in line]
    assert len(lines) == 4
    assert ["Proof:" in line for line in lines] == [True, False, False, False]


def test_a_cause_is_told_nowhere_else() -> None:
    report = report_of(diagnosed(FAILED))
    assert [finding.rule for finding, _ in wording.findings(report.models[0])] == ["partially-quantized"]
    assert [finding.rule for _, _, finding in untold_findings(report)] == ["partially-quantized"]


def test_a_primary_finding_of_a_variant_that_else_passes_is_the_problem_itself() -> None:
    passing = variant("int8", Verdict.WARN, *named("float32").metrics)
    passing = replace(diagnosed(passing), verdict=Verdict.WARN)
    (problem,) = wording.problems(report_of(passing))
    assert problem.rule == "calibration-range-mismatch"
    assert problem.explanation is not None
    assert [label for label, _ in problem.explanation.sentences] == ["Proof", "Place", "Fix"]


def test_an_ignored_cause_is_none() -> None:
    cause, *others = diagnosed(FAILED).findings
    accepted = replace(FAILED, findings=(replace(cause, ignored="as is"), *others))
    assert wording.explanation(model_of(accepted), accepted) is None


def test_an_error_can_have_a_cause_too() -> None:
    found = Finding("nan-output", "warning", "dense/MatMul is NaN from example 3 on", primary=True)
    lost = replace(named("lost"), findings=(found,), error=ErrorInfo("outputs", "output holds NaN"))
    (problem,) = wording.problems(report_of(lost))
    assert problem.explanation is not None
    assert problem.explanation.cause == found.message


def mended(patch: dict[str, Any], **settings: Any) -> wording.Explanation:
    mend = Remedy("mend it.", patch, **({"verified": True, "metrics": {}, "size_bytes": None} | settings))
    one = replace(FAILED, remedies=(mend,))
    told = wording.explanation(model_of(one), one)
    assert told is not None
    return told


@pytest.mark.parametrize(
    ("patch", "change", "lines"),
    [
        ({"keep_float": ["a", "é"]}, "set", ('"keep_float": ["a", "é"]',)),
        ({"recipe": None, "quantization": "int8"}, 'remove "recipe" and set', ('"quantization": "int8"',)),
        ({"recipe": None, "io": None}, 'remove "recipe", "io"', ()),
        (
            {"calibration_options": {"ranges": "measured"}, "io": "int8"},
            "set",
            ('"calibration_options": {"ranges": "measured"}', '"io": "int8"'),
        ),
    ],
)
def test_a_patch_is_lines_of_the_variants_object(patch: dict[str, Any], change: str, lines: tuple[str, ...]) -> None:
    told = mended(patch)
    assert told.change == f"In variant int8 of models/vision/tflite-guard.json:20, {change}"
    assert told.patch == lines
    assert json.loads("{" + ",".join(lines) + "}") == {key: value for key, value in patch.items() if value is not None}


def test_a_patch_of_something_else_than_the_variant_says_of_what() -> None:
    told = mended({"preprocess": []}, target="/datasets/calib")
    assert told.change == "At /datasets/calib of models/vision/tflite-guard.json, set"


def test_what_goes_with_a_patch_elsewhere_is_told_before_it() -> None:
    told = mended({"keep_float": ["conv"]}, also={"/datasets/calib": {"preprocess": []}})
    place = "models/vision/tflite-guard.json"
    before = f'At /datasets/calib of {place}, set "preprocess": []. '
    assert told.change.startswith(f"{before}In variant int8 of {place}")


def test_a_remedy_says_what_it_costs() -> None:
    assert mended({"io": "int8"}, size_bytes=26_000, float_operators=2).remedy == (
        "mend it; verified on examples that the search did not use: 26.0 kB, 2 operators in float"
    )
    assert mended({"io": "int8"}).remedy == "mend it"


def test_the_first_verified_remedy_is_told_and_no_other() -> None:
    training, wider, unverified, _ = diagnosed(FAILED).remedies
    verified = (wider, training)
    one = replace(diagnosed(FAILED), remedies=(unverified, *verified))
    told = wording.explanation(model_of(one), one)
    assert told is not None
    assert (told.remedy or "").startswith("16-bit activations")
    none = replace(one, remedies=(unverified,))
    told = wording.explanation(model_of(none), none)
    assert told is not None
    assert told.remedy is None


def test_sarif_names_the_rule_of_the_cause() -> None:
    results = json.loads(FORMATS["sarif"].text(full()))["runs"][0]["results"]
    caused = {one["properties"]["variant"] for one in results if "cause" in one["properties"]}
    assert caused == {"int8"}
    assert {one["properties"].get("cause") for one in results} == {None, "calibration-range-mismatch"}


def test_the_summary_shows_the_remedy_in_sight_and_folds_the_diagnosis() -> None:
    page = github(render(report_of(diagnosed(FAILED))))
    assert any(one.tag == "code" and text_of(one) == '"calibration": "train"' for one in in_sight(page))
    (folded,) = [one for one in page.iter("details") if text_of(one[0]) == "Diagnosis of digits / int8"]
    ladder, tensors, tried, front = (rows(table) for table in folded.iter("table"))
    assert ladder[0] == ["rung", "accuracy", "SQNR"]
    assert ladder[5] == ["int16x8", "LiteRT has no 16-bit kernel for SIN", ""]
    assert len(tensors) == 1 + 10
    assert tensors[1][0].startswith("conv_11/Relu")
    assert tried[1] == ["recalibrated with evaluation inputs", "96 %", "91 % to 100 %"]
    assert front[3] == ["keep conv in float", "0.9550", "31.0 kB", "3", "–"]


def test_a_diagnosis_without_experiments_has_no_empty_tables() -> None:
    found = diagnosed(FAILED).diagnosis
    assert found is not None
    bare = replace(FAILED, diagnosis=replace(found, ladder=(), tensors=(), tried=(), front=(), note="no labels"))
    (folded,) = [
        one for one in github(render(report_of(bare))).iter("details") if text_of(one[0]).startswith("Diagnosis")
    ]
    assert [one.tag for one in folded] == ["summary", "p"]


def test_tables_of_variants_are_kept_before_diagnoses() -> None:
    many = tuple(replace(diagnosed(FAILED), name=f"int8-{number}") for number in range(40))
    page = github(render(report_of(*many), COMMENT_LIMIT))
    assert len([cell for cell in page.iter("td") if cell.get("rowspan")]) == 40


def test_the_terminal_shows_the_ladder_in_a_line() -> None:
    told = shown("text", full())
    assert "int8, accuracy by rung: reference 0.9800 → float32 0.9800 (118.40 dB) → float16" in told
    assert "int16x8 – (LiteRT has no 16-bit kernel for SIN) → int8 0.9100 (11.38 dB)" in told


def test_shares_and_ranges() -> None:
    shares = [percent(one) for one in (0.96, 0.0, 0.004, -0.004, -0.044, 1.0, 1.54, 1e308, -1e308)]
    assert shares[:7] == ["96 %", "0 %", "under 1 %", "0 %", "−4 %", "100 %", "154 %"]
    assert shares[7:] == ["over 999 %", "under −999 %"]
    assert span((-3.9123, 51.06)) == "−3.912 to 51.06"


def test_an_experiment_that_was_not_confirmed_has_no_interval() -> None:
    found = Finding("weight-outliers", "warning", "x", experiment=Experiment("clipped", 0.7, None))
    assert wording.proof(found) == "clipped, 70 % of the loss comes back"


MISUSE = Finding(
    "io-quantization-misuse",
    "warning",
    "the application ignores the output's zero point",
    primary=True,
    experiment=Experiment("replayed and mended", 1.0, None),
)


def with_misuse(variant: VariantResult) -> VariantResult:
    return replace(variant, findings=(*variant.findings, MISUSE))


APART = [name for name in TOLD if name != "html"]
"""Renderings that tell a cause below each problem; the page has them below one another."""


@pytest.mark.parametrize("name", APART)
def test_what_the_application_does_is_told_beside_what_the_file_loses(name: str) -> None:
    """Each once, and the application's where the recorded outputs are."""
    told = shown(name, report_of(with_misuse(diagnosed(FAILED))))
    file, application = "Cause: calibration data reach", "Cause: the application ignores"
    assert told.index(file) < told.index(application)
    if name in ("text", "markdown"):
        assert told.index("observed outputs") < told.index(application)
        assert told.count("the application ignores") == 1


@pytest.mark.parametrize("name", APART)
def test_what_the_application_does_explains_nothing_that_the_file_loses(name: str) -> None:
    told = shown(name, report_of(with_misuse(unexplained(FAILED))))
    assert told.index("No cause is proven") < told.index("Cause: the application ignores")


def test_the_page_tells_both() -> None:
    told = shown("html", report_of(with_misuse(diagnosed(FAILED))))
    heading = told.index("<dt>Cause of the observed outputs</dt>")
    assert told.index("calibration data reach") < heading < told.index("the application ignores the output")


def test_the_story_tells_both() -> None:
    told = story.render(report_of(with_misuse(diagnosed(FAILED))))
    assert "Observed outputs differ from our own run" in told
    assert told.index("Why: calibration") < told.index("Why (the application): io-quantization-misuse")
    assert told.count("the application ignores the output's zero point") == 1
