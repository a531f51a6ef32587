"""Files as bytes: what they are, where they really lie, what their hash is. Nothing here trusts a name."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import io
import lzma
import mmap
import os
import re
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_MAX_BYTES = 1024  # the specification's own bound for a pointer file
_HDF5 = b"\x89HDF\r\n\x1a\n"
_CHUNK = 1 << 20
_AGAIN_MAX = 100
"""Folders that may be met again through links. Links to folders of links multiply: ten of ten are a million."""
_MOST_DIRECTORY = 2 << 20
"""Bytes of a zip file's directory: some 30,000 members."""
ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, NotImplementedError,
    RuntimeError, OverflowError,
)  # fmt: skip
"""What reading a damaged zip file raises."""
Identity = tuple[int, int, int, int, int]
"""What tells a file from others and from what it was: device, inode, size, times of change of content and of state."""
_SETTLED_NS = 2 * 10**9
"""As in git: a file that was changed just before it is read may be changed again within the same tick of its clock."""
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?!\d)")
"""Which part of how many a file is, as TensorFlow names the parts of one data set."""
_MOST_LISTED = 100_000
_MOST_SETS = 10
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHORT = {
    errno.EMFILE: "too many files are open at the same time; raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; end what else runs",
    errno.EAGAIN: "no more processes and threads can be started; raise `ulimit -u`",
    errno.ENOMEM: "no memory is left; use a machine with more",
}


class Known:
    """Hashes of files that have been read. What derives from it may keep some for longer."""

    def __init__(self) -> None:
        self._hashes: dict[Identity, str] = {}

    def find(self, identity: Identity) -> str | None:
        """The hash of a file, if it is known."""
        return self._hashes.get(identity)

    def keep(self, identity: Identity, sha256: str, settled: bool) -> None:  # noqa: ARG002 - for what derives from it
        """Remember a hash. `settled`: whoever changes the file from now on changes its identity, too."""
        self._hashes[identity] = sha256


def sha256_of(
    path: str,
    roots: Sequence[str] = (),
    known: Known | None = None,
    pause: Callable[[], None] = lambda: None,
) -> str:
    """The SHA-256 of a file, or of a folder over its sorted files, in lower-case hexadecimal.

    A folder's is the hash of one line for every file below it, `<sha256 of the content>  <path>`, with
    the path relative to the folder, in POSIX form, sorted by its bytes: what
    `find -L * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` prints inside the folder (for names
    that do not begin with a dot or hold white space). Symbolic links count as what they point to, which
    must lie in the folder or under one of `roots`. Raises OSError when something cannot be read, leads
    elsewhere, or is not a regular file: a device may never end.

    A file that many links lead to is read once; `known` remembers that between calls. `pause` is called now and
    then, and may end the work by raising.
    """
    known = known or Known()
    if not os.path.isdir(path):
        return _sha256_of_file(path, known, pause)
    return _sha256_of_all(path, files_below(path, roots), known, pause)


def sha256_of_files(paths: Sequence[str]) -> str:
    """The SHA-256 of files of one folder, as that of a folder that holds them alone. Raises OSError."""
    return _sha256_of_all(os.path.dirname(paths[0]), map(os.path.basename, paths), Known(), lambda: None)


