"""The documents are true: links resolve, commands and options exist, the manifest shown is valid."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from ruamel.yaml import YAML

import tflite_guard
from tests.conftest import EXAMPLES, ROOT, Run
from tflite_guard.cli import cli
from tflite_guard.errors import GuardError
from tflite_guard.run.steps import environment
from tflite_guard.vocabulary import METRICS, QUANTIZATIONS, TOLERANCES

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()
OWN_FILES = "https://github.com/tflite-guard/tflite-guard/blob/main/"
"""What the website does not hold; GitHub has it in both places."""
CONVERT = "convert digits int8 -o digits_int8.tflite"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
        elif target.startswith(OWN_FILES):
            assert (ROOT / target.removeprefix(OWN_FILES)).exists(), target


def test_the_website_has_every_page_once() -> None:
    def named(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for inner in (entry.values() if isinstance(entry, dict) else entry) for page in named(inner)]

    listed = named(YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    commands: dict[str, click.Command] = dict(cli.commands)
    known = {option for command in commands.values() for parameter in command.params for option in parameter.opts}
    group = commands["baseline"]
    assert isinstance(group, click.Group)
    known |= {
        option for command in group.commands.values() for parameter in command.params for option in parameter.opts
    }
    text = page.read_text()
    for command in re.findall(r"`tflite-guard ([a-z]+)", text):
        assert command in commands, command
    for line in re.findall(r"`(tflite-guard[^`]*|--[^`]*)`", text):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line):
            assert option in known | {"--help"}, option


def test_the_manifest_in_the_readme_is_valid(run: Run, digits: Path) -> None:
    (shown,) = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]
    (digits / "shown.json").write_text(json.dumps(shown))
    finished = run("validate", digits / "shown.json")
    assert finished.code == 0, finished.err


def test_the_hook_that_is_shown_stops_for_what_the_example_stops_for(run: Run) -> None:
    page, hooks = (ROOT / "docs/pre-commit.md").read_text(), (ROOT / ".pre-commit-hooks.yaml").read_text()
    block = re.search(r"^```text\n(.*?)…\n```$", page, re.DOTALL | re.MULTILINE)
    assert block is not None
    frame, _, printed = block[1].partition("\n\n")
    assert re.fullmatch(r"(.+?)\.+Failed\n- hook id: tflite-guard\n- exit code: 1", frame)
    assert f"name: {frame.split('..')[0]}\n" in hooks
    finished = run("check", EXAMPLES / "digits-broken/tflite-guard.json")
    assert finished.code == 1
    assert finished.out.startswith(printed)


def test_the_answer_of_the_readme_is_what_the_page_makes(run: Run, shared_cache: Path, tmp_path: Path) -> None:
    """The commands of docs/diagnosis.md, with the cache that the tests share, then the one of the README."""
    page = (ROOT / "docs/diagnosis.md").read_text()
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / ".git").mkdir()
    (shell,) = re.findall(r"```sh\n(cp .*?)```", page, re.DOTALL)
    (python,) = re.findall(r"```python\n(import numpy as np\n\nscans.*?)```", page, re.DOTALL)
    copy, convert = map(shlex.split, shell.splitlines())
    subprocess.run(copy, check=True, cwd=tmp_path)
    subprocess.run([sys.executable, "-c", python], check=True, cwd=tmp_path)
    assert run(*convert[1:], cwd=tmp_path).code == 0
    block = re.search(r"```console\n\$ tflite-guard (.*?)\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert f"tflite-guard {block[1]}\n" in page
    finished = run(*block[1].split(), cwd=tmp_path)
    assert finished.code == 1
    see(block[2], finished.out)
    (asked,) = re.findall(r"```python\n(import numpy as np\nimport tflite_guard.*?)```", page, re.DOTALL)
    kept = asked.replace('data["label"])', f'data["label"], cache_dir={str(shared_cache)!r})')
    told = subprocess.run([sys.executable, "-c", kept], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert told.stdout.startswith(finished.out)
    assert told.stdout.splitlines()[-2].split()[0] == "calibration-range-mismatch"


def see(shown: str, printed: str) -> None:
    """That this is what was printed; whole lines may be left out where there is a line of three dots."""
    rest = printed
    for part in filter(None, shown.split("…\n")):
        before, found, rest = rest.partition(part)
        assert found, f"{part}\nis not in\n{rest}"
        assert not before or before.endswith("\n"), "whole lines are left out"
    assert rest == ""


def test_the_tutorial_goes_as_it_says(run: Run, tmp_path: Path) -> None:
    """Its commands in their order, but for the installation and the clone, in whose place the examples are copied."""
    page = (ROOT / "docs/tutorial.md").read_text()
    project = tmp_path / "project"
    for part in ("models", "data"):
        assert f"tflite-guard/examples/digits/{part}" in page
        shutil.copytree(EXAMPLES / "digits" / part, project / part)
    (project / ".git").mkdir()
    (written,) = re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    path = project / "tflite-guard.json"
    path.write_text(written)
    codes = {"validate": [0], "check": [1, 0], "check --apply-remedy": [1]}
    steps = re.findall(r"^```(?:sh|console)\n(?:\$ )?tflite-guard (.*?)\n(.*?)```$", page, re.DOTALL | re.MULTILINE)
    assert [command for command, _ in steps] == ["validate", "check", "check --apply-remedy", "check", CONVERT]
    for command, shown in steps:
        finished = run(*command.split(), cwd=project)
        assert finished.code == codes.get(command, [0]).pop(0), finished.err
        if shown:
            see(shown, finished.out)
    (edit,) = re.findall(r"^```diff\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    edits = difflib.unified_diff(written.splitlines(), path.read_text().splitlines(), lineterm="", n=0)
    assert edit.splitlines() == list(edits)[3:]
    assert (project / "digits_int8.tflite").exists()


def test_the_workflow_of_the_tutorial_is_the_documented_one() -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
    assert shown in README


def test_the_pictures_and_the_line_of_pytest_are_those_of_the_present_report(run: Run, tmp_path: Path) -> None:
    """But for figures of the machine's own arithmetic, which its rows of numbers may differ by."""
    finished = run(
        "check", EXAMPLES / "digits-broken/tflite-guard.json", "--format", f"json={tmp_path / 'report.json'}"
    )
    assert finished.code == 1
    picture = words((ROOT / "docs/terminal.svg").read_text())
    for line in finished.out.splitlines()[:4]:
        assert set(line.split()) <= set(picture), line
    drawn = "".join(words((ROOT / "docs/comment.svg").read_text()))
    told = run("report", tmp_path / "report.json", "--format", "markdown").out
    for tagged in told.partition("<details>")[0].splitlines():
        assert "".join(words(f"<p>{re.sub('<.*?>', '', tagged)}</p>")) in drawn, tagged
    shown = " ".join((ROOT / "docs/python.md").read_text().split())
    assert f"AssertionError: {tflite_guard.Report.read(tmp_path / 'report.json')!r}" in shown


