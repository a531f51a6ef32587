"""The laboratory of a diagnosis on real models: flatbuffers in memory, interpreters that are kept.

It quantizes through what is passed in, the converter's second half or the LiteRT Quantizer, so that one procedure
serves both. Loads no TensorFlow itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_guard.datasets import Batch, about
from tflite_guard.diagnosis.evidence import decibels
from tflite_guard.diagnosis.lab import (
    Change,
    FloatGraph,
    Form,
    Made,
    Option,
    Port,
    Ports,
    Ranges,
    Samples,
    TensorView,
)
from tflite_guard.engine import feeds, narrower
from tflite_guard.engine import graph as graphs
from tflite_guard.engine.calibrate import instrumented, measured_ranges, observations
from tflite_guard.engine.evaluate import Scorer, Subject, named, opened
from tflite_guard.engine.float_file import FloatFile
from tflite_guard.engine.outputs import batch_size, recorded_outputs
from tflite_guard.engine.tflite import Bound, Model, Runner
from tflite_guard.engine.weights import Pair
from tflite_guard.errors import DataError
from tflite_guard.metrics import Scores, statistic
from tflite_guard.results import Measurement
from tflite_guard.vocabulary import Kernels, LiteRT

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Quantizer = Callable[[bytes, Ranges, Sequence[str]], bytes]
"""A float flatbuffer, ranges, and the names of results to leave in float, to a model with float inputs and outputs."""
MOST_EXAMPLES = 1536
"""Some choose, some confirm, the rest verifies."""
MOST_BYTES = 192 * 2**20
"""Of inputs held in memory, and of the activations of one look at all tensors."""
BATCH = 64
LOOKED_AT = 32
"""Examples on which every activation is looked at."""
MOST_VALUES = 32 * 2**20
"""Bytes of a few activations' values, beyond which no further example is looked at."""
INTEGERS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
LEVELS = 255


@dataclass
class Held:
    """A model with an interpreter for each thread, made when first needed."""

    model: Model
    like: Held | None = None
    """A model of the same operators, known to give in batches what it gives one by one, or not to."""
    runners: dict[str, list[Bound]] = field(default_factory=dict)


