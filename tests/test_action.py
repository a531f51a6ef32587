"""The Action as a step of a workflow, without a container: variables and files in, what the runner reads out."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.conftest import EXAMPLES, manifest_of, only, run_cli, write_manifest
from tests.github_api import Fault, GitHub, Pull, Token
from tests.sample import COMMANDS, fixed
from tests.workflow_commands import Command, commands, outputs
from tests.workflows import DECLARED
from tflite_guard.action import Inputs
from tflite_guard.commenting import comment
from tflite_guard.errors import UsageError
from tflite_guard.github import by_hand
from tflite_guard.reports import markdown
from tflite_guard.saving import FILES
from tflite_guard.text.plain import plain

SHA = "a" * 40
SECRET = "ghs_secret0123456789"
RUNTIME = "runtime-token-0123456789"


@dataclass(frozen=True)
class Step:
    """A step that has run, as the runner sees it."""

    code: int
    log: str
    commands: list[Command]
    outputs: dict[str, str]
    summary: str

    def annotations(self, kind: str) -> list[Command]:
        return [command for command in self.commands if command.name == kind]


RunStep = Callable[..., Step]


@pytest.fixture
def github() -> Iterator[GitHub]:
    server = GitHub()
    server.tokens[SECRET] = Token("github-actions[bot]")
    server.pulls[7] = Pull(7, SHA)
    with server.serve():
        yield server


@pytest.fixture
def step(tmp_path: Path, shared_cache: Path, github: GitHub) -> RunStep:
    """Runs `tflite-guard action` in a workspace with a pull request's event."""

    def call(workspace: Path, inputs: dict[str, str] | None = None, event: str = "pull_request", **env: str) -> Step:
        files = {name: tmp_path / f"runner-{name.lower()}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        payload = tmp_path / "event.json"
        head = {"sha": SHA, "repo": {"full_name": "octo/app"}}
        payload.write_text(json.dumps({"pull_request": {"number": 7, "head": head}}))
        given = {"github-token": SECRET} | (inputs or {})
        environ = {
            "PATH": os.environ["PATH"],
            "XDG_CACHE_HOME": str(shared_cache.parent),
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(payload),
            "GITHUB_REPOSITORY": "octo/app",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_API_URL": github.url,
            "GITHUB_RUN_ID": "100",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_WORKSPACE": str(workspace),
            "ACTIONS_RUNTIME_TOKEN": RUNTIME,
            **{name: str(file) for name, file in files.items()},
            **{f"INPUT_{name.upper()}": value for name, value in given.items()},
            **env,
        }
        finished = subprocess.run(
            [sys.executable, "-m", "tflite_guard", "action"],
            env=environ,
            cwd=workspace,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        everything = finished.stdout + "".join(file.read_text() for file in files.values())
        everything += "".join(path.read_text() for path in workspace.glob("tflite-guard-report/*") if path.is_file())
        assert SECRET not in everything
        assert RUNTIME not in everything
        summary = files["GITHUB_STEP_SUMMARY"].read_text()
        named = outputs(files["GITHUB_OUTPUT"].read_text())
        return Step(finished.returncode, finished.stdout, list(commands(finished.stdout)), named, summary)

    return call


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A checkout with the examples, at vision/digits and vision/digits-broken."""
    root = tmp_path / "workspace"
    for name in ("digits", "digits-broken"):
        shutil.copytree(EXAMPLES / name, root / "vision" / name)
    (root / ".git").mkdir()
    (root / ".git/index").write_bytes(b"DIRC")
    for name in ("digits", "digits-broken"):
        folder = root / "vision" / name
        write_manifest(folder, only(manifest_of(folder), "int8"))
    return root


def test_a_green_run_is_silent_where_there_is_nothing_to_say(step: RunStep, workspace: Path, github: GitHub) -> None:
    finished = step(workspace, {"manifest": "vision/digits/tflite-guard.json"})
    assert finished.code == 0, finished.log
    assert finished.annotations("error") == finished.annotations("warning") == []
    assert finished.outputs == {
        "verdict": "pass",
        "failed-count": "0",
        "warned-count": "0",
        "checked-count": "1",
        "report-json": "tflite-guard-report/report.json",
        "report-markdown": "tflite-guard-report/report.md",
        "sarif": "tflite-guard-report/report.sarif",
        "junit": "tflite-guard-report/report.junit.xml",
        "comment-url": "",
    }
    assert "within tolerance" in finished.summary
    assert all((workspace / finished.outputs[name]).exists() for name in ("report-json", "sarif", "junit"))
    assert github.writes == []


def test_a_red_run_annotates_the_line_of_the_tolerance_and_comments_once(
    step: RunStep, workspace: Path, github: GitHub
) -> None:
    file = "vision/digits-broken/tflite-guard.json"
    finished = step(workspace, {"manifest": file}, GITHUB_SHA="b" * 40)
    assert finished.code == 1
    annotation = finished.annotations("error")[0]
    lines = (workspace / file).read_text().splitlines()
    assert annotation.properties["file"] == file
    assert "max_drop" in "".join(lines[int(annotation.properties["line"]) - 1 :][:3])
    assert annotation.properties["title"] == "digits / int8: accuracy"
    metrics = json.loads((workspace / finished.outputs["report-json"]).read_text())["models"][0]["variants"][0][
        "metrics"
    ]
    (metric,) = (one for one in metrics if one["name"] == "accuracy")
    for figure in (metric["reference"], metric["value"], metric["drop"], *metric["confidence_interval"]):
        assert f"{figure:.4f}" in annotation.message
    assert (finished.outputs["verdict"], finished.outputs["failed-count"]) == ("fail", "1")
    (comment,) = github.of(7, "github-actions[bot]")
    assert f"{metric['drop']:.4f}" in comment.body
    # What was checked is the merge, which goes away; the comment links the pull request's own commit.
    for text, commit in ((finished.summary, "b" * 40), (comment.body, SHA)):
        assert f"https://github.com/octo/app/blob/{commit}/{file}#L{annotation.properties['line']}" in text
    assert finished.outputs["comment-url"].endswith(str(comment.id))
    again = step(workspace, {"manifest": file})
    assert again.outputs["comment-url"] == finished.outputs["comment-url"]
    assert len(github.writes) == 1


def test_a_comment_follows_a_run_that_got_better(step: RunStep, workspace: Path, github: GitHub) -> None:
    step(workspace, {"manifest": "vision/digits-broken/tflite-guard.json"})
    mended = step(workspace, {"manifest": "vision/digits/tflite-guard.json"}, GITHUB_RUN_ID="101")
    (comment,) = github.of(7, "github-actions[bot]")
    assert comment.edits == 1
    assert "within tolerance" in comment.body
    assert mended.outputs["comment-url"]


@pytest.mark.parametrize(
    ("broken", "when", "comments"),
    [(False, "always", 1), (False, "failures", 0), (True, "failures", 1), (True, "off", 0)],
)
def test_when_to_comment(
    step: RunStep, workspace: Path, github: GitHub, broken: bool, when: str, comments: int
) -> None:
    step(workspace, {"manifest": f"vision/digits{'-broken' * broken}/tflite-guard.json", "comment": when})
    assert len(github.of(7, "github-actions[bot]")) == comments


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (None, "workflow_run"),
        (Fault(401, "Bad credentials"), "token"),
        (Fault(404, "Not Found"), ""),
        (Fault(403, "You have exceeded a secondary rate limit", {"Retry-After": "3600"}), "rate limit"),
    ],
    ids=["fork", "bad token", "not found", "rate limit"],
)
def test_a_comment_that_cannot_be_written_changes_no_verdict(
    step: RunStep, workspace: Path, github: GitHub, fault: Fault | None, said: str
) -> None:
    if fault is None:
        github.tokens[SECRET].writes = False
    else:
        github.faults += [fault] * 20
    finished = step(workspace, {"manifest": "vision/digits-broken/tflite-guard.json"})
    assert (finished.code, finished.outputs["verdict"], finished.outputs["comment-url"]) == (1, "fail", "")
    (warning,) = [one for one in finished.annotations("warning") if "comment" in one.properties["title"]]
    assert said in warning.message
    assert "tflite-guard-report/comment.md" in warning.message
    assert "out of tolerance" in (workspace / "tflite-guard-report/comment.md").read_text()


def test_no_server_at_all_changes_no_verdict(step: RunStep, workspace: Path) -> None:
    # `sitecustomize` is loaded by Python before anything else; the waits between the tries have tests of their own.
    (workspace / "sitecustomize.py").write_text("import time\ntime.sleep = lambda _: None\n")
    inputs = {"manifest": "vision/digits/tflite-guard.json", "comment": "always"}
    finished = step(workspace, inputs, GITHUB_API_URL="https://127.0.0.1:9", PYTHONPATH=str(workspace))
    assert finished.code == 0
    assert len(finished.annotations("warning")) == 1


def test_pull_request_target_is_refused_before_anything_runs(step: RunStep, workspace: Path) -> None:
    finished = step(workspace, event="pull_request_target")
    assert finished.code == 2
    assert finished.outputs["verdict"] == "error"
    assert "pull_request_target" in finished.annotations("error")[0].message
    assert "pull_request_target" in finished.summary
    inputs = {"allow-pull-request-target": "true", "manifest": "vision/digits/tflite-guard.json"}
    assert step(workspace, inputs, event="pull_request_target").code == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fail-on", "errors"),
        ("comment", "sometimes"),
        ("annotations", "yes"),
        ("diagnose", "sometimes"),
        ("save-operator", "yes"),
        ("shard", "3/2"),
        ("timeout", "soon"),
        ("timeout", "-1"),
        ("timeout", "1e300"),
        ("formats", "json, pdf"),
        ("manifest", "models/**/tflite-guard.json"),
        ("working-directory", "nowhere"),
        ("report-dir", "../out"),
        ("cache-dir", "../cache"),
        ("report-dir", "/tmp"),
        ("cache-dir", "/var/cache"),
        ("manifest", "**.json"),
        ("manifest", "a.json, b.json"),
    ],
)
def test_an_input_that_means_nothing_is_named(step: RunStep, workspace: Path, name: str, value: str) -> None:
    finished = step(workspace, {name: value})
    assert finished.code == 2
    assert f"input {name}: " in finished.annotations("error")[0].message
    assert f"input {name}: " in finished.summary


def test_all_inputs_that_mean_nothing_are_named_at_once(step: RunStep, workspace: Path) -> None:
    (error,) = step(workspace, {"fail-on": "warnings", "comment": "no", "formats": "pdf"}).annotations("error")
    assert all(f"input {name}: " in error.message for name in ("fail-on", "comment", "formats"))


def test_an_invalid_manifest_is_annotated_on_its_lines(step: RunStep, workspace: Path, github: GitHub) -> None:
    inputs = {"working-directory": "vision/digits"}
    assert step(workspace, inputs | {"comment": "always"}).code == 0
    manifest = manifest_of(workspace / "vision/digits")
    manifest["models"][0]["reference"] = {"keras": "models/none.keras"}
    manifest["models"][0]["metrics"] = ["acuracy"]
    path = write_manifest(workspace / "vision/digits", manifest)
    finished = step(workspace, inputs, GITHUB_RUN_ID="101")
    assert (finished.code, finished.outputs["verdict"]) == (2, "error")
    lines = path.read_text().splitlines()
    errors = finished.annotations("error")
    assert len(errors) == 2
    for annotation, word in zip(errors, ("none.keras", "acuracy"), strict=True):
        assert annotation.properties["file"] == "vision/digits/tflite-guard.json"
        assert word in lines[int(annotation.properties["line"]) - 1]
        assert word in annotation.message
    # What an earlier run said must not stand beside a red check: neither its report nor its comment.
    report = json.loads((workspace / finished.outputs["report-json"]).read_text())
    assert (report["verdict"], report["models"]) == ("error", [])
    (comment,) = github.of(7, "github-actions[bot]")
    for said in (finished.summary, comment.body, "".join(report["notes"])):
        assert "none.keras" in said
        assert "within tolerance" not in said


def test_a_bug_of_ours_leaves_outputs_a_summary_and_no_command(step: RunStep, workspace: Path) -> None:
    # `sitecustomize` is loaded by Python before anything else.
    (workspace / "sitecustomize.py").write_text(
        "from tflite_guard import checking\n"
        "def check(*_, **__):\n    raise ZeroDivisionError('##[add-mask]pass\\n::error::x')\n"
        "checking.check = check\n"
    )
    inputs = {"manifest": "vision/digits/tflite-guard.json"}
    finished = step(workspace, inputs, PYTHONPATH=str(workspace))
    assert (finished.code, finished.outputs["verdict"]) == (3, "error")
    assert "please report it" in finished.log
    assert "ZeroDivisionError" in finished.log
    assert "error of its own" in finished.summary
    assert {command.name for command in finished.commands} <= {"error", "warning", "notice"}
    assert all(command.message != "x" for command in finished.commands)


def test_several_manifests_by_a_glob_and_a_folder_of_their_own(step: RunStep, workspace: Path) -> None:
    inputs = {"working-directory": "vision", "manifest": "*/tflite-guard.json", "report-dir": "out", "formats": "sarif"}
    finished = step(workspace, inputs | {"fail-on": "never"})
    assert (finished.code, finished.outputs["verdict"], finished.outputs["checked-count"]) == (0, "fail", "2")
    assert finished.outputs["sarif"] == "vision/out/report.sarif"
    assert finished.outputs["junit"] == ""
    assert {path.name for path in (workspace / "vision/out").iterdir()} == {"report.json", "report.sarif"}
    assert finished.annotations("error")[0].properties["file"] == "vision/digits-broken/tflite-guard.json"


def test_links_of_a_pull_request_lead_nothing_out_of_the_workspace(
    step: RunStep, workspace: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "env").write_text("precious")
    inputs = {"manifest": "vision/digits/tflite-guard.json"}
    (workspace / "tflite-guard-report").symlink_to(outside)
    refused = step(workspace, inputs)
    assert refused.code == 2
    assert "leads out of the workspace" in refused.annotations("error")[0].message
    (workspace / "tflite-guard-report").unlink()
    (workspace / "tflite-guard-report").mkdir()
    (workspace / "tflite-guard-report/report.json").symlink_to(outside / "env")
    assert step(workspace, inputs).code == 0
    assert (outside / "env").read_text() == "precious"
    assert not (workspace / "tflite-guard-report/report.json").is_symlink()


def test_a_cache_that_came_with_the_commit_is_refused(step: RunStep, workspace: Path, light_digits: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=workspace, check=True, capture_output=True)

    shutil.copytree(light_digits, workspace / "vision/digits", dirs_exist_ok=True)
    (workspace / ".git/index").unlink()
    git("init", "--quiet")
    inputs = {"manifest": "vision/digits/tflite-guard.json", "cache-dir": "vision/.cache"}
    assert step(workspace, inputs).code == 0
    unknown = step(workspace, inputs)
    assert unknown.code == 2
    assert "git's index cannot be read" in unknown.annotations("error")[0].message
    git("add", "vision/digits")
    assert step(workspace, inputs).code == 0
    git("add", "--force", "vision/.cache")
    refused = step(workspace, inputs)
    assert refused.code == 2
    assert "committed" in refused.annotations("error")[0].message


def test_no_name_becomes_a_command_an_output_or_markup(step: RunStep, workspace: Path) -> None:
    folder = workspace / "vision/digits"
    manifest = manifest_of(folder)
    hostile = [text for text in COMMANDS if text.strip() and "\ud800" not in text and "\x00" not in text]
    model = manifest["models"][0]
    manifest["models"] = [
        model | {"name": plain(name, 200), "reference": {"keras": "models/broken.keras"}} for name in hostile
    ]
    with zipfile.ZipFile(folder / "models/broken.keras", "w") as archive:
        archive.writestr("config.json", '{"class_name": "##[add-mask]pass\\n::error::x"}')
    write_manifest(folder, manifest)
    finished = step(workspace, {"manifest": "vision/digits/tflite-guard.json"})
    assert finished.code == 3, finished.log
    assert {command.name for command in finished.commands} <= {"error", "warning", "notice"}
    assert all("file" in command.properties for command in finished.annotations("error")[:9])
    assert set(finished.outputs) == set(DECLARED["outputs"])


def test_models_are_chosen_by_name(step: RunStep, workspace: Path) -> None:
    manifest = manifest_of(workspace / "vision/digits")
    manifest["models"][0]["name"] = "numbers"
    write_manifest(workspace / "vision/digits", manifest)
    inputs = {"manifest": "vision/*/tflite-guard.json"}
    assert step(workspace, inputs | {"models": "num*"}).outputs["checked-count"] == "1"
    assert step(workspace, inputs | {"models": "num*\ndigits"}).outputs["checked-count"] == "2"
    assert step(workspace, inputs | {"models": "none"}).code == 2


def test_shards_are_merged_into_one_verdict_and_one_comment(step: RunStep, workspace: Path, github: GitHub) -> None:
    counts = []
    for number in (1, 2):
        inputs = {"shard": f"{number}/2", "fail-on": "never", "report-dir": f"shards/{number}", "comment": "always"}
        shard = step(workspace, {"manifest": "vision/*/tflite-guard.json", **inputs})
        assert shard.code == 0
        counts.append(shard.outputs["checked-count"])
    assert counts == ["1", "1"]
    assert github.writes == []
    whole = step(workspace, {"merge": "shards/*/report.json"})
    assert whole.code == 1
    assert (whole.outputs["checked-count"], whole.outputs["failed-count"]) == ("2", "1")
    assert {command.properties["file"] for command in whole.annotations("error")} == {
        "vision/digits-broken/tflite-guard.json"
    }
    assert len(github.writes) == 1
    (workspace / "shards/1/report.json").unlink()
    missing = step(workspace, {"merge": "shards/*/report.json"})
    assert missing.code == 2
    assert "these have no report here: 1;" in missing.log


def test_a_model_has_the_time_that_the_input_gives(step: RunStep, workspace: Path, tmp_path: Path) -> None:
    inputs = {"manifest": "vision/digits/tflite-guard.json", "timeout": "0.001"}
    finished = step(workspace, inputs, XDG_CACHE_HOME=str(tmp_path / "cold"))
    assert (finished.code, finished.outputs["failed-count"]) == (3, "1")
    assert "ran out of time" in finished.log


def test_what_does_not_pass_is_diagnosed_unless_the_input_says_otherwise(step: RunStep, workspace: Path) -> None:
    """A manifest is never edited."""
    path = workspace / "vision/digits-broken/tflite-guard.json"
    before = path.read_bytes()
    for inputs, diagnosed in (({}, True), ({"diagnose": "never"}, False)):
        finished = step(workspace, {"manifest": "vision/digits-broken/tflite-guard.json", **inputs})
        assert finished.code == 1
        assert ("Proof: " in finished.log) is diagnosed
        report = json.loads((workspace / finished.outputs["report-json"]).read_text())
        (variant,) = report["models"][0]["variants"]
        assert (variant["diagnosis"] is not None) is diagnosed
        assert bool(variant["remedies"]) is diagnosed
    assert path.read_bytes() == before


def test_operators_are_saved_in_the_report_folder(step: RunStep, workspace: Path) -> None:
    """In place of what the commit has there, whose links lead nowhere else; what is no operator stays."""
    place = workspace / "tflite-guard-report/operators"
    for stale, file in (("stale", "inputs.npz"), ("digits-int8", "README.md"), ("theirs", "source.py")):
        (place / stale).mkdir(parents=True)
        (place / stale / file).write_text("of the commit")
    (workspace / "target").mkdir()
    (place / "link").symlink_to(workspace / "target")
    inputs = {"manifest": "vision/digits-broken/tflite-guard.json", "save-operator": "true"}
    finished = step(workspace, inputs)
    assert finished.code == 1
    assert "operators/digits-int8: CONV_2D, " in finished.log
    assert sorted(one.name for one in place.iterdir()) == ["digits-int8", "theirs"]
    assert {one.name for one in (place / "digits-int8").iterdir()} == FILES
    assert "of the commit" not in (place / "digits-int8/README.md").read_text()
    assert list((workspace / "target").iterdir()) == []
    never = step(workspace, {**inputs, "diagnose": "never"})
    assert (never.code, "input save-operator: needs a diagnosis" in never.summary) == (2, True)


def test_data_outside_the_repository_is_read_where_allowed(step: RunStep, workspace: Path) -> None:
    private = workspace / "private"
    (workspace / "vision/.git").mkdir()
    (workspace / "vision/digits/data").rename(private)
    manifest = manifest_of(workspace / "vision/digits")
    for dataset in manifest["datasets"].values():
        dataset["path"] = f"../../private/{Path(dataset['path']).name}"
    write_manifest(workspace / "vision/digits", manifest)
    inputs = {"manifest": "vision/digits/tflite-guard.json"}
    assert step(workspace, inputs).code == 2
    assert step(workspace, inputs | {"data-root": "private"}).code == 0
    assert "missing" in step(workspace, inputs | {"data-root": "missing"}).annotations("error")[0].message


def test_a_baseline_can_be_another_file_or_none(step: RunStep, workspace: Path, shared_cache: Path) -> None:
    folder = workspace / "vision/digits"
    manifest = manifest_of(folder)
    manifest["models"][0]["tolerances"]["sqnr"] = {"max_regression": 0.5, "level": "warning"}
    path = write_manifest(folder, manifest)
    assert run_cli("baseline", "update", path, "--cache-dir", shared_cache).code == 0
    recorded = json.loads((folder / "tflite-guard.baseline.json").read_text())
    recorded["models"]["digits"]["variants"]["int8"]["metrics"]["sqnr"] += 1
    (workspace / "main.json").write_text(json.dumps(recorded))
    inputs = {"manifest": "vision/digits/tflite-guard.json", "diagnose": "never"}
    assert step(workspace, inputs).outputs["verdict"] == "pass"
    worse = step(workspace, inputs | {"baseline": "main.json"})
    assert (worse.code, worse.outputs["verdict"], worse.outputs["warned-count"]) == (0, "warn", "1")
    assert step(workspace, inputs | {"baseline": "main.json", "fail-on": "warning"}).code == 1
    (folder / "tflite-guard.baseline.json").write_text(json.dumps(recorded))
    assert step(workspace, inputs).outputs["verdict"] == "warn"
    assert step(workspace, inputs | {"baseline": "off"}).outputs["verdict"] == "pass"


def test_each_id_and_author_has_a_comment_of_its_own(step: RunStep, workspace: Path, github: GitHub) -> None:
    inputs = {"manifest": "vision/digits/tflite-guard.json", "comment": "always"}
    first = step(workspace, inputs | {"comment-id": "one"}).outputs["comment-url"]
    second = step(workspace, inputs | {"comment-id": "two"}).outputs["comment-url"]
    assert first != second
    assert step(workspace, inputs | {"comment-id": "one"}).outputs["comment-url"] == first
    github.tokens[SECRET] = Token("my-app[bot]")
    mine = inputs | {"comment-author": "my-app[bot]"}
    assert step(workspace, mine).outputs["comment-url"] == step(workspace, mine).outputs["comment-url"]
    assert len(github.of(7, "my-app[bot]")) == 1


def test_annotations_and_the_summary_can_be_left_out(step: RunStep, workspace: Path) -> None:
    inputs = {"manifest": "vision/digits-broken/tflite-guard.json", "annotations": "false", "summary": "false"}
    finished = step(workspace, inputs)
    assert (finished.code, finished.summary) == (1, "")
    assert finished.annotations("error") == []
    wrong = step(workspace, inputs | {"manifest": "none.json"})
    assert (wrong.code, wrong.summary, wrong.commands) == (2, "", [])


def test_variants_are_counted_by_how_they_came_out(step: RunStep, workspace: Path) -> None:
    folder = workspace / "vision/digits-broken"
    manifest = manifest_of(folder)
    model = manifest["models"][0]
    warned = {"accuracy": {"max_drop": 0, "level": "warning"}, "agreement": {"min": 0.5}}
    model["variants"] = [
        {"name": "fine", "quantization": "float32"},
        {"name": "failed", "quantization": "int8"},
        {"name": "warned", "quantization": "int8", "tolerances": warned},
        {"name": "lost", "quantization": "int8", "keep_float": ["no_such_layer"]},
        {"name": "lost too", "quantization": "int8", "keep_float": ["nor_such_a_layer"]},
    ]
    write_manifest(folder, manifest)
    finished = step(workspace, {"manifest": "vision/digits-broken/tflite-guard.json"})
    assert finished.code == 3
    counts = {name: finished.outputs[f"{name}-count"] for name in ("checked", "failed", "warned")}
    assert counts == {"checked": "5", "failed": "3", "warned": "1"}
    # One of the metric, and one of the ties that both int8 variants have.
    assert [command.name for command in finished.commands].count("warning") == 2


def test_the_report_is_printed_where_no_command_is_obeyed(step: RunStep, workspace: Path) -> None:
    finished = step(workspace, {"manifest": "vision/digits/tflite-guard.json"})
    _, token, printed = re.split(r"::stop-commands::([0-9a-f]{32})\n", finished.log)
    assert "1 variant: 1 within tolerance" in printed.partition(f"::{token}::\n")[0]


def test_a_comment_of_any_report_fits(github: GitHub) -> None:
    github.pulls[9] = Pull(9, SHA)
    context = by_hand("octo/app", 9, api_url=github.url, server_url="https://github.com")
    report = fixed()
    huge = replace(report, models=tuple(replace(report.models[0], name=f"modèle {n} 🎉") for n in range(2000)))
    comment(huge, context, SECRET, when="always", comment_id="huge", author=None)
    (posted,) = github.of(9, "github-actions[bot]")
    assert 50_000 < len(posted.body.encode("utf-16-le")) // 2 <= 65_536
    assert len(markdown.render(huge).encode()) <= 2**20


def test_equal_results_of_another_commit_write_nothing(github: GitHub) -> None:
    named = by_hand("octo/app", 9, api_url=github.url, server_url="https://github.com")
    for sha in (SHA, "b" * 40):
        github.pulls[9] = Pull(9, sha)
        context = dataclasses.replace(named, head_sha=sha)
        comment(fixed(), context, SECRET, when="always", comment_id="x", author=None)
    (posted,) = github.of(9, "github-actions[bot]")
    assert f"https://github.com/octo/app/blob/{SHA}/models/vision/tflite-guard.json#L12" in posted.body
    assert len(github.writes) == 1


def test_the_inputs_and_outputs_are_those_of_action_yml(step: RunStep, workspace: Path) -> None:
    action = DECLARED
    assert [name.replace("-", "_") for name in action["inputs"]] == list(Inputs.__annotations__)
    given = {f"INPUT_{name.upper()}": value["default"] for name, value in action["inputs"].items()}
    given["INPUT_GITHUB-TOKEN"] = ""
    assert Inputs.read(given) == Inputs.read({})
    finished = step(workspace, {"manifest": "vision/digits/tflite-guard.json"})
    assert list(finished.outputs) == list(action["outputs"])


def test_the_token_is_taken_out_of_the_environment() -> None:
    environ = {"INPUT_GITHUB-TOKEN": SECRET}
    assert Inputs.read(environ).github_token == SECRET
    assert environ == {}


def test_a_boolean_is_what_yaml_takes_for_one() -> None:
    assert Inputs.read({"INPUT_ALLOW-CODE": "True"}).allow_code
    assert not Inputs.read({"INPUT_ANNOTATIONS": "FALSE"}).annotations
    with pytest.raises(UsageError, match="input allow-code"):
        Inputs.read({"INPUT_ALLOW-CODE": "1"})


def test_a_log_without_github_is_readable_and_obeys_nothing(step: RunStep, workspace: Path) -> None:
    finished = step(workspace, {"manifest": "vision/digits-broken/tflite-guard.json", "comment": "off"})
    assert "digits: int8 evaluated (2/2)" in finished.log
    (error,) = [line for line in finished.log.splitlines() if line.startswith("::error")][:1]
    assert "%0A" not in error
    assert re.search(r"accuracy went from 0\.\d+ to 0\.\d+", error)


def test_a_report_folder_that_cannot_be_written_hides_no_verdict(step: RunStep, workspace: Path) -> None:
    (workspace / "tflite-guard-report/report.json").mkdir(parents=True)
    finished = step(workspace, {"manifest": "vision/digits-broken/tflite-guard.json"})
    assert (finished.code, finished.outputs["verdict"]) == (3, "fail")
    assert "report.json: cannot be written" in finished.log
    assert "out of tolerance" in finished.summary


def test_a_cache_that_cannot_be_made_is_told(step: RunStep, workspace: Path) -> None:
    cache = workspace / "vision/full"
    cache.mkdir()
    inputs = {"manifest": "vision/digits/tflite-guard.json", "cache-dir": "vision/full/cache"}
    (cache / "cache").symlink_to("loop")
    (cache / "loop").symlink_to("cache")
    failed = step(workspace, inputs)
    assert (failed.code, failed.outputs["verdict"]) in ((2, "error"), (3, "error"))
    assert "vision/full/cache" in failed.annotations("error")[0].message
