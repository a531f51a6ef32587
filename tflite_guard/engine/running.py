"""How a model is run over examples, a reference and a variant alike: batches, state, outputs without a batch axis."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite_guard.engine import feeds
from tflite_guard.errors import DataError, EvaluationError
from tflite_guard.protocol import Facts, TensorInfo
from tflite_guard.vocabulary import StateUse

if TYPE_CHECKING:
    from tflite_guard.datasets import Batch, Dataset
    from tflite_guard.datasets.sources import Rows

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
SELF_CHECKED = 32
"""Examples of the first batch that are also run one by one, to see that a batch gives the same."""
ROUNDING = 1e-4
"""Of an output's largest value: by more than this no other order of summing makes an example differ."""


class ExampleError(EvaluationError):
    """A model cannot be run on the example of some row of its batch."""

    def __init__(self, error: EvaluationError, row: int) -> None:
        super().__init__(error.kind, str(error))
        self.row = row


class Running(ABC):
    """A model ready to be run. Not for use by two threads at a time."""

    def __init__(self, path: str, inputs: Mapping[str, TensorInfo], *, stateful: bool, fixed_batch: int | None) -> None:
        """`fixed_batch` is how many examples one call takes; None leaves that free."""
        self.path = path
        self.inputs = inputs
        self.stateful = stateful
        self.fixed_batch = fixed_batch
        self.one_by_one = stateful or fixed_batch == 1
        self.batch_dependent = False

    def facts(self, state: StateUse) -> Facts:
        """What running it has shown."""
        return Facts(state_reset=self.stateful and state == "reset", batch_dependent=self.batch_dependent)

    def run(self, inputs: Mapping[str, Array], begins: Sequence[bool] | None = None) -> Arrays:
        """Outputs for a batch, (n, …) each, as `call` gives them.

        Args:
            inputs: every input's name to its examples, (n, …).
            begins: whether a model with state forgets it before each of the examples; None says before all.

        Raises:
            DataError: the data does not fit the model.
            EvaluationError: the model cannot be run.
        """
        rows = self._rows(inputs)
        count = len(next(iter(rows.values())))
        if not self.one_by_one and count > 1:
            together = self._together(rows, count)
            if together is not None:
                return together
            self.one_by_one = True
        return self._singly(rows, count, begins)

    def self_check(self, inputs: Mapping[str, Array]) -> None:
        """Turn to one by one where a batch does not give what its examples give singly."""
        few = {name: values[:SELF_CHECKED] for name, values in inputs.items()}
        together = self.run(few)
        if self.one_by_one:
            return
        count = len(next(iter(few.values())))
        singly = self._singly(self._rows(few), count, None)
        alike = all(together[name].shape == values.shape for name, values in singly.items())
        self.batch_dependent = alike and not all(_same(together[name], values) for name, values in singly.items())
        self.one_by_one = self.batch_dependent or not alike

    @abstractmethod
    def call(self, tensors: Mapping[str, Array]) -> Arrays:
        """The outputs of one call with inputs as the model takes them. Raises EvaluationError where it fails."""

    @abstractmethod
    def restart(self) -> None:
        """Forget what earlier calls left."""

    def prepared(self, name: str, values: Array) -> Array:
        """An input's examples in the dtype that `call` takes."""
        return feeds.examples(name, self.inputs[name], values)

    def _rows(self, inputs: Mapping[str, Array]) -> Arrays:
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise DataError(
                f"{self.path}: the data has no array for the model's input {missing[0]} (it has {', '.join(inputs)}); "
                "name one for it in the dataset's inputs"
            )
        return {name: self.prepared(name, np.asarray(inputs[name])) for name in self.inputs}

    def _together(self, rows: Arrays, count: int) -> Arrays | None:
        """Outputs of the examples as a batch; None where the model takes them one at a time."""
        if not all(feeds.batched(self.inputs[name], values) for name, values in rows.items()):
            return None
        size = self.fixed_batch or count
        parts: list[Arrays] = []
        for start in range(0, count, size):
            # The last example fills a batch of fixed size up.
            index = np.arange(start, start + size).clip(max=count - 1)
            try:
                outputs = self.call({name: values[index] for name, values in rows.items()})
            except EvaluationError:
                return None
            if any(out.shape[:1] != (size,) for out in outputs.values()):
                return None
            parts.append(outputs)
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    def _singly(self, rows: Arrays, count: int, begins: Sequence[bool] | None) -> Arrays:
        results: list[Arrays] = []
        for index in range(count):
            if self.stateful and (begins is None or begins[index]):
                self.restart()
            try:
                results.append(self._single(rows, index))
            except EvaluationError as error:
                if error.kind != "run":
                    raise
                raise ExampleError(error, index) from error
        return {name: self._stacked(name, [result[name] for result in results]) for name in results[0]}

    def _single(self, rows: Arrays, index: int) -> Arrays:
        """Outputs of one example, each with a first axis of 1 before the example's own."""
        tensors = {name: feeds.alone(self.inputs[name], values, index) for name, values in rows.items()}
        batches = [len(tensors[name]) for name, values in rows.items() if feeds.batched(self.inputs[name], values)]
        batch = batches[0] if batches else 1
        return {name: out[:1] if out.shape[:1] == (batch,) else out[None] for name, out in self.call(tensors).items()}

    def _stacked(self, name: str, parts: Sequence[Array]) -> Array:
        for part in parts:
            require_shape(f"{self.path}: output {name!r}", parts[0].shape[1:], part.shape[1:])
        return np.concatenate(parts)


