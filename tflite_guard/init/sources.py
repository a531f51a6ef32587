"""What a user's data is: which source of a manifest reads it, and which arrays it gives."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite_guard.errors import DataError, UsageError
from tflite_guard.files import (
    is_pattern,
    lfs_pointer,
    matching,
    missing_shard,
    pattern_of,
    shards_of,
    sniff,
    why_absent,
)
from tflite_guard.init import records
from tflite_guard.init.records import Feature

if TYPE_CHECKING:
    from tflite_guard.datasets.arrays import Header

EVALUATION = ("evaluation", "eval", "test", "validation", "valid", "val")
CALIBRATION = ("calibration", "calib", "representative", "train", "training")
FILES = (".npz", ".npy", ".csv")
RECORDS = re.compile(r"(?i)\.tfrecord(?!.*\.dvc$)|-\d{5}-of-\d{5}(\.gz)?$")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
ORDERS = ("class_names.txt", "classes.txt", "labels.txt", "labelmap.txt")
"""Files that list classes in the order of a model's outputs."""
SIZES_LOOKED_AT = 20
MOST_NAMED = 5


@dataclass(frozen=True)
class Array:
    """One array of a source: all examples of a key. None is a size that differs from example to example."""

    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"[{', '.join('?' if size is None else str(size) for size in self.shape)}] {self.dtype}"


@dataclass(frozen=True)
class Data:
    """One source: what a manifest says of it, and what it holds."""

    path: str
    """Of a file or folder, or a pattern of several files."""
    settings: dict[str, Any]
    """`source`, and what it needs beside `path` and `inputs`."""
    arrays: Mapping[str, Array]
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = field(default=())
    """Of a table, in its order."""
    features: Mapping[str, Feature] = field(default_factory=dict)
    """Of a TFRecord, by key, what its examples hold."""
    pictures: tuple[str, ...] = ()
    """The keys whose values are pictures from files, which are fitted to the model."""


def split(path: str) -> tuple[str, str | None]:
    """The evaluation data and the calibration data, where a folder holds one beside the other.

    Raises UsageError where there are two of the same name.
    """
    if not os.path.isdir(path):
        return path, None
    entries = sorted({shards_of(entry) or entry for entry in os.listdir(path) if _may_be_data(path, entry)})
    evaluation, calibration = (_of_names(path, entries, names) for names in (EVALUATION, CALIBRATION))
    return (path, None) if evaluation is None else (evaluation, calibration)


def _may_be_data(folder: str, entry: str) -> bool:
    """Whether a source reads it, and it is not what lies beside data, such as `test.npz.dvc`."""
    return entry.lower().endswith(FILES) or _holds_records(entry) or os.path.isdir(os.path.join(folder, entry))


def _of_names(folder: str, entries: Sequence[str], names: Sequence[str]) -> str | None:
    """The entry that bears the first of some names that any does."""
    for name in names:
        found = [os.path.join(folder, entry) for entry in entries if _stem(entry) == name]
        if len(found) > 1:
            raise UsageError(f"{folder}: {' and '.join(found)} could each be the {names[0]} data; name one as DATA")
        if found:
            return found[0]
    return None


def _stem(entry: str) -> str:
    """What a file is called without its endings; of shards the last word: `test` of `m-test.tfrecord-*-of-00002`."""
    if not is_pattern(entry):
        return entry.partition(".")[0].lower()
    return re.split(r"[-_]", entry.partition("-*-of-")[0].partition(".")[0].lower())[-1]


def look(path: str) -> Data:
    """What some data is. Raises UsageError for what no source reads, DataError for what is broken."""
    if is_pattern(path):
        return _records_of_several(path)
    kind = sniffed(path, "the data")
    if os.path.isdir(path):
        records_inside = {shards_of(name) or name for name in os.listdir(path) if _holds_records(name)}
        if not records_inside:
            return _images(path)
        if len(records_inside) > 1:
            listed = " and ".join(os.path.join(path, name) for name in sorted(records_inside))
            raise UsageError(f"{path}: holds {listed}; name one as DATA")
        return look(os.path.join(path, *records_inside))
    if kind == "npy":
        return _npy(path)
    if path.lower().endswith(".csv"):
        return _table(path)
    if _holds_records(path):
        note = f"{path} alone is used of {shards_of(path)}; for all, name that pattern as DATA, in quotes"
        return replace(_tfrecord(path, [path]), notes=(note,) if shards_of(path) else ())
    if kind not in ("npz", "zip", "broken-zip", "empty"):
        raise UsageError(f"{path}: is no data that can be read: no .npz, .npy, CSV file, TFRecord or folder")
    return Data(path, {"source": "npz"}, arrays_of(path))