@dataclass
class EngineLab:
    """A laboratory for one variant."""

    subject: Subject
    """The judged artifact, with the data and the reference's outputs."""
    float_model: bytes
    """The float flatbuffer, in which every activation that can be quantized has a range."""
    quantizer: Quantizer | None
    """None where nothing can be quantized here."""
    converter: Callable[[Option], bytes]
    column: str
    """The name of the measurement that is diagnosed."""
    calibration: Samples | None
    calibration_name: str
    recipe: str | None
    shipped: bool
    preprocess: tuple[Any, Any] = (None, None)
    kernels: Kernels = "default"
    recording: str | None = None
    """The .npz of outputs that the user's application recorded."""

    def __post_init__(self) -> None:
        self._rows, self._sources, self.evaluation, self._labels, self._slices = _gathered(self.subject)
        self._places: dict[str, str] = {}
        self.artifact = Held(self.subject.model)
        self.float32 = Held(Model.read(self.float_model, reference=self.subject.names.signature))
        integers = {t.dtype for t in self.subject.model.graph.main.tensors if t.scale.size and not t.constant}
        # Experiments quantize activations to 8 bits, so they explain nothing of a file that does not.
        self.eight_bits = bool(integers & {"int8", "uint8"})
        self.quantizable = self.quantizer is not None and self.eight_bits

    @cached_property
    def _file(self) -> FloatFile:
        return FloatFile(self.float_model, lambda: self._singly(self.evaluation.take([0])))

    @property
    def graph(self) -> FloatGraph:
        """The float model's activations and operators."""
        return self._file.graph

    @cached_property
    def artifact_ranges(self) -> Ranges:
        """The ranges that the artifact's scales and zero points say, by the float graph's names."""
        tensors = self.subject.model.graph.main.tensors
        ranges = {name: represented(tensors[index]) for name, index in self._holders.items()}
        return {name: pair for name, pair in ranges.items() if pair is not None}

    @cached_property
    def artifact_names(self) -> Mapping[str, str]:
        """What the artifact calls the tensors that hold the integers, by the float graph's names."""
        tensors = self.subject.model.graph.main.tensors
        return {name: tensors[index].name for name, index in self._holders.items() if tensors[index].name}

    @cached_property
    def _holders(self) -> dict[str, int]:
        return integer_holders(self.subject.model.graph.main, self._file.read.main)

    def reference(self, rows: Array) -> Arrays:
        """The reference's outputs."""
        recorded, places = self.subject.recorded, self._rows[rows]
        return {name: recorded.at(name, places) for name in self.subject.names.outputs}

    def outputs(self, handle: Held, samples: Samples, kernels: Kernels | None = None) -> Arrays:
        """A model's outputs, by as many threads as the laboratory has, with the variant's kernels or others."""
        judged = self.kernels if handle is self.artifact else self._litert
        runners = self._runners(handle, samples, kernels or judged)
        with self.subject.doing("ran an experiment's model"):
            return _run(runners, samples)

    @property
    def _litert(self) -> LiteRT:
        """The kernels of experiments: those of a microcontroller take too long for hundreds of them."""
        return "default" if self.kernels == "micro" else self.kernels

    def _runners(self, handle: Held, samples: Samples, kernels: Kernels) -> list[Bound]:
        if kernels not in handle.runners:
            with self.subject.doing("prepared the operators of an experiment's model"):
                made = opened(handle.model, kernels, self.subject.names, self.subject.threads)
            if handle.like is None:
                made[0].self_check(samples.take(range(min(samples.count, 4))).inputs)
            else:
                made[0].one_by_one |= self._runners(handle.like, samples, kernels)[0].one_by_one
            handle.runners[kernels] = made
        return handle.runners[kernels]

    @cached_property
    def _fed(self) -> list[Runner]:
        return [_Fed(self.subject.model, self._litert, self.subject.names) for _ in range(self.subject.threads)]

    def fed(self, inputs: Arrays) -> Arrays:
        """The artifact's outputs for inputs as its tensors take them."""
        samples = Samples(inputs)
        self._fed[0].self_check(samples.take(range(min(samples.count, 4))).inputs)
        return _run(self._fed, samples)

    @cached_property
    def ports(self) -> Ports:
        """The artifact's inputs and outputs, by the reference's names."""
        runner = self._fed[0]
        inputs, outputs = (
            {name: Port(port.dtype, port.scale, port.zero_point) for name, port in side.items()}
            for side in (runner.ports, runner.outputs)
        )
        return Ports(inputs, outputs)

    @cached_property
    def observed(self) -> Arrays | None:
        """What the user's application recorded for the examples of the laboratory."""
        if self.recording is None:
            return None
        subject = self.subject
        stream = recorded_outputs(self.recording, subject.dataset, subject.open_data)
        kept = _picked((named(batch.inputs, subject.names, self.recording) for batch in stream), self._rows)
        return {name: kept[name] for name in subject.names.outputs}

    def scores(self, outputs: Arrays, rows: Array) -> Scores:
        """Per-example scores of the metric that is diagnosed."""
        return self._scorer(outputs, rows).scores(self.column)

    def statistic(self, scores: Mapping[str, Array], weights: Array) -> Array:
        """The metric for each row of weights: of the reference, and of the model."""
        return statistic(self._spec, dict(scores))(weights)

    def measured(self, outputs: Arrays, rows: Array) -> list[tuple[str, Measurement]]:
        """Every metric of the variant."""
        return self._scorer(outputs, rows).measurements()

    @cached_property
    def _spec(self) -> Any:
        return self.subject.scorer().spec(self.column)

    def _scorer(self, outputs: Arrays, rows: Array) -> Scorer:
        scorer = self.subject.scorer()
        labels, slices = ({key: values[rows] for key, values in one.items()} for one in (self._labels, self._slices))
        inputs = self.evaluation.take(rows).inputs
        scorer.add(Batch(inputs, labels, None, 0, self._sources[rows], slices), outputs, self.reference(rows))
        return scorer

    def quantize(self, change: Change) -> Held:
        """An experiment's model."""
        assert self.quantizer is not None
        changed = self._file.with_constants(change.constants or {})
        kept = set(change.keep)
        touched = [one for one in self.graph.operators if kept & {*one.inputs, *one.outputs}]
        model = self.quantizer(changed, change.ranges, [name for one in touched for name in one.outputs])
        return Held(Model.read(model), like=self.float32)

    def convert(self, option: Option) -> Made:
        """What the user would get by an option."""
        model = self.converter(option)
        read = Model.read(model, path="the remedy")
        return Made(Held(read), len(model), len(graphs.float_operators(read.graph)))

    def ranges(self, samples: Samples, constants: Mapping[str, Array] | None = None) -> Ranges:
        """Each activation's true range in the float graph, with some of its constants replaced."""
        return measured_ranges(self._file.with_constants(constants or {}), lambda: self._singly(samples))

    def edited(self, constants: Mapping[str, Array]) -> Held:
        """The float model with some of its constants replaced."""
        model = Model.read(self._file.with_constants(constants), reference=self.subject.names.signature)
        return Held(model, like=self.float32)

    def width(self, tensor: str) -> int:
        """The length of an activation's last axis, as it is when it runs."""
        return self._file.width(tensor)

    def _singly(self, samples: Samples) -> Iterator[dict[str, Array]]:
        each = ({name: values[i : i + 1] for name, values in samples.inputs.items()} for i in range(samples.count))
        return feeds.calibration_examples(each, self.subject.names.inputs, None)

    def tensors(self, ranges: Ranges, rows: Array, *, alone: bool = False) -> list[TensorView]:
        """How each activation fares on a few examples when quantized with some ranges, in the graph or each alone."""
        few = self.evaluation.take(rows[:LOOKED_AT])
        looks = {name: _Look(*ranges[name]) for name in self.graph.activations if name in ranges}
        quantized = self._quantized_values(ranges, few) if self.quantizable and not alone else None
        model, twins = (self._file.content, {}) if alone else narrower.twins(self._file)
        for exact in FloatFile(model, self._file.examples).observed([*looks, *twins.values()], self._singly(few)):
            theirs = next(quantized) if quantized is not None else {}
            for name, look in looks.items():
                if name in exact:
                    look.add(exact[name], exact.get(twins.get(name, name)), theirs.get(name))
        kinds = {name: one.type for one in self.graph.operators for name in one.outputs}
        return [look.view(name, kinds.get(name, "input")) for name, look in looks.items() if look.seen]

    def values(self, tensors: Sequence[str], samples: Samples) -> list[Arrays]:
        """Some activations' finite values in the float graph, flat, for a few examples from all over the samples."""
        few = samples.take(np.linspace(0, samples.count - 1, min(samples.count, LOOKED_AT)).astype(int))
        found: list[Arrays] = []
        size = 0
        for values in self._file.observed(tensors, self._singly(few)):
            found.append({name: value.reshape(-1) for name, value in values.items()})
            size += sum(value.nbytes for value in values.values())
            if size > MOST_VALUES:
                break
        return found

    def _quantized_values(self, ranges: Ranges, samples: Samples) -> Iterator[dict[str, Array]]:
        """Each example's activations in the quantized graph, as reals, by name."""
        model = self.quantize(Change(ranges)).model
        content = model.content
        assert content is not None
        graph = graphs.read(content)
        holders = integer_holders(graph.main, self._file.read.main)
        held = {i: graph.main.tensors[i] for i in holders.values()}
        # A recipe's inputs are integers.
        runner = Runner(model, self._litert, self.subject.names)
        fed = ({key: runner.prepared(key, value) for key, value in one.items()} for one in self._singly(samples))
        for values in observations(instrumented(content), graph, fed, held):
            reals = {
                i: (value.astype(np.float32) - np.float32(held[i].zero_point[0])) * held[i].scale[0]
                for i, value in values.items()
            }
            yield {name: reals[i] for name, i in holders.items() if i in reals}

    def constant(self, name: str) -> Array:
        """A constant of the float model."""
        return self._file.constant(name)

    @cached_property
    def _pair(self) -> Pair:
        return Pair(self._file.read.main, self._file.constants, self.subject.model)

    @cached_property
    def form(self) -> Form:
        """What the artifact's weights are."""
        constants = {t.dtype for t in self.subject.model.graph.main.tensors if t.constant and t.shape}
        return (
            "integer" if constants & {"int8", "uint8", "int4"} else "float16" if "float16" in constants else "float32"
        )

    def largest_constant(self) -> float:
        """The largest absolute value among the float model's constants."""
        return max(
            (float(np.abs(values).max()) for values in self._file.constants.values() if values.size), default=0.0
        )

    def weights_alike(self) -> float | None:
        """The smallest cosine of the artifact's weights with the float model's, of the median output channel."""
        return self._pair.alike()

    def weights_differ(self) -> float | None:
        """The largest difference of the artifact's weights from the float model's, in the artifact's own steps."""
        return self._pair.steps_apart()

    def float16(self) -> Held:
        """The float model with its constants rounded to float16."""
        return Held(Model.read(narrower.float16(self._file)), like=self.float32)

    def rounded(self) -> Held:
        """The float model with its weights rounded to 8 bits, a scale for each output channel."""
        return Held(Model.read(narrower.weights(self._file)), like=self.float32)

    def int16x8(self, ranges: Ranges) -> Held | None:
        """The same with activations rounded to 16 bits of these ranges; None where that cannot be made."""
        model = narrower.int16x8(self._file, ranges)
        return None if model is None else Held(Model.read(model), like=self.float32)

    def place(self, tensor: str) -> str:
        """The shortest `keep_float` pattern that means just this tensor."""
        if tensor not in self._places:
            self._places[tensor] = graphs.shortest_pattern(self._file.read, tensor)
        return self._places[tensor]

    def layer(self, tensor: str) -> str:
        """The layer that computes a tensor."""
        producer = self.graph.producer(tensor) if tensor in self.graph.outputs else None
        # An output goes by a name of its own; its layer is told by what the operator reads.
        read = () if producer is None else (*producer.constants, *producer.inputs)
        return next((layer for name in read if (layer := graphs.layer_of(name))), self.place(tensor))


