"""Running .tflite models through LiteRT: signatures, names, quantized inputs and outputs, state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tflite_guard.engine import feeds
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.feeds import kind_of, shape_text
from tflite_guard.engine.refusals import first_line, not_prepared
from tflite_guard.engine.running import Running
from tflite_guard.errors import DataError, EvaluationError, ModelFileError, Place
from tflite_guard.protocol import Names, TensorInfo
from tflite_guard.text.plain import plain
from tflite_guard.vocabulary import LiteRT

Array = npt.NDArray[Any]
RESOLVERS = {"default": OpResolverType.AUTO, "reference": OpResolverType.BUILTIN_REF}
INTEGERS = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32"})

PREPARING = "prepared the model's operators, before any example"
"""What is told while an interpreter is made: kernels check there what they are given, and some abort."""
LONGEST_SHOWN = 60
"""Characters of a tensor's name in a message."""


@dataclass(frozen=True)
class Port:
    """One input or output of a .tflite: its tensor, and how reals become its integers (scale 0: they do not)."""

    index: int
    shape: tuple[int | None, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def quantized(self) -> bool:
        """Whether its integers stand for reals."""
        return self.scale != 0.0

    @property
    def info(self) -> TensorInfo:
        """What a user sees of it: float32 for quantized tensors."""
        return TensorInfo(self.shape, "float32" if self.quantized else self.dtype)


@dataclass(frozen=True)
class Model:
    """A .tflite, read once, with the signature of it that is run."""

    path: str
    """Where it is; for one in memory, what messages call it."""
    graph: graphs.Graph
    signature: graphs.Signature
    content: bytes | None = None
    """None of a file, which LiteRT maps."""

    @classmethod
    def read(
        cls,
        source: str | bytes,
        asked: str | None = None,
        reference: str | None = None,
        path: str = "the model",
        place: Place | None = None,
    ) -> Model:
        """A file by its path, or bytes, which messages call `path`.

        `asked` is the signature that the manifest names at `place`, `reference` the reference's own. Raises
        ModelFileError for what is no .tflite, NamingError where it is not told which signature to run.
        """
        path = source if isinstance(source, str) else path
        graph = graphs.read(source)
        _refuse_unassigned(path, graph)
        signature = graphs.choose_signature(graph, path, asked, reference, place)
        return cls(path, graph, signature, source if isinstance(source, bytes) else None)

    @cached_property
    def inputs(self) -> dict[str, Port]:
        """The inputs by canonical name."""
        return self._ports(self.signature.inputs)

    @cached_property
    def outputs(self) -> dict[str, Port]:
        """The outputs by canonical name."""
        return self._ports(self.signature.outputs)

    @cached_property
    def names(self) -> Names:
        """Its names as those of a reference, dequantized."""
        inputs, outputs = ({name: port.info for name, port in side.items()} for side in (self.inputs, self.outputs))
        scaling = graphs.scaling(self.graph.subgraphs[self.signature.subgraph])
        told = tuple(plain(name, LONGEST_SHOWN) for name in scaling)
        return Names(inputs, outputs, signature=self.signature.key, scaling=told)

    def file_bytes(self) -> bytes:
        """The file's content."""
        return Path(self.path).read_bytes() if self.content is None else self.content

    def interpreter(self, kernels: LiteRT = "default") -> Interpreter:
        """A single-threaded interpreter, its tensors not yet allocated. Raises EvaluationError where LiteRT refuses."""
        source = {"model_path": self.path} if self.content is None else {"model_content": self.content}
        try:
            return Interpreter(**source, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels])
        except (ValueError, RuntimeError) as error:
            raise _refused(self.path, str(error), kernels, graph=self.graph) from error

    def require_main(self, what: str) -> None:
        """Raise EvaluationError unless its signature is of the first subgraph, the only one that is quantized."""
        if self.signature.subgraph != 0:
            raise EvaluationError(
                "conversion",
                f"{self.path}: {what} quantizes the first subgraph alone, and signature {self.signature.key!r} is "
                "of another; convert that signature to a .tflite of its own",
            )

    def _ports(self, indices: Mapping[str, int]) -> dict[str, Port]:
        tensors = self.graph.subgraphs[self.signature.subgraph].tensors
        return {name: _port(index, tensors[index]) for name, index in indices.items()}


