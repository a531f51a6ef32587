"""Reference outputs as files: one .npy an output, with their names beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tflite_guard.datasets import Batch, Dataset
from tflite_guard.datasets.arrays import npy_header, npz_headers
from tflite_guard.datasets.sources import Rows, runs
from tflite_guard.engine.running import require_shape
from tflite_guard.errors import DataError, EvaluationError
from tflite_guard.manifest.types import DatasetSpec, FileSpec
from tflite_guard.protocol import LARGEST_BATCH, TensorInfo

Array = npt.NDArray[Any]
Open = Callable[[DatasetSpec, list[str]], Dataset]
INDEX = "outputs.json"
ROWS = 256
"""Examples at a time, at most, where nothing is run on them."""
BUDGET = 8 * 2**20
"""Bytes of a batch, of its inputs and outputs together, unless one example has more."""


def write_outputs(
    stream: Iterable[tuple[Rows, dict[str, Array]]],
    folder: str,
    progress: Callable[[int, int], None],
    source: str,
    examples: int | None = None,
) -> tuple[tuple[str, ...], int]:
    """Write batches of outputs, {name: (n, …)}, as they come; memory does not grow with their number.

    Args:
        stream: the batches, in order, each with its examples' rows in the data's source.
        folder: where to write.
        progress: called with (examples done, examples in all).
        source: what gave them, for messages.
        examples: how many there will be, where that is known.

    Returns:
        The names of the files written to the folder, and how many rows each array has.

    Raises:
        EvaluationError: an output is not finite, or changes its shape from batch to batch, or there is no example.
    """
    names: list[str] = []
    maps: list[Any] = []
    done = 0
    for rows, outputs in stream:
        count = len(next(iter(outputs.values())))
        require_finite(source, outputs, rows)
        if not names:
            names = list(outputs)
            maps = [_Growing(Path(folder) / f"{index}.npy") for index in range(len(names))]
        for name, growing in zip(names, maps, strict=True):
            growing.append(f"{source}: output {name!r}", np.asarray(outputs[name]))
        done += count
        progress(done, examples or done)
    if done == 0:
        raise DataError("the evaluation data holds no examples")
    for growing in maps:
        growing.close()
    arrays = [f"{index}.npy" for index in range(len(names))]
    index = {"names": names, "examples": done, "arrays": arrays}
    (Path(folder) / INDEX).write_bytes(msgspec.json.encode(index))
    return (INDEX, *arrays), done


def require_finite(source: str, outputs: dict[str, Array], rows: Rows, *, converted: bool = False) -> None:
    """Raise EvaluationError of kind `non-finite-output` where a batch of these rows of the source holds NaN.

    `converted` says that the reference's outputs are finite, so that it is the conversion that brought it.
    """
    cause = (
        "the reference's is finite there, so the conversion did it; look for values that the narrower types cannot "
        "hold (beyond 65,504 in float16), or keep those layers in float"
        if converted
        else "such outputs cannot be judged; find what overflows or divides by zero in the model, or leave the "
        "example out"
    )
    for name, array in outputs.items():
        finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if not finite.all():
            first = rows[int(np.flatnonzero(~finite)[0])]
            raise EvaluationError(
                "non-finite-output",
                f"{source}: output {name!r} holds NaN or infinity, first in example {first} (from 0); {cause}",
            )


class _Growing:
    """A .npy file that grows by rows: the header is written last, when the number of rows is known."""

    # Room for any header: version 1.0 pads to a multiple of 64 bytes.
    HEADER = 256

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._stream.write(b"\0" * self.HEADER)
        self._rows = 0
        self._tail: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)

    def append(self, name: str, rows: Array) -> None:
        if self._rows == 0:
            self._tail, self._dtype = rows.shape[1:], rows.dtype
        require_shape(name, self._tail, rows.shape[1:])
        self._stream.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._rows += len(rows)

    def close(self) -> None:
        shape = (self._rows, *self._tail)
        literal = repr({"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape})
        prefix = np.lib.format.magic(1, 0)
        length = self.HEADER - len(prefix) - 2
        self._stream.seek(0)
        self._stream.write(prefix + length.to_bytes(2, "little") + literal.ljust(length - 1).encode("latin1") + b"\n")
        self._stream.close()


class Outputs:
    """Reference outputs opened for reading.

    They are read and not mapped: what a mapping has touched counts as this process's memory, up to all of a large file.
    """

    def __init__(self, folder: str) -> None:
        index = msgspec.json.decode((Path(folder) / INDEX).read_bytes())
        self.names: list[str] = index["names"]
        self.examples: int = index["examples"]
        self._paths = {name: str(Path(folder) / file) for name, file in zip(self.names, index["arrays"], strict=True)}
        self._headers = {name: npy_header(path) for name, path in self._paths.items()}

    @property
    def example_bytes(self) -> int:
        """Of all outputs together."""
        return sum(header.row_bytes for header in self._headers.values())

    @property
    def at_once(self) -> int:
        """Examples to read at a time, where nothing is run on them."""
        return rows_within(self.example_bytes)

    def kind(self, name: str) -> tuple[tuple[int | None, ...], str]:
        """The shape of an output, its first axis free, and its dtype."""
        header = self._headers[name]
        return (None, *header.shape[1:]), str(header.dtype)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) of one output, (n, …)."""
        return self.at(name, np.arange(start, min(stop, self.examples)))

    def at(self, name: str, places: Array) -> Array:
        """The rows of one output at some places, (n, …)."""
        header = self._headers[name]
        found = np.empty((len(places), *header.shape[1:]), header.dtype)
        order = np.argsort(places, kind="stable")
        done = 0
        with Path(self._paths[name]).open("rb") as stream:
            for first, count in runs(places[order]):
                stream.seek(header.start + first * header.row_bytes)
                read = np.fromfile(stream, header.dtype, count * math.prod(header.shape[1:]))
                found[order[done : done + count]] = read.reshape(count, *header.shape[1:])
                done += count
        return found


