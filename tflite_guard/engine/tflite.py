"""Running .tflite models through LiteRT: names, quantized inputs and outputs, state, batches, threads."""

from __future__ import annotations

import queue
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tflite_guard.engine import graph as graphs
from tflite_guard.engine.names import compatible, permutation, shape_text
from tflite_guard.errors import DataError, EvaluationError, ModelFileError
from tflite_guard.protocol import Names, TensorInfo
from tflite_guard.vocabulary import Kernels

if TYPE_CHECKING:
    from tflite_guard.datasets import Batch

Array = npt.NDArray[Any]
RESOLVERS = {"default": OpResolverType.AUTO, "reference": OpResolverType.BUILTIN_REF}
SELF_CHECKED = 32
"""Examples of the first batch that are also run one by one, to see that a batch gives the same."""


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
    def real_dtype(self) -> str:
        """The dtype that a user sees: float32 for quantized tensors."""
        return "float32" if self.quantized else self.dtype


@dataclass(frozen=True)
class Ports:
    """Inputs and outputs of a .tflite by name."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    state: bool = False
    resources: bool = False


def inspect(path: str) -> Ports:
    """Inputs and outputs by the names of the signature (`serving_default`, else the first).

    Without a signature they are the tensors' names, less TensorFlow's `serving_default_` and `:0`. Raises
    EvaluationError of kind `unassigned-variables` for a file without its weights.
    """
    graph = graphs.read(path)
    _refuse_unassigned(path, graph)
    inputs, outputs = graphs.io_names(graph)
    tensors = graph.main.tensors
    return Ports(
        {name: _port(i, tensors[i]) for name, i in inputs.items()},
        {name: _port(i, tensors[i]) for name, i in outputs.items()},
        graphs.has_state(graph),
        graphs.has_resources(graph),
    )


def _refuse_unassigned(path: str, graph: graphs.Graph) -> None:
    missing = graphs.unassigned_variables(graph)
    if missing:
        raise EvaluationError(
            "unassigned-variables",
            f"{path} reads variables that nothing in it assigns ({', '.join(missing[:3])}): the converter left the "
            "weights out, as it does for a Keras 3 model written with tf.saved_model.save; convert it anew from "
            "model.export(folder), or with TFLiteConverter.from_keras_model",
        )


def _port(index: int, tensor: graphs.Tensor) -> Port:
    integers = tensor.dtype in ("int8", "uint8", "int16") and len(tensor.scale) == 1
    scale, zero = (float(tensor.scale[0]), int(tensor.zero_point[0])) if integers else (0.0, 0)
    return Port(index, tensor.shape_signature, tensor.dtype, scale, zero)


def names_of(path: str) -> Names:
    """A .tflite's names as those of a reference, dequantized."""
    return _own_names(inspect(path))


def _own_names(ports: Ports) -> Names:
    inputs, outputs = (
        {name: TensorInfo(port.shape, port.real_dtype) for name, port in side.items()}
        for side in (ports.inputs, ports.outputs)
    )
    return Names(inputs, outputs)


def bind(
    path: str, ports: Mapping[str, Port], expected: Mapping[str, TensorInfo], aliases: Mapping[str, str], side: str
) -> dict[str, Port]:
    """The ports by the expected names: same name, then alias, then the only one of its shape and kind.

    Never by position. Raises EvaluationError of kind `binding` where that leaves a doubt.
    """
    bound = {name: ports[name] for name in expected if name in ports}
    for name, port in ports.items():
        target = aliases.get(name, "")
        if target in expected and target not in bound and name not in bound:
            bound[target] = port
    rest = {name: port for name, port in ports.items() if port not in bound.values()}
    bound |= _only_fits(path, rest, {name: info for name, info in expected.items() if name not in bound}, side)
    for name, port in bound.items():
        if not (_fits(port, expected[name]) or (side == "output" and _shaped(port, expected[name]))):
            raise _unbound(path, name, expected[name], {name: port}, side)
    return {name: bound[name] for name in expected}


def _only_fits(path: str, ports: Mapping[str, Port], wanted: Mapping[str, TensorInfo], side: str) -> dict[str, Port]:
    """Each wanted name's port, where one alone fits it and it fits no other name."""
    fitting = {name: [port for port in ports.values() if _fits(port, info)] for name, info in wanted.items()}
    for name, candidates in fitting.items():
        if len(candidates) != 1 or sum(candidates[0] in others for others in fitting.values()) > 1:
            raise _unbound(path, name, wanted[name], ports, side)
    return {name: candidates[0] for name, candidates in fitting.items()}


def _fits(port: Port, info: TensorInfo) -> bool:
    same_kind = np.dtype(_known(port.real_dtype)).kind == np.dtype(_known(info.dtype)).kind
    return same_kind and _shaped(port, info)


