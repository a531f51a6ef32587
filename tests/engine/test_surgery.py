from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from engine_models import Case, edited, lone, normal, runner, single_runs

from tests.plain_loop import raw_outputs
from tflite_guard.engine import graph
from tflite_guard.engine.convert import FloatModel
from tflite_guard.engine.recipes import quantize_with_recipe
from tflite_guard.engine.surgery import with_float32_constants
from tflite_guard.errors import ModelFileError
from tflite_guard.manifest.types import CalibrationOptions, Conversion, FileSpec, ReferenceSpec

MEASURED = CalibrationOptions(ranges="measured")


@pytest.fixture(scope="session")
def layers(make_case: Callable[..., Case]) -> Case:
    """Convolutions of both kinds and a dense layer, with biases that float16 rounds."""
    keras.utils.set_random_seed(9)
    biased = {"bias_initializer": keras.initializers.RandomNormal(seed=1)}
    model = [
        keras.Input((6, 6, 2), name="image"),
        keras.layers.Conv2D(4, 3, activation="relu", **biased),
        keras.layers.DepthwiseConv2D(3, **biased),
        keras.layers.Flatten(),
        keras.layers.Dense(3, **biased),
    ]
    return make_case("layers", keras.Sequential(model), {"image": normal(6, 6, 2)})


def widened(case: Case, folder: Path) -> str:
    path = folder / "widened.tflite"
    path.write_bytes(with_float32_constants(Path(case.tflite("float16")).read_bytes()))
    return str(path)


def noise(path: str, case: Case) -> float:
    """What is lost to the float32 model, as a share of its outputs' spread."""
    wanted = single_runs(case.tflite("float32"), case.data)["output_0"]
    outputs = lone(runner(path, case.source.names).run(case.data))
    return float(np.sqrt(np.mean(np.square(outputs - wanted))) / np.std(wanted))


def test_float16_constants_become_float32_and_outputs_stay(layers: Case, tmp_path: Path) -> None:
    path = widened(layers, tmp_path)
    wanted = single_runs(layers.tflite("float16"), layers.data)["output_0"]
    np.testing.assert_array_equal(single_runs(path, layers.data)["output_0"], wanted)
    assert not np.array_equal(wanted, single_runs(layers.tflite("float32"), layers.data)["output_0"])
    read = graph.read(path)
    assert "DEQUANTIZE" not in [op.type for op in read.main.operators]
    assert "float16" not in {tensor.dtype for tensor in read.main.tensors}
    assert Path(path).stat().st_size < 1.2 * Path(layers.tflite("float32")).stat().st_size


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_other_models_stay_as_they_are(layers: Case, quantization: str) -> None:
    model = Path(layers.tflite(quantization)).read_bytes()
    assert with_float32_constants(model) == model


@pytest.mark.parametrize(("quantization", "options"), [("int8", None), ("int8", MEASURED), ("int16x8", None)])
def test_a_float16_reference_quantizes_as_the_float32_one_does(
    layers: Case, tmp_path: Path, quantization: str, options: CalibrationOptions | None
) -> None:
    variant = Conversion(quantization, calibration_options=options or CalibrationOptions())
    lost = []
    for stored in ("float32", "float16"):
        source = FloatModel(ReferenceSpec("tflite", FileSpec(layers.tflite(stored))), str(tmp_path))
        path = tmp_path / f"{stored}.tflite"
        path.write_bytes(source.quantize(variant, layers.calibration))
        assert graph.integer_compute(graph.read(str(path)))
        lost.append(noise(str(path), layers))
    assert lost[1] == pytest.approx(lost[0], abs=2e-3)
    assert source.float32() == Path(layers.tflite("float16")).read_bytes()


@pytest.mark.parametrize("recipe", ["static_wi8_ai8", "weight_only_wi8_afp32"])
def test_a_recipe_from_a_float16_reference(layers: Case, tmp_path: Path, recipe: str) -> None:
    lost = []
    for stored in ("float32", "float16"):
        path = tmp_path / f"{stored}.tflite"
        float_model = Path(layers.tflite(stored)).read_bytes()
        path.write_bytes(quantize_with_recipe(float_model, recipe, layers.calibration))
        assert graph.quantized_tensors(graph.read(str(path)))
        lost.append(noise(str(path), layers))
    assert lost[1] == pytest.approx(lost[0], abs=5e-3)


@pytest.mark.parametrize("name", [b"", b"same"])
@pytest.mark.parametrize("recipe", ["static_wi8_ai8", "weight_only_wi8_afp32"])
def test_a_recipe_from_a_file_whose_tensors_have_no_name_or_one_for_all(
    layers: Case, tmp_path: Path, recipe: str, name: bytes
) -> None:
    def anonymous(content: Any) -> None:
        content.signatureDefs = None
        for tensor in content.subgraphs[0].tensors:
            tensor.name = name

    path = edited(layers.tflite("float32"), tmp_path / "anonymous.tflite", anonymous)
    images = layers.data["image"]
    outputs = []
    for file, key in ((path, "same" if name else "#0"), (layers.tflite("float32"), "image")):
        made = tmp_path / f"quantized-{key}.tflite"
        examples = [{key: images[i : i + 1]} for i in range(len(images))]
        float_model = Path(file).read_bytes()
        made.write_bytes(quantize_with_recipe(float_model, recipe, partial(iter, examples), options=MEASURED))
        assert graph.quantized_tensors(graph.read(str(made)))
        outputs.append(raw_outputs(made, images))
    np.testing.assert_array_equal(*outputs)


def test_a_constant_that_is_cut_short_is_an_error(layers: Case, tmp_path: Path) -> None:
    def cut(content: Any) -> None:
        dequantized = next(op for op in content.subgraphs[0].operators if op.builtinOptions is None)
        tensor = content.subgraphs[0].tensors[dequantized.inputs[0]]
        content.buffers[tensor.buffer].data = content.buffers[tensor.buffer].data[:3]

    path = edited(layers.tflite("float16"), tmp_path / "cut.tflite", cut)
    with pytest.raises(ModelFileError, match="is not as long as its shape"):
        with_float32_constants(Path(path).read_bytes())
