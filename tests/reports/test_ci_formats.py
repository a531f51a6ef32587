"""SARIF, JUnit and GitLab's code quality: read back with parsers of each format, valid against published schemas."""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import jsonschema
import junitparser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree
from msgspec.structs import replace

from tests.sample import COMMANDS, HOSTILE, accuracy, fixed, named, variant
from tflite_guard.checking import without_results
from tflite_guard.errors import ManifestError, ManifestProblem
from tflite_guard.reports import FORMATS
from tflite_guard.reports.alerts import Alert, alerts, fingerprint
from tflite_guard.reports.sarif import MOST_RESULTS
from tflite_guard.results import ErrorInfo, Finding, ManifestInfo, MetricResult, ModelResult, Report, Verdict
from tflite_guard.text.plain import plain

SCHEMAS = Path(__file__).parents[1] / "schemas"
SARIF = jsonschema.Draft4Validator(json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text()))
GITLAB = jsonschema.Draft7Validator(json.loads((SCHEMAS / "gitlab-codequality.json").read_text()))
JUNIT = etree.XMLSchema(etree.parse(SCHEMAS / "junit-10.xsd"))
URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~/!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})*")
LINK = re.compile(r"\[[^\]]*\]\(")


def sarif(report: Report) -> dict[str, Any]:
    """The one run of a valid log."""
    log = json.loads(FORMATS["sarif"].text(report))
    SARIF.validate(log)
    (run,) = log["runs"]
    return dict(run)


def gitlab(report: Report) -> list[dict[str, Any]]:
    issues: list[dict[str, Any]] = json.loads(FORMATS["gitlab"].text(report))
    for issue in issues:
        GITLAB.validate(issue)
    return issues


def junit(report: Report) -> junitparser.JUnitXml:
    """The suites of a valid document."""
    text = FORMATS["junit"].text(report)
    JUNIT.assertValid(etree.fromstring(text.encode()))
    return junitparser.JUnitXml.fromstring(text.encode())


def with_models(*models: ModelResult) -> Report:
    return replace(fixed(), models=models)


def without_problems() -> Report:
    return replace(with_models(fixed().models[2]), verdict=Verdict.PASS, notes=())


# SARIF


def test_sarif_has_what_code_scanning_asks_for() -> None:
    run = sarif(fixed())
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("tflite-guard", "1.2.3")
    identifiers = [rule["id"] for rule in driver["rules"]]
    assert len(set(identifiers)) == len(identifiers)
    for rule in driver["rules"]:
        assert 0 < len(rule["name"]) <= 255
        assert all(0 < len(rule[key]["text"]) <= 1024 for key in ("shortDescription", "fullDescription", "help"))
    for result in run["results"]:
        assert result["ruleId"] == identifiers[result["ruleIndex"]]
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert set(result["partialFingerprints"]) == {"primaryLocationLineHash"}


def test_sarif_tells_each_problem_worst_first_at_its_line() -> None:
    found = [
        (
            result["level"],
            result["ruleId"],
            result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"],
            result["locations"][0]["physicalLocation"]["region"]["startLine"],
        )
        for result in sarif(fixed())["results"]
    ]
    assert found == [
        ("error", "could-not-evaluate/conversion", "digits / lost", 20),
        ("error", "could-not-evaluate/model-file", "broken", 30),
        ("error", "tolerance-exceeded", "digits / int8", 12),
        ("error", "observed-outputs", "digits / int8", 12),
        ("error", "observed-outputs", "digits / int8", 20),
        ("error", "tolerance-exceeded", "digits / worse", 16),
        ("error", "tolerance-exceeded", "digits / proof", 15),
        ("warning", "tolerance-exceeded", "digits / int8", 13),
        ("note", "partially-quantized", "digits / int8", 20),
        ("note", "underpowered-evaluation", "digits / int16", 20),
    ]


def test_sarif_results_hold_the_figures() -> None:
    (result,) = [one for one in sarif(fixed())["results"] if "from 0.9800 to 0.9100" in one["message"]["text"]]
    assert result["properties"] == {
        "model": "digits",
        "variant": "int8",
        "metric": "accuracy",
        "reference": 0.98,
        "value": 0.91,
        "drop": 0.07,
        "confidenceInterval": [0.05, 0.09],
        "tolerance": {"max_drop": 0.02},
        "conclusive": True,
        "examples": 1000,
    }


