"""Globs that no shell has expanded: a hook's arguments, an action's inputs, what was quoted, and all of Windows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tflite_guard.errors import UsageError
from tflite_guard.files import matching

_MARKS = "*?["


def is_glob(path: str) -> bool:
    """Whether a path stands for those that match it, and is not the name of one itself."""
    return _is_marked(path) and not os.path.lexists(path)


def matches(glob: str) -> list[str]:
    """The paths that a glob means, sorted, as a shell has it: `**` is any folders, and `*` no dot at a name's start.

    `**` follows no links, so that a loop of them cannot hold us. A slash at the end means folders alone.
    """
    anchor = Path(glob).anchor
    found = [anchor]
    for part in Path(glob).parts[bool(anchor) :]:
        found = [*dict.fromkeys(path for place in found for path in _step(place, part))]
    only_folders = glob.endswith(("/", os.sep))
    return sorted(path or "." for path in found if not only_folders or os.path.isdir(path))


def expanded(named: Iterable[str]) -> list[str]:
    """The paths that are named, with what globs match in their place. Raises UsageError where one matches nothing."""
    found = []
    for path in named:
        meant = matches(path) if is_glob(path) else [path]
        if not meant:
            raise UsageError(f"{path}: matches nothing in {os.getcwd()}")
        found += meant
    return found


def _step(place: str, part: str) -> Iterable[str]:
    if part == "**":
        return _folders(place)
    path = os.path.join(place, part)
    if _is_marked(part):
        return matching(path)
    return [path] if os.path.lexists(path) else []


def _folders(place: str) -> Iterator[str]:
    pending = [place] if os.path.isdir(place or ".") else []
    while pending:
        folder = pending.pop()
        yield folder
        with suppress(OSError), os.scandir(folder or ".") as entries:
            pending += [
                os.path.join(folder, entry.name)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]


def _is_marked(text: str) -> bool:
    return any(mark in text for mark in _MARKS)
