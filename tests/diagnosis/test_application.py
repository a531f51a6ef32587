"""Outputs that an application recorded: each misuse is made here by a plain loop over LiteRT, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from tests.conftest import EXAMPLES, Run, manifest_of, only, run_cli, write_manifest
from tests.plain_loop import raw_outputs, real_outputs
from tflite_guard.datasets import canonical, open_dataset
from tflite_guard.diagnosis.lab import Case
from tflite_guard.diagnosis.procedure import diagnose
from tflite_guard.engine.evaluate import Subject
from tflite_guard.engine.lab import EngineLab
from tflite_guard.engine.outputs import Outputs, write_outputs
from tflite_guard.engine.tflite import Model
from tflite_guard.manifest.types import DatasetSpec, FileSpec, MetricSpec
from tflite_guard.protocol import Diagnosed

Array = np.ndarray[Any, Any]
IMAGES = np.load(EXAMPLES / "digits/data/evaluation.npz")["image"].astype(np.float32) / 16
DATA = DatasetSpec(
    "test",
    "npz",
    FileSpec(str(EXAMPLES / "digits/data/evaluation.npz")),
    "image",
    labels="label",
    preprocess=({"cast": "float32"}, {"scale": 0.0625}),
)
METRICS = tuple(MetricSpec(name, name) for name in ("accuracy", "agreement", "sqnr"))


@dataclass(frozen=True)
class Files:
    """The example's model with integers at its ends: calibrated as it should be, and on inputs half as large."""

    int8: Path
    uint8: Path
    narrow: Path
    reference: Path
    """The folder of the float model's outputs."""
    float32: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, float_tflite: Path) -> Files:
    folder = tmp_path_factory.mktemp("application")
    manifest = manifest_of(EXAMPLES / "digits")
    for dataset in manifest["datasets"].values():
        dataset["path"] = str(EXAMPLES / "digits" / dataset["path"])
    manifest["models"][0]["reference"] = {"keras": str(EXAMPLES / "digits/models/digits.keras")}
    half = {**manifest["datasets"]["calib"], "preprocess": [{"cast": "float32"}, {"scale": 0.03125}]}
    manifest["datasets"]["half"] = half
    made = {"int8": ("int8", "calib"), "uint8": ("uint8", "calib"), "narrow": ("int8", "half")}
    manifest["models"][0]["variants"] = [
        {"name": name, "quantization": "int8", "io": io, "calibration": data} for name, (io, data) in made.items()
    ]
    write_manifest(folder, manifest)
    path = folder / "tflite-guard.json"
    where = ("--cache-dir", shared_cache, "--data-root", EXAMPLES)
    run_cli("check", path, "--diagnose", "never", *where)  # converts them all with one start of TensorFlow
    for name in made:
        done = run_cli("convert", "digits", name, "-o", folder / f"{name}.tflite", "--manifest", path, *where)
        assert done.code == 0, done.err
    (folder / "reference").mkdir()
    exact = real_outputs(float_tflite, IMAGES)
    name = next(iter(Model.read(str(float_tflite)).names.outputs))
    write_outputs([(range(len(exact)), {name: exact})], str(folder / "reference"), lambda *_: None, "reference")
    return Files(*(folder / f"{name}.tflite" for name in made), folder / "reference", float_tflite)


def ran(tflite: Path, fill: Callable[[Array, float, int], Array], read: Callable[[Array, float, int], Array]) -> Array:
    """What an application gets that fills the input and reads the output in its own way, image by image."""
    interpreter = Interpreter(model_path=str(tflite))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in IMAGES:
        interpreter.set_tensor(source["index"], fill(image, *source["quantization"])[np.newaxis])
        interpreter.invoke()
        rows.append(read(interpreter.get_tensor(target["index"])[0].copy(), *target["quantization"]))
    return np.stack(rows)


