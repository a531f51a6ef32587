"""What an evaluation collects of its examples, and the measurements that come of it.

It is plain data: what was collected on the pieces of a dataset is joined to what would have been collected on all of
it, bit for bit, and travels between machines as an .npz of numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_origin

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tflite_guard.datasets import Batch
from tflite_guard.datasets.arrays import Header, npz_headers, open_npz, write_npz
from tflite_guard.datasets.sources import Rows
from tflite_guard.engine.answers import Answers
from tflite_guard.engine.calibration_facts import SeenBeside
from tflite_guard.engine.facts import Ranges, Watch
from tflite_guard.errors import DataError, EvaluationError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics import Decoded, Scores, concatenate, looked_at, measure, per_example, statistic
from tflite_guard.metrics.slices import checked
from tflite_guard.protocol import Evaluation, Measured, OutputFacts
from tflite_guard.results import Measurement

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
AGAIN = "run its shard again"
STATE = "state"
"""The array that holds the rest as JSON, in bytes; others are named by numbers."""


@dataclass
class Column:
    """One metric of one output, collected batch by batch."""

    spec: MetricSpec
    output: str
    labels: str | None
    title: str
    scores: list[Scores] = field(default_factory=list)

    def add(self, outputs: Arrays, reference: Arrays, labels: Arrays, rows: Rows, decoded: Decoded) -> None:
        """One batch by outputs and labels, (n, …) each; `rows` are its examples' in the data's source.

        `decoded` is shared by all metrics of the batch.
        """
        wanted = None if self.labels is None else labels[self.labels]
        ours, theirs = (
            looked_at(self.spec, arrays, self.output, whose, rows, decoded)
            for arrays, whose in ((outputs, "the variant's"), (reference, "the reference's"))
        )
        self.scores.append(per_example(self.spec, ours, theirs, wanted, rows))

    def measured(self, groups: Array | None, seed: int, slices: Arrays) -> Measurement:
        """The metric on what was added."""
        output = self.output if self.title != self.spec.name else self.spec.output
        spec = replace(self.spec, name=self.title, output=output)
        return measure(spec, concatenate(self.scores), groups=groups, seed=seed, slices=slices)

    def arrange(self, index: Array) -> None:
        """Bring what was added into another order."""
        self.scores = [{key: values[index] for key, values in concatenate(self.scores).items()}]

    def reference(self) -> float | None:
        """The reference's own value; None where it has none."""
        scores = concatenate(self.scores)
        try:
            value = float(statistic(self.spec, scores)(np.ones((1, len(scores["identical"]))))[0, 0])
        except EvaluationError:
            return None
        return value if np.isfinite(value) else None


@dataclass
class Kinds:
    """What examples belong to, batch by batch."""

    groups: list[Array] = field(default_factory=list)
    slices: dict[str, list[Array]] = field(default_factory=dict)
    """By the source's key, texts (n,)."""

    def add(self, batch: Batch) -> None:
        """One more batch. Raises DataError for slices of too many values."""
        if batch.groups is not None:
            self.groups.append(batch.groups)
        for key, values in batch.slices.items():
            self.slices.setdefault(key, []).append(checked(key, values))

    def join(self, other: Kinds) -> None:
        """Take in those of the examples behind."""
        self.groups += other.groups
        for key, theirs in other.slices.items():
            self.slices.setdefault(key, []).extend(theirs)

    def whole(self) -> tuple[Array | None, Arrays]:
        """Groups and slices of all that was added. Raises DataError for slices of too many values."""
        groups = np.concatenate(self.groups) if self.groups else None
        return groups, {key: checked(key, np.concatenate(values)) for key, values in self.slices.items()}

    def arrange(self, index: Array) -> None:
        """Bring what was added into another order."""
        self.groups = [np.concatenate(self.groups)[index]] if self.groups else []
        self.slices = {key: [np.concatenate(values)[index]] for key, values in self.slices.items()}


@dataclass
class Looks:
    """What was seen of examples, beside their scores."""

    watches: dict[str, Watch]
    several: frozenset[str]
    """Outputs whose labels were seen to name several units, or none, of an example."""
    ranges: Ranges
    answers: Answers | None
    beside: SeenBeside | None

    def join(self, other: Looks) -> None:
        """Take in what was seen of the examples behind."""
        for name, watch in self.watches.items():
            watch.join(other.watches[name])
        self.ranges.join(other.ranges)
        if self.answers is not None and other.answers is not None:
            self.answers.join(other.answers)
        if self.beside is not None and other.beside is not None:
            self.beside.join(other.beside)

    def outputs(self) -> tuple[OutputFacts, ...]:
        """What each output is like."""
        return tuple(replace(one.facts(), multi_label=name in self.several) for name, one in self.watches.items())

    def told(self, evaluation: Evaluation) -> Evaluation:
        """An evaluation with what was seen."""
        return replace(
            evaluation,
            outputs=self.outputs(),
            inputs=self.ranges.facts(),
            calibration=None if self.beside is None else self.beside.facts(),
            confidence=None if self.answers is None else self.answers.confidence(),
            changed=None if self.answers is None else self.answers.changed(),
            mistakes=None if self.answers is None else self.answers.mistakes(),
        )


