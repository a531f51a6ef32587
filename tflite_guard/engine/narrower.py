"""Float models that compute what narrower numbers would give: rungs of a diagnosis's ladder that run as fast as floats.

Each differs from the float model in one thing, so that what a rung loses is that thing's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tflite_guard.diagnosis.causes.conversion import LARGEST_FLOAT16
from tflite_guard.diagnosis.lab import Ranges
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.float_file import FloatFile
from tflite_guard.engine.surgery import pack, unpack, with_buffer
from tflite_guard.engine.weights import products

Array = npt.NDArray[Any]
STEPS = 32767
"""Of 16 bits from zero to the largest value."""


def float16(file: FloatFile) -> bytes:
    """The model with its constants rounded to float16; what lies beyond is clamped, as the converter does it."""
    return file.with_constants(
        {
            name: np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16).astype(np.float32)
            for name, values in file.constants.items()
        }
    )


def weights(file: FloatFile) -> bytes:
    """The model with its weights rounded to 8 bits, a scale for each output channel."""
    return file.with_constants({file.read.main.tensors[i].name: values for i, values in _rounded_weights(file).items()})


def twins(file: FloatFile) -> tuple[bytes, dict[str, str]]:
    """The model with a twin beside each operator with weights, which reads the same inputs and weights of 8 bits.

    What a twin gives differs from what its operator gives by its own weights alone. By the name of the one result, the
    name of the other.
    """
    content, rounded = unpack(file.content), _rounded_weights(file)
    raw, named, operators = content.subgraphs[0], {}, []

    def copied(index: int, values: Array | None) -> int:
        tensor = copy.copy(raw.tensors[index])
        tensor.name += b"/8-bit weights"
        if values is not None:
            tensor.buffer = with_buffer(content, values)
        raw.tensors.append(tensor)
        return len(raw.tensors) - 1

    for read, operator in zip(file.read.main.operators, raw.operators, strict=True):
        operators.append(operator)
        if read.type in graphs.PRODUCTS and len(read.inputs) > 1 and read.inputs[1] in rounded:
            twin, (result, *_) = copy.copy(operator), read.outputs
            own = copied(read.inputs[1], rounded[read.inputs[1]])
            twin.inputs = [read.inputs[0], own, *read.inputs[2:]]
            twin.outputs = [copied(result, None)]
            named[file.read.main.tensors[result].name] = raw.tensors[-1].name.decode("utf-8", "replace")
            operators.append(twin)
    raw.operators = operators
    return pack(content), named


def int16x8(file: FloatFile, ranges: Ranges) -> bytes | None:
    """The model with 8-bit weights whose activations are rounded to 16 bits of these ranges, and clipped to them.

    The real int16x8 kernels take a hundred times as long (a ResNet8: 4.6 ms an example, 0.05 ms in int8). None of a
    model with loops or branches, whose activations are in graphs of their own.
    """
    return None if len(file.read.subgraphs) > 1 else _rounding_activations(weights(file), ranges)


def _rounding_activations(model: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    read, content = graphs.read(model).main, unpack(model)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FAKE_QUANT
    content.operatorCodes.append(code)
    raw = content.subgraphs[0]
    largest = {
        i: max(map(abs, ranges[t.name]))
        for i, t in enumerate(read.tensors)
        if t.dtype == "float32" and not t.constant and not t.is_variable and t.name in ranges
    }
    largest = {i: value for i, value in largest.items() if 0 < value < np.inf}

    def copied(index: int) -> int:
        tensor = copy.copy(raw.tensors[index])
        tensor.name += b"/16 bits"
        raw.tensors.append(tensor)
        return len(raw.tensors) - 1

    def rounding(source: int, result: int, end: float) -> Any:
        options = schema.FakeQuantOptionsT()
        options.min, options.max, options.numBits = -end * (STEPS + 1) / STEPS, end, 16
        operator = schema.OperatorT()
        operator.opcodeIndex = len(content.operatorCodes) - 1
        operator.inputs, operator.outputs = [source], [result]
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.FakeQuantOptions, options
        return operator

    # What is computed keeps its place for all that reads it, signatures too; what is fed keeps it for who feeds it.
    fed = {i: copied(i) for i in read.inputs if i in largest}
    operators = [rounding(i, own, largest[i]) for i, own in fed.items()]
    for operator in raw.operators:
        results = [int(i) for i in operator.outputs]
        exact = {i: copied(i) for i in results if i in largest}
        operator.inputs = [fed.get(int(i), int(i)) for i in operator.inputs]
        operator.outputs = [exact.get(i, i) for i in results]
        operators += [operator, *(rounding(own, i, largest[i]) for i, own in exact.items())]
    raw.operators = operators
    return pack(content)


def _rounded_weights(file: FloatFile) -> dict[int, Array]:
    """The constants that operators multiply with, by index, rounded to 8 bits, a scale for each output channel."""
    named = {one.inputs[1]: (file.read.main.tensors[one.inputs[1]].name, one.type) for one in products(file.read.main)}
    return {
        index: _rounded(file.constants[name], -1 if kind == "DEPTHWISE_CONV_2D" else 0)
        for index, (name, kind) in named.items()
        if name in file.constants
    }


def _rounded(values: Array, axis: int) -> Array:
    axes = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    scale = np.abs(values).max(axis=axes, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale)
    rounded: Array = (np.rint(values / scale) * scale).astype(np.float32)
    return rounded
