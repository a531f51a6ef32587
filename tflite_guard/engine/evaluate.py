"""One .tflite against the reference's outputs: batches in, measurements out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tflite_guard.datasets import Batch, Dataset, about
from tflite_guard.datasets.functions import find_function, user_code
from tflite_guard.datasets.sources import Rows
from tflite_guard.datasets.under_way import Doing, untold
from tflite_guard.engine import graph
from tflite_guard.engine.answers import Answers
from tflite_guard.engine.calibrate import first_not_finite
from tflite_guard.engine.calibration_facts import Beside, Seen
from tflite_guard.engine.collected import Collected, Column, Kinds, Looks, ordered
from tflite_guard.engine.facts import Ranges, Watch, custom_operators, scales
from tflite_guard.engine.macs import macs
from tflite_guard.engine.meant import Meant, meant
from tflite_guard.engine.micro import MicroRunner
from tflite_guard.engine.multi_label import LabelReading
from tflite_guard.engine.outputs import Open, Outputs, batch_size, recorded_outputs, require_finite
from tflite_guard.engine.running import run_batches
from tflite_guard.engine.sequential import Sampling, Scored
from tflite_guard.engine.tflite import PREPARING, Bound, Model, Port, Runner, dequantize
from tflite_guard.errors import DataError, EvaluationError, ModelFileError
from tflite_guard.files import sha256_of
from tflite_guard.manifest.types import DatasetSpec, EvaluationOptions, MetricSpec
from tflite_guard.metrics import Decoded, NamedArrays, Scores, concatenate, measure_python
from tflite_guard.protocol import (
    COLLECTED,
    Evaluation,
    Measured,
    Names,
    ObservedMeasured,
    Piece,
    Sequential,
    Stopping,
    Stretch,
    TensorInfo,
)
from tflite_guard.results import Artifact, Measurement
from tflite_guard.vocabulary import METRICS, Kernels, StateUse

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
OnProgress = Callable[[int, int], None]


@dataclass
class _Whole:
    """A user's own metric, which sees whole arrays at once."""

    spec: MetricSpec
    labels: tuple[str, ...]
    """The keys of those that it sees: one is given as an array, several by name."""
    outputs: list[Arrays] = field(default_factory=list)
    reference_outputs: list[Arrays] = field(default_factory=list)
    wanted: list[Arrays] = field(default_factory=list)

    def add(self, outputs: Arrays, reference: Arrays, labels: Arrays, _rows: Rows, _decoded: Decoded) -> None:
        names = list(reference) if self.spec.output is None else [self.spec.output]
        self.outputs.append({name: outputs[name] for name in names})
        self.reference_outputs.append({name: reference[name] for name in names})
        self.wanted.append({key: labels[key] for key in self.labels})

    def measured(self, groups: Array | None, seed: int, slices: Arrays) -> Measurement:
        outputs, reference = (NamedArrays(_joined(parts)) for parts in (self.outputs, self.reference_outputs))
        wanted = _joined(self.wanted)
        labels = next(iter(wanted.values()), None) if len(wanted) < 2 else wanted
        python = self.spec.python
        assert python is not None
        with user_code(python):
            function = find_function(python.name)
            return measure_python(
                self.spec, function, outputs, reference, labels, groups=groups, seed=seed, slices=slices
            )

    def arrange(self, index: Array) -> None:
        for parts in (self.outputs, self.reference_outputs, self.wanted):
            parts[:] = [{name: values[index] for name, values in _joined(parts).items()}]

    def reference(self) -> float | None:
        """The reference's own value; None where it has none."""
        return self.measured(None, 0, {}).reference


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """Batches of arrays by name, one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


class Scorer:
    """Collects every metric of a variant over aligned batches of outputs, reference outputs and labels."""

    def __init__(self, specs: Sequence[MetricSpec], names: Names, dataset: DatasetSpec, reading: LabelReading) -> None:
        self._dataset = dataset
        self._reading = reading
        self._kinds = Kinds()
        self._columns: list[Column | _Whole] = []
        self._watches: dict[str, Watch] = {}
        for one in meant(specs, names, dataset):
            self._columns.append(self._column(one, alone=len(names.outputs) == 1))
        for output in names.outputs:
            own = [(one.spec, one.labels) for one in self._columns if isinstance(one, Column) and one.output == output]
            self._watches[output] = Watch(output, own)

    def _column(self, one: Meant, *, alone: bool) -> Column | _Whole:
        spec, output = one.spec, one.output
        if output is None:
            return _Whole(spec, one.labels)
        needs, labels = METRICS[spec.metric].needs_labels, next(iter(one.labels), None)
        named = alone or needs or spec.output is not None
        spec = self._reading.settled(spec, output, labels)
        return Column(spec, output, labels if needs else None, spec.name if named else f"{spec.name}[{output}]")

    def add(self, batch: Batch, outputs: dict[str, Array], reference: dict[str, Array]) -> None:
        """Score one batch; every array's first axis is the batch's."""
        decoded: Decoded = {}
        with about(self._dataset):
            self._kinds.add(batch)
            for column in self._columns:
                column.add(outputs, reference, batch.labels, batch.rows, decoded)
            for output, watch in self._watches.items():
                watch.add(outputs[output], reference[output], batch.labels, batch.rows)

    def scores(self, title: str) -> Scores:
        """The per-example scores of the measurement of some name. Raises KeyError where there are none."""
        return concatenate(self._titled(title).scores)

    def spec(self, title: str) -> MetricSpec:
        """The metric of the measurement of some name, as it is computed. Raises KeyError where it has no scores."""
        return self._titled(title).spec

    @property
    def scored(self) -> list[Scored]:
        """Each measurement's name with its metric and the scores so far; without users' own metrics."""
        columns = (one for one in self._columns if isinstance(one, Column))
        return [(one.title, one.spec, concatenate(one.scores)) for one in columns]

    @property
    def reference_values(self) -> dict[str, float]:
        """The reference's own value of each measurement that it has one of, on what was added."""
        values = {
            one.title if isinstance(one, Column) else one.spec.name: one.reference()
            for one in self._columns
            if isinstance(one, _Whole) or one.labels is not None
        }
        return {name: value for name, value in values.items() if value is not None}

    def arrange(self, index: Array) -> None:
        """Bring what was added into another order: `index` are the places that examples come from."""
        for column in self._columns:
            column.arrange(index)
        self._kinds.arrange(index)

    def _titled(self, title: str) -> Column:
        return {one.title: one for one in self._columns if isinstance(one, Column)}[title]

    def measurements(self) -> list[tuple[str, Measurement]]:
        """Each metric's name in the manifest with its measurement."""
        with about(self._dataset):
            groups, slices = self._kinds.whole()
        seed = self._dataset.seed
        return [(column.spec.name, column.measured(groups, seed, slices)) for column in self._columns]

    def answers(self, data: Dataset) -> Answers | None:
        """A collector of decisions on `data`; None where no metric decides."""
        columns = [(one.spec, one.output, one.labels) for one in self._columns if isinstance(one, Column)]
        return Answers.first(columns, data)

    def looks(self, ranges: Ranges, answers: Answers | None, beside: Beside | None) -> Looks:
        """What was seen of the examples that were added, with what was seen of their inputs and by decisions."""
        seen = None if beside is None else beside.seen()
        return Looks(self._watches, self._reading.found, ranges, answers, seen)

    def collected(self, looks: Looks) -> Collected:
        """All that was added. Not for users' own metrics, which see whole arrays."""
        return Collected([one for one in self._columns if isinstance(one, Column)], self._kinds, looks)


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a .tflite, the data, and the reference outputs to compare with."""

    model: Model
    recorded: Outputs
    names: Names
    dataset: DatasetSpec
    """Its inputs and labels by canonical name."""
    metrics: Sequence[MetricSpec]
    threads: int
    open_data: Open
    state: StateUse = "reset"
    doing: Doing = untold
    piece: Piece | None = None
    """None evaluates all examples."""

    def whole(self) -> Dataset:
        """All evaluation data, from its start."""
        return self.open_data(self.dataset, list(self.names.inputs))

    def data(self) -> Dataset:
        """The evaluation data, or the piece of it, from its start."""
        data = self.whole()
        data = data if self.piece is None else data.piece(*self.piece.bounds(data.examples))
        if data.examples != self.recorded.examples:
            raise DataError(
                f"dataset {self.dataset.name!r} has {data.examples} examples and the reference has outputs of "
                f"{self.recorded.examples}; record one row for each example"
            )
        return data

    def runners(self, kernels: Kernels) -> list[Bound]:
        """An interpreter for each thread."""
        with self.doing(PREPARING):
            return opened(self.model, kernels, self.names, self.threads)

    def run(self, runners: Sequence[Bound], data: Dataset) -> Generator[tuple[Batch, dict[str, Array]]]:
        """Batches of the evaluation data with the .tflite's outputs by canonical name."""
        with about(self.dataset):
            size = batch_size(data, self.recorded.example_bytes)
            yield from run_batches(runners, data.batches(size), self.state, data, data.first_of_all(size))

    def scorer(self) -> Scorer:
        """A collector of this subject's metrics."""
        return Scorer(self.metrics, self.names, self.dataset, self._reading)

    @cached_property
    def _reading(self) -> LabelReading:
        return LabelReading(self.recorded, self.whole)

    def reference_rows(self, batch: Batch, count: int) -> dict[str, Array]:
        """The reference's outputs for a batch."""
        return {name: self.recorded.rows(name, batch.start, batch.start + count) for name in self.names.outputs}

    def reference_at(self, places: Array) -> dict[str, Array]:
        """The reference's outputs for examples at some places of the evaluation data."""
        return {name: self.recorded.at(name, places) for name in self.names.outputs}


