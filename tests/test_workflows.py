"""The workflows, those of this repository and those that the documents show, are valid, safe, and use what exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.github_api import GitHub, Pull, Token
from tests.sample import fixed
from tests.workflows import ACTION, DECLARED, DOCUMENTS, PROJECT, Source, own, shown, tool, valid, workflows
from tflite_guard.reports import FORMATS

PAGE = (ROOT / "docs/github-action.md").read_text()
SCHEMAS = {
    ".github/workflows/": "vendor.github-workflows",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
    ".circleci/config.yml": "vendor.circle-ci",
    "azure-pipelines.yml": "vendor.azure-pipelines",
}
each_workflow = pytest.mark.parametrize("source", workflows(), ids=lambda source: source.label)
commenting = pytest.mark.parametrize(
    "source",
    [one for one in shown() if "workflow_run" in one.text and one.is_workflow],
    ids=lambda source: source.label,
)


def audit(folder: Path) -> subprocess.CompletedProcess[str]:
    strictest = ("--offline", "--persona=auditor", "--collect=all", "--strict-collection", "--no-progress")
    return tool("zizmor", *strictest, folder)


def test_the_action_and_the_updates_are_valid() -> None:
    valid("vendor.github-actions", ROOT / "action.yml")
    valid("vendor.dependabot", ROOT / ".github/dependabot.yml")


@pytest.mark.parametrize("path", SCHEMAS)
def test_every_example_is_valid(path: str, tmp_path: Path) -> None:
    sources = [source for source in own() + shown() if source.path.startswith(path)]
    assert sources
    valid(SCHEMAS[path], *(source.write(tmp_path / source.label) for source in sources))


def test_the_workflows_of_this_repository_have_no_findings(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    shutil.copy(ROOT / "action.yml", tmp_path)
    audited = audit(tmp_path)
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_every_finding_that_is_ignored_has_its_reason() -> None:
    for source in workflows():
        for line in source.text.splitlines():
            if "zizmor:" in line:
                assert re.search(r"# zizmor: ignore\[[a-z-]+\] \w+ \w+ \w+", line), line


@each_workflow
def test_what_users_copy_has_no_findings(source: Source, tmp_path: Path) -> None:
    # The documents name the Action by its tag, for people; a linter asks for the commit that they are told to pin.
    pinned = source.text.replace(f"{ACTION}@v1", f"{ACTION}@{'0' * 40} # v1.0.0")
    Source(source.label, source.path, pinned).write(tmp_path)
    audited = audit(tmp_path)
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_other_actions_are_pinned_to_one_commit_each() -> None:
    pins: dict[str, set[str]] = {}
    for source in workflows():
        for action, rest in re.findall(r"uses: ([\w./-]+)@(.*)", source.text):
            if action != ACTION:
                assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", rest), f"{source.label}: {action}@{rest}"
                pins.setdefault(action, set()).add(rest)
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}
    assert "actions/checkout" in pins


@each_workflow
def test_only_inputs_and_outputs_that_exist_are_used(source: Source) -> None:
    ours = [step for step in source.steps() if step.get("uses", "").partition("@")[0] in (ACTION, "./")]
    for step in ours:
        assert set(step.get("with", {})) <= set(DECLARED["inputs"])
    named = {step["id"] for step in ours if "id" in step}
    for name, output in re.findall(r"steps\.([\w-]+)\.outputs\.([\w-]+)", source.text):
        assert name not in named or output in DECLARED["outputs"], output


@each_workflow
def test_the_job_outlives_the_time_that_a_model_may_take(source: Source) -> None:
    """Else GitHub kills the job, and nothing is reported."""
    for job in source.content["jobs"].values():
        for step in job.get("steps", []):
            if step.get("uses", "").partition("@")[0] in (ACTION, "./"):
                seconds = float(step.get("with", {}).get("timeout", DECLARED["inputs"]["timeout"]["default"]))
                assert job.get("timeout-minutes", 360) * 60 > seconds


@each_workflow
def test_a_report_is_kept_from_where_the_action_says_that_it_is(source: Source) -> None:
    ours = {step.get("id") for step in source.steps() if step.get("uses", "").partition("@")[0] in (ACTION, "./")}
    if source.path.endswith("/steps.yml"):
        assert ours <= {"guard"}, "takes the place of a step that a later one refers to"
    for step in source.steps():
        if step.get("with", {}).get("name", "").startswith("tflite-guard-report") and "upload" in step["uses"]:
            found = re.fullmatch(r"\$\{\{ (steps\.([\w-]+)\.outputs\.report-json) \}\}", step["with"]["path"])
            assert found is not None
            assert found[2] in ours
            assert step["if"] == f"${{{{ !cancelled() && {found[1]} != '' }}}}"


def test_what_one_workflow_keeps_the_other_takes() -> None:
    def artifacts(action: str) -> list[tuple[str, Any]]:
        return [
            (step["with"]["name"], job.get("strategy"))
            for source in shown()
            if source.is_workflow and source.label.startswith("github-action.md")
            for job in source.content["jobs"].values()
            for step in job["steps"]
            if step.get("uses", "").startswith(f"actions/{action}@")
        ]

    assert len(artifacts("upload-artifact")) == 2
    assert artifacts("upload-artifact") == artifacts("download-artifact")


def table(heading: str) -> list[list[str]]:
    section = re.search(rf"^## {heading}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    assert section is not None
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section[1], re.MULTILINE)
    return [[name, *(cell.strip() for cell in cells.split("|"))] for name, cells in rows]


def test_the_tables_of_inputs_and_outputs_are_those_of_the_action() -> None:
    def default(declared: dict[str, Any]) -> str:
        return f"`{declared['default']}`" if declared["default"] else ""

    inputs, outputs = DECLARED["inputs"].items(), DECLARED["outputs"].items()
    assert table("Inputs") == [[name, default(declared), declared["description"]] for name, declared in inputs]
    assert table("Outputs") == [[name, declared["description"]] for name, declared in outputs]


def test_the_readme_shows_the_documented_workflow() -> None:
    found = [source for source in shown() if source.label.startswith("README.md") and source.is_workflow]
    assert len(found) == 1, "that for private repositories; the page has those for public ones"
    for source in found:
        assert source.text in PAGE, source.path


def test_the_formats_for_other_ci_are_those_that_exist() -> None:
    page = (ROOT / "docs/other-ci.md").read_text()
    assert dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", page, re.MULTILINE)) == {
        one.name: one.file for one in FORMATS.values()
    }


def test_the_version_that_the_documents_install_is_this_one() -> None:
    versions = {
        version
        for page in DOCUMENTS
        for version in re.findall(r"tflite-guard(?:\[[\w,-]+\])?(?:==|:)(\d[\w.]*)", page.read_text())
    }
    assert versions == {PROJECT["version"]}


def test_who_comments_runs_nothing_of_the_pull_request() -> None:
    found = [source for source in workflows() if "workflow_run" in source.content["on"]]
    assert len(found) >= 2
    for source in found:
        for step in source.steps():
            assert "ref" not in step.get("with", {}), "the default branch only"
            uses = step.get("uses", "")
            # Ours runs from its own checkout; users install a release instead.
            assert not uses.startswith("actions/checkout") or source.label == "example-comment.yml"
        permissions = {job: set(settings["permissions"]) for job, settings in source.content["jobs"].items()}
        assert permissions == {"comment": permissions["comment"]}
        assert permissions["comment"] <= {"actions", "contents", "pull-requests"}
        named = {other.content["name"] for other in workflows() if other is not source}
        assert set(source.content["on"]["workflow_run"]["workflows"]) <= named


def test_the_example_of_this_repository_is_the_documented_one() -> None:
    """Only where the manifest lies, where the tool comes from, and names differ."""

    def commands(label: str) -> list[tuple[str, str]]:
        (source,) = [one for one in own() + shown() if one.label == label]
        return [
            (step.get("uses", "").partition("@")[0].replace("./", ACTION), step.get("if", ""))
            for job in list(source.content["jobs"].values())[:1]
            for step in job["steps"]
            if "uses" in step
        ]

    assert commands("example.yml") == commands("github-action.md-0")
    documented = commands("github-action.md-1")
    assert [step for step in commands("example-comment.yml") if step[0] != "actions/checkout"] == documented


def test_ci_covers_what_the_package_supports() -> None:
    (ci,) = [source for source in own() if source.label == "ci.yml"]
    matrix = ci.content["jobs"]["tests"]["strategy"]["matrix"]
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == classifiers
    (wanted,) = [one for one in PROJECT["optional-dependencies"]["tensorflow"] if one.startswith("tensorflow>")]
    low, high = re.findall(r"2\.(\d+)", wanted)
    assert matrix["tensorflow"] == [f"2.{minor}" for minor in range(int(low), int(high))]


def test_ci_runs_the_commands_of_the_readme_and_of_contributors() -> None:
    (ci,) = [source for source in own() if source.label == "ci.yml"]
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"<!-- command: tests -->\n```sh\n(.+)\n```", readme)
    assert command is not None
    runs = [step["run"] for step in ci.steps() if "run" in step]
    assert command[1] in runs
    assert ".ci/run" in runs


@commenting
def test_the_documented_workflow_comments_on_a_pull_request_from_a_fork(source: Source, tmp_path: Path) -> None:
    """The step to the letter, where its environment is installed already."""
    (step,) = [one for one in source.steps() if one["name"] == "Comment"]
    matrix = source.content["jobs"]["comment"].get("strategy", {}).get("matrix", {})
    runs: list[dict[str, str]] = [{"APP": app} for app in matrix.get("app", [])] or [{}]
    assert set(step["env"]) == {"GITHUB_TOKEN", *runs[0]}
    report, event, tools = tmp_path / "report/report.json", tmp_path / "event.json", tmp_path / "tools"
    report.parent.mkdir()
    report.write_text(FORMATS["json"].text(fixed()))
    head = {"head_branch": "fix", "head_repository": {"full_name": "ada/app", "owner": {"login": "ada"}}}
    event.write_text(json.dumps({"workflow_run": {"id": 40, "run_attempt": 1, "head_sha": "a" * 40, **head}}))
    (tmp_path / "venv").symlink_to(sys.prefix)
    tools.mkdir()
    (tools / "python3").write_text("#!/bin/sh\nexit 0\n")
    (tools / "python3").chmod(0o755)
    github = GitHub()
    github.tokens["secret"] = Token("github-actions[bot]")
    github.pulls = {7: Pull(7, "a" * 40, "ada/app", "fix"), 8: Pull(8, "b" * 40, "eve/app", "fix")}
    with github.serve():
        environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "GITHUB_TOKEN": "secret",
            "GITHUB_EVENT_NAME": "workflow_run",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_REPOSITORY": github.repository,
            "GITHUB_API_URL": github.url,
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_RUN_ID": "50",
            "GITHUB_RUN_ATTEMPT": "1",
            "RUNNER_TEMP": str(tmp_path),
        }
        command = ["bash", "-e", "-c", step["run"]]
        for run in runs:
            finished = subprocess.run(
                command, env=environment | run, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert finished.returncode == 0, finished.stdout + finished.stderr
            assert "secret" not in finished.stdout + finished.stderr
    assert len(github.comments) == len(runs), "each has a comment of its own"
    for comment in github.comments:
        assert (comment.number, comment.login) == (7, "github-actions[bot]")
        assert "secret" not in comment.body
