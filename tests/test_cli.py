"""What answers at once and loads little; caching as a user meets it; the baseline; init."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete

from tests.conftest import EXAMPLES, ROOT, Run, manifest_of, only, write_manifest
from tests.sample import full
from tflite_guard.cli import cli
from tflite_guard.reports import terminal

HEAVY = {
    "tensorflow",
    "keras",
    "ai_edge_litert",
    "litert_quantizer",
    "scipy",
    "numpy",
    "PIL",
    "sklearn",
    "jinja2",
    "jsonschema",
}
EXAMPLE = EXAMPLES / "digits" / "tflite-guard.json"


def modules_after(*arguments: str | Path) -> set[str]:
    """The top-level modules that a command has loaded when it ends, asked of a fresh process."""
    code = (
        "import sys, json\nfrom tflite_guard.cli import main\n"
        "try: main(sys.argv[2:])\nexcept SystemExit: pass\n"
        "open(sys.argv[1], 'w').write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    target = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"modules-{os.getpid()}.json"
    subprocess.run([sys.executable, "-c", code, str(target), *map(str, arguments)], check=True, capture_output=True)
    found = set(json.loads(target.read_text()))
    target.unlink()
    return found


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["--version"], ["schema", "manifest"]])
def test_help_and_schemas_load_nothing_heavy(arguments: list[str]) -> None:
    assert not HEAVY & modules_after(*arguments)


def test_validate_loads_nothing_heavy() -> None:
    assert not HEAVY & modules_after("validate", EXAMPLE)


def test_a_cached_check_and_a_report_load_nothing_heavy(run: Run, shared_cache: Path, tmp_path: Path) -> None:
    assert run("check", EXAMPLE, "--report-dir", tmp_path).code == 0
    assert not HEAVY & modules_after("check", EXAMPLE, "--cache-dir", shared_cache)
    assert not HEAVY & modules_after("report", tmp_path / "report.json")


@pytest.mark.parametrize("name", ["manifest", "report"])
def test_schema_prints_the_published_file(run: Run, name: str) -> None:
    assert run("schema", name).out == (ROOT / f"schemas/{name}-v1.schema.json").read_text()


def started_children(run: Run, path: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """Variant to the seconds of each phase that really ran."""
    finished = run("check", path, "--format", "json", *arguments)
    assert finished.code in (0, 1), finished.out + finished.err
    return {v["name"]: v["seconds"] for v in finished.report["models"][0]["variants"]}


def test_an_unchanged_manifest_runs_nothing(run: Run, digits: Path) -> None:
    path = digits / "tflite-guard.json"
    started_children(run, path)
    finished = run("check", path, "--format", "json")
    assert all(variant["cached"] and not variant["seconds"] for variant in finished.report["models"][0]["variants"])


def test_a_changed_tolerance_only_judges_again(run: Run, digits: Path) -> None:
    path = write_manifest(digits, manifest := only(manifest_of(digits), "int8", "float16"))
    started_children(run, path)
    manifest["models"][0]["tolerances"]["agreement"]["min"] = 0.9999
    finished = run("check", write_manifest(digits, manifest), "--format", "json", "--diagnose", "never")
    assert finished.code == 1
    assert all(variant["cached"] for variant in finished.report["models"][0]["variants"])


def test_an_edited_variant_alone_is_made_again(run: Run, digits: Path) -> None:
    path = write_manifest(digits, manifest := only(manifest_of(digits), "int8", "float16"))
    started_children(run, path)
    manifest["models"][0]["variants"][1]["calibration_options"] = {"samples": 37}
    seconds = started_children(run, write_manifest(digits, manifest))
    assert seconds["float16"] == {}
    assert set(seconds["int8"]) == {"convert", "evaluate"}


def test_changed_content_is_never_answered_from_the_cache(run: Run, digits: Path) -> None:
    """Of the data, of the model, or of the calibration data, in a model each."""
    manifest = only(manifest_of(digits), "int8")
    files = {"data": "data/evaluation.npz", "model": "models/digits.keras", "calibration": "data/calibration.npz"}
    model, places = manifest["models"][0], {}
    manifest["models"] = []
    for what, file in files.items():
        places[what] = (digits / file).with_stem(f"own_{what}")
        shutil.copy(digits / file, places[what])
        own = str(places[what].relative_to(digits))
        changes: dict[str, Any] = {"name": what}
        if what == "model":
            changes["reference"] = {"keras": own}
        else:
            dataset = "test" if what == "data" else "calib"
            manifest["datasets"][what] = manifest["datasets"][dataset] | {"path": own}
            changes["evaluation" if what == "data" else "calibration"] = what
        manifest["models"].append(model | changes)
    path = write_manifest(digits, manifest)
    run("check", path)
    before = run("check", path, "--format", "json")
    assert all(before.variant("int8", what)["cached"] for what in files)
    with zipfile.ZipFile(places["model"], "a") as archive:
        archive.comment = b"another file, same network"
    for what in ("data", "calibration"):
        arrays = dict(np.load(places[what]))
        np.savez(places[what], **{key: array[: len(array) // 2] for key, array in arrays.items()})
    finished = run("check", path, "--format", "json")
    for what in files:
        assert not finished.variant("int8", what)["cached"], what
        was, now = (one.metric("int8", "sqnr", what)["value"] for one in (before, finished))
        assert was != now or what == "model"


def test_no_cache_keeps_nothing_and_takes_nothing(run: Run, light_digits: Path, tmp_path: Path) -> None:
    path = light_digits / "tflite-guard.json"
    env = {"XDG_CACHE_HOME": str(tmp_path / "xdg"), "TMPDIR": str(tmp_path)}
    assert run("check", path, "--no-cache", env=env).code == 0
    assert not (tmp_path / "xdg").exists()
    assert not list(tmp_path.glob("tflite-guard-*"))
    assert run("check", path, "--no-cache", "--cache-dir", tmp_path).code == 2


def test_json_on_standard_output_is_all_there_is(run: Run) -> None:
    finished = run("check", EXAMPLES / "digits-broken" / "tflite-guard.json", "--format", "json")
    assert json.loads(finished.out)["verdict"] == "fail"
    assert finished.err == ""


def test_tensorflows_noise_shows_only_when_asked_for(run: Run, digits: Path) -> None:
    path = write_manifest(digits, only(manifest_of(digits), "float32"))
    quiet = run("check", path, "--no-cache")
    assert quiet.err == ""
    loud = run("check", path, "--no-cache", "-v")
    assert "TensorFlow" in loud.err or "tensorflow" in loud.err
    assert loud.out == quiet.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--format", "pdf"], "text, json"),
        (["check", "--format", "json", "--format", "text"], "only one"),
        *((["check", "--timeout", seconds], "a number of seconds over 0") for seconds in ("0", "-1", "inf", "nan")),
        (["check", "--jobs", "none"], "--jobs"),
        (["nonsense"], "nonsense"),
        (["convert", "digits", "int9", "-o", "x", "--manifest", str(EXAMPLE)], "int8"),
        (["convert", "digit", "int8", "-o", "x", "--manifest", str(EXAMPLE)], "digits"),
        (["report", str(EXAMPLE)], "not a report"),
        (["report", "missing.json"], "missing.json"),
    ],
)
def test_wrong_usage_is_told_with_code_2(run: Run, arguments: list[str], message: str) -> None:
    finished = run(*arguments)
    assert finished.code == 2
    assert message in finished.err
    assert "Traceback" not in finished.err


def test_the_baseline_is_recorded_shown_and_gates(run: Run, light_digits: Path) -> None:
    digits = light_digits
    manifest = manifest_of(digits)
    manifest["models"][0]["tolerances"]["sqnr"] = {"max_regression": 1.0}
    slow = {"name": "slow", "tflite": "app/digits_int8.tflite", "kernels": "reference"}
    manifest["models"][0]["variants"].append(slow)
    path = write_manifest(digits, manifest)
    first = run("check", path)
    assert first.code == 0
    assert "no value" in first.out  # a gate without a baseline is said, not skipped
    assert run("baseline", "update", path).code == 0
    recorded = json.loads((digits / "tflite-guard.baseline.json").read_text())
    assert set(recorded["models"]["digits"]["variants"]) == {"shipped", "slow"}
    assert "shipped" in run("baseline", "show", path).out
    unchanged = run("check", path, "--format", "json")
    assert unchanged.code == 0
    assert unchanged.metric("shipped", "sqnr")["regression"] == 0
    recorded["models"]["digits"]["variants"]["shipped"]["metrics"]["sqnr"] += 1.5
    recorded["models"]["digits"]["variants"]["gone"] = recorded["models"]["digits"]["variants"].pop("slow")
    (digits / "tflite-guard.baseline.json").write_text(json.dumps(recorded))
    worse = run("check", path, "--diagnose", "never")
    assert worse.code == 1
    assert "the baseline had" in worse.out
    assert "'gone'" in worse.out
    assert "'slow'" in worse.out
    assert run("check", path, "--baseline", "off").code == 0
    del recorded["models"]["digits"]["variants"]["gone"]
    recorded["models"]["digits"]["variants"]["shipped"]["metrics"]["sqnr"] -= 1.5
    (other := digits / "main.baseline.json").write_text(json.dumps(recorded))
    assert run("check", path, "--baseline", other).code == 0
    two = run("check", path, digits / "other.json", "--baseline", other)
    assert (two.code, "check each manifest by itself" in two.err or "other.json" in two.err) == (2, True)
    assert run("check", path, "--baseline", digits / "none.json").code == 2


def test_manifests_below_are_found_and_models_of_one_name_told_apart(run: Run, light_digits: Path) -> None:
    folder = light_digits.parent / "repository"
    for name in ("a", "b"):
        shutil.copytree(light_digits, folder / name)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    checked = run("check", cwd=folder)
    assert checked.code == 0, checked.err
    assert "a: digits" in checked.out
    assert "b: digits" in checked.out
    assert "2 models" in checked.out
    assert run("validate", "--changed", "b/data/evaluation.npz", cwd=folder).out.startswith(
        "b/tflite-guard.json: valid"
    )
    twice = run("convert", "digits", "shipped", "-o", "x.tflite", cwd=folder)
    assert twice.code == 2
    assert "is in a/tflite-guard.json and b/tflite-guard.json; say which is meant with --manifest" in twice.err
    unknown = run("convert", "digit", "shipped", "-o", "x.tflite", cwd=folder)
    assert "there is no model 'digit': a/tflite-guard.json has digits; b/" in unknown.err
    assert run("convert", "digits", "shipped", "-o", "x.tflite", "--manifest", "b", cwd=folder).code == 0
    assert run("baseline", "update", cwd=folder).out.count("recorded") == 2
    none = run("check", cwd=light_digits.parent)
    assert none.code == 2
    assert "found nearby: digits/tflite-guard.json, repository/a/tflite-guard.json" in none.err


def test_a_baseline_is_not_recorded_from_a_run_with_errors(run: Run, light_digits: Path) -> None:
    broken = {"name": "broken", "tflite": "app/broken.tflite"}
    (light_digits / "app/broken.tflite").write_bytes((light_digits / "app/digits_int8.tflite").read_bytes()[:8000])
    manifest = manifest_of(light_digits)
    manifest["models"][0]["variants"].append(broken)
    finished = run("baseline", "update", write_manifest(light_digits, manifest))
    assert finished.code == 3
    assert not (light_digits / "tflite-guard.baseline.json").exists()


def test_init_writes_manifests_that_validate_and_run(run: Run, light_digits: Path) -> None:
    """Of each kind of model, with data and without."""
    written = {}
    for model in ("models/digits.keras", "models/digits_qat", "app/digits_float.tflite"):
        for data in ([], ["data/evaluation.npz"]):
            name = f"{Path(model).name}-{len(data)}.json"
            made = run("init", model, *data, "-o", name, cwd=light_digits)
            assert made.code == 0, made.err
            assert run("validate", name, cwd=light_digits).code == 0
            # What a user wrote is not overwritten.
            assert run("init", model, *data, "-o", name, cwd=light_digits).code == 2
            written[name] = bool(data)
    checked = run("check", *written, "--fail-on", "never", "--format", "json", cwd=light_digits)
    assert checked.code == 0, checked.err
    assert [model["manifest"]["path"] for model in checked.report["models"]] == list(written)
    for model, data in zip(checked.report["models"], written.values(), strict=True):
        assert model["verdict"] in ("pass", "fail"), model
        assert model["reference"]["verdict"] == ("pass" if data else None), "held to the accuracy that it has"


def test_init_refuses_what_it_cannot_use(run: Run, digits: Path, tmp_path: Path) -> None:
    for arguments, code, message in (
        (["nothing.keras"], 2, "no such file"),
        (["data/evaluation.npz"], 2, "not a .keras"),
        (["app/digits_int8.tflite"], 3, "float model"),
        (["models/digits.keras", "data/nothing.npz"], 2, "nothing.npz"),
    ):
        finished = run("init", *arguments, "-o", "new.json", cwd=digits)
        assert (finished.code, message in finished.err) == (code, True), finished.err
        assert not (digits / "new.json").exists()


def helps() -> Iterator[tuple[str, str]]:
    """Every command's name and what stands below its help."""
    for name, command in cli.commands.items():
        nested = command.commands if isinstance(command, click.Group) else {}
        for path, one in {name: command, **{f"{name} {inner}": one for inner, one in nested.items()}}.items():
            yield path, one.epilog or ""


