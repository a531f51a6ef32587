"""`check --apply-remedy`: what it edits, what it refuses, and that the remedy then holds."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.conftest import EXAMPLES, Manifest, Run
from tflite_guard.applying import AGAIN, NOTHING, apply
from tflite_guard.manifest import load
from tflite_guard.results import (
    ManifestInfo,
    ModelResult,
    ReferenceResult,
    Remedy,
    Report,
    Tool,
    VariantResult,
    Verdict,
)

MEASURED = Remedy("measured ranges", {"calibration_options": {"ranges": "measured"}}, True, {}, None)
SCALED = [{"cast": "float32"}, {"scale": 0.0625}]
RESCALED = Remedy("calib scaled", {"preprocess": SCALED}, True, {}, None, target="/datasets/calib")
INT16 = Remedy("16-bit activations", {"quantization": "int16x8", "io": None}, True, {}, None)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of examples/digits-broken beside examples/digits; its manifest."""
    for name in ("digits", "digits-broken"):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
    (tmp_path / ".git").mkdir()
    return tmp_path / "digits-broken/tflite-guard.json"


Reported = Callable[..., Report]


@pytest.fixture
def reported(broken: Path) -> Reported:
    """A finished check of a manifest, in which some variants fail and have these remedies."""

    def report(remedies: dict[tuple[str, str], Remedy], edit: Callable[[Manifest], Any] | None = None) -> Report:
        manifest = json.loads(broken.read_text(encoding="utf-8-sig"))
        if edit is not None:
            edit(manifest)
            broken.write_text(json.dumps(manifest, indent=2))
        info = ManifestInfo(str(broken), broken.name, hashlib.sha256(broken.read_bytes()).hexdigest())
        models = tuple(
            ModelResult(
                model.name,
                info,
                ReferenceResult("keras", "", {}),
                tuple(_variant(one.name, remedies.get((model.name, one.name))) for one in model.variants),
            )
            for model in load(str(broken)).models
        )
        return Report(1, Tool("tflite-guard", "1"), {}, Verdict.FAIL, models)

    return report


def _variant(name: str, remedy: Remedy | None) -> VariantResult:
    verdict = Verdict.PASS if remedy is None else Verdict.FAIL
    return VariantResult(name, None, verdict, False, None, (), (), () if remedy is None else (remedy,), None, {})


def changed(before: str, after: str) -> list[str]:
    """The lines that differ, those removed with `-`, those added with `+`."""
    lines = difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True))
    return [line for line in lines if line[0] in "+-"]


def line_of(manifest: Path, key: str, which: int = 1) -> int:
    """The line that has a key for the first or a later time."""
    lines = [number for number, line in enumerate(manifest.read_text().splitlines(), 1) if f'"{key}"' in line]
    return lines[which - 1]


def test_the_broken_example_is_mended(run: Run, broken: Path, tmp_path: Path) -> None:
    before = broken.read_text()
    assert run("check", broken).code == 1
    assert broken.read_text() == before, "nothing is edited that nobody asked for"
    finished = run("check", broken, "--apply-remedy", "--format", "json")
    assert finished.code == 1, "the exit code is that of what was checked"
    title = finished.variant("int8")["remedies"][0]["title"]
    assert finished.err.splitlines() == [f"applied: {title} to {broken}:16", AGAIN]
    assert changed(before, broken.read_text()) == [
        '-       "preprocess": [{"cast": "float32"}]\n',
        '+       "preprocess": [{"cast": "float32"}, {"scale": 0.0625}]\n',
    ]
    assert stat.S_IMODE(broken.stat().st_mode) == stat.S_IMODE(
        (EXAMPLES / "digits-broken/tflite-guard.json").stat().st_mode
    )
    checked = run("check", broken, "--format", "json")
    assert checked.code == 0, checked.out
    model = tmp_path / "int8.tflite"
    assert run("convert", "digits", "int8", "-o", model, "--manifest", broken).code == 0
    assert hashlib.sha256(model.read_bytes()).hexdigest() == checked.variant("int8")["artifact"]["sha256"]
    again = run("check", broken, "--apply-remedy")
    assert (again.code, again.err) == (0, f"{NOTHING}\n")


def test_it_needs_a_diagnosis(run: Run, broken: Path) -> None:
    finished = run("check", broken, "--apply-remedy", "--diagnose", "never")
    assert finished.code == 2
    assert "--apply-remedy needs a diagnosis" in finished.err


def test_a_variant_in_the_short_form_becomes_an_object(reported: Reported, broken: Path) -> None:
    def short(manifest: Manifest) -> None:
        manifest["models"][0]["variants"] = ["float32", "int8"]

    report = reported({("digits", "int8"): MEASURED}, short)
    before = broken.read_text()
    assert apply(report) == [f"applied: measured ranges to {broken}:{line_of(broken, 'calibration_options')}", AGAIN]
    added = json.loads(broken.read_text())["models"][0]["variants"]
    assert added == ["float32", {"name": "int8", "quantization": "int8"} | MEASURED.patch]
    assert [line for line in changed(before, broken.read_text()) if line[0] == "-"] == ['-         "int8"\n']


