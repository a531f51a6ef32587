"""The job summary and the pull request comment, for GitHub and whatever else shows its Markdown.

It is one HTML block, in which Markdown parsers look for nothing: no emphasis, no links, no tables. Its own links lead
to pages of rules, and to the manifest's lines in the commit that was checked. Text from files is in `<code>` besides,
where GitHub looks for no mentions, references, emoji or formulas. Character references instead of that were tried: the
parser decodes them before it looks for e-mail addresses.
An HTML block ends at an empty line, so there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tflite_guard.judgement.baseline import RECORDED_WITH
from tflite_guard.reports import chart, diagnosis_tables, wording
from tflite_guard.reports.alerts import rule_of
from tflite_guard.reports.commit import Commit
from tflite_guard.reports.fitting import Block, Item, Page, size
from tflite_guard.reports.markup import MARKS, code, direction, escaped, linked, prose
from tflite_guard.reports.opening import opening
from tflite_guard.reports.passing import table as passing_table
from tflite_guard.reports.variant_table import table
from tflite_guard.reports.wording import Explanation, Problem, count
from tflite_guard.results import Finding, MetricResult, ModelResult, Report, VariantResult, Verdict
from tflite_guard.rules import page as page_of
from tflite_guard.text import figures
from tflite_guard.text.plain import plain

SUMMARY_LIMIT = 1_000_000
"""Bytes; GitHub drops a job summary over 1 MiB as a whole."""
COMMENT_LIMIT = 64_000
"""Bytes; GitHub refuses a comment over 65,536 characters, and a marker and a footer come on top."""
REST = "report.json holds everything."
PROBLEMS_IN_SIGHT = 20
NOTES_IN_SIGHT = 50
NAMES_IN_SIGHT = 10
LONGEST_PLACE, LONGEST_LINE = 300, 400
SEVERITIES = {"error": "❌", "warning": "⚠️", "note": "ℹ️"}


def render(report: Report, limit: int = SUMMARY_LIMIT, rest: str = REST, commit: Commit | None = None) -> str:
    """The report in at most `limit` bytes of UTF-8, which should be at least 2,000.

    What does not fit is cut from the bottom, and a line says how much it is, and as `rest` says, where to find it.
    But for links to lines of `commit` it holds nothing that differs between two runs with equal results.
    """
    problems = wording.problems(report)
    page = Page(limit)
    if page.add(_parts(report, problems, commit)):
        return page.text
    totals = _totals(report, problems)
    page = Page(limit - size(_left_out(totals, Counter(), rest)))
    page.add(_parts(report, problems, commit))
    return page.text + _left_out(totals, page.shown, rest)


def has_news(report: Report) -> bool:
    """Whether there is something to say: a problem, a note, or a figure that is not the baseline's.

    Another machine than the baseline's is none by itself: hosted runners differ from day to day.
    """
    changed = any(_changed(variant) for model in report.models for variant in model.variants)
    noted = any(not note.startswith(RECORDED_WITH) for note in report.notes)
    return report.verdict is not Verdict.PASS or noted or changed


def _parts(report: Report, problems: list[Problem], commit: Commit | None) -> Iterator[Item | Block]:
    yield Item(f"<h2>{_mark(report)}{opening(report, problems)}</h2>\n{_counted(report)}{_changes(report)}")
    explained = wording.explained_once(problems)
    yield _list(_problem(problem, why, commit) for problem, why in explained[:PROBLEMS_IN_SIGHT])
    hidden = explained[PROBLEMS_IN_SIGHT:]
    if hidden:
        yield Item(f"<p>{len(hidden):,} more are told below.</p>\n")
    yield _notes(report)
    order, titles = list(Verdict), wording.titles(report)
    for model in report.models:
        if model.is_comparison and model.error is None:
            yield Block("", _figures(model))
    judged = [model for model in report.models if not model.is_comparison]
    evaluated = [(model, titles[id(model)]) for model in judged if model.error is None]
    passing = [one for one in evaluated if one[0].verdict is Verdict.PASS]
    amiss = [one for one in evaluated if one[0].verdict is not Verdict.PASS]
    yield passing_table(passing)
    if any(metric.conclusive is False for model, _ in evaluated for v in model.variants for metric in v.metrics):
        yield Item("<p><b>?</b> The interval contains the limit: with other examples the verdict could differ.</p>\n")
    for model, title in sorted(amiss, key=lambda one: order.index(one[0].verdict), reverse=True):
        told = f"{MARKS[model.verdict]} All figures of {code(title)}: {_came_out(model.variants)}"
        yield _folded(told, _figures(model))
    whole = (Block(f"<h4>{code(title)}</h4>\n", _figures(model)) for model, title in passing)
    yield _folded(f"{MARKS[Verdict.PASS]} All figures of {count(len(passing), 'model')} within tolerance", whole)
    # After the tables, which are of every variant.
    yield Block("", (one for model in report.models for one in _diagnoses(model, titles[id(model)])))
    # They say the same of each variant in less space, too.
    more = _list(_problem(problem, why, commit) for problem, why in hidden)
    yield _folded(f"{len(hidden):,} more problems", [more])
    yield _environment(report)


def _mark(report: Report) -> str:
    """None where two files are compared and nothing is amiss: that is no success."""
    bare = report.verdict is Verdict.PASS and wording.comparisons(report)
    return "" if bare else f"{MARKS[report.verdict]} "


def _notes(report: Report) -> Block:
    """What is to be said of the run; where it came to nothing, why."""
    mark = "ℹ️" if report.models else MARKS[report.verdict]
    items = [f"{mark} {prose(note)}" for note in report.notes[:NOTES_IN_SIGHT]]
    if (more := len(report.notes) - NOTES_IN_SIGHT) > 0:
        items.append(f"and {more:,} more, which report.json holds")
    return _list(Item(f"<li>{item}</li>\n") for item in items)


def _counted(report: Report) -> str:
    """How many came out how, where the title does not say it."""
    alone = len(report.models) < 2 and sum(len(model.variants) for model in report.models) < 2
    return "" if alone else f"<p>{wording.headline(report)}.</p>\n"


def _changes(report: Report) -> str:
    """How the values moved since the baseline, where there is one."""
    moved = Counter(wording.change(m) for model in report.models for v in model.variants for m in v.metrics)
    told = ", ".join(f"{moved[way]:,} {way}" for way in ("worse", "better", "unchanged") if moved[way])
    return f"<p>Values since the baseline: {told}.</p>\n" if told else ""


def _problem(problem: Problem, why: Explanation | None, commit: Commit | None) -> Item:
    where = code(problem.title) + (f" / {_names(problem.variants)}" if problem.variants else "")
    told = _sentence(problem) + _places(problem, commit) + ("" if why is None else _explanation(why))
    return Item(f"<li>{MARKS[problem.verdict]} <b>{where}</b> {told}</li>\n", "problem")


def _places(problem: Problem, commit: Commit | None) -> str:
    """Where it is in the manifest, and the rule that it breaks, each linked where it has an address."""
    path, rule, places = problem.model.manifest.repository_path, rule_of(problem), []
    if path and problem.line:
        shown = code(f"{path}:{problem.line}", LONGEST_PLACE)
        places.append(linked(shown, None if commit is None else commit.line(path, problem.line)))
    if problem.finding is not None or page_of(rule) is not None:
        places.append(_rule(rule))
    return f"<br>\n{' · '.join(places)}" if places else ""


def _rule(rule: str) -> str:
    return linked(code(rule), page_of(rule))


def _explanation(why: Explanation) -> str:
    """Cause, proof, place and remedy below one another, then the lines for the manifest, which a phone wraps."""
    told = [
        f"<b>{label}:</b> {prose(sentence)}" + (f" ({_rule(why.rule)})" if label == "Cause" and why.rule else "")
        for label, sentence in why.sentences
    ]
    told += [prose(why.change) + (":" if why.patch else "")] if why.change else []
    told += [code(line + ("," if line is not why.patch[-1] else ""), LONGEST_LINE) for line in why.patch]
    return "".join(f"<br>\n{line}" for line in told)


def _diagnoses(model: ModelResult, title: str) -> Iterator[Block]:
    """What was done to find each cause, folded."""
    for variant in model.variants:
        if (found := variant.diagnosis) is not None:
            what = f"Diagnosis of {code(title)} / {code(variant.name)}"
            yield _folded(what, diagnosis_tables.tables(found, variant))


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMES_IN_SIGHT
    return ", ".join(map(code, names[:NAMES_IN_SIGHT])) + (f" and {more:,} more" if more > 0 else "")


def _sentence(problem: Problem) -> str:
    """The message, where the metric's name, which may be any words, is code."""
    name = "" if problem.metric is None else plain(problem.metric.name)
    before, found, after = problem.message.partition(name) if name else (problem.message, "", "")
    return prose(before) + (code(found, len(found)) if found else "") + prose(after)


