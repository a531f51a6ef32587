"""One operator of a float model and of a file that was made from it, each as a model of its own, with their inputs.

The quantized one is given the integers that the float one's inputs come to, so that what differs is the operator's own.
Loads no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from tflite_guard.datasets.arrays import write_npz
from tflite_guard.diagnosis.evidence import decibels
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.calibrate import feed, instrumented
from tflite_guard.engine.lab import integer_holders
from tflite_guard.engine.refusals import first_line
from tflite_guard.engine.surgery import activations, operator_alone, with_float32_constants
from tflite_guard.engine.tflite import Port, dequantize, quantize
from tflite_guard.errors import ConversionError
from tflite_guard.protocol import OperatorPort, SavedOperator

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class _Half:
    """The operator in one of the two files."""

    content: bytes
    graph: graphs.Subgraph
    place: int
    """Which of the operators."""

    @property
    def operator(self) -> graphs.Operator:
        return self.graph.operators[self.place]

    @property
    def inputs(self) -> list[int]:
        """Tensors whose values come from elsewhere."""
        return activations(self.graph, self.operator.inputs)

    @property
    def outputs(self) -> list[int]:
        return activations(self.graph, self.operator.outputs)

    def port(self, index: int) -> Port:
        tensor = self.graph.tensors[index]
        scaled = tensor.scale.size == 1
        scale, zero = (float(tensor.scale[0]), int(tensor.zero_point[0])) if scaled else (0.0, 0)
        return Port(index, tensor.shape_signature, tensor.dtype, scale, zero)


def save_operator(
    float32: bytes, quantized: bytes, tensor: str, examples: Iterable[Mapping[str, Array]], folder: str
) -> SavedOperator:
    """Write the operator that computes a tensor into a folder, out of both files, with what it reads and gives.

    Args:
        float32: the float model.
        quantized: the file that was made from it.
        tensor: what the quantized file calls the tensor.
        examples: inputs of the float model by name, each as it takes one.
        folder: where the files go.

    Raises:
        ConversionError: the two files have no operator that corresponds, or it cannot run by itself.
    """
    exact, own = _halves(with_float32_constants(float32), quantized, tensor)
    seen = _seen(exact, examples)
    given = [values[index] for values in seen for index in exact.inputs]
    per = len(exact.inputs)
    stacked = [np.stack(given[place::per]) for place in range(per)]
    shapes = [values.shape[1:] for values in stacked]
    results = [seen[0][index].shape for index in exact.outputs]
    ports = [own.port(index) for index in own.inputs]
    integers = [quantize(v, port) if port.quantized else v for v, port in zip(stacked, ports, strict=True)]
    models = [_alone(half, shapes, results) for half in (exact, own)]
    floats, codes = (_outputs(model, inputs) for model, inputs in zip(models, (stacked, integers), strict=True))
    if not all(np.isfinite(values).all() for values in floats):
        raise ConversionError(f"the float operator that computes {tensor} gives NaN or infinity")
    for name, model in zip(("operator.tflite", "operator_int8.tflite"), models, strict=True):
        Path(folder, name).write_bytes(model)
    for name, sides in (("inputs.npz", (stacked, integers)), ("outputs.npz", (floats, codes))):
        kinds = zip(("float", "quantized"), sides, strict=True)
        write_npz(Path(folder, name), {f"{kind}_{i}": v for kind, side in kinds for i, v in enumerate(side)})
    place = [own.graph.tensors[index].name for index in own.outputs].index(tensor)
    port = own.port(own.outputs[place])
    reals = dequantize(codes[place], port).astype(np.float64)
    error = reals - floats[place]
    return SavedOperator(
        type=own.operator.type,
        tensor=tensor,
        float_tensor=exact.graph.tensors[exact.outputs[place]].name,
        version=own.operator.version,
        float_version=exact.operator.version,
        examples=len(stacked[0]),
        output=place,
        step=port.scale,
        sqnr=decibels(float(np.square(floats[place].astype(np.float64)).sum()), float(np.square(error).sum())),
        max_error=float(np.abs(error).max(initial=0.0)),
        inputs=tuple(_told(own, index, shape) for index, shape in zip(own.inputs, shapes, strict=True)),
        outputs=tuple(_told(own, index, shape) for index, shape in zip(own.outputs, results, strict=True)),
    )


def _halves(float32: bytes, quantized: bytes, tensor: str) -> tuple[_Half, _Half]:
    exact, own = graphs.read(float32).main, graphs.read(quantized).main
    theirs = _producer(own, {i for i, t in enumerate(own.tensors) if t.name == tensor})
    holders = integer_holders(own, exact)
    names = {name for name, index in holders.items() if own.tensors[index].name == tensor}
    ours = _producer(exact, {i for i, t in enumerate(exact.tensors) if t.name in names})
    if theirs is None or ours is None:
        raise ConversionError(f"no operator of both files computes {tensor}")
    halves = _Half(float32, exact, ours), _Half(quantized, own, theirs)
    kinds = [(one.operator.type, len(one.inputs), len(one.outputs)) for one in halves]
    if kinds[0] != kinds[1] or not kinds[0][1]:
        told = " and ".join(f"{kind} of {count} inputs" for kind, count, _ in kinds)
        raise ConversionError(f"the operators that compute {tensor} do not correspond: {told}")
    return halves


def _producer(graph: graphs.Subgraph, wanted: set[int]) -> int | None:
    return next((place for place, op in enumerate(graph.operators) if wanted & {*op.outputs}), None)


def _seen(half: _Half, examples: Iterable[Mapping[str, Array]]) -> list[dict[int, Array]]:
    """What the operator reads and gives in its own graph, by tensor index, for each example."""
    found: list[dict[int, Array]] = []
    whole = graphs.read(half.content)
    names, state = graphs.input_indices(whole), graphs.has_state(whole)
    interpreter = instrumented(half.content)
    shapes: set[tuple[tuple[int, ...], ...]] = set()
    for example in examples:
        shapes.add(tuple(value.shape for value in example.values()))
        if len(shapes) > 1:
            break  # what is saved is of one shape
        if not names.keys() >= example.keys():
            raise ConversionError(f"the float model calls its inputs {', '.join(names)}, not {', '.join(example)}")
        feed(interpreter, {names[name]: value for name, value in example.items()})
        if state:
            interpreter.reset_all_variables()
        interpreter.invoke()
        found.append({index: interpreter.get_tensor(index) for index in (*half.inputs, *half.outputs)})
    return found


def _alone(half: _Half, inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> bytes:
    indices = (*half.inputs, *half.outputs)
    return operator_alone(half.content, half.place, dict(zip(indices, (*inputs, *outputs), strict=True)))


def _outputs(model: bytes, inputs: Sequence[Array]) -> list[Array]:
    """What a model gives for each example, (n, …) an output. Raises ConversionError where LiteRT cannot run it."""
    try:
        runs = [*_runs(model, inputs)]
    except (ValueError, RuntimeError) as error:
        raise ConversionError(f"the operator cannot run by itself: {first_line(error)}") from error
    return [np.stack(values) for values in zip(*runs, strict=True)]


def _runs(model: bytes, inputs: Sequence[Array]) -> Iterator[list[Array]]:
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    for row in range(len(inputs[0])):
        interpreter.reset_all_variables()
        for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(detail["index"], values[row])
        interpreter.invoke()
        yield [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def _told(half: _Half, index: int, shape: Sequence[int]) -> OperatorPort:
    port = half.port(index)
    return OperatorPort(half.graph.tensors[index].name, port.dtype, tuple(map(int, shape)), port.scale, port.zero_point)
