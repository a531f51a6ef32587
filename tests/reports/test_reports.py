"""Renderings of one fixed report against files that a person has read; hostile text in all of them."""

from __future__ import annotations

import html
import io
import json
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import jsonschema
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace
from rich.cells import cell_len
from rich.console import Console

from tests.sample import COMMANDS, HOSTILE, PICTURE, fixed, full, metric, named
from tests.sample import variant as variant_of
from tests.workflow_commands import commands
from tflite_guard import results
from tflite_guard.errors import UsageError
from tflite_guard.reports import FORMATS
from tflite_guard.reports import json as report_json
from tflite_guard.reports.alerts import alerts
from tflite_guard.reports.json import read
from tflite_guard.reports.terminal import View
from tflite_guard.reports.wording import compression, failure, steps, titles
from tflite_guard.results import Finding, ManifestInfo, Report, Verdict
from tflite_guard.text.figures import interval, limit, number, signed, size, worse_by
from tflite_guard.text.plain import plain

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/report-v1.schema.json").read_text())


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_rendering_is_the_one_that_was_read(name: str) -> None:
    path = GOLDEN / FORMATS[name].file
    rendered = FORMATS[name].text(full())
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(rendered)
    assert rendered == path.read_text()


@pytest.mark.parametrize("share", [1.0, 0.9, 0.78])
def test_whatever_is_written_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    whole = FORMATS["json"].text(full())
    monkeypatch.setattr(report_json, "MOST_PICTURES", 0 if share < 1 else 10**6)
    monkeypatch.setattr(report_json, "MOST_VALUES", int(share * sum(map(whole.count, "{[,"))))
    path = tmp_path / "report.json"
    path.write_text(FORMATS["json"].text(full()))
    found = read(str(path))
    assert (PICTURE in path.read_text()) is (share == 1)
    assert [note.split(",")[0] for note in found.notes if note not in full().notes] == (
        [] if share == 1 else ["report.json leaves out"]
    )
    judged = [[(one.name, one.verdict, one.metrics) for one in model.variants] for model in full().models]
    assert judged == [[(one.name, one.verdict, one.metrics) for one in model.variants] for model in found.models]


def test_what_cannot_be_made_small_enough_says_that_it_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_json, "MOST_VALUES", 100)
    assert (
        "cannot be read again; check fewer models in one run" in json.loads(FORMATS["json"].text(full()))["notes"][-1]
    )


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("json", "html")])
def test_pictures_are_in_the_page_and_the_json_alone(name: str) -> None:
    assert PICTURE in FORMATS["json"].text(full())
    assert "iVBOR" not in FORMATS[name].text(full())


def test_the_json_is_valid_and_reads_back_the_same() -> None:
    jsonschema.validate(json.loads(FORMATS["json"].text(full())), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert read(str(GOLDEN / "report.json")) == full()


def test_the_schema_has_exactly_the_fields_of_the_types() -> None:
    def compare(kind: Any, schema: Any) -> None:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
        schema = next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)
        if "$ref" in schema:
            return compare(kind, schema)
        if get_origin(kind) is tuple:
            return compare(get_args(kind)[0], schema["items"])
        if get_origin(kind) is UnionType:
            (kind,) = [one for one in get_args(kind) if one is not NoneType][:1]
            return compare(kind, schema)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            hints = get_type_hints(kind)
            assert list(schema["properties"]) == [field.name for field in fields(kind)], kind
            assert schema["required"] == list(schema["properties"])
            for name, hint in hints.items():
                compare(hint, schema["properties"][name])
        return None

    compare(results.Report, SCHEMA)
    assert SCHEMA["$defs"]["verdict"]["enum"] == [verdict.value for verdict in Verdict]


@given(HOSTILE)
def test_text_from_files_cannot_move_the_cursor_or_break_a_line(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= 500
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)


@settings(deadline=None)
@given(HOSTILE)
def test_hostile_names_change_neither_the_lines_nor_the_rest_of_a_report(text: str) -> None:
    rendered = FORMATS["text"].text(named(text))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rendered)
    assert any(line.startswith("✗ error  4 models, 11 variants:") for line in rendered.splitlines()[-3:])
    assert not any("##[" in line or line.lstrip().startswith("::") for line in rendered.splitlines())


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_name_becomes_a_command_in_what_is_printed(name: str) -> None:
    """GitHub's runner reads the standard output of any step."""
    for text in (text for text in COMMANDS if re.search(r"::|##\[|%0A", text)):
        found = {command.name for command in commands(FORMATS[name].text(named(text)))}
        assert found <= ({"error", "warning", "notice"} if name == "github" else set()), text


