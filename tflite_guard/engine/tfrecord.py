"""TFRecord files of tf.train.Example messages. TensorFlow checks their framing and checksums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tflite_guard.datasets.images import decode
from tflite_guard.datasets.sources import NEEDS_TENSORFLOW, Array, Column, Rows, columns_of, near, pick
from tflite_guard.errors import DataError


@dataclass(frozen=True)
class TfrecordReader:
    """TFRecord files, one after another, whose records can only be read forward."""

    paths: Sequence[str]
    features: Mapping[str, Mapping[str, Any]]
    examples: int

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        for records in pick(_records(self.paths), rows, size):
            yield columns_of([self._parse(record, keys, where) for where, record in records], keys)

    def _parse(self, record: bytes, keys: Sequence[str], where: str) -> dict[str, Array]:
        import tensorflow as tf
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            found = tf.train.Example.FromString(record).features.feature
        except DecodeError as error:
            raise DataError(
                f"{where}: is not a tf.train.Example; write each record with tf.train.Example.SerializeToString"
            ) from error
        for key in keys:
            if key not in found:
                raise DataError(f"{where}: there is no feature {key!r}{near(key, found)}")
        return {key: _value(found[key], self.features[key], f"{where}: {key}") for key in keys}


def read_tfrecord(paths: Sequence[str], features: Mapping[str, Mapping[str, Any]]) -> TfrecordReader:
    """Counts the records of files, each GZIP-compressed or not. Each feature has `dtype`, `shape` and `encoding`.

    `encoding` is how one example's value is stored: absent for a list of numbers, `raw` for the bytes of a
    little-endian array, `jpeg` or `png` for an image, decoded to RGB. Raises DataError when one is damaged.
    """
    return TfrecordReader(paths, features, sum(1 for _ in _records(paths)))


def _records(paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Where each record is, in words, and its content."""
    for path in paths:
        for number, record in enumerate(_records_of(path)):
            yield f"{path}: record {number}", record


def _records_of(path: str) -> Iterator[bytes]:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise DataError(f"{path}: {NEEDS_TENSORFLOW}") from error
    try:
        with Path(path).open("rb") as stream:
            compression = "GZIP" if stream.read(2) == b"\x1f\x8b" else ""
        yield from tf.data.TFRecordDataset(path, compression).as_numpy_iterator()
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror})") from error
    except tf.errors.OpError as error:
        raise DataError(f"{path}: the file is damaged or not a TFRecord ({error.message}); make it again") from error


def _value(feature: Any, described: Mapping[str, Any], where: str) -> Array:
    """One example's value in its declared type and shape."""
    encoding = described.get("encoding")
    if encoding in ("jpeg", "png"):
        return _shaped(decode(_one_string(feature, where), where), described, where)
    dtype = np.dtype(described.get("dtype", "float32"))
    if dtype.kind == "U":
        return np.asarray(_one_string(feature, where).decode("utf-8", "replace"))
    if encoding == "raw":
        data = _one_string(feature, where)
        if len(data) % dtype.itemsize:
            raise DataError(f"{where}: {len(data)} bytes are not a whole number of {dtype} values; correct 'dtype'")
        return _shaped(np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype), described, where)
    if feature.WhichOneof("kind") not in ("float_list", "int64_list"):
        raise DataError(f'{where}: holds bytes; say how they are stored with "encoding": raw, jpeg or png')
    values = feature.float_list.value if feature.HasField("float_list") else feature.int64_list.value
    return _shaped(np.array(values).astype(dtype), described, where)


def _one_string(feature: Any, where: str) -> bytes:
    values = feature.bytes_list.value
    if len(values) != 1:
        raise DataError(f"{where}: must hold one byte string, not {len(values)}; check 'encoding' and 'dtype'")
    return bytes(values[0])


def _shaped(array: Array, described: Mapping[str, Any], where: str) -> Array:
    shape = described.get("shape")
    if shape is None:
        return array
    try:
        return array.reshape(tuple(shape))
    except ValueError as error:
        raise DataError(
            f"{where}: holds {array.size} values, which do not make the shape {list(shape)}; correct 'shape'"
        ) from error