def diagnosed(tflite: Path, recorded: Array, files: Files, tmp_path: Path, column: str = "agreement") -> Diagnosed:
    np.savez(tmp_path / "recorded.npz", out=recorded)
    names = Model.read(str(files.float32)).names
    subject = Subject(
        model=Model.read(str(tflite)),
        recorded=Outputs(str(files.reference)),
        names=names,
        dataset=canonical(DATA, names),
        metrics=METRICS,
        threads=1,
        open_data=lambda spec, inputs: open_dataset(spec, inputs, allow_code=False),
    )
    lab = EngineLab(
        subject=subject,
        float_model=files.float32.read_bytes(),
        quantizer=None,
        converter=lambda _: b"",
        column=column,
        calibration=None,
        calibration_name="",
        recipe=None,
        shipped=False,
        recording=str(tmp_path / "recorded.npz"),
    )
    return diagnose(lab, Case(column, True, False, None, {}, application=True))


def right_in(x: Array, scale: float, zero: int) -> Array:
    """Of int8."""
    return np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)


def real(q: Array, scale: float, zero: int) -> Array:
    return (q.astype(np.float32) - np.float32(zero)) * np.float32(scale)


def raw(q: Array, _scale: float, _zero: int) -> Array:
    return q


CAST = "inputs are cast to integers without scale and zero point"
RAW = "raw integers of the output are taken as reals, without scale and zero point"
OTHER = "bytes of the output are read with the other signedness (int8 as uint8, or uint8 as int8)"
NO_ZERO = "the input's zero point is ignored"
BYTES = "input bytes are of the other signedness (uint8 pixels read as int8, without the −128)"

MISREAD: dict[str, tuple[str, Callable[[Array, float, int], Array]]] = {
    "raw": (RAW, lambda q, s, z: q.astype(np.float32)),
    "no zero point": ("the output's zero point is ignored", lambda q, s, z: q.astype(np.float32) * np.float32(s)),
    "no scale": ("the output's scale is ignored", lambda q, s, z: q.astype(np.float32) - z),
    "unsigned": (OTHER, lambda q, s, z: real(q.view(np.uint8), s, z)),
    "unsigned, recorded as integers": (OTHER, lambda q, s, z: q.view(np.uint8)),
    "unsigned and raw": (f"{OTHER} and {RAW}", lambda q, s, z: q.view(np.uint8).astype(np.float32)),
    "twice": ("outputs are dequantized twice", lambda q, s, z: real(real(q, s, z), s, z)),
}

MISFED: dict[str, tuple[str, str, Callable[[Array, float, int], Array]]] = {
    "cast": ("int8", CAST, lambda x, s, z: x.astype(np.int8)),
    "truncated": (
        "int8",
        "inputs are truncated instead of rounded",
        lambda x, s, z: np.clip(np.trunc(x / np.float32(s) + z), -128, 127).astype(np.int8),
    ),
    "truncated before the zero point": (
        "int8",
        "inputs are truncated instead of rounded",
        lambda x, s, z: np.clip((x / np.float32(s)).astype(np.int32) + z, -128, 127).astype(np.int8),
    ),
    "unclipped": (
        "narrow",
        "inputs beyond the range wrap around instead of being clipped",
        lambda x, s, z: (np.round(x / s) + z).astype(np.int64).astype(np.int8),
    ),
    "no zero point, clipped": (
        "int8",
        NO_ZERO,
        lambda x, s, z: np.clip(np.round(x / s), -128, 127).astype(np.int8),
    ),
    "pixels": ("int8", f"{NO_ZERO}, or {BYTES}", lambda x, s, z: np.round(x / s).astype(np.uint8).view(np.int8)),
    "twice": (
        "int8",
        "inputs are quantized twice",
        lambda x, s, z: right_in(right_in(x, s, z).astype(np.float32), s, z),
    ),
}


def only_cause(found: Diagnosed) -> Any:
    (finding,) = found.findings
    assert finding.primary
    assert (finding.rule, finding.severity) == ("io-quantization-misuse", "warning")
    return finding


