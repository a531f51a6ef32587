"""Changes of a float model's constants that leave its function as it is, and let its tensors be quantized better.

Each is tried as an experiment: where the float outputs stay equal and the quantized ones come back, the cause is what
the rewrite removes. Equalization: Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias
Correction, section 4.1, here with the activations' ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tflite_guard.diagnosis.lab import Array, Arrays, Editable, Operator

LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
SHIFTS = ("ADD", "SUB")
"""Operators through which a positive factor passes where it is taken to their constant as well."""
CHANNELWISE = (
    "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "PADV2", "MIRROR_PAD", "MEAN", "SUM", "REDUCE_MAX", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "CONCATENATION",
)  # fmt: skip
"""Operators through which a positive factor for each channel of the last axis passes."""
RESHAPING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
"""Operators that keep the order of values."""
HOMOGENEOUS = ("NONE", "RELU")
"""Fused activations through which a positive factor passes."""
ARITHMETIC = ("ADD", "SUB", "MUL", "SELECT", "SELECT_V2", "MINIMUM", "MAXIMUM")
SMALLEST = 1e-3
"""Of the largest range: a channel with less is taken for dead."""


class ImpossibleError(Exception):
    """A factor cannot pass where it would have to."""


def equalized(model: Editable, tensor: str, channels: Array) -> list[Arrays]:
    """Constants with which the channels of a tensor are of more equal range; none where its neighbours forbid it.

    `channels` is (channels, 2), the range of each. First with one range for all, then with ranges and the weights that
    read them equal in proportion, so that neither side pays for channels that seldom fire.
    """
    sizes = np.abs(channels).max(1)
    alive = sizes > SMALLEST * sizes.max() * 1e-3
    weights = _read_with(model, tensor, len(sizes))
    if weights is None or alive.sum() < 2:
        return []
    # What reads a channel that never fires may have a weight of any size, which must not set the weights' scale.
    floor = sizes[alive].min()
    by_range = np.where(alive, sizes, floor)
    by_both = np.sqrt(by_range / np.where(weights > 0, weights, weights[weights > 0].min(initial=np.inf)))
    found = []
    for factors in (by_range, by_both):
        if np.isfinite(factors).all() and (changed := _rescaled(model, tensor, factors / factors.max())) is not None:
            found.append(changed)
    return found


def _read_with(model: Editable, tensor: str, width: int) -> Array | None:
    """The largest weight that reads each channel of a tensor, (width,); None where a factor cannot be undone."""
    reached: Arrays = {}
    try:
        for consumer in model.graph.consumers(tensor):
            _multiply(model, consumer, tensor, np.ones(width), reached)
    except ImpossibleError:
        return None
    largest = [np.abs(values.reshape(-1, width)).max(0) for values in reached.values()]
    return np.max(largest, axis=0) if largest else None


def branches_scaled(model: Editable, tensor: str, sizes: Mapping[str, float]) -> Arrays | None:
    """Constants with which the branches of a concatenation, `sizes` by name, have one range; None if impossible."""
    producer = model.graph.producer(tensor)
    if producer is None or producer.type != "CONCATENATION" or not all(name in sizes for name in producer.inputs):
        return None
    largest = max(sizes.values())
    if largest <= 0:
        return None
    widths = [model.width(name) for name in producer.inputs]
    each = [
        np.full(width, max(sizes[name], 1e-9) / largest) for name, width in zip(producer.inputs, widths, strict=True)
    ]
    return _rescaled(model, tensor, np.concatenate(each))


def _rescaled(model: Editable, tensor: str, factors: Array) -> Arrays | None:
    """Constants with which a tensor is divided by factors of its last axis, and what reads it undoes that."""
    changed: Arrays = {}
    try:
        _divide(model, tensor, factors, changed, alone=False)
        for consumer in model.graph.consumers(tensor):
            _multiply(model, consumer, tensor, factors, changed)
    except ImpossibleError:
        return None
    return {name: values.astype(np.float32) for name, values in changed.items()}


def _divide(model: Editable, tensor: str, factors: Array, changed: Arrays, *, alone: bool) -> None:
    """Divide a tensor at its source. `alone`: nothing but the operator that is come from may read it."""
    graph = model.graph
    producer = graph.producer(tensor)
    if producer is None or tensor in graph.outputs or (alone and len(graph.consumers(tensor)) > 1):
        raise ImpossibleError
    if producer.type in LINEAR and producer.activation in HOMOGENEOUS:
        weights, bias = _constants(producer)
        axis = -1 if producer.type == "DEPTHWISE_CONV_2D" else 0
        _scale(model, weights, 1 / factors, axis, changed)
        if bias is not None:
            _scale(model, bias, 1 / factors, 0, changed)
    elif producer.type == "CONCATENATION" and producer.activation in HOMOGENEOUS:
        starts = np.cumsum([0, *(model.width(name) for name in producer.inputs)])
        for name, start, end in zip(producer.inputs, starts, starts[1:], strict=False):
            _divide(model, name, factors[start:end], changed, alone=True)
    elif producer.type in SHIFTS and producer.activation in HOMOGENEOUS and len(producer.inputs) == 1:
        for name in producer.constants:
            _scale(model, name, 1 / factors, -1, changed)
        _divide(model, producer.inputs[0], factors, changed, alone=True)
    elif _carries(model, producer, len(factors)):
        _divide(model, producer.inputs[0], factors, changed, alone=True)
    else:
        raise ImpossibleError


def _multiply(model: Editable, consumer: Operator, tensor: str, factors: Array, changed: Arrays) -> None:
    """Undo a division in what reads the tensor."""
    if consumer.type in LINEAR and consumer.inputs[:1] == (tensor,):
        weights, _ = _constants(consumer)
        _scale(model, weights, factors, -1, changed)
    elif _passes(consumer) and not set(consumer.outputs) & set(model.graph.outputs):
        result = consumer.outputs[0]
        if model.width(result) % len(factors):
            raise ImpossibleError
        # Flattened, the channels come again at each position.
        repeated = np.tile(factors, model.width(result) // len(factors))
        for reader in model.graph.consumers(result):
            _multiply(model, reader, result, repeated, changed)
    else:
        raise ImpossibleError


def _carries(model: Editable, producer: Operator, width: int) -> bool:
    """Whether each channel of an operator's result comes from the same channel of what it reads."""
    return _passes(producer) and model.width(producer.inputs[0]) == width


