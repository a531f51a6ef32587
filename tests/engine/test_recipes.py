from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from engine_models import Case, edited, lone, normal, runner, single_runs, without_signature

from tflite_guard.engine import graph
from tflite_guard.engine.recipes import quantize_with_recipe
from tflite_guard.errors import ConversionError, DataError, EvaluationError
from tflite_guard.manifest.types import CalibrationOptions
from tflite_guard.vocabulary import RECIPES

MEASURED = CalibrationOptions(ranges="measured")


def float32(case: Case) -> bytes:
    return Path(case.tflite("float32")).read_bytes()


@pytest.fixture(scope="session")
def ternary(make_case: Callable[..., Case]) -> Case:
    """Weights of -1, 0 and 1, which two bits hold, in rows that blocks of 64 divide."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(5)
    layers = [
        keras.Input((8, 8, 4), name="image"),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="first"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, name="scores"),
    ]
    model = keras.Sequential(layers)
    for name in ("first", "scores"):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([random.integers(-1, 2, kernel.shape), bias + 0.5])
    return make_case("ternary", model, {"image": np.clip(normal(8, 8, 4), -1, 1)})


def evaluated(case: Case, model: bytes, folder: Path) -> float:
    """The outputs' ratio of signal to noise in decibels."""
    path = folder / "m.tflite"
    path.write_bytes(model)
    wanted = lone(case.source.reference.run(case.data))
    outputs = lone(runner(str(path), case.source.names).run(case.data))
    return float(10 * np.log10(np.square(wanted).sum() / np.square(outputs - wanted).sum()))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_a_smaller_model_near_the_reference(ternary: Case, recipe: str, tmp_path: Path) -> None:
    model = quantize_with_recipe(float32(ternary), recipe, ternary.calibration if RECIPES[recipe] else None)
    rotated = "_hr_" in recipe or "hadamard" in recipe
    # Smoothed ranges cut the largest activations, and rotated weights are no longer -1, 0 and 1.
    assert evaluated(ternary, model, tmp_path) > (5 if recipe == "dynamic_wi2c_hr_afp32" else 10)
    assert rotated or len(model) < len(float32(ternary)) / 2


# What the package offers beside, and why no variant can be made by it.
SEVERAL_MODELS = {
    *(f"gemma4_mixed48{suffix}" for suffix in ("", "_hr", "_b32", "_b64")),
    "dynamic_wi8_afp32_litertlm",
}
LEFT_IN_FLOAT = {"dynamic_wi8b32_afp32", "dynamic_wi8b64_afp32"}
NO_KERNEL = {"dynamic_wi2b32_afp32", "dynamic_wi2b64_afp32"}
WRONG_KERNEL = {"dynamic_wi2c_afp32"}
"""LiteRT reads a convolution's weights of 2 bits from memory that nobody has written."""
FOR_ONE_MODEL = {"sample_advanced_usage"}


def test_the_vocabulary_is_what_the_package_offers() -> None:
    import litert_quantizer
    from litert_quantizer import recipe

    functions = {name for name, _ in inspect.getmembers(recipe, inspect.isfunction) if not name.startswith("_")}
    files = {path.stem.removesuffix("_recipe") for path in Path(litert_quantizer.__path__[0], "recipes").glob("*.json")}
    assert functions | files == {*RECIPES} | SEVERAL_MODELS | LEFT_IN_FLOAT | NO_KERNEL | WRONG_KERNEL | FOR_ONE_MODEL


@pytest.mark.parametrize("name", sorted(SEVERAL_MODELS | LEFT_IN_FLOAT | NO_KERNEL))
def test_what_is_left_out_makes_nothing_to_judge(ternary: Case, name: str, tmp_path: Path) -> None:
    from litert_quantizer.quantizer import Quantizer
    from litert_quantizer.utils.recipe_utils import resolve_recipe

    rules = resolve_recipe(name)
    if name in SEVERAL_MODELS:
        assert isinstance(rules, dict)
        return
    model = bytes(Quantizer(float32(ternary), rules).quantize(enable_progress_report=False).quantized_model)
    if name in LEFT_IN_FLOAT:
        assert not graph.quantized_tensors(graph.read(model))
        return
    with pytest.raises(EvaluationError, match="XNNPACK delegate"):
        evaluated(ternary, model, tmp_path)


