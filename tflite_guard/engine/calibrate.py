"""Activation ranges measured on the calibration data, and put into a flatbuffer. Loads no TensorFlow.

The converter's own calibrator is wrong where operators run in place (tensorflow/tensorflow#127842): an input that
shares its buffer with the output is logged again after the operator ran. Here all tensors are preserved.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tflite_guard.diagnosis.lab import LAYOUT
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.surgery import pack, unpack
from tflite_guard.errors import ConversionError, DataError

Array = npt.NDArray[Any]
T = TypeVar("T")
Ranges = dict[str, tuple[float, float]]
Limits = dict[int, tuple[float, float]]
"""Of activations by tensor index."""
THREADS = min(4, os.cpu_count() or 1)
"""Interpreters that measure ranges, each of which holds every activation."""
BINS = 8192
"""Of the histogram from which a percentile is read: its error is at most one bin, 0.012 % of the range."""


def measured_ranges(
    model: bytes, examples: Callable[[], Iterator[Mapping[str, Array]]], clip_percentile: float | None = None
) -> Ranges:
    """Each float activation's smallest and largest value over the examples, by tensor name.

    `examples` is called once, or twice with `clip_percentile`, which keeps the central so many percent of the
    values. Examples are what the model takes, by input name. Raises DataError where there are none or where no
    value is finite, ConversionError for a model without float activations.
    """
    graph = graphs.read(model)
    tensors = _activations(graph)
    if not tensors:
        raise ConversionError(
            "the model computes nothing in float, so there is nothing to quantize; leave this variant out, or name the "
            'file itself as "tflite"'
        )
    interpreters = [instrumented(model) for _ in range(THREADS)]

    def parts(look: Callable[[Iterator[dict[int, Array]]], T]) -> list[T]:
        """What each interpreter sees; whichever is free takes the next example."""
        shared = _Shared(examples())
        with ThreadPoolExecutor(len(interpreters)) as pool:
            return [*pool.map(lambda one: look(observations(one, graph, shared, tensors)), interpreters)]

    found = parts(_limits)
    if not any(count for count, _ in found):
        raise DataError("the calibration data has no examples; calibrate on a dataset that holds some")
    seen: Limits = {}
    for _, limits in found:
        _widen(seen, limits)
    if not seen:
        raise DataError(
            "on the calibration data the model computes nothing but NaN and infinity; correct the data, or its "
            '"preprocess"'
        )
    if clip_percentile is not None:
        counts = parts(lambda observed: _counts(observed, seen))
        whole = {index: np.sum([part[index] for part in counts], 0) for index in seen}
        seen = {index: _central(whole[index], pair, clip_percentile) for index, pair in seen.items()}
    return {name: seen[index] for index, name in tensors.items() if index in seen}


class _Shared:
    """An iterator that threads take turns at."""

    def __init__(self, items: Iterator[Mapping[str, Array]]) -> None:
        self._items = items
        self._turn = Lock()

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return self

    def __next__(self) -> Mapping[str, Array]:
        with self._turn:
            return next(self._items)


def _limits(observed: Iterable[Mapping[int, Array]]) -> tuple[int, Limits]:
    """How many examples were observed, and each activation's smallest and largest value."""
    limits: Limits = {}
    count = 0
    for values in observed:
        count += 1
        _widen(limits, {index: (float(value.min()), float(value.max())) for index, value in values.items()})
    return count, limits


def _widen(limits: Limits, others: Limits) -> None:
    """Make ranges hold others too."""
    for index, (low, high) in others.items():
        least, most = limits.get(index, (low, high))
        limits[index] = (min(least, low), max(most, high))


