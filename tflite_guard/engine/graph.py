"""What a .tflite flatbuffer holds: operators, tensors, their types and scales. Loads no TensorFlow."""

from __future__ import annotations

import difflib
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tflite_guard.errors import ConversionError, ModelFileError, NamingError, Place
from tflite_guard.text.plain import instead
from tflite_guard.vocabulary import SERVING_DEFAULT

IDENTIFIER = b"TFL3"
# What reading a malformed flatbuffer raises: offsets that lead outside, impossible lengths, wrong text.
MALFORMED = (struct.error, IndexError, ValueError, TypeError, OverflowError, MemoryError, AttributeError, KeyError)
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
CONTROL_FLOW = frozenset({"WHILE", "IF", "CALL_ONCE", "CALL"})
SHAPE_ONLY = frozenset({"SHAPE", "RANK"})
"""They look at no values, so it does not matter of which type those are."""
PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})
"""The operators that most of a model's computing is in."""
RESOURCES = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"})


@dataclass(frozen=True)
class Tensor:
    """One tensor. `scale` and `zero_point` are empty where it is not quantized, of one element or per channel else."""

    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int | None, ...]
    """The shape with None for what may change."""
    dtype: str
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    quantized_dimension: int
    is_variable: bool
    constant: bool
    """Its values are stored in the file."""


@dataclass(frozen=True)
class Operator:
    """One operator; `type` is the builtin's name (CONV_2D) or the custom code. Inputs of -1 are absent."""

    type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    variable: str | None = None
    """What a VAR_HANDLE is of."""
    activation: str = "NONE"
    """What is fused to it."""
    version: int = 1