class _Fed(Runner):
    """Takes integers as they are."""

    def prepared(self, name: str, values: Array) -> Array:  # noqa: ARG002
        return values


def _run(runners: Sequence[Bound], samples: Samples) -> Arrays:
    """Outputs computed by as many threads as there are runners; the first knows whether examples go one by one."""
    for runner in runners:
        runner.one_by_one = runners[0].one_by_one
    share = np.array_split(np.arange(samples.count), len(runners))

    def run(runner: Runner, rows: Array) -> list[Arrays]:
        starts = range(0, len(rows), BATCH)
        return [runner.run(samples.take(rows[start : start + BATCH]).inputs) for start in starts]

    with ThreadPoolExecutor(len(runners)) as pool:
        parts = [part for done in pool.map(run, runners, share) for part in done]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _picked(batches: Iterator[Arrays], rows: Array) -> Arrays:
    """Some rows, in this order, of arrays that come in batches."""
    wanted = np.sort(rows)
    parts: list[Arrays] = []
    start = 0
    for batch in batches:
        count = len(next(iter(batch.values())))
        own = wanted[(wanted >= start) & (wanted < start + count)] - start
        parts.append({name: values[own] for name, values in batch.items()})
        start += count
    place = np.searchsorted(wanted, rows)
    return {name: np.concatenate([part[name] for part in parts])[place] for name in parts[0]}


