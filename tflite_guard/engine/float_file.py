"""A float flatbuffer as diagnoses and equalization work on it: its graph, its constants, and copies with others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_guard.diagnosis import evidence, rewrites
from tflite_guard.diagnosis.lab import FloatGraph, Operator
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.calibrate import instrumented, observations
from tflite_guard.engine.surgery import pack, unpack, with_buffer
from tflite_guard.engine.weights import float_constants
from tflite_guard.errors import ConversionError

Array = npt.NDArray[Any]
Examples = Callable[[], Iterator[Mapping[str, Array]]]
"""Calls give single examples by input name, as the model takes them."""
MOST_COMPARED = 8
"""Examples on which an equalized model's outputs are compared with its own."""
MOST_LOOKED_AT = 64
"""Examples that the factors of channels are taken on; the ranges that they then have are measured on all."""


class FloatFile:
    """A float model in memory."""

    def __init__(self, content: bytes, examples: Examples) -> None:
        self.content = content
        self.examples = examples
        self._edited: tuple[Mapping[str, Array], bytes] = ({}, content)

    @cached_property
    def read(self) -> graphs.Graph:
        """The file as it is written."""
        return graphs.read(self.content)

    @cached_property
    def graph(self) -> FloatGraph:
        """The activations and operators of the first subgraph."""
        main = self.read.main
        named = {i: t.name for i, t in enumerate(main.tensors) if t.dtype == "float32" and t.name}
        active = {i: name for i, name in named.items() if not main.tensors[i].constant}
        operators = []
        for one in main.operators:
            constants = tuple(named[i] for i in one.inputs if i in named and i not in active)
            inputs, outputs = (tuple(active[i] for i in side if i in active) for side in (one.inputs, one.outputs))
            operators.append(Operator(one.type, inputs, outputs, constants, one.activation))
        starts, ends = (tuple(active[i] for i in side if i in active) for side in (main.inputs, main.outputs))
        return FloatGraph(starts, ends, tuple(operators))

    @cached_property
    def constants(self) -> dict[str, Array]:
        """The float constants by name."""
        return float_constants(self.content, self.read.main)

    def constant(self, name: str) -> Array:
        """A constant by name. Raises KeyError where there is none."""
        return self.constants[name]

    def width(self, tensor: str) -> int:
        """The length of an activation's last axis, as it is when it runs: a file may leave it open."""
        return self._widths[tensor]

    @cached_property
    def _widths(self) -> dict[str, int]:
        values = next(self.observed(self.graph.activations, self.examples()))
        return {name: value.shape[-1] if value.ndim else 1 for name, value in values.items()}

    def observed(self, names: Iterable[str], examples: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
        """Each example's values of some activations; of those with NaN or infinity the finite ones, flat."""
        wanted = set(names)
        tensors = {i: t.name for i, t in enumerate(self.read.main.tensors) if t.name in wanted and not t.constant}
        for values in observations(instrumented(self.content), self.read, examples, tensors):
            yield {tensors[index]: value for index, value in values.items()}

    def with_constants(self, constants: Mapping[str, Array]) -> bytes:
        """The file with some of its constants replaced."""
        if not constants:
            return self.content
        if self._edited[0] is not constants:
            # An experiment runs, measures and quantizes the same change.
            self._edited = (constants, self._with(constants))
        return self._edited[1]

    def _with(self, constants: Mapping[str, Array]) -> bytes:
        content = unpack(self.content)
        for read, raw in zip(self.read.main.tensors, content.subgraphs[0].tensors, strict=True):
            if read.constant and read.name in constants:
                raw.buffer = with_buffer(content, constants[read.name])
        return pack(content)


def equalized(file: FloatFile, patterns: Sequence[str]) -> FloatFile:
    """The model with the channels of some activations, and the weights that read them, of more equal range.

    Its outputs stay as they are. `patterns` are those of `keep_float`. Raises ConversionError for a pattern that
    matches nothing, or nothing that can be equalized.
    """
    if not patterns:
        return file
    given = file
    matched = {pattern: graphs.matched_tensors(file.read, pattern, "equalize") for pattern in patterns}
    channels: dict[str, Array] = {}
    wanted = [name for names in matched.values() for name in names]
    for values in file.observed(wanted, islice(file.examples(), MOST_LOOKED_AT)):
        for name, value in values.items():
            rows = value.reshape(-1, value.shape[-1] if value.ndim else 1)
            ends = np.stack([rows.min(0), rows.max(0)], 1)
            seen = channels.get(name, ends)
            channels[name] = np.stack([np.minimum(seen[:, 0], ends[:, 0]), np.maximum(seen[:, 1], ends[:, 1])], 1)
    rescaled: set[frozenset[str]] = set()
    for pattern, names in matched.items():
        done = False
        for name in names:
            changes = rewrites.equalized(file, name, channels[name]) if name in channels else []
            if not changes:
                continue
            done, constants = True, frozenset(changes[-1])
            if constants not in rescaled:  # else it is the same values, behind a pooling, and equal by now
                file = FloatFile(file.with_constants(changes[-1]), file.examples)
                rescaled.add(constants)
        if not done:
            raise ConversionError(
                f'equalize: "{pattern}" cannot be equalized: what computes it and all that reads it must be '
                "convolutions or dense layers, with nothing between but ReLU, pooling, padding, resizing, reshapes and "
                "biases"
            )
    if not _are_alike(given, file):
        raise ConversionError(f"equalize: with {', '.join(patterns)} equalized the float outputs change; leave it out")
    return file


def _are_alike(one: FloatFile, other: FloatFile) -> bool:
    """Whether two files of one graph have the same outputs on a few examples, but for rounding."""
    sides = (file.observed(file.graph.outputs, islice(file.examples(), MOST_COMPARED)) for file in (one, other))
    pairs = {
        f"{name} of {index}": (exact[name], values[name])
        for index, (exact, values) in enumerate(zip(*sides, strict=True))
        for name in exact.keys() & values.keys()
        if exact[name].shape == values[name].shape
    }
    reference, outputs = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    return evidence.same_function(outputs, reference)