@dataclass(frozen=True)
class Subgraph:
    """Tensors and the operators over them, in the order of execution."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """Names of inputs and outputs, to tensor indices of one subgraph, in the subgraph's order.

    What has no name goes by `#` and its place. Without `key` it is not in the file, and the names are the tensors'.
    """

    key: str | None
    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class Graph:
    """A whole file. The first subgraph is the main one."""

    subgraphs: tuple[Subgraph, ...]
    signatures: dict[str, Signature] = field(default_factory=dict)

    @property
    def main(self) -> Subgraph:
        """The subgraph that runs."""
        return self.subgraphs[0]


def read(model: bytes | str) -> Graph:
    """Read a .tflite, given as its bytes or its path. Raises ModelFileError when it is not one."""
    data, label = _content(model)
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise ModelFileError(
            f"{label} is not a .tflite model (its identifier is not TFL3); check how it was made or copied"
        )
    try:
        return _graph(schema.Model.GetRootAs(data, 0), len(data))
    except MALFORMED as error:
        raise ModelFileError(
            f"{label} is a damaged .tflite model (truncated or altered); convert or copy it again"
        ) from error


def _content(model: bytes | str) -> tuple[bytes, str]:
    if isinstance(model, bytes):
        return model, "the converted model"
    try:
        return Path(model).read_bytes(), model
    except OSError as error:
        raise ModelFileError(f"{model} cannot be read: {error.strerror}") from error


def _graph(model: Any, size: int) -> Graph:
    raw = [model.OperatorCodes(i) for i in range(_counted(model.OperatorCodesLength(), size))]
    codes = [(_operator_name(code), int(code.Version())) for code in raw]
    constants = [_holds_data(model.Buffers(i)) for i in range(_counted(model.BuffersLength(), size))]
    count = _counted(model.SubgraphsLength(), size)
    if count == 0:
        raise ValueError("no subgraph")
    subgraphs = tuple(_subgraph(model.Subgraphs(i), codes, constants, size) for i in range(count))
    signatures = [model.SignatureDefs(i) for i in range(_counted(model.SignatureDefsLength(), size))]
    return Graph(subgraphs, {text(s.SignatureKey()): _signature(s, subgraphs, size) for s in signatures})


def _counted(length: int, size: int) -> int:
    if length * 4 > size:
        raise ValueError("a vector is longer than the file")
    return length


def text(raw: bytes | None) -> str:
    """A name as the file has it, whatever its bytes."""
    return (raw or b"").decode("utf-8", "replace")


OPERATOR_NAMES: dict[int, str] = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
OPTION_NAMES: dict[int, str] = {
    value: name for name, value in vars(schema.BuiltinOptions).items() if not name.startswith("_")
}
ACTIVATION_NAMES: dict[int, str] = {
    value: name for name, value in vars(schema.ActivationFunctionType).items() if not name.startswith("_")
}
TYPE_NAMES: dict[int, str] = {
    value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")
}


def _operator_name(code: Any) -> str:
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files set only the deprecated field
    if builtin == schema.BuiltinOperator.CUSTOM:
        return text(code.CustomCode())
    return OPERATOR_NAMES.get(builtin, f"operator {builtin}")


def _holds_data(buffer: Any) -> bool:
    return bool(buffer.DataLength() > 0 or buffer.Offset() > 1)  # files above 2 GB keep data behind the flatbuffer


def _subgraph(raw: Any, codes: Sequence[tuple[str, int]], constants: Sequence[bool], size: int) -> Subgraph:
    tensors = tuple(_tensor(raw.Tensors(i), constants, size) for i in range(_counted(raw.TensorsLength(), size)))
    operators = tuple(_operator(raw.Operators(i), codes, size) for i in range(_counted(raw.OperatorsLength(), size)))
    inputs = _indices(raw.InputsAsNumpy(), raw.InputsLength())
    outputs = _indices(raw.OutputsAsNumpy(), raw.OutputsLength())
    used = [*inputs, *outputs, *(i for op in operators for i in (*op.inputs, *op.outputs))]
    if any(i >= len(tensors) or i < -1 for i in used):
        raise ValueError("a tensor index leads outside")
    return Subgraph(tensors, operators, inputs, outputs)


def _indices(values: Any, length: int) -> tuple[int, ...]:
    return tuple(int(v) for v in values) if length else ()


def _operator(raw: Any, codes: Sequence[tuple[str, int]], size: int) -> Operator:
    _counted(raw.InputsLength(), size)
    kind, version = codes[raw.OpcodeIndex()]
    return Operator(
        kind,
        _indices(raw.InputsAsNumpy(), raw.InputsLength()),
        _indices(raw.OutputsAsNumpy(), raw.OutputsLength()),
        _variable(raw) if kind == "VAR_HANDLE" else None,
        _activation(raw),
        version,
    )


def _activation(raw: Any) -> str:
    """The activation that an operator has fused to it; NONE where its kind has none."""
    table, kind = raw.BuiltinOptions(), OPTION_NAMES.get(raw.BuiltinOptionsType(), "")
    options: Any = getattr(schema, kind, None)
    if table is None or not hasattr(options, "FusedActivationFunction"):
        return "NONE"
    read = options()
    read.Init(table.Bytes, table.Pos)
    return ACTIVATION_NAMES.get(read.FusedActivationFunction(), "unknown")


def _variable(raw: Any) -> str:
    table = raw.BuiltinOptions()
    if table is None or raw.BuiltinOptionsType() != schema.BuiltinOptions.VarHandleOptions:
        return ""
    options = schema.VarHandleOptions()
    options.Init(table.Bytes, table.Pos)
    return "/".join(filter(None, (text(options.Container()), text(options.SharedName()))))


def _tensor(raw: Any, constants: Sequence[bool], size: int) -> Tensor:
    shape = _indices(raw.ShapeAsNumpy(), _counted(raw.ShapeLength(), size))
    signature = _indices(raw.ShapeSignatureAsNumpy(), raw.ShapeSignatureLength()) or shape
    quantization = raw.Quantization()
    scaled = quantization is not None and quantization.ScaleLength() > 0
    return Tensor(
        name=text(raw.Name()),
        shape=shape,
        shape_signature=tuple(None if s < 0 else s for s in signature),
        dtype=TYPE_NAMES[raw.Type()],
        scale=np.array(quantization.ScaleAsNumpy() if scaled else [], np.float32),
        zero_point=_zero_points(quantization) if scaled else np.array([], np.int64),
        quantized_dimension=quantization.QuantizedDimension() if scaled else 0,
        is_variable=bool(raw.IsVariable()),
        constant=constants[raw.Buffer()],
    )


def _zero_points(quantization: Any) -> npt.NDArray[np.int64]:
    if quantization.ZeroPointLength():
        return np.array(quantization.ZeroPointAsNumpy(), np.int64)
    return np.zeros(quantization.ScaleLength(), np.int64)


def _signature(raw: Any, subgraphs: Sequence[Subgraph], size: int) -> Signature:
    index = raw.SubgraphIndex()
    subgraph = subgraphs[index]
    inputs = [raw.Inputs(i) for i in range(_counted(raw.InputsLength(), size))]
    outputs = [raw.Outputs(i) for i in range(_counted(raw.OutputsLength(), size))]
    if any(entry.TensorIndex() >= len(subgraph.tensors) for entry in (*inputs, *outputs)):
        raise ValueError("a signature leads outside")
    key = text(raw.SignatureKey())
    return Signature(key, index, _in_order(inputs, subgraph.inputs), _in_order(outputs, subgraph.outputs))


def _in_order(entries: Sequence[Any], order: Sequence[int]) -> dict[str, int]:
    named = [(text(entry.Name()), int(entry.TensorIndex())) for entry in entries]
    place = {index: place for place, index in enumerate(order)}
    return _by_name(sorted(named, key=lambda pair: place.get(pair[1], len(order))))


def _by_name(named: Sequence[tuple[str, int]]) -> dict[str, int]:
    return {name or f"#{place}": index for place, (name, index) in enumerate(named)}


def choose_signature(
    graph: Graph, path: str, asked: str | None = None, reference: str | None = None, place: Place | None = None
) -> Signature:
    """The signature to run: the one that is asked for, else the only one, the reference's own, `serving_default`.

    Signatures without inputs or outputs are not looked at unless asked for. Where none is left, it is the first
    subgraph, by its tensors' names. Raises NamingError where none can be chosen, at the place where one is asked for.
    """
    if asked is not None:
        if not graph.signatures:
            raise NamingError(f'{path} has no signatures; leave out "{asked}"', place)
        if asked not in graph.signatures:
            there = instead(asked, graph.signatures, "there are")
            raise NamingError(f"{path} has no signature {asked!r}{there}", place)
        return graph.signatures[asked]
    usable = {key: signature for key, signature in graph.signatures.items() if signature.inputs and signature.outputs}
    if len(usable) <= 1:
        return next(iter(usable.values()), None) or _unnamed(graph)
    for key in (reference, SERVING_DEFAULT):
        if key in usable:
            return usable[key]
    there = ", ".join(map(repr, usable))
    raise NamingError(f'{path} has several signatures (there are: {there}); say which with "signature"', place)


def _unnamed(graph: Graph) -> Signature:
    """The first subgraph by its tensors' names, less TensorFlow's `serving_default_` and `:0`."""
    return Signature(None, 0, _stripped(graph, graph.main.inputs), _stripped(graph, graph.main.outputs))


def _stripped(graph: Graph, indices: Sequence[int]) -> dict[str, int]:
    full = [(graph.main.tensors[i].name, i) for i in indices]
    short = [(re.sub(r"^serving_default_|:0$", "", name), i) for name, i in full]
    for named in (short, full):
        if len({name for name, _ in named if name}) == sum(1 for name, _ in named if name):
            return _by_name(named)
    return _by_name([("", i) for i in indices])


def input_indices(graph: Graph) -> dict[str, int]:
    """Input name to tensor index, of the first subgraph: that which is quantized."""
    first = [found for found in graph.signatures.values() if found.subgraph == 0 and found.inputs and found.outputs]
    return (first[0] if first else _unnamed(graph)).inputs


def float_operators(graph: Graph) -> list[str]:
    """Operators that compute in float, as `TYPE (output name)`, in the order of execution.

    An operator counts when one of its activations (an input that is no constant, or an output) is float, so
    hybrid ones with int8 weights count too. Conversions at the borders and control flow itself do not.
    """
    return [f"{op.type} ({sub.tensors[op.outputs[0]].name})" for op, sub in _computing(graph) if _in_float(op, sub)]


def computing_operators(graph: Graph) -> int:
    """How many operators compute on activations, float or quantized: not on shapes, not between types."""
    return sum(1 for op, sub in _computing(graph) if _in_float(op, sub) or _quantized(op, sub))


def integer_compute(graph: Graph) -> bool:
    """Whether some convolution or matrix product is in integers, or there is none at all."""
    products = [(op, sub) for op, sub in _computing(graph) if op.type in PRODUCTS]
    return not products or any(not _in_float(op, sub) for op, sub in products)


def _computing(graph: Graph) -> Iterator[tuple[Operator, Subgraph]]:
    for sub in graph.subgraphs:
        for op in sub.operators:
            if op.outputs and op.type not in CONVERSIONS | CONTROL_FLOW | RESOURCES | SHAPE_ONLY:
                yield op, sub


def _in_float(operator: Operator, subgraph: Subgraph) -> bool:
    tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    return any(t.dtype.startswith(("float", "bfloat", "complex")) and not t.constant for t in tensors)


def quantized_tensors(graph: Graph) -> list[str]:
    """Tensors whose integers stand for reals, as `name (dtype)`; a float model has none."""
    return [
        f"{tensor.name or 'a tensor without a name'} ({tensor.dtype})"
        for sub in graph.subgraphs
        for tensor in sub.tensors
        if tensor.dtype.startswith(("int", "uint")) and len(tensor.scale) > 0
    ]


def _quantized(operator: Operator, subgraph: Subgraph) -> bool:
    return any(subgraph.tensors[i].scale.size > 0 for i in operator.outputs if i >= 0)


def scaling(subgraph: Subgraph) -> list[str]:
    """The layers, or operators, that multiply or divide an input by constants, one or one a channel, before all else.

    A converter folds some into the weights behind them, where nobody can tell.
    """
    carried = {*subgraph.inputs}
    readers = Counter(i for op in subgraph.operators if op.type not in SHAPE_ONLY for i in {*op.inputs})
    found = []
    for op in subgraph.operators:
        given = [i for i in op.inputs if i >= 0]
        alone = any(i in carried and readers[i] == 1 for i in given)
        if op.type not in HANDED_ON or not alone or not op.outputs:
            continue
        constants = [subgraph.tensors[i] for i in given if i not in carried]
        if not all(one.constant and math.prod(one.shape[:-1]) == 1 for one in constants):
            continue
        if constants and (op.type == "MUL" or (op.type == "DIV" and given[0] in carried)):
            found.append(layer_of(name := subgraph.tensors[op.outputs[0]].name) or name)
        else:
            carried |= {*op.outputs}
    return list(dict.fromkeys(found))


HANDED_ON = CONVERSIONS | {"CAST", "SUB", "ADD", "MUL", "DIV"}
"""Operators between an input and what scales it."""


def has_state(graph: Graph) -> bool:
    """Whether something is carried from one call to the next (LSTM state, variables)."""
    return any(t.is_variable for sub in graph.subgraphs for t in sub.tensors) or has_resources(graph)


def has_resources(graph: Graph) -> bool:
    """Whether state is kept in resource variables, which `reset_all_variables` does not reset."""
    return any(op.type in RESOURCES for sub in graph.subgraphs for op in sub.operators)


def unassigned_variables(graph: Graph) -> list[str]:
    """Variables that are read and that no operator of the file assigns: what is read of them is anything."""
    read: set[str] = set()
    assigned: set[str | None] = set()
    for sub in graph.subgraphs:
        handles = {op.outputs[0]: op.variable or "" for op in sub.operators if op.type == "VAR_HANDLE" and op.outputs}
        used = [(op.type, op.inputs[0]) for op in sub.operators if op.inputs]
        read |= {handles[index] for kind, index in used if kind == "READ_VARIABLE" and index in handles}
        assigned |= {handles.get(index) for kind, index in used if kind == "ASSIGN_VARIABLE"}
    # Through a handle that another subgraph passed, any variable may be assigned.
    return [] if None in assigned else sorted(read - assigned)


def refuse_loops(graph: Graph) -> None:
    """Raise ConversionError for a graph with a loop: TensorFlow's calibrator does not fail on one but crashes the
    process (2.21), and LiteRT shows no tensor inside of it.
    """
    if any(op.type == "WHILE" for sub in graph.subgraphs for op in sub.operators):
        raise ConversionError(
            "a model with a loop, which recurrent layers become, cannot be calibrated; "
            "build the model with unroll=True, or use dynamic_range or a dynamic recipe"
        )


def resolve_keep_float(graph: Graph, patterns: Sequence[str]) -> list[str]:
    """Exact output names of the operators to keep in float, in the order of execution.

    A tensor matches when a part of its name (the parts are joined by `;`), or a run of the part's `/`-separated
    segments, matches the pattern (with `*`, `?`, `[…]`), or contains it where it has no such characters and
    nothing matches whole. Each matched tensor brings its producer and all its consumers. Raises ConversionError
    naming near names when a pattern matches nothing.
    """
    names = _called(graph)
    matched = {index for pattern in patterns for index in _matching(graph.main, names, pattern, "keep_float")}
    operators = [op for op in graph.main.operators if matched & {*op.inputs, *op.outputs}]
    return [graph.main.tensors[i].name for op in operators for i in op.outputs]


def matched_tensors(graph: Graph, pattern: str, key: str) -> list[str]:
    """Names of the tensors that a pattern of the manifest's `key` matches. Raises ConversionError where none is."""
    return [graph.main.tensors[i].name for i in _matching(graph.main, _called(graph), pattern, key)]