@pytest.mark.parametrize(
    ("value", "name", "shown"),
    [
        (0.98, "accuracy", "0.9800"),
        (0.0, "mae", "0"),
        (None, "accuracy", "–"),
        (38.2149, "sqnr", "38.21 dB"),
        (-3.456, "sqnr", "−3.46 dB"),
        (1.5e-7, "mae", "1.5e−7"),
        (0.000031415, "mae", "0.0000314"),
        (23592, "size_bytes", "23.6 kB"),
        (123456.7, "rmse", "123,457"),
        (1.5e20, "rmse", "1.5e20"),
        (-0.25, "r2", "−0.2500"),
        (0.9999987, "agreement", "0.999999"),
        (1 - 1e-16, "agreement", "1.0000"),
    ],
)
def test_figures(value: float | None, name: str, shown: str) -> None:
    assert number(value, name) == shown


def test_signs_and_sizes() -> None:
    assert [signed(0.01), signed(-0.01), signed(0.0)] == ["+0.0100", "−0.0100", "0"]
    assert [worse_by(0.01), worse_by(-0.01), worse_by(0.0), worse_by(None)] == ["0.0100", "−0.0100", "0", "–"]
    assert [size(999), size(1000), size(999_949), size(24_500_000), size(None)] == [
        "999 B",
        "1.0 kB",
        "999.9 kB",
        "24.5 MB",
        "–",
    ]


@pytest.mark.parametrize(
    ("value", "metric", "kind", "shown"),
    [
        (0.97, "agreement", "min", "0.97"),
        (0.9999999, "agreement", "min", "0.9999999"),
        (20.0, "sqnr", "min", "20 dB"),
        (20, "sqnr", "min", "20 dB"),
        (0.5, "sqnr", "max_regression", "0.5 dB"),
        (0.01, "sqnr", "max_relative_drop", "0.01"),
        (30_000, "size_bytes", "max", "30,000 bytes"),
        (30_000.0, "size_bytes", "max", "30,000 bytes"),
        (29_999.5, "size_bytes", "max", "29999.5 bytes"),
        (1e-05, "mae", "max", "0.00001"),
        (-0.5, "r2", "min", "−0.5"),
    ],
)
def test_a_limit_is_shown_as_the_manifest_has_it(value: float, metric: str, kind: str, shown: str) -> None:
    assert limit(value, metric, kind) == shown


def test_digits_are_added_until_they_show_the_difference() -> None:
    assert (number(0.97123, "accuracy", 0.97125), number(0.97125, "accuracy", 0.97123)) == ("0.97123", "0.97125")
    assert number(19.9987, "sqnr", 20.0) == "19.999 dB"
    close = metric("accuracy", 0.96997, Verdict.FAIL, reference=0.99, drop=0.02003, tolerance={"max_drop": 0.02})
    assert failure(replace(close, failed_limit="max_drop")) == (
        "accuracy went from 0.9900 to 0.9700, worse by 0.02003; max_drop allows 0.02."
    )
    low = metric("sqnr", 19.9987, Verdict.FAIL, tolerance={"min": 20}, failed_limit="min")
    assert failure(low) == "sqnr is 19.999 dB, below the minimum of 20 dB."


def test_a_value_within_its_limit_that_is_not_proven_to_be_is_not_called_outside() -> None:
    tolerance = {"min": 20, "require": "proven_pass"}
    close = metric("sqnr", 20.5, Verdict.FAIL, tolerance=tolerance, failed_limit="min", conclusive=False)
    assert failure(close) == "sqnr is 20.50 dB, not proven to be at least the minimum of 20 dB."


@pytest.mark.parametrize("noise", [2.22e-16, -2.22e-16, 1.1e-14])
def test_what_rounding_leaves_is_no_drop(noise: float) -> None:
    assert worse_by(noise, 0.9, 0.9) == "0"
    assert interval((noise, 0.02), "accuracy") == "[0, 0.0200]"
    rounded = metric("accuracy", 0.9, Verdict.PASS, reference=0.9, drop=noise, tolerance={"max_drop": 0.02})
    model = replace(fixed().models[0], variants=(variant_of("int8", Verdict.PASS, rounded),))
    report = replace(fixed(), models=(model,))
    for name in ("text", "markdown", "html", "github", "junit", "sarif"):
        shown = re.sub(r'"drop": \S+|<property name="[^"]*drop" [^>]*>', "", FORMATS[name].text(report))
        assert not re.search(r"e[-−]1[46]", shown), name


