"""GitHub's annotations: workflow commands, one a line, that are also readable in a plain log."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tflite_guard import errors
from tflite_guard.files import repository_path
from tflite_guard.reports import wording
from tflite_guard.reports.alerts import LEVELS, ORDER, explained, untold_findings
from tflite_guard.results import ModelResult, Report, Severity, VariantResult
from tflite_guard.text.plain import logged, plain

REST = "report.json has all of them"
MOST = 10
"""Of each kind that GitHub keeps from a step."""
LONGEST_MESSAGE = 4096
LONGEST_TITLE = 255
LONGEST_WHERE = 200
LONGEST_PATH = 4096
COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "notice"}


@dataclass(frozen=True)
class _Annotation:
    level: Severity
    title: str
    message: str
    path: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        properties = {"file": logged(plain(self.path, LONGEST_PATH))} if self.path else {}
        if self.path and self.line > 0:
            properties["line"] = str(self.line)
            properties |= {"col": str(self.column)} if self.column > 0 else {}
        properties["title"] = _cut(logged(self.title.strip()), LONGEST_TITLE)
        written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        return f"::{COMMANDS[self.level]} {written}::{_data(_cut(_apart(logged(self.message)), LONGEST_MESSAGE))}"


def render(report: Report, rest: str = REST) -> str:
    """A command for each problem, and for each finding that no problem tells of; empty where there is neither.

    Args:
        report: a finished report.
        rest: where to find those that are more than GitHub shows.
    """
    told = wording.explained_once(wording.problems(report))
    return _written([*(_of_problem(problem, why) for problem, why in told), *_of_findings(report)], rest)


def problem_annotations(problems: Sequence[errors.ManifestProblem], rest: str = "the log has all of them") -> str:
    """The same for manifests that are invalid, each problem at its place."""
    return _written([_of_manifest(problem) for problem in problems], rest)


def remark(level: Severity, title: str, message: str) -> str:
    """One command, without the end of its line, for what concerns no model and no place."""
    return str(_Annotation(level, plain(title), plain(message, LONGEST_MESSAGE)))


def _of_problem(problem: wording.Problem, why: wording.Explanation | None) -> _Annotation:
    """The explanation is told once, at a variant's first problem; the others have the cause alone."""
    where = _cut(logged(problem.where), LONGEST_WHERE)
    brief = problem.explanation and problem.explanation.brief
    if problem.finding is not None:
        what = problem.rule
    elif problem.metric is not None and not problem.variants:
        what = f"reference {plain(problem.metric.name)}"
    elif problem.metric is not None:
        what = ("observed " if problem.observed else "") + plain(problem.metric.name)
    else:
        what = "observed outputs" if problem.observed else "could not be evaluated"
    return _at(
        LEVELS[problem.verdict],
        problem.model,
        problem.line,
        where,
        what,
        explained(problem, brief if why is None else why),
    )


def _of_findings(report: Report) -> Iterator[_Annotation]:
    """Each finding that is no problem once, with all the variants that it is of; ignored ones as notices."""
    found: dict[tuple[int, Severity, str, str], list[VariantResult | None]] = {}
    models, titles = {id(model): model for model in report.models}, wording.titles(report)
    for model, variant, finding in untold_findings(report):
        severity = finding.severity if finding.ignored is None else "note"
        found.setdefault((id(model), severity, finding.rule, wording.told(finding)), []).append(variant)
    for (of, severity, rule, message), variants in found.items():
        model, named = models[of], [variant for variant in variants if variant is not None]
        names = ", ".join(plain(variant.name) for variant in named)
        where = _cut(logged(titles[of] + (f" / {names}" if names else "")), LONGEST_WHERE)
        line = (named[0].line if named else 0) or model.line
        yield _at(severity, model, line, where, plain(rule, 100), message)


def _at(level: Severity, model: ModelResult, line: int, where: str, what: str, message: str) -> _Annotation:
    # The runner's log shows the message without the title, so the message too says where.
    return _Annotation(level, f"{where}: {what}", f"{where}: {message}", model.manifest.repository_path, line)


def _of_manifest(problem: errors.ManifestProblem) -> _Annotation:
    message = plain(str(problem), LONGEST_MESSAGE)
    path = repository_path(problem.path)
    return _Annotation("error", "invalid manifest", message, path, problem.line, problem.column)


def _written(annotations: Iterable[_Annotation], rest: str) -> str:
    by_level: dict[Severity, list[_Annotation]] = {level: [] for level in ORDER}
    for annotation in annotations:
        by_level[annotation.level].append(annotation)
    return "".join(f"{one}\n" for level, of_one in by_level.items() for one in _limited(level, of_one, rest))


def _limited(level: Severity, annotations: list[_Annotation], rest: str) -> list[_Annotation]:
    if len(annotations) <= MOST:
        return annotations
    more = wording.count(len(annotations) - MOST + 1, f"more {COMMANDS[level]}")
    return [*annotations[: MOST - 1], _Annotation(level, more, f"{more}: {plain(rest)}")]


def _cut(text: str, longest: int) -> str:
    """At most so many UTF-16 units, which is what the runner counts."""
    units = text.encode("utf-16-le", "replace")
    if len(units) <= 2 * longest:
        return text
    return units[: 2 * (longest - 1)].decode("utf-16-le", "ignore") + "…"


def _apart(message: str) -> str:
    """Keep a combining mark from joining the colons before it, which the runner would then not find."""
    return f" {message}" if message and unicodedata.category(message[0]).startswith("M") else message


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