def test_a_metric_without_a_value_is_not_called_a_tolerance_exceeded() -> None:
    lost = replace(accuracy(0.9, (0.0, 0.1), Verdict.ERROR), value=None, error="the outputs hold NaN")
    (result,) = sarif(with_models(replace(fixed().models[2], variants=(variant("int8", Verdict.ERROR, lost),))))[
        "results"
    ]
    assert (result["ruleId"], result["level"]) == ("metric-not-computed", "error")
    assert result["message"]["text"] == "healthy / int8: accuracy could not be computed: the outputs hold NaN"


def test_sarif_says_whether_everything_could_be_evaluated() -> None:
    assert sarif(fixed())["invocations"] == [{"executionSuccessful": False, "toolExecutionNotifications": []}]
    clean = sarif(without_problems())
    assert clean["invocations"] == [{"executionSuccessful": True, "toolExecutionNotifications": []}]
    assert clean["results"] == []


def test_sarif_keeps_the_worst_of_more_than_github_shows() -> None:
    warned = [variant(f"w{n}", Verdict.WARN, accuracy(0.9, (0, 0.1), Verdict.WARN)) for n in range(MOST_RESULTS)]
    failed = [variant(f"f{n}", Verdict.FAIL, accuracy(0.9, (0, 0.1), Verdict.FAIL)) for n in range(3)]
    run = json.loads(FORMATS["sarif"].text(with_models(replace(fixed().models[0], variants=(*warned, *failed)))))[
        "runs"
    ][0]
    levels = [result["level"] for result in run["results"]]
    assert levels == ["error"] * 3 + ["warning"] * (MOST_RESULTS - 3)
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert notification["message"]["text"].startswith("3 more results")


@pytest.mark.parametrize(
    "path", ["models/ünï cödé.json", "a#b?c%41.json", "c:/x.json", "a:b.json", "[x].json", "🎉/ع.json", "x\\y.json"]
)
def test_sarif_names_files_as_uris(path: str) -> None:
    model = replace(fixed().models[0], manifest=ManifestInfo(path, path, "2" * 64))
    (uri,) = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in sarif(with_models(model))["results"]
    }
    assert URI_REFERENCE.fullmatch(uri)
    assert unquote(uri) == path


# GitLab


def test_gitlab_has_what_its_specification_asks_for() -> None:
    issues = gitlab(fixed())
    for issue in issues:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert not issue["location"]["path"].startswith(("/", "./"))
        assert issue["location"]["lines"]["begin"] >= 1
    assert [issue["severity"] for issue in issues] == ["blocker"] * 2 + ["critical"] * 5 + ["minor"] + ["info"] * 2
    assert issues[2]["description"].startswith("digits / int8: accuracy went from 0.9800 to 0.9100")
    assert issues[2]["location"] == {"path": "models/vision/tflite-guard.json", "lines": {"begin": 12}}
    assert gitlab(without_problems()) == []


@pytest.mark.parametrize("line", [0, 7])
def test_an_alert_is_on_a_line_even_where_none_is_known(line: int) -> None:
    lost = variant("int8", Verdict.ERROR, error=ErrorInfo("conversion", "no room"), line=line)
    report = with_models(replace(fixed().models[0], variants=(lost,), line=0))
    (result,), (issue,) = sarif(report)["results"], gitlab(report)
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == (line or 1)
    assert issue["location"]["lines"]["begin"] == (line or 1)


# JUnit


def test_junit_counts_what_failed_and_what_could_not_be_evaluated() -> None:
    found = junit(fixed())
    counts = {suite.name: (suite.tests, suite.failures, suite.errors, len(list(suite))) for suite in found}
    assert counts == {"digits": (11, 5, 1, 11), "broken": (1, 0, 1, 1), "healthy": (1, 0, 0, 1)}
    assert (found.tests, found.failures, found.errors) == (13, 5, 2)
    seconds = {suite.name: suite.time for suite in found}
    assert seconds == {"digits": pytest.approx(4 * 1.8), "broken": 0, "healthy": pytest.approx(1.8)}
    assert found.time == pytest.approx(5 * 1.8)
    for suite in found:
        assert suite.time == pytest.approx(sum(case.time for case in suite))