def _sha256_of_all(folder: str, names: Iterable[str], known: Known, pause: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    for name in sorted(names, key=os.fsencode):
        content = _sha256_of_file(os.path.join(folder, name), known, pause)
        digest.update(f"{content}  ".encode() + os.fsencode(name) + b"\n")
    return digest.hexdigest()


def files_below(folder: str, roots: Sequence[str] = ()) -> Iterator[str]:
    """The files below a folder as relative POSIX paths, in no order; links are followed, never in a circle.

    Raises OSError, whose `strerror` names the entry, for a link out of the folder and the roots, which could
    lead over the whole disk, for links that lead to the same folders again and again, and for what is neither a
    file nor a folder.
    """
    allowed = [os.path.realpath(place) for place in (folder, *roots)]
    again = 0
    seen = {allowed[0]}
    pending = [("", seen.copy())]
    while pending:
        inside, above = pending.pop()
        for entry in _entries(os.path.join(folder, inside)):
            name = os.path.join(inside, entry.name)
            if entry.is_symlink():
                _check_link(entry.path, name, allowed)
            if not entry.is_dir():
                _check_regular(entry.path, name, entry.is_file())
                yield name.replace(os.sep, "/")
                continue
            real = os.path.realpath(entry.path)
            if real in above:
                continue
            again += real in seen
            if again > _AGAIN_MAX:
                what = f"{name}: more than {_AGAIN_MAX} links lead to folders met before; remove some"
                raise OSError(errno.ELOOP, what, entry.path)
            seen.add(real)
            pending.append((name, above | {real}))


def contained(path: str, roots: Sequence[str]) -> bool:
    """Whether a path lies at or under one of the roots once every symbolic link is resolved."""
    real = os.path.realpath(path)
    return any(under(real, os.path.realpath(root)) for root in roots)


def under(path: str, root: str) -> bool:
    """Whether one absolute path is another or lies below it, by their letters alone."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def is_pattern(path: str) -> bool:
    """Whether a path stands for the files whose names match its last part, and is not the name of one itself."""
    return any(mark in os.path.basename(path) for mark in "*?[") and not os.path.lexists(path)


def fits(path: str, pattern: str) -> bool:
    """Whether a pattern means a path: in the same folder, a name that matches, where `*` means no dot at its start."""
    (folder, name), (own, names) = os.path.split(path), os.path.split(pattern)
    return folder == own and fnmatch.fnmatchcase(name, names) and (name[:1] != "." or names[:1] == ".")


def matching(pattern: str) -> list[str]:
    """The paths that a pattern means, by name; none where there is no such folder."""
    folder = os.path.dirname(pattern)
    try:
        with os.scandir(folder or ".") as entries:
            paths = [os.path.join(folder, entry.name) for entry in islice(entries, _MOST_LISTED)]
    except OSError:
        return []
    return sorted(path for path in paths if fits(path, pattern))


def shards_of(path: str) -> str | None:
    """The pattern of all the parts of a data set of which a file is one by its name, or None."""
    folder, name = os.path.split(path)
    found = _SHARD.search(name)
    return os.path.join(folder, f"{name[: found.start()]}-*-of-{name[found.start(2) :]}") if found else None


def pattern_of(paths: Sequence[str]) -> str | None:
    """The pattern that means these files and no others, of one folder; None where there is none."""
    stem, ending = os.path.splitext(paths[0])
    whole = os.path.join(os.path.dirname(stem), f"*{ending}")
    wanted = sorted(paths)
    return next((one for one in (shards_of(paths[0]), whole) if one and matching(one) == wanted), None)


def missing_shard(paths: Collection[str], pattern: str) -> str | None:
    """The first part of a data set that a pattern means, that is not there although others of its set are."""
    present = {*paths}
    sets = {_SHARD.sub(r"-*-of-\2", os.path.basename(path), count=1): path for path in paths}
    for path in islice(sets.values(), _MOST_SETS):
        folder, name = os.path.split(path)
        if found := _SHARD.search(name):
            head, tail = name[: found.start(1)], name[found.end(1) :]
            parts = (os.path.join(folder, f"{head}{number:05}{tail}") for number in range(int(found[2])))
            if missing := next((part for part in parts if part not in present and fits(part, pattern)), None):
                return missing
    return None


def lfs_pointer(path: str) -> bool:
    """Whether a file is a Git LFS pointer: the few lines that stand in for a file not yet fetched."""
    if not os.path.isfile(path) or os.path.getsize(path) > _LFS_MAX_BYTES:
        return False
    return _head(path).startswith(_LFS)


def sniff(path: str) -> str:
    """What a file or folder is, by its first bytes and never by its name.

    One of `tflite`, `keras` (a zip with a config.json), `npz` (a zip of arrays), `zip`, `broken-zip`,
    `hdf5`, `npy`, `pickle` (also PyTorch's zip around one), `lfs-pointer`, `empty`, `saved_model` (a folder
    with saved_model.pb), `folder`, `special` (a device or pipe, which is not opened), `unknown`. Raises
    OSError when it is missing or cannot be read.
    """
    if os.path.isdir(path):
        return "saved_model" if os.path.isfile(os.path.join(path, "saved_model.pb")) else "folder"
    if os.path.exists(path) and not os.path.isfile(path):
        return "special"
    return _kind(path, _head(path))


def holds(path: str, content: bytes) -> bool:
    """Whether some bytes occur anywhere in a file; False too when it is missing or cannot be read."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) < len(content):
            return False
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return mapped.find(content) >= 0
    except OSError:
        return False


def find_root(folder: str) -> str:
    """The repository that a folder lies in, links resolved: the nearest above with `.git`, else the folder itself."""
    return root_above(os.path.realpath(folder))


def root_above(folder: str) -> str:
    """The nearest folder at or above this one that holds `.git` (a folder, or a worktree's file), else itself."""
    current = folder
    while not os.path.exists(os.path.join(current, ".git")):
        parent = os.path.dirname(current)
        if parent == current:
            return folder
        current = parent
    return current


def repository_path(path: str) -> str:
    """A file's path relative to its repository's root, with `/`; without git, relative to where we are."""
    real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
    root = root_above(os.path.dirname(real))
    if not os.path.exists(os.path.join(root, ".git")) and under(real, os.getcwd()):
        root = os.getcwd()
    return Path(os.path.relpath(real, root)).as_posix()


class _Directory(io.BufferedReader):
    """A zip file, of which no more is read at a time than a directory may be long, until it has been read."""

    read_whole = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.read_whole:
            return super().read(size)
        wanted = _MOST_DIRECTORY + 1 if size is None or size < 0 else min(size, _MOST_DIRECTORY + 1)
        data = super().read(wanted)
        if len(data) > _MOST_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory is longer than {_MOST_DIRECTORY >> 20} MiB")
        return data


@contextlib.contextmanager
def open_zip(path: str) -> Iterator[zipfile.ZipFile]:
    """A zip file to read.

    Raises what zipfile raises, and BadZipFile for one with so many members that listing them takes seconds.
    """
    with _Directory(io.FileIO(path)) as stream, zipfile.ZipFile(stream) as archive:
        stream.read_whole = True
        yield archive


def zip_members(path: str) -> list[str] | None:
    """The names in a zip file's directory; None when it is not a zip file or a damaged one."""
    try:
        with open_zip(path) as archive:
            return archive.namelist()
    except ZIP_ERRORS:
        return None


def _kind(path: str, head: bytes) -> str:
    if not head:
        return "empty"
    if head.startswith(_LFS):
        return "lfs-pointer"
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(_HDF5):
        return "hdf5"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_kind(zip_members(path))
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return "unknown"


def _zip_kind(names: list[str] | None) -> str:
    if names is None:
        return "broken-zip"
    if "config.json" in names:
        return "keras"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    return "pickle" if any(name.endswith("data.pkl") for name in names) else "zip"


def _sha256_of_file(path: str, known: Known, pause: Callable[[], None]) -> str:
    pause()
    _check_regular(path, os.path.basename(path), os.path.isfile(path))
    with Path(path).open("rb") as file:
        identity = _identity(file.fileno())
        if (found := known.find(identity)) is not None:
            return found
        started = time.time_ns()
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            pause()
        settled = max(identity[-2:]) < started - _SETTLED_NS and _identity(file.fileno()) == identity
    known.keep(identity, digest.hexdigest(), settled)
    return digest.hexdigest()


def _identity(descriptor: int) -> Identity:
    # Some file systems give a number anew, and a file may be written anew under its own.
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _head(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(64)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name, reverse=True)


def _check_link(path: str, name: str, allowed: Sequence[str]) -> None:
    real = os.path.realpath(path)
    if not any(under(real, root) for root in allowed):
        what = f"{name} leads out of the folder, to {real}; copy it, or allow its place with --data-root"
        raise OSError(errno.EINVAL, what, path)


def why_absent(path: str | Path) -> str | None:
    """Why no file and no folder can be found at a path, such as a loop of links; None where one is."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return "no such file or folder"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    # To open a pipe waits for who writes to it, and a device may never end.
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is a device, a pipe or a socket; name a file"


def _check_regular(path: str, name: str, regular: bool) -> None:
    if regular:
        return
    if not os.path.exists(path):
        what = "leads to nothing" if os.path.islink(path) else "does not exist"
        raise FileNotFoundError(errno.ENOENT, f"{name} {what}", path)
    raise OSError(errno.EINVAL, f"{name} is a device, a pipe or a socket, not a file", path)


def make_folders(path: str | Path) -> None:
    """Make a folder and those that it lies in. Raises OSError."""
    missing = []
    current = os.path.abspath(path)
    while not os.path.isdir(current):
        missing.append(current)
        current = os.path.dirname(current)
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        else:
            adopt(folder)


def adopt(path: str | Path) -> None:
    """Give what root made to the owner of the folder that it is in.

    A container's root writes into the user's workspace, and the user must be able to remove that.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # where root's power is limited (rootless containers) it stays as it is
        owner, own = os.stat(os.path.dirname(os.path.abspath(path))), os.lstat(path)
        if (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def write_atomically(path: str, content: bytes, *, follow: bool = True, mode: int | None = None) -> None:
    """Write a file whole or not at all; whoever reads it meets the old content or the new.

    With `follow`, a link's target is written, and special files (`/dev/stdout`, a pipe) are written to; without,
    whatever is in the file's place is replaced. `mode` are its permissions, by default those of a new file. Raises
    OSError.
    """
    target = os.path.realpath(path) if follow else os.path.abspath(path)
    if follow and os.path.exists(target) and not os.path.isfile(target):
        with Path(target).open("wb") as stream:
            stream.write(content)
        return
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".tflite-guard-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask() if mode is None else mode)
        adopt(temporary)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def is_full(error: OSError) -> bool:
    """Whether there was no room to write: a full disk, a quota or a limit."""
    return error.errno in _FULL


def shortage(error: Exception) -> str | None:
    """What a process has too little of, and what to do, where that and no file is what an error is about."""
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):  # Python keeps no number of it
        return _SHORT[errno.EAGAIN]
    return _SHORT.get(error.errno or 0) if isinstance(error, OSError) else None


def says_full(text: str) -> bool:
    """Whether a library's message tells of a full disk."""
    return any(os.strerror(code) in text for code in _FULL)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
