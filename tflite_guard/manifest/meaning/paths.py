"""Paths of the manifest: where they really lie, and whether what lies there is of the right kind.

Files are looked at, never loaded: existence, first bytes, a zip's directory, and a hash where one is
pinned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tflite_guard import files
from tflite_guard.errors import ManifestProblem
from tflite_guard.files import uris
from tflite_guard.manifest.jsontext import quoted
from tflite_guard.manifest.location import displayed, utf8
from tflite_guard.manifest.rejections import near
from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.views import kind_of_model

# The operators that carry trained ranges through to the converter.
_FAKE_QUANTIZATION = (
    b"FakeQuantWithMinMaxArgs",
    b"FakeQuantWithMinMaxVars",
    b"FakeQuantWithMinMaxVarsPerChannel",
)
_NODE_OPERATOR = b"\x12"  # the tag of NodeDef's field `op`, a string: its length and its bytes follow


# What a path may hold, as `files.sniff` calls it, and how to say it.
_EXPECTED = {
    "keras": (("keras", "hdf5"), "a Keras model (.keras or .h5)"),
    "saved_model": (("saved_model",), "a SavedModel (a folder with saved_model.pb)"),
    "tflite": (("tflite",), "a .tflite model"),
    "outputs": (("npz",), "an .npz file of arrays"),
    "npz": (("npz",), "an .npz file of arrays"),
    "npy": (("npy",), "an .npy file"),
    "images": (("folder",), "a folder of images"),
    "coco": (("folder",), "a folder of images"),
    "masks": (("folder",), "a folder of masks"),
    "annotations": (("unknown",), "an annotations file (.json)"),
    "csv": (("unknown",), "a CSV file"),
    # A record's length can look like the first bytes of anything.
    "tfrecord": (("unknown", "pickle", "tflite", "broken-zip"), "a TFRecord file"),
    "recipe": (("unknown",), "a recipe file (.json)"),
}
_FOUND = {
    "tflite": "a .tflite model",
    "keras": "a .keras model",
    "hdf5": "an HDF5 file (.h5)",
    "npz": "an .npz file of arrays",
    "npy": "an .npy file",
    "zip": "another kind of zip file",
    "broken-zip": "a damaged or truncated zip file, or one of too many members",
    "saved_model": "a SavedModel",
    "folder": "a folder",
    "special": "a device or a pipe",
    "unknown": "of an unknown format",
}
_ALWAYS_WRONG = {
    "empty": "is empty (0 bytes)",
    "lfs-pointer": 'is a Git LFS pointer, not the file it stands for; run "git lfs pull"',
    "pickle": "is a Python pickle, which can run code and is never loaded; export the model or arrays instead",
}
# Files of a folder that are looked at before a run, which looks at all of them; a second's work.
_MOST_ENTRIES = 100_000
_MOST_SHARDS = 10_000
_SUFFIXES = {"keras": (".keras",), "hdf5": (".h5", ".hdf5")}
_KERAS = (".keras", ".h5", ".hdf5")
_FOLDERS = ("saved_model", "images", "coco", "masks")
_PATH_MAX = 4096  # bytes that Linux takes; resolving links takes time for every folder of a path
T = TypeVar("T")


@dataclass
class Context:
    """What checks know beside the manifest, and the problems found so far."""

    folder: str
    """The manifest's folder, absolute."""
    roots: Sequence[str]
    prefixes: Sequence[str]
    """URIs below which it may name files."""
    allow_code: bool
    problems: list[ManifestProblem] = field(default_factory=list)
    _answers: dict[Hashable, Any] = field(default_factory=dict)

    def say(self, node: Node, message: str) -> None:
        """Note a problem at a value."""
        self.problems.append(node.problem(displayed(message)))

    def say_key(self, node: Node, message: str) -> None:
        """Note a problem at a key."""
        self.problems.append(node.key_problem(displayed(message)))

    def once(self, question: Callable[..., T], *about: Hashable) -> T:
        """What a function says of a file, asked once however often the manifest names that file."""
        key = (question, *about)
        if key not in self._answers:
            self._answers[key] = question(*about)
        answer: T = self._answers[key]
        return answer

    def quantization_aware(self, written: str) -> bool:
        """Whether a SavedModel's path leads to one that seems to be quantization-aware-trained.

        An operator's name is looked for where a node would have it, not whether the node is ever reached: that
        is the engine's to say, so calibration data may be missing for such a source but is not passed over.
        """
        if escapes(written, self):
            return False
        return self.once(_holds_fake_quantization, os.path.join(self.real_path(written), "saved_model.pb"))

    def matching(self, written: str) -> list[str] | None:
        """The paths that a pattern means, as the manifest would write them; None for the path of one file."""
        if escapes(written, self):
            return None
        return None if uris.is_uri(written) else self.once(self._matching, written)

    def _matching(self, written: str) -> list[str] | None:
        pattern = os.path.join(self.folder, written)
        if not files.is_pattern(pattern):
            return None
        return [os.path.join(os.path.dirname(written), os.path.basename(path)) for path in files.matching(pattern)]

    def real_path(self, written: str) -> str:
        """Where a path of the manifest really lies, links resolved."""
        return str(self.once(os.path.realpath, os.path.join(self.folder, written)))


