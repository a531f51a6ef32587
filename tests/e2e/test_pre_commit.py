"""The hooks in a person's hands: real pre-commit, real repositories, commits and pushes that pass or are stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_cli
from tests.e2e.containers import Engine

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples/digits"
Finished = subprocess.CompletedProcess[str]

MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "datasets": {
        "test": {
            "source": "npz",
            "path": "data/evaluation.npz",
            "inputs": {"image": "image"},
            "labels": "label",
            "preprocess": [{"cast": "float32"}, {"scale": 0.0625}],
        }
    },
    "models": [
        {
            "name": "digits",
            "reference": {"tflite": "app/digits_float.tflite"},
            "evaluation": "test",
            "metrics": ["accuracy", "agreement"],
            "tolerances": {"accuracy": {"max_drop": 0.01}, "agreement": {"min": 0.97}},
            "variants": [{"name": "shipped", "tflite": "app/digits_int8.tflite"}],
        }
    ],
}


@dataclass(frozen=True)
class Repository:
    """A git repository in which someone works."""

    folder: Path
    env: dict[str, str]

    def call(self, *command: str | Path) -> Finished:
        return subprocess.run(
            [*map(str, command)],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # as they come in a terminal
            check=False,
            timeout=1200,
        )

    def git(self, *arguments: str | Path) -> str:
        finished = self.call("git", *arguments)
        assert finished.returncode == 0, finished.stdout
        return finished.stdout.strip()

    def pre_commit(self, *arguments: str | Path) -> Finished:
        return self.call(sys.executable, "-m", "pre_commit", *arguments)

    def commit(self, message: str = "Change") -> Finished:
        self.git("add", "--all")
        return self.call("git", "commit", "--quiet", "--message", message)

    def push(self) -> Finished:
        return self.call("git", "push", "--quiet", "origin", "main")

    @property
    def pushed(self) -> str:
        return self.git("ls-remote", "origin", "main").split()[0]

    def write(self, manifest: dict[str, Any], path: str = "tflite-guard.json") -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(manifest, indent=2) + "\n")


def repository(folder: Path, env: dict[str, str]) -> Repository:
    folder.mkdir(parents=True, exist_ok=True)
    made = Repository(folder, env)
    made.git("init", "--quiet", "--initial-branch", "main")
    return made


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of someone new to pre-commit and tflite-guard, whose git has no settings of its own."""
    home = tmp_path_factory.mktemp("home")
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _IDENTITY.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return inherited | who | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "PRE_COMMIT_HOME": str(home / "pre-commit"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }  # fmt: skip


_IDENTITY = {"NAME": "Ada", "EMAIL": "ada@example.com"}


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Repository:
    """A repository with these hooks, as pre-commit would clone it: the files of this checkout, committed."""
    made = repository(tmp_path_factory.mktemp("hooks"), env)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, made.folder / name)
    assert made.commit("All").returncode == 0
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, float_tflite: Path) -> Path:
    """A float model, its int8 version, and an int8 version calibrated with data that was not scaled."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(float_tflite, folder / "float.tflite")
    shutil.copy(DIGITS / "app/digits_int8.tflite", folder / "good.tflite")
    manifest = ROOT / "examples/digits-broken/tflite-guard.json"
    to = ("-o", folder / "bad.tflite", "--manifest", manifest, "--cache-dir", shared_cache)
    assert run_cli("convert", "digits", "int8", *to).code == 0
    return folder


@pytest.fixture
def app(tmp_path: Path, env: dict[str, str], hooks: Repository, models: Path) -> Repository:
    """An application that ships a .tflite file, with both hooks installed, pushed once."""
    made = repository(tmp_path / "app", env)
    for folder in ("app", "data"):
        (made.folder / folder).mkdir()
    shutil.copy(models / "float.tflite", made.folder / "app/digits_float.tflite")
    shutil.copy(models / "good.tflite", made.folder / "app/digits_int8.tflite")
    shutil.copy(DIGITS / "data/evaluation.npz", made.folder / "data")
    made.write(MANIFEST)
    configure(made, hooks)
    bare = tmp_path / "remote.git"
    made.git("init", "--quiet", "--bare", bare)
    made.git("remote", "add", "origin", bare)
    installed = made.pre_commit("install")
    assert "pre-commit installed at .git/hooks/pre-commit" in installed.stdout
    assert "pre-commit installed at .git/hooks/pre-push" in installed.stdout
    return made


def configure(made: Repository, hooks: Repository, arguments: str = "[]") -> None:
    """The lines of the documentation, for models that need only LiteRT."""
    (made.folder / ".pre-commit-config.yaml").write_text(
        f"""
