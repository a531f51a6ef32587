"""Workflow commands, read back with the rules of GitHub's runner."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from msgspec.structs import replace

from tests.sample import COMMANDS, HOSTILE, accuracy, fixed, metric, named, variant
from tests.workflow_commands import Command
from tests.workflow_commands import commands as obeyed
from tflite_guard.errors import ManifestError, ManifestProblem
from tflite_guard.manifest import load
from tflite_guard.reports.annotations import problem_annotations, remark, render
from tflite_guard.results import ErrorInfo, Finding, Report, Verdict
from tflite_guard.text.plain import logged, plain


def units(text: str) -> int:
    """How long the runner finds a text."""
    return len(text.encode("utf-16-le")) // 2


def lines(text: str) -> list[str]:
    """The lines that a runner reads."""
    assert text.endswith("\n") or not text
    return re.split("\r\n|\n|\r", text)[:-1]


def commands(text: str) -> list[Command]:
    """The commands in a text of which every line is one, and no line has an older one inside."""
    assert "##[" not in text
    assert all(line.startswith("::") for line in lines(text))
    found = list(obeyed(text))
    assert len(found) == len(lines(text))
    return found


def healthy() -> Report:
    """The fixed report's last model alone."""
    report = fixed()
    return replace(report, verdict=Verdict.PASS, models=report.models[2:], notes=())


def failing(count: int) -> Report:
    """One model with so many failures, the first of which are not conclusive."""
    report = fixed()
    variants = tuple(
        variant(f"v{number}", Verdict.FAIL, accuracy(0.9, (0.01, 0.09), Verdict.FAIL, conclusive=number >= 5))
        for number in range(count)
    )
    return replace(report, models=(replace(report.models[0], variants=variants),))


def test_a_failure_is_shown_at_the_line_of_its_tolerance_with_all_its_figures() -> None:
    found = commands(render(fixed()))
    accuracies = [one for one in found if one.properties["title"] == "digits / int8: accuracy"]
    assert accuracies == [
        Command(
            "error",
            {"file": "models/vision/tflite-guard.json", "line": "12", "title": "digits / int8: accuracy"},
            "digits / int8: accuracy went from 0.9800 to 0.9100, worse by 0.0700; max_drop allows 0.02. "
            "95 % interval [0.0500, 0.0900].",
        )
    ]
    (worse,) = [one for one in found if one.properties["title"] == "digits / worse: accuracy"]
    assert "where the baseline had 0.9850; max_regression allows 0.01." in worse.message
    assert worse.message.endswith("The float reference has 0.9800: worse by 0.0100, 95 % interval [0, 0.0200].")


def test_errors_come_first_then_proven_failures_then_warnings_then_notices() -> None:
    found = commands(render(fixed()))
    assert [(one.name, one.properties["title"]) for one in found] == [
        ("error", "digits / lost: could not be evaluated"),
        ("error", "broken: could not be evaluated"),
        ("error", "digits / int8: accuracy"),
        ("error", "digits / int8: observed accuracy"),
        ("error", "digits / int8: observed outputs"),
        ("error", "digits / worse: accuracy"),
        ("error", "digits / proof: accuracy"),
        ("warning", "digits / int8: sqnr"),
        ("notice", "digits / int8: partially-quantized"),
        ("notice", "digits / int16: underpowered-evaluation"),
    ]


def test_the_cause_is_told_with_the_failure_and_not_once_more() -> None:
    report = failing(1)
    cause = Finding(
        "calibration-range-mismatch", "error", "calibration saw inputs up to 16, here up to 1", primary=True
    )
    (model,) = report.models
    caused = replace(model, variants=tuple(replace(one, findings=(cause,)) for one in model.variants))
    (told,) = commands(render(replace(report, models=(caused,))))
    assert told.message.endswith("Cause: calibration saw inputs up to 16, here up to 1.")


def test_a_finding_of_several_variants_is_one_annotation_that_names_them() -> None:
    report = healthy()
    finding = Finding("partially-quantized", "note", "1 of 12 operators compute in float")
    variants = tuple(variant(name, Verdict.PASS, findings=(finding,), line=7) for name in ("a", "b"))
    (told,) = commands(render(replace(report, models=(replace(report.models[0], variants=variants),))))
    assert told == Command(
        "notice",
        {"file": "models/vision/tflite-guard.json", "line": "7", "title": "healthy / a, b: partially-quantized"},
        "healthy / a, b: 1 of 12 operators compute in float",
    )


def test_nothing_to_say_is_silent() -> None:
    assert render(healthy()) == ""


@pytest.mark.parametrize(("count", "shown", "more"), [(10, 10, None), (11, 9, 2), (500, 9, 491)])
def test_more_than_ten_are_nine_and_one_that_says_where_the_rest_is(count: int, shown: int, more: int | None) -> None:
    found = commands(render(failing(count), rest="out/report.json has all of them"))
    assert len(found) == 10
    assert len([one for one in found if "accuracy" in one.properties["title"]]) == shown
    if more is not None:
        assert found[-1] == Command(
            "error", {"title": f"{more} more errors"}, f"{more} more errors: out/report.json has all of them"
        )
    # Conclusive failures are the worst, so those that are not come last.
    assert "digits / v5: accuracy" in found[0].properties["title"]


