"""Why the converter or LiteRT can make nothing of a model: the operator and its operands, from what they say.

TensorFlow and LiteRT name the operator first and, further down, the types and shapes of its operands. Those are the
cause more often than the operator is. Loads neither of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tflite_guard.engine import graph as graphs
from tflite_guard.engine.feeds import shape_text
from tflite_guard.errors import ConversionError
from tflite_guard.protocol import Names

MOST_SHOWN = 8
"""Operators that a sentence names."""
LONGEST_ATTRIBUTES = 200
_Shape = tuple[int | None, ...]
# TensorFlow's operators that become or join a built-in one of another name.
_FOLDED = frozenset(
    {"AvgPool", "AvgPool3D", "BiasAdd", "Einsum", "FusedBatchNormV3", "MatMul", "MaxPool", "Max", "Min"}
)
_TYPES = {"i1": "bool", "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"} | {
    f"{short}{bits}": f"{long}{bits}" for short, long in (("i", "int"), ("ui", "uint")) for bits in (4, 8, 16, 32, 64)
}
_TYPES |= {"complex<f32>": "complex64", "complex<f64>": "complex128", "!tf_type.string": "string"}
_OTHER_FLOATS = ("float16", "bfloat16", "float64")
_COMPLEX = ("complex64", "complex128")
_TRANSFORM = re.compile(r"I?R?FFT(2D|3D|ND)?$|STFT$")
_PRINTING = frozenset({"Print", "PrintV2", "StringFormat"})
_PYTHON = re.compile(r"(Eager)?PyFunc(Stateless)?$")
_TABLE = re.compile(r"(LookupTable|HashTable|MutableHashTable)")
_DETAIL = re.compile(r"^\s*tf\.(\w+)\((.*)\) -> \((.*?)\) : \{(.*)\}\s*$", re.M)
# The element type nests: complex<f32>, !tf_type.variant<tensor<?xf32>>.
_TENSOR = re.compile(r"tensor<(\*x|(?:(?:\d+|\?)x)*)((?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)+)>")
_ERROR_LINE = re.compile(r"(?:\berror: (?:loc\(.*\): )?|Failed to quantize[^:]*: )(.+)")
# Exceptions that only say that something failed, or begin with where it did.
_BARE = re.compile(r"^\w+$|^Failed to quantize[^:]*$|\berror: ")
_NODE = re.compile(r"[Nn]ode number (\d+) \((\w+)\) failed to prepare")
_SPEAKS_OF_TYPES = re.compile(r"\btypes?\b|->type|u?int(8|16|32|64)\b|float(16|32|64)\b", re.I)


class UnsupportedError(ConversionError):
    """What the converter can make nothing of, whatever the quantization."""


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: _Shape | None
    """None where even the number of dimensions is unknown."""

    def __str__(self) -> str:
        return f"{self.dtype} {'of any shape' if self.shape is None else shape_text(self.shape)}"


@dataclass(frozen=True)
class _Rejected:
    """An operator of TensorFlow that has no built-in counterpart as it is used."""

    name: str
    operands: tuple[_Tensor, ...] = ()
    results: tuple[_Tensor, ...] = ()
    attributes: str = ""

    @property
    def built_in(self) -> bool:
        """Whether it becomes a built-in operator where its operands and attributes suit."""
        return self.name in _FOLDED or _plain(self.name) in map(_plain, graphs.OPERATOR_NAMES.values())

    @property
    def dtype(self) -> str:
        """What it computes in: its first operand's type, unless another's is less usual."""
        types = [tensor.dtype for tensor in (*self.operands, *self.results)]
        unusual = [dtype for dtype in types if dtype not in ("float32", "int32", "bool")]
        return (unusual or types or ["float32"])[0]

    @property
    def dimensions(self) -> int:
        """The most that an operand has."""
        return max((len(one.shape) for one in self.operands if one.shape is not None), default=0)

    @property
    def unranked(self) -> bool:
        return any(one.shape is None for one in self.operands)

    @property
    def open(self) -> bool:
        """Whether a dimension besides the first is unknown."""
        return any(one.shape is not None and None in one.shape[1:] for one in self.operands)


def explain(message: str, printed: str = "", names: Names | None = None) -> ConversionError:
    """The converter's failure in one sentence, from its exception and from what it printed before."""
    if rejected := list(_rejected(message)):
        return UnsupportedError("; ".join(_causes(rejected, names)))
    if "element_shape to be static" in message or "tensor list ops is failed" in message:
        return UnsupportedError(
            "the model has a loop over tensors of unknown size (tf.scan, tf.map_fn or a TensorArray), which the "
            "converter cannot convert; build it with fixed shapes, the batch size too, and save it again"
        )
    unranged = re.search(r"Max and min for dynamic tensors should be recorded.*Failed for tensor (\S+)", message)
    if unranged:
        name = re.sub(r"^serving_default_|:\d+$", "", unranged[1])
        return ConversionError(
            f"the converter asks for the range of {name}, but records ranges of floats alone; it cannot make int16x8 "
            "of this model: use int8"
        )
    if unprepared := not_prepared(message):
        return ConversionError(f"the float model cannot be run to calibrate it: {unprepared}")
    told = _ERROR_LINE.findall(f"{message}\n{printed}") if _BARE.search(first_line(message)) else []
    return ConversionError(
        f"the converter failed: {first_line(told[0] if told else message)}; run with -v to see all that it printed"
    )