def test_a_relative_drop_is_told_as_the_share_that_its_limit_is_of() -> None:
    lost = metric("mae", 12.0, Verdict.FAIL, reference=10.0, drop=2.0, higher_is_better=False)
    lost = replace(lost, tolerance={"max_relative_drop": 0.1}, failed_limit="max_relative_drop")
    assert failure(lost) == (
        "mae went from 10.0000 to 12.0000, worse by 2.0000, 0.2000 of the reference's; max_relative_drop allows 0.1."
    )


def test_what_is_better_is_not_called_worse() -> None:
    better = metric("accuracy", 0.99, Verdict.FAIL, reference=0.98, drop=-0.01, failed_limit="max_drop")
    better = replace(better, tolerance={"max_drop": 0.001, "require": "proven_pass"})
    assert "went from 0.9800 to 0.9900, better by 0.0100; max_drop allows 0.001." in failure(better)


@pytest.mark.parametrize(("bytes_", "told"), [(24_000, "3.5× smaller"), (92_400, "1.1× larger"), (84_100, "")])
def test_a_size_beside_the_float_one_is_smaller_or_larger(bytes_: int, told: str) -> None:
    model = fixed().models[0]
    own = next(one for one in model.variants if one.name == "int8")
    assert own.artifact is not None
    assert compression(replace(own, artifact=replace(own.artifact, size_bytes=bytes_)), model) == told


def test_a_size_over_its_limit_is_told_to_the_byte() -> None:
    large = metric(
        "size_bytes", 30_001.0, Verdict.FAIL, higher_is_better=False, tolerance={"max": 30_000}, failed_limit="max"
    )
    assert failure(large) == "size_bytes is 30,001 bytes, above the maximum of 30,000 bytes."


def shown_at(width: int, report: Report) -> list[str]:
    """The lines that a terminal of so many columns shows of the whole report."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(View(report, "all"))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("width", [76, 80, 90, 100, 124, 132, 140, 200])
def test_no_figure_is_folded_or_lost_however_narrow_the_terminal(width: int) -> None:
    lines = shown_at(width, fixed())
    assert all(cell_len(line) <= width for line in lines)
    assert "…" not in "".join(lines[: lines.index("What did not pass")])
    for model in fixed().models:
        for one in (one for variant in model.variants for one in variant.metrics):
            ends = interval(one.confidence_interval, one.metric)
            needed = [number(one.reference, one.metric), number(one.value, one.metric), worse_by(one.drop), ends]
            if one.value is not None:
                assert any(re.search(r"\s+".join(map(re.escape, needed)), line) for line in lines), needed


def test_eighty_columns_hold_each_limit_on_the_line_of_its_metric() -> None:
    lines = shown_at(80, replace(fixed(), models=fixed().models[2:]))
    rows = [line for line in lines if line.startswith((" accuracy", " sqnr"))]
    assert [line.split("  ")[-2:] for line in rows if "accuracy" in line] == [["max_drop 0.02", "✓"]] * 2
    assert [line.split()[-4:] for line in rows if "sqnr" in line] == [["min", "20", "dB", "✓"]]


def test_a_narrow_table_has_the_baseline_below_the_value() -> None:
    lines = shown_at(80, fixed())
    at = next(position for position, line in enumerate(lines) if line.startswith("✗ worse"))
    assert lines[at + 2].strip() == "was 0.9850"


@pytest.mark.parametrize("width", range(60, 140, 7))
def test_no_sentence_breaks_inside_an_interval(width: int) -> None:
    few = Finding("underpowered-evaluation", "warning", "its 95 % interval is [−0.0168, 0.0452]; more would do")
    model = replace(fixed().models[2], variants=(replace(fixed().models[2].variants[0], findings=(few,)),))
    lines = shown_at(width, replace(fixed(), models=(fixed().models[0], model)))
    sentences = lines[: lines.index("")]
    assert sum("[−0.0168, 0.0452]" in line for line in sentences) == 1
    for line in sentences:
        assert line.count("[") == line.count("]"), line
        assert not line.endswith(" 95"), line


# Models of one name


def same_names(*manifests: ManifestInfo) -> Report:
    """The fixed report's first model in several manifests, and a model of another name."""
    digits, _, healthy = fixed().models
    return replace(fixed(), models=(*(replace(digits, manifest=one) for one in manifests), healthy))


