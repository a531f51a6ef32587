"""The Python interface: what it exports and loads, lookups by name, and a report that shows itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

import tflite_guard
from tests.conftest import ROOT, Run, manifest_of, write_manifest
from tests.sample import HOSTILE, fixed, full, named, variant
from tests.test_cli import HEAVY
from tflite_guard import ManifestError, Report, UsageError, Verdict
from tflite_guard.reports import FORMATS
from tflite_guard.reports.rows import KEYS
from tflite_guard.reports.terminal import shown as terminal_shows
from tflite_guard.results import ManifestInfo
from tflite_guard.text.plain import plain

PAGE = (ROOT / "docs/python.md").read_text()


def shown(report: Any = None) -> Report:
    return Report.of(report or full())


# What is exported


def test_importing_it_loads_nothing_and_every_name_is_there() -> None:
    code = (
        "import sys, tflite_guard\n"
        "own = [name for name in sys.modules if name.startswith('tflite_guard.')]\n"
        "from tflite_guard import *\n"
        "gone = [name for name in tflite_guard.__all__ if name not in dir(tflite_guard) or name not in globals()]\n"
        f"print(own, gone, {HEAVY!r} & {{name.split('.')[0] for name in sys.modules}} or None, check, __version__)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version = re.escape(tflite_guard.__version__)
    assert re.fullmatch(rf"\[\] \[\] None <function check at .*> {version}\n", finished.stdout)


def test_a_name_that_is_not_there_is_told_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'tflite_guard' has no attribute 'chekc'"):
        tflite_guard.chekc  # type: ignore[attr-defined]  # noqa: B018


# The verdict and lookups


def test_it_is_plain_data() -> None:
    assert json.loads(json.dumps(msgspec.to_builtins(shown()))) == json.loads(FORMATS["json"].text(full()))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_it_is_ok_where_the_command_line_exits_with_nought(verdict: Verdict) -> None:
    one = replace(fixed().models[2], variants=(variant("int8", verdict),), verdict=verdict)
    report = shown(replace(fixed(), models=(one,), verdict=verdict))
    expected = verdict in ("pass", "warn")
    assert [report.ok, report["healthy"].ok, report["healthy"]["int8"].ok] == [expected] * 3


def test_results_are_found_by_name() -> None:
    report = shown()
    assert report["digits"]["int8"]["accuracy"].value == 0.91
    assert list(report) == ["digits", "broken", "healthy", "suspect"]
    assert list(report["digits"]) == ["float32", "int8", "int16", "proof", "worse", "lost"]
    assert list(report["digits"]["int8"]) == ["accuracy", "sqnr", "size_bytes"]
    assert "digits" in report
    assert "int9" not in report["digits"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["digit"], "the report has no model 'digit'; did you mean 'digits'? It has 'digits', 'broken', 'healthy'"),
        (["digits", "int9"], "model 'digits' has no variant 'int9'; did you mean 'int8'? It has 'float32', 'int8', "),
        (["digits", "int8", "x"], "variant 'int8' has no metric 'x'. It has 'accuracy', 'sqnr', 'size_bytes'."),
        (["digits", "int8", 0], "variant 'int8' has no metric 0. It has 'accuracy'"),
        (["digits", "lost", "accuracy"],
         "variant 'lost' has no metrics: it could not be evaluated: keep_float: no_such_layer matches nothing"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_told_with_those_that_are(keys: list[Any], said: str) -> None:
    *way, last = keys
    found: Any = reduce(getitem, way, shown())
    with pytest.raises(KeyError) as raised:
        found[last]
    assert raised.value.args[0].startswith(said)


def test_an_error_lists_some_of_many_names() -> None:
    many = tuple(replace(fixed().models[2], name=f"m{place}") for place in range(50))
    with pytest.raises(KeyError, match=r"'m19' and 30 more\.\"$"):
        shown(replace(fixed(), models=many))["other"]


def test_models_of_one_name_go_by_what_the_report_calls_them() -> None:
    digits, *others = fixed().models
    places = [replace(digits, manifest=ManifestInfo("x", f"{place}/t.json", "2" * 64)) for place in ("a", "b")]
    report = shown(replace(fixed(), models=(*places, *others)))
    assert report["b: digits"].manifest.repository_path == "b/t.json"
    with pytest.raises(KeyError, match="several models are called 'digits'; say 'a: digits' or 'b: digits'"):
        report["digits"]


# What it shows


def test_it_prints_as_the_terminal_and_is_a_line_by_itself() -> None:
    terminal = terminal_shows(full())
    assert "-v shows all of their figures" in terminal
    assert f"{shown()}\n" == terminal.replace("-v shows", "report[MODEL] holds")
    assert repr(shown()) == (
        "<Report error: lost of digits could not be evaluated: keep_float: no_such_layer matches nothing; broken could "
        "not be evaluated: models/broken.keras: is cut off; 9 more>"
    )
    healthy = replace(fixed(), models=(fixed().models[2],), verdict=Verdict.PASS)
    assert repr(shown(healthy)) == "<Report pass: int8 of healthy is within tolerance>"
    assert repr(shown(replace(fixed(), models=()))) == "<Report error: nothing was checked>"


@given(HOSTILE)
@settings(deadline=None)
def test_no_name_makes_the_line_two_or_too_long(text: str) -> None:
    line = repr(shown(named(text)))
    assert len(line) <= 240
    assert plain(line, 240) == line


def test_a_failing_assert_in_pytest_tells_why(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(FORMATS["json"].text(fixed()))
    (tmp_path / "test_it.py").write_text(
        "import tflite_guard\ndef test_it():\n"
        "    report = tflite_guard.Report.read('report.json')\n"
        "    assert report.ok, report\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    environ = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    finished = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert f"E       AssertionError: {shown(fixed())!r}\n" in finished.stdout


@given(HOSTILE)
@settings(deadline=None, max_examples=30)
def test_a_notebook_shows_it_and_no_name_becomes_markup(text: str) -> None:
    drawn = shown(named(text))._repr_html_()
    strict = re.sub("[\ufffe\uffff]", "�", drawn).replace("<br>", "<br/>")
    tags = {one.tag for one in ElementTree.fromstring(f"<div>{strict}</div>").iter()}
    lines, tables, folds = (
        {"div", "h2", "h4", "p", "ul", "li", "pre"},
        {"table", "tr", "th", "td"},
        {"details", "summary"},
    )
    assert tags == lines | tables | folds | {"a", "b", "br", "code", "span", "sub"}


# Rows


def test_rows_are_flat_and_have_always_the_documented_keys() -> None:
    rows = shown().to_rows()
    assert {tuple(row) for row in rows} == {KEYS}
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert not {type(value) for row in rows for value in row.values()} - {str, float, int, bool, type(None)}
    documented = re.findall(r"^\| `(\w+)` \|", PAGE[PAGE.index("| key |") : PAGE.index("## In pytest")], re.MULTILINE)
    assert documented == list(KEYS)


def test_each_metric_is_a_row_and_nothing_that_failed_is_missing() -> None:
    rows = shown().to_rows()
    (int8,) = [
        r for r in rows if (r["model"], r["variant"], r["of"], r["metric"]) == ("digits", "int8", "variant", "accuracy")
    ]
    assert int8 | {"value": 0.91, "drop": 0.07, "interval_low": 0.05, "interval_high": 0.09, "max_drop": 0.02} == int8
    assert (int8["verdict"], int8["cause"], int8["size_bytes"]) == ("fail", "calibration-range-mismatch", 24_000)
    observed = [(r["metric"], r["value"], r["max"], r["verdict"]) for r in rows if r["of"] == "observed"]
    assert observed == [("accuracy", 0.9, None, "fail"), ("observed_tolerance", 3.0, 1.0, "fail")]
    (reference,) = [r for r in rows if r["of"] == "reference"]
    assert (reference["model"], reference["variant"], reference["verdict"]) == ("suspect", None, "fail")
    errors = [(r["model"], r["variant"], r["error"]) for r in rows if r["error"]]
    assert errors == [
        ("digits", "lost", "keep_float: no_such_layer matches nothing"),
        ("broken", "float32", "models/broken.keras: is cut off"),
    ]


# The call


def test_the_examples_of_the_page_run(light_digits: Path, tmp_path: Path) -> None:
    """But for the data frame: on the `.tflite` that is shipped, in the cache that the command line takes, too."""
    check, _, pytests, compare = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (light_digits / "test_models.py").write_text(pytests.replace('"int8"', '"shipped"'))
    environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def ran(*command: str) -> str:
        started = [sys.executable, *command]
        return subprocess.run(started, cwd=light_digits, env=environ, capture_output=True, text=True, check=True).stdout

    printed = ran("-c", check.replace('"int8"', '"shipped"'))
    assert "within tolerance" in printed
    assert printed.splitlines()[-1].endswith(" pass")
    assert json.loads(ran("-m", "tflite_guard", "check", "--format", "json"))["models"][0]["variants"][0]["cached"]
    assert "2 passed" in ran("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_models.py")
    with np.load(light_digits / "data/evaluation.npz") as data:
        np.savez(light_digits / "data.npz", image=data["image"].astype(np.float32) / 16, label=data["label"])
    for name, file in (("last_release", "digits_float"), ("model_int8", "digits_int8")):
        shutil.copy(light_digits / f"app/{file}.tflite", light_digits / f"{name}.tflite")
    first, worst = ran("-c", compare).splitlines()[:2]
    assert len(first.split(None, 3)) == 4
    assert worst.startswith("(ChangedAnswer(example=")


def test_several_manifests_are_checked_at_once(light_digits: Path, shared_cache: Path, run: Run) -> None:
    manifest = manifest_of(light_digits)
    manifest["models"][0]["name"] = "again"
    (light_digits / "again.json").write_text(json.dumps(manifest))
    paths = [light_digits, light_digits / "again.json"]
    report = tflite_guard.check(paths, cache_dir=shared_cache, diagnose="never")
    assert list(report) == ["digits", "again"]
    globbed = tflite_guard.check(f"{light_digits}/*.json", models="again", cache_dir=shared_cache, diagnose="never")
    assert list(globbed) == ["again"]
    assert list(msgspec.to_builtins(globbed)) == list(msgspec.to_builtins(fixed()))
    write_manifest(light_digits, {"schema_version": 1})
    with pytest.raises(ManifestError) as raised:
        tflite_guard.check(light_digits, no_cache=True)
    assert raised.value.problems[0].path.endswith("tflite-guard.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"diagnose": "sometimes"}, "diagnose='sometimes': is not one of auto, always, never"),
        ({"jobs": 0}, "jobs=0: must be 1 or more, or None"),
        ({"timeout": 0}, "timeout=0: must be a number of seconds over 0"),
        ({"timeout": float("inf")}, "timeout=inf: must be a number of seconds over 0, at most a year"),
        ({"timeout": float("nan")}, "timeout=nan: must be a number of seconds over 0"),
        ({"cache_dir": "x", "no_cache": True}, "cache_dir and no_cache exclude each other"),
        ({"models": "digts"}, "digts"),
        ({"data_roots": "/nowhere"}, "/nowhere: there is no such folder"),
    ],
)
def test_an_argument_that_means_nothing_is_named(light_digits: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        tflite_guard.check(light_digits, **arguments)
