"""The GitHub Action: INPUT_* and GITHUB_* variables to the calls that the command line makes, and results to GitHub.

Whatever can be wrong with the comment (a fork's token, a rate limit, a server that is down) is a warning: it changes
neither the verdict nor the exit code.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tflite_guard import checking, github
from tflite_guard.errors import GuardError, ManifestError, UsageError
from tflite_guard.files import holds, write_atomically
from tflite_guard.pipeline import Options
from tflite_guard.plain import logged, plain
from tflite_guard.reports import FILES, FORMATS, markdown
from tflite_guard.reports.annotations import problem_annotations, remark
from tflite_guard.reports.annotations import render as annotations_of
from tflite_guard.results import Report, Verdict
from tflite_guard.steps import Event
from tflite_guard.vocabulary import COMMENT_ON, DEFAULT_MANIFEST, FAIL_ON

COMMENT_FILE = "comment.md"
OUTPUTS = {"report-json": "json", "report-markdown": "markdown", "sarif": "sarif", "junit": "junit"}
"""Outputs that are paths, with the rendering that each is of."""
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
"""What YAML 1.2 and GitHub's own actions take for booleans."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of action.yml."""

    manifest: tuple[str, ...]
    models: tuple[str, ...]
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
    timeout: float
    data_root: tuple[str, ...]
    allow_code: bool
    github_token: str
    working_directory: str
    allow_pull_request_target: bool

    @staticmethod
    def read(environ: MutableMapping[str, str]) -> Inputs:
        """The inputs, which the runner gives as variables; the token is taken out of the environment.

        Raises:
            UsageError: an input has a value that means nothing; the message names it.
        """
        token = environ.pop("INPUT_GITHUB-TOKEN", "").strip()
        get = _Reader(environ)
        return Inputs(
            manifest=get.lines("manifest") or (DEFAULT_MANIFEST,),
            models=get.lines("models"),
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
            timeout=get.seconds("timeout", 3600.0),
            data_root=get.lines("data-root"),
            allow_code=get.boolean("allow-code", False),
            github_token=token,
            working_directory=get.text("working-directory") or ".",
            allow_pull_request_target=get.boolean("allow-pull-request-target", False),
        )