@pytest.mark.parametrize("kind", MISREAD)
def test_an_output_that_is_misread(files: Files, tmp_path: Path, kind: str) -> None:
    expected, read = MISREAD[kind]
    found = diagnosed(files.int8, ran(files.int8, right_in, read), files, tmp_path)
    finding = only_cause(found)
    assert finding.evidence["misuse"] == expected
    assert finding.experiment.recovered == 1.0
    scale, zero = Interpreter(model_path=str(files.int8)).get_output_details()[0]["quantization"]
    q = raw_outputs(files.int8, IMAGES[:20])
    named: dict[str, Any] = {"np": np, "q": q}
    exec(finding.evidence["python"], named)
    assert named["y"] == pytest.approx(real(q, scale, zero))
    assert finding.evidence["python"] in finding.message
    for language in ("cpp", "kotlin"):
        assert f"{np.float32(scale)!s}f" in finding.evidence[language]
        assert f"+ {-zero}" in finding.evidence[language]


@pytest.mark.parametrize("kind", MISFED)
def test_an_input_that_is_misfed(files: Files, tmp_path: Path, kind: str) -> None:
    which, expected, fill = MISFED[kind]
    tflite: Path = getattr(files, which)
    for read in (real, raw):
        finding = only_cause(diagnosed(tflite, ran(tflite, fill, read), files, tmp_path))
        assert finding.evidence["misuse"] == expected
        assert finding.experiment.recovered == 1.0
    scale, zero = Interpreter(model_path=str(tflite)).get_input_details()[0]["quantization"]
    named: dict[str, Any] = {"np": np, "x": IMAGES}
    exec(finding.evidence["python"], named)
    assert np.array_equal(named["q"], right_in(IMAGES, scale, zero))
    assert f"{np.float32(scale)!s}f" in finding.evidence["cpp"]
    assert f"{np.float32(scale)!s}f" in finding.evidence["kotlin"]


def test_misuse_on_both_sides_is_named_whole(files: Files, tmp_path: Path) -> None:
    fill = MISFED["truncated"][2]
    found = diagnosed(files.int8, ran(files.int8, fill, MISREAD["raw"][1]), files, tmp_path)
    finding = only_cause(found)
    assert finding.evidence["misuse"] == f"inputs are truncated instead of rounded and {RAW}"
    assert len(finding.evidence["cpp"].splitlines()) == 2


def test_misuses_that_give_the_same_are_named_as_a_class(files: Files, tmp_path: Path) -> None:
    """The zero point of uint8 is 0 here, so that ignoring it with the scale is ignoring the scale."""

    def fill(x: Array, scale: float, zero: int) -> Array:
        return np.clip(np.round(x / scale) + zero, 0, 255).astype(np.uint8)

    finding = only_cause(diagnosed(files.uint8, ran(files.uint8, fill, MISREAD["raw"][1]), files, tmp_path))
    assert finding.evidence["misuse"] == f"{RAW}, or the output's scale is ignored"
    signed = only_cause(
        diagnosed(files.uint8, ran(files.uint8, fill, lambda q, s, z: real(q.view(np.int8), s, z)), files, tmp_path)
    )
    assert signed.evidence["misuse"] == OTHER


@pytest.mark.parametrize("read", [real, raw])
def test_a_right_recording_names_nothing(files: Files, tmp_path: Path, read: Any) -> None:
    found = diagnosed(files.int8, ran(files.int8, right_in, read), files, tmp_path)
    assert not found.findings
    assert found.diagnosis.note is not None
    assert "recorded what the file itself gives" in found.diagnosis.note


def noisy(recorded: Array, steps: int) -> Array:
    moved = recorded.astype(int) + np.random.default_rng(1).integers(-steps, steps + 1, recorded.shape)
    return np.clip(moved, -128, 127).astype(np.int8)


