"""The main job on the example: its numbers against an independent plain loop, its verdicts, its exit codes."""

from __future__ import annotations

import json
import math
import os
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.conftest import EXAMPLES, ROOT, Finished, Run, manifest_of, only, run_cli, write_manifest
from tests.plain_loop import real_outputs
from tflite_guard.reports import FORMATS

VARIANTS = ["float32", "float16", "dynamic_range", "int8", "int16", "qat", "shipped"]


@pytest.fixture(scope="module")
def checked(shared_cache: Path) -> Finished:
    return run_cli("check", EXAMPLES / "digits" / "tflite-guard.json", "--format", "json", "--cache-dir", shared_cache)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.load(EXAMPLES / "digits/data/evaluation.npz")["image"].astype(np.float32) / 16


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.load(EXAMPLES / "digits/data/evaluation.npz")["label"]


@pytest.fixture(scope="module")
def reference(images: np.ndarray) -> np.ndarray:
    import keras

    return keras.models.load_model(EXAMPLES / "digits/models/digits.keras").predict(images, verbose=0)


def test_the_example_passes_with_every_variant(checked: Finished) -> None:
    assert checked.code == 0, checked.err
    assert checked.report["verdict"] == "pass"
    assert [v["name"] for v in checked.report["models"][0]["variants"]] == VARIANTS
    assert {v["verdict"] for v in checked.report["models"][0]["variants"]} == {"pass"}


