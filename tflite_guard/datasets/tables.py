"""CSV files with a header line, read line by line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tflite_guard.datasets.sources import INT64, Array, Column, Rows, columns_of, finite, integer, near, pick, quoted
from tflite_guard.errors import DataError

Role = Literal["input", "label", "name"]
Line = tuple[int, list[str]]
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Cells:
    """Where a key's values stand and what they become: (n,) for one column, (n, k) for a list of k."""

    places: tuple[int, ...]
    names: tuple[str, ...]
    single: bool
    dtype: type[np.float32] | type[np.int64] | type[np.str_]


@dataclass(frozen=True)
class TableReader:
    """A CSV file whose every wanted cell was checked when it was opened."""

    path: str
    cells: Mapping[str, Cells]
    examples: int

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        for lines in pick(_lines(self.path), rows, size):
            records = [{key: _value(line, self.cells[key], self.path) for key in keys} for line in lines]
            yield columns_of(records, keys)


def open_table(path: str, roles: Mapping[str, Role], columns: Mapping[str, str | Sequence[str]] | None) -> TableReader:
    """Checks the whole file once: each key's cells must be finite numbers (names: any text).

    Inputs are float32, or int64 where all cells are written as integers and float32 cannot hold one of
    them; labels are int64 where all of them are whole numbers, else float32. Types are a key's, never a
    batch's. Without `columns` a key is a column's name. Raises DataError with line and column.
    """
    header = _head(path)
    cells = {key: _locate(path, header, key, role, columns) for key, role in roles.items()}
    seen = {key: _Seen() for key, role in roles.items() if role != "name"}
    examples = 0
    for line in _lines(path):
        if len(line[1]) != len(header):
            raise DataError(
                f"{path}: line {line[0]}: has {len(line[1])} cells, the header has {len(header)}; "
                "a cell that holds a comma needs quotes"
            )
        for key, found in seen.items():
            for text, where in _places(line, cells[key], path):
                found.look(text, where)
        examples += 1
    typed = {key: replace(c, dtype=seen[key].dtype(roles[key])) if key in seen else c for key, c in cells.items()}
    return TableReader(path, typed, examples)


@dataclass
class _Seen:
    """What the cells of a key are, as far as they were looked at."""

    whole: bool = True
    """All are whole numbers, such as 3 and 3.0."""
    integers: bool = True
    """All are written as integers."""
    exact: bool = True
    """float32 holds all integers exactly."""
    too_large: str | None = None
    """The first whole number beyond int64, in words."""

    def look(self, text: str, where: str) -> None:
        """Take one more cell into account. Raises DataError when it is no finite number."""
        value = finite(text, where)
        written = integer(text)
        self.integers &= written is not None
        self.whole &= value == math.trunc(value)
        self.exact &= written is None or (abs(value) <= _FLOAT32_MAX and int(np.float32(value)) == written)
        if self.whole and not INT64.min <= _whole(text) <= INT64.max and self.too_large is None:
            self.too_large = f"{where}: {quoted(text)} does not fit in 64 bits"

    def dtype(self, role: Role) -> type[np.float32] | type[np.int64]:
        """The type of the key's values. Raises DataError when none holds them."""
        if not (self.whole if role == "label" else self.integers and not self.exact):
            return np.float32
        if self.too_large is not None:
            raise DataError(f"{self.too_large}, as a column of whole numbers must; scale it")
        return np.int64


def _locate(
    path: str, header: Sequence[str], key: str, role: Role, columns: Mapping[str, str | Sequence[str]] | None
) -> Cells:
    if columns is not None and key not in columns:
        raise DataError(f"{path}: 'columns' does not say which column is {key!r}{near(key, columns)}")
    wanted = key if columns is None else columns[key]
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        if header.count(name) != 1:
            problem = "there is no column" if name not in header else "more than one column is named"
            raise DataError(f"{path}: {problem} {name!r}{near(name, header) if name not in header else ''}")
    places = tuple(header.index(name) for name in names)
    return Cells(places, names, isinstance(wanted, str), np.str_ if role == "name" else np.float32)


def _value(line: Line, cells: Cells, path: str) -> Array:
    values = [_convert(text, cells.dtype, where) for text, where in _places(line, cells, path)]
    return np.asarray(values[0] if cells.single else values, cells.dtype)


def _convert(text: str, dtype: type, where: str) -> float | str:
    if dtype is np.str_:
        return text
    value = finite(text, where)
    # float64, too, holds only the integers up to 2 ** 53.
    return _whole(text) if dtype is np.int64 else value


def _places(line: Line, cells: Cells, path: str) -> Iterator[tuple[str, str]]:
    """Each cell of a key and where it stands, for messages."""
    number, row = line
    for place, name in zip(cells.places, cells.names, strict=True):
        yield row[place], f"{path}: line {number}, column {name!r}"


def _whole(text: str) -> int:
    written = integer(text)
    return int(float(text)) if written is None else written


def _head(path: str) -> list[str]:
    for _, row in _rows(path):
        return row
    raise DataError(f"{path}: the file is empty; its first line must name the columns")


def _lines(path: str) -> Iterator[Line]:
    """The lines after the header, with their numbers from 1. Empty lines are passed over."""
    rows = _rows(path)
    next(rows, None)
    return rows


def _rows(path: str) -> Iterator[Line]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the table cannot be read as UTF-8 CSV ({error}); save it again as that") from error