def opened(model: Model, kernels: Kernels, names: Names, count: int) -> list[Bound]:
    """So many interpreters of some kernels, bound to a reference's names."""
    if kernels == "micro":
        return [MicroRunner(model, names) for _ in range(count)]
    return [Runner(model, kernels, names) for _ in range(count)]


def evaluate(
    subject: Subject,
    options: EvaluationOptions,
    progress: OnProgress,
    calibration: Seen | None = None,
    stopping: Stopping | None = None,
) -> Evaluation:
    """Evaluate a .tflite: its measurements, what it holds, and how recorded outputs compare.

    `calibration` is what it was calibrated on, to be compared with the inputs. With `stopping` no more examples are
    evaluated than it takes to be certain of the verdict.
    """
    data, scorer = subject.data(), subject.scorer()
    sampling = None if stopping is None else Sampling(stopping, data.examples, subject.dataset.seed)
    data = data if sampling is None else data.in_blocks(sampling.blocks)
    looks, same, done = _scored(subject, scorer, data, options, progress, calibration, sampling)
    observed = _observe(subject, options) if options.observed_outputs is not None else None
    measured = scorer.measurements() if sampling is None else sampling.measurements(done, scorer)
    measurements = ordered(measured, same.measurements, subject.metrics)
    found = looks.told(replace(same, measurements=measurements, observed=observed))
    if stopping is None:
        return found
    found = replace(found, mistakes=None)  # of examples in a random order, which may not be all
    sequential = Sequential(done, data.examples, stopping.confidence)
    if not sequential.early:
        return replace(found, sequential=sequential)
    whole, reference = _of_reference(subject)
    seen = {one.output: one.stuck for one in found.outputs}
    outputs = tuple(replace(one, stuck=seen[one.output]) for one in reference.outputs())
    return replace(found, outputs=outputs, sequential=replace(sequential, reference=whole.reference_values))