def _shaped(port: Port, info: TensorInfo) -> bool:
    return compatible(port.shape, info.shape) or compatible((None, *port.shape), info.shape)


def _known(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else "O" if dtype in ("string", "resource", "variant") else dtype


def _unbound(path: str, name: str, info: TensorInfo, ports: Mapping[str, Port], side: str) -> EvaluationError:
    found = ", ".join(f"{n} {shape_text(p.shape)} {p.real_dtype}" for n, p in ports.items()) or "none left"
    wanted = f"{name} {shape_text(info.shape)} {info.dtype}"
    advice = "convert it with a signature that has the reference's names, or record the reference's outputs as they are"
    return EvaluationError(
        "binding", f"{path}: no {side} corresponds without doubt to the reference's {wanted} (it has {found}); {advice}"
    )


class Runner:
    """One single-threaded interpreter, bound to canonical names. Not for use by two threads at a time."""

    def __init__(self, path: str, kernels: Kernels = "default", expected: Names | None = None) -> None:
        self.path = path
        self._kernels = kernels
        ports = inspect(path)
        if not ports.inputs or not ports.outputs:
            raise ModelFileError(f"{path} has no inputs or no outputs; there is nothing to evaluate")
        self._expected = expected or _own_names(ports)
        self._free = expected is None
        aliases = (self._expected.input_aliases, self._expected.output_aliases)
        self.inputs = bind(path, ports.inputs, self._expected.inputs, aliases[0], "input")
        self.outputs = bind(path, ports.outputs, self._expected.outputs, aliases[1], "output")
        _refuse_more_inputs(path, ports, self.inputs)
        self._state, self._resources = ports.state, ports.resources
        # Unknown dimensions default to 1, with which a model may fail to allocate: wait for the data's.
        self._open_dimensions = any(None in port.shape[1:] for port in self.inputs.values())
        self._interpreter = self._opened()
        self.one_by_one = ports.state

    def _opened(self) -> Interpreter:
        self._allocated = not self._open_dimensions
        return open_interpreter(self.path, self._kernels, allocate=self._allocated)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs for a batch: float32 where the model's are float or quantized, integers where they are integers.

        `inputs` maps every canonical name to (n, …). Raises DataError for a wrong shape or dtype.
        """
        raw = self.run_raw(inputs)
        return {name: dequantize(raw[name], port) for name, port in self.outputs.items()}

    def run_raw(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs for a batch as the model gives them, integers not dequantized."""
        feeds = self._feeds(inputs)
        examples = len(next(iter(feeds.values())))
        if not self.one_by_one and examples > 1:
            batched = self._batched(feeds, examples)
            if batched is not None:
                return batched
            self.one_by_one = True
        return self._singly(feeds, examples)

    def self_check(self, inputs: Mapping[str, Array]) -> None:
        """Turn to one by one when a batch does not give what its examples give singly."""
        if self.one_by_one:
            return
        few = {name: values[:SELF_CHECKED] for name, values in inputs.items()}
        together = self.run_raw(few)
        if self.one_by_one:
            return
        singly = self._singly(self._feeds(few), len(next(iter(few.values()))))
        self.one_by_one = not all(_same(together[n], singly[n]) for n in self.outputs)

    def _feeds(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise DataError(
                f"{self.path}: the data has no array for the model's input {missing[0]} (it has {', '.join(inputs)})"
            )
        return {name: self._feed(name, port, np.asarray(inputs[name])) for name, port in self.inputs.items()}

    def _feed(self, name: str, port: Port, values: Array) -> Array:
        # Without a reference's names, integers of the very input type are taken as quantized already.
        raw_given = self._free and port.quantized and values.dtype == np.dtype(port.dtype)
        if not raw_given:
            check_dtype(name, values, port.real_dtype)
        check_shape(name, values, self._example_shape(port, values))
        if raw_given or not port.quantized:
            return cast(name, values, port.dtype)
        return quantize(values, port)

    def _example_shape(self, port: Port, values: Array) -> tuple[int | None, ...]:
        return (None, *port.shape) if values.ndim == len(port.shape) + 1 else port.shape

    def _batched(self, feeds: Mapping[str, Array], examples: int) -> dict[str, Array] | None:
        """Outputs for all examples at once; None when the model's batch cannot be resized."""
        if any(feeds[name].ndim != len(port.shape) for name, port in self.inputs.items()):
            return None
        try:
            self._resize({port.index: feeds[name].shape for name, port in self.inputs.items()})
            outputs = self._invoke(feeds)
        except (RuntimeError, ValueError):
            # A failed allocation leaves the interpreter unusable.
            self._interpreter = self._opened()
            return None
        return outputs if all(out.ndim and out.shape[0] == examples for out in outputs.values()) else None

    def _resize(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        current = {d["index"]: tuple(int(s) for s in d["shape"]) for d in self._interpreter.get_input_details()}
        changed = {index: shape for index, shape in shapes.items() if current[index] != shape}
        for index, shape in changed.items():
            self._interpreter.resize_tensor_input(index, shape)
        if changed or not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True

    def _singly(self, feeds: Mapping[str, Array], examples: int) -> dict[str, Array]:
        results = [self._single({name: values[i : i + 1] for name, values in feeds.items()}) for i in range(examples)]
        return {name: np.concatenate([result[name] for result in results]) for name in self.outputs}

    def _single(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of one example, each with a first axis of 1, from a state as after loading."""
        shaped = {name: self._declared_batch(port, feeds[name]) for name, port in self.inputs.items()}
        try:
            self._reset()
            self._resize({port.index: shaped[name].shape for name, port in self.inputs.items()})
            outputs = self._invoke(shaped)
        except (RuntimeError, ValueError) as error:
            raise _refused(self.path, str(error), "run") from error
        first = next(iter(self.inputs))
        batch = len(shaped[first]) if shaped[first].ndim == feeds[first].ndim else None
        return {name: _one(out, batch) for name, out in outputs.items()}

    def _declared_batch(self, port: Port, values: Array) -> Array:
        """One example as the model declares its batch: without that axis, or repeated to a fixed size."""
        if values.ndim == len(port.shape) + 1:
            first: Array = values[0]
            return first
        fixed = port.shape[0] if port.shape else 1
        return np.repeat(values, fixed or 1, axis=0)

    def _reset(self) -> None:
        if self._resources:  # resource variables survive reset_all_variables
            self._interpreter = self._opened()
        elif self._state:
            self._interpreter.reset_all_variables()

    def _invoke(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for name, port in self.inputs.items():
            self._interpreter.set_tensor(port.index, np.ascontiguousarray(feeds[name]))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(port.index) for name, port in self.outputs.items()}


def _one(output: Array, batch: int | None) -> Array:
    """One example's output with a first axis of 1, from a run on `batch` copies of it, or without a batch axis."""
    batched = batch is not None and output.ndim > 0 and len(output) == batch
    first: Array = output[:1] if batched else output[None]
    return first


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    size = float(np.max(np.abs(other), initial=0.0, where=np.isfinite(other)))
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-6 * size, equal_nan=True))


def _refuse_more_inputs(path: str, ports: Ports, bound: Mapping[str, Port]) -> None:
    more = [name for name, port in ports.inputs.items() if port not in bound.values()]
    if more:
        raise EvaluationError("binding", f"{path} has an input that the reference has not: {', '.join(more)}")


def open_interpreter(path: str, kernels: Kernels = "default", *, allocate: bool = True) -> Interpreter:
    """A single-threaded interpreter, with its tensors allocated if asked for.

    Raises ModelFileError for a file that LiteRT refuses, EvaluationError of kind `no-kernel` for an operator
    that it cannot run.
    """
    try:
        interpreter = Interpreter(model_path=path, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels])
        if allocate:
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _refused(path, str(error)) from error
    return interpreter


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


def _refused(path: str, message: str, kind: str = "model-file") -> EvaluationError:
    """LiteRT's refusal for people: the operator that it has no kernel for, or its own first line."""
    for pattern, what, advice in NO_KERNEL:
        found = re.search(pattern, message)
        if found:
            name = next(group for group in found.groups() if group)
            return EvaluationError("no-kernel", f"{path} needs {what} {name}, for which LiteRT has no kernel; {advice}")
    node = re.search(r"[Nn]ode number (\d+) \((\w+)\) failed to prepare", message)
    if node:
        refusal = f"LiteRT cannot prepare operator {node[2]} (number {node[1]}): {first_line(message)}"
        return EvaluationError(
            "no-kernel", f"{path}: {refusal}; convert it again, with input_shapes if dimensions are unknown"
        )
    if kind == "run":
        return EvaluationError("run", f"{path} cannot be run: {first_line(message)}")
    return ModelFileError(f"LiteRT refuses {path}: {first_line(message)}; convert it again with a current TensorFlow")


def first_line(error: object) -> str:
    """The first line of a message, short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def check_dtype(name: str, values: Array, wanted: str) -> None:
    """Raise DataError unless the data is of the input's kind: float for float, integer for integer."""
    kinds = {"i": "i", "u": "i", "f": "f", "b": "b"}
    given, needed = kinds.get(values.dtype.kind, "?"), kinds.get(np.dtype(_known(wanted)).kind, "?")
    if given == "?" or needed == "?":
        raise DataError(
            f"input {name}: the model takes {wanted} and the data is {values.dtype}, which is not supported"
        )
    if given != needed:
        step = f'{{"cast": "{wanted}"}}'
        raise DataError(
            f"input {name}: the model takes {wanted} and the data is {values.dtype}; add the preprocess step {step}"
        )


def check_shape(name: str, values: Array, wanted: tuple[int | None, ...]) -> None:
    """Raise DataError unless the data's shape is the input's, the batch axis aside."""
    if not compatible(values.shape, wanted):
        takes = shape_text((None, *wanted[1:]))
        given = shape_text((None, *values.shape[1:]))
        axes = permutation(values.shape[1:], wanted[1:])
        advice = (
            f'add the preprocess step {{"transpose": {axes}}}'
            if axes
            else "mend the data, or add a preprocess step (resize, reshape, expand_dims, channels)"
        )
        raise DataError(f"input {name}: the model takes {takes} and the data is {given}; {advice}")


def cast(name: str, values: Array, dtype: str) -> Array:
    """The values in the input's dtype of the same kind. Raises DataError where an integer does not fit."""
    target = np.dtype(dtype)
    if values.dtype == target:
        return values
    if target.kind in "iu" and values.size:
        limits = np.iinfo(target)
        low, high = int(values.min()), int(values.max())
        if low < limits.min or high > limits.max:
            raise DataError(
                f"input {name}: the value {low if low < limits.min else high} does not fit the model's {dtype}"
            )
    return values.astype(target)


def calibration_examples(
    examples: Iterable[Mapping[str, Array]], inputs: Mapping[str, TensorInfo], samples: int | None
) -> Iterator[dict[str, Array]]:
    """At most so many examples (None: all), batches of one, as the model takes them: in its dtypes, and repeated
    where it prescribes a larger batch. Raises DataError for one that does not fit, or where there is none.
    """
    empty = True
    for example in islice(examples, samples):
        empty = False
        yield {name: _fitted(name, info, np.asarray(example[name])) for name, info in inputs.items()}
    if empty:
        raise DataError("the calibration data has no examples")


def _fitted(name: str, info: TensorInfo, values: Array) -> Array:
    check_dtype(name, values, info.dtype)
    check_shape(name, values, info.shape)
    fixed = info.shape[0] if info.shape else 1
    return np.repeat(cast(name, values, info.dtype), fixed or 1, axis=0)


def quantize(values: Array, port: Port) -> Array:
    """Reals to the port's integers: x / scale + zero point, rounded half to even in float32, clipped to the range."""
    limits = np.iinfo(np.dtype(port.dtype))
    scaled = np.rint(values.astype(np.float32) / np.float32(port.scale)) + np.float32(port.zero_point)
    if not np.isfinite(scaled).all():
        raise DataError(
            "the data holds NaN or infinity, which cannot be quantized; clean it or leave those examples out"
        )
    steps: Array = np.clip(scaled, limits.min, limits.max).astype(port.dtype)
    return steps


def dequantize(values: Array, port: Port) -> Array:
    """The port's integers to float32: (q - zero point) * scale; other floats to float32, integers as they are."""
    if port.quantized:
        reals: Array = (values.astype(np.float32) - np.float32(port.zero_point)) * np.float32(port.scale)
        return reals
    plain: Array = values.astype(np.float32) if values.dtype.kind == "f" else values
    return plain


def evaluate_batches(
    path: str, batches: Iterable[Batch], kernels: Kernels, threads: int, expected: Names | None = None
) -> Iterator[tuple[Batch, dict[str, Array]]]:
    """Each batch with its outputs, in order, computed by as many interpreters as threads.

    At most two batches per thread are held at a time, so memory does not grow with the data.
    """
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        return
    leader = Runner(path, kernels, expected)
    leader.self_check(first.inputs)
    runners = _runners(leader, path, kernels, threads, expected)
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[tuple[Batch, Future[dict[str, Array]]]] = deque()
        try:
            for batch in _chained(first, stream):
                pending.append((batch, pool.submit(_run_with, runners, batch.inputs)))
                if len(pending) >= 2 * threads:
                    done, future = pending.popleft()
                    yield done, future.result()
            for done, future in pending:
                yield done, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chained(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from rest


def _runners(
    leader: Runner, path: str, kernels: Kernels, threads: int, expected: Names | None
) -> queue.SimpleQueue[Runner]:
    runners: queue.SimpleQueue[Runner] = queue.SimpleQueue()
    runners.put(leader)
    for _ in range(threads - 1):
        runner = Runner(path, kernels, expected)
        runner.one_by_one = leader.one_by_one
        runners.put(runner)
    return runners


def _run_with(runners: queue.SimpleQueue[Runner], inputs: Mapping[str, Array]) -> dict[str, Array]:
    runner = runners.get()
    try:
        return runner.run(inputs)
    finally:
        runners.put(runner)
