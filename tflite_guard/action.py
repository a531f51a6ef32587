"""The GitHub Action: INPUT_* and GITHUB_* variables to the calls that the command line makes, and results to GitHub.

Whatever can be wrong with the comment (a fork's token, a rate limit, a server that is down) is a warning: it changes
neither the verdict nor the exit code.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tflite_guard import checking, commenting, saving
from tflite_guard.errors import EvaluationError, GuardError, ManifestError, UsageError
from tflite_guard.files import write_atomically
from tflite_guard.files.git import tracked
from tflite_guard.manifest import search
from tflite_guard.reports import FORMATS, markdown, wording
from tflite_guard.reports.annotations import problem_annotations, remark
from tflite_guard.reports.annotations import render as annotations_of
from tflite_guard.reports.commit import Commit
from tflite_guard.results import Report, Verdict
from tflite_guard.run import sharding
from tflite_guard.run.jobs import Options
from tflite_guard.run.steps import Event
from tflite_guard.text.plain import logged, plain
from tflite_guard.vocabulary import COMMENT_ON, DIAGNOSE, FAIL_ON, LONGEST_TIMEOUT, DiagnoseUse

COMMENT_FILE = "comment.md"
OPERATORS = "operators"
OUTPUTS = {"report-json": "json", "report-markdown": "markdown", "sarif": "sarif", "junit": "junit"}
"""Outputs that are paths, with the rendering that each is of."""
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
"""What YAML 1.2 and GitHub's own actions take for booleans."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of action.yml."""

    manifest: tuple[str, ...]
    models: tuple[str, ...]
    shard: tuple[int, int] | None
    costs: str | None
    merge: tuple[str, ...]
    fail_on: str
    annotations: bool
    summary: bool
    comment: str
    comment_id: str
    comment_author: str | None
    report_dir: str
    formats: tuple[str, ...]
    cache_dir: str | None
    baseline: str | None
    diagnose: DiagnoseUse
    save_operator: bool
    timeout: float
    data_root: tuple[str, ...]
    allow_code: bool
    github_token: str
    working_directory: str
    allow_pull_request_target: bool

    @property
    def operators_dir(self) -> str:
        """Where operators are saved."""
        return os.path.join(self.report_dir, OPERATORS)

    @property
    def options(self) -> Options:
        """How to run."""
        return Options(
            models=self.models,
            cache_dir=checking.cache_folder(self.cache_dir),
            timeout=self.timeout,
            allow_code=self.allow_code,
            data_roots=self.data_root,
            diagnose=self.diagnose,
            shard=self.shard,
            costs=self.costs,
            scores=checking.scores_folder(self.report_dir),
        )

    @property
    def renderings(self) -> tuple[str, ...]:
        """What is written to the report folder: always report.json."""
        return tuple(dict.fromkeys(("json", *(self.formats or FORMATS))))

    @staticmethod
    def read(environ: MutableMapping[str, str]) -> Inputs:
        """The inputs, which the runner gives as variables; the token is taken out of the environment.

        Raises:
            UsageError: an input has a value that means nothing; the message names it.
        """
        token = environ.pop("INPUT_GITHUB-TOKEN", "").strip()
        get = _Reader(environ)
        found = Inputs(
            manifest=get.lines("manifest"),
            models=get.lines("models"),
            shard=get.shard("shard"),
            costs=get.text("costs") or None,
            merge=get.lines("merge"),
            fail_on=get.one_of("fail-on", FAIL_ON),
            annotations=get.boolean("annotations", True),
            summary=get.boolean("summary", True),
            comment=get.one_of("comment", (*COMMENT_ON, "off")),
            comment_id=get.text("comment-id") or "tflite-guard",
            comment_author=get.text("comment-author") or None,
            report_dir=get.text("report-dir") or "tflite-guard-report",
            formats=get.some_of("formats", FORMATS),
            cache_dir=get.text("cache-dir") or None,
            baseline=get.text("baseline") or None,
            diagnose=cast(DiagnoseUse, get.one_of("diagnose", DIAGNOSE)),
            save_operator=get.boolean("save-operator", False),
            timeout=get.seconds("timeout", 3600.0),
            data_root=get.lines("data-root"),
            allow_code=get.boolean("allow-code", False),
            github_token=token,
            working_directory=get.text("working-directory") or ".",
            allow_pull_request_target=get.boolean("allow-pull-request-target", False),
        )
        if found.save_operator and found.diagnose == "never":
            get.problems.append("input save-operator: needs a diagnosis; set diagnose to auto or always")
        if found.merge and found.shard is not None:
            get.problems.append("input merge: makes one report of all shards, in a job of its own without input shard")
        if get.problems:
            raise UsageError("; ".join(get.problems))
        return found


