"""Examples for evaluation and calibration: sources and preprocessing, streamed as batches of named arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, assert_never

import msgspec
import numpy as np
from msgspec.structs import replace

from tflite_guard.datasets import arrays, coco, functions, images, masks, tables
from tflite_guard.datasets.preprocess import Step, prepare
from tflite_guard.datasets.sources import (
    NEEDS_TENSORFLOW,
    Array,
    Column,
    Reader,
    Rows,
    chunks,
    near,
    require_numbers,
    select,
)
from tflite_guard.datasets.under_way import UnderWay
from tflite_guard.errors import DataError, NamingError
from tflite_guard.manifest.location import displayed
from tflite_guard.manifest.types import DatasetSpec
from tflite_guard.protocol import Names
from tflite_guard.text.plain import instead

__all__ = ["Array", "Batch", "Dataset", "Reader", "TfrecordOpener", "about", "canonical", "open_dataset"]

T = TypeVar("T")

TfrecordOpener = Callable[[Sequence[str], Mapping[str, Mapping[str, Any]]], Reader]
"""Opens TFRecord files (paths, features); given from outside, because it needs TensorFlow."""


class Batch(msgspec.Struct, frozen=True):
    """Consecutive examples, ready for a model."""

    inputs: dict[str, Array]
    """Model input name to (n, ...), preprocessed."""
    labels: dict[str, Array]
    """Model output name to (n, ...); the name is "" where the manifest gives one key for a single output."""
    groups: Array | None
    """(n,) integers or strings: examples of one value belong together."""
    start: int
    """The first example's place among those that are evaluated, from 0."""
    rows: Rows
    """Each example's row in the source, from 0: what messages count by."""
    slices: dict[str, Array] = msgspec.field(default_factory=dict)
    """The source's key to (n,) integers, booleans or strings: examples of one value are a slice."""


INPUTS = "its inputs are"
LONGEST_FILE = 200
"""Characters of a file's name in a report, from its end."""