def example_bytes(outputs: Iterable[TensorInfo]) -> int:
    """What one example's outputs take as float32, lengths that nobody knows yet counted as 1."""
    return 4 * sum(math.prod(size or 1 for size in one.shape[1:]) for one in outputs)


def rows_within(example_bytes: int, most: int = ROWS) -> int:
    """How many examples of so many bytes make a batch, from 1 to so many."""
    return max(1, min(most, BUDGET // max(1, example_bytes)))


def recorded_outputs(path: str, evaluation: DatasetSpec, open_data: Open) -> Iterator[Batch]:
    """Outputs that a user recorded in an .npz, in the order of the evaluation source before `limit`, as inputs.

    Raises:
        DataError: the file does not hold one row for each example of the source.
    """
    source = replace(evaluation, preprocess=(), labels=None, group=None, slices=(), limit=None)
    headers = npz_headers(path)
    keys = list(headers)
    recorded = replace(
        source,
        source="npz",
        file=FileSpec(path),
        shards=(),
        inputs={key: key for key in keys},
        columns=None,
        features=None,
    )
    whole = open_data(recorded, keys).examples
    inputs = [source.inputs] if isinstance(source.inputs, str) else list(source.inputs)
    expected = open_data(source, inputs).examples
    if whole != expected:
        raise DataError(
            f"{path}: holds outputs of {whole} examples where the evaluation data has {expected} (before `limit`); "
            "record one row for each"
        )
    size = rows_within(sum(header.row_bytes for header in headers.values()))
    yield from open_data(replace(recorded, limit=evaluation.limit), keys).batches(size, with_labels=False)


def batch_size(dataset: Dataset, output_bytes: int) -> int:
    """Examples to run at a time, of outputs of so many bytes each."""
    first = next(iter((dataset.whole or dataset).batches(1, with_labels=False)), None)
    size = 0 if first is None else sum(array.nbytes for array in first.inputs.values())
    # Powers of two, so that pieces of the data, which begin at multiples of the largest, have the same batches.
    return 1 << (rows_within(size + output_bytes, most=LARGEST_BATCH).bit_length() - 1)
