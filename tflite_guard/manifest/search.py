"""Which manifests are meant: by a path, a folder, a glob, by nothing at all, or by the files that have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tflite_guard.errors import ManifestError, UsageError
from tflite_guard.files import fits, holds, root_above, under
from tflite_guard.files.git import tracked_files
from tflite_guard.files.globs import is_glob, matches
from tflite_guard.manifest import jsontext
from tflite_guard.manifest.location import displayed
from tflite_guard.vocabulary import DEFAULT_MANIFEST

_BASELINE = ".baseline.json"
_NEAR_MAX = 5
_LOOKED_MAX = 2_000
"""Folders that are looked into for what a message could name."""


def find(named: Sequence[str] = ()) -> list[str]:
    """The manifests that are named, each once however it is written.

    A folder means the manifest in it, and globs are expanded. Without names it is the one here, else all that git
    tracks below. A path that leads to nothing stays, for `load` to tell. Raises UsageError where nothing is found.
    """
    found = [path for one in named for path in _meant(one)] if named else _here_or_below()
    return _once(found)


def changed(files: Sequence[str]) -> list[str]:
    """The manifests that a change of some files concerns, as pre-commit names these: relative to where we are.

    Manifests among them, and of those here and below all that name one of them. A file that no manifest names, such as
    a module of Python or `.pre-commit-config.yaml`, concerns them all. Raises UsageError where there are none.
    """
    for one in files:
        if not os.path.lexists(one) and not _is_manifest(one):  # pre-commit names none that is gone
            raise UsageError(f"{displayed(one)}: there is no such file in {_here()}; correct it where it is named")
    given = [path for one in files if _is_manifest(one) for path in _meant(one)]
    known = _once([*given, *_below()])
    named = {path: _Named.by(path) for path in known or find()}
    edited = [_real(one) for one in files]
    if not all(any(one.concerns(file) for one in named.values()) for file in edited):
        edited = []
    concerned = [path for path, one in named.items() if not edited or any(map(one.concerns, edited))]
    return _once([*given, *concerned])


class _Named:
    """What a manifest names. Every text in it counts: one that is no path is no file's either."""

    def __init__(self, own: Sequence[str], files: Sequence[str], anything: bool) -> None:
        self._own, self._files, self._anything = own, files, anything

    @staticmethod
    def by(path: str) -> _Named:
        """What a manifest names, or anything where it cannot be read or has code of the user's own."""
        baseline = Path(path).with_suffix(_BASELINE)
        own = [os.path.realpath(path), os.path.realpath(baseline)]
        try:
            written = jsontext.parse(jsontext.read(path), path).value
        except ManifestError:
            return _Named(own, (), True)
        folder = os.path.dirname(os.path.abspath(path))
        texts = {text for text in _texts(written) if text and "\0" not in text}
        files = [os.path.realpath(os.path.join(folder, text)) for text in texts]
        return _Named(own, files, any(_runs_code(one) for one in _objects(written)))

    def concerns(self, file: str) -> bool:
        """Whether it depends on a file: one that it names, also by a pattern, or in a folder, or a folder of one."""
        if self._anything or file in self._own:
            return True
        return any(under(file, one) or under(one, file) or fits(file, one) for one in self._files)


def _real(file: str) -> str:
    """Where a file that changed is; what DVC keeps in its place stands for the file or folder itself."""
    return os.path.realpath(file.removesuffix(".dvc"))


def _texts(value: Any) -> Iterator[str]:
    for one in _objects(value):
        for inner in one.values() if isinstance(one, dict) else one:
            if isinstance(inner, str):
                yield inner


def _objects(value: Any) -> Iterator[dict[str, Any] | list[Any]]:
    """Every object and array in a JSON value."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict | list):
            yield one
            pending += one.values() if isinstance(one, dict) else one


def _runs_code(one: dict[str, Any] | list[Any]) -> bool:
    return isinstance(one, dict) and ("python" in one or one.get("source") == "python")


def _is_manifest(path: str) -> bool:
    """Whether an argument means a manifest, and not a model or data that changed."""
    if os.path.isdir(path):
        return os.path.lexists(os.path.join(path, DEFAULT_MANIFEST))
    if not os.path.lexists(path):
        return is_glob(path) or path.endswith(".json")
    if os.path.basename(path) == DEFAULT_MANIFEST:
        return True
    return path.endswith(".json") and all(holds(path, key) for key in (b'"datasets"', b'"models"', b'"variants"'))


def _meant(path: str) -> list[str]:
    if is_glob(path):
        found = [each for one in matches(path) if not _is_beside(one) for each in _meant(one)]
        if not found:
            raise UsageError(f"{displayed(path)}: matches no manifest in {_here()}{_hint('.')}")
        return found
    if not os.path.isdir(path):
        return [path]
    inside = os.path.join(path, DEFAULT_MANIFEST)
    if not os.path.lexists(inside):
        raise UsageError(f"{displayed(path)}: this folder has no {DEFAULT_MANIFEST}{_hint(path)}")
    return [inside]


def _is_beside(path: str) -> bool:
    """Whether a glob meets something without meaning it: a baseline, or a folder without a manifest."""
    return path.endswith(_BASELINE) or (
        os.path.isdir(path) and not os.path.lexists(os.path.join(path, DEFAULT_MANIFEST))
    )


def _here_or_below() -> list[str]:
    found = [DEFAULT_MANIFEST] if os.path.lexists(DEFAULT_MANIFEST) else _below()
    if not found:
        listed = tracked_files(".") is not None
        below = "git tracks none below" if listed else "git lists none below"
        raise UsageError(f"no manifest: there is no {DEFAULT_MANIFEST} in {_here()}, and {below}{_hint('.')}")
    return found


def _below() -> list[str]:
    """The manifests that git tracks here and below."""
    return [one for one in tracked_files(".") or () if Path(one).name == DEFAULT_MANIFEST and os.path.lexists(one)]


def _hint(folder: str) -> str:
    """The end of a message that nothing was found: what lies near, and what to do."""
    near = list(islice(_near(folder), _NEAR_MAX))
    listed = f"; found nearby: {', '.join(map(displayed, near))}" if near else ""
    return f"{listed}; name {'it' if len(near) == 1 else 'one'}, or write one: tflite-guard init MODEL DATA"


def _near(folder: str) -> Iterator[str]:
    """Manifests in and below a folder, tracked or not, and the nearest one above in its repository."""
    for looked, (place, folders, names) in enumerate(os.walk(folder)):
        if looked == _LOOKED_MAX:
            break
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "node_modules")
        paths = (os.path.normpath(os.path.join(place, name)) for name in sorted(names) if name.endswith(".json"))
        yield from filter(_is_manifest, paths)
    current = os.path.realpath(folder)
    root = root_above(current)
    while under(current, root) and current != root:
        current = os.path.dirname(current)
        if os.path.lexists(above := os.path.join(current, DEFAULT_MANIFEST)):
            yield os.path.relpath(above)
            return


def _here() -> str:
    return displayed(os.getcwd())


def _once(paths: Sequence[str]) -> list[str]:
    unique: dict[str, str] = {}
    for path in paths:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())