class Dataset(msgspec.Struct, frozen=True):
    """An opened dataset. Nothing but indices is held in memory between batches."""

    spec: DatasetSpec
    inputs: Mapping[str, str]
    """Model input name to the source's key."""
    labels: Mapping[str, str]
    steps: Mapping[str, Sequence[Step]]
    reader: Reader
    rows: Rows
    blocks: Sequence[Rows] = ()
    """Where `rows` do not rise throughout: the stretches in which they do, each read in a pass of its own."""
    files: Sequence[str] = ()
    """The file of each of the source's examples, where each has one."""
    under_way: UnderWay | None = None
    """Told which examples are being read."""
    whole: Dataset | None = None
    """What this is a piece of; None where it is all."""

    @property
    def examples(self) -> int:
        """How many examples `batches` yields in all, after `limit`."""
        return len(self.rows)

    def in_blocks(self, blocks: Sequence[Array]) -> Dataset:
        """The same examples in another order: `blocks` are their places, rising within each block."""
        rows = [np.asarray(self.rows)[block] for block in blocks]
        return replace(self, rows=np.concatenate(rows), blocks=rows)

    def piece(self, first: int, last: int) -> Dataset:
        """The examples at the places from `first` to before `last`, as a dataset of its own."""
        return replace(self, rows=self.rows[first:last], whole=self)

    def first_of_all(self, size: int) -> Batch | None:
        """The first examples of what this is a piece of, at most so many; None where this is all."""
        return None if self.whole is None else next(self.whole.batches(size))

    def batches(self, size: int, *, with_labels: bool = True) -> Iterator[Batch]:
        """Yields the examples in order, `size` at a time, fewer at the end of a block and at the end.

        Without labels, groups and slices are left out as well. Raises DataError for values that cannot be used.
        """
        keys = _keys(self.spec, self.inputs, self.labels) if with_labels else list(dict.fromkeys(self.inputs.values()))
        start = 0
        for block in self.blocks or (self.rows,):
            end = start + len(block)
            stream = self.reader.read(keys, block, size)
            for rows in chunks(block, size):
                with self.doing("read", rows):
                    read = next(stream, None)
                    if read is None or any(len(column) != len(rows) for column in read.values()):
                        break
                    batch = self._batch(read, rows, start, with_labels)
                yield batch
                start += len(rows)
            if start < end:
                raise DataError(
                    f"{self.spec.path}: gave fewer examples than when it was opened ({self.examples}); leave it "
                    "unchanged while it is read"
                )

    def doing(self, what: str, rows: Rows) -> AbstractContextManager[None]:
        """Within it, something is done with these of the source's examples, which is told."""
        return (
            nullcontext() if self.under_way is None else self.under_way.doing(what, rows, self.called, self.spec.name)
        )

    def called(self, rows: Iterable[int]) -> str:
        """Some of the source's examples in words, counted from 0, with the files that they are."""
        places = sorted(rows)
        first, last, count = places[0], places[-1], len(places)
        if count == 1:
            return f"example {first} (from 0{f': {self.files[first]}' if self.files else ''})"
        files = f": {self.files[first]} to {self.files[last]}" if self.files else ""
        which = f"examples {first} to {last}" if last - first + 1 == count else f"{count} of examples {first} to {last}"
        return f"{which} (from 0{files})"

    def file_of(self, row: int) -> str | None:
        """The file of the example at a row, from the dataset's folder; None where examples are no files."""
        if not self.files:
            return None
        return displayed(os.path.relpath(self.files[row], os.path.realpath(self.spec.path)))[-LONGEST_FILE:]

    def labels_of(self, name: str, size: int) -> Iterator[Array]:
        """The labels of one output, `size` examples at a time, without reading anything else where the source can."""
        key = self.labels[name]
        for read in self.reader.read([key], self.rows, size):
            yield _even(read[key], self._file_of(key), key)

    def _file_of(self, key: str) -> str:
        """The path of what holds an output's labels: they may have a file of their own."""
        labels = self.spec.labels_file or self.spec.masks
        return self.spec.path if labels is None or key in self.inputs.values() else labels.path

    def _batch(self, read: Mapping[str, Column], rows: Rows, start: int, with_labels: bool) -> Batch:
        path = self.spec.path
        inputs = {}
        for name, key in self.inputs.items():
            prepared = prepare(read[key], self.steps[name], f"{path}: {key}")
            inputs[name] = _finite(prepared, rows, f"{path}: {key}", " after preprocessing")
        if not with_labels:
            return Batch(inputs, {}, None, start, rows)
        labels = {}
        for name, key in self.labels.items():
            place = self._file_of(key)
            labels[name] = _finite(_even(read[key], place, key), rows, f"{place}: {key}")
        group = self.spec.group
        groups = None if group is None else _named(read[group], "group", f"{path}: {group}")
        slices = {key: _named(read[key], "slice", f"{path}: {key}") for key in self.spec.slices}
        return Batch(inputs, labels, groups, start, rows, slices)


def open_dataset(
    spec: DatasetSpec,
    input_names: Sequence[str],
    *,
    allow_code: bool = False,
    tfrecord: TfrecordOpener | None = None,
    roots: Sequence[str] = (),
    under_way: UnderWay | None = None,
) -> Dataset:
    """Binds a dataset to a model's inputs and checks what can be checked without reading the values.

    Links in a folder of images may lead to `roots` as well. `under_way` is told which examples are read. Raises
    DataError when files are missing or broken, arrays differ in length, or there are no examples, and NamingError when
    the dataset names what the model does not have.
    """
    inputs = _bind(spec, input_names)
    labels = {"": spec.labels} if isinstance(spec.labels, str) else dict(spec.labels or {})
    steps = _steps(spec, list(inputs))
    reader = _open(spec, inputs, labels, steps, allow_code, tfrecord, roots)
    rows = select(reader.examples, spec.limit, spec.seed)
    if not len(rows):
        raise DataError(f"{spec.path}: holds no examples; a model needs some to be run on")
    files = reader.files if isinstance(reader, images.ImageFiles) else ()
    return Dataset(spec, inputs, labels, steps, reader, rows, files=files, under_way=under_way)