def test_ten_warnings_are_kept_beside_ten_errors() -> None:
    report = failing(30)
    (model,) = report.models
    low = metric("sqnr", 1.0, Verdict.WARN, failed_limit="min", tolerance={"min": 20.0, "level": "warning", "line": 3})
    more = tuple(replace(one, metrics=(*one.metrics, low)) for one in model.variants)
    names = [one.name for one in commands(render(replace(report, models=(replace(model, variants=more),))))]
    assert names == ["error"] * 10 + ["warning"] * 10


def test_a_place_that_is_not_known_is_left_out() -> None:
    report = failing(1)
    (model,) = report.models
    (only,) = model.variants
    nowhere = replace(only, line=0, metrics=(replace(only.metrics[0], tolerance={"max_drop": 0.02}),))
    found = commands(render(replace(report, models=(replace(model, line=0, variants=(nowhere,)),))))
    assert [set(one.properties) for one in found] == [{"file", "title"}]


@pytest.mark.parametrize("text", ["🎉", "##[", "a", "%\n,:"])
def test_a_message_longer_than_the_runner_keeps_is_cut_as_the_runner_counts(text: str) -> None:
    report = failing(1)
    (model,) = report.models
    party = text * 3000
    cause = Finding("x", "error", party, primary=True)
    lost = variant(party, Verdict.ERROR, error=ErrorInfo("conversion", party), findings=(cause,))
    found = commands(render(replace(report, models=(replace(model, name=party, variants=(lost, lost)),))))
    assert [units(one.message) <= 4096 and units(one.properties["title"]) <= 255 for one in found] == [True]
    assert found[0].message.endswith("…")
    assert found[0].properties["title"].endswith(": could not be evaluated")


@settings(deadline=None)
@given(HOSTILE)
@example("\u0301x")
@example("=x")
@example("=")
def test_text_from_files_adds_no_command_and_changes_no_property(text: str) -> None:
    harmless, found = commands(render(named("harmless"))), commands(render(named(text)))
    assert [one.name for one in found] == [one.name for one in harmless]
    shown, path = plain(text), logged(plain(text, 4096)).lstrip("=")
    for one, other in zip(found, harmless, strict=True):
        expected = set(other.properties) if plain(text, 4096) else {"title"}
        assert set(one.properties) == (expected if path else expected - {"file"})
        assert one.properties.get("file", "") == (path if "file" in other.properties else "")
        assert one.properties.get("line") == (other.properties.get("line") if plain(text, 4096) else None)
        if 0 < units(shown) < 20:
            title = other.properties["title"].replace("harmless", shown)
            assert one.properties["title"] == logged(title.strip()).lstrip("=")


@settings(deadline=None)
@given(HOSTILE)
@example("\u0301x")
def test_text_from_files_is_read_back_as_it_is_shown(text: str) -> None:
    (told, *_) = commands(render(named(text)))
    shown = plain(text)
    if 0 < units(shown) < 20:
        message = logged(f"{shown} / {shown}: {shown}")
        assert told.message.lstrip(" ") == message.lstrip(" ")
    first = render(named(text)).split("::", 2)[2][:1]
    assert not unicodedata.category(first or " ").startswith("M"), "the runner would not find the colons before it"


@pytest.mark.parametrize("text", COMMANDS)
def test_no_line_of_a_hostile_report_is_obeyed_as_anything_but_an_annotation(text: str) -> None:
    assert {one.name for one in commands(render(named(text)))} == {"error", "warning", "notice"}


def test_an_invalid_manifest_is_annotated_at_each_of_its_problems(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    folder = tmp_path / "models"
    folder.mkdir()
    manifest = folder / "tflite-guard.json"
    manifest.write_bytes((Path(__file__).parents[1] / "manifest/bad/typos.json").read_bytes())
    with pytest.raises(ManifestError) as refused:
        load(str(manifest))
    problems = refused.value.problems
    assert len(problems) > 3
    found = commands(problem_annotations(problems[:10]))
    assert [(one.name, one.properties["file"]) for one in found] == [("error", "models/tflite-guard.json")] * len(found)
    places = [(int(one.properties["line"]), int(one.properties["col"])) for one in found]
    assert places == [(problem.line, problem.column) for problem in problems[:10]]
    assert [one.message for one in found] == [str(problem) for problem in problems[:10]]


def test_many_problems_of_a_manifest_are_cut_and_hostile_ones_are_not_obeyed() -> None:
    problems = [ManifestProblem("tflite-guard.json", 1, 1, text) for text in COMMANDS]
    found = commands(problem_annotations(problems))
    assert [one.name for one in found] == ["error"] * 10
    assert found[-1].message == f"{len(COMMANDS) - 9} more errors: the log has all of them"


@pytest.mark.parametrize("text", COMMANDS)
def test_a_remark_is_one_command_whatever_it_says(text: str) -> None:
    line = remark("warning", "a: b, c", f"50 % of {text}")
    (told,) = commands(line + "\n")
    assert (told.name, told.properties) == ("warning", {"title": "a: b, c"})
    assert told.message == logged(plain(f"50 % of {text}", 4096))
