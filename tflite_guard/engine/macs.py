"""Multiply-accumulates of a .tflite, from its graph: the usual measure of what a microcontroller has to compute."""

from __future__ import annotations

from math import prod

from tflite_guard.engine.graph import Graph, Operator, Tensor
from tflite_guard.errors import EvaluationError

COUNTED = frozenset({"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})
LOOPS = ("WHILE", "IF")
RECURRENT = frozenset(
    {
        "LSTM",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "RNN",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "SVDF",
    }
)


def macs(graph: Graph, path: str) -> int:
    """Of one call, with the shapes that the file has (a batch of 1 where it leaves the batch open).

    Counted are convolutions, matrix products and recurrent layers, each product of an input and a weight once; adding a
    bias, pooling and what works element by element count nothing. Raises EvaluationError of kind `macs` where the file
    does not tell: behind a loop, and with shapes that are known at run time alone.
    """
    total = 0
    for operator in graph.main.operators:
        if operator.type in LOOPS:
            raise EvaluationError(
                "macs", f"{path}: how often {operator.type} runs is not in the file; remove the metric"
            )
        total += _of_operator(operator, graph.main.tensors, path)
    return total


def _of_operator(operator: Operator, tensors: tuple[Tensor, ...], path: str) -> int:
    if operator.type not in COUNTED | RECURRENT:
        return 0
    inputs = [tensors[index] for index in operator.inputs if index >= 0]
    data, weights, results = inputs[0], inputs[1].shape, _size(tensors[operator.outputs[0]], path)
    match operator.type:
        case "CONV_2D":  # its filters are (out, height, width, in)
            return results * prod(weights[1:])
        case "CONV_3D":  # (depth, height, width, in, out)
            return results * prod(weights[:-1])
        case "DEPTHWISE_CONV_2D":  # (1, height, width, out)
            return results * prod(weights[1:3])
        case "FULLY_CONNECTED":  # (out, in)
            return results * weights[-1]
        case "TRANSPOSE_CONV":  # (out, height, width, in), and each value of its third input meets all of them
            return _size(inputs[2], path) * prod(weights[:3])
        case "BATCH_MATMUL":  # either matrix may be stored transposed
            return results * prod(data.shape[-2:]) // tensors[operator.outputs[0]].shape[-2]
    steps = _size(data, path) // data.shape[-1]
    return steps * sum(prod(one.shape) for one in inputs[1:] if one.constant and len(one.shape) == 2)


def _size(tensor: Tensor, path: str) -> int:
    if None in tensor.shape_signature[1:]:
        raise EvaluationError(
            "macs",
            f"{path}: the size of {tensor.name!r} is known at run time alone; fix it with input_shapes, or remove the "
            "metric",
        )
    return prod(tensor.shape)