def _refuse_unassigned(path: str, graph: graphs.Graph) -> None:
    missing = graphs.unassigned_variables(graph)
    if missing:
        raise EvaluationError(
            "unassigned-variables",
            f"{path} reads variables that nothing in it assigns ({', '.join(missing[:3])}): the converter left the "
            "weights out, as it does for a Keras 3 model written with tf.saved_model.save; convert it again from "
            "model.export(folder), or with TFLiteConverter.from_keras_model",
        )


def _port(index: int, tensor: graphs.Tensor) -> Port:
    integers = tensor.dtype in INTEGERS and len(tensor.scale) == 1
    scale, zero = (float(tensor.scale[0]), int(tensor.zero_point[0])) if integers else (0.0, 0)
    return Port(index, tensor.shape_signature, tensor.dtype, scale, zero)


def bind(
    path: str, ports: Mapping[str, Port], expected: Mapping[str, TensorInfo], aliases: Mapping[str, str], side: str
) -> dict[str, Port]:
    """The ports by the expected names: same name, then alias, then the only one of its shape and kind.

    By position only what the reference has no name for. Raises EvaluationError of kind `binding` where that leaves a
    doubt.
    """
    bound = {name: ports[name] for name in expected if name in ports and not _nameless(name)}
    bound |= _by_place(ports, expected, side)
    for name, port in ports.items():
        target = aliases.get(name, "")
        if target in expected and target not in bound and name not in bound:
            bound[target] = port
    rest = {name: port for name, port in ports.items() if port not in bound.values()}
    bound |= _only_fits(path, rest, {name: info for name, info in expected.items() if name not in bound}, side)
    for name, port in bound.items():
        if not (_fits(port, expected[name], side) or (side == "output" and _shaped(port, expected[name], side))):
            raise _unbound(path, name, expected[name], {name: port}, side)
    return {name: bound[name] for name in expected}


def _nameless(name: str) -> bool:
    return name.startswith("#")


def _by_place(ports: Mapping[str, Port], expected: Mapping[str, TensorInfo], side: str) -> dict[str, Port]:
    """The ports at the places of what the reference has no name for, whatever a converter calls them.

    None where one of them does not fit, as in another order.
    """
    places = dict(zip((f"#{place}" for place in range(len(ports))), ports.values(), strict=True))
    paired = {name: places[name] for name in expected if _nameless(name) and name in places}
    return paired if all(_fits(port, expected[name], side) for name, port in paired.items()) else {}


def _only_fits(path: str, ports: Mapping[str, Port], wanted: Mapping[str, TensorInfo], side: str) -> dict[str, Port]:
    """Each wanted name's port, where one alone fits it and it fits no other name."""
    fitting = {name: [port for port in ports.values() if _fits(port, info, side)] for name, info in wanted.items()}
    for name, candidates in fitting.items():
        if len(candidates) != 1 or sum(candidates[0] in others for others in fitting.values()) > 1:
            raise _unbound(path, name, wanted[name], ports, side)
    return {name: candidates[0] for name, candidates in fitting.items()}


def _fits(port: Port, info: TensorInfo, side: str) -> bool:
    return kind_of(port.info.dtype) == kind_of(info.dtype) and _shaped(port, info, side)


def _shaped(port: Port, info: TensorInfo, side: str) -> bool:
    if side == "output" and not port.shape:  # a file may leave an output's shape to the run
        return True
    pairs = ((port.shape, info.shape), ((None, *port.shape), info.shape), (port.shape, (None, *info.shape)))
    return any(_compatible(one, other) for one, other in pairs)


