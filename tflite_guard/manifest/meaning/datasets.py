"""What is wrong in meaning with a dataset."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from tflite_guard import files
from tflite_guard.manifest.jsontext import quoted
from tflite_guard.manifest.meaning.paths import Context, check_file, check_files
from tflite_guard.manifest.rejections import did_you_mean, listed
from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.views import ModelView

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


# Keys of a dataset that concern some kinds of source only.
_SOURCE_KEYS = {
    "class_order": ("images", "coco"),
    "labels_file": ("images", "coco", "npy"),
    "masks": ("images",),
    "columns": ("csv",),
    "features": ("tfrecord",),
}
# What the only array of these sources goes by where `inputs` does not say.
ONLY_KEY = {"npy": "array", "images": "image", "coco": "image"}
_LABELS_FILE = {"images": "csv", "coco": "annotations", "npy": "npy"}
SHARDED = ("tfrecord",)
"""Sources whose path may be a pattern of several files."""
_HEADER_MAX = 1 << 20
_IMAGE_KEYS = ("image", "label")


def check_dataset(node: Node, context: Context) -> None:
    """Add the problems of a dataset: its path, keys, labels and preprocessing."""
    source = str(node.content["source"].value())
    path, labels = _check_source(node, source, context), _check_labels_file(node, source, context)
    for key, only in _SOURCE_KEYS.items():
        if source not in only and (found := node.get(key)) is not None:
            context.say_key(found, f"{quoted(key)} does not apply to source {quoted(source)}, only to {listed(only)}")
    if source == "csv":
        _check_columns(node, path, context)
    _check_keys(node, _known_keys(node, source, path, labels, context), context)
    _check_labels(node, source, context)
    _check_preprocess(node, context)


def _check_source(node: Node, source: str, context: Context) -> str | None:
    path = node.content["path"]
    if source == "python":
        check_function(path, context)
        if (pin := node.get("sha256")) is not None:
            context.say_key(pin, '"sha256" does not apply to source "python", which is not a file')
        return None
    if "masks" in node.content and source in _SOURCE_KEYS["masks"]:
        check_file(node, "masks", "masks", context, pin="masks_sha256")
    if source in SHARDED and context.matching(str(path.value())) is not None:
        check_files(path, source, context, node.get("sha256"))
        return None
    return check_file(node, "path", source, context)


def _check_labels_file(node: Node, source: str, context: Context) -> str | None:
    if "labels_file" not in node.content or source not in _SOURCE_KEYS["labels_file"]:
        return None
    return check_file(node, "labels_file", _LABELS_FILE[source], context, pin="labels_sha256")


def check_function(node: Node, context: Context) -> None:
    """Add a problem when `package.module:function` is malformed, or is not allowed to run."""
    written = str(node.value())
    if not _FUNCTION.fullmatch(written):
        context.say(node, f"{quoted(written)} is not a function's name of the form package.module:function")
    elif not context.allow_code:
        context.say(node, f"{written} is your own code, which runs only with --allow-code")


def _known_keys(
    node: Node, source: str, path: str | None, labels: str | None, context: Context
) -> Collection[str] | None:
    """The keys that a source holds, where that is known without loading it; `labels` is its `labels_file`."""
    match source:
        case "npz":
            return None if path is None else context.once(arrays, path)
        case "coco":
            return _IMAGE_KEYS
        case "images":
            if "labels_file" not in node.content.keys() | node.removed:
                return _IMAGE_KEYS
            return None if labels is None else (*_IMAGE_KEYS, *_further(context.once(_header, labels)))
        case "csv" if "columns" not in node.content.keys() | node.removed:
            return None if path is None else context.once(_header, path)
    declared = node.get({"csv": "columns", "tfrecord": "features"}.get(source, ""))
    return dict(declared.members()).keys() if declared and not declared.removed else None


def arrays(path: str) -> Collection[str]:
    """The names of the arrays in an .npz file."""
    return dict.fromkeys(name.removesuffix(".npy") for name in files.zip_members(path) or ()).keys()


def _header(path: str) -> Collection[str] | None:
    """The column names in a CSV file's first line; None when that line is not text."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader([file.readline(_HEADER_MAX)], strict=True), None)
    except (OSError, ValueError, csv.Error):
        return None
    return None if names is None else dict.fromkeys(names).keys()