def canonical(spec: DatasetSpec, names: Names) -> DatasetSpec:
    """The dataset with its inputs, labels and preprocessing by a model's canonical names.

    A manifest may name them by alias or `#index` as well; what the model does not have stays, for `open_dataset` to
    tell. Raises NamingError where two names are of one input or output.
    """
    inputs, labels, steps = spec.inputs, spec.labels, spec.preprocess
    return replace(
        spec,
        inputs=_renamed(spec, inputs, names.input, "inputs") if isinstance(inputs, dict) else inputs,
        labels=_renamed(spec, labels, names.output, "labels") if isinstance(labels, dict) else labels,
        preprocess=_renamed(spec, steps, names.input, "preprocess") if isinstance(steps, dict) else steps,
    )


def _renamed(spec: DatasetSpec, written: Mapping[str, T], name_of: Callable[[str], str], what: str) -> dict[str, T]:
    renamed: dict[str, T] = {}
    for name, value in written.items():
        if name_of(name) in renamed:
            raise NamingError(
                f"dataset {spec.name!r}: {what!r} names {name_of(name)!r} twice, once as {name!r}",
                spec.places.get(f"{what}/{name}"),
            )
        renamed[name_of(name)] = value
    return renamed


@contextmanager
def about(spec: DatasetSpec | None) -> Iterator[None]:
    """Within it, what does not fit about a dataset's values is said with its file's name, or with both names."""
    try:
        yield
    except DataError as error:
        labels = None if spec is None else spec.labels_file or spec.masks
        files = () if spec is None else (spec.path, *((labels.path,) if labels else ()))
        if not files or any(path in str(error) for path in files):
            raise
        raise DataError(f"{' with '.join(files)}: {error}", error.kind) from error


def _bind(spec: DatasetSpec, input_names: Sequence[str]) -> dict[str, str]:
    """Model input name to source key, by name and complete."""
    listed = ", ".join(repr(name) for name in input_names)
    if isinstance(spec.inputs, str):
        if len(input_names) != 1:
            raise NamingError(
                f"dataset {spec.name!r}: 'inputs' must map each of the model's inputs to a key: {listed}",
                spec.places.get("inputs", spec.places.get("")),
            )
        return {input_names[0]: spec.inputs}
    for name in spec.inputs:
        if name not in input_names:
            raise NamingError(
                f"dataset {spec.name!r}: the model has no input {name!r}{instead(name, input_names, INPUTS)}",
                spec.places.get(f"inputs/{name}"),
            )
    for name in input_names:
        if name not in spec.inputs:
            raise NamingError(
                f"dataset {spec.name!r}: the model's input {name!r} has no key; its inputs are {listed}",
                spec.places.get("inputs"),
            )
    return {name: spec.inputs[name] for name in input_names}


def _steps(spec: DatasetSpec, names: Sequence[str]) -> dict[str, Sequence[Step]]:
    if not isinstance(spec.preprocess, dict):
        return dict.fromkeys(names, spec.preprocess)
    for name in spec.preprocess:
        if name not in names:
            raise NamingError(
                f"dataset {spec.name!r}: 'preprocess' names no input of the model: "
                f"{name!r}{instead(name, names, INPUTS)}",
                spec.places.get(f"preprocess/{name}"),
            )
    return {name: spec.preprocess.get(name, ()) for name in names}


