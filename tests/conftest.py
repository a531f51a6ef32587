"""What tests share: the example as a user has it, and the command line as a user runs it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings

# Before any test imports TensorFlow, which would print a page about the processor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# No test fails for being slow: a machine may have other work. Of tests that have no number of examples of their own,
# `--hypothesis-profile=long` looks further than a pull request waits for.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("calm"), max_examples=2000)
settings.load_profile("calm")

ROOT = Path(__file__).parents[1]
on_micro = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="TensorFlow Lite Micro has wheels for Linux on x86-64 alone",
)
EXAMPLES = ROOT / "examples"
Manifest = dict[str, Any]


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process more than there are cores: a check waits for children that start, and some tests for a clock."""
    return workers(spare=1)


def workers(spare: int) -> int | None:
    """So many test processes more than there are cores, unless the environment says how many."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return len(os.sched_getaffinity(0)) + spare


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests together where nobody is idle: they share what is slow to make."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@dataclass(frozen=True)
class Finished:
    """One run of the command line."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed

    def model(self, name: str) -> dict[str, Any]:
        (model,) = [model for model in self.report["models"] if model["name"] == name]
        return cast(dict[str, Any], model)

    def variant(self, name: str, model: str | None = None) -> dict[str, Any]:
        """A variant of the only model that has one of this name, or of the model that is named."""
        models = self.report["models"] if model is None else [self.model(model)]
        variants = [v for model in models for v in model["variants"] if v["name"] == name]
        assert len(variants) == 1
        return cast(dict[str, Any], variants[0])

    def metric(self, variant: str, name: str, model: str | None = None) -> dict[str, Any]:
        metrics = [metric for metric in self.variant(variant, model)["metrics"] if metric["name"] == name]
        assert len(metrics) == 1
        return cast(dict[str, Any], metrics[0])


Run = Callable[..., Finished]


def run_cli(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 300
) -> Finished:
    """Run `tflite-guard` in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "tflite_guard", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the whole session, so that what one test converted the next one need not, in whatever process.

    It is called as the one in XDG_CACHE_HOME is.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return folder / "shared" / "tflite-guard"


@pytest.fixture
def run(shared_cache: Path, tmp_path: Path) -> Run:
    """The command line with the session's cache, in a folder of its own."""

    def call(*arguments: str | Path, cwd: Path | None = None, **settings: Any) -> Finished:
        wanted = list(arguments)
        caching = {"check", "compare", "convert", "why"} & set(map(str, wanted[:1])) or list(map(str, wanted[:2])) == [
            "baseline",
            "update",
        ]
        if caching and not {"--no-cache", "--cache-dir"} & set(map(str, wanted)):
            wanted += ["--cache-dir", shared_cache]
        return run_cli(*wanted, cwd=cwd or tmp_path, **settings)

    return call


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A copy of examples/digits that a test may change; the folder of its manifest."""
    folder = tmp_path / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    return folder


@pytest.fixture(scope="session")
def float_tflite(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's model as a float .tflite: a reference that needs no TensorFlow, whose import takes seconds."""
    path = tmp_path_factory.mktemp("float") / "float.tflite"
    manifest = EXAMPLES / "digits" / "tflite-guard.json"
    made = run_cli("convert", "digits", "float32", "-o", path, "--manifest", manifest, "--cache-dir", shared_cache)
    assert made.code == 0, made.err
    return path


@pytest.fixture
def light_digits(digits: Path, float_tflite: Path) -> Path:
    """The same with a manifest of .tflite files alone: the float one as the reference, and the one that is shipped."""
    lighten(digits, float_tflite)
    return digits


def lighten(digits: Path, float_tflite: Path) -> None:
    """Have the example's manifest name .tflite files alone, for which no TensorFlow is started."""
    shutil.copy(float_tflite, digits / "app/digits_float.tflite")
    manifest = only(manifest_of(digits), "shipped")
    manifest["models"][0]["reference"] = {"tflite": "app/digits_float.tflite"}
    manifest["models"][0].pop("calibration")
    write_manifest(digits, manifest)


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a folder, to edit."""
    parsed: Manifest = json.loads((folder / "tflite-guard.json").read_text())
    return parsed


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write a manifest into a folder."""
    path = folder / "tflite-guard.json"
    path.write_text(json.dumps(manifest, indent=2))
    return path


def only(manifest: Manifest, *variants: str) -> Manifest:
    """A manifest with just these variants of its first model."""
    model = manifest["models"][0]
    model["variants"] = [v for v in model["variants"] if (v if isinstance(v, str) else v["name"]) in variants]
    return manifest