def _further(header: Collection[str] | None) -> list[str]:
    """What a list of images names beside the file and its label."""
    names = list(header or ())
    return names[2:] if [name.strip().lower() for name in names[:2]] == ["file", "label"] else []


def _check_columns(node: Node, path: str | None, context: Context) -> None:
    header = context.once(_header, path) if path is not None else None
    columns = node.get("columns")
    if header is None or columns is None:
        return
    for column in (leaf for _, found in columns.members() for leaf in found.elements() or [found]):
        if (name := str(column.value())) not in header:
            context.say(column, f"there is no column {quoted(name)}{did_you_mean(name, header, known='there are')}")


def _check_keys(node: Node, known: Collection[str] | None, context: Context) -> None:
    written = str(node.content["path"].value())
    for role in ("inputs", "labels", "group", "slices"):
        for key in _leaves(node.get(role)):
            name = str(key.value())
            if known is not None and name not in known:
                context.say(key, f"{written} has no key {quoted(name)}{did_you_mean(name, known, known='it has')}")


def _leaves(node: Node | None) -> Iterator[Node]:
    if node is not None:
        inner = [child for _, child in node.members()] if isinstance(node.content, dict) else node.elements()
        yield from inner or (node,)


def _check_labels(node: Node, source: str, context: Context) -> None:
    labels = node.get("labels")
    if source == "npy":
        _check_one_array(node, context)
    ways = {"class_order", "labels_file", "masks"}
    if source == "images" and labels is not None and not ways & (node.content.keys() | node.removed):
        context.say_key(labels, 'labels of images need "class_order" (a folder per class), "labels_file" or "masks"')
    if source == "images" and "masks" in node.content and (file := node.get("labels_file")) is not None:
        context.say_key(file, '"labels_file" and "masks" are two sources of labels; remove one of them')


def _check_one_array(node: Node, context: Context) -> None:
    """An .npy file is one array: labels are that array itself, or another .npy."""
    inputs = {str(leaf.value()) for leaf in _leaves(node.get("inputs"))} or {ONLY_KEY["npy"]}
    for key in ("group", "slices"):
        if (found := node.get(key)) is not None:
            context.say_key(found, f'an .npy file holds one array and no {quoted(key)}; use source "npz"')
    if len(inputs) > 1:
        context.say(node.content["inputs"], 'an .npy file holds one array; use source "npz" for several inputs')
    other = any(str(leaf.value()) not in inputs for leaf in _leaves(node.get("labels")))
    if other and "labels_file" not in node.content.keys() | node.removed:
        context.say(node.content["labels"], 'an .npy file holds one array; name another as "labels_file", or use "npz"')


def _check_preprocess(node: Node, context: Context) -> None:
    preprocess, inputs = node.get("preprocess"), node.get("inputs")
    if preprocess is None or inputs is None or not isinstance(inputs.content, dict) or inputs.removed:
        return
    for name, steps in preprocess.members():
        if name not in inputs.content:
            hint = did_you_mean(name, inputs.content, known="there are")
            context.say_key(steps, f"{quoted(name)} is not an input of this dataset{hint}")


def check_dataset_name(node: Node | None, tree: Node, context: Context) -> Node | None:
    """The dataset of a name, and a problem when there is none; None also for one that the schema rejected."""
    if node is None:
        return None
    name, written = str(node.value()), tree.document.value.get("datasets")
    names = written if isinstance(written, dict) else {}
    if name not in names:
        context.say(node, f"unknown dataset {quoted(name)}{did_you_mean(name, names)}")
    datasets = tree.get("datasets")
    return datasets.get(name) if datasets else None


def rejected(key: str, model: ModelView, tree: Node) -> bool:
    """Whether the manifest has the key, but in a form already told to be wrong."""
    defaults = tree.get("defaults")
    return key in model.node.removed or "defaults" in tree.removed or bool(defaults and key in defaults.removed)
