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
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec

from tflite_guard.errors import EvaluationError
from tflite_guard.files import adopt, is_full, make_folders, shortage
from tflite_guard.files.removal import is_in_the_way, remove, unlock

LAYOUT = "v1"
_INDEX = "entry.json"
_TEMPORARY = "tmp-"
_ABANDONED_SECONDS = 24 * 3600
_BLOCK = 2**20
_LARGEST_INDEX = 32 * 2**20
"""Bytes; an answer, which it holds, has at most a quarter of that."""
_ZEROS = bytes(_BLOCK)
Pause = Callable[[], None]
"""Called now and then where a file is read; may end the work by raising."""


def _go_on() -> None:
    pass


def key_of(*parts: Any) -> str:
    """The SHA-256, in hexadecimal, of some JSON-like values; equal exactly when they are equal."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


class Entry(msgspec.Struct, frozen=True):
    """A finished entry."""

    folder: Path
    files: dict[str, Stored]
    meta: dict[str, Any]

    def verified(self, name: str, pause: Pause = _go_on) -> bool:
        """Whether the content of one file is what was stored."""
        stored = self.files[name]
        try:
            with regular(self.folder / name) as stream:
                # The size first: a file that has grown may be larger than anybody wants to read.
                if os.fstat(stream.fileno()).st_size != stored.size:
                    return False
                digest = hashlib.sha256()
                while block := stream.read(_BLOCK):
                    pause()
                    digest.update(block)
                return digest.hexdigest() == stored.sha256
        except (OSError, ValueError):  # a name in a forged index may hold anything
            return False


class Stored(msgspec.Struct, frozen=True):
    """A file as it was stored."""

    size: int
    sha256: str


class _Content(msgspec.Struct):
    files: dict[str, Stored]
    meta: dict[str, Any]


class _Index(msgspec.Struct):
    """What an entry says of itself."""

    check: str
    """The hash of the key and of the content, as it is written: nothing is decoded of what is damaged."""
    content: msgspec.Raw


class Usage(msgspec.Struct, frozen=True):
    """What a cache holds."""

    entries: int
    fetched: int
    """Files from elsewhere."""
    size: int
    """Bytes on the disk."""
    most: int
    """Bytes from which on what was not used for longest is removed after a run."""


class Cache:
    """A folder of entries, shared by any number of processes."""

    def __init__(self, folder: str | Path, max_bytes: int = 8 * 2**30, setting: str = "--cache-dir") -> None:
        """`setting` is what a user sets to have another folder, for messages."""
        self.folder = Path(folder) / LAYOUT
        self._max_bytes = max_bytes
        self.setting = setting
        self.refused: set[Path] = set()
        """Where something was that is no entry: damaged, or another program's."""

    @property
    def fetched(self) -> Path:
        """Where files from elsewhere are kept: each by the hash of its content, as old as its last use."""
        return self.folder / "fetched"

    def get(self, key: str, pause: Pause = _go_on) -> Entry | None:
        """The entry of a key with all its files verified, or None."""
        entry = self.peek(key)
        if entry is None:
            return None
        if all(entry.verified(name, pause) for name in entry.files):
            return entry
        self._refuse(entry.folder)
        return None

    def peek(self, key: str) -> Entry | None:
        """The entry of a key with its metadata verified and its files not read."""
        folder = self._place(key)
        if not os.path.lexists(folder):
            return None
        content = _read_index(folder, key)
        if content is None:
            self._refuse(folder)
            return None
        with contextlib.suppress(OSError):  # a read-only cache still answers
            os.utime(folder)
        return Entry(folder, content.files, content.meta)

    def discard(self, key: str) -> None:
        """Remove the entry of a key, which turned out to be none."""
        self._refuse(self._place(key))

    def put(
        self,
        key: str,
        files: Mapping[str, str | Path],
        meta: dict[str, Any],
        *,
        folder: int | None = None,
        pause: Pause = _go_on,
    ) -> Entry:
        """Store copies of files under a key and give the entry; whoever stored it first wins.

        Files come from a child and are not trusted: only regular files are read, links are not followed, and with
        `folder`, the descriptor of an open folder, names are taken in it whatever its path leads to by now.

        Raises:
            EvaluationError: a file is no result, the disk is full, or the folder cannot be written.
        """
        place = self._place(key)
        try:
            for own in (self.folder, place.parent):
                if is_in_the_way(own):
                    self.refused.add(own)
                    remove(own)
                make_folders(own)
                if not os.access(own, os.R_OK | os.W_OK | os.X_OK):
                    unlock(own)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.folder))
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            stored = {name: _copy(source, temporary / name, folder, pause) for name, source in files.items()}
            content = msgspec.json.encode(_Content(stored, meta))
            index = _Index(_check(key, content), msgspec.Raw(content))
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
            remove(temporary)
        entry = self.peek(key)
        if entry is None:
            raise EvaluationError("cache", f"{place}: cannot be read back; name another folder with {self.setting}")
        return entry

    def closed(self) -> Iterator[str]:
        """What of it others than its writers may not read.

        An entry is written by one process, whose umask its index tells of. Temporaries are nobody's business.
        """
        fetched = (self.fetched, *self.fetched.glob("*"))
        for path in (self.folder, *self.folder.glob("??"), *self.folder.glob(f"??/*/{_INDEX}"), *fetched):
            with contextlib.suppress(OSError):
                if not path.stat().st_mode & stat.S_IROTH:
                    yield str(path)

    def prune(self) -> None:
        """Remove what killed processes left, and the entries unused for longest while the store is too large."""
        now = time.time()
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f"{_TEMPORARY}*"):
                if now - path.stat().st_mtime > _ABANDONED_SECONDS:
                    remove(path)
        entries = sorted(((_used(path), path) for path in (*self._entries(), *self._fetched())), reverse=True)
        total = 0
        for used, path in entries:
            total += _size(path)
            # An entry used lately may be in another process's hands.
            if total > self._max_bytes and now - used > 3600:
                self._discard(path)

    def usage(self) -> Usage:
        """What it holds now."""
        entries, fetched = self._entries(), self._fetched()
        return Usage(len(entries), len(fetched), sum(map(_size, (*entries, *fetched))), self._max_bytes)

    def clear(self) -> Usage:
        """Remove all that it holds, and tell what that was. What a run at the same time needs it makes again.

        Raises EvaluationError where something cannot be removed.
        """
        held = self.usage()
        remove(self.folder)
        if os.path.lexists(self.folder):
            raise EvaluationError("cache", f"{self.folder.parent}: cannot be cleared; it holds what belongs to others")
        return held

    def _entries(self) -> list[Path]:
        return [*self.folder.glob("??/*")]

    def _fetched(self) -> list[Path]:
        return [*self.fetched.glob("*")]

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _refuse(self, folder: Path) -> None:
        """Remove what is in an entry's place and is none, and remember that it was there."""
        if os.path.lexists(folder):  # else another process has removed it meanwhile
            self.refused.add(folder)
            self._discard(folder)

    def _discard(self, folder: Path) -> None:
        """Remove an entry in one step, so that no one meets half of it."""
        with contextlib.suppress(OSError):
            grave = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.folder))
            unlock(folder)  # moving a folder writes to it
            try:
                folder.rename(grave / "entry")
            finally:
                remove(grave)

    def _unwritable(self, error: OSError) -> EvaluationError:
        if told := shortage(error):
            return EvaluationError("limit", told)
        place = self.folder.parent
        if is_full(error):
            advice = f"free some, or name another folder with {self.setting}"
            return EvaluationError("disk-full", f"{place}: no space left; {advice}")
        return EvaluationError(
            "cache", f"{place}: cannot be written ({error.strerror}); name another folder with {self.setting}"
        )