def _passes(operator: Operator) -> bool:
    """Whether a positive factor for each channel of its input is one of its output's channels too."""
    channelwise = operator.type in CHANNELWISE and operator.type != "CONCATENATION"
    return operator.activation in HOMOGENEOUS and (channelwise or operator.type in RESHAPING)


def _constants(operator: Operator) -> tuple[str, str | None]:
    """The names of a linear operator's weights and bias."""
    if not operator.constants:
        raise ImpossibleError
    return operator.constants[0], operator.constants[1] if len(operator.constants) > 1 else None


def _scale(model: Editable, name: str, factors: Array, axis: int, changed: Arrays) -> None:
    values = changed.get(name)
    if values is None:
        values = model.constant(name).astype(np.float64)
    if values.shape[axis] != len(factors):
        raise ImpossibleError
    shape = [1] * values.ndim
    shape[axis] = -1
    changed[name] = values * factors.reshape(shape)


def composed(model: Editable, changes: Sequence[Mapping[str, Array]]) -> Arrays:
    """Several changes of constants at once: each is a factor of its constants, and factors multiply."""
    constants: Arrays = {}
    for name, values in ((name, values) for one in changes for name, values in one.items()):
        own = model.constant(name).astype(np.float64)
        factor = np.divide(values, own, out=np.ones_like(own), where=own != 0)
        constants[name] = constants.get(name, own) * factor
    return {name: values.astype(np.float32) for name, values in constants.items()}


def clipped_weights(model: Editable, operator: Operator, ratio: float) -> Arrays | None:
    """Weights of which none is larger than so many times the 95th percentile of its channel; None if none is."""
    if operator.type not in LINEAR or not operator.constants:
        return None
    values = model.constant(operator.constants[0]).astype(np.float64)
    if values.ndim < 2:
        return None
    first = np.moveaxis(values, -1 if operator.type == "DEPTHWISE_CONV_2D" else 0, 0)
    flat = np.abs(first.reshape(len(first), -1))
    usual = np.percentile(flat, 95, axis=1, method="lower")
    limit = np.where(usual > 0, usual * ratio, np.inf).reshape([-1] + [1] * (first.ndim - 1))
    clipped = np.clip(first, -limit, limit)
    if np.array_equal(clipped, first):
        return None
    back = np.moveaxis(clipped, 0, -1 if operator.type == "DEPTHWISE_CONV_2D" else 0)
    return {operator.constants[0]: np.ascontiguousarray(back, np.float32)}


def large_constants(model: Editable, beyond: float) -> Iterator[tuple[Operator, str, float]]:
    """Constants of arithmetic that hold a value beyond a limit: the operator, its name and the value."""
    for operator in model.graph.operators:
        for name in operator.constants if operator.type in ARITHMETIC else ():
            values = model.constant(name)
            if values.size and float(np.abs(values).max()) >= beyond:
                yield operator, name, float(values.flat[int(np.abs(values).argmax())])