def at(path: str, given: str = "x.json") -> ManifestInfo:
    return ManifestInfo(given, path, "2" * 64)


@pytest.mark.parametrize(
    ("manifests", "expected"),
    [
        ([at("a/t.json")], ["digits"]),
        ([at("a/t.json"), at("b/t.json")], ["a: digits", "b: digits"]),
        ([at("t.json"), at("b/t.json")], ["t.json: digits", "b/t.json: digits"]),
        ([at("a/t.json"), at("a/u.json")], ["a/t.json: digits", "a/u.json: digits"]),
        ([at("t.json", "../x/t.json"), at("t.json", "../y/t.json")], ["../x/t.json: digits", "../y/t.json: digits"]),
        ([at("a/t.json"), at("a/t.json")], ["digits", "digits"]),
        ([at("x" * 90 + "/a/t.json"), at("y/t.json")], ["…" + "x" * 47 + "/a: digits", "y: digits"]),
        ([at("\x1b[1m/t.json"), at("y/t.json")], ["�[1m: digits", "y: digits"]),
    ],
)
def test_models_of_one_name_are_told_apart_by_their_manifests(
    manifests: list[ManifestInfo], expected: list[str]
) -> None:
    report = same_names(*manifests)
    called = titles(report)
    assert [called[id(model)] for model in report.models] == [*expected, "healthy"]


def test_every_rendering_tells_models_of_one_name_apart() -> None:
    report = same_names(at("vision/t.json"), at("audio/t.json"))
    for name in set(FORMATS) - {"json"}:
        rendered = html.unescape(re.sub("</?code>", "", FORMATS[name].text(report))).replace("%3A", ":")
        for folder in ("vision", "audio"):
            assert f"{folder}: digits / int8" in rendered or name == "junit", name
            assert f"{folder}: digits" in rendered, name
        assert "healthy" in rendered or name in ("github", "sarif", "gitlab")
        assert ": healthy" not in rendered, name
    alone = same_names(at("vision/t.json"))
    together = {alert.fingerprint for alert in alerts(report)}
    assert {alert.fingerprint for alert in alerts(alone)} < together


def test_a_metric_without_a_tolerance_and_a_variant_of_nothing_else_have_no_tick() -> None:
    text = [" ".join(line.split()) for line in FORMATS["text"].text(full()).splitlines()]
    assert "float16 24.0 kB agreement – 1.0000 – – – –" in text
    assert "1 without a tolerance" in " ".join(text[-3:])
    markdown = FORMATS["markdown"].text(full())
    assert "–\N{NO-BREAK SPACE}<code>float16</code>" in markdown
    assert "–\N{NO-BREAK SPACE}<code>agreement</code>" in markdown
    suite = ElementTree.fromstring(FORMATS["junit"].text(full())).findall("testsuite")[-1]
    skipped = [case.attrib["name"] for case in suite.findall("testcase") if case.find("skipped") is not None]
    assert (skipped, suite.attrib["skipped"]) == (["int8: agreement", "float16: agreement"], "2")
    unjudged = json.loads(FORMATS["json"].text(full()))["models"][-1]["variants"][-1]["metrics"][0]
    assert unjudged["verdict"] is None


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_ignored_finding_stays_with_its_reason_and_is_no_warning(name: str) -> None:
    """In every rendering, and of a variant as of a model."""
    report = full()
    rendered = html.unescape(re.sub("</?code>", "", FORMATS[name].text(report)))
    for message, reason in (("no tensor is quantized", "it is small anyway"), ("depend on its batch", "as trained")):
        assert message in rendered
        assert reason in rendered
    model = replace(
        report.models[-1], variants=report.models[-1].variants[1:2], findings=report.models[-1].findings[1:]
    )
    model = replace(model, reference=replace(model.reference, verdict=None, checks=()), verdict=Verdict.PASS)
    assert model.reference_verdict is Verdict.PASS
    calm = FORMATS[name].text(replace(report, models=(model,), verdict=Verdict.PASS, notes=()))
    assert not re.search(
        r"::warning|⚠|\"severity\": \"m|with warnings|^!|<failure|warning:.*warning", calm, re.MULTILINE
    )
    if name == "sarif":
        results = json.loads(calm)["runs"][0]["results"]
        given = [result["suppressions"] for result in results]
        assert given == [[{"kind": "external", "justification": why}] for why in ("as trained", "it is small anyway")]


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"json"}))
def test_what_is_wrong_with_the_reference_is_told_with_the_problems(name: str) -> None:
    rendered = html.unescape(re.sub("</?code>", "", FORMATS[name].text(full())))
    assert "the reference decides for class 3 on all 1,000 examples" in rendered
    assert re.search(r"accuracy is 0\.98(00)?, below the minimum of 0\.99", rendered)