def _read_index(folder: Path, key: str) -> _Content | None:
    """What the index of a key's entry holds, or None when it is not there, damaged, or another's."""
    if folder.is_symlink():
        return None
    try:
        with regular(folder / _INDEX) as stream:
            index = msgspec.json.decode(stream.read(_LARGEST_INDEX), type=_Index)
        return msgspec.json.decode(index.content, type=_Content) if index.check == _check(key, index.content) else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _check(key: str, content: bytes | msgspec.Raw) -> str:
    return hashlib.sha256(key.encode() + bytes(content)).hexdigest()


def _copy(source: str | Path, target: Path, folder: int | None, pause: Pause) -> Stored:
    """Copy a file. Raises EvaluationError where it is no result, OSError where the copy cannot be written."""
    digest, size = hashlib.sha256(), 0
    with _result(source, folder) as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            pause()
            digest.update(block)
            size += len(block)
            # What is a hole stays one: a child must not fill the disk with what it has not written.
            if block == _ZEROS[: len(block)]:
                writer.seek(size)
            else:
                writer.write(block)
        writer.truncate(size)
    return Stored(size, digest.hexdigest())


def _result(source: str | Path, folder: int | None) -> BufferedReader:
    """A file that a child left, opened to read."""
    try:
        return regular(source, folder)
    except OSError as error:
        told = f"left, {os.path.basename(source)}, cannot be read ({error.strerror})"
        raise EvaluationError("crash", f"a file that the model's process {told}") from None


def regular(path: str | Path, folder: int | None = None) -> BufferedReader:
    """A regular file, opened to read. Raises OSError for anything else; links are not followed."""
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(entry: Path) -> int:
    """The bytes that an entry takes on the disk, which are fewer than its files' where these have holes."""
    total = 0
    with contextlib.suppress(OSError):
        for path in entry.iterdir() if entry.is_dir() else (entry,):
            total += path.stat().st_blocks * 512
    return total