def test_vocabulary_says_which_recipes_need_calibration(ternary: Case) -> None:
    for recipe, calibrated in RECIPES.items():
        if calibrated:
            with pytest.raises(ConversionError, match=f"recipe {recipe} needs calibration data"):
                quantize_with_recipe(float32(ternary), recipe, None)
        else:
            assert quantize_with_recipe(float32(ternary), recipe, None)


@pytest.mark.parametrize(
    "algorithm", ["OCTAV", "MSE", "OSCAR", "GPTQ", "DECOMPOSED_HADAMARD_ROTATION", "float_casting"]
)
def test_an_algorithm_by_its_key_in_a_recipe_file(ternary: Case, tmp_path: Path, algorithm: str) -> None:
    from litert_quantizer import recipe

    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.weight_only_wi8_afp32(algorithm_key=algorithm)))
    model = quantize_with_recipe(float32(ternary), str(path), ternary.calibration)
    assert evaluated(ternary, model, tmp_path) > 20
    assert model != quantize_with_recipe(float32(ternary), "weight_only_wi8_afp32", None)


def calibrated_whole(model: bytes, examples: list[dict[str, np.ndarray]]) -> bytes:
    """The static recipe as the package's documentation tells: all examples in a list."""
    from litert_quantizer import recipe
    from litert_quantizer.quantizer import Quantizer

    quantizer = Quantizer(model, recipe.static_wi8_ai8())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statistics = quantizer.calibrate({"serving_default": examples})
        return bytes(quantizer.quantize(statistics, enable_progress_report=False).quantized_model)


def test_streamed_calibration_equals_the_quantizers_own(branches: Case) -> None:
    types = {"left": "float32", "right": "float32", "ids": "int32"}
    examples = [{n: values.astype(types[n]) for n, values in e.items()} for e in branches.calibration()]
    ours = quantize_with_recipe(float32(branches), "static_wi8_ai8", branches.calibration)
    assert ours == calibrated_whole(float32(branches), examples)


def test_an_example_is_repeated_where_the_batch_is_fixed(make_case: Callable[..., Case]) -> None:
    x = keras.Input(batch_shape=(4, 3), name="x")
    rows = keras.ops.reshape(keras.layers.Dense(3)(x), (2, 6))  # of no other batch than four
    case = make_case("four", keras.Model(x, keras.layers.Dense(2)(rows)), {"x": normal(3)})
    examples = [{"x": np.concatenate([e["x"]] * 4)} for e in case.calibration()]
    ours = quantize_with_recipe(float32(case), "static_wi8_ai8", case.calibration)
    assert ours == calibrated_whole(float32(case), examples)


def test_gptq_takes_no_measured_ranges(ternary: Case, tmp_path: Path) -> None:
    from litert_quantizer import recipe

    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.weight_only_wi8_afp32(algorithm_key="GPTQ")))
    with pytest.raises(ConversionError, match=r"fits weights to activations \(GPTQ\)"):
        quantize_with_recipe(float32(ternary), str(path), ternary.calibration, (), MEASURED)
    with pytest.raises(ConversionError, match="needs calibration data"):
        quantize_with_recipe(float32(ternary), str(path), None)


def test_the_manifests_description_lists_every_recipe() -> None:
    schema = json.loads((Path(__file__).parents[2] / "schemas/manifest-v1.schema.json").read_bytes())
    described = schema["$defs"]["variant"]["properties"]["recipe"]["description"]
    assert set(re.findall(r"`((?:dynamic|weight_only|default|static)_\w+)`", described)) == {*RECIPES}


@pytest.mark.parametrize("options", [CalibrationOptions(), MEASURED])
def test_a_loop_is_refused_where_ranges_are_calibrated(looped: Case, options: CalibrationOptions) -> None:
    with pytest.raises(ConversionError, match=r"a model with a loop.*unroll=True"):
        quantize_with_recipe(float32(looped), "static_wi8_ai8", looped.calibration, (), options)
    assert quantize_with_recipe(float32(looped), "dynamic_wi8_afp32", None)


def test_no_examples_are_an_error(conv: Case) -> None:
    with pytest.raises(DataError, match="the calibration data has no examples"):
        quantize_with_recipe(float32(conv), "static_wi8_ai8", lambda: iter(()))


