"""The terminal's rendering: what failed first, in full, then tables, and what failed once more, in short."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from msgspec.structs import replace
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tflite_guard.reports import terminal_tables, wording
from tflite_guard.reports.terminal_tables import STYLES
from tflite_guard.reports.wording import Explanation, Problem, Short
from tflite_guard.results import MetricResult, ModelResult, Report, Rung, VariantResult, Verdict
from tflite_guard.text.plain import logged, plain

T = TypeVar("T")
Extent = Literal["all", "folded", "failures", "quiet"]
"""How much is shown: everything; models that pass in a row each; only what does not pass; only that in words."""
NOT_A_TERMINAL_WIDTH = 132
INCONCLUSIVE = "? the interval contains the limit: with other examples the verdict could differ"
MOST_TOLD = 200
"""Problems that are told in full."""
MOST_ROWS = 1_000
"""Of figures and of remarks below them: more than anybody scrolls through, and laying them out takes seconds."""
MOST_LAST_LINES = 15
"""Of what failed, told once more: with the verdict they are on a screen of 24 lines."""
MOST_LINES_EACH = 2
"""Of one failure, and of its cause, told once more where all of it has no room."""
OF_THE_TERMINAL = "-v shows"
"""How to see what is folded."""
_WHOLE = re.compile(r"\d (?:%|dB|B|[kMG]B)|\[[^\s\[\],]+(?: dB)?, [^\s\[\],]+\]")
"""What no line may break inside."""
_JOINT = "\ue000"
"""A character that is no space; in a name it becomes one, which harms nothing."""


def render(report: Report) -> str:
    """The whole report as plain text without escape sequences, as it is written to a file."""
    return shown(report, extent="all")


def shown(
    report: Report,
    width: int = NOT_A_TERMINAL_WIDTH,
    extent: Extent = "folded",
    unfolding: str = OF_THE_TERMINAL,
) -> str:
    """What a terminal of so many columns shows, without escape sequences."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, force_terminal=False)
    console.print(View(report, extent, unfolding))
    return "\n".join(logged(line.rstrip()) for line in stream.getvalue().splitlines()) + "\n"


@dataclass
class _Room:
    """For how many rows there is room, and what did not find any."""

    rows: int = MOST_ROWS
    without: int = 0

    def take(self, wanted: Iterable[T], rows: Callable[[T], int] = lambda _: 1) -> list[T]:
        """Those that there is room for, from the first on."""
        taken = []
        for one in wanted:
            if self.rows > 0:
                taken.append(one)
                self.rows -= rows(one)
            else:
                self.without += 1
        return taken

    def cut(self, rung: VariantResult) -> VariantResult:
        """A rung with as many metrics as there is room for at all."""
        if len(rung.metrics) <= MOST_ROWS:
            return rung
        self.without += len(rung.metrics) - MOST_ROWS
        return replace(rung, metrics=rung.metrics[:MOST_ROWS])


