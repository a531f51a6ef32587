"""The figures of a diagnosis on a real model, beside those of a plain loop over LiteRT and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tests.conftest import Run, manifest_of, write_manifest
from tflite_guard.engine.surgery import pack, unpack

LOOKED_AT = 32
"""Of the examples that choose, those on which tensors are looked at."""
OPERATORS = schema.BuiltinOperator
WEIGHTS = {OPERATORS.CONV_2D: 0, OPERATORS.FULLY_CONNECTED: 0, OPERATORS.DEPTHWISE_CONV_2D: 3}
"""Operators with weights, and the axis of their output channels."""
Values = dict[str, np.ndarray]


class Judged:
    """One variant's report, with the files and the examples that it is about."""

    def __init__(
        self, variant: dict[str, Any], float32: bytes, quantized: bytes, folder: Path, unlabelled: dict[str, Any]
    ) -> None:
        self.unlabelled = unlabelled
        self.ladder = {one["name"]: one for one in variant["diagnosis"]["ladder"]}
        self.tensors = {one["tensor"]: one for one in variant["diagnosis"]["tensors"]}
        self.float32, self.quantized = float32, quantized
        data = np.load(folder / "data/evaluation.npz")
        # A third of the examples in the laboratory's order, at most 256.
        chosen = np.random.default_rng(0).permutation(len(data["image"]))[: min(len(data["image"]) // 3, 256)]
        self.images = data["image"][chosen].astype(np.float32) * np.float32(0.0625)
        self.labels = data["label"][chosen]


@pytest.fixture(params=["calib", "dim"])
def judged(request: pytest.FixtureRequest, run: Run, digits: Path, tmp_path: Path) -> Judged:
    """An int8 variant with integers as inputs and outputs: one that is well calibrated, and one that clips."""
    manifest = manifest_of(digits)
    manifest["datasets"]["dim"] = {
        **manifest["datasets"]["calib"],
        "preprocess": [{"cast": "float32"}, {"scale": 0.03125}],
    }
    int8 = {"name": "int8", "quantization": "int8", "io": "int8", "calibration": request.param}
    manifest["models"][0]["variants"] = ["float32", int8]
    fidelity = {"name": "unlabelled", "metrics": ["sqnr"], "tolerances": {"sqnr": {"min": -10}}, "variants": [int8]}
    manifest["models"].append({**manifest["models"][0], **fidelity})
    path = write_manifest(digits, manifest)
    finished = run("check", path, "--diagnose", "always", "--format", "json")
    files = []
    for name in ("float32", "int8"):
        assert run("convert", "digits", name, "-o", tmp_path / name, "--manifest", path).code == 0
        files.append((tmp_path / name).read_bytes())
    return Judged(finished.variant("int8", "digits"), *files, digits, finished.variant("int8", "unlabelled"))


def interpreter(model: bytes, **options: Any) -> Interpreter:
    made = Interpreter(model_content=model, num_threads=1, **options)
    made.allocate_tensors()
    return made


def real(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    return (values.astype(np.float64) - zero) * scale if scale else values.astype(np.float64)


def outputs(model: bytes, images: np.ndarray) -> np.ndarray:
    """One example at a time."""
    made = interpreter(model)
    (given,), (result,) = made.get_input_details(), made.get_output_details()
    found = []
    for image in images:
        made.set_tensor(given["index"], fed(image[None], given))
        made.invoke()
        found.append(real(made.get_tensor(result["index"])[0], result))
    return np.array(found)


def fed(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    return np.clip(np.rint(values / np.float32(scale)) + zero, -128, 127).astype(np.int8) if scale else values


def watched(model: bytes, images: np.ndarray) -> Values:
    """Every tensor of floats or of integers with a scale, by name, as reals, examples first."""
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = interpreter(model, experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain)
    (given,) = made.get_input_details()
    found: dict[str, list[np.ndarray]] = {}
    for image in images:
        made.set_tensor(given["index"], fed(image[None], given))
        made.invoke()
        for detail in made.get_tensor_details():
            if detail["name"] and len(detail["quantization_parameters"]["scales"]) < 2:
                found.setdefault(detail["name"], []).append(real(made.get_tensor(detail["index"]), detail))
    return {name: np.concatenate(values) for name, values in found.items() if values[0].ndim}


def decibels(exact: np.ndarray, given: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(given - exact).sum()))


def with_8_bit_weights(model: bytes, of: str | None = None) -> bytes:
    """The float model with weights rounded, of all operators or of the one that computes a tensor."""
    content = unpack(model)
    main = content.subgraphs[0]
    for operator in main.operators:
        kind, result = content.operatorCodes[operator.opcodeIndex].builtinCode, main.tensors[operator.outputs[0]]
        if kind in WEIGHTS and of in (None, result.name.decode()):
            tensor = main.tensors[operator.inputs[1]]
            weights = np.frombuffer(bytes(content.buffers[tensor.buffer].data), "<f4").reshape(tensor.shape)
            rows = np.moveaxis(weights, WEIGHTS[kind], 0)
            rounded = [np.rint(row / (np.abs(row).max() / 127)) * (np.abs(row).max() / 127) for row in rows]
            data = np.moveaxis(np.array(rounded, "<f4"), 0, WEIGHTS[kind]).tobytes()
            content.buffers[tensor.buffer].data = np.frombuffer(data, np.uint8)
    return pack(content)


def test_the_ladder(judged: Judged) -> None:
    exact = outputs(judged.float32, judged.images)
    models = {
        "float32": judged.float32,
        "weights": with_8_bit_weights(judged.float32),
        "file": judged.quantized,
    }
    assert [*judged.ladder] == ["reference", "float32", "float16", "weights", "int16x8", "int8", "file"]
    for name, model in models.items():
        given = outputs(model, judged.images)
        assert judged.ladder[name]["value"] == pytest.approx((given.argmax(1) == judged.labels).mean()), name
        if name != "float32":  # the report's are to the Keras model
            assert judged.ladder[name]["sqnr"] == pytest.approx(decibels(exact, given), abs=0.01), name
    assert judged.ladder["float32"]["sqnr"] > 100
    assert judged.ladder["reference"]["value"] == judged.ladder["float32"]["value"]
    assert judged.ladder["float16"]["sqnr"] > 60
    if max(one["clipped"] for one in judged.tensors.values()) < 0.001:
        assert judged.ladder["int16x8"]["sqnr"] == pytest.approx(judged.ladder["weights"]["sqnr"], abs=1)
    else:
        assert judged.ladder["int16x8"]["sqnr"] < judged.ladder["weights"]["sqnr"] - 10


def test_the_tensors(judged: Judged) -> None:
    images = judged.images[:LOOKED_AT]
    exact, given = watched(judged.float32, images), watched(judged.quantized, images)
    scales = {one["name"]: one["quantization"] for one in interpreter(judged.quantized).get_tensor_details()}
    assert len(judged.tensors) >= 5
    for name, told in judged.tensors.items():
        scale, zero = scales[told["in_file"]]
        values = exact[name]
        low, high = (-128 - zero) * scale, (127 - zero) * scale
        assert told["calibrated"] == pytest.approx([low, high]), name
        steps = np.rint(values / scale) + zero
        codes = np.clip(steps, -128, 127)
        assert told["codes"] == len(np.unique(codes)), name
        assert told["clipped"] == pytest.approx((np.abs(steps - codes) > 1).mean(), abs=1e-9), name
        alone = watched(with_8_bit_weights(judged.float32, name), images)[name]
        rounded = (np.clip(np.rint(alone / scale) + zero, -128, 127) - zero) * scale
        assert told["isolated"] == pytest.approx(decibels(values, rounded), abs=0.01), name
        assert told["cumulative"] == pytest.approx(decibels(values, given[told["in_file"]]), abs=0.05), name
        assert told["evaluated"] == pytest.approx([values.min(), values.max()], rel=1e-5), name


def test_a_variant_that_holds_a_limit_on_fidelity_has_a_diagnosis_too_where_it_is_asked_for(judged: Judged) -> None:
    ladder = {one["name"]: one for one in judged.unlabelled["diagnosis"]["ladder"]}
    assert judged.unlabelled["verdict"] in ("pass", "warn")
    assert judged.unlabelled["diagnosis"]["metric"] == "sqnr"
    assert ladder["file"]["sqnr"] == pytest.approx(judged.ladder["file"]["sqnr"])