def _compatible(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Whether two shapes can be of the same tensor: the batch axis is free, None and equal dimensions agree."""
    if len(one) != len(other):
        return False
    return all(a is None or b is None or a == b for a, b in zip(one[1:], other[1:], strict=True))


def _unbound(path: str, name: str, info: TensorInfo, ports: Mapping[str, Port], side: str) -> EvaluationError:
    found = (
        ", ".join(f"{plain(n, LONGEST_SHOWN)} {shape_text(p.shape)} {p.info.dtype}" for n, p in ports.items())
        or "none left"
    )
    wanted = f"{plain(name, LONGEST_SHOWN)} {shape_text(info.shape)} {info.dtype}"
    advice = "convert it with a signature that has the reference's names, or record the reference's outputs as they are"
    return EvaluationError(
        "binding", f"{path}: no {side} corresponds without doubt to the reference's {wanted} (it has {found}); {advice}"
    )


class Bound(Running):
    """A .tflite to be run, its inputs and outputs bound to a reference's names or, without them, to its own."""

    def __init__(self, model: Model, expected: Names | None, *, stateful: bool, fixed_batch: int | None) -> None:
        if not model.inputs or not model.outputs:
            raise ModelFileError(
                f"{model.path} has no inputs or no outputs, so there is nothing to evaluate; convert it again"
            )
        expected = expected or model.names
        self.ports = bind(model.path, model.inputs, expected.inputs, expected.input_aliases, "input")
        self.outputs = bind(model.path, model.outputs, expected.outputs, expected.output_aliases, "output")
        _refuse_more_inputs(model, self.ports)
        infos = {name: port.info for name, port in self.ports.items()}
        super().__init__(model.path, infos, stateful=stateful, fixed_batch=fixed_batch)

    def prepared(self, name: str, values: Array) -> Array:
        """An input's examples in the dtype that the tensor has, quantized where it is."""
        checked, port = super().prepared(name, values), self.ports[name]
        return quantize(checked, port) if port.quantized else checked

    def given(self, inputs: Mapping[str, Array]) -> dict[int, Array]:
        """The first example as its tensors take it, by index."""
        rows = self._rows(inputs)
        return {self.ports[name].index: feeds.alone(self.inputs[name], values, 0) for name, values in rows.items()}


class Runner(Bound):
    """One single-threaded interpreter of LiteRT's."""

    def __init__(self, model: Model, kernels: LiteRT = "default", expected: Names | None = None) -> None:
        super().__init__(model, expected, stateful=graphs.has_state(model.graph), fixed_batch=None)
        self._model = model
        self._kernels = kernels
        self._resources = graphs.has_resources(model.graph)
        self._interpreter = self._opened()
        # Unknown dimensions default to 1, with which a model may fail to allocate: wait for the data's.
        if not any(None in port.shape[1:] for port in self.ports.values()):
            self._allocate()

    def call(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of one call: float32 where the model's are float or quantized, integers as they are."""
        given = {self.ports[name].index: np.ascontiguousarray(values) for name, values in tensors.items()}
        try:
            outputs = self._invoked(given) if self._model.signature.subgraph == 0 else self._signature_called(given)
        except (RuntimeError, ValueError) as error:
            self._interpreter = self._opened()  # a failed allocation leaves the interpreter unusable
            raise _refused(self.path, str(error), self._kernels, "run", self._model.graph) from error
        except KeyError as error:
            raise ModelFileError(
                f"{self.path} is a damaged .tflite model (its signature does not lead to its inputs and outputs); "
                "convert or copy it again"
            ) from error
        return {name: dequantize(outputs[name], port) for name, port in self.outputs.items()}

    def restart(self) -> None:
        """Forget what earlier calls left."""
        if self._resources:  # resource variables survive reset_all_variables
            self._interpreter = self._opened()
            return
        if not self._allocated:
            self._allocate()
        self._interpreter.reset_all_variables()

    def _opened(self) -> Interpreter:
        self._allocated = False
        return self._model.interpreter(self._kernels)

    def _allocate(self) -> None:
        try:
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise _refused(self.path, str(error), self._kernels, graph=self._model.graph) from error
        self._allocated = True

    def _invoked(self, feeds: Mapping[int, Array]) -> dict[str, Array]:
        current = {d["index"]: tuple(int(s) for s in d["shape"]) for d in self._interpreter.get_input_details()}
        changed = {index: values.shape for index, values in feeds.items() if current[index] != values.shape}
        for index, shape in changed.items():
            self._interpreter.resize_tensor_input(index, shape)
        if changed or not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True
        for index, values in feeds.items():
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(port.index) for name, port in self.outputs.items()}

    def _signature_called(self, feeds: Mapping[int, Array]) -> dict[str, Array]:
        """A signature of another subgraph than the first is run by its key alone; it resizes what it is given."""
        called = self._interpreter.get_signature_runner(self._model.signature.key)
        inputs, outputs = called.get_input_details(), called.get_output_details()
        results = called(**{name: feeds[detail["index"]] for name, detail in inputs.items()})
        by_index = {outputs[name]["index"]: values for name, values in results.items()}
        return {name: by_index[port.index] for name, port in self.outputs.items()}


def _refuse_more_inputs(model: Model, bound: Mapping[str, Port]) -> None:
    more = [name for name, port in model.inputs.items() if port not in bound.values()]
    if more:
        raise EvaluationError(
            "binding",
            f"{model.path} has an input that the reference does not have: {', '.join(more)}; name the file that was "
            "converted from this reference, or the reference that it was converted from",
        )


NO_KERNEL = (
    (
        r"unresolved custom op: Flex(\w+)|Flex(\w+)",
        "the TensorFlow operator",
        "convert it with built-in operators only",
    ),
    (r"unresolved custom op: ([^\s.]+)", "the custom operator", "replace it in the model"),
    (
        r"builtin opcode '(\w+)' version '\d+'",
        "a newer version of the operator",
        "install a newer ai-edge-litert, or convert with an older TensorFlow",
    ),
)


def _refused(
    path: str, message: str, kernels: LiteRT, kind: str = "model-file", graph: graphs.Graph | None = None
) -> EvaluationError:
    """LiteRT's refusal for people: the operator that it has no kernel for, or its own first line."""
    for pattern, what, advice in NO_KERNEL:
        found = re.search(pattern, message)
        if found:
            name = next(group for group in found.groups() if group)
            return EvaluationError("no-kernel", f"{path} needs {what} {name}, for which LiteRT has no kernel; {advice}")
    if kernels == "default" and "xnnpack" in message.lower():
        return EvaluationError(
            "run",
            f'{path}: LiteRT\'s optimized kernels fail ({first_line(message)}); set "kernels": "reference" to run it '
            "with the plain ones",
        )
    if unprepared := not_prepared(message, graph):
        return EvaluationError("no-kernel", f"{path}: {unprepared}")
    if kind == "run":
        return EvaluationError("run", f"{path} cannot be run: {first_line(message)}")
    return ModelFileError(f"LiteRT refuses {path}: {first_line(message)}; convert it again with a current TensorFlow")


def quantize(values: Array, port: Port) -> Array:
    """Reals to the port's integers: x / scale + zero point, rounded half to even in float32, clipped to the range."""
    limits = np.iinfo(np.dtype(port.dtype))
    # float32, in which devices compute, does not hold the limits of 32 bits.
    real: Any = np.float32 if limits.bits <= 16 else np.float64
    scaled = np.rint(values.astype(real) / real(port.scale)) + real(port.zero_point)
    if not np.isfinite(scaled).all():
        raise DataError(
            "the data holds NaN or infinity, which cannot be quantized; clean it or leave those examples out"
        )
    steps: Array = np.clip(scaled, limits.min, limits.max).astype(port.dtype)
    return steps


def dequantize(values: Array, port: Port) -> Array:
    """The port's integers to float32: (q - zero point) * scale; other floats to float32, integers as they are."""
    if port.quantized:
        real: Any = np.float32 if np.dtype(port.dtype).itemsize <= 2 else np.float64
        reals: Array = ((values.astype(real) - real(port.zero_point)) * real(port.scale)).astype(np.float32)
        return reals
    plain: Array = values.astype(np.float32) if values.dtype.kind == "f" else values
    return plain
