"""Changes to a flatbuffer that leave what it computes as it is. Loads no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tflite_guard.engine import graph as graphs
from tflite_guard.errors import ConversionError, ModelFileError

TENSOR_LISTS = ("inputs", "outputs", "intermediates")
"""Where a subgraph (the first two) and an operator name tensors."""


def unpack(model: bytes) -> Any:
    """A flatbuffer's object form, to be changed and packed again. Raises ModelFileError for a damaged one."""
    try:
        return schema.ModelT.InitFromPackedBuf(model)
    except graphs.MALFORMED as error:
        raise ModelFileError("the float .tflite is damaged (truncated or altered); convert or copy it again") from error


def pack(content: Any) -> bytes:
    """A flatbuffer from its object form."""
    builder = flatbuffers.Builder(1 << 20)
    try:
        builder.Finish(content.Pack(builder), graphs.IDENTIFIER)
    except (flatbuffers.builder.BuilderSizeError, MemoryError) as error:
        raise ConversionError("the model is too large for a flatbuffer (2 GB)") from error
    return bytes(builder.Output())


def with_buffer(content: Any, values: npt.NDArray[Any]) -> int:
    """The index of a new buffer with these values as float32: equal constants may share one, and only one changes."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values, "<f4").tobytes(), np.uint8)
    content.buffers.append(buffer)
    return len(content.buffers) - 1


def with_builtin_codes(model: bytes) -> bytes:
    """The model with `builtinCode` set everywhere; files of old converters set only the older, narrower field."""
    content = unpack(model)
    stale = [c for c in content.operatorCodes if c.builtinCode < c.deprecatedBuiltinCode]
    for code in stale:
        code.builtinCode = code.deprecatedBuiltinCode
    return pack(content) if stale else model


def with_float32_constants(model: bytes) -> bytes:
    """The model with its float16 constants, each dequantized by an operator, as float32 constants instead.

    No quantizer looks for weights behind such an operator. The outputs stay the same, bit for bit, since float32
    holds every float16. Raises ModelFileError for constants that are not as long as their shapes say.
    """
    read = graphs.read(model)
    if not any(_widens(op, sub) for sub in read.subgraphs for op in sub.operators):
        return model
    content = unpack(model)
    for index, (sub, raw) in enumerate(zip(read.subgraphs, content.subgraphs, strict=True)):
        signatures = [s for s in content.signatureDefs or () if s.subgraphIndex == index]
        ends = [entry for s in signatures for entry in (*(s.inputs or ()), *(s.outputs or ()))]
        _remove_tensors(raw, _widen(content, sub, raw) - {entry.tensorIndex for entry in ends}, ends)
    _remove_unused(content)
    return pack(content)


def with_unique_names(model: bytes) -> bytes:
    """The model with a name of its own for each tensor, which the LiteRT Quantizer goes by.

    Inputs and outputs of the first subgraph keep theirs before all others. An input without a name is called by its
    place, as it is elsewhere.
    """
    read = graphs.read(model)
    ends = [(0, index) for index in (*read.main.inputs, *read.main.outputs)]
    every = [(number, index) for number, sub in enumerate(read.subgraphs) for index in range(len(sub.tensors))]
    wanted = {place: read.subgraphs[place[0]].tensors[place[1]].name for place in dict.fromkeys([*ends, *every])}
    if all(wanted.values()) and len({*wanted.values()}) == len(wanted):
        return model
    wanted |= {(0, index): name for name, index in graphs.input_indices(read).items() if name.startswith("#")}
    content = unpack(model)
    taken: set[str] = set()
    for (number, index), name in wanted.items():
        own = name or f"tensor{index}"
        while own in taken:
            own += "_"
        taken.add(own)
        content.subgraphs[number].tensors[index].name = own.encode()
    return pack(content)


def operator_alone(model: bytes, place: int, shapes: Mapping[int, Sequence[int]]) -> bytes:
    """One operator of the first subgraph as a model: its activations are inputs and outputs, its constants stay.

    Inputs and outputs are in the operator's own order, an activation that it reads twice once. `shapes` are those of
    activations, by tensor index, where the file leaves them to the run. Raises ConversionError for an operator that is
    nothing without the rest of the file.
    """
    read = graphs.read(model).main
    operator = read.operators[place]
    if operator.type in graphs.CONTROL_FLOW | graphs.RESOURCES:
        raise ConversionError(
            f"{operator.type} refers to other graphs or variables of the file, so it cannot be saved alone"
        )
    content = unpack(model)
    raw = content.subgraphs[0]
    for index, shape in shapes.items():
        raw.tensors[index].shape, raw.tensors[index].shapeSignature = list(shape), None
    raw.operators = [raw.operators[place]]
    raw.inputs = activations(read, operator.inputs)
    raw.outputs = activations(read, operator.outputs)
    intermediates = (int(i) for i in (() if raw.operators[0].intermediates is None else raw.operators[0].intermediates))
    used = {*operator.inputs, *operator.outputs, *intermediates}
    _remove_tensors(raw, {i for i in range(len(raw.tensors)) if i not in used}, ())
    content.subgraphs = [raw]
    content.signatureDefs = content.metadata = content.metadataBuffer = None
    _remove_unused(content)
    _remove_buffers(content)
    return pack(content)


def activations(subgraph: graphs.Subgraph, indices: Iterable[int]) -> list[int]:
    """Those of an operator's tensors that come from elsewhere or go there, each once: no constants, no state."""
    tensors = subgraph.tensors
    return [i for i in dict.fromkeys(indices) if i >= 0 and not tensors[i].constant and not tensors[i].is_variable]