def not_reproduced(found: Diagnosed) -> None:
    assert not found.findings
    assert found.diagnosis.note is not None
    assert "none reproduces the recorded outputs" in found.diagnosis.note


@pytest.mark.parametrize("as_reals", [False, True])
def test_noise_of_two_steps_is_no_misuse(files: Files, tmp_path: Path, as_reals: bool) -> None:
    scale, zero = Interpreter(model_path=str(files.int8)).get_output_details()[0]["quantization"]
    recorded = noisy(raw_outputs(files.int8, IMAGES), 2)
    not_reproduced(diagnosed(files.int8, real(recorded, scale, zero) if as_reals else recorded, files, tmp_path))


@pytest.mark.parametrize("kind", ["right", "raw", "no zero point", "twice"])
def test_another_order_of_the_examples_is_no_misuse(files: Files, tmp_path: Path, kind: str) -> None:
    read = real if kind == "right" else MISREAD[kind][1]
    recorded = np.roll(ran(files.int8, right_in, read), 1, axis=0)
    not_reproduced(diagnosed(files.int8, recorded, files, tmp_path))


def test_an_input_that_is_never_filled_is_not_mistaken_for_a_cast(files: Files, tmp_path: Path) -> None:
    recorded = ran(files.int8, lambda x, s, z: np.zeros_like(x, np.int8), real)
    not_reproduced(diagnosed(files.int8, recorded, files, tmp_path))


def test_another_runtimes_rounding_does_not_hide_a_misuse(files: Files, tmp_path: Path) -> None:
    """One value in ten is a step off, so nothing is exact; the replay still explains nearly all of the difference."""
    moved = raw_outputs(files.int8, IMAGES).astype(int)
    moved += (np.random.default_rng(1).random(moved.shape) < 0.1) * (moved < 127)
    finding = only_cause(diagnosed(files.int8, moved.astype(np.float32), files, tmp_path))
    assert finding.evidence["misuse"] == RAW
    assert 0.99 < finding.experiment.recovered < 1.0
    low, high = finding.experiment.confidence_interval
    assert low <= finding.experiment.recovered <= high


def test_what_the_metric_loses_is_accounted_for(files: Files, tmp_path: Path) -> None:
    fill = MISFED["no zero point, clipped"][2]
    found = diagnosed(files.int8, ran(files.int8, fill, raw), files, tmp_path, "accuracy")
    finding = only_cause(found)
    assert (finding.experiment.recovered, finding.experiment.confidence_interval) == (1.0, (1.0, 1.0))
    rungs = {rung.name: rung for rung in found.diagnosis.ladder}
    assert rungs["application"].value < rungs["file"].value - 0.1
    assert list(rungs)[-1] == "application"


def test_check_names_the_misuse_below_what_failed(run: Run, light_digits: Path, files: Files) -> None:
    digits = light_digits
    (digits / "app/int8.tflite").write_bytes(files.int8.read_bytes())
    np.savez(digits / "phone.npz", out=ran(files.int8, right_in, MISREAD["no zero point"][1]))
    manifest = only(manifest_of(digits), "shipped")
    manifest["models"][0]["variants"] = [
        {"name": "phone", "tflite": "app/int8.tflite", "observed_outputs": "phone.npz", "observed_tolerance": 1}
    ]
    path = write_manifest(digits, manifest)
    found = run("check", path, "--format", "json").variant("phone")
    assert {metric["verdict"] for metric in found["metrics"]} <= {"pass", None}
    (finding,) = [one for one in found["findings"] if one["primary"]]
    assert finding["evidence"]["misuse"] == "the output's zero point is ignored"
    assert finding["experiment"]["recovered"] == 1.0
    assert found["diagnosis"]["ladder"][-1]["name"] == "application"
    assert found["remedies"] == []
    text = run("check", path).out
    assert text.index("observed outputs differ") < text.index("the output's zero point is ignored")
