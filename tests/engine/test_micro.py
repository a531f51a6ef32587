"""TensorFlow Lite Micro behind our runner, against a plain loop over it; figures of a file, against its layers."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from engine_models import Case, normal

from tests.conftest import EXAMPLES, on_micro
from tflite_guard.engine import graph
from tflite_guard.engine.macs import macs
from tflite_guard.engine.micro import MicroRunner
from tflite_guard.engine.tflite import Model, Runner
from tflite_guard.errors import EvaluationError
from tflite_guard.protocol import TensorInfo

pytestmark = on_micro

SHIPPED = EXAMPLES / "digits/app/digits_int8.tflite"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.load(EXAMPLES / "digits/data/evaluation.npz")["image"][:60].astype(np.float32) / 16


def interpreted(path: str) -> Any:
    """TensorFlow Lite Micro's own interpreter."""
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_file(path, arena_size=1 << 20)


def test_outputs_are_those_of_a_plain_loop(images: np.ndarray) -> None:
    runner = MicroRunner(Model.read(str(SHIPPED)))
    interpreter = interpreted(str(SHIPPED))
    given, returned = (one(0) for one in (interpreter.get_input_details, interpreter.get_output_details))
    expected = []
    for image in images:
        real = image[np.newaxis]
        if (scales := given["quantization_parameters"]["scales"]).size:
            steps = np.rint(real / scales[0]) + given["quantization_parameters"]["zero_points"][0]
            real = np.clip(steps, -128, 127)
        interpreter.set_input(real.astype(given["dtype"]), 0)
        interpreter.invoke()
        result = interpreter.get_output(0).astype(np.float32)
        if (scales := returned["quantization_parameters"]["scales"]).size:
            result = (result - returned["quantization_parameters"]["zero_points"][0]) * scales[0]
        expected.append(result[0])
    (name,) = runner.outputs
    ((_, inputs),) = [(name, {one: images}) for one in runner.ports]
    assert np.array_equal(runner.run(inputs)[name], np.stack(expected))