def _gathered(subject: Subject) -> tuple[Array, Array, Samples, Arrays, Arrays]:
    """A sample of the evaluation data without replacement, in random order.

    Its places among the examples that are evaluated, its rows in the data's source, its inputs, labels and slices.
    """
    total = subject.recorded.examples
    order = np.random.default_rng(0).permutation(total)[:MOST_EXAMPLES]
    wanted = np.sort(order)
    inputs: list[Arrays] = []
    labels: list[Arrays] = []
    slices: list[Arrays] = []
    data = subject.data()
    with about(subject.dataset):
        for batch in data.batches(batch_size(data, subject.recorded.example_bytes)):
            count = len(next(iter(batch.inputs.values())))
            if not inputs:
                each = sum(values[:1].nbytes for values in batch.inputs.values()) + subject.recorded.example_bytes
                order = order[: max(30, MOST_BYTES // max(1, each))]
                wanted = np.sort(order)
            own = wanted[(wanted >= batch.start) & (wanted < batch.start + count)] - batch.start
            inputs.append({name: np.asarray(values)[own] for name, values in batch.inputs.items()})
            labels.append({name: np.asarray(values)[own] for name, values in batch.labels.items()})
            slices.append({key: values[own] for key, values in batch.slices.items()})
    if not inputs:
        raise DataError("the evaluation data holds no examples")
    place = np.searchsorted(wanted, order)
    shuffled, labelled, sliced = (
        {name: np.concatenate([part[name] for part in parts])[place] for name in parts[0]}
        for parts in (inputs, labels, slices)
    )
    return order, np.asarray(data.rows)[order], Samples(shuffled), labelled, sliced


def gathered_calibration(examples: Iterator[Arrays]) -> Samples | None:
    """Calibration examples, batches of one each, as far as memory allows; None where their shapes differ."""
    held: list[Arrays] = []
    size = 0
    for example in examples:
        size += sum(values.nbytes for values in example.values())
        if held and (size > MOST_BYTES or any(values.shape != held[0][name].shape for name, values in example.items())):
            break
        held.append(example)
    return Samples({name: np.concatenate([one[name] for one in held]) for name in held[0]}) if held else None


class _Look:
    """One activation, example by example."""

    def __init__(self, low: float, high: float) -> None:
        low, high = min(low, 0.0), max(high, 0.0)
        self._scale = (high - low) / LEVELS or 1.0
        self._zero = np.rint(-low / self._scale)
        self._signal = self._alone = self._other = 0.0
        self._channels: Array | None = None
        self._powers: Array | None = None
        self._codes = np.zeros(LEVELS + 1, bool)
        self._clipped = self._values = 0
        self._compared = False
        self.seen = False

    def add(self, value: Array, alone: Array | None, quantized: Array | None) -> None:
        """Take in its values: exact, of rounded weights and else exact, and in the quantized graph."""
        rows = value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1).astype(np.float64)
        if self._channels is not None and len(self._channels) != rows.shape[1]:
            return  # values were left out that are not finite
        steps, codes = self._quantized(rows)
        powers = np.stack([_power(rows), _power(self._real(codes) - rows)])
        if alone is None or alone is value or alone.size != value.size:
            self._alone += float(powers[1].sum())
        else:
            given = self._quantized(alone.reshape(rows.shape).astype(np.float64))[1]
            self._alone += float(_power(self._real(given) - rows).sum())
        ends = np.stack([rows.min(0), rows.max(0)], 1)
        if self._powers is None or self._channels is None:
            self._powers, self._channels = powers, ends
        else:
            self._powers = self._powers + powers
            self._channels = np.stack(
                [np.minimum(self._channels[:, 0], ends[:, 0]), np.maximum(self._channels[:, 1], ends[:, 1])], 1
            )
        self._codes[codes.astype(np.intp)] = True
        # A softmax's 1.0 lies beyond its last step by design; what is lost begins a whole step outside.
        self._clipped += int(np.count_nonzero(np.abs(steps - codes) > 1))
        self._values += rows.size
        self._signal += float(powers[0].sum())
        self.seen = True
        if quantized is not None and quantized.size == rows.size:
            self._compared = True
            self._other += float(_power(quantized.reshape(rows.shape) - rows).sum())

    def _real(self, codes: Array) -> Array:
        reals: Array = (codes - self._zero) * self._scale
        return reals

    def _quantized(self, values: Array) -> tuple[Array, Array]:
        """The integers that values round to, from zero on, and those that hold them."""
        steps = np.rint(values / self._scale) + self._zero
        return steps, np.clip(steps, 0, LEVELS)

    def view(self, name: str, operator: str) -> TensorView:
        assert self._powers is not None
        assert self._channels is not None
        low, high = float(self._channels[:, 0].min()), float(self._channels[:, 1].max())
        each = [decibels(float(s), float(n)) for s, n in self._powers.T if s > 0]
        known = [one for one in each if one is not None]
        return TensorView(
            name=name,
            operator=operator,
            range=(low, high),
            channels=self._channels,
            isolated=decibels(self._signal, self._alone),
            worst_channel=min(known, default=None),
            cumulative=decibels(self._signal, self._other) if self._compared else None,
            clipped=self._clipped / self._values,
            codes=int(self._codes.sum()),
        )


def _power(rows: Array) -> Array:
    """Each channel's sum of squares."""
    power: Array = np.einsum("ij,ij->j", rows, rows)
    return power


def integer_holders(quantized: graphs.Subgraph, float32: graphs.Subgraph) -> dict[str, int]:
    """The tensors of a quantized graph that hold the integers of a float graph's activations, by the latter's names.

    They are found by name, else by place where operators correspond; what is float is followed to its integers.
    """
    held = {i: i for i, t in enumerate(quantized.tensors) if represented(t) is not None}
    for op in quantized.operators:
        if op.type == "QUANTIZE" and op.outputs[0] in held:
            held.setdefault(op.inputs[0], held[op.outputs[0]])
        if op.type == "DEQUANTIZE" and op.inputs[0] in held:
            held.setdefault(op.outputs[0], held[op.inputs[0]])
    wanted = {t.name for t in float32.tensors if t.dtype == "float32" and not t.constant}
    by_name = {quantized.tensors[i].name: i for i in held if quantized.tensors[i].name in wanted}
    found = {**_by_place(quantized, float32), **by_name}
    return {name: held[i] for name, i in found.items() if i in held}


def _by_place(quantized: graphs.Subgraph, float32: graphs.Subgraph) -> dict[str, int]:
    computing = [op for op in quantized.operators if op.type not in graphs.CONVERSIONS]
    exact = [op for op in float32.operators if op.type not in graphs.CONVERSIONS]
    found = dict(zip((float32.tensors[i].name for i in float32.inputs), quantized.inputs, strict=False))
    if [op.type for op in computing] == [op.type for op in exact]:
        for own, other in zip(computing, exact, strict=True):
            found |= dict(zip((float32.tensors[i].name for i in other.outputs), own.outputs, strict=False))
    return found


def represented(tensor: graphs.Tensor) -> tuple[float, float] | None:
    """The smallest and the largest real that a quantized activation can be; None of any other tensor."""
    if tensor.constant or tensor.scale.size != 1 or tensor.dtype not in INTEGERS:
        return None
    low, high = INTEGERS[tensor.dtype]
    scale, zero = float(tensor.scale[0]), int(tensor.zero_point[0])
    return (low - zero) * scale, (high - zero) * scale
