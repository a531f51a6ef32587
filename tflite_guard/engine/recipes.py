"""Quantization by recipes of the AI Edge Quantizer, from a float .tflite. Loads no TensorFlow."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tflite_guard.engine import feeds
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.calibrate import Ranges, measured_ranges, pack
from tflite_guard.engine.tflite import first_line
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

    Its own calibration smooths ranges over the examples; `measured` ranges, and files without a signature, which
    its calibration cannot read, get each tensor's true range. Raises ConversionError.
    """
    quantizer_module = _imported()
    prepared = _with_builtin_codes(model)
    rules = _rules(recipe) + _float_rules(graphs.read(prepared), keep_float)
    return _guarded(
        recipe, lambda: _quantized(quantizer_module.Quantizer(prepared, rules), prepared, recipe, calibration, options)
    )


def _imported() -> Any:
    try:
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        message = "recipes need the AI Edge Quantizer: pip install 'tflite-guard[recipes]'"
        raise ConversionError(message, "missing-package") from error
    return quantizer


def _with_builtin_codes(model: bytes) -> bytes:
    """The model with `builtinCode` set everywhere: where only the older field is, biases would come out invalid."""
    content = schema.ModelT.InitFromPackedBuf(model)
    stale = [c for c in content.operatorCodes if c.builtinCode < c.deprecatedBuiltinCode]
    for code in stale:
        code.builtinCode = code.deprecatedBuiltinCode
    return pack(content) if stale else model


def _rules(recipe: str) -> Recipe:
    if recipe in RECIPES:
        from ai_edge_quantizer import recipe as recipes

        rules: Recipe = getattr(recipes, recipe)()
        return rules
    try:
        loaded = json.loads(Path(recipe).read_bytes())
    except (OSError, ValueError) as error:
        raise ConversionError(f"{recipe} cannot be read as a recipe ({first_line(error)})") from error
    if not isinstance(loaded, list) or not all(isinstance(rule, dict) for rule in loaded):
        raise ConversionError(
            f"{recipe} is no recipe: it must be a list of rules, as Quantizer.get_quantization_recipe gives"
        )
    return loaded


def _float_rules(graph: graphs.Graph, keep_float: Sequence[str]) -> Recipe:
    names = graphs.resolve_keep_float(graph, keep_float)
    rule = {"operation": "*", "algorithm_key": "no_quantize", "op_config": {}}
    return [{"regex": f"^{re.escape(name)};?$", **rule} for name in names]


def _quantized(
    quantizer: Any, model: bytes, recipe: str, calibration: Calibration | None, options: CalibrationOptions
) -> bytes:
    ranges = _ranges(quantizer, model, recipe, calibration, options) if quantizer.need_calibration else None
    return bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)


def _ranges(
    quantizer: Any, model: bytes, recipe: str, calibration: Calibration | None, options: CalibrationOptions
) -> Any:
    if calibration is None:
        raise ConversionError(
            f"recipe {recipe} needs calibration data; name a dataset as calibration", "no-calibration"
        )
    graph = graphs.read(model)
    key = next(iter(graph.signatures), None)
    if key is None or options.ranges == "measured" or options.clip_percentile is not None:
        examples = lambda: _samples(graph, calibration, options)  # noqa: E731
        return _as_statistics(graph, measured_ranges(model, examples, options.clip_percentile))
    return quantizer.calibrate({key: list(_samples(graph, calibration, options))})


def _samples(graph: graphs.Graph, calibration: Calibration, options: CalibrationOptions) -> Iterator[dict[str, Array]]:
    tensors = {name: graph.main.tensors[index] for name, index in graphs.input_indices(graph).items()}
    inputs = {name: TensorInfo(tensor.shape_signature, tensor.dtype) for name, tensor in tensors.items()}
    return feeds.calibration_examples(calibration(), inputs, options.samples)


def _as_statistics(graph: graphs.Graph, ranges: Ranges) -> dict[str, dict[str, Array]]:
    """Ranges as the quantizer's own calibration gives them: arrays of shape (1,) * ndim."""
    ndim = {tensor.name: len(tensor.shape) for tensor in graph.main.tensors}
    return {
        name: {"min": _shaped(low, ndim[name]), "max": _shaped(high, ndim[name])}
        for name, (low, high) in ranges.items()
    }


def _shaped(value: float, ndim: int) -> Array:
    return np.full((1,) * ndim, value, np.float32)


def _guarded(recipe: str, quantize: Callable[[], bytes]) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern whoever wrote the library, not its user's user
            return quantize()
    except EvaluationError:
        raise
    except Exception as error:  # the quantizer raises every kind
        raise ConversionError(f"the AI Edge Quantizer failed with recipe {recipe}: {first_line(error)}") from error