def test_line_ends_a_mark_and_a_missing_last_line_end_stay(reported: Reported, broken: Path) -> None:
    windows = b"\xef\xbb\xbf" + broken.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n")
    broken.write_bytes(windows)
    broken.chmod(0o600)
    apply(reported({("digits", "int8"): MEASURED}))
    own = b'"io": "int8"'
    assert broken.read_bytes() == windows.replace(own, own + b', "calibration_options": {"ranges": "measured"}')
    assert stat.S_IMODE(broken.stat().st_mode) == 0o600


def inherited(manifest: Manifest) -> None:
    """Two models whose variants are those of `defaults`."""
    (model,) = manifest["models"]
    manifest["defaults"] = {"variants": ["float32", "int8"]}
    del model["variants"]
    manifest["models"].append(model | {"name": "other"})


def test_variants_of_defaults_are_copied_to_the_model_and_stay_for_the_others(reported: Reported, broken: Path) -> None:
    said = apply(reported({("digits", "int8"): MEASURED}, inherited))
    assert said[0].endswith("; digits now has variants of its own, copied from defaults")
    manifest = json.loads(broken.read_text())
    assert manifest["models"][0]["variants"] == ["float32", {"name": "int8", "quantization": "int8"} | MEASURED.patch]
    assert manifest["defaults"]["variants"] == ["float32", "int8"]
    assert "variants" not in manifest["models"][1]
    assert load(str(broken)).models[1].variants[1].conversion.calibration_options.ranges == "converter"


def test_one_remedy_of_shared_data_is_applied_once(reported: Reported, broken: Path) -> None:
    report = reported({("digits", "int8"): RESCALED, ("other", "int8"): RESCALED}, inherited)
    said = apply(report)
    assert len(said) == 2
    assert said[0].startswith("applied: calib scaled to ")
    assert json.loads(broken.read_text())["datasets"]["calib"]["preprocess"] == SCALED


def test_what_goes_with_a_remedy_elsewhere_is_applied_too(reported: Reported, broken: Path) -> None:
    both = replace(MEASURED, title="both", also={RESCALED.target: RESCALED.patch})
    (said, _) = apply(reported({("digits", "int8"): both}))
    assert said.startswith("applied: both")
    manifest = json.loads(broken.read_text())
    assert manifest["datasets"]["calib"]["preprocess"] == SCALED
    assert any("calibration_options" in variant for variant in manifest["models"][0]["variants"])


def test_remedies_that_contradict_one_another_are_not_both_applied(reported: Reported, broken: Path) -> None:
    other = replace(RESCALED, title="calib doubled", patch={"preprocess": [{"scale": 2}]})
    said = apply(reported({("digits", "int8"): RESCALED, ("other", "int8"): other}, inherited))
    assert said[0].startswith("applied: calib scaled")
    assert said[1] == (
        f"not applied to {broken}: calib doubled (for other / int8): another variant's remedy sets "
        '"preprocess" of /datasets/calib to another value; check again'
    )
    assert json.loads(broken.read_text())["datasets"]["calib"]["preprocess"] == SCALED


def test_lines_are_those_of_the_finished_file(reported: Reported, broken: Path) -> None:
    """The second edit moves the first one's place down."""
    said = apply(reported({("digits", "int8"): MEASURED, ("other", "int8"): RESCALED}, inherited))
    assert f"{broken}:{line_of(broken, 'calibration_options')};" in said[0]
    assert said[1] == f"applied: calib scaled to {broken}:{line_of(broken, 'preprocess', 2)}"


def test_a_manifest_that_would_not_be_valid_is_left_alone(reported: Reported, broken: Path) -> None:
    before = broken.read_bytes()
    impossible = replace(MEASURED, patch={"keep_float": ["a"], "quantization": "dynamic_range"})
    (said,) = apply(reported({("digits", "int8"): impossible}))
    assert said.startswith(f"not applied to {broken}: measured ranges (for digits / int8): the manifest would not be")
    assert broken.read_bytes() == before


def test_keys_that_have_no_place_any_more_go_away(reported: Reported, broken: Path) -> None:
    apply(reported({("digits", "int8"): INT16}))
    assert '        {"name": "int8", "quantization": "int16x8"}\n' in broken.read_text()


def test_a_manifest_that_has_changed_since_is_left_alone(reported: Reported, broken: Path) -> None:
    report = reported({("digits", "int8"): MEASURED})
    broken.write_text(broken.read_text() + "\n")
    before = broken.read_bytes()
    assert apply(report) == [f"nothing applied to {broken}: it has changed since it was checked; check it again"]
    assert broken.read_bytes() == before


def test_what_is_not_verified_is_not_applied(reported: Reported, broken: Path) -> None:
    before = broken.read_bytes()
    assert apply(reported({("digits", "int8"): replace(MEASURED, verified=False)})) == [NOTHING]
    assert broken.read_bytes() == before