def collect(
    subject: Subject,
    options: EvaluationOptions,
    progress: OnProgress,
    calibration: Seen | None,
    path: str,
) -> Evaluation:
    """Evaluate a .tflite on a piece: what was collected goes to a file, and what is no example's is given."""
    assert subject.piece is not None
    data, scorer = subject.data(), subject.scorer()
    looks, same, _ = _scored(subject, scorer, data, options, progress, calibration, None)
    scorer.collected(looks).write(path)
    assert data.whole is not None
    of = data.whole.examples
    return replace(same, stretch=Stretch(*subject.piece.bounds(of), of), files=(COLLECTED,))


def _scored(
    subject: Subject,
    scorer: Scorer,
    data: Dataset,
    options: EvaluationOptions,
    progress: OnProgress,
    calibration: Seen | None,
    sampling: Sampling | None,
) -> tuple[Looks, Evaluation, int]:
    """Run a .tflite and score it: what was seen, what is no example's, and how many examples there were."""
    model = subject.model
    runners = subject.runners(options.kernels)
    scoring = _Scoring(subject, scorer, scorer.answers(data), runners[0], sampling, data.file_of)
    beside = None if calibration is None else _beside(subject, data, calibration)
    ranges = Ranges()
    done = 0
    with closing(subject.run(runners, data)) as stream:
        for batch, outputs in stream:
            ranges.add(batch.inputs)
            if beside is not None:
                beside.add(batch.inputs)
            scoring.add(batch, outputs)
            done = batch.start + _length(outputs)
            progress(done, subject.recorded.examples)
            if sampling is not None and sampling.certain(done, scorer):
                break
    size = Path(model.path).stat().st_size
    same = Evaluation(
        measurements=_of_file(subject, size, runners[0]),
        artifact=_artifact(model.graph, size, sha256_of(model.path), options.integer),
        observed=None,
        facts=runners[0].facts(subject.state),
        scales=scales(model.graph, model.file_bytes),
        scaling=subject.names.scaling,
    )
    return scorer.looks(ranges, scoring.answers, beside), same, done


