"""The folder of a run's scratch files, locked while the run lives; what runs that were killed left is removed."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator

from tflite_guard.files.removal import remove

_PREFIX = "tflite-guard-"
_OWNER = "owner"
"""A file that is locked for as long as the folder's process lives, whatever ends it."""
MAKING_SECONDS = 3600
"""Within which a process that lives has put its lock into its folder, by far."""


class Scratch:
    """A new folder for scratch files."""

    def __init__(self, mode: int = 0o700) -> None:
        """Raises OSError; FileNotFoundError, with all that were tried, where no folder can be written."""
        self._owner: int | None = None
        self.path = tempfile.mkdtemp(prefix=_PREFIX)
        atexit.register(self.close)  # an interrupt may end whoever was to close it
        try:
            os.chmod(self.path, mode)
            self._owner = _owned(self.path)
        except OSError:
            self.close()
            raise
        sweep(os.path.dirname(self.path))

    def close(self) -> None:
        """Remove it."""
        remove(self.path)
        atexit.unregister(self.close)
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """The path of a new folder, which is removed afterwards."""
    scratch = Scratch()
    try:
        yield scratch.path
    finally:
        scratch.close()


def sweep(place: str) -> None:
    """Remove the scratch folders in a folder whose processes are gone; they must be our own user's."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if re.fullmatch(_PREFIX + r"\w{8}", entry.name) and _abandoned(entry.path):
                remove(entry.path)


def _owned(folder: str) -> int:
    """The descriptor of a locked file in a folder. The file has its name only once it is locked.

    Some network file systems lock nothing. A folder there never has an owner, so that no sweep takes it for abandoned.
    """
    import fcntl  # Windows has none

    descriptor, early = tempfile.mkstemp(dir=folder)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(early, os.path.join(folder, _OWNER))
    return descriptor


def _abandoned(folder: str) -> bool:
    import fcntl

    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.ExitStack() as stack:
        try:
            inside = os.open(folder, flags | os.O_DIRECTORY)
            stack.callback(os.close, inside)
            if os.fstat(inside).st_uid != os.geteuid():
                return False
            name = _owner_in(inside)
            if name is None:
                return True
            owner = os.open(name, flags, dir_fd=inside)
            stack.callback(os.close, owner)
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it has an owner, or is none of ours
            return False
        found = os.fstat(owner)
        return found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode)


def _owner_in(folder: int) -> str | None:
    """What would be locked by a folder's owner; None where nothing is, since its maker was killed before.

    Raises OSError where a folder is not yet owned, or not by a lock.
    """
    names = os.listdir(folder)
    if _OWNER in names:
        return _OWNER
    if len(names) > 1 or time.time() - os.fstat(folder).st_mtime < MAKING_SECONDS:
        raise FileNotFoundError
    return names[0] if names else None
