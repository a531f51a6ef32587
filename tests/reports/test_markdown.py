"""The summary and the comment, read back with GitHub's own Markdown parser: what a reader sees, whatever names say."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from msgspec.structs import replace
from rich.cells import cell_len

from tests.conftest import ROOT
from tests.sample import HOSTILE, accuracy, fixed, full, metric, named, variant
from tflite_guard.checking import without_results
from tflite_guard.errors import GuardError, ManifestError, ManifestProblem
from tflite_guard.judgement.baseline import other_environment
from tflite_guard.reports import chart, wording
from tflite_guard.reports.commit import Commit
from tflite_guard.reports.markdown import COMMENT_LIMIT, SUMMARY_LIMIT, has_news, render
from tflite_guard.reports.markup import prose
from tflite_guard.results import ErrorInfo, Finding, MetricResult, ModelResult, Report, VariantResult, Verdict
from tflite_guard.text.plain import plain

GOLDEN = Path(__file__).parents[1] / "golden"
GITHUB = ["table", "autolink", "strikethrough", "tagfilter", "tasklist"]
CONTENT = {"code", "span"}
"""What a text becomes; how many there are depends on the text."""


def github(text: str) -> Element:
    return tree(
        cmarkgfm.markdown_to_html_with_extensions(
            text, options=Options.CMARK_OPT_UNSAFE | Options.CMARK_OPT_FOOTNOTES, extensions=GITHUB
        )
    )


def commonmark(text: str) -> Element:
    return tree(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


DANGEROUS = r"[@#$~*`<>&|\\_{}]|://|www\.|[0-9a-f]{7}|:\w+:"
"""What GitHub might act on."""
PARSERS = [github, commonmark]


def tree(html: str) -> Element:
    """Strictly: every element closed in order, or it is an error."""
    return ElementTree.fromstring(f"<article>{in_xml(html).replace('<br>', '<br/>')}</article>")


def in_xml(text: str) -> str:
    """HTML may hold two characters that XML may not."""
    return re.sub("[\ufffe\uffff]", "�", text)


def skeleton(element: Element) -> Any:
    """The elements without what they say."""
    return (element.tag, *(skeleton(child) for child in element if child.tag not in CONTENT))


def said(element: Element) -> str:
    """Text without what is in code, where GitHub leaves it alone."""
    inside = "" if element.tag in {"code", "pre"} else (element.text or "") + "".join(map(said, element))
    return inside + (element.tail or "")


def text_of(element: Element) -> str:
    return " ".join("".join(part + " " for part in element.itertext()).split())


def rows(table: Element) -> list[list[str]]:
    """The cells as a reader sees them, a cell over several rows in the first."""
    return [[text_of(cell) for cell in row] for row in table]


def in_sight(element: Element) -> Iterator[Element]:
    yield element
    for child in element:
        if child.tag != "details":
            yield from in_sight(child)


def many(models: int, variants: int, prefix: str = "") -> Report:
    base = fixed().models[0]
    made = tuple(replace(base.variants[i % 6], name=f"{prefix}v{i}") for i in range(variants))
    return replace(fixed(), models=tuple(replace(base, name=f"{prefix}m{i}", variants=made) for i in range(models)))


def with_metrics(*metrics: MetricResult, verdict: Verdict = Verdict.PASS) -> Report:
    one = variant("int8", verdict, *metrics)
    model = replace(fixed().models[2], variants=(one,), verdict=verdict, float32=None)
    return replace(fixed(), models=(model,), verdict=verdict, notes=())


def test_a_cut_rendering_is_the_one_that_was_read() -> None:
    rendered = render(fixed(), 3500)
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / "report.cut.md").write_text(rendered)
    assert rendered == (GOLDEN / "report.cut.md").read_text()


@pytest.mark.parametrize(
    ("verdicts", "title", "counted"),
    [
        ((Verdict.PASS, Verdict.PASS), "✅ All 2 variants are within tolerance", "2 within tolerance."),
        ((Verdict.PASS,), "✅ pass of healthy is within tolerance", None),
        ((Verdict.WARN, Verdict.PASS), "⚠️ sqnr of warn of healthy is 12.00 dB, below the minimum of 20 dB",
         "1 with warnings, 1 within tolerance."),
        ((Verdict.FAIL,), "❌ sqnr of fail of healthy is 12.00 dB, below the minimum of 20 dB", None),
        ((Verdict.FAIL, Verdict.PASS), "❌ sqnr of fail of healthy is 12.00 dB, below the minimum of 20 dB",
         "1 out of tolerance, 1 within tolerance."),
        ((Verdict.ERROR, Verdict.FAIL), "❌ error of healthy could not be evaluated: it crashed",
         "1 could not be evaluated, 1 out of tolerance."),
    ],
)  # fmt: skip
def test_the_first_line_is_what_a_person_would_say(
    verdicts: tuple[Verdict, ...], title: str, counted: str | None
) -> None:
    def made(one: Verdict) -> VariantResult:
        below = metric("sqnr", 12.0, one, tolerance={"min": 20.0, "line": 1}, failed_limit="min")
        error = ErrorInfo("crash", "it crashed") if one is Verdict.ERROR else None
        return variant(one, one, *([] if error else [below]), error=error)

    worst = Verdict.worst(verdicts)
    model = replace(fixed().models[2], variants=tuple(map(made, verdicts)), verdict=worst, float32=None)
    page = github(render(replace(fixed(), models=(model,), verdict=worst)))
    assert (page[0].tag, text_of(page[0])) == ("h2", title)
    said = text_of(page[1]) if page[1].tag == "p" else None
    assert said == (None if counted is None else f"1 model, 2 variants: {counted}")


PROVEN = {"require": "proven_pass"}


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (accuracy(0.949, (0.01, 0.05), Verdict.FAIL, tolerance={"max_drop": 0.01}),
         "int8 of healthy lost 3.1 points of accuracy (allowed 1.0)"),
        (accuracy(0.96999, (0.01, 0.05), Verdict.FAIL, tolerance={"max_drop": 0.01}),
         "int8 of healthy lost 1.001 points of accuracy (allowed 1.000)"),
        (accuracy(0.979, (0.0, 0.05), Verdict.FAIL, tolerance={"max_drop": 0.0001}),
         "int8 of healthy lost 0.10 points of accuracy (allowed 0.01)"),
        (accuracy(0.6, (0.3, 0.5), Verdict.FAIL, tolerance={"max_drop": 1 / 3}),
         "int8 of healthy lost 38.0 points of accuracy (allowed 33.3)"),
        (accuracy(0.6466, (0.3, 0.5), Verdict.FAIL, tolerance={"max_drop": 1 / 3}),
         "int8 of healthy lost 33.34 points of accuracy (allowed 33.33)"),
        (accuracy(0.97, (0.0, 0.05), Verdict.FAIL, tolerance={"max_drop": 0.02} | PROVEN, conclusive=False),
         "int8 of healthy lost 1.0 points of accuracy , not proven to be within 2.0"),
        (accuracy(0.9, (0.01, 0.05), Verdict.FAIL, tolerance={"max_relative_drop": 0.02},
                  failed_limit="max_relative_drop"),
         "accuracy of int8 of healthy is worse by 0.0800 (allowed max_relative_drop 0.02)"),
        (accuracy(0.97, (0.0, 0.05), Verdict.FAIL, tolerance={"min": 0.96} | PROVEN, failed_limit="min",
                  conclusive=False),
         "accuracy of int8 of healthy is 0.9700, not proven to be within the tolerance of min 0.96"),
        (accuracy(0.9, (0.0, 0.05), Verdict.FAIL, tolerance={"max_regression": 0.01}, failed_limit="max_regression",
                  baseline=0.95, regression=0.05),
         "accuracy of int8 of healthy is 0.9000 where the baseline had 0.9500"),
        (metric("mae", 0.3, Verdict.FAIL, reference=0.1, drop=0.2, higher_is_better=False, failed_limit="max_drop",
                tolerance={"max_drop": 0.1}),
         "mae of int8 of healthy is worse by 0.2000 (allowed 0.1)"),
        (metric("size_bytes", 30_001.0, Verdict.FAIL, higher_is_better=False, failed_limit="max",
                tolerance={"max": 30_000}),
         "size_bytes of int8 of healthy is 30,001 bytes, above the maximum of 30,000 bytes"),
        (metric("roc_auc", None, Verdict.ERROR, error="one class alone"),
         "roc_auc of int8 of healthy could not be computed: one class alone"),
    ],
)  # fmt: skip
def test_the_first_line_says_what_was_lost_in_its_own_terms(one: MetricResult, said: str) -> None:
    title = text_of(github(render(with_metrics(one, verdict=Verdict.FAIL)))[0])
    assert title == f"❌ {said}"


def test_the_first_line_names_the_cause_and_whose_outputs_they_are() -> None:
    lost = accuracy(0.949, (0.01, 0.05), Verdict.FAIL, tolerance={"max_drop": 0.01})
    (model,) = with_metrics(lost, verdict=Verdict.FAIL).models

    def title(one: ModelResult) -> str:
        return text_of(github(render(replace(fixed(), models=(one,), verdict=Verdict.FAIL)))[0])

    def with_variant(**changes: Any) -> ModelResult:
        return replace(model, variants=(replace(model.variants[0], **changes),))

    cause = Finding("calibration-range-mismatch", "warning", "94 % is clipped", primary=True)
    told = "❌ int8 of healthy lost 3.1 points of accuracy (allowed 1.0)"
    assert title(with_variant(findings=(cause,))) == f"{told}: calibration data is scaled unlike real inputs"
    assert title(with_variant(findings=(replace(cause, rule="of-a-later-version"),))) == told
    observed = fixed().models[0].variants[1].observed
    alone = with_variant(metrics=(), observed=observed)
    assert title(alone) == "❌ The recorded outputs of int8 of healthy lost 8.0 points of accuracy (allowed 2.0)"
    coarse = Finding("coarse-output", "warning", "476 of 1,000 decisions are ties")
    assert title(with_variant(metrics=(), findings=(coarse,))) == (
        "❌ int8 of healthy : the output is too coarse to decide"
    )
    suspect = replace(full().models[3], variants=(), findings=())
    assert title(suspect) == "❌ accuracy of the reference of suspect is 0.9800, below the minimum of 0.99"


def test_what_failed_is_in_sentences_worst_first() -> None:
    page = github(render(fixed()))
    sentences = [text_of(item) for item in page.findall("ul")[0]]
    assert sentences[0] == (
        "❌ digits / lost keep_float : no_such_layer matches nothing models/vision/tflite-guard.json:20 · "
        "could-not-evaluate/conversion"
    )
    assert sentences[2] == (
        "❌ digits / int8 accuracy went from 0.9800 to 0.9100, worse by 0.0700; max_drop allows 0.02. "
        "95 % interval [0.0500, 0.0900]. models/vision/tflite-guard.json:12 · tolerance-exceeded"
    )
    assert len(sentences) == len(wording.problems(fixed()))
    assert sentences[-1].startswith("⚠️ digits / int8 sqnr")


COMMIT = Commit("https://github.com", "octo/app", "a" * 40)
BLOB = f"https://github.com/octo/app/blob/{COMMIT.sha}/"


def links(page: Element) -> list[str]:
    return [one.attrib["href"] for one in page.iter("a")]


def test_each_failure_is_linked_to_its_line_and_its_rule() -> None:
    items = github(render(full(), commit=COMMIT)).findall("ul")[0]
    found = [(problem, links(item)) for problem, item in zip(wording.problems(full()), items, strict=True)]
    for problem, (line, *rules) in found:
        assert line == f"{BLOB}models/vision/tflite-guard.json#L{problem.line}"
        assert rules
        for rule in rules:
            assert (ROOT / rule.removeprefix("https://github.com/tflite-guard/tflite-guard/blob/main/")).exists()
        if problem.rule in ("conversion", "model-file"):
            assert [Path(rule).stem for rule in rules] == ["could-not-evaluate"]
    (diagnosed,) = [rules for problem, rules in found if problem.line == 12 and len(rules) == 3]
    assert [Path(rule).stem for rule in diagnosed[1:]] == ["tolerance-exceeded", "calibration-range-mismatch"]


def test_without_a_commit_lines_are_named_and_not_linked() -> None:
    page = github(render(full()))
    assert "models/vision/tflite-guard.json:12" in text_of(page)
    assert not [one for one in links(page) if "/docs/rules/" not in one]


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("a b/#x?.json", f"{BLOB}a%20b/%23x%3F.json#L7"),
        ('"><b>.json', f"{BLOB}%22%3E%3Cb%3E.json#L7"),
        ("../../../evil/phish.json", None),
        ("a/./b.json", None),
        ("//evil.example/x.json", None),
        ("", None),
    ],
)
def test_no_path_of_a_report_leads_a_link_out_of_the_commit(path: str, address: str | None) -> None:
    assert COMMIT.line(path, 7) == address
    assert COMMIT.line(path, 0) is None


@pytest.mark.parametrize(
    ("server", "repository", "sha"),
    [
        (None, "octo/app", "a" * 40),
        ("https://github.com", None, "a" * 40),
        ("https://github.com", "octo/app", None),
        ("https://github.com", "octo/app", "main"),
        ("javascript://github.com", "octo/app", "a" * 40),
        ("https://github.com/x?", "octo/app", "a" * 40),
        ("https://github.com", "octo/app/../..", "a" * 40),
    ],
)
def test_a_commit_is_known_where_all_of_it_is(server: str | None, repository: str | None, sha: str | None) -> None:
    assert Commit.known("https://github.com", "octo/app", "a" * 40) == COMMIT
    assert Commit.known(server, repository, sha) is None


def test_a_cause_stands_beside_its_failure() -> None:
    report = with_metrics(accuracy(0.9, (0.05, 0.1), Verdict.FAIL), verdict=Verdict.FAIL)
    finding = Finding("calibration-range-mismatch", "error", "inputs are not scaled", primary=True)
    (model,) = report.models
    told = replace(report, models=(replace(model, variants=(replace(model.variants[0], findings=(finding,)),)),))
    assert "Cause: inputs are not scaled" in text_of(github(render(told)).findall("ul")[0])


def test_the_table_holds_what_there_is_to_know() -> None:
    (table,) = figures_of(github(render(fixed())), "digits").iter("table")
    assert rows(table) == [
        ["variant", "metric", "float", "quantized", "worse by", "tolerance", "baseline"],
        ["❌ lost", "could not be evaluated"],
        ["❌ int8 24.0 kB, 3.5× smaller", "❌ accuracy", "0.9800", "0.9100", "0.0700 [0.0500, 0.0900]",
         "max_drop 0.02", ""],
        ["⚠️ sqnr", "", "11.38 dB [10.90, 11.90]", "", "min 20 dB, warning only", ""],
        ["size_bytes", "", "24.0 kB", "", "max 30,000 bytes", ""],
        ["❌ accuracy observed", "0.9800", "0.9000", "0.0800 [0.0600, 0.1000]", "max_drop 0.02", ""],
        ["❌ proof 24.0 kB, 3.5× smaller", "❌ accuracy", "0.9800", "0.9700", "0.0100 [0.0020, 0.0310] ?",
         "max_drop 0.02, proven pass", ""],
        ["❌ worse 24.0 kB, 3.5× smaller", "❌ accuracy", "0.9800", "0.9700", "0.0100 [0, 0.0200]",
         "max_regression 0.01", "0.0150 worse was 0.9850"],
        ["✅ float32 84.0 kB", "accuracy", "0.9800", "0.9800", "0 [−0.0038, 0.0038]", "max_drop 0.02", ""],
        ["sqnr", "", "identical", "", "min 20 dB", ""],
        ["✅ int16 24.0 kB, 3.5× smaller", "accuracy", "0.9800", "0.9750", "0.0050 [−0.0040, 0.0240] ?",
         "max_drop 0.02", "0.0040 worse was 0.9790"],
    ]  # fmt: skip
    assert [int(cell.get("rowspan", 1)) for cell in table.iter("td") if cell.get("rowspan")] == [1, 4, 1, 1, 2, 1]


def test_columns_without_content_are_left_out() -> None:
    page = github(render(with_metrics(metric("max_abs_error", 0.1, Verdict.PASS, higher_is_better=False))))
    (_, table, _) = page.iter("table")
    assert rows(table)[0] == ["variant", "metric", "quantized"]


def figures_of(page: Element, model: str) -> Element:
    """What is folded of a model."""
    (found,) = [one for one in page.iter("details") if f"All figures of {model}" in text_of(one[0])]
    return found


def test_what_failed_is_in_sight_without_a_table_and_figures_are_folded() -> None:
    page = github(render(full()))
    shown = list(in_sight(page))
    (table,) = [one for one in shown if one.tag == "table"]
    assert [row[0] for row in rows(table)] == ["model", "✅ healthy int8"]
    assert "pre" not in {one.tag for one in shown}  # which a phone would not wrap
    assert not [one for one in page.iter("details") if "open" in one.attrib]
    folded = [text_of(one) for one in page.iter("summary")]
    assert folded == [
        "❌ All figures of digits : 1 variant could not be evaluated, 3 out of tolerance, 2 within tolerance",
        "❌ All figures of suspect : 1 variant with warnings, 1 within tolerance, 1 without a tolerance",
        "✅ All figures of 1 model within tolerance",
        "Diagnosis of digits / int8",
        "Diagnosis of digits / proof",
        "Environment",
    ]


def test_models_that_pass_are_a_row_each_with_the_variant_that_does_worst() -> None:
    base = fixed().models[2]

    def model(name: str, *variants: VariantResult) -> ModelResult:
        return replace(base, name=name, variants=variants)

    fine, worse = accuracy(0.979, (0, 0.01), Verdict.PASS), accuracy(0.97, (0, 0.03), Verdict.PASS, conclusive=False)
    close, far = metric("sqnr", 40.0, Verdict.PASS), metric("sqnr", 30.0, Verdict.PASS, baseline=31.0, regression=1.0)
    size = metric("size_bytes", 1.0, Verdict.PASS, higher_is_better=False)
    models = (
        model("labelled", variant("a", Verdict.PASS, size, close, fine), variant("b", Verdict.PASS, size, far, worse)),
        model("unlabelled", variant("a", Verdict.PASS, size, close), variant("b", Verdict.PASS, size, far)),
        model("same", variant("a", Verdict.PASS, metric("sqnr", None, Verdict.PASS, identical=True))),
        model("nothing", variant("a", Verdict.PASS, artifact=None)),
        model("none"),
    )
    page = github(render(replace(fixed(), models=models, verdict=Verdict.PASS, notes=())))
    assert rows(page.findall("table")[0])[1:] == [
        ["✅ labelled b of 2", "0.9700 ? accuracy float 0.9800", "24.0 kB 3.5× smaller"],
        ["✅ unlabelled b of 2", "30.00 dB sqnr was 31.00 dB", "24.0 kB 3.5× smaller"],
        ["✅ same a", "identical sqnr", "24.0 kB 3.5× smaller"],
        ["– nothing a", "", ""],
        ["– none", "", ""],
    ]


def test_a_run_within_tolerance_is_a_title_a_table_and_what_is_folded() -> None:
    healthy = replace(fixed(), models=(fixed().models[2],), verdict=Verdict.PASS, notes=())
    assert [one.tag for one in github(render(healthy))] == ["h2", "table", "details", "details"]


def test_the_worst_models_come_first() -> None:
    verdicts = [Verdict.PASS, Verdict.WARN, Verdict.ERROR, Verdict.FAIL]
    models = tuple(
        replace(fixed().models[2], name=verdict, verdict=verdict, variants=(variant("int8", verdict),))
        for verdict in verdicts
    )
    page = github(render(replace(fixed(), models=models)))
    folded = [text_of(one).partition(" :")[0] for one in page.iter("summary")]
    assert folded[:3] == [
        f"{mark} All figures of {name}" for mark, name in (("❌", "error"), ("❌", "fail"), ("⚠️", "warn"))
    ]


def test_many_problems_are_folded_after_twenty() -> None:
    page = github(render(many(1, 60)))
    assert len(page.findall("ul")[0]) == 20
    (more,) = [one for one in page.findall("details") if text_of(one[0]).endswith("more problems")]
    assert text_of(more[0]) == f"{len(more[1]):,} more problems"
    assert len(more[1]) == len(wording.problems(many(1, 60))) - 20


def test_an_error_of_many_variants_names_some_of_them() -> None:
    lost = ErrorInfo("conversion", "no converter")
    variants = tuple(replace(fixed().models[0].variants[5], name=f"v{i}", error=lost) for i in range(1500))
    report = replace(fixed(), models=(replace(fixed().models[0], variants=variants),))
    sentence = text_of(github(render(report)).findall("ul")[0][0])
    named = " , ".join(f"v{place}" for place in range(10))
    assert sentence == (
        f"❌ digits / {named} and 1,490 more no converter models/vision/tflite-guard.json:20 · "
        "could-not-evaluate/conversion"
    )


def test_findings_and_notes_are_told_once() -> None:
    text = "calibration says little"
    finding = Finding("few-examples", "note", text)
    model = fixed().models[2]
    variants = tuple(replace(model.variants[0], name=name, findings=(finding,)) for name in ("int8", "int16"))
    no_interval = replace(accuracy(0.98, (0, 0), Verdict.PASS), confidence_interval=None, interval_note="one group")
    variants += (variant("int4", Verdict.PASS, no_interval),)
    report = replace(fixed(), models=(replace(model, variants=variants, notes=("a note of the model",)),))
    items = [text_of(item) for item in github(render(report)).iter("li")]
    assert f"ℹ️ int8 , int16 : {text} ( few-examples )" in items
    assert "ℹ️ no interval for accuracy : one group" in items
    assert "ℹ️ a note of the model" in items


@cache
def harmless(parse: Callable[[str], Element], with_path: bool) -> Any:
    """What no text changes, rendered once: it is the same for every text. A manifest without a path has no line."""
    report = named("harmless")
    manifest = replace(report.models[0].manifest, repository_path="harmless" if with_path else "")
    return skeleton(
        parse(render(replace(report, models=tuple(replace(one, manifest=manifest) for one in report.models))))
    )


@pytest.mark.parametrize("parse", PARSERS)
@given(text=HOSTILE)
@settings(deadline=None)
def test_hostile_text_stays_text(parse: Callable[[str], Element], text: str) -> None:
    page = parse(render(named(text)))
    assert skeleton(page) == harmless(parse, text != "")
    assert not re.search(DANGEROUS, said(page))
    names = [cell.find("code") for cell in page.iter("td") if cell.get("rowspan")]
    assert {(name.text or "") for name in names if name is not None} == {in_xml(plain(text, 100)), *COMMON_NAMES}


@given(text=HOSTILE)
@settings(deadline=None)
def test_hostile_text_changes_no_link(text: str) -> None:
    page = github(render(named(text), commit=COMMIT))
    assert not re.search(DANGEROUS, said(page))
    for one in page.iter("a"):
        parts = urlsplit(one.attrib.pop("href"))
        assert (one.attrib, parts.scheme, parts.netloc, parts.query) == ({}, "https", "github.com", "")
        assert parts.path.startswith(
            (f"/octo/app/blob/{COMMIT.sha}/", "/tflite-guard/tflite-guard/blob/main/docs/rules/")
        )
        assert not {".", "..", ""} & set(parts.path.split("/")[1:])


COMMON_NAMES = {"float32"}
"""The conversion alone, which no file names."""


@pytest.mark.parametrize("parse", PARSERS)
@given(text=HOSTILE)
@settings(deadline=None)
def test_keys_and_values_of_a_foreign_report_stay_text(parse: Callable[[str], Element], text: str) -> None:
    def foreign(text: str) -> Report:
        limits = {f"max_{text}": 0.1, "max_drop": 0.02, "require": text}
        one = accuracy(0.9, (0.05, 0.1), Verdict.FAIL, tolerance=limits, failed_limit=text, metric=text)
        report = with_metrics(one, verdict=Verdict.FAIL)
        return replace(report, environment={text: {text: [text]}}, tool=replace(report.tool, name=text, version=text))

    page = parse(render(foreign(text)))
    assert skeleton(page) == skeleton(parse(render(foreign("harmless"))))
    assert not re.search(DANGEROUS, said(page))


def test_a_foreign_reports_limit_that_is_no_number_is_told_without_it() -> None:
    one = accuracy(0.9, (0.05, 0.1), Verdict.FAIL, tolerance={"max_drop": 0.02, "require": "x"}, failed_limit="require")
    assert "accuracy went from 0.9800 to 0.9000, worse by 0.0800" in text_of(
        github(render(with_metrics(one, verdict=Verdict.FAIL)))
    )


@pytest.mark.parametrize("limit", [2000, 5000, COMMENT_LIMIT, SUMMARY_LIMIT])
@pytest.mark.parametrize("prefix", ["", "🎉|<b>@x`&" * 40])
@pytest.mark.parametrize(("models", "variants"), [(1000, 8), (1, 500), (40, 1)])
def test_a_page_is_never_too_long_and_says_what_is_missing(models: int, variants: int, prefix: str, limit: int) -> None:
    report = many(models, variants, prefix)
    text = render(report, limit)
    assert len(text.encode()) <= limit
    page = github(text)
    assert text_of(page[0]).startswith("❌ ")
    assert page[0].tag == "h2"
    assert not re.search("[<>]", said(page))
    problems = len([item for item in page.iter("li") if item.find("b") is not None])
    shown = len([cell for cell in page.iter("td") if cell.get("rowspan") and "alone" not in text_of(cell)])
    total = len(wording.problems(report))
    expected = [(total - problems, total, "problem"), (models * variants - shown, models * variants, "variant")]
    assert left_out(page) == [line for line in expected if line[0]]


def left_out(page: Element) -> list[tuple[int, int, str]]:
    """How many are missing of how many, from the last line."""
    line = text_of(page[-1])
    if not line.startswith("✂️ Left out for length:"):
        return []
    assert line.endswith("report.json holds everything.")
    found = re.findall(r"([\d,]+) of ([\d,]+) (problem|variant)s", line)
    return [(int(missing.replace(",", "")), int(total.replace(",", "")), kind) for missing, total, kind in found]


def test_a_cut_page_keeps_what_is_worst() -> None:
    whole = [text_of(item) for item in github(render(many(10, 8), 10**9)).iter("li") if item.find("b") is not None]
    cut = [text_of(item) for item in github(render(many(10, 8), 9000)).iter("li") if item.find("b") is not None]
    assert 0 < len(cut) < len(whole)
    assert cut == whole[: len(cut)]


def test_a_cut_page_says_where_the_rest_is() -> None:
    assert text_of(github(render(many(100, 8), 9000, "See out/report.json."))[-1]).endswith("See out/report.json .")


def test_a_cut_comment_keeps_tables() -> None:
    report = many(1, 300)
    assert len(wording.problems(report)) >= 300
    rows = list(github(render(report, COMMENT_LIMIT)).iter("tr"))
    assert len(rows) > 50


def test_the_limits_are_githubs() -> None:
    assert SUMMARY_LIMIT <= 2**20
    assert COMMENT_LIMIT <= 65_536 - 1000  # the marker and the link to the run


def test_what_fits_to_the_byte_is_whole() -> None:
    whole = render(fixed(), 10**9)
    assert render(fixed(), len(whole.encode())) == whole
    assert "Left out for length: details." in render(fixed(), len(whole.encode()) - 1)


def test_equal_results_give_equal_text() -> None:
    def again(one: ModelResult) -> ModelResult:
        return replace(one, variants=tuple(replace(v, seconds={"convert": 9.9}, cached=True) for v in one.variants))

    assert render(replace(fixed(), models=tuple(map(again, fixed().models)))) == render(fixed())


@given(text=HOSTILE)
@settings(deadline=None)
def test_a_run_without_a_report_says_why(text: str) -> None:
    page = github(render(without_results(GuardError(f"no manifest {text}"))))
    assert skeleton(page)[:3] == ("article", ("h2",), ("ul", ("li",)))
    assert text_of(page).startswith("❌ Nothing was checked ❌ no manifest")
    assert not re.search(DANGEROUS, said(page))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("models/a.json:27:22: unknown", "<code>models/a.json:27:22</code>: unknown"),
        ('say "maxdrop"; or max_drop?', "say <code>&quot;maxdrop&quot;</code>; or <code>max_drop</code>?"),
        ("a_b, c_d e_f.", "<code>a_b</code>, <code>c_d e_f</code>."),
        ("why? x.y", "why? <code>x.y</code>"),
        ("a :tada: b", "a <code>:tada</code>: b"),
        ("@octocat: #1: https://x.y/z. ::", "<code>@octocat</code>: <code>#1</code>: <code>https://x.y/z</code>. ::"),
    ],
)
def test_punctuation_stands_after_code(text: str, shown: str) -> None:
    assert prose(text) == shown


def test_limits_are_named_as_in_a_manifest_and_alike() -> None:
    rendered = render(fixed())
    for limit in ("max_drop</code> 0.02", "min</code> 20 dB", "max</code> 30,000 bytes", "max_regression</code> 0.01"):
        assert f"<code>{limit}" in rendered
    assert "below the minimum of 20 dB." in rendered


def test_problems_of_a_manifest_are_told_up_to_a_point() -> None:
    problems = [ManifestProblem("a|b.json", line, 1, "no such file") for line in range(1, 61)]
    items = [text_of(item) for item in github(render(without_results(ManifestError(problems)))).iter("li")]
    assert items[0] == "❌ a|b.json:1:1 : no such file"
    assert len(items) == 51
    assert items[-1] == "and 10 more, which report.json holds"


QUIET = {"tolerance": {"max_drop": 0.02, "line": 1}, "drop": 0.0}


@pytest.mark.parametrize(
    ("one", "verdict", "news"),
    [
        (metric("accuracy", 0.98, Verdict.PASS, **QUIET), Verdict.PASS, False),
        (metric("accuracy", 0.98, Verdict.WARN, **QUIET), Verdict.WARN, True),
        (metric("accuracy", 0.98, Verdict.PASS, baseline=0.98, regression=0.0), Verdict.PASS, False),
        (metric("accuracy", 0.98, Verdict.PASS, baseline=0.97999999, regression=-1e-8), Verdict.PASS, False),
        (metric("accuracy", 0.98, Verdict.PASS, baseline=0.99, regression=0.01), Verdict.PASS, True),
        (metric("accuracy", 0.99, Verdict.PASS, baseline=0.98, regression=-0.01), Verdict.PASS, True),
        (metric("sqnr", None, Verdict.PASS, identical=True, baseline_identical=True), Verdict.PASS, False),
        (metric("sqnr", 50.0, Verdict.PASS, baseline_identical=True), Verdict.PASS, True),
        (metric("sqnr", None, Verdict.PASS, identical=True, baseline=50.0), Verdict.PASS, True),
    ],
)
def test_news_is_a_problem_or_a_figure_that_changed(one: MetricResult, verdict: Verdict, news: bool) -> None:
    report = with_metrics(one, verdict=verdict)
    assert has_news(report) is news
    assert has_news(replace(report, notes=("model 'gone' is in the baseline but was not checked",)))


def test_another_machine_than_the_baselines_is_no_news_by_itself() -> None:
    other = other_environment({"processor": "avx512_vnni"}, {"environment": {"processor": "avx2"}})
    assert other is not None
    same = metric("accuracy", 0.98, Verdict.PASS, baseline=0.98)
    assert not has_news(replace(with_metrics(same), notes=(other,)))
    moved = metric("accuracy", 0.97, Verdict.PASS, baseline=0.98, regression=0.01)
    report = replace(with_metrics(moved), notes=(other,))
    assert has_news(report)
    assert prose(other) in render(report)


def test_a_value_that_is_missing_is_no_change_since_the_baseline() -> None:
    missing = metric("accuracy", None, Verdict.ERROR, baseline=0.98)
    assert wording.change(missing) == ""
    assert not wording.has_baseline([missing, metric("accuracy", 0.9, Verdict.PASS)])
    assert wording.has_baseline([missing, replace(missing, value=0.98)])
    assert wording.has_baseline([metric("sqnr", None, Verdict.PASS, identical=True, baseline_identical=True)])


def test_changes_since_the_baseline_are_counted_and_told_with_the_figures() -> None:
    changed = [
        metric("accuracy", 0.97, Verdict.PASS, baseline=0.98, regression=0.01),
        metric("sqnr", None, Verdict.PASS, identical=True, baseline=50.0),
        metric("agreement", 0.99, Verdict.PASS, baseline=0.99, regression=0.0),
        metric("size_bytes", 24200.0, Verdict.PASS, baseline=24000.0, regression=200.0, higher_is_better=False),
        metric("kl_divergence", 0.5, Verdict.PASS, baseline_identical=True, higher_is_better=False),
    ]
    page = github(render(with_metrics(*changed)))
    assert text_of(page[1]) == "Values since the baseline: 3 worse, 1 better, 1 unchanged."
    assert "was 0.9800" in text_of(page.findall("table")[0])
    assert [row[-1] for row in rows(next(figures_of(page, "1 model").iter("table")))] == [
        "baseline",
        "0.0100 worse was 0.9800",
        "better was 50.00 dB",
        "unchanged",
        "200 B worse was 24.0 kB",
        "worse was identical",
    ]


def plot(*metrics: tuple[str, MetricResult]) -> list[str]:
    made = [chart.row(name, one) for name, one in metrics]
    return [line.name + line.rest for line in chart.lines([one for one in made if one is not None])]


NUMBERS = st.floats(-1, 1, allow_nan=False).map(lambda number: round(number, 4))


@settings(deadline=None)
@given(st.lists(st.tuples(st.tuples(NUMBERS, NUMBERS, NUMBERS).map(sorted), NUMBERS.map(abs)), min_size=1, max_size=4))
def test_a_chart_never_shows_a_drop_on_the_wrong_side(drops: list[tuple[list[float], float]]) -> None:
    made = [accuracy(0.98 - drop, (low, high), Verdict.PASS, drop=drop, tolerance={"max_drop": limit})
            for (low, drop, high), limit in drops]  # fmt: skip
    lines = plot(*((f"v{i}", one) for i, one in enumerate(made)))
    for line, ((low, drop, high), limit) in zip(lines, drops, strict=False):
        mark = line.find("┃") if "┃" in line else line.find("╂")
        dot = line.find("●")
        if mark >= 0 and dot >= 0:
            assert (dot > mark) == (drop > limit)
        if low < limit < high and mark >= 0:
            ends = [position for position, character in enumerate(line[:-10]) if character in "├←●┤→"]
            assert ends[0] < mark < ends[-1]
        if limit < low or high < limit:
            assert "╂" not in line


def test_a_chart_is_aligned_whatever_the_names_are() -> None:
    inside = accuracy(0.97, (0.0, 0.019), Verdict.PASS, drop=0.01)
    names = ["int8", "量子化モデル", "x" * 300, "🎉", "é́", "العربية"]
    lines = plot(*((name, inside) for name in names))
    for mark in "├●┤┃":
        assert len({cell_len(line[: line.index(mark)]) for line in lines[:-1]}) == 1, mark


def test_a_broken_variant_does_not_squeeze_the_others() -> None:
    lost = accuracy(0.1, (0.87, 0.89), Verdict.FAIL)
    near = accuracy(0.965, (0.005, 0.025), Verdict.PASS)
    shown = plot(("lost", lost), ("near", near))
    assert shown[0].count("→") == 1
    assert "●" not in shown[0]
    assert shown[0].index("┃") < shown[0].index("→")
    assert shown[0].endswith(" 0.8800  fail")
    assert shown[1].index("├") < shown[1].index("●") < shown[1].index("╂") < shown[1].index("┤")


def test_a_chart_wants_a_drop_an_interval_and_a_limit() -> None:
    assert chart.row("int8", metric("sqnr", 30.0, Verdict.PASS)) is None
    assert chart.row("int8", accuracy(0.9, (0.1, 0.1), Verdict.PASS, confidence_interval=None)) is None
    assert chart.row("int8", accuracy(0.9, (0.1, 0.1), Verdict.PASS, tolerance={"min": 0.9})) is None
    assert chart.row("int8", accuracy(0.9, (0.1, 0.1), Verdict.PASS, tolerance={"max_drop": "0"})) is None


@pytest.mark.parametrize(
    ("interval", "limit"), [((0.0, 0.0), 0.0), ((-1e308, 1e308), 1e308), ((0.2, 0.1), 0.0), ((-0.2, -0.1), 0.0)]
)
def test_a_chart_of_odd_figures_is_whole_or_not_there(interval: tuple[float, float], limit: float) -> None:
    one = accuracy(0.98, interval, Verdict.PASS, drop=interval[0], tolerance={"max_drop": limit})
    assert len(plot(("a", one), ("b", one))) in (0, 3)


def test_one_row_that_passes_for_sure_needs_no_chart() -> None:
    sure = accuracy(0.98, (-0.004, 0.004), Verdict.PASS)
    assert "<pre>" not in render(with_metrics(sure))
    assert "<pre>" in render(with_metrics(replace(sure, conclusive=False)))
    assert "<pre>" in render(with_metrics(replace(sure, verdict=Verdict.FAIL), verdict=Verdict.FAIL))