def test_junit_names_each_metric_of_each_variant_and_says_how_it_came_out() -> None:
    (digits, *_) = junit(fixed())
    cases = {(case.classname, case.name): case for case in digits}
    passed, failed = cases["digits", "float32: accuracy"], cases["digits", "int8: accuracy"]
    assert passed.is_passed
    assert [type(one).__name__ for one in failed.result] == ["Failure"]
    assert failed.result[0].message.startswith("accuracy went from 0.9800 to 0.9100, worse by 0.0700")
    lost = cases["digits", "lost: evaluation"]
    assert [(type(one).__name__, one.message) for one in lost.result] == [
        ("Error", "keep_float: no_such_layer matches nothing")
    ]
    warned = cases["digits", "int8: sqnr"]
    assert warned.is_passed
    assert warned.system_out.startswith("warning: sqnr is 11.38 dB, below the minimum")
    assert not cases["digits", "int8: observed accuracy"].is_passed
    assert "up to 3 quantization steps" in cases["digits", "int8: observed_tolerance"].result[0].message


def test_junit_names_are_told_apart_without_their_classes() -> None:
    one = accuracy(0.98, (0.0, 0.01), Verdict.PASS)
    twice = variant("a", Verdict.PASS, one, one, replace(one, name="accuracy (2)"))
    (suite,) = junit(with_models(replace(fixed().models[2], variants=(twice,))))
    assert [case.name for case in suite] == ["a: accuracy", "a: accuracy (2)", "a: accuracy (2) (2)"]


def test_junit_holds_the_figures_and_the_findings() -> None:
    (digits, *_) = junit(fixed())
    figures = {one.name: one.value for one in digits.properties()}
    assert figures["int8.accuracy.value"] == "0.91"
    assert figures["int8.accuracy.confidence_interval"] == "[0.05, 0.09]"
    assert figures["int8.accuracy.tolerance"] == "max_drop 0.02"
    assert figures["int8.size_bytes"] == "24000"
    said = etree.fromstring(FORMATS["junit"].text(fixed()).encode()).findtext("testsuite[@name='digits']/system-out")
    assert said is not None
    assert said.splitlines() == [
        "note: int8: 1 of 12 operators compute in float: SIN (wave) (partially-quantized)",
        "note: int16: accuracy: 1,000 examples are too few (underpowered-evaluation)",
    ]


def test_junit_tells_an_error_of_a_model_without_variants() -> None:
    model = replace(fixed().models[1], variants=())
    (suite,) = junit(with_models(model))
    (case,) = suite
    assert (case.classname, case.name, case.result[0].message) == (
        "broken",
        "evaluation",
        "models/broken.keras: is cut off",
    )


# Hostile text


@cache
def harmless_formats() -> tuple[Any, Any, Any]:
    """What no text changes, rendered once: it is the same for every text."""
    report = named("harmless")
    return sarif(report), gitlab(report), junit(report)


@settings(deadline=None)
@given(HOSTILE)
@example("\x00\ufffe\uffff\x1b[31m")
@example("[a](https://example.com)")
def test_hostile_text_is_read_back_plain_and_changes_no_structure(text: str) -> None:
    shown, report = plain(text), named(text)
    run, (harmless, harmless_issues, harmless_suites) = sarif(report), harmless_formats()
    assert [one["level"] for one in run["results"]] == [one["level"] for one in harmless["results"]]
    assert {one["properties"]["model"] for one in run["results"]} == {shown}
    assert not any(LINK.search(one["message"]["text"]) for one in run["results"])
    issues = gitlab(report)
    assert [issue["severity"] for issue in issues] == [issue["severity"] for issue in harmless_issues]
    assert {issue["location"]["path"] for issue in issues} == {plain(text, 4096)}
    suites = junit(report)
    for suite, other in zip(suites, harmless_suites, strict=True):
        assert (suite.tests, suite.failures, suite.errors) == (other.tests, other.failures, other.errors)
        assert suite.name == shown
        for case, one in zip(suite, other, strict=True):
            assert case.classname == shown
            assert case.name == one.name.replace("harmless", shown)
            assert [type(result) for result in case.result] == [type(result) for result in one.result]


