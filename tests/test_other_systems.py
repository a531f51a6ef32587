"""A system without what children need, as Windows is: what runs no model works, and the rest says so in a sentence.

It is this system with what Windows lacks taken away once the standard library has been loaded; paths stay as they are.
"""

from __future__ import annotations

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
        ["init", "models/digits.keras", "-o", "new.json"],
        ["init", "app/digits_int8.tflite", "data/evaluation.npz", "-o", "new.json"],
        ["why", "models/digits.keras", "int8", "data/evaluation.npz"],
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