def not_prepared(message: str, graph: graphs.Graph | None = None) -> str | None:
    """LiteRT's refusal to prepare an operator, with its inputs and outputs; None where it says something else."""
    node = _NODE.search(message)
    if node is None:
        return None
    operator = _operator(graph, int(node[1]), node[2])
    inputs, outputs = ([], []) if graph is None or operator is None else _tensors(graph, operator)
    of = f" of {_listed(inputs)} giving {_listed(outputs)}" if inputs and outputs else ""
    reason = first_line(_NODE.sub("", message))
    told = f"LiteRT cannot prepare operator {node[2]} (number {node[1]}){of}: {reason}"
    if any(tensor.dtype in _COMPLEX for tensor in (*inputs, *outputs)):
        return f"{told}; {_WITHOUT_COMPLEX}"
    if _SPEAKS_OF_TYPES.search(reason):
        return f"{told}; it has no kernel for these types: choose another quantization, or replace the operator"
    if graph is None:
        return f"{told}; change that part of the model, or choose a quantization that needs no calibration"
    if any(None in tensor.shape_signature[1:] for tensor in _inputs(graph)):
        return f"{told}; convert it again with its unknown dimensions fixed, by input_shapes in the manifest"
    return f"{told}; these shapes have no kernel: change that part of the model"


