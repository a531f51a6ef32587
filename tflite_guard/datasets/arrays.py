"""NumPy files, read row by row so that memory does not grow with them, and arrays already in memory."""

from __future__ import annotations

import contextlib
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from tflite_guard.datasets.sources import Array, Column, Rows, agree, chunks, native, require_keys, runs
from tflite_guard.errors import DataError
from tflite_guard.files import ZIP_ERRORS, open_zip

# Rows of a Fortran-ordered array are not contiguous, so the array must be read whole.
FORTRAN_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Header:
    """The head of one .npy stream."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int
    """Where the values begin, in bytes from the start of the stream."""

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class ArrayReader:
    """Arrays that are already in memory, with one first axis."""

    arrays: Mapping[str, Array]
    examples: int

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        for chunk in chunks(rows, size):
            yield {key: self.arrays[key][np.asarray(chunk)] for key in keys}


@dataclass(frozen=True)
class NpzReader:
    """An .npz file; only the members that are asked for are read."""

    path: str
    examples: int

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        with _clear_errors(self.path), contextlib.ExitStack() as stack:
            archive = stack.enter_context(open_zip(self.path))
            streams = {key: stack.enter_context(archive.open(f"{key}.npy")) for key in dict.fromkeys(keys)}
            members = {
                key: _rows(stream, archive.getinfo(f"{key}.npy").file_size, f"{self.path}: {key}", rows, size)
                for key, stream in streams.items()
            }
            for _ in chunks(rows, size):
                yield {key: next(member) for key, member in members.items()}


@dataclass(frozen=True)
class NpyReader:
    """.npy files of one array each, under whatever keys the manifest gives them."""

    files: Mapping[str, str]
    examples: int

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        with contextlib.ExitStack() as stack:
            members = {}
            for key in dict.fromkeys(keys):
                path = self.files[key]
                stack.enter_context(_clear_errors(path))
                members[key] = _rows(
                    stack.enter_context(Path(path).open("rb")), Path(path).stat().st_size, path, rows, size
                )
            for _ in chunks(rows, size):
                yield {key: next(member) for key, member in members.items()}


def open_npz(path: str, keys: Sequence[str]) -> NpzReader:
    """Reads the heads of the arrays `keys`. Raises DataError when they are missing or cannot be used."""
    heads = npz_headers(path, keys)
    return NpzReader(path, agree(path, {key: head.shape[0] for key, head in heads.items()}))


def npz_headers(path: str, keys: Sequence[str] | None = None) -> dict[str, Header]:
    """The heads of arrays in an .npz, of all of them without `keys`; no values are read.

    Raises DataError when the file or one of the arrays cannot be used.
    """
    with _clear_errors(path):
        _refuse_pointer(path)
        with open_zip(path) as archive:
            present = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            require_keys(path, keys or (), present, "array")
            if len({*present}) != len(present):
                twice = next(name for name in present if present.count(name) > 1)
                raise DataError(f"{path}: holds two arrays named {twice}; save it again with one")
            heads = {}
            for key in dict.fromkeys(present if keys is None else keys):
                info = archive.getinfo(f"{key}.npy")
                if info.flag_bits & 1:
                    raise DataError(f"{path}: the archive is encrypted; save it without a password")
                with archive.open(info) as stream:
                    heads[key] = _header(stream, info.file_size, f"{path}: {key}")
    return heads


def npy_header(path: str) -> Header:
    """The head of an .npy file; no values are read. Raises DataError when it is not an array of examples."""
    with _clear_errors(path):
        _refuse_pointer(path)
        with Path(path).open("rb") as stream:
            return _header(stream, Path(path).stat().st_size, path)


def open_npy(files: Mapping[str, str]) -> NpyReader:
    """Opens key to .npy file. Raises DataError when one is not an array of examples."""
    lengths = {key: npy_header(path).shape[0] for key, path in files.items()}
    return NpyReader(files, agree(" and ".join(dict.fromkeys(files.values())), lengths))


def write_npz(target: str | Path | IO[bytes], arrays: Mapping[str, Array]) -> None:
    """Write arrays as a compressed .npz, under whatever names: numpy.savez takes some for its own parameters.

    Equal arrays give equal bytes, whenever they are written. Raises OSError when the file cannot be written.
    """
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                npy.write_array(member, np.asanyarray(array), allow_pickle=False)


def hold(where: str, arrays: Mapping[str, Any], keys: Sequence[str]) -> ArrayReader:
    """Serves arrays from memory. Raises DataError for a missing key, a scalar or Python objects."""
    require_keys(where, keys, [str(key) for key in arrays])
    held = {key: native(np.asarray(arrays[key])) for key in dict.fromkeys(keys)}
    for key, array in held.items():
        _require_examples(array.shape, array.dtype, f"{where}: {key}")
    return ArrayReader(held, agree(where, {key: len(array) for key, array in held.items()}))


def _header(stream: IO[bytes], available: int, where: str) -> Header:
    """Reads the head of an .npy stream of `available` bytes and checks that the values can be there."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{where}: .npy version {version} is not supported; save the array again with numpy.save")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            shape, fortran, dtype = read(stream)
    except (SyntaxError, TokenError, TypeError, RecursionError, MemoryError) as error:  # a header is Python's text
        raise DataError(f"{where}: its header is damaged ({type(error).__name__}); save the array again") from error
    _require_examples(shape, dtype, where)
    header = Header(shape, fortran and len(shape) > 1, dtype, stream.tell())
    needed = header.start + header.row_bytes * shape[0]
    if needed != available:  # more is as wrong as less: zipfile compares the checksum only at the very end
        raise DataError(
            f"{where}: is truncated or damaged: {shape} needs {needed} bytes, but there are {available}; "
            "copy or save it again"
        )
    return header