class _Reader:
    """Inputs by name; an empty one means its default, and one that means nothing is a problem."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        # The runner replaces spaces alone: a dash stays, so a shell could not read this variable.
        return self._environ.get(f"INPUT_{name.upper()}", "").strip()

    def lines(self, name: str) -> tuple[str, ...]:
        return tuple(line.strip() for line in self.text(name).splitlines() if line.strip())

    def one_of(self, name: str, known: Sequence[str]) -> str:
        value = self.text(name) or known[0]
        self._must_be(name, value, known)
        return value

    def some_of(self, name: str, known: Collection[str]) -> tuple[str, ...]:
        values = self.text(name).replace(",", " ").split()
        for value in values:
            self._must_be(name, value, known)
        return tuple(values)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.text(name)
        if value not in ("", *TRUE, *FALSE):
            self._must_be(name, value, (TRUE[0], FALSE[0]))
        return value in TRUE if value else default

    def seconds(self, name: str, default: float) -> float:
        value = self.text(name)
        try:
            seconds = float(value) if value else default
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= LONGEST_TIMEOUT:
            self.problems.append(
                f"input {name}: {plain(value, 80)!r} is not a number of seconds over 0, at most a year"
            )
        return seconds

    def shard(self, name: str) -> tuple[int, int] | None:
        value = self.text(name)
        try:
            return sharding.parse(value) if value else None
        except ValueError as error:
            self.problems.append(f"input {name}: {plain(str(error))}")
            return None

    def _must_be(self, name: str, value: str, known: Collection[str]) -> None:
        if value not in known:
            self.problems.append(f"input {name}: {plain(value, 80)!r} is not one of {', '.join(known)}")


def run(environ: MutableMapping[str, str]) -> int:
    """Do what a step asks for and give its exit code.

    Raises:
        GuardError: there are no results: wrong inputs, an invalid manifest, a run that could not be done. The summary,
            the outputs and, unless the inputs are wrong, the report and the comment say so already.
    """
    step = _Step(environ)
    try:
        inputs = Inputs.read(environ)
        step.annotates, step.summarizes = inputs.annotations, inputs.summary
        _refuse_strangers(environ, inputs)
        step.enter(inputs)
    except GuardError as error:
        step.complain(error)
        step.tell(checking.without_results(error), None)
        raise
    failure: Exception | None = None
    try:
        report = _check(step, inputs)
    except GuardError as error:
        step.complain(error)
        failure, report = error, checking.without_results(error)
    except Exception as error:  # a step that ends in a traceback still has outputs, a summary and a comment
        bug = EvaluationError("bug", "tflite-guard ended in an error of its own; see the log")
        step.complain(bug)
        failure, report = error, checking.without_results(bug)
    unwritten = _written(step, report, inputs)
    step.tell(report, inputs)
    step.output("comment-url", _comment(step, report, inputs, environ) or "")
    if unwritten is not None:
        step.complain(unwritten)
    problem = failure or unwritten
    if problem is None:
        return checking.exit_code(report, inputs.fail_on)
    if not isinstance(problem, GuardError) or checking.exit_code(problem, inputs.fail_on) != 0:
        raise problem
    return 0


def _written(step: _Step, report: Report, inputs: Inputs) -> GuardError | None:
    try:
        checking.write(report, (), inputs.report_dir, inputs.renderings)
        if inputs.save_operator and report.models:
            manifests = checking.load_all(_manifests(inputs.manifest), inputs.data_root, inputs.allow_code)
            for line in saving.save(report, manifests, inputs.options, inputs.operators_dir):
                step.say(line)
    except GuardError as error:
        return error
    return None


def _refuse_strangers(environ: MutableMapping[str, str], inputs: Inputs) -> None:
    if environ.get("GITHUB_EVENT_NAME") == "pull_request_target" and not inputs.allow_pull_request_target:
        raise UsageError(
            "refused on pull_request_target: it hands this repository's secrets to what a stranger wrote; run on "
            "pull_request and comment from workflow_run (docs/github-action.md), or set allow-pull-request-target"
        )


def _check(step: _Step, inputs: Inputs) -> Report:
    if inputs.merge:
        return checking.merged(inputs.merge)
    return checking.check(
        _manifests(inputs.manifest),
        inputs.options,
        baseline=inputs.baseline,
        on_event=step.progress,
    )


def _manifests(named: Sequence[str]) -> list[str]:
    try:
        found = search.find(named)
    except UsageError as error:
        raise UsageError(f"input manifest: {plain(str(error), 1000)}") from None
    for path in found:
        if not os.path.lexists(path):
            raise UsageError(
                f"input manifest: {plain(path)} does not exist; name it relative to the working directory, one per line"
            )
    return found


def _comment(step: _Step, report: Report, inputs: Inputs, environ: MutableMapping[str, str]) -> str | None:
    """Comment as the inputs say and give its address; whatever goes wrong is a warning and a file.

    A shard has no comment: it knows a part, and would write over the others'.
    """
    if (
        inputs.shard is not None
        or inputs.comment == "off"
        or not environ.get("GITHUB_EVENT_NAME", "").startswith(("pull_request", "issue_comment"))
    ):
        return None
    try:
        if not inputs.github_token:
            raise UsageError("no comment without a token; set the input github-token, or comment to off")
        context = commenting.context(environ, None, None)
        chosen = {"when": inputs.comment, "comment_id": inputs.comment_id}
        posted = commenting.comment(report, context, inputs.github_token, author=inputs.comment_author, **chosen)
    except GuardError as error:
        step.warn("tflite-guard: no comment", f"{error} {_kept(step, report, inputs)}")
        return None
    step.say(f"comment {posted.action}: {posted.url or posted.reason}")
    if posted.reason and posted.action in ("created", "updated"):
        step.warn("tflite-guard: comment", posted.reason)
    return posted.url


def _kept(step: _Step, report: Report, inputs: Inputs) -> str:
    """Keep the comment as a file, and say where."""
    file = os.path.join(inputs.report_dir, COMMENT_FILE)
    text = commenting.body(report, step.commit).encode()
    try:
        checking.filed(file, lambda: write_atomically(file, text, follow=False))
    except GuardError as error:
        return str(error)
    return f"The comment is in {step.shown(file)}."


class _Step:
    """What a step of a workflow can write to: its log, its annotations, its summary, its outputs."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self.annotates = self.summarizes = True
        self._workspace = os.path.realpath(environ.get("GITHUB_WORKSPACE") or ".")
        self._working_directory = "."
        self._summary = environ.get("GITHUB_STEP_SUMMARY")
        self._outputs = environ.get("GITHUB_OUTPUT")
        self.commit = Commit.known(*map(environ.get, ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_SHA")))

    def enter(self, inputs: Inputs) -> None:
        """Go to the working directory, and see that nothing in it leads elsewhere or is left from before.

        Raises:
            UsageError: a folder is not there, or not to be trusted.
        """
        if not os.path.isdir(self._workspace):
            raise UsageError(f"GITHUB_WORKSPACE: there is no folder {plain(self._workspace)}")
        os.chdir(self._workspace)
        folder = self._inside(inputs.working_directory, "working-directory")
        if not os.path.isdir(folder):
            shown = plain(inputs.working_directory)
            raise UsageError(f"input working-directory: there is no folder {shown}; is the checkout done?")
        os.chdir(folder)
        self._working_directory = inputs.working_directory
        report_dir = self._inside(inputs.report_dir, "report-dir")
        if os.path.lexists(report_dir) and not os.path.isdir(report_dir):
            raise UsageError(f"input report-dir: {plain(inputs.report_dir)} is a file; name a folder")
        for name in inputs.renderings:
            # What an earlier run or the commit left there would be taken for this run's.
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(report_dir, FORMATS[name].file))
        checking.forget_node_data(report_dir)
        saving.forget(os.path.join(report_dir, OPERATORS))
        if inputs.cache_dir is not None:
            self._refuse_foreign(self._inside(inputs.cache_dir, "cache-dir"), plain(inputs.cache_dir))

    def _inside(self, path: str, name: str) -> str:
        """Where a path really is: in the workspace, since a pull request can change its links, and the rest is lost."""
        real = os.path.realpath(path)
        if os.path.commonpath([real, self._workspace]) != self._workspace:
            raise UsageError(f"input {name}: {plain(path)} leads out of the workspace")
        return real

    def _refuse_foreign(self, folder: str, shown: str) -> None:
        """Refuse a cache that may have come with the commit: its results would be the pull request's own."""
        if not os.path.isdir(folder) or not os.listdir(folder):
            return
        match tracked(folder):
            case True:
                raise UsageError(f"input cache-dir: {shown} is committed, so its results cannot be trusted; remove it")
            case None:
                raise UsageError(
                    f"input cache-dir: {shown} holds results that may have come with the commit, since git's index "
                    "cannot be read; check out with actions/checkout, or give an empty folder"
                )

    def shown(self, file: str) -> str:
        """A file of the working directory as later steps find it, by the names that the inputs gave."""
        return os.path.normpath(os.path.join(self._working_directory, file))

    def _report(self, inputs: Inputs, rendering: str) -> str:
        return self.shown(os.path.join(inputs.report_dir, FORMATS[rendering].file))

    def say(self, text: str) -> None:
        """Lines for the log that no text of a pull request can turn into commands."""
        for line in text.splitlines():
            print(logged(line), flush=True)

    def progress(self, event: Event) -> None:
        """One line of the log for each variant that is done."""
        if event.phase == "fetch" and event.done == event.total == 0:
            self.say(f"{plain(event.model, 80)}: fetching {plain(event.file or '', 400)}")
        if event.phase == "variant":
            name = f"{plain(event.model, 80)}: {plain(event.variant or '', 80)}"
            self.say(f"{name} evaluated ({event.done}/{event.total})")

    def warn(self, title: str, message: str) -> None:
        """A warning on the run's page."""
        print(remark("warning", title, message), flush=True)

    def complain(self, error: GuardError) -> None:
        """Annotate an error that is not a result."""
        if not self.annotates:
            return
        if isinstance(error, ManifestError):
            print(problem_annotations(error.problems), end="", flush=True)
        else:
            print(remark("error", "tflite-guard", str(error)), flush=True)

    def tell(self, report: Report, inputs: Inputs | None) -> None:
        """The report in the log, as annotations, on the summary, and as outputs; `inputs` None where they are wrong."""
        json = self._report(inputs, "json") if inputs else ""
        rest = f"The log of this step holds everything, and so does {json}."
        if report.models:
            stop = secrets.token_hex(16)
            print(f"::stop-commands::{stop}")
            self.say(FORMATS["text"].text(report))
            print(f"::{stop}::", flush=True)
        if self.annotates and report.models:
            print(annotations_of(report, rest), end="", flush=True)
        if self.summarizes:
            self._append(self._summary, markdown.render(report, rest=rest, commit=self.commit))
        variants, references = wording.verdicts(report)
        verdicts = [*variants, *references]
        self.output("verdict", report.verdict.value)
        self.output("failed-count", str(sum(one in (Verdict.FAIL, Verdict.ERROR) for one in verdicts)))
        self.output("warned-count", str(verdicts.count(Verdict.WARN)))
        self.output("checked-count", str(len(variants)))
        for name, rendering in OUTPUTS.items():
            self.output(name, self._report(inputs, rendering) if inputs and rendering in inputs.renderings else "")
        if inputs is None:
            self.output("comment-url", "")

    def output(self, name: str, value: str) -> None:
        """An output of the step; a random delimiter, so that no value can hold it."""
        delimiter = secrets.token_hex(16)
        self._append(self._outputs, f"{name}<<{delimiter}\n{value}\n{delimiter}\n")

    def _append(self, path: str | None, text: str) -> None:
        if path:
            checking.filed(path, lambda: _append(path, text))


def _append(path: str, text: str) -> None:
    with Path(path).open("a", encoding="utf-8") as stream:
        stream.write(text)