def first_line(error: object) -> str:
    """The first line of a message, short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


_WITHOUT_COMPLEX = (
    "LiteRT has only the complex operators that follow an RFFT of real values (real part, imaginary part, "
    "magnitude): compute the real and the imaginary part in float32, each by itself"
)


def _rejected(message: str) -> Iterator[_Rejected]:
    """The operators that the converter lists, with their operands where it gives those."""
    lists = re.findall(r"(?:TF Select|Custom) ops: (.+)", message)
    named = [name for text in lists for name in re.split(r",\s*", text.strip())]
    detailed: dict[str, list[_Rejected]] = {}
    for name, operands, results, attributes in _DETAIL.findall(message):
        found = _Rejected(name, _parsed(operands), _parsed(results), attributes)
        detailed.setdefault(name, []).append(found)
    for name in dict.fromkeys(named):
        yield from detailed.get(name) or [_Rejected(name)]


def _parsed(text: str) -> tuple[_Tensor, ...]:
    return tuple(_Tensor(_type(dtype), _sizes(sizes)) for sizes, dtype in _TENSOR.findall(text))


def _type(written: str) -> str:
    return _TYPES.get(written) or written.removeprefix("!tf_type.").partition("<")[0]


def _sizes(written: str) -> _Shape | None:
    if written == "*x":
        return None
    return tuple(None if size == "?" else int(size) for size in written.split("x")[:-1])


def _causes(rejected: Sequence[_Rejected], names: Names | None) -> Iterator[str]:
    """A sentence for each cause, with the operators that it is of."""
    causes: dict[tuple[str, str], list[_Rejected]] = {}
    for one in rejected:
        causes.setdefault(_cause(one, names), []).append(one)
    for (told, advice), operators in causes.items():
        yield f"{told.format(_named(operators))}; {advice}"


def _named(operators: Sequence[_Rejected]) -> str:
    found = list(dict.fromkeys(one.name for one in operators))
    more = [f"{len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    return ", ".join(found[:MOST_SHOWN] + more)


def _cause(one: _Rejected, names: Names | None) -> tuple[str, str]:
    """What the operators of one cause have in common, with {} for their names, and the cure."""
    if one.name in _PRINTING:
        return "{} only prints, which a converted model cannot", "remove it from the model"
    if _PYTHON.match(one.name):
        return "{} runs Python code, which a converted model cannot", "write it with TensorFlow's operators"
    if _TABLE.match(one.name):
        return "the converter has no built-in operator for {}, which looks up in a table", (
            "look up before the model is run, or with tf.gather in a constant"
        )
    if "string" in (tensor.dtype for tensor in (*one.operands, *one.results)):
        return "the converter has few built-in operators for strings, and none for {}", (
            "do this before the model is run, and give it numbers"
        )
    if _TRANSFORM.match(one.name):
        return "the converter has no built-in operator for {}; RFFT and RFFT2D, of real values, are all that it has", (
            "compute it outside the model, or as products of matrices"
        )
    if not one.built_in:
        return "the converter has no built-in operator for {}", "replace it in the model"
    return _unsuitable(one, names)


def _unsuitable(one: _Rejected, names: Names | None) -> tuple[str, str]:
    """Why a built-in operator does not serve."""
    if one.dtype in _OTHER_FLOATS:
        return f"the model computes in {one.dtype}, for which the converter has no built-in operators ({{}})", (
            "compute in float32: in Keras, build the model with the dtype policy float32, load its weights, save it"
        )
    if one.dtype in _COMPLEX:
        return f"the converter has no built-in {{}} for {one.dtype}", _WITHOUT_COMPLEX
    if (unknown := _unknown_dimensions(names)) and one.open:
        return "the converter cannot convert {} while dimensions are unknown", (
            f'give them their sizes in the manifest, beside the model: "input_shapes": {{{unknown}}}'
        )
    if one.unranked or one.open:
        operands = _listed(one.operands)
        return f"the converter cannot convert {{}} while the shapes of its inputs are unknown ({operands})", (
            "give it a shape with tf.reshape before"
        )
    if one.dtype != "float32" or (one.operands and one.operands[0].dtype != "float32"):
        return f"the converter has no built-in {{}} for {one.dtype}", "cast to float32 before it, and back after it"
    if one.dimensions > 4:
        return f"the converter has no built-in {{}} for {one.dimensions} dimensions", (
            "reshape to fewer before it, or split it"
        )
    attributes = f"; {one.attributes[:LONGEST_ATTRIBUTES]}" if one.attributes else ""
    used = f" ({_listed(one.operands)}{attributes})".replace("{", "{{").replace("}", "}}") if one.operands else ""
    return f"the converter has no built-in {{}} as it is used here{used}", "change how it is used, or replace it"


def _unknown_dimensions(names: Names | None) -> str:
    """The inputs with unknown dimensions besides the batch, as `input_shapes` has them, with ? for the unknown."""
    free = {name: info.shape for name, info in (names.inputs if names else {}).items() if None in info.shape[1:]}
    return ", ".join(
        f'"{name}": [{", ".join("?" if size is None else str(size) for size in (1, *shape[1:]))}]'
        for name, shape in free.items()
    )


def _plain(operator: str) -> str:
    return re.sub(r"_|v\d+$|native$|backpropinput$", "", operator.lower())


def _listed(tensors: Sequence[_Tensor]) -> str:
    return ", ".join(map(str, tensors[:MOST_SHOWN])) + (", …" if len(tensors) > MOST_SHOWN else "")


def _operator(graph: graphs.Graph | None, number: int, kind: str) -> graphs.Operator | None:
    """The main subgraph's operator of that number, if it is of that kind: a delegate counts otherwise."""
    operators = graph.main.operators if graph else ()
    return operators[number] if number < len(operators) and operators[number].type == kind else None


def _inputs(graph: graphs.Graph) -> list[graphs.Tensor]:
    return [graph.main.tensors[index] for index in graph.main.inputs]


def _tensors(graph: graphs.Graph, operator: graphs.Operator) -> tuple[list[_Tensor], list[_Tensor]]:
    """What an operator reads and gives."""
    inputs, outputs = (
        [graph.main.tensors[index] for index in indices if index >= 0]
        for indices in (operator.inputs, operator.outputs)
    )
    return [_shown(tensor) for tensor in inputs], [_shown(tensor) for tensor in outputs]


def _shown(tensor: graphs.Tensor) -> _Tensor:
    return _Tensor(tensor.dtype, tensor.shape_signature)