def test_help_has_examples_exit_codes_and_a_link_and_lists_the_action_last(run: Run) -> None:
    told = run("--help").out
    for line in ("    tflite-guard check", "    0    everything is within tolerance", "    130  interrupted"):
        assert line in told.splitlines()
    assert "https://tflite-guard.github.io/tflite-guard/" in told
    listed = re.findall(r"^  (\w+)  +\w", told.partition("Commands:")[2], re.MULTILINE)
    assert (listed[0], listed[-1]) == ("check", "action")
    assert "..." not in told.partition("Commands:")[2]
    assert "  3    something could not be evaluated" in run("check", "--help").out


def test_every_commands_help_ends_with_a_page_that_there_is() -> None:
    for name, below in helps():
        page = re.search(r"Documentation: https://tflite-guard\.github\.io/tflite-guard/([\w-]*)/?\Z", below)
        assert page is not None, name
        assert (ROOT / "docs" / f"{page[1] or 'index'}.md").exists(), name


def test_the_examples_of_the_help_are_commands() -> None:
    examples = {(name, line) for name, below in helps() for line in re.findall(r"^  tflite-guard (.*)", below, re.M)}
    without = {name for name, below in helps()} - {name for name, _ in examples}
    assert without <= {"action", "baseline", "baseline show"}
    for name, line in examples:
        arguments = shlex.split(line.partition(" > ")[0])
        assert line.startswith(name)
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        command.make_context(name, arguments)  # raises where an option is unknown or an argument missing


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["va"], ["validate"]),
        (["check", "--only"], ["--only-failures"]),
        (["check", "models/d"], [("file", "models/d")]),
        (["init", "model.keras", "ev"], [("file", "ev")]),
        (["why", "model.keras", "model.tflite", "ev"], [("file", "ev")]),
        (["compare", "a.tflite", "b"], [("file", "b")]),
        (["compare", "a.tflite", "b.tflite", "data.npz", "--format", "h"], ["html"]),
        (["check", "--report-dir", "rep"], [("file", "rep")]),
        (["check", "--format", "m"], ["markdown"]),
        (["explain", "coarse"], ["coarse-output"]),
    ],
)
def test_a_shell_completes(typed: list[str], completed: list[str | tuple[str, str]]) -> None:
    shell = ShellComplete(cli, {}, "tflite-guard", "_TFLITE_GUARD_COMPLETE")
    found = shell.get_completions(typed[:-1], typed[-1])
    assert [one.value if one.type == "plain" else (one.type, one.value) for one in found] == completed


