"""A system without what children need, as Windows is: what runs no model works, and the rest says so in a sentence.

It is this system with what Windows lacks taken away once the standard library has been loaded; paths stay as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES, ROOT, Finished

WINDOWS = """
import sys, os, signal, platform
# What itself adapts to the system as it is loaded.
import click, ctypes, importlib.metadata, platformdirs, rich.console, shutil, subprocess, tempfile, threading, zipfile
for name in (
    "chown fchmod fchown fork geteuid getegid getuid getgid getpgid killpg lchown mkfifo nice pread pwrite setsid "
    "sched_getaffinity sysconf uname O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK"
).split():
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1"):
    delattr(signal, name)
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
os.supports_dir_fd = frozenset()
sys.platform = "win32"
platform.system = lambda: "Windows"
from tflite_guard.cli import main
main(sys.argv[1:])
"""


def on_windows(*arguments: str | Path, cwd: Path) -> Finished:
    command = [sys.executable, "-c", WINDOWS, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)
    assert "Traceback" not in finished.stderr, finished.stderr
    return Finished(finished.returncode, finished.stdout, finished.stderr)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["validate", EXAMPLES / "digits"], "valid, 1 model"),
        (["report", ROOT / "tests/golden/report.json"], "✗ error  4 models"),
        (["report", ROOT / "tests/golden/report.json", "--report-dir", "report"], "✗ error  4 models"),
        (["comment", ROOT / "tests/golden/report.json", "--dry-run"], "tflite-guard"),
        (["explain", "coarse-output"], "coarse-output"),
        (["schema", "manifest"], "schema_version"),
        (["--help"], "Examples:"),
    ],
)
def test_what_runs_no_model_works_on_windows(tmp_path: Path, arguments: list[str | Path], told: str) -> None:
    finished = on_windows(*arguments, cwd=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    assert told in finished.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--report-dir", "report"],
        ["baseline", "update"],
        ["convert", "digits", "int8", "-o", "x.tflite"],
        ["init", "app/digits_int8.tflite", "data/evaluation.npz", "-o", "new.json", "--measure"],
        ["why", "models/digits.keras", "int8", "data/evaluation.npz"],
        ["compare", "app/digits_int8.tflite", "app/digits_int8.tflite", "data/evaluation.npz"],
    ],
)
def test_what_runs_models_says_on_windows_where_it_would(digits: Path, arguments: list[str | Path]) -> None:
    before = {path.name for path in digits.iterdir()}
    finished = on_windows(*arguments, cwd=digits)
    assert finished.code == 3
    (line,) = finished.err.splitlines()
    assert line.startswith("tflite-guard: models run in child processes that Windows cannot confine; use WSL 2, Linux")
    written = {path.name for path in digits.iterdir()} - before
    assert written == ({"report"} if arguments[0] == "check" else set())


def test_init_writes_on_windows_what_the_data_says_and_validate_tells_what_is_open(digits: Path) -> None:
    model = ["init", "models/digits.keras"]
    made = on_windows(*model, "data", "-o", "new.json", cwd=digits)
    assert (made.code, made.err) == (0, "")
    assert "Windows cannot run models/digits.keras, so its inputs and outputs are not known" in made.out
    written = json.loads((digits / "new.json").read_text())
    assert written["datasets"]["evaluation"]["labels"] == "label"
    assert written["models"][0]["metrics"] == ["accuracy", "agreement"]
    asked = on_windows("validate", "new.json", cwd=digits)
    assert asked.code == 2
    told = asked.err.splitlines()
    assert set(told) <= set(made.out.splitlines())
    assert [line.partition("; put here ")[2].partition(",")[0] for line in told] == [
        "the key that is the model's input",
        "the steps that turn this data into what the model takes",
    ] * 2
    for data in written["datasets"].values():
        data |= {"inputs": "image", "preprocess": [{"cast": "float32"}, {"scale": 0.0625}]}
    (digits / "new.json").write_text(json.dumps(written))
    assert on_windows("validate", "new.json", cwd=digits).code == 0
    again = on_windows(*model, "data", "--input", "image", "--labels", "label", "-o", "chosen.json", cwd=digits)
    assert again.out.count("left open") == 2
    without = on_windows(*model, "-o", "none.json", cwd=digits)
    assert without.code == 2
    assert "name the data" in without.err
    assert not (digits / "none.json").exists()


def test_init_leaves_the_columns_of_a_table_open_on_windows(digits: Path) -> None:
    (digits / "table.csv").write_text("pressure,temperature,label\n1,2,0\n3,4.5,1\n")
    made = on_windows("init", "models/digits.keras", "table.csv", "-o", "new.json", cwd=digits)
    assert made.code == 0, made.err
    (data,) = json.loads((digits / "new.json").read_text())["datasets"].values()
    asked, *columns = data["columns"]["features"]
    assert asked.startswith("FILL IN: the columns")
    assert (columns, data["labels"]) == (["pressure", "temperature"], "label")
