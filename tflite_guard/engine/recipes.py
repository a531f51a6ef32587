"""Quantization by recipes of the LiteRT Quantizer, from a float .tflite. Loads no TensorFlow."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_guard.engine import feeds
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.calibrate import Ranges, measured_ranges
from tflite_guard.engine.refusals import first_line, not_prepared
from tflite_guard.engine.surgery import with_builtin_codes, with_float32_constants, with_unique_names
from tflite_guard.errors import ConversionError, EvaluationError
from tflite_guard.manifest.types import CalibrationOptions
from tflite_guard.protocol import TensorInfo
from tflite_guard.vocabulary import RECIPES

Array = npt.NDArray[Any]
Calibration = Callable[[], Iterator[dict[str, Array]]]
Recipe = list[dict[str, Any]]


def quantize_with_recipe(
    model: bytes,
    recipe: str,
    calibration: Calibration | None,
    keep_float: Sequence[str] = (),
    options: CalibrationOptions = CalibrationOptions(),  # noqa: B008 - frozen
) -> bytes:
    """The float .tflite quantized by a recipe: one of RECIPES by name, or the path of a recipe file.

    The quantizer's own calibration smooths ranges over the examples; `measured` ranges, and files without a
    signature, which its calibration cannot read, get each tensor's true range. Raises ConversionError.
    """
    quantizer_module = _imported()
    content = prepared(model)
    rules = recipe if recipe in RECIPES else _rules(recipe)
    names = graphs.resolve_keep_float(graphs.read(content), keep_float)

    def quantize() -> bytes:
        quantizer = quantizer_module.Quantizer(content, rules)
        for name in names:
            quantizer.update_quantization_recipe(f"^{re.escape(name)};?$", "*", algorithm_key="no_quantize")
        ranges = _ranges(quantizer, content, recipe, calibration, options) if quantizer.need_calibration else None
        return bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)

    return _guarded(recipe, quantize, content)


def quantize_with_ranges(
    model: bytes, recipe: str, ranges: Mapping[str, tuple[float, float]], float_nodes: Sequence[str]
) -> bytes:
    """The float .tflite quantized by a static recipe with these ranges, some results left in float."""
    quantizer_module = _imported()

    def quantize() -> bytes:
        quantizer = quantizer_module.Quantizer(model, recipe if recipe in RECIPES else _rules(recipe))
        for name in float_nodes:
            quantizer.update_quantization_recipe(f"^{re.escape(name)};?$", "*", algorithm_key="no_quantize")
        statistics = _as_statistics(graphs.read(model), dict(ranges))
        return bytes(quantizer.quantize(statistics, enable_progress_report=False).quantized_model)

    return _guarded(recipe, quantize, model)


def prepared(model: bytes) -> bytes:
    """A float .tflite as the quantizer takes it."""
    return with_unique_names(with_float32_constants(with_builtin_codes(model)))


def _imported() -> Any:
    try:
        from litert_quantizer import quantizer
    except ImportError as error:
        message = "recipes need the LiteRT Quantizer: pip install 'tflite-guard[recipes]'"
        raise ConversionError(message, "missing-package") from error
    return quantizer


RECIPE = "save what Quantizer.get_quantization_recipe gives as JSON, or name one of the built-in recipes"


def _rules(path: str) -> Recipe:
    try:
        loaded = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read as a recipe ({first_line(error)}); {RECIPE}") from error
    if not isinstance(loaded, list) or not all(isinstance(rule, dict) for rule in loaded):
        raise ConversionError(f"{path} is not a recipe, which is a list of rules; {RECIPE}")
    return loaded


def _ranges(
    quantizer: Any, model: bytes, recipe: str, calibration: Calibration | None, options: CalibrationOptions
) -> dict[str, Any]:
    graph = graphs.read(model)
    graphs.refuse_loops(graph)
    if calibration is None:
        raise ConversionError(
            f"recipe {recipe} needs calibration data; name a dataset as calibration", "no-calibration"
        )
    inputs = {name: graph.main.tensors[index] for name, index in graphs.input_indices(graph).items()}
    infos = {name: TensorInfo(tensor.shape_signature, tensor.dtype) for name, tensor in inputs.items()}

    def examples() -> Iterator[dict[str, Array]]:
        return feeds.calibration_examples(calibration(), infos, options.samples)

    signature = next(iter(graph.signatures), None)
    if signature is None or options.ranges == "measured" or options.clip_percentile is not None:
        _refuse_fitted_weights(quantizer, recipe)
        return _as_statistics(graph, measured_ranges(model, examples, options.clip_percentile))
    return _smoothed(quantizer, model, signature, examples())


def _refuse_fitted_weights(quantizer: Any, recipe: str) -> None:
    """Without its own statistics GPTQ does not fail, it leaves the weights in float."""
    if any(rule["algorithm_key"] == "GPTQ" for rule in quantizer.get_quantization_recipe()):
        raise ConversionError(
            f"recipe {recipe} fits weights to activations (GPTQ), for which ranges do not suffice; "
            "leave out measured ranges and clip_percentile, and give the .tflite a signature"
        )


def _smoothed(quantizer: Any, model: bytes, signature: str, examples: Iterator[Mapping[str, Array]]) -> dict[str, Any]:
    """The quantizer's own calibration. Its `calibrate` would make a list of all examples, so each goes in by itself;
    the results are the same. Between examples it forgets a model's state.
    """
    from litert_quantizer.calibrator import Calibrator
    from litert_quantizer.recipe_manager import RecipeManager

    rules = RecipeManager()
    rules.load_quantization_recipe(quantizer.get_quantization_recipe())
    calibrator = Calibrator(model)
    for example in examples:
        calibrator.calibrate({signature: [example]}, rules)
    statistics: dict[str, Any] = calibrator.get_model_qsvs()
    return statistics


def _as_statistics(graph: graphs.Graph, ranges: Ranges) -> dict[str, dict[str, Array]]:
    """Ranges as the quantizer's own calibration gives them: arrays of shape (1,) * ndim."""
    ndim = {tensor.name: len(tensor.shape) for tensor in graph.main.tensors}
    return {
        name: {"min": _shaped(low, ndim[name]), "max": _shaped(high, ndim[name])}
        for name, (low, high) in ranges.items()
    }


def _shaped(value: float, ndim: int) -> Array:
    return np.full((1,) * ndim, value, np.float32)


def _guarded(recipe: str, quantize: Callable[[], bytes], model: bytes) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern whoever wrote the library, not its user's user
            return quantize()
    except (EvaluationError, MemoryError):
        raise
    except Exception as error:  # the quantizer raises every kind
        told = not_prepared(str(error), graphs.read(model)) or f"{first_line(error)}; run with -v for more"
        raise ConversionError(f"the LiteRT Quantizer failed with recipe {recipe}: {told}") from error
