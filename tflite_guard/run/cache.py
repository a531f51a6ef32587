"""Content-addressed store of what a run computed: reference outputs, converted artifacts, evaluations.

An entry is a folder named by the hash of everything that its content depends on. It is written under a
temporary name and renamed, so it is there whole or not at all, whoever else writes or is killed at any
moment. Every file is verified against its recorded hash when read; a damaged entry counts as absent.
Entries hold JSON, .npy, .npz and .tflite files, never a pickle.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.errors import EvaluationError
from tflite_guard.files import adopt, is_full, make_folders

LAYOUT = "v1"
_INDEX = "entry.json"
_TEMPORARY = "tmp-"
_ABANDONED_SECONDS = 24 * 3600
_BLOCK = 2**20


def key_of(*parts: Any) -> str:
    """The SHA-256, in hexadecimal, of some JSON-like values; equal exactly when they are equal."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A finished entry."""

    folder: Path
    files: dict[str, str]
    """File name to SHA-256, in hexadecimal."""
    meta: dict[str, Any]

    def verified(self, name: str) -> Path | None:
        """The path of one file whose content is what was stored, else None."""
        path = self.folder / name
        try:
            with _regular(path) as stream:
                return path if hashlib.file_digest(stream, "sha256").hexdigest() == self.files.get(name) else None
        except (OSError, ValueError):  # a name in a damaged index may hold anything
            return None


class _Index(msgspec.Struct):
    """What an entry says of itself."""

    files: dict[str, str]
    meta: dict[str, Any]
    check: str
    """The hash of the key and of what is above."""


class Cache:
    """A folder of entries, shared by any number of processes."""

    def __init__(self, folder: str | Path, max_bytes: int = 8 * 2**30, setting: str = "--cache-dir") -> None:
        """`setting` is what a user sets to have another folder, for messages."""
        self.folder = Path(folder) / LAYOUT
        self._max_bytes = max_bytes
        self._setting = setting

    def get(self, key: str) -> Entry | None:
        """The entry of a key with all its files verified, or None."""
        entry = self.peek(key)
        if entry is None:
            return None
        if all(entry.verified(name) is not None for name in entry.files):
            return entry
        self._discard(entry.folder)
        return None

    def peek(self, key: str) -> Entry | None:
        """The entry of a key with its metadata verified and its files not read."""
        folder = self._place(key)
        if not os.path.lexists(folder):
            return None
        index = _read_index(folder, key)
        if index is None:
            self._discard(folder)
            return None
        with contextlib.suppress(OSError):  # a read-only cache still answers
            os.utime(folder)
        return Entry(folder, index.files, index.meta)

    def put(
        self, key: str, files: Mapping[str, str | Path], meta: dict[str, Any], *, folder: int | None = None
    ) -> Entry:
        """Store copies of files under a key and give the entry; whoever stored it first wins.

        Files come from a child and are not trusted: only regular files are read, links are not followed, and with
        `folder`, the descriptor of an open folder, names are taken in it whatever its path leads to by now.

        Raises:
            EvaluationError: the disk is full or the folder cannot be written.
        """
        place = self._place(key)
        try:
            if os.path.lexists(place.parent) and (place.parent.is_symlink() or not place.parent.is_dir()):
                self._discard(place.parent)
            make_folders(place.parent)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.folder))
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            hashes = {name: _copy(source, temporary / name, folder) for name, source in files.items()}
            index = _Index(hashes, meta, key_of(key, hashes, meta))
            with (temporary / _INDEX).open("xb") as stream:
                stream.write(msgspec.json.encode(index))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o755)
            for path in (temporary, *temporary.iterdir()):
                adopt(path)
            self.peek(key)  # discards what is damaged in its place
            with contextlib.suppress(OSError):  # another was first
                temporary.rename(place)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        entry = self.peek(key)
        if entry is None:
            raise EvaluationError("cache", f"{place}: cannot be read back; name another folder with {self._setting}")
        return entry

    def closed(self) -> Iterator[str]:
        """What of it others than its writers may not read.

        An entry is written by one process, whose umask its index tells of. Temporaries are nobody's business.
        """
        for path in (self.folder, *self.folder.glob("??"), *self.folder.glob(f"??/*/{_INDEX}")):
            with contextlib.suppress(OSError):
                if not path.stat().st_mode & stat.S_IROTH:
                    yield str(path)

    def prune(self) -> None:
        """Remove what killed processes left, and the entries unused for longest while the store is too large."""
        now = time.time()
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f"{_TEMPORARY}*"):
                if now - path.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        entries = sorted(((_used(path), path) for path in self.folder.glob("??/*")), reverse=True)
        total = 0
        for used, path in entries:
            total += _size(path)
            # An entry used lately may be in another process's hands.
            if total > self._max_bytes and now - used > 3600:
                self._discard(path)

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _discard(self, folder: Path) -> None:
        """Remove an entry in one step, so that no one meets half of it."""
        with contextlib.suppress(OSError):
            grave = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.folder))
            folder.rename(grave / "entry")
            shutil.rmtree(grave, ignore_errors=True)

    def _unwritable(self, error: OSError) -> EvaluationError:
        place = self.folder.parent
        if is_full(error):
            advice = f"free some, or name another folder with {self._setting}"
            return EvaluationError("disk-full", f"{place}: no space left; {advice}")
        return EvaluationError(
            "cache", f"{place}: cannot be written ({error.strerror}); name another folder with {self._setting}"
        )


def _read_index(folder: Path, key: str) -> _Index | None:
    """The index of a key's entry, or None when it is not there, damaged, or another's."""
    if folder.is_symlink():
        return None
    try:
        with _regular(folder / _INDEX) as stream:
            index = msgspec.json.decode(stream.read(), type=_Index)
        return index if index.check == key_of(key, index.files, index.meta) else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _copy(source: str | Path, target: Path, folder: int | None) -> str:
    digest = hashlib.sha256()
    with _regular(source, folder) as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()


def _regular(path: str | Path, folder: int | None = None) -> BufferedReader:
    """A regular file, opened to read. Raises OSError for anything else; links are not followed."""
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a result is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            total += path.stat().st_size
    return total