def _require_examples(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    if dtype.hasobject:
        raise DataError(f"{where}: holds Python objects, which are never unpickled; save a plain numeric array")
    if dtype.fields is not None:
        raise DataError(f"{where}: holds records with fields; save each field as an array of its own")
    if not shape or min(shape) < 0:
        raise DataError(f"{where}: is a single value; its first axis must count the examples")


def _rows(stream: IO[bytes], available: int, where: str, rows: Rows, size: int) -> Iterator[Array]:
    """Yields the wanted rows of an .npy stream, `size` at a time."""
    header = _header(stream, available, where)
    whole = _fortran(stream, header, where) if header.fortran else None
    for chunk in chunks(rows, size):
        if whole is not None:
            yield native(np.ascontiguousarray(whole[np.asarray(chunk)]))
        else:
            pieces = [_run(stream, header, first, count, where) for first, count in runs(chunk)]
            yield native(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))


def _run(stream: IO[bytes], header: Header, first: int, count: int, where: str) -> Array:
    """Reads `count` consecutive rows. Seeking forward in a compressed member reads and drops in pieces."""
    position = header.start + first * header.row_bytes
    if stream.tell() != position:
        stream.seek(position)
    data = _exactly(stream, count * header.row_bytes, where)
    return np.ndarray((count, *header.shape[1:]), header.dtype, data)


def _fortran(stream: IO[bytes], header: Header, where: str) -> Array:
    total = header.row_bytes * header.shape[0]
    if total > FORTRAN_BYTES:
        raise DataError(
            f"{where}: {total / 2**20:.0f} MiB in Fortran order cannot be streamed; "
            "save numpy.ascontiguousarray(array) instead"
        )
    return np.ndarray(header.shape, header.dtype, _exactly(stream, total, where), order="F")


def _exactly(stream: IO[bytes], count: int, where: str) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise DataError(f"{where}: the file is truncated: the values end early; copy or save it again")
    return data


def _refuse_pointer(path: str) -> None:
    with Path(path).open("rb") as stream:
        start = stream.read(40)
    if start.startswith(b"version https://git-lfs."):
        raise DataError(f"{path}: is a Git LFS pointer, not the data; run 'git lfs pull'")
    if not start:
        raise DataError(f"{path}: the file is empty; copy or make it again")


@contextlib.contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """Turns whatever a broken file makes zipfile, zlib and NumPy raise into one message that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except ZIP_ERRORS as error:
        raise DataError(f"{path}: the file is damaged or in another format ({error}); make it again") from error