def test_several_inputs_and_outputs_are_bound_by_name(make_case: Callable[..., Case]) -> None:
    """Inputs and outputs of one shape, so that their order alone tells them apart in the file."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    outputs = {"zeta": keras.layers.Dense(3)(left), "alpha": keras.layers.Dense(3)(right) * 2.0}
    model = keras.Model({"right": right, "left": left}, outputs)
    two = make_case("two", model, {"left": normal(4), "right": 100 * normal(4)[::-1]})
    path = two.tflite("float32")
    ours, theirs = (kind(Model.read(path)).run(two.data) for kind in (MicroRunner, Runner))
    assert {*ours} == {*theirs} == {"zeta", "alpha"}
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-5, atol=1e-6)


def test_state_is_forgotten_before_each_example(stateful: Case) -> None:
    path = stateful.tflite("float32")
    runner = MicroRunner(Model.read(path))
    expected = []
    for steps in stateful.data["steps"]:
        interpreter = interpreted(path)
        interpreter.set_input(steps[np.newaxis], 0)
        interpreter.invoke()
        expected.append(interpreter.get_output(0)[0])
    ((_, values),) = runner.run(stateful.data).items()
    np.testing.assert_array_equal(values, np.stack(expected))
    kept = runner.run(stateful.data, begins=[i == 0 for i in range(len(values))])
    assert not np.array_equal(next(iter(kept.values())), values)


@pytest.mark.parametrize(
    ("case", "quantization", "named"),
    [
        ("conv", "float16", r"cannot prepare DEQUANTIZE, operator 0: .*constants in float16 cannot be read there"),
        (
            "conv",
            "dynamic_range",
            r"cannot prepare FULLY_CONNECTED, operator \d: .*weights in integers and computes in float",
        ),
        ("odd", "float32", r"needs the operator TOPK_V2, which TensorFlow Lite Micro does not have"),
    ],
)
def test_what_it_cannot_run_names_the_operator(
    request: pytest.FixtureRequest, case: str, quantization: str, named: str
) -> None:
    path = request.getfixturevalue(case).tflite(quantization)
    with pytest.raises(EvaluationError, match=named) as caught:
        MicroRunner(Model.read(path))
    assert caught.value.kind == "no-kernel"


@pytest.fixture(scope="module")
def odd(make_case: Callable[..., Case]) -> Case:
    x = keras.Input((6,), name="x")
    return make_case("odd", keras.Model(x, keras.ops.top_k(keras.layers.Dense(4)(x), 2)[0]), {"x": normal(6)})


def test_an_example_of_another_shape_is_refused_with_both(conv: Case) -> None:
    runner = MicroRunner(Model.read(conv.tflite("int8", "int8")))
    runner.inputs = {"image": TensorInfo((None, None, None, 1), "float32")}
    with pytest.raises(EvaluationError, match=r"image has \[1, 9, 9, 1\] int8 and the file \[1, 8, 8, 1\] int8"):
        runner.run({"image": np.zeros((1, 9, 9, 1), np.float32)})


def test_the_arena_is_what_the_interpreter_says(capfd: pytest.CaptureFixture[str]) -> None:
    interpreter = interpreted(str(SHIPPED))
    interpreter.print_allocations()
    (total,) = re.findall(r"Arena allocation total (\d+) bytes", capfd.readouterr().err)
    assert MicroRunner(Model.read(str(SHIPPED))).arena_bytes() == int(total)


def test_a_model_whose_arena_is_large_gets_it(make_case: Callable[..., Case]) -> None:
    x = keras.Input((1000, 1000, 1), name="x")
    wide = make_case("wide", keras.Model(x, keras.layers.Conv2D(8, 1)(x)), {"x": normal(2, 2)})
    assert MicroRunner(Model.read(wide.tflite("float32"))).arena_bytes() > 36_000_000


def test_without_the_package_all_else_runs_and_says_what_to_install(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["tflite_micro"] = None
import tflite_guard.engine.evaluate
from tflite_guard.engine.__main__ import _explain
from tflite_guard.engine.tflite import Model
try:
    tflite_guard.engine.evaluate.opened(Model.read({str(SHIPPED)!r}), "micro", Model.read({str(SHIPPED)!r}).names, 1)
except ModuleNotFoundError as error:
    print(_explain(error, "")["message"])
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'tflite-guard[micro]'" in said


def test_a_process_ends_with_its_runner() -> None:
    runner = MicroRunner(Model.read(str(SHIPPED)))
    process = runner._process._process
    del runner
    gc.collect()
    assert process.poll() is not None


def test_multiply_accumulates_are_those_of_the_layers(tmp_path: Path) -> None:
    """Each product of an input and a weight once: by hand from the shapes that Keras tells."""
    image = keras.Input((16, 16, 3), name="image")
    grouped = keras.layers.Conv2D(12, 3, strides=2, groups=3, padding="same")(image)  # 8 * 8 * 12 * 9 * 1
    deep = keras.layers.DepthwiseConv2D(3, padding="same")(grouped)  # 8 * 8 * 12 * 9
    up = keras.layers.Conv2DTranspose(5, 3, strides=2, padding="same")(deep)  # 8 * 8 * 12 * 9 * 5
    dense = keras.layers.Dense(7)(keras.layers.Flatten()(up))  # 16 * 16 * 5 * 7
    product = keras.ops.matmul(keras.layers.Reshape((1, 7))(dense), keras.layers.Reshape((7, 1))(dense))  # 7
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, product))
    found = macs(graph.read(converter.convert()), "the model")
    assert found == 8 * 8 * 12 * 9 * (1 + 1 + 5) + 16 * 16 * 5 * 7 + 7


def test_multiply_accumulates_of_a_loop_are_not_guessed(looped: Case) -> None:
    read = graph.read(looped.tflite("float32"))
    if any(one.type == "WHILE" for one in read.main.operators):
        with pytest.raises(EvaluationError, match="how often WHILE runs is not in the file"):
            macs(read, "the model")
    else:  # 5 steps of four gates, from 3 inputs and 4 of its own, and the dense layer
        assert macs(read, "the model") == 5 * 4 * 4 * (3 + 4) + 4 * 2