default_install_hook_types: [pre-commit, pre-push]
repos:
  - repo: {hooks.folder}
    rev: {hooks.git("rev-parse", "HEAD")}
    hooks:
      - id: tflite-guard-validate
        args: {arguments}
      - id: tflite-guard
        args: {arguments}
        additional_dependencies: ['.[litert]']
"""
    )


def digits(folder: Path, env: dict[str, str]) -> Repository:
    """A repository with the example, all staged."""
    made = repository(folder, env)
    for name in ("app", "data", "models"):
        shutil.copytree(DIGITS / name, made.folder / name)
    shutil.copy(DIGITS / "tflite-guard.json", made.folder)
    made.git("add", "--all")
    return made


def lose_the_scale(made: Repository) -> None:
    """Calibrate with data that is not scaled as the model's inputs are, and add a variant made by a recipe."""
    manifest = json.loads((made.folder / "tflite-guard.json").read_text())
    del manifest["datasets"]["calib"]["preprocess"][1]
    manifest["models"][0]["variants"] = [
        "float32",
        {"name": "int8", "quantization": "int8", "io": "int8"},
        {"name": "by-recipe", "recipe": "dynamic_wi8_afp32"},
    ]
    made.write(manifest)
    made.git("add", "--all")


def test_validate_can_be_tried_on_a_repository(tmp_path: Path, env: dict[str, str], hooks: Repository) -> None:
    made = digits(tmp_path / "digits", env)
    tried = made.pre_commit("try-repo", hooks.folder, "tflite-guard-validate", "--verbose", "--all-files")
    assert tried.returncode == 0, tried.stdout
    assert "check tflite-guard manifest....." in tried.stdout
    assert "tflite-guard.json: valid, 1 model, 7 variants" in tried.stdout


def test_the_check_can_be_tried_with_the_tensorflow_it_brings(
    tmp_path: Path, env: dict[str, str], hooks: Repository
) -> None:
    made = digits(tmp_path / "digits", env)
    lose_the_scale(made)
    tried = made.pre_commit(
        "try-repo", hooks.folder, "tflite-guard", "--hook-stage", "pre-push", "--all-files", "--verbose"
    )
    assert tried.returncode == 1, tried.stdout
    assert "✗ digits / int8  accuracy went from 0.9788 to" in tried.stdout
    assert "3 variants: 1 out of tolerance, 2 within tolerance" in tried.stdout


def test_a_good_change_is_committed_and_pushed(app: Repository) -> None:
    committed = app.commit("Ship digits")
    assert committed.returncode == 0, committed.stdout
    assert told(committed, "check tflite-guard manifest") == "Passed"
    assert "check TensorFlow Lite accuracy" not in committed.stdout, "the check is for the push"
    pushed = app.push()
    assert pushed.returncode == 0, pushed.stdout
    assert told(pushed, "check TensorFlow Lite accuracy") == "Passed"
    assert "check tflite-guard manifest" not in pushed.stdout, "the check validates as well"
    assert app.pushed == app.git("rev-parse", "HEAD")


