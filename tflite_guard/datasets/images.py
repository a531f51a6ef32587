"""Image files: a folder per class, a list of files with labels, or a folder without labels."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tflite_guard.datasets.sources import (
    INT64,
    Array,
    Column,
    Rows,
    chunks,
    columns_of,
    finite,
    integer,
    near,
    quoted,
    require_keys,
)
from tflite_guard.errors import DataError
from tflite_guard.files import contained

IMAGE, LABEL = "image", "label"
# Modes of more than 8 bits a channel, which a conversion to RGB would clip without a word.
DEEP_MODES = ("I", "F")


@dataclass(frozen=True)
class ImageFiles:
    """Image files in the order they are evaluated, decoded when they are read, with what belongs to each of them."""

    files: Sequence[str]

    @property
    def examples(self) -> int:
        return len(self.files)

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        for chunk in chunks(rows, size):
            images = columns_of([{IMAGE: self.image(row)} for row in chunk], [IMAGE]) if IMAGE in keys else {}
            yield images | self.beside(keys, chunk)

    def image(self, row: int) -> Array:
        """One image as uint8 (h, w, 3), RGB."""
        return decode_file(self.files[row])

    def beside(self, keys: Sequence[str], rows: Rows) -> dict[str, Column]:
        """The columns of some images that are asked for beside their pixels."""
        raise NotImplementedError


@dataclass(frozen=True)
class ImageReader(ImageFiles):
    """Images with numbers as labels, or without any."""

    labels: Array | None
    names: Mapping[str, Array] = field(default_factory=dict)
    """The labels file's further columns, texts (n,)."""

    def beside(self, keys: Sequence[str], rows: Rows) -> dict[str, Column]:
        labels = {} if self.labels is None else {LABEL: self.labels}
        return {key: values[np.asarray(rows)] for key, values in {**labels, **self.names}.items() if key in keys}


def open_images(
    path: str,
    keys: Sequence[str],
    class_order: Sequence[str] | None,
    labels_file: str | None,
    roots: Sequence[str] = (),
) -> ImageReader:
    """Lists the images under `path`; a label is the class's index in `class_order` or what `labels_file` says.

    Further columns of `labels_file`, which its header names, are keys of their own.

    Links may lead to other places under `path`, and under `roots`, where tools such as DVC keep the files.
    Raises DataError for a missing or surplus class folder, a file that is missing or lies outside.
    """
    if not os.path.isdir(path):
        raise DataError(f"{path}: there is no such folder of images")
    if labels_file is not None:
        reader = _listed(path, labels_file, class_order, roots)
    elif class_order is not None:
        reader = _by_class(path, class_order, roots)
    else:
        reader = _unlabelled(path, roots)
    require_keys(path, keys, [IMAGE] if reader.labels is None else [IMAGE, LABEL, *reader.names])
    return reader


def decode_file(path: str) -> Array:
    """One image file as uint8 (h, w, 3), RGB."""
    try:
        return decode(Path(path).read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: the image cannot be read ({error.strerror or error})") from error


def decode(content: bytes, where: str) -> Array:
    """An encoded image as uint8 (h, w, 3), RGB: the first frame, as stored (no EXIF rotation), alpha dropped.

    Raises DataError when it is damaged, has more than 8 bits a channel, or is larger than Pillow's limit
    against decompression bombs (89 million pixels).
    """
    from PIL import Image

    with decoding(where), Image.open(io.BytesIO(content)) as image:
        if image.mode.split(";")[0] in DEEP_MODES:
            raise DataError(f"{where}: has more than 8 bits a channel; save the values as .npz instead")
        return np.asarray(image.convert("RGB"))


def size_of(path: str) -> tuple[int, int]:
    """Height and width of an image file, without decoding its pixels. Raises DataError as `decode_file`."""
    from PIL import Image

    with decoding(path), Image.open(path) as image:
        return image.height, image.width


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Within it, Pillow refuses what is too large, and whatever it raises is a DataError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: the image is too large to decode safely ({error}); make it smaller") from error
    # Pillow's decoders raise what they like on damaged files; SyntaxError is one of them.
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, IndexError, TypeError, KeyError) as error:
        raise DataError(f"{where}: the image cannot be decoded ({error}); make the file again or remove it") from error


