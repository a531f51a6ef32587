"""What is looked at before a model is loaded. A model is a program: see what it would do before it does."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tflite_guard.engine.saved_model import MetaGraph, meta_graphs
from tflite_guard.errors import ModelFileError
from tflite_guard.files import ZIP_ERRORS, lfs_pointer, open_zip, sniff
from tflite_guard.manifest.types import ReferenceSpec
from tflite_guard.vocabulary import SERVING_DEFAULT

MAX_UNPACKED = 4 << 30
MAX_RATIO = 200
RATIO_FROM = 256 << 20
"""Below this many unpacked bytes no ratio is suspicious: a freshly initialised layer is zeros."""
MAX_CONFIG = 64 << 20
MAX_DEPTH = 500
"""Levels of a configuration; a model within a model takes three. Keras itself loads no deeper ones."""
WEIGHTS = "model.weights.h5"

ALLOW = "run with --allow-code only if you trust whoever made it"
INSTEAD = {
    "empty": "is empty (zero bytes); copy or download it again",
    "lfs-pointer": "is a Git LFS pointer, not the model itself; run `git lfs pull`",
    "pickle": "is a Python pickle, which can run any code when loaded and is never opened; save the model as .keras",
    "broken-zip": "is a truncated or damaged zip; save or copy it again",
    "npz": "holds arrays, not a model; name the .keras, .h5 or SavedModel here",
    "npy": "holds an array, not a model; name the .keras, .h5 or SavedModel here",
    "zip": "is a zip without Keras's config.json; save the model with model.save('….keras')",
    "folder": "is a folder without saved_model.pb; export the model with model.export(folder)",
    "special": "is a device, a pipe or a socket; name the model's file or folder",
    "unknown": "is not a model of a known kind; save the model as .keras, .h5 or SavedModel",
}

# Layers whose configuration is a program (Lambda) or names another file or a pickle to load.
# TensorFlowOpLayer holds a raw operator, ClassMethod calls a class that it names (both of Keras 2).
CODE_LAYERS = frozenset(
    {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__lambda__", "TensorFlowOpLayer",
     "ClassMethod"}
)  # fmt: skip
# Keras 2's layers that call the function of TensorFlow that their configuration names.
FUNCTION_LAYERS = frozenset({"TFOpLambda", "SlicingOpLambda"})
PLAIN_MODULES = frozenset(
    {"__operators__", "bitwise", "dtypes", "image", "keras.activations", "keras.backend", "linalg", "math", "nn",
     "quantization", "ragged", "random", "signal", "sparse", "strings"}
)  # fmt: skip
CODE_FUNCTION = re.compile(
    r"file|save|load|py_func|numpy_func|print|import|"
    r"(^|\.)([A-Z]\w*|function|wrap_function|(enable|disable|set)_\w+)$"
)

HDF5_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError)
"""What h5py raises where a file is damaged."""
RESTORE_OPERATORS = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
OPERATORS = Path(__file__).with_name("operators.txt")


def check_model_file(spec: ReferenceSpec, *, allow_code: bool = False) -> None:
    """Refuse what is not the model that it should be, and, unless code is allowed, what runs code.

    Raises ModelFileError: of kind `model-file` for damaged or foreign files, `unsafe-model` for hostile ones.
    """
    found = _found(spec.path)
    if spec.kind == "saved_model" and found == "saved_model":
        check_saved_model(spec.path, spec.signature or SERVING_DEFAULT, allow_code=allow_code)
    elif spec.kind == "keras" and found == "keras":
        check_keras_zip(spec.path, allow_code=allow_code)
    elif spec.kind == "keras" and found == "hdf5":
        check_hdf5(spec.path, allow_code=allow_code)
    else:
        raise ModelFileError(f"{spec.path} {_instead(found)}")


def _found(path: str) -> str:
    try:
        return "lfs-pointer" if lfs_pointer(path) else sniff(path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _instead(found: str) -> str:
    if found in INSTEAD:
        return INSTEAD[found]
    kind = {"saved_model": "saved_model", "keras": "keras", "hdf5": "keras", "tflite": "tflite"}[found]
    what = {"saved_model": "a SavedModel", "keras": "a .keras file", "hdf5": "an .h5 file", "tflite": "a .tflite file"}
    return f'is {what[found]}; refer to it as {{"{kind}": …}}'


def check_keras_zip(path: str, *, allow_code: bool) -> None:
    """Refuse a .keras that is damaged, unpacks to far more than it should, or holds code."""
    try:
        with open_zip(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            config = json.loads(archive.read("config.json"))
            # Names and sizes were checked, so reading the members is bounded.
            damaged = archive.testzip()
            if damaged:
                raise ModelFileError(
                    f"{path} is damaged ({damaged} does not match its checksum); save or copy it again"
                )
            _check_config(path, config, allow_code)
            with archive.open(WEIGHTS) as weights:
                _check_hdf5_links(path, io.BytesIO(weights.read()), allow_code)
    except (*ZIP_ERRORS, *HDF5_ERRORS) as error:
        raise ModelFileError(
            f"{path} is a truncated or damaged .keras file ({error}); save or copy it again"
        ) from error


def _check_members(path: str, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    outside = [
        name for name in names if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name
    ]
    if outside:
        raise ModelFileError(
            f"{path} holds a file that would be written outside its folder ({outside[0]}), which Keras never writes; "
            "save the model again from its source",
            "unsafe-model",
        )
    if len(set(names)) != len(names):
        raise ModelFileError(f"{path} holds two files of the same name; save the model again", "unsafe-model")
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if unpacked > MAX_UNPACKED or (unpacked > RATIO_FROM and unpacked > MAX_RATIO * max(packed, 1)):
        raise ModelFileError(
            f"{path} unpacks to {unpacked} bytes from {packed}, as a zip bomb does; save the model again from its "
            "source",
            "unsafe-model",
        )
    missing = [name for name in ("config.json", WEIGHTS) if name not in names]
    if missing:
        raise ModelFileError(f"{path} holds no {missing[0]}; save the model with model.save('….keras')")
    if next(m.file_size for m in members if m.filename == "config.json") > MAX_CONFIG:
        raise ModelFileError(
            f"{path} has a config.json of more than {MAX_CONFIG >> 20} MiB, too long to inspect; export the model as a "
            "SavedModel (model.export) and refer to that",
            "unsafe-model",
        )


def check_hdf5(path: str, *, allow_code: bool) -> None:
    """Refuse an .h5 that is damaged, reads other files, or holds code."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            raw = file.attrs.get("model_config")
        if raw is None:
            raise ModelFileError(f"{path} holds weights without a model; save the whole model (model.save)")
        _check_config(path, json.loads(raw) if isinstance(raw, str | bytes) else raw, allow_code)
        _check_hdf5_links(path, path, allow_code)
    except HDF5_ERRORS as error:
        raise ModelFileError(f"{path} is a truncated or damaged .h5 file ({error}); save or copy it again") from error


