"""What a TFRecord of tf.train.Example messages holds, told from the records themselves, without TensorFlow.

Checksums are left to TensorFlow, which reads the file in a check.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tflite_guard.errors import DataError

Kind = Literal["bytes", "float", "int64"]
KINDS: dict[int, Kind] = {1: "bytes", 2: "float", 3: "int64"}
"""By the number of tf.train.Feature's field."""
LOOKED_AT = 1_000
"""Records whose features are compared; labels are read of all."""
SAMPLES = 20
MOST_FEATURES = 1_000
LARGEST_RECORD = 256 * 2**20
MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass
class Feature:
    """One key of the examples, by those that were looked at."""

    examples: int = 0
    """That have it."""
    kinds: set[Kind] = field(default_factory=set)
    counts: set[int] = field(default_factory=set)
    """How many values an example has."""
    sizes: set[int] = field(default_factory=set)
    """How long a byte string is."""
    samples: list[bytes] = field(default_factory=list)
    """The first byte strings."""

    def add(self, kind: Kind, values: Sequence[Any]) -> None:
        """Take note of one example's values."""
        self.examples += 1
        self.kinds.add(kind)
        self.counts.add(len(values))
        if kind == "bytes":
            self.sizes.update(map(len, values))
            self.samples += values[: max(SAMPLES - len(self.samples), 0)]

    @property
    def kind(self) -> Kind:
        """What its values are, in all examples."""
        (kind,) = self.kinds
        return kind

    @property
    def count(self) -> int | None:
        """How many values every example has; None where that differs."""
        (count,) = self.counts if len(self.counts) == 1 else (None,)
        return count

    @property
    def size(self) -> int | None:
        """How long every byte string is; None where that differs."""
        (size,) = self.sizes if len(self.sizes) == 1 else (None,)
        return size

    @property
    def text(self) -> bool:
        """Whether the byte strings are words, as names of files and classes are."""
        return all(one.isascii() and one.decode().isprintable() for one in self.samples)

    @property
    def picture(self) -> str | None:
        """The format in which every example is one picture, or None."""
        found = {next((name for magic, name in MAGIC.items() if one.startswith(magic)), None) for one in self.samples}
        (encoding,) = found if len(found) == 1 and self.count == 1 else (None,)
        return encoding


def features(paths: Sequence[str]) -> tuple[dict[str, Feature], int]:
    """The keys that every one of the first examples has, and how many examples there are in all the files.

    Raises DataError for what is no such file.
    """
    found: dict[str, Feature] = {}
    total = 0
    for where, record in _records(paths):
        total += 1
        if total > LOOKED_AT:
            continue
        for key, kind, values in _example(record, where):
            if key in found or len(found) < MOST_FEATURES:
                found.setdefault(key, Feature()).add(kind, values)
    if not total:
        raise DataError(f"{paths[0]}: holds no records")
    looked_at = min(total, LOOKED_AT)
    alike = {key: one for key, one in found.items() if one.examples == looked_at and len(one.kinds) == 1}
    return alike, total


def values(paths: Sequence[str], key: str) -> Any:
    """The numbers of one key, (n, count), of all examples. Raises DataError where they have not as many each."""
    import numpy as np

    rows: list[list[Any]] = []
    for where, record in _records(paths):
        found = next((one for name, _, one in _example(record, where) if name == key), None)
        if found is None or (rows and len(found) != len(rows[0])):
            raise DataError(f"{where} has no {key!r} as the first record has it; write the same features in all")
        rows.append(found)
    return np.asarray(rows)


def _records(paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Where each record is, in words, and its content."""
    for path in paths:
        for number, record in enumerate(_records_of(path)):
            yield f"{path}: record {number}", record


def _records_of(path: str) -> Iterator[bytes]:
    try:
        with Path(path).open("rb") as plain, _unpacked(plain) as stream:
            while head := stream.read(12):
                (length,) = struct.unpack("<Q", head[:8]) if len(head) == 12 else (LARGEST_RECORD + 1,)
                if length > LARGEST_RECORD:
                    raise DataError(f"{path}: is damaged or not a TFRecord; make it again")
                record = stream.read(length)
                if len(record) != length or len(stream.read(4)) != 4:
                    raise DataError(f"{path}: ends in the middle of a record; copy or make it again")
                yield record
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a TFRecord ({error}); make it again") from error


def _unpacked(stream: Any) -> Any:
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if packed else stream


def _example(record: bytes, where: str) -> Iterator[tuple[str, Kind, list[Any]]]:
    """The keys of a tf.train.Example with what they hold."""
    try:
        for features in _inside(record, 1):
            for entry in _inside(features, 1):
                key = b"".join(islice(_inside(entry, 1), 1)).decode("utf-8")
                for feature in islice(_inside(entry, 2), 1):
                    yield from ((key, KINDS[number], _list(number, held)) for number, held in _fields(feature))
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise DataError(f"{where}: is not a tf.train.Example message, the only kind that can be evaluated") from error


def _list(number: int, held: Any) -> list[Any]:
    kind = KINDS[number]
    found: list[Any] = []
    for _, value in _fields(held):
        if kind == "bytes":
            found.append(value)
        elif kind == "float":
            found += struct.unpack(f"<{len(value) // 4}f", value)
        else:
            found += [_signed(one) for one in (_varints(value) if isinstance(value, bytes) else [value])]
    return found


def _inside(message: bytes, number: int) -> Iterator[bytes]:
    return (value for found, value in _fields(message) if found == number)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: a number where it is a varint, else its bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case _:
                raise ValueError(tag)
        if at + size > len(message):
            raise ValueError(size)
        yield tag >> 3, message[at : at + size]
        at += size


def _varints(content: bytes) -> Iterator[int]:
    at = 0
    while at < len(content):
        value, at = _varint(content, at)
        yield value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError(value)


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