def _called(graph: Graph) -> dict[int, str]:
    """The first subgraph's tensors by the names that a user may know them by, joined by `;`: a signature's as well."""
    names = {i: [t.name] for i, t in enumerate(graph.main.tensors) if t.name}
    for signature in (one for one in graph.signatures.values() if one.subgraph == 0):
        for name, index in (*signature.inputs.items(), *signature.outputs.items()):
            names.setdefault(index, []).append(name)
    return {i: ";".join(dict.fromkeys(known)) for i, known in names.items()}


def _matching(subgraph: Subgraph, names: Mapping[int, str], pattern: str, key: str = "") -> list[int]:
    computed = {i for op in subgraph.operators for i in op.outputs} | set(subgraph.inputs)
    # A layer's own weights carry its name too; they are asked only when no result does.
    for group in ({i: names[i] for i in computed if i in names}, names):
        found = [i for i, name in group.items() if any(fnmatchcase(s, pattern) for s in _scopes(name))]
        if not found and not any(c in pattern for c in "*?["):
            found = [i for i, name in group.items() if pattern in name]
        if found:
            return found
    raise ConversionError(f"{key}: {_no_match(pattern, names.values())}")


def shortest_pattern(graph: Graph, name: str) -> str:
    """The `keep_float` pattern that means the tensor of this name and no other and says most to a person.

    Names of layers, inputs and outputs come before those of the operators within, and short before long; a number that
    was added to a layer's name goes where it can. The tensor's own name where nothing else means it alone.
    """
    index = next((i for i, tensor in enumerate(graph.main.tensors) if tensor.name == name), None)
    names = _called(graph)
    plain = [
        one for one in _scopes(names.get(-1 if index is None else index, name)) if not any(c in one for c in "*?[")
    ]
    candidates = {one for scope in plain for one in (scope, NUMBERED.sub("", scope)) if one}
    for candidate in sorted(candidates, key=lambda one: (_is_operators(one), len(one), one)):
        if _matching(graph.main, names, candidate) == [index]:
            return candidate
    return name