def test_a_failure_has_the_recipes_name_and_the_quantizers_reason(conv: Case) -> None:
    """A row of 288 weights cannot be cut into blocks of 64."""
    with pytest.raises(ConversionError, match=r"failed with recipe dynamic_wi4b64_afp32: .*block"):
        quantize_with_recipe(float32(conv), "dynamic_wi4b64_afp32", None)


def test_measured_ranges_give_what_the_converter_gives_with_them(branches: Case, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(quantize_with_recipe(float32(branches), "static_wi8_ai8", branches.calibration, (), MEASURED))
    wanted = branches.source.reference.run(branches.data)
    for name, values in runner(str(path), branches.source.names).run(branches.data).items():
        assert np.abs(values - wanted[name]).max() < 0.02 * np.ptp(wanted[name])


@pytest.mark.parametrize("options", [CalibrationOptions(), MEASURED])
def test_twice_gives_the_same_bytes(conv: Case, options: CalibrationOptions) -> None:
    one, two = (quantize_with_recipe(float32(conv), "static_wi8_ai8", conv.calibration, (), options) for _ in range(2))
    assert one == two


def test_keep_float_leaves_a_layer_in_float(conv: Case) -> None:
    model = quantize_with_recipe(float32(conv), "static_wi8_ai8", conv.calibration, ("scores",))
    left = [name.split(" ")[0] for name in graph.float_operators(graph.read(model))]
    assert left == ["FULLY_CONNECTED", "SOFTMAX"]


def test_a_recipe_file(conv: Case, tmp_path: Path) -> None:
    from litert_quantizer import recipe

    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.dynamic_wi8_afp32()))
    assert quantize_with_recipe(float32(conv), str(path), None) == quantize_with_recipe(
        float32(conv), "dynamic_wi8_afp32", None
    )


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"regex": ".*"}]'])
def test_a_file_that_is_no_recipe(conv: Case, tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(ConversionError, match=r"recipe\.json"):
        quantize_with_recipe(float32(conv), str(path), None)


def test_a_file_without_signature_is_calibrated_too(conv: Case, tmp_path: Path) -> None:
    bare = Path(without_signature(conv.tflite("float32"), tmp_path / "bare.tflite")).read_bytes()
    path = tmp_path / "m.tflite"
    path.write_bytes(quantize_with_recipe(bare, "static_wi8_ai8", conv.calibration))
    wanted = lone(conv.source.reference.run(conv.data))
    outputs = lone(runner(str(path), conv.source.names).run(conv.data))
    np.testing.assert_allclose(outputs, wanted, atol=0.1)


def test_old_files_quantize_as_new_ones_do(conv: Case, tmp_path: Path) -> None:
    def age(content: Any) -> None:
        for code in content.operatorCodes:
            code.deprecatedBuiltinCode, code.builtinCode = code.builtinCode, 0

    old = Path(edited(conv.tflite("float32"), tmp_path / "old.tflite", age)).read_bytes()
    paths = []
    for name, model in (("old", old), ("new", float32(conv))):
        path = tmp_path / f"{name}-quantized.tflite"
        path.write_bytes(quantize_with_recipe(model, "static_wi8_ai8", conv.calibration))
        paths.append(str(path))
    one, two = (single_runs(path, conv.data)["output_0"] for path in paths)
    np.testing.assert_array_equal(one, two)


def test_calibration_data_that_does_not_fit_is_an_error(conv: Case) -> None:
    def wrong() -> Any:
        yield {"image": np.zeros((1, 8, 8, 2), "float32")}

    with pytest.raises(DataError, match=r"input image: the model takes \[\?, 8, 8, 1\]"):
        quantize_with_recipe(float32(conv), "static_wi8_ai8", wrong)


def test_no_tensorflow_is_loaded_for_flatbuffers(conv: Case) -> None:
    program = (
        "import sys; from pathlib import Path; from tflite_guard.engine import calibrate, graph, recipes, tflite; "
        "model = Path(sys.argv[1]).read_bytes(); recipes.quantize_with_recipe(model, 'dynamic_wi8_afp32', None); "
        "tflite.Runner(tflite.Model.read(sys.argv[1])); "
        "print(sorted({'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, conv.tflite("float32")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