def _figures(model: ModelResult) -> list[Item | Block]:
    """All of a model: every variant's figures, the worst first, a chart, and what is to be said of them."""
    return [_about(model), table(model, model.rungs), _chart(model), _remarks(model), _worsened(model)]


def _worsened(model: ModelResult) -> Block:
    """Of each variant the examples that got worse since the baseline, where any moved."""
    moved = ((one, one.since_baseline) for one in model.variants if one.since_baseline is not None)
    return Block(
        "",
        (
            part
            for variant, since in moved
            if since.worse or since.better
            for part in (
                Item(f"<p>{code(variant.name)}: {wording.since_baseline(since)}.</p>\n"),
                _list(Item(f"<li>{prose(wording.worsened(one, model.classes))}</li>\n") for one in since.worst),
            )
        ),
    )


def _came_out(variants: Sequence[VariantResult]) -> str:
    """How many came out how, the worst first, e.g. `1 variant out of tolerance, 2 within tolerance`."""
    counts = Counter(variant.judged for variant in variants)
    parts = [(counts[one], word) for one, word in wording.WORDS.items() if counts[one]]
    return ", ".join(f"{number if place else count(number, 'variant')} {w}" for place, (number, w) in enumerate(parts))


def _changed(variant: VariantResult) -> bool:
    return any(map(wording.moved, variant.metrics))