def words(drawn: str) -> list[str]:
    """The words of a picture."""
    return " ".join(ElementTree.fromstring(drawn).itertext()).replace("\N{NO-BREAK SPACE}", " ").split()


def test_the_test_case_that_is_shown_has_that_name(run: Run) -> None:
    shown = re.search(r"\nnamed `(.+?)`", (ROOT / "docs/github-action.md").read_text())
    assert shown is not None
    finished = run("check", EXAMPLES / "digits-broken/tflite-guard.json", "--format", "junit")
    cases = ElementTree.fromstring(finished.out).iter("testcase")
    assert shown[1] in [case.get("name") for case in cases]


def test_what_the_container_is_built_with_exists() -> None:
    declared = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    named = {name for page in PAGES for name in re.findall(r"--build-arg (\w+)=", page.read_text())}
    assert named == set(declared)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_that_is_shown_compiles(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page.name, "exec")


def test_what_is_recorded_as_the_page_shows_is_what_the_check_computes(run: Run, digits: Path) -> None:
    page = (ROOT / "docs/recording-outputs.md").read_text()
    (recorder,) = re.findall(r"## Python\n\n```python\n(.*?)```", page, re.DOTALL)
    (digits / "recorded").mkdir()
    subprocess.run([sys.executable, "-c", recorder], check=True, capture_output=True, cwd=digits)
    manifest = json.loads((digits / "tflite-guard.json").read_text())
    (shown,) = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    manifest["models"][0]["variants"] = [shown | {"observed_outputs": "recorded/python.npz"}]
    (digits / "tflite-guard.json").write_text(json.dumps(manifest))
    finished = run("check", digits / "tflite-guard.json", "--format", "json")
    (observed,) = [variant["observed"] for variant in json.loads(finished.out)["models"][0]["variants"]]
    assert observed["max_steps"]["default"] == 0
    assert finished.code == 0, finished.err