@pytest.mark.parametrize("name", ["json", "sarif", "junit", "gitlab"])
@pytest.mark.parametrize("text", ["##[error]x", "a ###[add-mask]b", '"\\##[error]', "##", "[", "##&#35;[x]"])
def test_what_is_printed_holds_no_command_of_the_runner_and_says_the_same(name: str, text: str) -> None:
    rendered = FORMATS[name].text(named(text))
    assert "##[" not in rendered
    assert not any(line.lstrip().startswith("::") for line in rendered.splitlines())
    if name == "junit":
        assert [suite.name for suite in junit(named(text))] == [text] * 4
    else:
        assert text in json.dumps(json.loads(rendered), ensure_ascii=False).replace("\\\\", "\\").replace('\\"', '"')


@pytest.mark.parametrize("text", COMMANDS)
@pytest.mark.parametrize("name", ["sarif", "junit", "gitlab"])
def test_no_printed_line_is_obeyed(name: str, text: str) -> None:
    rendered = FORMATS[name].text(named(text))
    assert "##[" not in rendered
    assert not any(line.lstrip().startswith("::") for line in re.split("\r\n|\n|\r", rendered))


# Fingerprints

Identity = tuple[str, str, str, str | None, str | None, bool]
NAMES = ["", "a", "ab", "b", '","', "\u0301", "\x00"]
IDENTITY = st.tuples(
    st.sampled_from(["tolerance-exceeded", "observed-outputs", "could-not-evaluate/conversion"]),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from([None, "None", *NAMES]),
    st.sampled_from([None, "null", *NAMES]),
    st.booleans(),
)


def of(identity: Identity) -> str:
    rule, path, name, of_variant, metric, observed = identity
    model = replace(fixed().models[0], name=name, manifest=ManifestInfo("x", path, "2" * 64))
    return fingerprint(rule, model, of_variant, metric, observed)


@settings(deadline=None)
@given(IDENTITY, IDENTITY, st.sets(st.integers(0, 5)))
@example(("x", "", "a", "b", None, False), ("x", "", "ab", "", None, False), {2, 3})
@example(("x", "", "a", None, "b", False), ("x", "", "a", "b", None, False), {3, 4})
def test_fingerprints_differ_exactly_where_what_they_are_of_differs(
    one: Identity, other: Identity, taken: set[int]
) -> None:
    """Also where all but one part are equal, or a letter moves from one name to the next."""
    mixed = tuple(other[part] if part in taken else one[part] for part in range(6))
    assert (of(one) == of(mixed)) == (one == mixed)


def by_identity(report: Report) -> dict[tuple[Any, ...], str]:
    def identity(alert: Alert) -> tuple[Any, ...]:
        metric = alert.metric and alert.metric.name
        return alert.rule, alert.model.name, alert.variant, metric, alert.level

    return {identity(alert): alert.fingerprint for alert in alerts(report)}


def moved(report: Report, by: float, lines: int) -> Report:
    """The same problems with other figures on other lines."""

    def of_metric(one: MetricResult) -> MetricResult:
        tolerance = one.tolerance and {**one.tolerance, "line": one.tolerance["line"] + lines}
        value = None if one.value is None else one.value - by
        return replace(one, value=value, tolerance=tolerance, confidence_interval=(by, 2 * by))

    def of_model(model: ModelResult) -> ModelResult:
        variants = tuple(
            replace(
                one,
                metrics=tuple(map(of_metric, one.metrics)),
                error=one.error and ErrorInfo(one.error.kind, f"{one.error.message} after {by} s"),
                findings=tuple(replace(finding, message=f"{finding.message} {by}") for finding in one.findings),
                line=one.line + lines,
            )
            for one in model.variants
        )
        return replace(model, variants=variants, line=model.line + lines)

    return replace(report, models=tuple(map(of_model, report.models)))


