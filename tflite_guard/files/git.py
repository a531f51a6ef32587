"""What a repository tracks, from its index.

Read here and not by git: the container has none, and git refuses a repository that belongs to another user. The format
is gitformat-index(5), versions 2 to 4.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from pathlib import Path

from tflite_guard.files import root_above

_EXTENDED = 0x4000
_LARGEST_INDEX = 256 * 2**20
_LARGEST_LINK = 2**16


def tracked(folder: str) -> bool | None:
    """Whether a repository tracks anything in a folder; None where that cannot be known."""
    names = tracked_files(folder)
    return None if names is None else bool(names)


def tracked_files(folder: str) -> list[str] | None:
    """What a repository tracks below a folder, sorted, relative to it, with `/`; None where that cannot be known."""
    real = os.path.realpath(folder)
    root = root_above(real)
    index = _index(root)
    if index is None:
        return None
    inside = b"" if real == root else os.fsencode(Path(os.path.relpath(real, root)).as_posix()) + b"/"
    try:
        names = _names(_read(index, _LARGEST_INDEX))
    except (OSError, ValueError, struct.error, IndexError):
        return None
    # A file in conflict is there once for each side.
    return sorted({os.fsdecode(name[len(inside) :]) for name in names if name.startswith(inside)})


def _index(root: str) -> Path | None:
    """The index of the repository at a root; `.git` is a file in worktrees and submodules."""
    place = Path(root) / ".git"
    if place.is_file():
        found = re.match(r"gitdir: (.+)\s*$", os.fsdecode(_read(place, _LARGEST_LINK)))
        if found is None:
            return None
        place = Path(root) / found[1]
    index = place / "index"
    return index if index.is_file() else None


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(most)


def _names(content: bytes) -> list[bytes]:
    """The paths in an index. Raises ValueError, struct.error or IndexError where it cannot be read."""
    signature, version, count = struct.unpack_from(">4sII", content)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("not an index")
    sha256 = hashlib.sha256(content[:-32]).digest() == content[-32:]
    fixed = 40 + (32 if sha256 else 20)
    position, name = 12, b""
    names = []
    for _ in range(count):
        start = position
        (flags,) = struct.unpack_from(">H", content, start + fixed)
        position = start + fixed + (4 if flags & _EXTENDED else 2)
        if version == 4:
            dropped, position = _varint(content, position)
            name = name[: len(name) - dropped]
        else:
            name = b""
        end = content.index(b"\0", position)
        name += content[position:end]
        position = end + 1 if version == 4 else start + (end - start + 8) // 8 * 8
        names.append(name)
    _check_extensions(content, position, len(content) - (32 if sha256 else 20))
    return names


def _check_extensions(content: bytes, position: int, end: int) -> None:
    """Raise ValueError where what follows the entries changes what they mean, or cannot be told.

    An extension whose name begins with a capital may be ignored. Others say that names are elsewhere: `link` in another
    file (a split index), `sdir` behind the folders that stand for them (a sparse index).
    """
    while position < end:
        name, size = struct.unpack_from(">4sI", content, position)
        if not b"A" <= name[:1] <= b"Z":
            raise ValueError(f"the extension {name!r}")
        position += 8 + size
    if position != end:
        raise ValueError("the entries do not end where the extensions begin")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number as in pack files' offsets, and where it ends."""
    value = content[position] & 0x7F
    while content[position] & 0x80:
        position += 1
        value = (value + 1 << 7) | (content[position] & 0x7F)
    return value, position + 1
