"""What a user installs: a wheel with only what they need, and words for what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def environment(folder: Path, requirement: str) -> Call:
    """A clean virtual environment with one requirement; gives a way to call its tflite-guard."""
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/pip", "install", "-q", requirement], check=True, capture_output=True)

    def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [str(folder / "bin/tflite-guard"), *arguments]
        env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)

    return call


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    return environment(tmp_path_factory.mktemp("light"), str(wheel))


@pytest.fixture(scope="module")
def litert(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    return environment(tmp_path_factory.mktemp("litert"), f"tflite-guard[litert] @ file://{wheel}")


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLES / "digits", tmp_path / "digits")
    return tmp_path / "digits"


def test_validate_and_schemas_need_neither_tensorflow_nor_litert(light: Call, digits: Path) -> None:
    assert light("validate", cwd=digits).returncode == 0
    for name in ("manifest", "report"):
        assert light("schema", name, cwd=digits).stdout == (ROOT / f"schemas/{name}-v1.schema.json").read_text()


def test_the_wheel_is_typed_and_holds_the_templates_of_the_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    templates = (ROOT / "tflite_guard/reports/html/templates").iterdir()
    assert files >= {"tflite_guard/py.typed", *(str(one.relative_to(ROOT)) for one in templates)}


def test_what_is_missing_is_said_with_what_to_install(light: Call, litert: Call, digits: Path) -> None:
    without = light("check", "--variant", "shipped", cwd=digits)
    assert without.returncode == 3
    assert "pip install 'tflite-guard[tensorflow]'" in without.stdout
    only_litert = litert("check", cwd=digits)
    assert only_litert.returncode == 3
    assert "pip install 'tflite-guard[tensorflow]'" in only_litert.stdout
    assert "Traceback" not in without.stdout + without.stderr + only_litert.stdout + only_litert.stderr


def test_a_manifest_of_tflite_files_needs_only_litert(light: Call, litert: Call, digits: Path) -> None:
    manifest = json.loads((digits / "tflite-guard.json").read_text())
    model = manifest["models"][0]
    # The reference's outputs as any framework could have recorded them: here the shipped file's own.
    recorder = """
import sys, numpy as np
from tflite_guard.engine.tflite import Model, Runner
images = np.load("data/evaluation.npz")["image"].astype(np.float32) / 16
(outputs,) = Runner(Model.read("app/digits_int8.tflite")).run({"image": images}).values()
np.savez("data/recorded.npz", probabilities=outputs)
"""
    python = str(Path(litert("--version", cwd=digits).args[0]).with_name("python"))
    subprocess.run([python, "-c", recorder], cwd=digits, check=True, capture_output=True)
    model["reference"] = {"outputs": "data/recorded.npz"}
    model["variants"] = [
        variant for variant in model["variants"] if isinstance(variant, dict) and variant["name"] == "shipped"
    ]
    model.pop("calibration")
    (digits / "tflite-guard.json").write_text(json.dumps(manifest))
    finished = litert("check", cwd=digits)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "identical" in finished.stdout
    missing = light("check", cwd=digits)
    assert missing.returncode == 3
    assert "pip install 'tflite-guard[litert]'" in missing.stdout


def test_an_operator_is_saved_with_litert_alone(run: Run, litert: Call, tmp_path: Path) -> None:
    """And node data, where experiments cannot be made for want of a quantizer."""
    manifest = EXAMPLES / "digits-broken/tflite-guard.json"
    for name in ("float32", "int8"):
        made = run("convert", "digits", name, "-o", f"{name}.tflite", "--manifest", manifest)
        assert made.code == 0, made.err
    scans = np.load(EXAMPLES / "digits/data/evaluation.npz")
    np.savez(tmp_path / "data.npz", image=scans["image"].astype("float32") / 16, label=scans["label"])
    asked = ("why", "float32.tflite", "int8.tflite", "data.npz", "--save-operator", "out", "--manifest", "kept.json")
    finished = litert(*asked, cwd=tmp_path)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert finished.stderr.startswith("out/float32-int8: CONV_2D, ")
    assert len(list((tmp_path / "out/float32-int8").iterdir())) == 5
    assert litert("check", "kept.json", "--report-dir", "report", cwd=tmp_path).returncode == 1
    (isolated,) = (tmp_path / "report/model-explorer").glob("*-isolated.json")
    assert len(json.loads(isolated.read_text())["results"]) == 9
