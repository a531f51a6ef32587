"""CSV files with a header line, read line by line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tflite_guard.datasets.sources import Array, Column, Rows, columns_of, near, pick
from tflite_guard.errors import DataError

Role = Literal["input", "label", "group"]
Line = tuple[int, list[str]]


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
    """Checks the whole file once: each key's cells must be finite numbers (groups: any text).

    Inputs are float32; labels are int64 where all of them are whole numbers, else float32. Without
    `columns` a key is a column's name. Raises DataError with line and column.
    """
    header = _head(path)
    cells = {key: _locate(path, header, key, role, columns) for key, role in roles.items()}
    whole = {key for key, role in roles.items() if role == "label"}
    examples = 0
    for line in _lines(path):
        if len(line[1]) != len(header):
            raise DataError(f"{path}: line {line[0]}: has {len(line[1])} cells, the header has {len(header)}")
        for key, where in cells.items():
            value = _value(line, where, path)
            if key in whole and not np.all(value == np.trunc(value)):
                whole.discard(key)
        examples += 1
    typed = {key: Cells(c.places, c.names, c.single, np.int64 if key in whole else c.dtype) for key, c in cells.items()}
    return TableReader(path, typed, examples)


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
    return Cells(places, names, isinstance(wanted, str), np.str_ if role == "group" else np.float32)


def _value(line: Line, cells: Cells, path: str) -> Array:
    number, row = line
    texts = [row[place] for place in cells.places]
    values = texts if cells.dtype is np.str_ else [
        _finite(text, f"{path}: line {number}, column {name!r}")
        for text, name in zip(texts, cells.names, strict=True)
    ]  # fmt: skip
    return np.asarray(values[0] if cells.single else values, cells.dtype)


def _finite(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not a number") from error
    if not math.isfinite(value):
        raise DataError(f"{where}: {text!r} is not a finite number")
    return value


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
        raise DataError(f"{path}: the table cannot be read as UTF-8 CSV ({error})") from error