def test_completion_is_asked_for_as_the_readme_says(run: Run) -> None:
    (variable,) = set(re.findall(r"(\w+)=\w+_source tflite-guard", (ROOT / "README.md").read_text()))
    assert "complete -o nosort -F" in run(env={variable: "bash_source"}).out


def in_a_terminal(*arguments: str | Path, columns: int, **env: str) -> str:
    """What a person sees: standard output and error of a command in a terminal of so many columns."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tflite_guard", *map(str, arguments)],
        stdin=child,
        stdout=child,
        stderr=child,
        env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"} | env,
    )
    os.close(child)
    seen = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and select.select([parent], [], [], 120)[0]:
        try:
            block = os.read(parent, 65536)
        except OSError:  # Linux says so when the other end has closed
            break
        if not block:
            break
        seen += block
    os.close(parent)
    assert process.wait(timeout=30) in (0, 1)
    return seen.decode()


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_the_table_keeps_every_figure_in_a_terminal_of_any_width(run: Run, shared_cache: Path, columns: int) -> None:
    run("check", EXAMPLE)
    seen = in_a_terminal("check", EXAMPLE, "--cache-dir", shared_cache, columns=columns)
    assert "\x1b[" in seen  # colours
    assert "…" not in seen
    for figure in ("0.9788", "0.9777", "max_drop", "dynamic_range", "36.47 dB", "7 within tolerance"):
        assert figure in seen, figure


def test_colours_are_for_terminals_and_can_be_turned_off(run: Run) -> None:
    report = ROOT / "tests/golden/report.json"
    coloured = in_a_terminal("report", report, columns=80)
    assert "\x1b[1;31m✗" in coloured
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", in_a_terminal("report", report, columns=80, NO_COLOR="1"))
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines()]
    assert lines == (ROOT / "tests/golden/report.80.txt").read_text().splitlines()
    assert run("report", report).out == terminal.shown(full())


def test_how_much_is_shown_is_asked_for(run: Run, tmp_path: Path) -> None:
    """By options of `check` and of `report`, of what is printed and not of what is written."""
    report = ROOT / "tests/golden/report.json"
    for option, extent in (("-v", "all"), ("-q", "quiet"), ("--only-failures", "failures")):
        printed = run("report", report, option, "--format", "text", "--format", "text=all.txt", cwd=tmp_path)
        assert printed.out == terminal.shown(full(), extent=extent)
        assert (tmp_path / "all.txt").read_text() == (ROOT / "tests/golden/report.txt").read_text()
    assert run("report", report, "-q", "-v").code == 2


def test_quiet_is_a_line_where_everything_passes(light_digits: Path) -> None:
    seen = in_a_terminal("check", light_digits, "-q", "--no-cache", columns=80)
    assert re.sub(r"\x1b\[[0-9;]*m", "", seen) == "✓ pass  1 model, 1 variant: 1 within tolerance\r\n"


def test_progress_says_that_it_waits_for_tensorflow(digits: Path, tmp_path: Path) -> None:
    chosen = ["--manifest", digits, "--no-cache"]
    seen = in_a_terminal("convert", "digits", "float16", "-o", tmp_path / "x.tflite", *chosen, columns=160)
    assert 0 < seen.index("digits: loading TensorFlow") < seen.index("digits: converting float16")


def test_progress_tells_models_of_one_name_apart(light_digits: Path) -> None:
    shutil.copytree(light_digits, light_digits.parent / "other")
    paths = [folder / "tflite-guard.json" for folder in (light_digits, light_digits.parent / "other")]
    seen = in_a_terminal("check", *paths, "--no-cache", columns=160)
    assert "other/tflite-guard.json: digits" in seen or "other: digits" in seen


def test_progress_is_shown_in_a_terminal(light_digits: Path) -> None:
    path = light_digits / "tflite-guard.json"
    seen = in_a_terminal("check", path, "--no-cache", columns=120)
    assert "running the reference" in seen
    assert "examples/s" in seen


def test_an_interrupt_while_python_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)")
    finished = subprocess.run(
        [sys.executable, "-m", "tflite_guard", "validate"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "interrupted\n")


def test_a_full_pipe_is_waited_for_where_what_started_us_would_not() -> None:
    """Node leaves its pipes such that writing to a full one is an error."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "-m", "tflite_guard", "schema", "manifest"]
    with (
        subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE) as process,
        os.fdopen(reading, "rb") as stream,
    ):
        full = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.close(writing)
        while process.poll() is None and _unread(reading) < full:
            time.sleep(0.01)
        assert json.loads(stream.read())["title"]
    assert process.returncode == 0


def _unread(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_streams_that_are_closed_change_nothing_else(light_digits: Path, closed: tuple[int, ...]) -> None:
    """Files that are opened later take the places of those that are closed, and get what is meant for them."""
    command = "check --no-cache --diagnose never --format text --format json=report.json"
    finished = subprocess.run(
        [sys.executable, "-m", "tflite_guard", *command.split()],
        cwd=light_digits,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: [os.close(descriptor) for descriptor in closed] and None,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stderr == ""
    assert ("1 within tolerance" in finished.stdout) == (1 not in closed)
    assert json.loads((light_digits / "report.json").read_text())["verdict"] == "pass"
