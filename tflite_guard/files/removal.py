"""Removing what an untrusted process may have left: folders of any depth, without permissions, among links."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)  # Windows has neither


def remove(path: str | Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; what cannot be removed stays, without a word.

    shutil.rmtree runs out of stack in deep folders and passes over those that their owner may not list. Here what is
    deep is moved up first. Links are never followed.
    """
    folder, name = os.path.split(os.path.abspath(path))
    with contextlib.suppress(OSError), _opened(folder, os.O_RDONLY) as parent:
        if _is_folder(parent, name):
            unlock(name, parent)
            with _opened(name, _FOLDER, parent) as top:
                _empty(top)
            os.rmdir(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)


def remove_own(folder: str, endings: tuple[str, ...]) -> None:
    """Remove a folder of files with such endings, which an earlier run has written, and a link in its place.

    What else is in it stays, and so the folder. What cannot be removed cannot be written either, which tells.
    """
    with contextlib.suppress(OSError):
        if os.path.islink(folder):
            os.unlink(folder)
            return
        for name in os.listdir(folder):
            if name.endswith(endings):
                os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


def is_in_the_way(folder: str | Path) -> bool:
    """Whether something is in the place of a folder and is none; a link is none either."""
    return os.path.lexists(folder) and (os.path.islink(folder) or not os.path.isdir(folder))


def clear_way(folder: str | Path) -> None:
    """Remove what is in the place of a folder and is none."""
    if is_in_the_way(folder):
        remove(folder)


def unlock(name: str | Path, parent: int | None = None) -> None:
    """Let its owner list and change a folder; nothing is done to what a link leads to."""
    with contextlib.suppress(OSError):
        if not hasattr(os, "O_PATH"):
            os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
            return
        with _opened(str(name), os.O_PATH | _FOLDER, parent) as place:
            os.chmod(f"/proc/self/fd/{place}", 0o700)


def _empty(top: int) -> None:
    """Remove all that an open folder holds."""
    own = secrets.token_hex(8)  # a name that nobody has taken
    moved = 0
    stuck: set[str] = set()
    while folders := [name for name in _folders(top) if name not in stuck]:
        for folder in folders:
            unlock(folder, top)
            try:
                with _opened(folder, _FOLDER, top) as inner:
                    for deeper in _folders(inner):
                        unlock(deeper, inner)  # moving a folder writes to it
                        os.rename(deeper, f"{own}-{moved}", src_dir_fd=inner, dst_dir_fd=top)
                        moved += 1
                os.rmdir(folder, dir_fd=top)
            except OSError:
                stuck.add(folder)


def _folders(folder: int) -> list[str]:
    """The names of the folders in an open one, of which all else is removed."""
    found = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            if _is_folder(folder, name):
                found.append(name)
            else:
                os.unlink(name, dir_fd=folder)
    return found


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


@contextlib.contextmanager
def _opened(path: str, flags: int, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