def test_the_difference_that_is_told_is_the_one_that_was_judged() -> None:
    observed = fixed().models[0].variants[1].observed
    assert observed is not None
    told = steps(replace(observed, max_steps={"default": 40.0, "reference": 2.0}, kernels="reference"))
    assert "by up to 2 quantization steps with the reference kernels (40 with the default ones)" in told
    assert "observed_tolerance allows 1." in told


def test_one_table_names_the_renderings_and_their_files(tmp_path: Path) -> None:
    assert [one.name for one in FORMATS.values()] == list(FORMATS)
    assert len({one.file for one in FORMATS.values()}) == len(FORMATS)
    for one in FORMATS.values():
        assert list(one.files(fixed())) == [one.file]


def test_a_pipe_that_nobody_writes_to_is_no_report(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(UsageError, match=r"report\.json: is not a regular file; name a report\.json that"):
        read(str(tmp_path / "report.json"))


def test_a_report_that_is_not_one_is_refused(tmp_path: Path) -> None:
    raw = json.loads(FORMATS["json"].text(fixed()))
    for edit in ({"schema_version": 2}, {"verdict": "good"}, {"models": [{}]}, {"extra": 1}):
        path = tmp_path / "report.json"
        path.write_text(json.dumps(raw | edit))
        with pytest.raises(UsageError, match=r"report\.json: is not a report"):
            read(str(path))


PLACES = st.integers(0, 10**6)
NUMBERS = (
    st.sampled_from([5e-324, 1e-320, 1.7e308, -1.7e308, 10**308, 10**309, 10**5000, 2**64, 2**63, -(2**63), 0, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([10**400, -1, 2**63]) | HOSTILE,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(HOSTILE, inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.lists(st.tuples(PLACES, ANYTHING), min_size=1, max_size=3))
def test_whatever_is_read_as_a_report_can_be_rendered(edits: list[tuple[int, Any]]) -> None:
    raw = json.loads((GOLDEN / "report.json").read_text())
    for place, value in edits:
        holders = list(_holders(raw))
        holder, key = holders[place % len(holders)]
        holder[key] = value
    _read_and_render(raw)


FIGURES = [
    *("value", "reference", "drop", "confidence_interval", "baseline", "regression", "examples", "groups", "ties"),
    *("max_drop", "max_relative_drop", "min", "max", "max_regression", "line", "size_bytes", "operators"),
    *("max_steps", "seconds", "recovered", "tolerance", "evidence"),
]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIGURES), NUMBERS, min_size=1, max_size=3))
@example({"max_drop": 1e-320})
@example({"max_drop": 10**309})
@example({"examples": 10**5000})
@example({"drop": 1.7e308})
def test_whatever_the_figures_of_a_report_are_it_can_be_rendered(figures: dict[str, float]) -> None:
    """The same number everywhere, since a chart's axis is made from all of its rows."""
    raw = json.loads((GOLDEN / "report.json").read_text())
    for holder, key in list(_holders(raw)):
        of = key if isinstance(key, str) else ""
        if of in figures:
            holder[key] = _like(holder[key], figures[of])
        if of == "tolerance" and isinstance(holder[key], dict):
            limits = (name for name in figures if name.startswith(("max_", "min", "max")) and name != "max_steps")
            holder[key] |= {name: figures[name] for name in limits}
    _read_and_render(raw)


def _like(old: Any, number: float) -> Any:
    """The number in the form of what was in its place."""
    if isinstance(old, dict):
        return {name: _like(inner, number) for name, inner in old.items()}
    if isinstance(old, list):
        return [-number, number] if len(old) == 2 else old
    return old if isinstance(old, str) else number


def _read_and_render(raw: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        path.write_bytes(_written(raw))
        try:
            report = read(str(path))
        except UsageError:
            return
    for name in FORMATS:
        FORMATS[name].text(report)


def _written(raw: Any) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(raw).encode("utf-8", "replace")
    finally:
        sys.set_int_max_str_digits(limit)


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as the container and the key in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _holders(inner)