def test_the_report_is_valid_against_the_published_schema(checked: Finished) -> None:
    schema = json.loads((ROOT / "schemas/report-v1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(checked.report, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_number_is_that_of_a_real_outputs(
    checked: Finished,
    run: Run,
    variant: str,
    images: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray,
    tmp_path: Path,
) -> None:
    model = tmp_path / "model.tflite"
    manifest = EXAMPLES / "digits" / "tflite-guard.json"
    assert run("convert", "digits", variant, "-o", model, "--manifest", manifest).code == 0
    outputs = real_outputs(model, images)
    right = sum(int(np.argmax(row)) == label for row, label in zip(outputs, labels, strict=True))
    same = sum(int(np.argmax(row)) == int(np.argmax(ref)) for row, ref in zip(outputs, reference, strict=True))
    signal = math.fsum(float(x) ** 2 for x in reference.ravel())
    noise = math.fsum((float(x) - float(y)) ** 2 for x, y in zip(reference.ravel(), outputs.ravel(), strict=True))
    assert checked.metric(variant, "accuracy")["value"] == right / len(labels)
    assert checked.metric(variant, "agreement")["value"] == same / len(labels)
    # The float rung sits at the noise floor of the reference's own arithmetic, so it is compared by order only.
    within = 3.0 if variant == "float32" else 0.01
    assert checked.metric(variant, "sqnr")["value"] == pytest.approx(10 * math.log10(signal / noise), abs=within)


def test_the_reference_metric_and_the_drop(checked: Finished, reference: np.ndarray, labels: np.ndarray) -> None:
    right = float(np.mean(reference.argmax(axis=1) == labels))
    assert checked.report["models"][0]["reference"]["metrics"] == {"accuracy": right}
    metric = checked.metric("int8", "accuracy")
    assert metric["reference"] == right
    assert metric["drop"] == pytest.approx(right - metric["value"], abs=1e-15)


def test_convert_gives_the_very_bytes_that_check_judged(checked: Finished, run: Run, tmp_path: Path) -> None:
    import hashlib

    model = tmp_path / "int8.tflite"
    finished = run("convert", "digits", "int8", "-o", model, "--manifest", EXAMPLES / "digits" / "tflite-guard.json")
    assert finished.code == 0
    artifact = checked.variant("int8")["artifact"]
    assert hashlib.sha256(model.read_bytes()).hexdigest() == artifact["sha256"]
    assert model.stat().st_size == artifact["size_bytes"]


def test_conversion_is_the_same_in_a_run_of_its_own(checked: Finished, tmp_path: Path) -> None:
    model = tmp_path / "int8.tflite"
    manifest = EXAMPLES / "digits" / "tflite-guard.json"
    assert run_cli("convert", "digits", "int8", "-o", model, "--manifest", manifest, "--no-cache").code == 0
    import hashlib

    assert hashlib.sha256(model.read_bytes()).hexdigest() == checked.variant("int8")["artifact"]["sha256"]


def test_the_broken_example_fails_and_says_why(run: Run) -> None:
    finished = run("check", EXAMPLES / "digits-broken" / "tflite-guard.json")
    assert finished.code == 1
    assert "digits / int8" in finished.out.splitlines()[0]
    assert "accuracy went from" in finished.out
    assert "out of tolerance" in finished.out


def test_fail_on(run: Run, light_digits: Path) -> None:
    def code(*options: str) -> int:
        return run("check", write_manifest(light_digits, manifest), "--diagnose", "never", *options).code

    manifest = manifest_of(light_digits)
    manifest["models"][0]["variants"][0]["tolerances"] = {"agreement": {"min": 0.9999, "level": "warning"}}
    assert code() == 0
    assert code("--fail-on", "warning") == 1
    assert code("--fail-on", "never") == 0
    manifest["models"][0]["variants"][0]["tolerances"] = {"agreement": {"min": 0.9999}}
    assert code() == 1
    assert code("--fail-on", "never") == 0


def test_selecting_models_and_variants(run: Run, digits: Path) -> None:
    path = digits / "tflite-guard.json"
    finished = run("check", path, "--variant", "int*", "--variant", "float32", "--format", "json")
    assert [v["name"] for v in finished.report["models"][0]["variants"]] == ["float32", "int8", "int16"]
    for idle in (["--model", "nothing"], ["--variant", "int8", "--variant", "itn16"]):
        finished = run("check", path, *idle)
        assert finished.code == 2
        assert f"{idle[-2]} {idle[-1]} matches nothing" in finished.err


def test_labels_of_an_output_that_is_none_are_not_used(run: Run, light_digits: Path) -> None:
    manifest = manifest_of(light_digits)
    manifest["datasets"]["test"]["labels"] = {"nonsense": "label"}
    finished = run("check", write_manifest(light_digits, manifest))
    assert finished.code == 2
    assert "'nonsense'" in finished.out


def test_a_run_that_cannot_be_done_never_fails_where_nothing_may(run: Run, digits: Path) -> None:
    path = digits / "tflite-guard.json"
    for never, code in ((["--fail-on", "never"], 0), ([], 3)):
        finished = run("check", path, "--cache-dir", "/proc/nothing", *never)
        assert finished.code == code
        assert "/proc/nothing" in finished.err


def test_the_float_conversion_is_always_evaluated(run: Run, digits: Path) -> None:
    path = write_manifest(digits, only(manifest_of(digits), "int8"))
    finished = run("check", path, "--format", "json")
    model = finished.report["models"][0]
    assert [v["name"] for v in model["variants"]] == ["int8"]
    assert model["float32"]["metrics"][0]["value"] == model["reference"]["metrics"]["accuracy"]
    assert "(comparison)" in run("check", path).out


def test_several_manifests_are_one_run(run: Run) -> None:
    paths = [EXAMPLES / name / "tflite-guard.json" for name in ("digits", "digits-broken")]
    finished = run("check", *paths, "--format", "json")
    assert finished.code == 1
    assert [model["verdict"] for model in finished.report["models"]] == ["pass", "fail"]
    assert [model["manifest"]["path"] for model in finished.report["models"]] == list(map(str, paths))


def test_a_model_or_a_variant_that_cannot_be_evaluated_does_not_hide_the_others(run: Run, digits: Path) -> None:
    manifest = only(manifest_of(digits), "int8")
    broken = json.loads(json.dumps(manifest["models"][0]))
    damaged = bytearray((digits / "models/digits.keras").read_bytes())
    with zipfile.ZipFile(digits / "models/digits.keras") as archive:
        weights = archive.getinfo("model.weights.h5")
    damaged[weights.header_offset + 1000] ^= 0xFF  # the directory is whole, so only the run can see it
    (digits / "models/damaged.keras").write_bytes(damaged)
    broken |= {"name": "broken", "reference": {"keras": "models/damaged.keras"}}
    lost = {"name": "lost", "quantization": "int8", "keep_float": ["no_such_layer"]}
    partial = json.loads(json.dumps(manifest["models"][0])) | {"name": "partial"}
    partial["variants"].insert(0, lost)
    manifest["models"] = [broken, partial, manifest["models"][0]]
    finished = run("check", write_manifest(digits, manifest), "--format", "json")
    assert finished.code == 3
    assert [model["verdict"] for model in finished.report["models"]] == ["error", "error", "pass"]
    assert "damaged.keras" in finished.model("broken")["error"]["message"]
    assert finished.variant("int8", "partial")["verdict"] == "pass"
    assert finished.variant("lost")["error"]["kind"] == "conversion"
    assert "no_such_layer" in finished.variant("lost")["error"]["message"]


def test_the_report_folder_holds_every_rendering(run: Run, digits: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "report"
    finished = run(
        "check", digits / "tflite-guard.json", "--report-dir", folder, "--format", f"json={tmp_path / 'r.json'}"
    )
    assert finished.code == 0
    assert sorted(os.listdir(folder)) == sorted(one.file for one in FORMATS.values())
    assert finished.out == ""
    again = run("report", folder / "report.json")
    assert again.out == (folder / "report.txt").read_text()
    assert json.loads((tmp_path / "r.json").read_text())["verdict"] == "pass"


def test_the_python_interface_gives_the_same_report(checked: Finished, shared_cache: Path) -> None:
    import msgspec

    import tflite_guard

    report = tflite_guard.check(EXAMPLES / "digits" / "tflite-guard.json", cache_dir=shared_cache)
    ours, theirs = msgspec.to_builtins(report), checked.report
    for one in (ours, theirs):
        for model in one["models"]:
            model["reference"].pop("seconds")
            for variant in [*model["variants"], *([model["float32"]] if model["float32"] else [])]:
                variant.pop("seconds"), variant.pop("cached")
    assert json.loads(json.dumps(ours)) == theirs