def require_shape(what: str, one: Sequence[int], other: Sequence[int]) -> None:
    """Raise EvaluationError of kind `output-shape` where two examples' outputs are of different shapes."""
    if tuple(one) != tuple(other):
        raise EvaluationError(
            "output-shape",
            f"{what} changes its shape between examples, from {list(one)} to {list(other)}, and can be compared only "
            f"if it stays the same; give every example the same shape with `resize` or `reshape`, or cut the model "
            f"before what selects by value",
        )


def _same(one: Array, other: Array) -> bool:
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    size = float(np.max(np.abs(other), initial=0.0, where=np.isfinite(other)))
    return bool(np.allclose(one, other, rtol=0, atol=ROUNDING * size, equal_nan=True))


def run_batches(
    runners: Sequence[Running],
    batches: Iterable[Batch],
    state: StateUse = "reset",
    data: Dataset | None = None,
    checked: Batch | None = None,
) -> Iterator[tuple[Batch, Arrays]]:
    """Each batch with its outputs, in order, computed by as many threads as there are runners of the same model.

    `data` is what they are of, and tells which of its examples are run. `checked` are those that show whether a batch
    gives what its examples give singly; None means the first batch. Where state is kept, one runner does it all, in
    order: state is then forgotten where another group begins. At most two batches per runner are held at a time, so
    memory does not grow with the data.
    """
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        return
    leader = runners[0]
    kept = leader.stateful and state == "kept"
    if not leader.one_by_one:
        checked = checked or first
        with _running(data, checked.rows[:SELF_CHECKED]):
            leader.self_check(checked.inputs)
    idle: queue.SimpleQueue[Running] = queue.SimpleQueue()
    for runner in runners[: 1 if kept else None]:
        runner.one_by_one = leader.one_by_one
        idle.put(runner)
    with ThreadPoolExecutor(idle.qsize()) as pool:
        pending: deque[tuple[Batch, Future[Arrays]]] = deque()
        most = 2 * idle.qsize()
        try:
            for batch, begins in _with_beginnings(_chained(first, stream), kept):
                pending.append((batch, pool.submit(_run_with, idle, batch, begins, data)))
                if len(pending) >= most:
                    done, future = pending.popleft()
                    yield done, future.result()
            for done, future in pending:
                yield done, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run_with(
    idle: queue.SimpleQueue[Running], batch: Batch, begins: Sequence[bool] | None, data: Dataset | None
) -> Arrays:
    runner = idle.get()
    try:
        with _running(data, batch.rows):
            return runner.run(batch.inputs, begins)
    finally:
        idle.put(runner)


@contextmanager
def _running(data: Dataset | None, rows: Rows) -> Iterator[None]:
    """Within it, these of the data's examples are run, which a crash or an error is then put down to."""
    if data is None:
        yield
        return
    with data.doing("ran", rows):
        try:
            yield
        except ExampleError as error:
            which = data.called([int(rows[error.row])])
            advice = "correct or remove it if the model runs on others, else change the model"
            raise EvaluationError(error.kind, f"{error}; this was {which}: {advice}") from error


def _chained(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from rest


def _with_beginnings(batches: Iterable[Batch], kept: bool) -> Iterator[tuple[Batch, Sequence[bool] | None]]:
    """Each batch with the examples that begin a group; the first of all where there are no groups."""
    ended: set[Any] = set()
    current: Any = ended  # equal to no group
    for batch in batches:
        if not kept:
            yield batch, None
            continue
        count = len(next(iter(batch.inputs.values())))
        begins = []
        for group in [None] * count if batch.groups is None else batch.groups.tolist():
            begins.append(group != current)
            if begins[-1] and group in ended:
                raise DataError(
                    f"group {group!r} comes in more than one stretch, and state that is kept needs each group's "
                    "examples in one, in order; sort the data by group"
                )
            ended.add(group)
            current = group
        yield batch, begins
