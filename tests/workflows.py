"""The workflows of this repository and those that its documents show, as files that linters can read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import ROOT

ACTION = "tflite-guard/tflite-guard"
DECLARED = YAML(typ="safe").load((ROOT / "action.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HOOKS = re.compile(r"^repos:|^ *- repo:", re.MULTILINE)
"""What tells a configuration of pre-commit, which the tests of the hooks look at."""
FRAMED = """\
name: Example
on: pull_request
permissions: {{}}
concurrency:
  group: example-${{{{ github.ref }}}}
  cancel-in-progress: true
jobs:
  example:
    name: Example
    runs-on: ubuntu-latest
    timeout-minutes: 90
    environment: example
    steps:
{steps}"""
"""What the documents show as steps, with what they stand in."""


@dataclass(frozen=True)
class Source:
    """A YAML file of the repository, or one that a document shows."""

    label: str
    path: str
    """Where a user has it, from the root of the repository."""
    text: str

    @property
    def content(self) -> Any:
        return YAML(typ="safe").load(self.text)

    @property
    def is_workflow(self) -> bool:
        return self.path.startswith(".github/workflows/")

    def write(self, folder: Path) -> Path:
        file = folder / self.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text)
        return file

    def steps(self) -> Iterator[dict[str, Any]]:
        for job in self.content["jobs"].values():
            yield from job.get("steps", [])


def own() -> list[Source]:
    """The workflows of this repository."""
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    return [Source(file.name, f".github/workflows/{file.name}", file.read_text()) for file in files]


def shown() -> list[Source]:
    """Every YAML example of the documents; its first line says which file it is, or that it is steps of a workflow."""
    found = []
    for page in DOCUMENTS:
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)):
            first, rest = block.split("\n", 1)
            label = f"{page.name}-{number}"
            if first.startswith("# steps"):
                steps = FRAMED.format(steps="".join(f"      {line}\n" if line else "\n" for line in rest.splitlines()))
                found.append(Source(label, ".github/workflows/steps.yml", steps))
            elif page.name != "pre-commit.md" and not HOOKS.search(block):
                assert re.fullmatch(r"# [\w./-]+\.ya?ml", first), f"{label} does not say which file it is"
                found.append(Source(label, first.removeprefix("# "), block))
    return found


def workflows() -> list[Source]:
    """Everything that GitHub would run."""
    return [source for source in own() + shown() if source.is_workflow]


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment, wherever the shell's own path leads."""
    found = shutil.which(name, path=os.path.dirname(sys.executable))
    assert found is not None, f"{name} is not installed"
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)


def valid(schema: str, *files: Path) -> None:
    """See that files are as a published schema wants them."""
    checked = tool("check-jsonschema", "--builtin-schema", schema, *files)
    assert checked.returncode == 0, checked.stdout + checked.stderr