def instrumented(model: bytes) -> Interpreter:
    """An interpreter whose every tensor can be read after a call."""
    interpreter = Interpreter(
        model_content=model,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter


def _activations(graph: graphs.Graph) -> dict[int, str]:
    tensors = enumerate(graph.main.tensors)
    return {i: t.name for i, t in tensors if t.dtype == "float32" and not t.constant and not t.is_variable}


def observations(
    interpreter: Interpreter, graph: graphs.Graph, examples: Iterable[Mapping[str, Array]], tensors: Iterable[int]
) -> Iterator[dict[int, Array]]:
    """Each example's activations that are not empty; of one with NaN or infinity the finite values, flat."""
    inputs = graphs.input_indices(graph)
    state = graphs.has_state(graph)
    for example in examples:
        feed(interpreter, {inputs[name]: value for name, value in example.items()})
        if state:
            interpreter.reset_all_variables()
        interpreter.invoke()
        yield {index: value for index in tensors if (value := _value(interpreter, index)) is not None}


def first_not_finite(model: bytes, given: Mapping[int, Array]) -> tuple[str, str] | None:
    """The first result, in the order of execution, that holds NaN or infinity, and the type of what computes it.

    `given` are inputs by tensor index. None where it cannot be told, as with kernels that keep their values.
    """
    graph = graphs.read(model)
    try:
        interpreter = instrumented(model)
        feed(interpreter, given)
        interpreter.invoke()
    except (RuntimeError, ValueError):
        return None
    for op in graph.main.operators:
        for index in op.outputs:
            with contextlib.suppress(ValueError):
                values = interpreter.get_tensor(index)
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    return graph.main.tensors[index].name, op.type
    return None


def feed(interpreter: Interpreter, feeds: Mapping[int, Array]) -> None:
    """Give inputs by tensor index, which take the shapes of what they are given."""
    shapes = {d["index"]: tuple(d["shape"]) for d in interpreter.get_input_details()}
    changed = {index: value.shape for index, value in feeds.items() if shapes[index] != value.shape}
    for index, shape in changed.items():
        interpreter.resize_tensor_input(index, shape)
    if changed:
        interpreter.allocate_tensors()
    for index, value in feeds.items():
        interpreter.set_tensor(index, value)


def _value(interpreter: Interpreter, index: int) -> Array | None:
    try:
        value: Array = interpreter.get_tensor(index)
    except ValueError:  # a temporary that no operator has filled
        return None
    known = np.isfinite(value)
    if value.size and known.all():
        return value
    finite: Array = value[known]
    return finite if finite.size else None


def _counts(
    observed: Iterable[Mapping[int, Array]], limits: Mapping[int, tuple[float, float]]
) -> dict[int, npt.NDArray[np.int64]]:
    """A histogram of each activation over its range."""
    counts = {index: np.zeros(BINS, np.int64) for index in limits}
    for values in observed:
        for index, value in values.items():
            low, high = limits[index]
            if high > low:
                counts[index] += np.histogram(value, BINS, (low, high))[0]
    return counts


def _central(counts: npt.NDArray[np.int64], limits: tuple[float, float], percentile: float) -> tuple[float, float]:
    """The bin edges between which the central so many percent lie."""
    low, high = limits
    total = int(counts.sum())
    if total == 0:
        return limits
    edges = np.linspace(low, high, BINS + 1)
    tail = (100.0 - percentile) / 200.0 * total
    first = int(np.searchsorted(np.cumsum(counts), tail, side="right"))
    last = BINS - int(np.searchsorted(np.cumsum(counts[::-1]), tail, side="right"))
    return (float(edges[first]), float(edges[last])) if first < last else limits


def inject(model: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """The float flatbuffer with these ranges as its tensors' calibration results; other tensors keep theirs."""
    content = unpack(model)
    for tensor in content.subgraphs[0].tensors:
        limits = ranges.get(tensor.name.decode("utf-8", "replace"))
        if limits is not None:
            tensor.quantization = tensor.quantization or schema.QuantizationParametersT()
            tensor.quantization.min, tensor.quantization.max = [limits[0]], [limits[1]]
    return pack(content)


@lru_cache(maxsize=1)
def _read(model: bytes) -> graphs.Graph:
    """Experiments on what to leave in float share their file."""
    return graphs.read(model)


def without_ranges(model: bytes, float_nodes: Collection[str]) -> bytes:
    """The flatbuffer without ranges around operators of several results that are to stay in float.

    `float_nodes` are names of results. The converter finds an operator of one result by its name, and one of several by
    none; without ranges it leaves that in float, and what computes its input with it.
    """
    main = _read(model).main
    kept = {i for i, t in enumerate(main.tensors) if t.name in float_nodes}
    several = [op for op in main.operators if len(op.outputs) > 1 and kept & {*op.outputs}]
    if not several:
        return model
    content = unpack(model)
    unranged = {i for op in several for i in (*op.inputs, *op.outputs) if i >= 0}
    # The converter hands ranges on through operators that only move data, from their inputs, too.
    for op in reversed(main.operators):
        if unranged & {*op.outputs} and op.type in LAYOUT:
            unranged |= {i for i in op.inputs if i >= 0}
    for index in unranged:
        content.subgraphs[0].tensors[index].quantization = None
    return pack(content)