def test_the_light_environment_fits_where_hooks_have_250_mib(app: Repository, env: dict[str, str]) -> None:
    assert app.commit("Ship digits").returncode == 0
    made = Path(env["PRE_COMMIT_HOME"]).glob("*/py_env-*")
    (light,) = [folder for folder in made if not list(folder.glob("lib/*/site-packages/ai_edge_litert"))]
    assert sum(file.lstat().st_size for file in light.rglob("*")) < 200 << 20


def test_a_change_of_other_files_waits_for_nothing(app: Repository) -> None:
    app.commit("Ship digits")
    assert app.push().returncode == 0
    (app.folder / "README.md").write_text("# Digits\n")
    committed, pushed = app.commit("Read me"), app.push()
    assert told(committed, "check tflite-guard manifest") == "(no files to check)Skipped"
    assert told(pushed, "check TensorFlow Lite accuracy") == "(no files to check)Skipped"


def test_a_commit_with_a_wrong_manifest_is_stopped_with_every_problem(app: Repository) -> None:
    assert app.commit("Ship digits").returncode == 0
    before = app.git("rev-parse", "HEAD")
    wrong = json.loads(json.dumps(MANIFEST).replace("max_drop", "max_dorp").replace("evaluation.npz", "evalution.npz"))
    app.write(wrong)
    stopped = app.commit("Typo")
    assert stopped.returncode == 1
    assert app.git("rev-parse", "HEAD") == before
    assert stopped.stdout.splitlines() == [
        "check tflite-guard manifest..............................................Failed",
        "- hook id: tflite-guard-validate",
        "- exit code: 2",
        "",
        'tflite-guard.json:6:15: no such file: data/evalution.npz; did you mean "evaluation.npz"?',
        'tflite-guard.json:34:11: unknown key "max_dorp"; did you mean "max_drop"?',
        "",
    ]


def test_a_pointer_in_place_of_a_file_is_named_with_the_cure(app: Repository) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    (app.folder / "app/digits_int8.tflite").write_text(pointer)
    stopped = app.commit("Ship digits")
    assert stopped.returncode == 1
    assert "app/digits_int8.tflite is a Git LFS pointer" in stopped.stdout
    assert "git lfs pull" in stopped.stdout


def test_a_push_with_a_worse_model_is_stopped_and_says_how_much_worse(app: Repository, models: Path) -> None:
    assert app.commit("Ship digits").returncode == 0
    assert app.push().returncode == 0
    before = app.pushed
    shutil.copy(models / "bad.tflite", app.folder / "app/digits_int8.tflite")
    assert app.commit("Calibrate anew").returncode == 0
    stopped = app.push()
    assert stopped.returncode == 1
    assert app.pushed == before
    assert told(stopped, "check TensorFlow Lite accuracy") == "Failed"
    words = " ".join(stopped.stdout.split())
    assert "- hook id: tflite-guard - exit code: 1" in words
    assert "✗ digits / shipped accuracy went from 0.9788 to" in words
    assert "max_drop allows 0.01" in words
    assert "✗ fail 1 model, 1 variant: 1 out of tolerance" in words
    assert "failed to push some refs" in words


def test_manifests_in_folders_are_found_and_checked_where_their_files_change(app: Repository) -> None:
    (app.folder / "tflite-guard.json").unlink()
    for name in ("a", "b"):
        moved = json.loads(json.dumps(MANIFEST).replace('"data/', '"../data/'))
        moved["models"][0]["name"] = name
        app.write(moved, f"{name}/tflite-guard.json")
        shutil.copytree(app.folder / "app", app.folder / name / "app")
    app.git("add", "--all")
    validated = app.pre_commit("run", "--verbose", "--all-files")
    assert validated.returncode == 0, validated.stdout
    assert "a/tflite-guard.json: valid" in validated.stdout
    assert "b/tflite-guard.json: valid" in validated.stdout
    checked = app.pre_commit("run", "--hook-stage", "pre-push", "--verbose", "--all-files")
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("2 variants: 2 within tolerance") == 1, "one run for both"
    one = app.pre_commit("run", "--verbose", "--files", "b/app/digits_int8.tflite")
    assert "b/tflite-guard.json: valid" in one.stdout
    assert "a/tflite-guard.json" not in one.stdout
    both = app.pre_commit("run", "--verbose", "--files", "data/evaluation.npz")
    assert both.stdout.count("valid, 1 model") == 2