def layer_of(name: str) -> str | None:
    """The layer that a tensor's name tells, without the number that an export adds; None where it tells none."""
    layers = [one for one in reversed(name.split(";")[0].split("/")) if not OPERATORS.fullmatch(one)]
    return NUMBERED.sub("", layers[0]) if layers else None


NUMBERED = re.compile(r"_\d+$")
OPERATORS = re.compile(
    r"(serving_default_.*|StatefulPartitionedCall.*|add|addv2|sub|mul|div|realdiv|truediv|matmul|biasadd|relu6?|softmax|"
    r"sigmoid|tanh|mean|max|"
    r"maxpool2d|avgpool|convolution|conv2d|depthwise|depthwiseconv2d|batchnorm|reshape|transpose|perm|tensordot|concat|"
    r"split|unstack|rsqrt|squareddifference|readvariableop|identity|tfl\..*|arith\..*)[_:]?\d*",
    re.IGNORECASE,
)
"""What TensorFlow and its converter call operators within a layer."""


def _is_operators(name: str) -> bool:
    return all(OPERATORS.fullmatch(segment) for segment in name.split("/"))


def _no_match(pattern: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(pattern, sorted({s for name in names for s in _segments(name)}), n=5, cutoff=0.4)
    hint = f"; near names: {', '.join(near)}" if near else ""
    return f'"{pattern}" matches no tensor of the converted model{hint}'


def _segments(name: str) -> list[str]:
    return [segment for part in name.split(";") for segment in part.split("/") if segment]


def _scopes(name: str) -> Iterator[str]:
    """Every run of segments of every part, the whole parts among them."""
    for part in name.split(";"):
        yield part
        segments = part.split("/")
        for start in range(len(segments)):
            for end in range(start + 1, len(segments) + 1):
                yield "/".join(segments[start:end])
