"""JUnit's XML, as Jenkins, GitLab and others read it: a suite a model, a case a metric of a variant.

Many list cases by their names alone, so a case's name holds the variant too, and no two of a model have one name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from xml.etree import ElementTree

from tflite_guard.reports import wording
from tflite_guard.results import MetricResult, ModelResult, Report, VariantResult, Verdict
from tflite_guard.text.plain import plain, unobeyed

TAGS = {Verdict.ERROR: "error", Verdict.FAIL: "failure"}
MOST_FACTS = 100
"""Of the environment, which every suite has: a run has some ten, a report from elsewhere any number."""


def render(report: Report) -> str:
    """The report as test results; warnings pass, with what they say as output; what has no tolerance is skipped."""
    root = ElementTree.Element("testsuites", name="tflite-guard")
    titles = wording.titles(report)
    suites = [_suite(model, titles[id(model)], report) for model in report.models] or [_nothing(report)]
    root.extend(suites)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.attrib[name]) for suite in suites)))
    root.set("time", _seconds(sum(map(_spent, report.models))))
    ElementTree.indent(root)
    xml = unobeyed(ElementTree.tostring(root, encoding="unicode"))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}\n'


def _suite(model: ModelResult, title: str, report: Report) -> ElementTree.Element:
    cases = [*_of_reference(model), *(case for variant in model.variants for case in _cases(model, variant))]
    if model.error is not None and all(variant.error is None for variant in model.variants):
        cases = [*cases, _case("evaluation", Verdict.ERROR, model.error.message, 0)]
    for case, name in zip(cases, _apart([case.attrib["name"] for case in cases]), strict=True):
        case.set("classname", title)
        case.set("name", name)
    suite = ElementTree.Element("testsuite", name=title, tests=str(len(cases)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", _seconds(_spent(model)))
    suite.set("file", plain(model.manifest.repository_path))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(model, report):
        ElementTree.SubElement(properties, "property", name=plain(name), value=plain(value))
    suite.extend(cases)
    if said := _said(model):
        ElementTree.SubElement(suite, "system-out").text = said
    return suite


def _nothing(report: Report) -> ElementTree.Element:
    """The suite of a run without models, which is no success where the run came to nothing."""
    case = _case("check", report.verdict, "; ".join(report.notes), 0)
    case.set("classname", "tflite-guard")
    errors = str(int(case.find("error") is not None))
    suite = ElementTree.Element("testsuite", name="tflite-guard", tests="1", failures="0", errors=errors, skipped="0")
    suite.append(case)
    return suite


def _apart(names: list[str]) -> Iterator[str]:
    """The names, with a number behind one that was there before."""
    seen: Counter[str] = Counter()
    for name in names:
        shown = name
        while shown in seen:
            seen[name] += 1
            shown = f"{name} ({seen[name]})"
        seen[shown] = 1
        yield shown


def _of_reference(model: ModelResult) -> Iterator[ElementTree.Element]:
    """What the reference itself is tested for, and findings about it that make a verdict worse."""
    for check in model.reference.checks:
        yield _case(f"reference: {plain(check.name)}", check.verdict, _failure(check), 0)
    for finding in model.findings:
        if finding.verdict is not Verdict.PASS:
            yield _case(f"reference: {plain(finding.rule)}", finding.verdict, finding.message, 0)


def _cases(model: ModelResult, variant: VariantResult) -> Iterator[ElementTree.Element]:
    whys = [_why(wording.explanation(model, variant, observed=observed)) for observed in (False, True)]
    # What was measured is the whole variant's time; its first case carries it.
    seconds = sum(variant.seconds.values())
    for name, verdict, message, observed in _outcomes(variant):
        yield _case(f"{plain(variant.name)}: {name}", verdict, message, seconds, whys[observed])
        seconds = 0


def _outcomes(variant: VariantResult) -> Iterator[tuple[str, Verdict | None, str, bool]]:
    """What a variant is tested for, how that came out (None: not judged), and in words if it did not pass.

    Last, whether it is of what the application recorded.
    """
    if variant.error is not None or not (variant.metrics or variant.observed):
        message = "" if variant.error is None else variant.error.message
        yield "evaluation", Verdict.ERROR if variant.error else variant.verdict, message, False
    for metric in variant.metrics:
        yield plain(metric.name), metric.verdict, _failure(metric), False
    for finding in wording.own_problems(variant):
        yield plain(finding.rule), finding.verdict, finding.message, False
    if variant.observed is None:
        return
    for metric in variant.observed.metrics:
        yield f"observed {plain(metric.name)}", metric.verdict, _failure(metric), True
    if variant.observed.tolerance is not None:
        yield "observed_tolerance", variant.observed.steps_verdict, wording.steps(variant.observed), True


def _failure(metric: MetricResult) -> str:
    return wording.failure(metric) if metric.problem else ""


def _why(explanation: wording.Explanation | None) -> list[str]:
    """Cause, proof and remedy, a line each, then the lines for the manifest."""
    if explanation is None:
        return []
    told = [f"{label}: {sentence}" for label, sentence in explanation.sentences]
    return told + ([explanation.change] if explanation.change else []) + list(explanation.patch)


def _case(
    name: str, verdict: Verdict | None, message: str, seconds: float, why: Sequence[str] = ()
) -> ElementTree.Element:
    case = ElementTree.Element("testcase", name=name, time=_seconds(seconds))
    if verdict is Verdict.PASS:
        return case
    if verdict is None:
        ElementTree.SubElement(case, "skipped", message="measured and not judged: it has no tolerance")
        return case
    said = plain(message, wording.LONGEST_MESSAGE)
    told = "\n".join([said, *(line for line in why if line != f"Cause: {said}")])
    if verdict in TAGS:
        ElementTree.SubElement(case, TAGS[verdict], type=verdict.value, message=said).text = told
    else:
        ElementTree.SubElement(case, "system-out").text = f"warning: {told}"
    return case


def _properties(model: ModelResult, report: Report) -> Iterator[tuple[str, str]]:
    yield "manifest", model.manifest.path
    yield f"reference.{model.reference.kind}", model.reference.path
    yield from ((f"environment.{name}", str(value)) for name, value in islice(report.environment.items(), MOST_FACTS))
    for variant in model.variants:
        if variant.artifact is not None:
            yield f"{variant.name}.size_bytes", str(variant.artifact.size_bytes)
        for metric in variant.metrics:
            yield from _figures(f"{variant.name}.{metric.name}", metric)
        for metric in variant.observed.metrics if variant.observed else ():
            yield from _figures(f"{variant.name}.observed.{metric.name}", metric)


def _figures(name: str, metric: MetricResult) -> Iterator[tuple[str, str]]:
    figures = {"reference": metric.reference, "value": metric.value, "drop": metric.drop, "baseline": metric.baseline}
    yield from ((f"{name}.{key}", repr(figure)) for key, figure in figures.items() if figure is not None)
    if metric.confidence_interval is not None:
        low, high = metric.confidence_interval
        yield f"{name}.confidence_interval", f"[{low!r}, {high!r}]"
    if metric.tolerance is not None:
        yield f"{name}.tolerance", wording.tolerance(metric)


def _said(model: ModelResult) -> str:
    """The findings and notes, a line each."""
    found = [("", finding) for finding in model.findings]
    found += [(f"{plain(variant.name)}: ", finding) for variant in model.variants for finding in variant.findings]
    lines = [f"{wording.label(one)}: {whose}{wording.told(one)} ({plain(one.rule)})" for whose, one in found]
    return "\n".join(lines + [f"note: {plain(note, 2000)}" for note in model.notes])


def _spent(model: ModelResult) -> float:
    return sum(round(sum(variant.seconds.values()), 3) for variant in model.variants)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