def _holds_fake_quantization(graph: str) -> bool:
    return any(files.holds(graph, _NODE_OPERATOR + bytes([len(name)]) + name) for name in _FAKE_QUANTIZATION)


def check_file(holder: Node, key: str, kind: str, context: Context, pin: str = "sha256") -> str | None:
    """The real path of a file that is here, inside the roots, of its kind and as pinned.

    `key` of the holder names it and `pin` its hash. None after a problem, and for a file that is to be fetched.
    """
    node, pinned = holder.content[key], holder.get(pin)
    written = str(node.value())
    if uris.is_uri(written):
        _check_remote(node, written, kind, context)
        if pinned is None and pin not in holder.removed:
            told = quoted(uris.without_secrets(written), 200)
            context.say(node, f"{told} needs {quoted(pin)} beside it: what sha256sum prints of the file")
        return None
    path = _sound(node, written, kind, context)
    return path if path is not None and _as_pinned(node, [path], pinned, context) else None


def check_files(node: Node, kind: str, context: Context, pin: Node | None = None) -> None:
    """Add the first problem of the files that a pattern means, of which one that is missing would go unnoticed."""
    written = str(node.value())
    names = context.matching(written) or []
    if not names:
        context.say(node, f"no file matches {written}")
    elif len(names) > _MOST_SHARDS:
        context.say(
            node, f"{written} matches {len(names):,} files, more than {_MOST_SHARDS:,}; name fewer, or join them"
        )
    elif missing := files.missing_shard(names, written):
        context.say(node, f"no such file: {missing}, which belongs to {written}")
    elif all(_sound(node, name, kind, context) for name in names):
        _as_pinned(node, names, pin, context)


def _sound(node: Node, written: str, kind: str, context: Context) -> str | None:
    """The real path of a file that is there, inside the roots and of its kind; None after a problem."""
    path = _inside(node, written, context)
    if path is None:
        return None
    if not os.path.lexists(path):
        context.say(node, f"no such file: {written}{_neighbour(path, context)}")
        return None
    wrong = context.once(_wrong_kind, path, kind, tuple(context.roots[1:]))
    if wrong:
        context.say(node, f"{written} {wrong}")
    return None if wrong else path


def _as_pinned(node: Node, paths: Sequence[str], pin: Node | None, context: Context) -> bool:
    """Whether files have the hash that is pinned, if one is; else that is noted as a problem."""
    if pin is None:
        return True
    real = tuple(os.path.join(context.folder, path) for path in paths)
    wrong = context.once(_wrong_hash, real, str(pin.value()).lower(), tuple(context.roots[1:]))
    if wrong:
        context.say(pin if wrong.startswith("has sha256") else node, f"{node.value()} {wrong}")
    return wrong is None


def _check_remote(node: Node, written: str, kind: str, context: Context) -> None:
    """Add the problem of a URI: nothing is fetched to find one."""
    wrong = uris.refused(written)
    if wrong is None and kind in _FOLDERS:
        wrong = f"is fetched as one file, and {_EXPECTED[kind][1]} is many; fetch it in a step of your own"
    if wrong is None and kind == "keras" and not uris.name_of(written).lower().endswith(_KERAS):
        wrong = f"does not say by its name which Keras model it is; it must end in {' or '.join(_KERAS)}"
    if wrong is None and not uris.lies_under(written, context.prefixes):
        wrong = f"is elsewhere; only --data-root URI can allow that, such as --data-root {uris.folder_of(written)}"
    if wrong:
        context.say(node, f"{quoted(uris.without_secrets(written), 200)} {wrong}")