def _keys(spec: DatasetSpec, inputs: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    group = [] if spec.group is None else [spec.group]
    return list(dict.fromkeys([*inputs.values(), *labels.values(), *group, *spec.slices]))


def _open(
    spec: DatasetSpec,
    inputs: Mapping[str, str],
    labels: Mapping[str, str],
    steps: Mapping[str, Sequence[Step]],
    allow_code: bool,
    tfrecord: TfrecordOpener | None,
    roots: Sequence[str],
) -> Reader:
    keys = _keys(spec, inputs, labels)
    match spec.source:
        case "npz":
            return arrays.open_npz(spec.path, keys)
        case "npy":
            return _open_npy(spec, inputs, labels)
        case "images" if spec.masks is not None:
            suffixes = (spec.image_suffix, spec.mask_suffix)
            way = _followed(spec, inputs, labels, steps, "masks")
            return masks.open_masked(spec.path, keys, spec.masks.path, suffixes, way, roots)
        case "images":
            listed = None if spec.labels_file is None else spec.labels_file.path
            return images.open_images(spec.path, keys, spec.class_order, listed, roots)
        case "coco":
            assert spec.labels_file is not None
            way = _followed(spec, inputs, labels, steps, "boxes")
            return coco.open_coco(spec.path, keys, spec.labels_file.path, spec.class_order, way, roots)
        case "csv":
            return tables.open_table(spec.path, _roles(spec, inputs, labels), spec.columns)
        case "tfrecord":
            return _open_tfrecord(spec, keys, tfrecord)
        case "python":
            assert spec.function is not None
            return functions.open_function(spec.function, keys, allow_code)
        case _:
            assert_never(spec.source)


def _followed(
    spec: DatasetSpec,
    inputs: Mapping[str, str],
    labels: Mapping[str, str],
    steps: Mapping[str, Sequence[Step]],
    what: str,
) -> Sequence[Step]:
    """The steps of the images, which labels of places in them (`what`) follow."""
    ways = [steps[name] for name, key in inputs.items() if key == images.IMAGE]
    if labels and any(one != ways[0] for one in ways):
        raise DataError(f"{spec.path}: {what} cannot follow images that are prepared in two ways; give both alike")
    return ways[0] if ways else ()


def _open_npy(spec: DatasetSpec, inputs: Mapping[str, str], labels: Mapping[str, str]) -> Reader:
    """One .npy is every input's array; labels come from another .npy, or are the input itself."""
    if len(set(inputs.values())) > 1 or spec.group is not None or spec.slices:
        raise DataError(f"{spec.path}: an .npy file holds one array; put several into an .npz")
    files = dict.fromkeys(inputs.values(), spec.path)
    for key in labels.values():
        if key not in files and (spec.labels_file is None or not spec.labels_file.path.endswith(".npy")):
            raise DataError(f"{spec.path}: an .npy file holds no labels; give labels_file (.npy) or use an .npz")
        if key not in files and spec.labels_file is not None:
            files[key] = spec.labels_file.path
    return arrays.open_npy(files)


def _roles(spec: DatasetSpec, inputs: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, tables.Role]:
    roles: dict[str, tables.Role] = dict.fromkeys(spec.slices, "name")
    roles |= {} if spec.group is None else {spec.group: "name"}
    roles |= dict.fromkeys(labels.values(), "label")
    return roles | dict.fromkeys(inputs.values(), "input")


def _open_tfrecord(spec: DatasetSpec, keys: Sequence[str], tfrecord: TfrecordOpener | None) -> Reader:
    if tfrecord is None:
        raise DataError(f"{spec.path}: {NEEDS_TENSORFLOW}")
    features = spec.features or {}
    for key in keys:
        if key not in features:
            raise DataError(f"{spec.path}: 'features' does not describe {key!r}{near(key, features)}")
    return tfrecord([one.path for one in spec.files], {key: features[key] for key in keys})


def _even(column: Column, path: str, key: str) -> Array:
    if isinstance(column, list):
        raise DataError(f"{path}: {key}: labels have different shapes; every example's must be alike")
    return column


def _finite(array: Array, rows: Rows, where: str, when: str = "") -> Array:
    """The array itself. Raises DataError for anything but finite numbers, with the first bad example."""
    require_numbers(array, where)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        flat = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        example = rows[int(np.flatnonzero(~flat)[0])]
        raise DataError(f"{where}: example {example} (from 0) holds NaN or infinity{when}; correct it or leave it out")
    return array


def _named(column: Column, what: str, where: str) -> Array:
    if isinstance(column, list) or column.ndim != 1 or column.dtype.kind not in "biuUS":
        raise DataError(f"{where}: a {what} must be one integer, boolean or string for each example")
    return np.char.decode(column, "utf-8") if column.dtype.kind == "S" else column