def _folded(summary: str, parts: Iterable[Item | Block]) -> Block:
    return Block(f"<details><summary>{summary}</summary>\n", parts, "</details>\n")


def _list(items: Iterable[Item]) -> Block:
    return Block("<ul>\n", items, "</ul>\n")


def _about(model: ModelResult) -> Item:
    examples = max((m.examples for v in model.variants for m in v.metrics), default=0)
    over = f" on {examples:,} examples" if examples else ""
    if model.is_comparison:
        told = f"A is {code(model.reference.path, 200)} ({figures.size(model.reference.size_bytes)})"
        compared = f", compared{over}. 95 % intervals in brackets" if over else ""
        return Item(f"<p>{told}{compared}.</p>\n")
    return Item(f"<p>Compared with {code(model.reference.path, 200)}{over}. 95 % intervals in brackets.</p>\n")


def _chart(model: ModelResult) -> Block:
    """Drops beside what is allowed, a plot for each metric; none where one row would say no more than the table."""
    plots: dict[str, list[tuple[MetricResult, chart.Row]]] = {}
    for variant in model.variants:
        for metric in variant.metrics:
            if (row := chart.row(variant.name, metric)) is not None:
                plots.setdefault(metric.name, []).append((metric, row))
    return Block("", (Item(_plot(name, [row for _, row in rows])) for name, rows in plots.items() if _says_more(rows)))


def _says_more(rows: list[tuple[MetricResult, chart.Row]]) -> bool:
    return len(rows) > 1 or any(m.problem or m.conclusive is False for m, _ in rows)


def _plot(name: str, rows: list[chart.Row]) -> str:
    drawn = chart.lines(rows)
    body = "\n".join(f"<span{direction(line.name)}>{escaped(line.name)}</span>{line.rest}" for line in drawn)
    key = "● drop, ├─┤ 95 % interval, ┃ <code>max_drop</code>"
    return f"<p>{code(name)}: {key}</p>\n<pre>{body}</pre>\n" if drawn else ""


def _remarks(model: ModelResult) -> Block:
    """Findings, why intervals are missing, how sure variants are, and notes."""
    items = [
        f"{_severity(finding)} {_names(names) + ': ' if names else ''}{prose(wording.told(finding))} "
        f"({_rule(finding.rule)})"
        for finding, names in wording.findings(model)
    ]
    items += [
        f"ℹ️ no interval for {_names(names)}: {prose(why)}" for why, names in wording.missing_intervals(model).items()
    ]
    items += [
        f"ℹ️ {code(one.name)}: {wording.confidence(one.confidence, wording.Sides.of(model))}"
        for one in model.rungs
        if one.confidence is not None
    ]
    items += [f"ℹ️ {prose(note)}" for note in model.notes]
    return _list(Item(f"<li>{item}</li>\n") for item in items)


def _severity(finding: Finding) -> str:
    return (
        SEVERITIES[finding.severity] if finding.ignored is None else f"{SEVERITIES['note']} {wording.label(finding)}:"
    )


def _environment(report: Report) -> Block:
    manifests = wording.manifests(report)
    found = [
        (report.tool.name, report.tool.version),
        *report.environment.items(),
        *(("manifest", one) for one in manifests),
    ]
    rows = (
        Item(f"<tr><td>{code(name)}</td><td>{code(str(value))}</td></tr>\n")
        for name, value in found
        if value is not None
    )
    return _folded("Environment", [Block("<table>\n", rows, "</table>\n")])


def _totals(report: Report, problems: list[Problem]) -> Counter[str]:
    variants = sum(len(model.variants) for model in report.models if model.error is None)
    return Counter({"problem": len(problems), "variant": variants})


def _left_out(totals: Counter[str], shown: Counter[str], rest: str) -> str:
    missing = [
        f"{totals[kind] - shown[kind]:,} of {totals[kind]:,} {kind}s" for kind in totals if totals[kind] > shown[kind]
    ]
    return f"<p>✂️ Left out for length: {' and '.join(missing) or 'details'}. {prose(rest)}</p>\n"