def _by_class(path: str, class_order: Sequence[str], roots: Sequence[str]) -> ImageReader:
    found = _entries(path)
    for name in found:
        if name not in class_order:
            raise DataError(
                f"{os.path.join(path, name)}: is not a class in class_order; add it there, or move it elsewhere"
                f"{near(name, class_order)}"
            )
    files: list[str] = []
    labels: list[int] = []
    for index, name in enumerate(class_order):
        folder = os.path.join(path, name)
        if name not in found or not os.path.isdir(folder):
            raise DataError(
                f"{folder}: class_order names this class, but there is no such folder; make it, or correct class_order"
            )
        images = _files(folder, path, roots)
        files += images
        labels += [index] * len(images)
    return ImageReader(files, np.array(labels, np.int64))


def _unlabelled(path: str, roots: Sequence[str]) -> ImageReader:
    for name in _entries(path):
        if os.path.isdir(os.path.join(path, name)):
            raise DataError(f"{path}: holds folders such as {name!r}; name them in class_order")
    return ImageReader(_files(path, path, roots), None)


def _files(folder: str, root: str, roots: Sequence[str]) -> list[str]:
    """The images of one folder by name. Hidden files, which operating systems leave behind, are passed over."""
    return [inside(os.path.join(folder, name), root, roots) for name in _entries(folder)]


def _entries(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror})") from error


def inside(file: str, root: str, roots: Sequence[str]) -> str:
    """The real path of an image, which must be a file below `root`, or below one of `roots`."""
    real = os.path.realpath(file)
    if not contained(real, [root, *roots]):
        raise DataError(
            f"{file}: leads outside the folder {root}; copy the image into it, or allow its place with --data-root"
        )
    if not os.path.isfile(real):
        raise DataError(f"{file}: is not a file; put the image itself there, or remove it")
    return real


def _listed(path: str, labels_file: str, class_order: Sequence[str] | None, roots: Sequence[str]) -> ImageReader:
    files: list[str] = []
    labels: list[int | float] = []
    header, names = ["file", "label"], list[list[str]]()
    try:
        with Path(labels_file).open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            for row in rows:
                if not row:
                    continue
                if not files and [cell.strip().lower() for cell in row[:2]] == ["file", "label"]:
                    header = row
                    for name in row[2:]:
                        if row.count(name) > 1 or name in (IMAGE, LABEL):
                            place = f"{labels_file}: line {rows.line_num}"
                            raise DataError(f"{place}: names {quoted(name)}, which is a key already; rename it")
                    continue
                place = f"{labels_file}: line {rows.line_num}"
                if len(row) != len(header):
                    further = "" if len(header) == 2 else f", and what the header names: {', '.join(header[2:])}"
                    raise DataError(f"{place}: has {len(row)} cells; each line is a file and its label{further}")
                if "\0" in row[0]:
                    raise DataError(f"{place}: {quoted(row[0])} is not the name of a file")
                if os.path.isabs(row[0]):
                    raise DataError(f"{place}: {quoted(row[0])} is absolute; give it relative to {path}")
                files.append(inside(os.path.join(path, row[0]), path, roots))
                labels.append(_label(row[1].strip(), class_order, place))
                names.append(row[2:])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{labels_file}: the list of labels cannot be read ({error})") from error
    columns = {name: np.array([row[at] for row in names], np.str_) for at, name in enumerate(header[2:])}
    kind = np.int64 if all(isinstance(x, int) for x in labels) else np.float32
    return ImageReader(files, np.array(labels, kind), columns)


def _label(text: str, class_order: Sequence[str] | None, place: str) -> int | float:
    """A class's index where its name is in `class_order`, else the number itself."""
    if class_order is not None:
        if text not in class_order:
            raise DataError(f"{place}: {quoted(text)} is not a class in class_order{near(text, class_order)}")
        return class_order.index(text)
    number = integer(text)
    if number is None:
        try:
            return finite(text, place)
        except DataError as error:
            raise DataError(
                f"{place}: the label {quoted(text)} is not a number; name the classes in class_order"
            ) from error
    if not INT64.min <= number <= INT64.max:
        raise DataError(f"{place}: the label {quoted(text)} does not fit in 64 bits; count the classes from 0")
    return number