def _beside(subject: Subject, data: Dataset, calibration: Seen) -> Beside:
    of = (data.whole or data).examples
    return Beside(calibration, of, 0 if subject.piece is None else subject.piece.bounds(of)[0])


@dataclass
class _Scoring:
    """Batch after batch with the reference's outputs for the same examples, checked and scored."""

    subject: Subject
    scorer: Scorer
    answers: Answers | None
    runner: Bound
    sampling: Sampling | None
    named: Callable[[int], str | None]

    def add(self, batch: Batch, outputs: Arrays) -> None:
        count = _length(outputs)
        if self.sampling is None:
            reference = self.subject.reference_rows(batch, count)
        else:
            reference = self.subject.reference_at(self.sampling.places[batch.start : batch.start + count])
        self._check(batch, outputs, reference)
        self.scorer.add(batch, outputs, reference)
        if self.answers is not None:
            own = self.answers.output
            self.answers.add(batch, outputs[own], reference[own], self.named)

    def _check(self, batch: Batch, outputs: Arrays, reference: Arrays) -> None:
        path = self.subject.model.path
        _require_finite(self.subject, self.runner, outputs, batch)
        for name, values in outputs.items():
            _require_shape("output-shape", f"{path}: output {name!r}", values, "the reference's", reference[name])


def _of_reference(subject: Subject) -> tuple[Scorer, Looks]:
    """The reference's outputs on all examples, scored as if they were a variant's, and what was seen of them."""
    scorer = subject.scorer()
    for batch, count in _labels(subject.data(), subject.recorded.at_once):
        reference = subject.reference_rows(batch, count)
        scorer.add(batch, reference, reference)
    return scorer, scorer.looks(Ranges(), None, None)


def _labels(data: Dataset, size: int) -> Iterator[tuple[Batch, int]]:
    """Batches of all examples without their inputs, so many at a time, and how many each holds."""
    if data.labels:
        for batch in replace(data, inputs={}).batches(size):
            yield batch, len(next(iter(batch.labels.values())))
        return
    for start in range(0, data.examples, size):
        rows = data.rows[start : start + size]
        yield Batch({}, {}, None, start, rows), len(rows)


def _require_finite(subject: Subject, runner: Bound, outputs: dict[str, Array], batch: Batch) -> None:
    """Raise EvaluationError of kind `non-finite-output`, with the first tensor that is not finite, where one is not."""
    model = subject.model
    try:
        require_finite(model.path, outputs, batch.rows, converted=True)
    except EvaluationError as error:
        finite = [np.isfinite(values.reshape(len(values), -1)).all(axis=1) for values in outputs.values()]
        row = int(np.flatnonzero(~np.all(finite, axis=0))[0])
        given = runner.given({name: values[row : row + 1] for name, values in batch.inputs.items()})
        with subject.doing("looked for the first tensor that is not finite"):
            found = first_not_finite(model.file_bytes(), given) if model.signature.subgraph == 0 else None
        where = "" if found is None else f"; the first that is not finite is {found[0]} ({found[1]})"
        raise EvaluationError(error.kind, f"{error}{where}") from None


def names_for(model: Model, described: Names | None, recorded: Outputs) -> Names:
    """The reference's names; where it is recorded outputs, the file's inputs and the recording's outputs."""
    if described is not None:
        return described
    return replace(model.names, outputs={name: TensorInfo(*recorded.kind(name)) for name in recorded.names})


def _observe(subject: Subject, options: EvaluationOptions) -> ObservedMeasured:
    """What the user's own application gave for this artifact, scored, and its distance from all kernels that run it."""
    assert options.observed_outputs is not None
    scorer = subject.scorer()
    steps = {}
    for kernels in get_args(Kernels):
        own = kernels == options.kernels
        try:
            largest = _distance(subject, options.observed_outputs.path, kernels, scorer if own else None)
        except (EvaluationError, ModelFileError, ModuleNotFoundError):
            if own:
                raise
            continue  # not installed, or without the operators; the comparison is with what can run it
        steps[kernels] = round(largest, 6)
    return ObservedMeasured(ordered(scorer.measurements(), (), subject.metrics), steps)


