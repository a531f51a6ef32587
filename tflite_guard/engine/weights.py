"""The weights of a converted file beside those of the float model that it should have been made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_guard.engine import graph as graphs
from tflite_guard.engine.surgery import unpack
from tflite_guard.engine.tflite import Model

Array = npt.NDArray[Any]
STORED = {"int8": "i1", "uint8": "u1", "float16": "<f2", "float32": "<f4"}


@dataclass(frozen=True)
class Pair:
    """A float model and a file, whose operators with weights are paired in order."""

    exact: graphs.Subgraph
    constants: Mapping[str, Array]
    """The float model's, by name."""
    model: Model

    def alike(self) -> float | None:
        """The smallest cosine of the file's weights with the float model's, of the median output channel."""
        cosines = [
            _cosine(np.moveaxis(exact, axis, 0), np.moveaxis(values, axis, 0))
            for own, _, exact, values in self._weights
            for axis in [-1 if own.type == "DEPTHWISE_CONV_2D" else 0]
        ]
        return min(cosines, default=None)

    def steps_apart(self) -> float | None:
        """The largest difference of the file's weights from the float model's, in the file's own steps."""
        steps = (_steps(tensor, exact, values) for _, tensor, exact, values in self._weights if tensor.scale.size)
        return max(steps, default=None)

    @cached_property
    def _weights(self) -> list[tuple[graphs.Operator, graphs.Tensor, Array, Array]]:
        return [*self._paired()]

    def _paired(self) -> Iterator[tuple[graphs.Operator, graphs.Tensor, Array, Array]]:
        """Each float operator with the file's tensor of weights, and the weights of both; nothing where they differ."""
        theirs = self.model.graph.main
        pairs = [products(self.exact), products(theirs)]
        if [op.type for op in pairs[0]] != [op.type for op in pairs[1]]:
            return
        stored = _stored(self.model)
        for own, other in zip(*pairs, strict=True):
            exact, values = self.constants.get(self.exact.tensors[own.inputs[1]].name), stored.get(other.inputs[1])
            if exact is not None and values is not None and exact.shape == values.shape:
                yield own, theirs.tensors[other.inputs[1]], exact, values


def products(subgraph: graphs.Subgraph) -> list[graphs.Operator]:
    """The operators that multiply with constants."""
    return [
        op
        for op in subgraph.operators
        if op.type in graphs.PRODUCTS and len(op.inputs) > 1 and subgraph.tensors[op.inputs[1]].constant
    ]


def float_constants(model: bytes, subgraph: graphs.Subgraph) -> dict[str, Array]:
    """A float model's constants by name."""
    content = unpack(model)
    found = {}
    for read, raw in zip(subgraph.tensors, content.subgraphs[0].tensors, strict=True):
        data = content.buffers[raw.buffer].data
        if read.constant and read.dtype == "float32" and data is not None:
            found[read.name] = np.frombuffer(bytes(data), "<f4").reshape(read.shape)
    return found


def _stored(model: Model) -> dict[int, Array]:
    """A model's constants of floats and of 8-bit integers, by index, as float32; integers less their zero point."""
    content = unpack(model.file_bytes())
    found = {}
    for index, (read, raw) in enumerate(zip(model.graph.main.tensors, content.subgraphs[0].tensors, strict=True)):
        data = content.buffers[raw.buffer].data
        if read.constant and read.dtype in STORED and data is not None:
            values = np.frombuffer(bytes(data), STORED[read.dtype]).reshape(read.shape).astype(np.float32)
            found[index] = values - np.float32(read.zero_point[0]) if read.scale.size == 1 else values
    return found


def _steps(tensor: graphs.Tensor, exact: Array, integers: Array) -> float:
    shape = [1] * exact.ndim
    shape[tensor.quantized_dimension] = -1
    scale = tensor.scale.reshape(shape) if tensor.scale.size > 1 else tensor.scale[0]
    return float(np.max(np.abs(integers - exact / np.where(scale == 0, 1, scale))))


def _cosine(one: Array, other: Array) -> float:
    """The median over output channels, the first axis, of the cosines of their weights."""
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (one, other))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.median((a * b).sum(1) / np.where(norms > 0, norms, np.inf)))
