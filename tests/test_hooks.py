"""The pre-commit hooks: what makes them run, and that every example of their page can be copied."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pre_commit.clientlib import load_config, load_manifest

from tests.conftest import ROOT
from tflite_guard.cli import cli

PAGE = (ROOT / "docs/pre-commit.md").read_text()
HOOKS: dict[str, dict[str, Any]] = {hook["id"]: hook for hook in load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)

TRIGGER = """
    tflite-guard.json
    models/vision/tflite-guard.json
    tflite-guard.baseline.json
    tflite-guard-mobile.json
    mobile.tflite-guard.json
    models/mixed_recipe.json
    recipes/recipe.json
    app/src/main/assets/digits.tflite
    model.tflite
    models/digits.keras
    models/old.h5
    models/old.hdf5
    models/digits_qat/saved_model.pb
    models/digits_qat/saved_model.pbtxt
    models/digits_qat/fingerprint.pb
    models/digits_qat/variables/variables.index
    models/digits_qat/variables/variables.data-00000-of-00001
    data/evaluation.npz
    evaluation.npy
    data/labels.csv
    data/test.tfrecord
    data/test.tfrecords
    data/test.tfrecord-00003-of-00010
    data/test-00003-of-00010
    data/test-00003-of-00010.tfrecord.gz
    data/test.tfrecord.gz
    data/cats/0001.jpg
    data/cats/0001.JPEG
    app/datasets/test/1.png
    evaluation/1.bmp
    calibration/1.webp
    Data/1.PNG
    data/evaluation.npz.dvc
    data.dvc
    dvc.lock
    models/dvc.lock
    .pre-commit-config.yaml
    models/with space.tflite
    modèles/größe.tflite
"""

NOT_TRIGGER = """
    README.md
    docs/images/screenshot.png
    docs/evaluation.md
    logo.svg
    app/src/main/res/drawable/icon.png
    database/icon.png
    src/data.py
    src/data/loader.py
    data/README.md
    data/.gitignore
    train.py
    app/src/main/java/Classifier.java
    package.json
    package-lock.json
    tsconfig.json
    pyproject.toml
    requirements.txt
    Dockerfile
    .github/workflows/ci.yml
    .gitignore
    .dvc/config
    .dvc/.gitignore
    dvc.yaml
    examples/.pre-commit-config.yaml
    proto/model.pb.go
    weights.pb
    variables/variables.tf
    model.tflite.md
    keras/layers.py
    npz/reader.cc
    docs/tflite-guard.md
    tflite-guard-report/report.html
    notebooks/evaluation.ipynb
"""


def paths(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("path", paths(TRIGGER))
def test_a_change_that_can_change_the_verdict_runs_the_hook(hook: str, path: str) -> None:
    # As pre-commit looks for it.
    assert re.search(HOOKS[hook]["files"], path)
    assert HOOKS[hook]["types"] == [], "links, as DVC leaves them, are no files to pre-commit"


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("path", paths(NOT_TRIGGER))
def test_other_changes_do_not(hook: str, path: str) -> None:
    assert not re.search(HOOKS[hook]["files"], path)


def test_every_file_of_the_example_runs_the_hooks_but_its_scripts() -> None:
    folder = ROOT / "examples/digits"
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert found
    for path in found:
        expected = path.suffix != ".py"
        assert bool(re.search(HOOKS["tflite-guard"]["files"], path.relative_to(ROOT).as_posix())) is expected, path


def test_each_hook_runs_at_its_stage_with_the_files_that_changed_and_a_command_that_exists() -> None:
    assert {name: hook["stages"] for name, hook in HOOKS.items()} == {
        "tflite-guard-validate": ["pre-commit"],
        "tflite-guard": ["pre-push"],
        "tflite-guard-docker": ["pre-push"],
    }
    for hook in HOOKS.values():
        assert hook["require_serial"], "two at a time would do the same work twice"
        program, command, option = hook["entry"].split()
        assert program in PROJECT["scripts"]
        _parse(command, [option, "vision/tflite-guard.json", "vision/model.tflite"])


def test_the_light_hook_brings_nothing_but_the_package() -> None:
    assert HOOKS["tflite-guard-validate"]["additional_dependencies"] == []


def test_the_page_has_examples_and_names_every_hook() -> None:
    assert len(EXAMPLES) >= 5
    for name in HOOKS:
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_copied(example: str, tmp_path: Path) -> None:
    config = tmp_path / ".pre-commit-config.yaml"
    config.write_text(example)
    for repository in load_config(str(config))["repos"]:
        assert repository["rev"] == f"v{PROJECT['version']}"
        for used in repository["hooks"]:
            hook = HOOKS[used["id"]]
            _parse(hook["entry"].split()[1], used.get("args", []))
            added = used.get("additional_dependencies", [])
            assert not added or hook["language"] != "docker"
            extras = [
                extra for text in added for group in re.findall(r"^\.\[(.+)\]$", text) for extra in group.split(",")
            ]
            assert set(extras) <= set(PROJECT["optional-dependencies"])


def _parse(command: str, arguments: list[str]) -> None:
    """Raises what the command line says to arguments that it does not know."""
    cli.commands[command].make_context(command, list(arguments))


def test_the_default_environment_is_named_as_the_page_has_it() -> None:
    (default,) = HOOKS["tflite-guard"]["additional_dependencies"]
    assert f"`{default}`" in PAGE