class View:
    """The report for a rich console; on a narrow one only names are folded."""

    def __init__(self, report: Report, extent: Extent = "folded", unfolding: str = OF_THE_TERMINAL) -> None:
        self._report = report
        self._extent = extent
        self._unfolding = unfolding

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self._report
        problems = wording.problems(report)
        for problem, why in wording.explained_once(problems[:MOST_TOLD]):
            yield from _told(problem, why, console, options)
        if len(problems) > MOST_TOLD:
            yield Text(f"… and {len(problems) - MOST_TOLD:,} more, in report.json", "dim")
        if problems:
            yield Text("")
        if self._extent != "quiet":
            yield from self._models(console, options)
            yield from self._remarks(console, options)
            yield from _again(problems, console, options)
        yield from _wrapped(_outcome(report), console, options)

    def _models(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Those that pass, folded; then each of the others."""
        titles = wording.titles(self._report)
        folded = [model for model in self._report.models if self._is_folded(model)]
        room = _Room()
        if folded:
            rows = [(model, titles[id(model)]) for model in room.take(folded)]
            yield terminal_tables.passing(rows, options.max_width)
            yield from _wrapped(_unfolding(folded, self._unfolding), console, options)
            yield Text("")
        room.rows = MOST_ROWS
        for model in filter(self._is_open, self._report.models):
            if room.take([model]):
                yield from self._model(model, titles[id(model)], room, console, options)
                yield Text("")
        if room.without:
            yield Text(f"… and {room.without:,} more models, variants, figures and remarks, in report.json", "dim")
            yield Text("")

    def _remarks(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What a question mark means, where there is one, and what concerns the run."""
        open_question = any(metric.conclusive is False for metric in self._metrics())
        remarks = [INCONCLUSIVE] if open_question else []
        remarks += [f"note: {plain(note)}" for note in self._report.notes[:MOST_ROWS]]
        if (more := len(self._report.notes) - MOST_ROWS) > 0:
            remarks.append(f"… and {more:,} more notes, in report.json")
        for remark in remarks:
            yield from _wrapped(Text(remark, "dim"), console, options)
        if remarks:
            yield Text("")

    def _metrics(self) -> Iterator[MetricResult]:
        """All that have a row, or stand for a model in its."""
        for model in self._report.models:
            if self._is_open(model):
                yield from (metric for rung in self._rungs(model) for metric in rung.metrics)
            elif self._is_folded(model) and (found := wording.closest(model)) is not None:
                yield found[1]

    def _is_folded(self, model: ModelResult) -> bool:
        return self._extent == "folded" and len(self._report.models) > 1 and wording.passes(model)

    def _is_open(self, model: ModelResult) -> bool:
        if self._extent == "failures":
            return model.verdict is not Verdict.PASS
        return not self._is_folded(model)

    def _rungs(self, model: ModelResult) -> Sequence[VariantResult]:
        if self._extent == "failures":
            return [variant for variant in model.variants if variant.verdict is not Verdict.PASS]
        return model.rungs

    def _model(
        self, model: ModelResult, title: str, room: _Room, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        yield from _wrapped(_heading(model, title), console, options)
        if model.error is not None:
            return
        rungs = room.take(self._rungs(model), lambda rung: len(rung.metrics) or 1)
        if rungs:
            yield Text("")
            beside = model.is_comparison and all(rung.error is None for rung in rungs)
            table = terminal_tables.comparison if beside else terminal_tables.variants
            yield from table(model, [room.cut(rung) for rung in rungs], options.max_width)
        taken = {id(rung) for rung in rungs}
        told = replace(model, variants=tuple(one for one in model.variants if id(one) in taken))
        below = [*_ladders(told), *_findings(told)]
        below += [Text(f"note: {plain(note, 2000)}", style="dim") for note in model.notes]
        if rungs and below:
            yield Text("")
        for line in room.take(below):
            yield from _wrapped(line, console, options, 2)


def _outcome(report: Report) -> Text:
    """The verdict and what it is of; of a comparison, which judges nothing, what it found."""
    verdict = (f"{wording.MARKS[report.verdict]} {report.verdict.value}", STYLES[report.verdict])
    if report.verdict is Verdict.PASS and wording.comparisons(report):
        return Text(wording.headline(report))
    return Text.assemble(verdict, f"  {wording.headline(report)}")


def _told(problem: Problem, why: Explanation | None, console: Console, options: ConsoleOptions) -> Iterator[Text]:
    """A problem in full."""
    mark = (f"{wording.MARKS[problem.verdict]} ", STYLES[problem.verdict])
    rule = (f" ({problem.rule})", "dim") if problem.finding is not None else ""
    told = Text.assemble(mark, (problem.where, "bold"), f"  {problem.message}", rule)
    yield from _hung(told, console, options)
    for line in () if why is None else _explanation(why):
        yield from _wrapped(line, console, options, 2)


def _again(problems: Sequence[Problem], console: Console, options: ConsoleOptions) -> Iterator[Text]:
    """What did not pass in few lines, so that it is on the last screen of a long run."""
    if not problems:
        return
    only_warnings = all(one.verdict is Verdict.WARN for one in problems)
    yield Text("Warnings" if only_warnings else "What did not pass", "bold")
    told = wording.in_short(problems)
    room = MOST_LAST_LINES
    for position, lines in enumerate(_in_room(told[: room + 1], console, options)):
        left = len(told) - position
        room -= len(lines)
        if room < (left > 1):
            yield Text(f"… and {left:,} more, at the top", "dim")
            return
        yield from lines


def _in_room(told: Sequence[Short], console: Console, options: ConsoleOptions) -> list[list[Text]]:
    """The lines of each: all where there is room, else the first of what failed and why, else of what failed."""
    whats = [list(_hung(_what(one, options.max_width), console, options)) for one in told]
    whys = [list(_wrapped(Text(one.why), console, options, 2)) if one.why else [] for one in told]
    cut_whats, cut_whys = ([_cut(lines, options.max_width) for lines in each] for each in (whats, whys))
    for first, second in ((whats, whys), (cut_whats, cut_whys)):
        together = [[*what, *why] for what, why in zip(first, second, strict=True)]
        if sum(map(len, together)) <= MOST_LAST_LINES:
            return together
    return cut_whats


def _what(one: Short, width: int) -> Text:
    """What failed; long names leave it room."""
    mark = (f"{wording.MARKS[one.verdict]} ", STYLES[one.verdict])
    return Text.assemble(mark, (_middle_out(one.where, width - 4), "bold"), f"  {one.what}")


def _middle_out(text: str, longest: int) -> str:
    """A text without its middle where it is too long: names that are alike differ at either end."""
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


def _cut(lines: Sequence[Text], width: int) -> list[Text]:
    """The first lines of a text, the last of which says whether there are more."""
    first = [line.copy() for line in lines[:MOST_LINES_EACH]]
    if len(lines) > MOST_LINES_EACH:
        first[-1].truncate(width - 2)
        first[-1].rstrip()
        first[-1].append(" …")
    return first


def _hung(text: Text, console: Console, options: ConsoleOptions) -> Iterator[Text]:
    """The lines of a text that begins with a mark, which stands out to their left, beside the first word."""
    text.plain = text.plain.replace(" ", _JOINT, 1)
    for position, line in enumerate(_wrapped(text, console, options.update(width=options.max_width - 2))):
        line.pad_left(2 * bool(position))
        yield line


def _wrapped(text: Text, console: Console, options: ConsoleOptions, indent: int = 0) -> Iterator[Text]:
    """The lines of a text, none of which breaks an interval or a number from its unit; indented, the rest further."""
    text.plain = _WHOLE.sub(lambda found: found[0].replace(" ", _JOINT), text.plain)
    for position, line in enumerate(text.wrap(console, options.max_width - 2 * indent)):
        line.plain = line.plain.replace(_JOINT, " ")
        line.pad_left(indent * (1 + bool(position)))
        yield line


def _explanation(why: Explanation) -> Iterator[Text]:
    """Cause, proof, place and remedy, then the lines for the manifest."""
    for label, sentence in why.sentences:
        rule = f" ({why.rule})" if label == "Cause" and why.rule else ""
        yield Text.assemble((f"{label}: ", "bold"), sentence, (rule, "dim"))
    if why.change:
        yield Text(why.change + (":" if why.patch else ""))
    for line in why.patch:
        yield Text(f"  {line}" + ("," if line is not why.patch[-1] else ""))


def _unfolding(folded: Sequence[ModelResult], how: str) -> Text:
    """How to see what models that pass do not show, whether values changed, and whether there is anything to read."""
    metrics = [metric for model in folded for variant in model.variants for metric in variant.metrics]
    changed = sum(map(wording.moved, metrics))
    notes = sum(len(wording.findings(model)) + len(model.notes) for model in folded)
    since = f", {changed:,} of which changed since the baseline," if changed else ""
    more = f" and {wording.count(notes, 'note')}" if notes else ""
    return Text(f"{how} all of their figures{since}{more}".removesuffix(","), "dim")


def _ladders(model: ModelResult) -> Iterator[Text]:
    """A line for each diagnosis: where on the way from the reference it is lost."""
    for variant in model.variants:
        if (found := variant.diagnosis) is None or not found.ladder:
            continue
        metric = next((one.metric for one in variant.metrics if one.name == found.metric), found.metric)
        rungs = " → ".join(_rung(one, metric) for one in found.ladder)
        yield Text.assemble((f"{plain(variant.name)}, {plain(found.metric)} by rung: ", "bold"), rungs)


def _rung(one: Rung, metric: str) -> str:
    value, decibels = wording.rung(one, metric)
    beside = plain(one.note) if one.note is not None else decibels
    return f"{plain(one.name)} {value}" + (f" ({beside})" if beside else "")


def _heading(model: ModelResult, title: str) -> Text:
    heading = Text.assemble((title, "bold"), (f"  {model.reference.kind} {plain(model.reference.path)}", "dim"))
    if model.is_comparison:
        others = " and ".join(plain(variant.name) for variant in model.variants)
        heading = Text.assemble(("A ", "dim"), (title, "bold"), ("   B ", "dim"), (others, "bold"))
    examples = max((m.examples for v in model.variants for m in v.metrics), default=0)
    if examples:
        heading.append(f"  {examples:,} examples", "dim")
    if model.error is not None:
        heading.append(f"  {wording.WORDS[Verdict.ERROR]}", STYLES[Verdict.ERROR])
    return heading


def _findings(model: ModelResult) -> Iterator[Text]:
    """Each finding once, with all the variants that it is of; then why intervals are missing."""
    for finding, names in wording.findings(model):
        style = {"error": "bold red", "warning": "yellow", "note": "dim"}[finding.severity]
        whose = f"{', '.join(map(plain, names))}: " if names else ""
        what = f"{whose}{wording.told(finding)} "
        severity = (f"{wording.label(finding)}: ", style if finding.ignored is None else "dim")
        yield Text.assemble(severity, what, (f"({plain(finding.rule)})", "dim"))
    for note, names in wording.missing_intervals(model).items():
        yield Text(f"no interval for {', '.join(map(plain, names))}: {plain(note)}", "dim")