def test_manifests_of_other_names_are_named_by_a_glob(app: Repository, hooks: Repository) -> None:
    (app.folder / "tflite-guard.json").unlink()
    for name in ("a", "b"):
        app.write(
            json.loads(json.dumps(MANIFEST).replace('"app/', '"../app/').replace('"data/', '"../data/')),
            f"{name}/q.json",
        )
    configure(app, hooks, "['**/q.json']")
    app.git("add", "--all")
    validated = app.pre_commit("run", "--verbose", "--files", "data/evaluation.npz")
    assert validated.returncode == 0, validated.stdout
    assert [f"{name}/q.json: valid" in validated.stdout for name in ("a", "b")] == [True, True]


DOCKER = """#!/bin/sh
# The docker that pre-commit finds: another base image and nothing pulled, as the registry of the usual one may be out
# of reach; nobody's user id in place of root's; and no network.
command=$1
shift
case $command in
build)
    for argument; do
        shift
        [ "$argument" = --pull ] || set -- "$@" "$argument"
    done
    set -- --network host --build-arg BASE_IMAGE={base} "$@" ;;
run)
    for argument; do
        shift
        [ "$argument" = 0:0 ] && argument=12345:12345
        set -- "$@" "$argument"
    done
    set -- --network none "$@" ;;
esac
exec {docker} "$command" "$@"
"""


@pytest.fixture(scope="module")
def container_env(
    docker: Engine, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    docker.build()  # the same but for labels, so that what is slow is there
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "docker"
    program.write_text(DOCKER.format(base=docker.base(), docker=shutil.which("docker")))
    program.chmod(0o755)
    listed = ("images", "--quiet", "--filter", "label=PRE_COMMIT")
    before = set(docker.call(*listed).split())
    yield env | {"DOCKER_HOST": docker.environment["DOCKER_HOST"], "PATH": f"{folder}:{env['PATH']}"}
    for image in set(docker.call(*listed).split()) - before:
        docker.call("image", "rm", "--force", image)


def test_the_container_checks_without_network_as_anyone(
    tmp_path: Path, container_env: dict[str, str], hooks: Repository
) -> None:
    made = digits(tmp_path / "digits", container_env)
    lose_the_scale(made)
    before = made.git("status", "--porcelain")
    command = ("try-repo", hooks.folder, "tflite-guard-docker", "--hook-stage", "pre-push", "--all-files", "--verbose")
    stopped = made.pre_commit(*command)
    assert stopped.returncode == 1, stopped.stdout
    assert told(stopped, "check TensorFlow Lite accuracy (Docker)") == "Failed"
    assert "✗ digits / int8  accuracy went from 0.9788 to" in stopped.stdout
    assert "3 variants: 1 out of tolerance, 2 within tolerance" in stopped.stdout
    shutil.copy(DIGITS / "tflite-guard.json", made.folder)
    made.git("add", "--all")
    passed = made.pre_commit(*command)
    assert passed.returncode == 0, passed.stdout
    assert "✓ pass  1 model, 7 variants: 7 within tolerance" in passed.stdout
    assert made.git("status", "--porcelain") == before, "nothing is left in the repository"


def told(finished: Finished, name: str) -> str:
    """What pre-commit says at the end of a hook's line."""
    (line,) = [line for line in finished.stdout.splitlines() if line.startswith(f"{name}.")]
    return line.removeprefix(name).lstrip(".")