def _distance(subject: Subject, path: str, kernels: Kernels, scorer: Scorer | None) -> float:
    """How far a recording is from what some kernels give, at most, in quantization steps; a scorer scores it."""
    largest = 0.0
    theirs = _Rows(batch.inputs for batch in recorded_outputs(path, subject.dataset, subject.open_data))
    runners = subject.runners(kernels)
    ports = runners[0].outputs
    for batch, outputs in subject.run(runners, subject.data()):
        count = _length(outputs)
        observed = _dequantized(named(theirs.take(count), subject.names, path), ports)
        for name, ours in outputs.items():
            _require_shape("data", f"{path}:", observed[name], f"the model's output {name!r}", ours)
            largest = max(largest, _steps(observed[name], ours, ports[name]))
        if scorer is not None:
            scorer.add(batch, observed, subject.reference_rows(batch, count))
    return largest


def named(arrays: dict[str, Array], names: Names, path: str) -> dict[str, Array]:
    """Recorded arrays by canonical name: their key, an alias, or the only one."""
    arrays = {names.output(key): array for key, array in arrays.items()}
    if len(arrays) == 1 and len(names.outputs) == 1:
        return dict(zip(names.outputs, arrays.values(), strict=True))
    missing = [name for name in names.outputs if name not in arrays]
    if missing:
        raise DataError(
            f"{path}: has no array for output {missing[0]!r} (it has {', '.join(arrays)}); save one array per output"
        )
    return arrays


def _dequantized(arrays: dict[str, Array], ports: dict[str, Port]) -> dict[str, Array]:
    """Raw integers as reals; a floating dtype says that the application has dequantized already."""
    return {
        name: dequantize(array, ports[name]) if array.dtype.kind in "iu" else array.astype(np.float32)
        for name, array in arrays.items()
        if name in ports
    }


def _require_shape(kind: str, what: str, values: Array, other: str, wanted: Array) -> None:
    """Raise EvaluationError of this kind unless both hold examples of one shape."""
    if values.shape != wanted.shape:
        given, should = list(values.shape[1:]), list(wanted.shape[1:])
        raise EvaluationError(
            kind,
            f"{what} has shape {given} per example where {other} has {should}, and only outputs of the same shape can "
            f"be compared; convert or record them alike",
        )


def _steps(observed: Array, ours: Array, port: Port) -> float:
    """The largest difference in quantization steps; in the output's own unit where it is float."""
    return float(np.max(np.abs(observed.astype(np.float64) - ours), initial=0.0)) / (port.scale or 1.0)


def _length(outputs: dict[str, Array]) -> int:
    return len(next(iter(outputs.values())))


class _Rows:
    """Regroups a stream of batches into batches of asked-for lengths."""

    def __init__(self, stream: Iterator[dict[str, Array]]) -> None:
        self._stream = stream
        self._held: dict[str, Array] = {}

    def take(self, count: int) -> dict[str, Array]:
        while not self._held or len(next(iter(self._held.values()))) < count:
            more = next(self._stream)
            self._held = {
                key: np.concatenate([self._held[key], more[key]]) if self._held else more[key] for key in more
            }
        taken = {key: value[:count] for key, value in self._held.items()}
        self._held = {key: value[count:] for key, value in self._held.items()}
        return taken


def _of_file(subject: Subject, size: int, runner: Bound) -> tuple[Measured, ...]:
    """What is measured of the file, whatever the examples; the arena of a microcontroller's interpreter alone."""
    found = []
    for spec in subject.metrics:
        if spec.metric == "size_bytes":
            value = size
        elif spec.metric == "macs":
            value = macs(subject.model.graph, subject.model.path)
        elif spec.metric == "arena_bytes" and isinstance(runner, MicroRunner):
            value = runner.arena_bytes()
        else:
            continue
        exact = Measurement(
            spec.name, spec.metric, None, float(value), higher_is_better=False, interval_note="it is exact"
        )
        found.append(Measured(spec.name, exact))
    return tuple(found)


def _artifact(model: graph.Graph, size: int, sha256: str, integer: bool | None) -> Artifact:
    """How many operators there are, and which compute in float although integer was asked or is the rule."""
    count = sum(len(subgraph.operators) for subgraph in model.subgraphs)
    floats = graph.float_operators(model)
    mixed = integer is None and 0 < len(floats) < graph.computing_operators(model)
    in_float = tuple(floats) if integer or mixed else ()
    return Artifact(size, sha256, count, in_float, len(graph.quantized_tensors(model)), custom_operators(model))