def test_every_word_of_a_manifest_is_documented() -> None:
    page = (ROOT / "docs/manifest.md").read_text()
    for word in [*QUANTIZATIONS, *METRICS, *TOLERANCES]:
        assert f"`{word}`" in page or f'"{word}"' in page, word
    metrics = (ROOT / "docs/metrics.md").read_text()
    for word in METRICS:
        assert f"`{word}`" in metrics, word


def test_the_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE))
    assert set(table) == {"0", "1", "2", "3", "130"}

    def codes(kind: type[GuardError]) -> set[int]:
        return {kind.exit_code} | {code for sub in kind.__subclasses__() for code in codes(sub)}

    assert codes(GuardError) == {2, 3}


def test_the_readme_lists_every_command() -> None:
    table = README.partition("## Commands")[2].partition("\n\nA MANIFEST")[0]
    assert set(re.findall(r"^\| `tflite-guard (\w+)", table, re.MULTILINE)) == set(cli.commands)


def test_the_page_on_python_lists_every_argument() -> None:
    listed = (ROOT / "docs/python.md").read_text().partition("options of the command line: ")[2].partition(";")[0]
    (_, *arguments) = inspect.signature(tflite_guard.check).parameters
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(arguments)


def test_the_extras_of_the_readme_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"tflite-guard\[([a-z,-]+)\]", README) + re.findall(r"'\.\[([a-z,]+)\]'", README)
    assert {extra for group in named for extra in group.split(",")} <= set(extras)


def test_the_architecture_names_every_room_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "tflite_guard").iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("_")
    }
    rows = re.search(r"## The rooms\n(.*?)\n## ", text, re.DOTALL)
    assert rows is not None
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", rows[1], re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    assert {name for name in named if "/" not in name.rstrip("/")} == rooms
    assert [name for name in named if not (ROOT / "tflite_guard" / name).exists()] == []


def test_the_ci_script_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text()
    for name in ("example", "tests"):
        assert re.search(rf"<!-- command: {name} -->\n```sh\n.+\n```", README)
        assert f'command_after "command: {name}"' in script


def test_the_example_is_small_and_whole() -> None:
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 1_100_000
    assert (EXAMPLES / "digits/train.py").exists()


def test_the_cache_that_is_shown_is_the_one_that_is_used_and_its_keys_are_told() -> None:
    section = (ROOT / "docs/github-action.md").read_text().split("\n## Caching\n")[1].split("\n## ")[0]
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    kept, checked = YAML(typ="safe").load(shown)
    assert kept["with"]["path"] == checked["with"]["cache-dir"]
    assert kept["with"]["key"].startswith(kept["with"]["restore-keys"])
    told = [line for line in section.splitlines() if line.startswith("- `")]
    assert re.findall(r"`(\w+)`", " ".join(told)) == list(environment())