def sniffed(path: str, what: str) -> str:
    """What a file or folder is. Raises UsageError where it is not there, cannot be read, or is a Git LFS pointer."""
    if why := why_absent(path):
        raise UsageError(f"{path}: {why}")
    try:
        kind = sniff(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if kind == "lfs-pointer":
        raise UsageError(f"{path}: is a Git LFS pointer, not {what} itself; run `git lfs pull`")
    return kind


def arrays_of(data: str) -> dict[str, Array]:
    """Shapes and types of the arrays in an .npz, without reading them."""
    from tflite_guard.datasets.arrays import npz_headers

    return {key: _array(header) for key, header in npz_headers(data).items()}


def _array(header: Header) -> Array:
    return Array(tuple(header.shape), str(header.dtype))


def with_labels_file(data: Data, file: str, relative: Callable[[str], str]) -> Data:
    """A .npy, which holds one array, with its labels from another."""
    if data.settings["source"] != "npy" or sniffed(file, "the file of labels") != "npy":
        raise UsageError(f"--labels {file}: a file of labels must be an .npy beside an .npy as DATA; else name a key")
    return replace(
        data,
        settings={**data.settings, "labels_file": relative(file)},
        arrays={**data.arrays, "label": _npy(file).arrays["array"]},
    )


def values(data: Data, key: str, folder: str) -> Any:
    """The values of one key, all of them, as (n, ...)."""
    import numpy as np

    from tflite_guard.datasets import open_dataset
    from tflite_guard.manifest.types import DatasetSpec, FileSpec

    if data.features:
        found = records.values(files_of(data.path), key)
        return found.reshape(len(found), *data.arrays[key].shape[1:])
    settings = data.settings
    labels_file = settings.get("labels_file")
    spec = DatasetSpec(
        name="data",
        source=settings["source"],
        file=FileSpec(data.path),
        inputs=key if settings["source"] != "npy" else "array",
        labels=key,
        class_order=tuple(settings["class_order"]) if "class_order" in settings else None,
        labels_file=None if labels_file is None else FileSpec(os.path.relpath(os.path.join(folder, labels_file))),
        columns=settings.get("columns"),
    )
    opened = open_dataset(spec, ["only"])
    parts = list(opened.labels_of("", 2**14))
    return np.concatenate(parts)


def _npy(path: str) -> Data:
    from tflite_guard.datasets.arrays import npy_header

    return Data(path, {"source": "npy"}, {"array": _array(npy_header(path))})


def _images(path: str) -> Data:
    entries = sorted(name for name in os.listdir(path) if not name.startswith("."))
    folders = [name for name in entries if os.path.isdir(os.path.join(path, name))]
    order, note = _class_order(path, folders) if folders else ([], "")
    inside = folders or [""]
    files = [
        os.path.join(path, folder, name)
        for folder in inside
        for name in sorted(os.listdir(os.path.join(path, folder)))
        if name.lower().endswith(PICTURES)
    ]
    if not files:
        held = [os.path.join(path, name) for name in entries if name.lower().endswith(FILES)]
        beside = f"; name one as DATA: {', '.join(held[:MOST_NAMED])}" if held else ""
        raise UsageError(f"{path}: holds no images, and no evaluation data beside calibration data{beside}")
    pointer = next(filter(lfs_pointer, files), None)
    if pointer is not None:
        raise UsageError(f"{pointer}: is a Git LFS pointer, not the image itself; run `git lfs pull`")
    stray = [name for name in entries if name not in folders] if folders else [
        name for name in entries if not name.lower().endswith(PICTURES)
    ]  # fmt: skip
    if stray:
        raise UsageError(f"{os.path.join(path, stray[0])}: is among the images; move it out of their folder")
    height, width = _size(files)
    arrays = {"image": Array((len(files), height, width, 3), "uint8")}
    settings: dict[str, Any] = {"source": "images"}
    if order:
        settings["class_order"] = order
        arrays["label"] = Array((len(files),), "int64")
    return Data(path, settings, arrays, (note,) if note else (), pictures=("image",))


def _class_order(path: str, folders: list[str]) -> tuple[list[str], str]:
    """The classes by a list that names them all, which lies beside the folder, else by the alphabet, as Keras does."""
    for name in ORDERS:
        listed = Path(path).parent / name
        if listed.is_file():
            lines = [line.strip() for line in listed.read_text(errors="replace").splitlines() if line.strip()]
            if sorted(lines) == sorted(folders):
                return lines, f"class_order is that of {listed}"
    return folders, (
        "class_order is alphabetical, as Keras numbers folders: check that it is the order of the model's outputs"
    )


def _size(files: list[str]) -> tuple[int | None, int | None]:
    """Height and width that the first images have in common."""
    from tflite_guard.datasets.images import decode_file

    return _common({decode_file(file).shape[:2] for file in files[:SIZES_LOOKED_AT]})


def _common(sizes: set[Any]) -> tuple[int | None, int | None]:
    ((height, width),) = sizes if len(sizes) == 1 else ((None, None),)
    return height, width


def files_of(path: str) -> list[str]:
    """The files that a path of data means: itself, or those that match it."""
    return matching(path) if is_pattern(path) else [path]


def pattern_for(paths: Sequence[str]) -> str:
    """The pattern that means some files, as a shell has expanded it. Raises UsageError where it would mean others."""
    if all(path.endswith(".npy") for path in paths):
        raise UsageError(
            f"{paths[0]} and {len(paths) - 1} more: DATA is one file; name labels with --labels {paths[1]}, and put "
            "the arrays of several inputs into one .npz"
        )
    pattern = pattern_of(paths)
    if pattern is None:
        raise UsageError(
            f"{paths[0]} and {len(paths) - 1} more: DATA is one file, folder or pattern; put a pattern in quotes"
        )
    return pattern


def _holds_records(path: str) -> bool:
    """Whether a file is a TFRecord by its name."""
    return RECORDS.search(os.path.basename(path)) is not None


def _records_of_several(pattern: str) -> Data:
    found = matching(pattern)
    if not found:
        raise UsageError(f"{pattern}: no file matches; write the pattern in quotes, of the files of one folder")
    if len(found) == 1 and not shards_of(found[0]):
        return look(found[0])
    for path in found:
        if not _holds_records(path):
            raise UsageError(f"{pattern}: matches {path}; only TFRecord files are read together, as one DATA")
        if lfs_pointer(path):
            raise UsageError(f"{path}: is a Git LFS pointer, not the data itself; run `git lfs pull`")
    if missing := missing_shard(found, pattern):
        raise UsageError(f"{missing}: no such file, although others of {pattern} are there")
    return _tfrecord(pattern, found)


def _tfrecord(path: str, paths: Sequence[str]) -> Data:
    """TFRecord files by what its examples hold; bytes that are no pictures are told apart beside the model's inputs."""
    from tflite_guard.datasets.images import decode

    found, examples = records.features(paths)
    arrays: dict[str, Array] = {}
    pictures = tuple(key for key, one in found.items() if one.picture is not None)
    for key, one in found.items():
        if key in pictures:
            height, width = _common({decode(sample, f"{path}: {key}").shape[:2] for sample in one.samples})
            arrays[key] = Array((examples, height, width, 3), "uint8")
        elif one.kind != "bytes":
            shape = () if one.count == 1 else (one.count,)
            arrays[key] = Array((examples, *shape), {"float": "float32", "int64": "int64"}[one.kind])
    return Data(path, {"source": "tfrecord"}, arrays, features=found, pictures=pictures)


def _table(path: str) -> Data:
    """A CSV file by its columns that hold numbers; whether all their cells do is told when they are read."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the table cannot be read as UTF-8 CSV ({error})") from error
    header, body = (rows or [[]])[0], [row for row in rows[1:] if row]
    if not body:
        raise DataError(f"{path}: holds no lines of values below its header")
    _require_names(path, header)
    arrays = {}
    for place, name in enumerate(header):
        cells = [row[place] for row in body if place < len(row)]
        if header.count(name) == 1 and all(map(_is_number, cells)):
            whole = all(cell.strip().lstrip("+-").isdigit() for cell in cells)
            arrays[name] = Array((len(body),), "int64" if whole else "float32")
    return Data(path, {"source": "csv"}, arrays, columns=tuple(header))


def _require_names(path: str, header: Sequence[str]) -> None:
    """Raise DataError where a first line does not name the columns; whole numbers may be names."""
    separator = next((one for one in ";\t|" if len(header) == 1 and one in header[0]), None)
    if separator is not None:
        raise DataError(f"{path}: separates its columns by {separator!r}; write it anew with commas")
    if all(map(_is_number, header)) and not all(name.strip().isdigit() for name in header):
        raise DataError(f"{path}: begins with numbers; its first line must name the columns, so add one above")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