def _inside(node: Node, written: str, context: Context) -> str | None:
    if why := escapes(written, context):
        context.say(node, why)
        return None
    return context.real_path(written)


def escapes(written: str, context: Context) -> str | None:
    """Why a path cannot be looked at: a URI, no path at all, or outside the roots; None when it can."""
    if uris.is_uri(written):
        return f"{quoted(written)} is not on this machine"
    if "\0" in written:
        return "a path cannot hold the character U+0000"
    if (length := len(written.encode())) > _PATH_MAX:
        return f"this path has {length:,} bytes, more than {_PATH_MAX:,}"
    path = context.real_path(written)
    if context.once(files.contained, path, tuple(context.roots)):
        return None if utf8(path) else f"{written} is {path}, whose name is not UTF-8; rename it"
    link = "" if os.path.normpath(os.path.join(context.folder, written)) == path else f" (it is {path})"
    return f"{written} leaves the repository {context.roots[0]}{link}; only --data-root DIR can allow that"


def _neighbour(path: str, context: Context) -> str:
    """What a file that is not there may be: kept by DVC and not fetched, or another of the folder."""
    if _kept_by_dvc(path):
        return '; DVC keeps it: run "dvc pull"'
    folder, name = os.path.split(path)
    names = context.once(_names, folder)
    if names is None:
        return f" (nor is there a folder {os.path.basename(folder)})"
    found = near(name, names, cutoff=0.8)  # a shared suffix alone is nothing
    return f"; did you mean {quoted(found)}?" if found else ""


def _kept_by_dvc(path: str) -> bool:
    """Whether a .dvc file stands for the path or a folder of it, sought from the top down to what is not there."""
    place, *rest = Path(path).parts
    for part in rest:
        if not os.path.isdir(place):
            return False
        place = os.path.join(place, part)
        if os.path.isfile(f"{place}.dvc"):
            return True
    return False


def _names(folder: str) -> list[str] | None:
    """The names in a folder that a manifest could hold; None where there is no folder."""
    try:
        return sorted(filter(utf8, os.listdir(folder)))
    except OSError:
        return None


def _wrong_kind(path: str, kind: str, roots: Sequence[str]) -> str | None:
    try:
        found = files.sniff(path)
        if found == "saved_model" or (kind in _FOLDERS[1:] and found == "folder"):
            found = _folder_of_pointers(path, roots) or found
    except OSError as error:
        return _unreadable(error)
    expected, title = _EXPECTED[kind]
    if found in expected:
        return _wrong_suffix(path, found) if kind == "keras" else None
    return _ALWAYS_WRONG.get(found) or f"is {_FOUND[found]}, where {title} is expected"


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _folder_of_pointers(folder: str, roots: Sequence[str]) -> str | None:
    """`lfs-pointer` or `empty` when a SavedModel's graph is that, or an early file of a folder is a pointer.

    Raises OSError for an entry that could not be hashed, such as a link out of the folder or a device.
    """
    graph = os.path.join(folder, "saved_model.pb")
    if os.path.isfile(graph) and files.sniff(graph) in ("empty", "lfs-pointer"):
        return files.sniff(graph)
    names = list(islice(files.files_below(folder, roots), _MOST_ENTRIES))
    pointer = any(files.lfs_pointer(os.path.join(folder, name)) for name in names[:100])
    return "lfs-pointer" if pointer else None


def _wrong_suffix(path: str, found: str) -> str | None:
    if path.lower().endswith(_SUFFIXES[found]):
        return None
    return f"is {_FOUND[found]}; Keras goes by the name, so rename it to end in {_SUFFIXES[found][0]}"


def _wrong_hash(paths: Sequence[str], pinned: str, roots: Sequence[str]) -> str | None:
    try:
        actual = files.sha256_of(paths[0], roots) if len(paths) == 1 else files.sha256_of_files(paths)
    except OSError as error:
        return _unreadable(error)
    return None if actual == pinned else f"has sha256 {actual}, not the pinned {pinned}"


def check_reference(node: Node, context: Context) -> None:
    """Add the problems of the file of a reference or source."""
    kind, _ = kind_of_model(node)
    if (signature := node.get("signature")) is not None and kind not in ("saved_model", "tflite"):
        context.say_key(signature, '"signature" applies only beside "saved_model" or "tflite"')
    check_file(node, kind, kind, context)
