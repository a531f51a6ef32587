"""Float models that stand for narrower ones give what the narrower ones give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from engine_models import Case, normal, single_runs

from tflite_guard.engine import narrower
from tflite_guard.engine.calibrate import measured_ranges
from tflite_guard.engine.float_file import FloatFile
from tflite_guard.engine.recipes import prepared, quantize_with_ranges

WIDEST = (1e9, -70000.0, 65519.0, 65521.0, -1e20, 6e-8, 1e-9)
"""Beyond what float16 holds, and below."""


@pytest.fixture(scope="session")
def wide(make_case: Callable[..., Case]) -> Case:
    """Weights from far below to far beyond what float16 holds."""
    random = np.random.default_rng(3)
    model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(40), keras.layers.Dense(5)])
    weights = [random.normal(size=one.shape) * 10.0 ** random.uniform(-9, 6, one.shape) for one in model.get_weights()]
    weights[0].flat[: len(WIDEST)] = WIDEST
    model.set_weights(weights)
    return make_case("wide", model, {"x": normal(6)})


def of(case: Case) -> FloatFile:
    return FloatFile(prepared(Path(case.tflite("float32")).read_bytes()), case.calibration)


def outputs(model: bytes, case: Case, folder: Path) -> np.ndarray:
    path = folder / "model.tflite"
    path.write_bytes(model)
    return single_runs(str(path), case.data)["output_0"]


def decibels(exact: np.ndarray, given: np.ndarray) -> float:
    exact, given = exact.astype(np.float64), given.astype(np.float64)
    return float(10 * np.log10(np.square(exact).sum() / np.square(given - exact).sum()))


@pytest.mark.parametrize("name", ["wide", "conv"])
def test_constants_in_float16_are_the_converters(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    case: Case = request.getfixturevalue(name)
    own = outputs(narrower.float16(of(case)), case, tmp_path)
    assert np.array_equal(own, single_runs(case.tflite("float16"), case.data)["output_0"])


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_16_bit_activations_lose_what_the_real_kernels_lose(conv: Case, share: float, tmp_path: Path) -> None:
    """With ranges that hold everything, and with some that clip."""
    file = of(conv)
    seen = measured_ranges(file.content, conv.calibration)
    (softmax,) = file.graph.outputs  # whose range no quantizer takes from data
    ranges = {name: (share * low, share * high) for name, (low, high) in seen.items()} | {softmax: (0.0, 1.0)}
    simulated = narrower.int16x8(file, ranges)
    assert simulated is not None
    exact = outputs(file.content, conv, tmp_path)
    own = outputs(simulated, conv, tmp_path)
    real = outputs(quantize_with_ranges(file.content, "static_wi8_ai16", ranges, []), conv, tmp_path)
    assert decibels(real, own) > 70
    assert decibels(exact, own) == pytest.approx(decibels(exact, real), abs=0.1)


def test_a_model_with_loops_has_no_such_rung(looped: Case) -> None:
    assert narrower.int16x8(of(looped), {}) is None


def test_16_bit_activations_by_hand(make_case: Callable[..., Case], tmp_path: Path) -> None:
    """A dense layer: the inputs on 16 bits, the weights on 8, the outputs on 16."""
    dense = keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(1))
    case = make_case("dense", keras.Sequential([keras.Input((6,), name="x"), dense]), {"x": normal(6)})
    file = of(case)
    x, output = file.graph.activations
    (weights,) = (values for values in file.constants.values() if values.ndim == 2)
    ranges = {x: (-1.0, 2.0), output: (-0.5, 0.25)}

    def in_16_bits(values: np.ndarray, end: float) -> np.ndarray:
        return np.clip(np.rint(values / (end / 32767)), -32768, 32767) * (end / 32767)

    scale = np.abs(weights).max(1, keepdims=True) / 127
    wanted = [in_16_bits((np.rint(weights / scale) * scale) @ in_16_bits(one, 2.0), 0.5) for one in case.data["x"]]
    simulated = narrower.int16x8(file, ranges)
    assert simulated is not None
    # In float32 a value halfway between two steps may go to either.
    steps = np.abs(outputs(simulated, case, tmp_path) - np.array(wanted)) * 32767 / 0.5
    assert steps.max() < 2.5
    assert np.mean(steps > 0.5) < 0.1
