from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_models import Case, edited, runner, single_runs, without_signature

from tflite_guard.engine import graph
from tflite_guard.engine.recipes import quantize_with_recipe
from tflite_guard.errors import ConversionError, DataError
from tflite_guard.manifest.types import CalibrationOptions
from tflite_guard.vocabulary import RECIPES

MEASURED = CalibrationOptions(ranges="measured")


def float32(case: Case) -> bytes:
    return Path(case.tflite("float32")).read_bytes()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_a_model_near_the_reference(conv: Case, recipe: str, tmp_path: Path) -> None:
    calibration = conv.calibration if RECIPES[recipe] else None
    path = tmp_path / "m.tflite"
    path.write_bytes(quantize_with_recipe(float32(conv), recipe, calibration))
    wanted = conv.source.reference.run(conv.data)["output_0"]
    outputs = runner(str(path), conv.source.names).run(conv.data)["output_0"]
    np.testing.assert_allclose(outputs, wanted, atol=0.1)


def test_vocabulary_says_which_recipes_need_calibration(conv: Case) -> None:
    for recipe, calibrated in RECIPES.items():
        if calibrated:
            with pytest.raises(ConversionError, match=f"recipe {recipe} needs calibration data"):
                quantize_with_recipe(float32(conv), recipe, None)
        else:
            assert quantize_with_recipe(float32(conv), recipe, None)


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
    from ai_edge_quantizer import recipe

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
    wanted = conv.source.reference.run(conv.data)["output_0"]
    outputs = runner(str(path), conv.source.names).run(conv.data)["output_0"]
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
