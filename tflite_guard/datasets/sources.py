"""What every source of examples offers, and what several of them share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tflite_guard.errors import DataError
from tflite_guard.text.plain import nearest

Array = npt.NDArray[Any]
Column = Array | list[Array]
"""Several examples of one key: an array, or a list of arrays where the examples' shapes may differ."""
Rows = range | npt.NDArray[np.int64]
"""The examples that are wanted, as rising indices into the source."""
Record = TypeVar("Record")
INT64 = np.iinfo(np.int64)
LONGEST_QUOTED = 60
NEEDS_TENSORFLOW = "TFRecord files need TensorFlow: pip install 'tflite-guard[tensorflow]'"


class Reader(Protocol):
    """An opened source. It holds no file open between calls."""

    @property
    def examples(self) -> int:
        """How many examples the source holds, all of them."""

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        """Yields `size` examples at a time (fewer at the end): key to column, in the order of `rows`."""


def near(name: str, candidates: Iterable[str]) -> str:
    """The end of a message about an unknown name: the likeliest candidates, or all of them when few."""
    known = list(candidates)
    close = nearest(name, known, 3) or sorted(known)[:10]
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def require_keys(path: str, wanted: Iterable[str], present: Sequence[str], what: str = "key") -> None:
    """Raises DataError for the first wanted key that the source does not hold, with near ones."""
    for key in wanted:
        if key not in present:
            raise DataError(f"{path}: there is no {what} {key!r}{near(key, present)}")


def require_numbers(array: Array, where: str) -> None:
    """Raises DataError for text, times and whatever else is no number."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: must hold numbers, not {array.dtype}; save a numeric array")


def integer(text: str) -> int | None:
    """A whole number as it is written; None for any other text. Python also reads underscores and other digits."""
    try:
        return int(text) if _plainly_written(text) else None
    except ValueError:
        return None


def finite(text: str, where: str) -> float:
    """A number as it is written. Raises DataError where a text is none, or is beyond all that are finite."""
    try:
        value = float(text) if _plainly_written(text) else None
    except ValueError:
        value = None
    if value is None:
        raise DataError(f"{where}: {quoted(text)} is not a number; correct it")
    if not math.isfinite(value):
        raise DataError(f"{where}: {quoted(text)} is not a finite number; correct it")
    return value


def quoted(text: str) -> str:
    """A text of a file for a message, cut where it is long."""
    return repr(text if len(text) <= LONGEST_QUOTED else f"{text[: LONGEST_QUOTED - 1]}…")


def _plainly_written(text: str) -> bool:
    return text.isascii() and "_" not in text


def native(array: Array) -> Array:
    """The same values in this machine's byte order, which is all that an interpreter takes."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def chunks(rows: Rows, size: int) -> Iterator[Rows]:
    """Cuts `rows` into stretches of `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def runs(rows: Rows) -> list[tuple[int, int]]:
    """Rising indices as (first, count) of consecutive ones, so that each run is one read."""
    indices = np.asarray(rows, dtype=np.int64)
    pieces = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return [(int(piece[0]), len(piece)) for piece in pieces if len(piece)]


def pick(records: Iterable[Record], rows: Rows, size: int) -> Iterator[list[Record]]:
    """The records at `rows`, `size` at a time, from a source that can only be read forward."""
    wanted = iter(rows)
    target = next(wanted, None)
    batch: list[Record] = []
    for index, record in enumerate(records):
        if target is None:
            break
        if index != target:
            continue
        batch.append(record)
        target = next(wanted, None)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def columns_of(records: Sequence[dict[str, Array]], keys: Sequence[str]) -> dict[str, Column]:
    """Turns examples into columns: one array where all shapes and types agree, else a list."""
    columns: dict[str, Column] = {}
    for key in keys:
        values = [record[key] for record in records]
        alike = all(value.shape == values[0].shape and value.dtype.kind == values[0].dtype.kind for value in values)
        columns[key] = np.stack(values) if alike else values
    return columns


def select(examples: int, limit: int | None, seed: int) -> Rows:
    """The indices that `limit` and `seed` choose: without replacement, kept in the source's order."""
    if limit is None or limit >= examples:
        return range(examples)
    return np.sort(np.random.default_rng(seed).choice(examples, limit, replace=False)).astype(np.int64)


def agree(path: str, lengths: dict[str, int]) -> int:
    """The number of examples that all arrays share; DataError lists them where they differ."""
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key}: {length}" for key, length in itertools.islice(lengths.items(), 10))
        raise DataError(
            f"{path}: arrays must hold the same number of examples along their first axis, but have {listed}; "
            "save one row of each for every example"
        )
    return next(iter(lengths.values()))