def keras_version(path: str) -> str | None:
    """The Keras version that saved an .h5, or None."""
    import h5py

    with h5py.File(path, "r") as file:
        version = file.attrs.get("keras_version")
        return None if version is None else str(version)


def _check_config(path: str, config: Any, allow_code: bool) -> None:
    code = None if allow_code else next(_code_in(path, config), None)
    if code:
        raise ModelFileError(f"{path} holds {code}, which runs code when it is loaded; {ALLOW}", "unsafe-model")
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ModelFileError(f"{path} has a configuration that is not a model's; save the model again with model.save")


def _code_in(path: str, config: Any) -> Iterator[str]:
    """What in a Keras configuration is or names a program."""
    pending = [(config, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ModelFileError(
                f"{path} has a configuration nested more than {MAX_DEPTH} levels deep, too deep to inspect; build "
                f"the model with fewer models within models",
                "too-deep",
            )
        if isinstance(value, dict):
            yield from _code_of(value)
            pending += [(inner, depth + 1) for inner in reversed(value.values())]
        elif isinstance(value, list):
            pending += [(inner, depth + 1) for inner in reversed(value)]


def _code_of(config: dict[str, Any]) -> Iterator[str]:
    """The program that one object of a configuration is, those within it aside."""
    name, own = str(config.get("class_name")), config.get("config")
    if name in CODE_LAYERS:
        yield f"a {name} layer" + (f" ({own['name']})" if isinstance(own, dict) and "name" in own else "")
    elif name in FUNCTION_LAYERS and not _plain_function(own):
        yield f"a {name} layer of {own.get('function') if isinstance(own, dict) else None}"
    if isinstance(config.get("vocabulary"), str):
        yield "a vocabulary read from a file"


def _plain_function(config: Any) -> bool:
    """Whether a layer's function only computes: of a module that holds nothing else, or of no module (`concat`)."""
    function = config.get("function") if isinstance(config, dict) else None
    if not isinstance(function, str) or CODE_FUNCTION.search(function):
        return False
    # tf.transpose and some others go by their old names.
    module = function.removeprefix("compat.v1.").rpartition(".")[0]
    return not module or module in PLAIN_MODULES


def _check_hdf5_links(path: str, source: Any, allow_code: bool) -> None:
    """Refuse links to other files, data kept in other files, and shapes far larger than what is stored."""
    import h5py

    with h5py.File(source, "r") as file:
        for name, reason in _hdf5_faults(file):
            if not allow_code or "declares" in reason:
                raise ModelFileError(
                    f"{path}: {name} {reason}; save the whole model again with model.save", "unsafe-model"
                )


def _hdf5_faults(group: Any) -> Iterator[tuple[str, str]]:
    import h5py

    pending, seen = [group], set()
    while pending:
        current = pending.pop()
        if current.id in seen:
            continue
        seen.add(current.id)
        for key in current:
            link = current.get(key, getlink=True)
            name = f"{current.name.rstrip('/')}/{key}"
            if isinstance(link, h5py.ExternalLink):
                yield name, f"links to another file ({link.filename})"
                continue
            if isinstance(link, h5py.SoftLink):
                yield name, "is a symbolic link, which Keras never writes"
                continue
            item = current[key]
            if isinstance(item, h5py.Group):
                pending.append(item)
            elif isinstance(item, h5py.Dataset):  # and not a type that has a name
                yield from ((name, reason) for reason in _dataset_faults(item))


def _dataset_faults(dataset: Any) -> Iterator[str]:
    if dataset.is_virtual:
        yield "takes its data from other datasets"
    elif dataset.external:
        yield f"keeps its data in another file ({dataset.external[0][0]})"
    elif dataset.nbytes > RATIO_FROM and dataset.nbytes > MAX_RATIO * max(dataset.id.get_storage_size(), 1):
        yield f"declares {dataset.nbytes} bytes where {dataset.id.get_storage_size()} are stored"


def check_saved_model(path: str, signature: str, *, allow_code: bool) -> None:
    """Refuse a SavedModel that is incomplete, leads out of its folder, or runs file, process or Python operators.

    What neither loading nor the signature runs (other signatures, what training and saving left) may be anything.
    """
    folder = Path(path).resolve()
    _check_inside(path, folder)
    graphs = meta_graphs(path)
    if (folder / "variables").is_dir() and not (folder / "variables" / "variables.index").is_file():
        raise ModelFileError(f"{path} has no variables/variables.index; copy the whole folder again")
    if not allow_code:
        for graph in graphs:
            _check_operators(path, graph, signature)


def _check_inside(path: str, folder: Path) -> None:
    for entry in folder.rglob("*"):
        if entry.is_symlink() and not entry.resolve().is_relative_to(folder):
            raise ModelFileError(
                f"{path}: {entry.relative_to(folder)} links out of the folder; put a copy in its place", "unsafe-model"
            )


def _check_operators(path: str, graph: MetaGraph, signature: str) -> None:
    restoring = (node for node in graph.members(graph.restoring()) if node.op not in RESTORE_OPERATORS)
    for node in (*graph.members(graph.signature(signature)), *graph.members(graph.loading()), *restoring):
        reason = _reason_to_refuse(node, graph)
        if reason:
            raise ModelFileError(
                f"{path} holds the operator {node.op} ({node.name}), {reason}; {ALLOW}", "unsafe-model"
            )


def _reason_to_refuse(node: Any, graph: MetaGraph) -> str | None:
    """Why a node is more than a computation; None of one that is not. What a function does, its own nodes tell."""
    harmless = judged_operators().get(node.op)
    if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file"):
        harmless = False
    if harmless is None:
        return None if graph.defines(node.op) else "which is not known here, so that it may reach files or Python"
    return None if harmless else "which reaches files or Python, or more than a model should"


@cache
def judged_operators() -> dict[str, bool]:
    """Every operator of TensorFlow's registry, and whether it does nothing but compute."""
    lines = (line for line in OPERATORS.read_text("ascii").splitlines() if not line.startswith("#"))
    return {line[2:]: line[0] == "+" for line in lines}