@dataclass
class Collected:
    """All that was collected on some examples, in order."""

    columns: list[Column]
    kinds: Kinds
    looks: Looks

    def join(self, other: Collected) -> None:
        """Take in what was collected on the examples behind.

        Raises EvaluationError where it was collected otherwise.
        """
        for own, theirs in zip(self.columns, other.columns, strict=True):
            # Every piece looks at all labels, and at the reference's outputs that it has (`LabelReading`). Where pieces
            # find the same, all outputs together show it, too.
            if own.spec != theirs.spec:
                raise EvaluationError(
                    "pieces",
                    f"pieces of the evaluation data read the labels of {own.title!r} differently, as classes and as "
                    'units of which several may apply; set "multi_label" on the metric',
                )
            own.scores += theirs.scores
        self.kinds.join(other.kinds)
        self.looks.join(other.looks)

    def evaluation(self, same: Evaluation, metrics: Sequence[MetricSpec], seed: int) -> Evaluation:
        """What comes of it: the measurements of some metrics and what was seen, beside what is no example's."""
        groups, slices = self.kinds.whole()
        measured = [(one.spec.name, one.measured(groups, seed, slices)) for one in self.columns]
        measurements = ordered(measured, same.measurements, metrics)
        return self.looks.told(replace(same, measurements=measurements, stretch=None, files=()))

    def write(self, path: str) -> None:
        """Write it to a file."""
        for column in self.columns:
            column.scores = [concatenate(column.scores)]
        groups, slices = self.kinds.whole()
        self.kinds = Kinds([] if groups is None else [groups], {key: [values] for key, values in slices.items()})
        arrays: list[Array] = []

        def number(array: Any) -> int:
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{type(array).__name__} is no array")
            arrays.append(array)
            return len(arrays) - 1

        state = msgspec.json.encode(self, enc_hook=number)
        named = {str(place): array for place, array in enumerate(arrays)}
        write_npz(path, {STATE: np.frombuffer(state, np.uint8), **named})


def joined(paths: Sequence[str], examples: Sequence[int]) -> Collected:
    """What was collected on all pieces, by the files that it was written to and how many examples each has.

    Raises DataError where one holds anything else, and EvaluationError where they do not fit together.
    """
    first, *others = (read(path, count) for path, count in zip(paths, examples, strict=True))
    for one in others:
        first.join(one)
    return first


def read(path: str, examples: int) -> Collected:
    """What was written to a file of so many examples. Raises DataError where the file holds anything else."""
    found = _decoded(path)
    scores = [array for column in found.columns for batch in column.scores for array in batch.values()]
    numbers = all(array.dtype.kind in "biuf" for array in scores)
    kinds = [*found.kinds.groups, *(values for one in found.kinds.slices.values() for values in one)]
    named = all(array.dtype.kind in "biuU" for array in kinds)
    if not numbers or not named or any(len(array) != examples for array in (*scores, *kinds)):
        raise DataError(f"{path}: does not hold a score of each of {examples} examples; {AGAIN}")
    return found


def _decoded(path: str) -> Collected:
    arrays = {key: _array(path, key, head) for key, head in npz_headers(path).items()}

    def decoded(kind: Any, value: Any) -> Any:
        if get_origin(kind) is Counter:
            return Counter(msgspec.convert(value, dict[int, int], strict=False))
        return arrays[str(msgspec.convert(value, int))]

    try:
        return msgspec.json.decode(arrays.pop(STATE).tobytes(), type=Collected, dec_hook=decoded)
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: holds no scores that were collected ({error}); {AGAIN}") from None


def _array(path: str, key: str, head: Header) -> Array:
    reader = open_npz(path, [key])
    read = [np.asarray(found[key]) for found in reader.read([key], range(reader.examples), max(1, reader.examples))]
    return read[0] if read else np.empty(head.shape, head.dtype)


def ordered(
    measured: list[tuple[str, Measurement]], of_file: Sequence[Measured], metrics: Sequence[MetricSpec]
) -> tuple[Measured, ...]:
    """What was measured of examples and of the file, in the order of the manifest's metrics."""
    order = [spec.name for spec in metrics]
    found = [*(Measured(name, measurement) for name, measurement in measured), *of_file]
    return tuple(sorted(found, key=lambda one: order.index(one.of)))