def _remove_buffers(content: Any) -> None:
    """Take out buffers without data; the first, which has none, is that of every tensor without values."""
    kept = [0, *(i for i, buffer in enumerate(content.buffers) if i and buffer.data is not None)]
    place = {old: new for new, old in enumerate(kept)}
    content.buffers = [content.buffers[i] for i in kept]
    for tensor in content.subgraphs[0].tensors:
        tensor.buffer = place.get(tensor.buffer, 0)


def _widens(operator: graphs.Operator, subgraph: graphs.Subgraph) -> bool:
    tensors = (*operator.inputs, *operator.outputs)
    if operator.type != "DEQUANTIZE" or len(tensors) != 2 or min(tensors) < 0:
        return False
    source = subgraph.tensors[operator.inputs[0]]
    return source.constant and source.dtype == "float16"


def _widen(content: Any, subgraph: graphs.Subgraph, raw: Any) -> set[int]:
    """Give the operators' outputs the values and leave the operators out; the constants that nothing reads then."""
    widening = [_widens(op, subgraph) for op in subgraph.operators]
    sources: set[int] = set()
    used = {*subgraph.inputs, *subgraph.outputs}
    for op, widens in zip(subgraph.operators, widening, strict=True):
        if widens:
            raw.tensors[op.outputs[0]].buffer = _in_float32(content, raw.tensors[op.inputs[0]])
            sources.add(op.inputs[0])
        else:
            used.update(op.inputs)
    raw.operators = [op for op, widens in zip(raw.operators, widening, strict=True) if not widens]
    return sources - used


def _remove_tensors(raw: Any, gone: set[int], signature_entries: Iterable[Any]) -> None:
    """Take tensors out that nothing reads: a quantizer would take them for activations without a range."""
    kept = [i for i in range(len(raw.tensors)) if i not in gone]
    raw.tensors = [raw.tensors[i] for i in kept]
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    for holder, names in ((raw, TENSOR_LISTS[:2]), *((op, TENSOR_LISTS) for op in raw.operators)):
        for name in names:
            indices = getattr(holder, name)
            if indices is not None:
                setattr(holder, name, [place[int(i)] for i in indices])
    for entry in signature_entries:
        entry.tensorIndex = place[entry.tensorIndex]


def _in_float32(content: Any, tensor: Any) -> int:
    """The index of a new buffer with the values of a float16 tensor."""
    stored = content.buffers[tensor.buffer].data
    size = int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(np.float16).itemsize
    if stored is None or len(stored) != size:
        raise ModelFileError(
            f"the constant {graphs.text(tensor.name)} of the float .tflite is not as long as its shape says"
        )
    return with_buffer(content, np.frombuffer(bytes(stored), "<f2"))


def _remove_unused(content: Any) -> None:
    """Take out operator codes that no operator has, of which a runtime may not know the version, and dead data."""
    operators = [op for sub in content.subgraphs for op in sub.operators]
    kept = sorted({op.opcodeIndex for op in operators})
    content.operatorCodes = [content.operatorCodes[i] for i in kept]
    for op in operators:
        op.opcodeIndex = kept.index(op.opcodeIndex)
    held = {tensor.buffer for sub in content.subgraphs for tensor in sub.tensors}
    held |= {entry.buffer for entry in content.metadata or ()}
    for index, buffer in enumerate(content.buffers):
        if index not in held:
            buffer.data = None