def reordered(report: Report) -> Report:
    models = [replace(model, variants=model.variants[::-1]) for model in report.models]
    return replace(report, models=tuple(models[::-1]))


@settings(deadline=None)
@given(st.floats(0.001, 0.5), st.integers(0, 1000))
def test_fingerprints_stay_when_figures_lines_and_order_change(by: float, lines: int) -> None:
    before = by_identity(fixed())
    assert len(set(before.values())) == len(before) == 10
    assert by_identity(moved(fixed(), by, lines)) == before
    assert by_identity(reordered(fixed())) == before


@pytest.mark.parametrize("kept", ["int8", "int16", "proof", "worse", "lost"])
def test_fingerprints_stay_when_other_variants_go(kept: str) -> None:
    digits = fixed().models[0]
    alone = with_models(replace(digits, variants=tuple(one for one in digits.variants if one.name == kept)))
    after = by_identity(alone)
    assert after
    assert after.items() <= by_identity(fixed()).items()


def test_the_fingerprint_of_an_error_stays_when_another_variant_comes_to_share_it() -> None:
    error = ErrorInfo("conversion", "no room")
    first, second = (variant(name, Verdict.ERROR, error=error, line=line) for name, line in (("a", 3), ("b", 4)))
    model = fixed().models[0]
    alone = alerts(with_models(replace(model, variants=(second,))))
    both = alerts(with_models(replace(model, variants=(first, second))))
    assert [(alert.variant, alert.line) for alert in both] == [("a", 3), ("b", 4)]
    assert alone[0].fingerprint == both[1].fingerprint != both[0].fingerprint


def test_variants_that_fail_one_shared_tolerance_are_alerts_of_their_own() -> None:
    variants = tuple(variant(name, Verdict.FAIL, accuracy(0.9, (0.05, 0.1), Verdict.FAIL)) for name in ("a", "b"))
    results = sarif(with_models(replace(fixed().models[0], variants=variants)))["results"]
    assert len({result["partialFingerprints"]["primaryLocationLineHash"] for result in results}) == 2
    assert {result["locations"][0]["physicalLocation"]["region"]["startLine"] for result in results} == {12}


def test_no_two_alerts_have_one_fingerprint_even_where_names_are_equal() -> None:
    twice = Finding("underpowered-evaluation", "warning", "first", evidence={"metric": "accuracy"})
    model = replace(fixed().models[2], variants=(variant("int8", Verdict.PASS, findings=(twice, twice)),))
    found = [alert.fingerprint for alert in alerts(with_models(model, *named("same").models))]
    assert len(set(found)) == len(found) > 10


def test_sarif_is_never_larger_than_github_takes() -> None:
    # Messages that do not compress, as long as any can be.
    random = Random(7)
    errors = [
        variant(f"v{n}", Verdict.ERROR, artifact=None, error=ErrorInfo("run", random.randbytes(2000).hex()), seconds={})
        for n in range(5000)
    ]
    report = with_models(replace(fixed().models[0], variants=tuple(errors)))
    written = FORMATS["sarif"].text(report).encode()
    assert len(gzip.compress(written)) < 10_000_000
    (run,) = json.loads(written)["runs"]
    left_out = 5000 - len(run["results"])
    assert left_out > 0
    assert f"{left_out:,} more results" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_a_run_that_came_to_nothing_is_no_success_in_any_format() -> None:
    problems = [ManifestProblem("tflite-guard.json", 7, 3, "unknown key 'max_dorp'")]
    report = without_results(ManifestError(problems))
    run = sarif(report)
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert (notification["level"], "max_dorp" in notification["message"]["text"]) == ("error", True)
    (issue,) = gitlab(report)
    assert (issue["severity"], "max_dorp" in issue["description"]) == ("blocker", True)
    suites = junit(report)
    assert (suites.tests, suites.errors) == (1, 1)
    for name in ("text", "markdown"):
        assert "max_dorp" in FORMATS[name].text(report)
        assert "within tolerance" not in FORMATS[name].text(report)