class _Reader:
    """Inputs by name; an empty one means its default."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str:
        # The runner replaces spaces alone: a dash stays, so a shell could not read this variable.
        return self._environ.get(f"INPUT_{name.upper()}", "").strip()

    def lines(self, name: str) -> tuple[str, ...]:
        return tuple(line.strip() for line in self.text(name).splitlines() if line.strip())

    def one_of(self, name: str, known: Sequence[str]) -> str:
        value = self.text(name) or known[0]
        if value not in known:
            raise _unknown(name, value, known)
        return value

    def some_of(self, name: str, known: Any) -> tuple[str, ...]:
        values = self.text(name).replace(",", " ").split()
        for value in values:
            if value not in known:
                raise _unknown(name, value, known)
        return tuple(values)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.text(name)
        if value and value not in TRUE + FALSE:
            raise _unknown(name, value, (TRUE[0], FALSE[0]))
        return value in TRUE if value else default

    def seconds(self, name: str, default: float) -> float:
        value = self.text(name)
        try:
            seconds = float(value) if value else default
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise UsageError(f"input {name}: {plain(value, 80)!r} is not a number of seconds over 0")
        return seconds


def _unknown(name: str, value: str, known: Sequence[str]) -> UsageError:
    return UsageError(f"input {name}: {plain(value, 80)!r} is none of {', '.join(known)}")


def run(environ: MutableMapping[str, str]) -> int:
    """Do what a step asks for and give its exit code.

    Raises:
        GuardError: there is no report: wrong inputs, an invalid manifest, a run that could not be done. It is on the
            summary and in the outputs already.
    """
    step, fail_on = _Step(environ), FAIL_ON[0]
    try:
        inputs = Inputs.read(environ)
        step.annotates, step.summarizes, fail_on = inputs.annotations, inputs.summary, inputs.fail_on
        _refuse_strangers(environ, inputs)
        step.enter(inputs.working_directory)
        report = _check(step, inputs)
    except GuardError as error:
        step.fail(error)
        if checking.exit_code(error, fail_on) != 0:
            raise
        step.say(f"tflite-guard: {error}")
        return 0
    try:
        checking.write(report, (), inputs.report_dir, tuple(dict.fromkeys(("json", *(inputs.formats or FORMATS)))))
    finally:  # a folder that cannot be written must not hide the verdict
        step.tell(report, inputs)
    step.output("comment-url", _comment(step, report, inputs, environ) or "")
    return checking.exit_code(report, inputs.fail_on)


def comment(
    report: Report, context: github.Context, token: str, *, when: str, comment_id: str, author: str | None
) -> github.Posted:
    """Post or update the comment on a pull request, rendered from the report.

    An existing comment is always brought up to date; `when` says whether there is to be a new one: `always`, on
    `failures`, or `auto`, where anything failed, warned or changed since the baseline.

    Raises:
        UsageError, GitHubError: as `github.post`.
    """
    failed = report.verdict in (Verdict.FAIL, Verdict.ERROR)
    create = {"always": True, "failures": failed, "auto": markdown.has_news(report)}[when]
    body = markdown.render(report, markdown.COMMENT_LIMIT)
    return github.post(context, token, body, comment_id=comment_id, create=create, author=author)


def context(environ: MutableMapping[str, str], repository: str | None, pull_request: int | None) -> github.Context:
    """Where to comment: as the workflow's run says, or as named, which needs no workflow at all.

    Raises:
        UsageError: neither says enough.
    """
    if not environ.get("GITHUB_EVENT_NAME") and repository and pull_request:
        api, server = environ.get("GITHUB_API_URL"), environ.get("GITHUB_SERVER_URL")
        return github.by_hand(repository, pull_request, api_url=api, server_url=server)
    named = {"GITHUB_REPOSITORY": repository} if repository else {}
    found = github.context({**environ, **named})
    return (
        found
        if pull_request in (None, found.pull_request)
        else replace(found, pull_request=pull_request, head_sha=None, head=None)
    )


def _refuse_strangers(environ: MutableMapping[str, str], inputs: Inputs) -> None:
    if environ.get("GITHUB_EVENT_NAME") == "pull_request_target" and not inputs.allow_pull_request_target:
        raise UsageError(
            "refused on pull_request_target: it hands this repository's secrets to what a stranger wrote; run on "
            "pull_request and comment from workflow_run (docs/github-action.md), or set allow-pull-request-target"
        )


def _check(step: _Step, inputs: Inputs) -> Report:
    report_dir = step.inside(inputs.report_dir, "report-dir")
    if os.path.lexists(report_dir) and not os.path.isdir(report_dir):
        raise UsageError(f"input report-dir: {plain(inputs.report_dir)} is a file; name a folder")
    if inputs.cache_dir is not None:
        step.refuse_committed(step.inside(inputs.cache_dir, "cache-dir"), inputs.cache_dir)
    cache_dir = os.path.abspath(inputs.cache_dir) if inputs.cache_dir else checking.default_cache_dir()
    options = Options(models=inputs.models, cache_dir=cache_dir, timeout=inputs.timeout, allow_code=inputs.allow_code)
    return checking.check(
        _expanded(inputs.manifest),
        options,
        data_roots=inputs.data_root,
        baseline=inputs.baseline,
        on_event=step.progress,
    )


def _expanded(patterns: Sequence[str]) -> list[str]:
    """Manifests, globs among them expanded; pathlib follows no links under `**`, so a loop of links cannot hold us."""
    found = []
    for pattern in patterns:
        if not any(character in pattern for character in "*?["):
            found.append(pattern)
            continue
        matches = [] if os.path.isabs(pattern) else sorted(map(str, Path().glob(pattern)))
        if not matches:
            raise UsageError(f"input manifest: {plain(pattern)} matches nothing; globs are relative to the workspace")
        found += matches
    return found


def _comment(step: _Step, report: Report, inputs: Inputs, environ: MutableMapping[str, str]) -> str | None:
    """Comment as the inputs say and give its address; whatever goes wrong is a warning and a file."""
    if inputs.comment == "off" or not environ.get("GITHUB_EVENT_NAME", "").startswith(
        ("pull_request", "issue_comment")
    ):
        return None
    try:
        context = github.context(environ)
        if not inputs.github_token:
            raise UsageError("no comment without a token; set the input github-token, or comment to off")
        token, when, author = inputs.github_token, inputs.comment, inputs.comment_author
        posted = comment(report, context, token, when=when, comment_id=inputs.comment_id, author=author)
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
    text = markdown.render(report, markdown.COMMENT_LIMIT).encode()
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
        self._summary = environ.get("GITHUB_STEP_SUMMARY")
        self._outputs = environ.get("GITHUB_OUTPUT")

    def enter(self, folder: str) -> None:
        """Make a folder of the workspace the one that paths are relative to."""
        os.chdir(self._workspace)
        target = self.inside(folder, "working-directory")
        if not os.path.isdir(target):
            raise UsageError(f"input working-directory: there is no folder {plain(folder)}; is the checkout done?")
        os.chdir(target)

    def inside(self, path: str, name: str) -> str:
        """Where a path really is. A relative one must stay in the workspace: a pull request can change its links."""
        real = os.path.realpath(path)
        if not os.path.isabs(path) and os.path.commonpath([real, self._workspace]) != self._workspace:
            raise UsageError(f"input {name}: {plain(path)} leads out of the workspace")
        return real

    def refuse_committed(self, folder: str, shown: str) -> None:
        """Refuse a cache that came with the commit: its results would be the pull request's own."""
        if not os.path.isdir(folder):
            return
        index = os.path.join(self._workspace, ".git", "index")
        if holds(index, os.path.relpath(folder, self._workspace).encode() + b"/"):
            raise UsageError(
                f"input cache-dir: {plain(shown)} is committed, so its results cannot be trusted; remove it"
            )

    def shown(self, path: str) -> str:
        """A path as later steps find it: relative to the workspace."""
        real = os.path.abspath(path)
        inside = os.path.commonpath([real, self._workspace]) == self._workspace
        return os.path.relpath(real, self._workspace) if inside else real

    def say(self, text: str) -> None:
        """Lines for the log that no text of a pull request can turn into commands."""
        for line in text.splitlines():
            print(logged(line), flush=True)

    def progress(self, event: Event) -> None:
        """One line of the log for each variant that is done."""
        if event.phase == "variant":
            self.say(
                f"{plain(event.model, 80)}: {plain(event.variant or '', 80)} evaluated ({event.done}/{event.total})"
            )

    def warn(self, title: str, message: str) -> None:
        """A warning on the run's page."""
        print(remark("warning", title, message), flush=True)

    def tell(self, report: Report, inputs: Inputs) -> None:
        """The report in the log, as annotations, on the summary, and as outputs."""
        stop = secrets.token_hex(16)
        print(f"::stop-commands::{stop}")
        self.say(FORMATS["text"](report))
        print(f"::{stop}::", flush=True)
        if inputs.annotations:
            rest = f"the log of this step and {self.shown(os.path.join(inputs.report_dir, FILES['json']))} have all"
            print(annotations_of(report, rest), end="", flush=True)
        if inputs.summary:
            self._append(self._summary, markdown.render(report))
        verdicts = [variant.verdict for model in report.models for variant in model.variants]
        self.output("verdict", report.verdict.value)
        self.output("failed-count", str(sum(one in (Verdict.FAIL, Verdict.ERROR) for one in verdicts)))
        self.output("warned-count", str(verdicts.count(Verdict.WARN)))
        self.output("checked-count", str(len(verdicts)))
        for name, rendering in OUTPUTS.items():
            file = os.path.join(inputs.report_dir, FILES[rendering])
            written = rendering == "json" or not inputs.formats or rendering in inputs.formats
            self.output(name, self.shown(file) if written else "")

    def fail(self, error: GuardError) -> None:
        """An error that left no report."""
        problems = list(error.problems) if isinstance(error, ManifestError) else []
        if self.annotates and problems:
            print(problem_annotations(problems), end="", flush=True)
        elif self.annotates:
            print(remark("error", "tflite-guard", str(error)), flush=True)
        if self.summarizes:
            self._append(self._summary, markdown.failure(error))
        self.output("verdict", Verdict.ERROR.value)
        for name in ("failed-count", "warned-count", "checked-count"):
            self.output(name, "0")
        for name in (*OUTPUTS, "comment-url"):
            self.output(name, "")

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
