"""A first manifest for a model: names read from the model, keys matched with the data, tolerances to start from."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tflite_guard.errors import DataError, EvaluationError, ModelFileError, UsageError
from tflite_guard.files import contained, find_root, lfs_pointer, sniff, write_atomically
from tflite_guard.manifest import load
from tflite_guard.manifest.types import FileSpec, ReferenceSpec
from tflite_guard.protocol import Names, TensorInfo
from tflite_guard.run.jobs import Options
from tflite_guard.run.pipeline import describe, run
from tflite_guard.text.figures import number
from tflite_guard.vocabulary import DEFAULT_MANIFEST, ReferenceKind

KINDS: dict[str, ReferenceKind] = {"keras": "keras", "hdf5": "keras", "saved_model": "saved_model", "tflite": "tflite"}
RANDOM_EXAMPLES = 64
RANDOM_BYTES = 64 * 2**20
LABEL_NAMES = frozenset({"label", "labels", "y", "target", "targets", "class", "classes"})
MAX_DROP = 0.01
MIN_AGREEMENT = 0.97
MIN_SQNR_DB = 10.0
BY_HAND = 'rename the arrays as the model\'s inputs, or write the manifest\'s "inputs" and "preprocess" by hand'


@dataclass(frozen=True)
class Array:
    """One array of an .npz, from its header alone."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{list(self.shape)} {self.dtype}"


def write_manifest(
    model: str,
    data: str | None,
    output: str,
    *,
    signature: str | None = None,
    force: bool = False,
    on_log: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Write a manifest that passes `validate` and runs; yields what was done, a line each.

    Without data, an .npz of random inputs is written beside it, which checks that conversion works and
    says nothing of accuracy. With labels the reference is run on them, and held to the accuracy that it has.
    `signature` chooses among several of a SavedModel or .tflite.

    Raises:
        UsageError: the model is of no supported kind, or a file to write exists already.
        EvaluationError: the model cannot be loaded or evaluated, or a file cannot be written.
        DataError: it is not certain which array of the data belongs to which input.
    """
    kind = kind_of(model, signature)
    folder = os.path.dirname(os.path.abspath(output))
    random = None if data is not None else os.path.join(folder, f"{Path(output).stem}-random.npz")
    _check_places(model, data, folder)
    for path in filter(None, (output, random)):
        if os.path.lexists(path) and not force:
            raise UsageError(f"{path}: exists already; use --force to overwrite it, or -o to write another")
    names = names_of(kind, model, signature, on_log)
    if random is None:
        assert data is not None
        found = arrays_of(data)
        notes = ["calibration uses the evaluation data for now; name a sample of the training data for honest figures"]
    else:
        data = os.path.relpath(random)
        made = _random_arrays(names, model)
        found = {name: Array(array.shape, str(array.dtype)) for name, array in made.items()}
        _write(random, _npz(made))
        count = len(next(iter(made.values())))
        notes = [
            f"{data}: random examples (n = {count}); they show that conversion works, not how accurate it is",
            "replace them with real data and labels",
        ]
    reference: dict[str, Any] = {kind: relative(model, folder)} | (
        {"signature": signature} if signature is not None else {}
    )
    manifest = manifest_of(kind, reference, Path(model).stem, dataset_of(data, folder, found, names, notes), names)
    _write(output, text(manifest))
    yield from notes
    if "labels" in manifest["datasets"]["evaluation"]:
        yield _gate_reference(manifest, output, on_log)
    variants = ", ".join(
        variant if isinstance(variant, str) else variant["name"] for variant in manifest["models"][0]["variants"]
    )
    yield f"{output}: model {manifest['models'][0]['name']!r} with {variants}"
    yield "next: tflite-guard check" + ("" if output == DEFAULT_MANIFEST else f" {output}")


def kind_of(model: str, signature: str | None = None) -> ReferenceKind:
    """What a reference is. Raises UsageError for what is none."""
    if not os.path.exists(model):
        raise UsageError(f"{model}: no such file or folder")
    if lfs_pointer(model):
        raise UsageError(f"{model}: is a Git LFS pointer, not the model itself; run `git lfs pull`")
    kind = KINDS.get(sniff(model))
    if kind is None:
        raise UsageError(f"{model}: is no .keras, .h5, SavedModel or .tflite that can be read")
    if kind == "keras" and signature is not None:
        raise UsageError(f"{model}: --signature is for a SavedModel or a .tflite; a Keras model has none")
    return kind


def _check_places(model: str, data: str | None, folder: str) -> None:
    root = find_root(folder)
    for path in filter(None, (model, data)):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder")
        if not contained(path, [root]):
            raise UsageError(
                f"{path}: lies outside {root}; a manifest may only name files under it (move it, or use -o)"
            )


def names_of(kind: ReferenceKind, model: str, signature: str | None, on_log: Callable[[str], None] | None) -> Names:
    """What the model takes and gives. Raises EvaluationError for what cannot be evaluated, such as text."""
    real = os.path.realpath(model)
    reference = (
        ReferenceSpec(kind, FileSpec(real)) if signature is None else ReferenceSpec(kind, FileSpec(real), signature)
    )
    try:
        described = describe(reference, Options(), on_log)
    except EvaluationError as error:
        told = str(error).replace(real, model)
        if error.kind == "signature":
            told = told.removesuffix('; say which with "signature"') + "; choose one with --signature"
        raise EvaluationError(error.kind, told) from None
    for side, infos in (("input", described.inputs), ("output", described.outputs)):
        if not infos:
            raise ModelFileError(f"{model}: has no {side}s; there is nothing to evaluate")
        for name, info in infos.items():
            if _kind(info.dtype) not in "biuf":
                message = f"{model}: {side} {name!r} holds {info.dtype} values, which cannot be evaluated; "
                raise ModelFileError(message + "export the model without that part", "unsupported-type")
    return described


def _write(path: str, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise EvaluationError("file", f"{path}: cannot be written ({error.strerror}); name another with -o") from None


def text(manifest: dict[str, Any]) -> bytes:
    """A manifest as it is written to a file."""
    return (json.dumps(manifest, indent=2) + "\n").encode()


def _gate_reference(manifest: dict[str, Any], output: str, on_log: Callable[[str], None] | None) -> str:
    """Hold the reference to the accuracy that it has on this data, rounded down; gives what was found, in a line.

    A reference that gets worse later is a broken set-up, which every comparison with it would hide.
    """
    report = run([load(output)], Options(variants=("float32",)), on_log=on_log)
    (model,) = report.models
    if model.error is not None:
        return f"the reference could not be run on this data: {model.error.message}"
    accuracy = model.reference.metrics.get("accuracy")
    least = math.floor((accuracy or 0.0) * 100) / 100
    if least > 0:
        manifest["models"][0]["reference"]["tolerances"] = {"accuracy": {"min": least}}
        _write(output, text(manifest))
    suspect = " ".join(finding.message for finding in model.findings)
    return f"the reference's accuracy on this data is {number(accuracy, 'accuracy')}" + (
        f"; {suspect}" if suspect else f", and the manifest holds it to at least {least:g}"
    )


def manifest_of(
    kind: ReferenceKind, reference: dict[str, Any], name: str, dataset: dict[str, Any], names: Names
) -> dict[str, Any]:
    """A manifest with one model, tolerances to start from, and the variants that can be made of it."""
    labelled = "labels" in dataset
    entry: dict[str, Any] = {
        "name": name,
        "reference": reference,
        "evaluation": "evaluation",
        "calibration": "evaluation",
        "metrics": ["accuracy", "agreement"] if labelled else ["sqnr", "cosine_similarity"],
        "tolerances": {"accuracy": {"max_drop": MAX_DROP}, "agreement": {"min": MIN_AGREEMENT}}
        if labelled
        else {"sqnr": {"min": MIN_SQNR_DB}},
        "variants": _variants(kind, names),
    }
    return {"schema_version": 1, "datasets": {"evaluation": dataset}, "models": [entry]}


def _variants(kind: ReferenceKind, names: Names) -> list[Any]:
    floats = all(port.dtype.startswith("float") for port in (*names.inputs.values(), *names.outputs.values()))
    int8: Any = {"name": "int8", "quantization": "int8", "io": "int8"} if floats else "int8"
    return ["float32", int8] if kind == "tflite" else ["float32", "float16", "dynamic_range", int8]


def dataset_of(data: str, folder: str, arrays: Mapping[str, Array], names: Names, notes: list[str]) -> dict[str, Any]:
    """The manifest's dataset; `notes` gains what a reader should know of how it came about."""
    inputs = _inputs(names, arrays, data)
    lone = len(inputs) == 1
    dataset: dict[str, Any] = {
        "source": "npz",
        "path": relative(data, folder),
        "inputs": inputs.get("", inputs),  # a lone input without a name
    }
    labels = _labels(names, {key: array for key, array in arrays.items() if key not in inputs.values()}, data)
    if len(labels) == 1:
        dataset["labels"] = labels[0]
    elif labels:
        notes.append(f'{data}: {" and ".join(labels)} could each be the labels; none is used: add "labels" by hand')
    casts = {
        name: [{"cast": names.inputs[name].dtype}]
        for name, key in inputs.items()
        if _kind(arrays[key].dtype) != _kind(names.inputs[name].dtype)
    }
    if casts:
        dataset["preprocess"] = next(iter(casts.values())) if lone else casts
    return dataset


def _inputs(names: Names, arrays: Mapping[str, Array], data: str) -> dict[str, str]:
    """Model input to array: by its exact name, then by another name of it, then where only one is possible.

    Names come before shapes for all inputs, so that an array with one input's name never goes to another.
    """
    inputs = {name: name for name in names.inputs if name in arrays}
    for name in names.inputs:
        known = [alias for alias, own in names.input_aliases.items() if own == name and alias in arrays]
        if name not in inputs and len(known) > 1:
            raise DataError(f"{data}: {' and '.join(known)} are both names of input {name!r}; {BY_HAND}")
        if name not in inputs and known:
            inputs[name] = known[0]
    for name, key in inputs.items():
        if not _takes(names.inputs[name], arrays[key]):
            raise DataError(
                f"{data}: array {key!r} {arrays[key]} does not fit the input of its name, which takes "
                f"{_told(names.inputs[name])}; change the array, or write the manifest's dataset by hand with "
                "preprocess steps"
            )
    taken = {*inputs.values(), *_named_as_labels(names, arrays)}
    free = {key: array for key, array in arrays.items() if key not in taken}
    left = {name: port for name, port in names.inputs.items() if name not in inputs}
    inputs |= _only_fits(left, free, data)
    return {name: inputs[name] for name in names.inputs}


def _only_fits(left: Mapping[str, TensorInfo], arrays: Mapping[str, Array], data: str) -> dict[str, str]:
    """Each input's array where it alone fits and fits no other input. Raises DataError where that leaves a doubt."""
    fitting = {name: [key for key, array in arrays.items() if _takes(info, array)] for name, info in left.items()}
    for name, keys in fitting.items():
        rivals = [other for other, others in fitting.items() if other != name and set(keys) & set(others)]
        if len(keys) == 1 and not rivals:
            continue
        listed = ", ".join(f"{key} {arrays[key]}" for key in keys or arrays) or "no other array"
        wanted = f"input {name!r} {_told(left[name])}"
        if not keys:
            raise DataError(f"{data}: no array fits {wanted} (there is {listed}); {BY_HAND}")
        contested = f", which could also be {' or '.join(map(repr, rivals))}" if rivals else ""
        raise DataError(f"{data}: it is not certain which array is {wanted}: {listed}{contested}; {BY_HAND}")
    return {name: keys[0] for name, keys in fitting.items()}


def _named_as_labels(names: Names, arrays: Mapping[str, Array]) -> list[str]:
    """The arrays that bear an output's name, or that of labels, such as `y`, `y_test` or `labels`."""
    known = {*names.outputs, *names.output_aliases} - {*names.inputs, *names.input_aliases}
    return [
        key
        for key in arrays
        if key in known or (key not in names.inputs and LABEL_NAMES & set(re.split(r"[^a-z]+", key.lower())))
    ]


def _labels(names: Names, arrays: Mapping[str, Array], data: str) -> list[str]:
    """What can be the class numbers of a model with one output of classes: by name, else by the values.

    One integer an example; of arrays without a telling name, one that reaches from the first class to the last.
    """
    if len(names.outputs) != 1:
        return []
    ((_, output),) = names.outputs.items()
    example = output.example_shapes[0]
    if len(example) != 1 or _kind(output.dtype) != "f":
        return []
    whole = [key for key, array in arrays.items() if len(array.shape) == 1 and _kind(array.dtype) in "iu"]
    named = [key for key in _named_as_labels(names, arrays) if key in whole]
    classes = max(example[0] or 0, 2)
    return named or [key for key in whole if _range(data, key) == (0, classes - 1)]


def _range(data: str, key: str) -> tuple[int, int]:
    """The least and the greatest value of an array of integers."""
    from tflite_guard.datasets.arrays import open_npz

    reader = open_npz(data, [key])
    parts = [read[key] for read in reader.read([key], range(reader.examples), 2**16)]
    return min((int(min(part)) for part in parts), default=0), max((int(max(part)) for part in parts), default=0)


def _takes(info: TensorInfo, array: Array) -> bool:
    """Whether an array holds one example a row, and numbers that can become the input's without loss of meaning."""
    kind, own = _kind(array.dtype), _kind(info.dtype)
    as_numbers = kind == own or (kind in "iu" and own in "iu") or (kind in "biu" and own == "f")
    return as_numbers and info.takes(array.shape)


def _told(info: TensorInfo) -> str:
    """What data for an input looks like: the first axis counts examples."""
    sizes = ("?" if size is None else str(size) for size in (None, *info.example_shapes[0]))
    return f"[{', '.join(sizes)}] {info.dtype}"


def _kind(dtype: str) -> str:
    """NumPy's letter for a kind of numbers; `O` for what is none."""
    import numpy as np

    try:
        return np.dtype(dtype).kind
    except TypeError:
        return "O"


def arrays_of(data: str) -> dict[str, Array]:
    """Shapes and types of the arrays in an .npz, without reading them."""
    from tflite_guard.datasets.arrays import npz_headers

    return {key: Array(tuple(header.shape), str(header.dtype)) for key, header in npz_headers(data).items()}


def _random_arrays(names: Names, model: str) -> dict[str, Any]:
    """Random inputs of the right shapes, (n, ...): reals in [0, 1), integers 0 and 1; unknown dimensions are 1."""
    import numpy as np

    shapes = {name: _example(port, names) for name, port in names.inputs.items()}
    size = sum(math.prod(shapes[name]) * np.dtype(port.dtype).itemsize for name, port in names.inputs.items())
    count = min(RANDOM_EXAMPLES, RANDOM_BYTES // max(size, 1))
    if count == 0:
        raise UsageError(
            f"{model}: one random example would take {size / 2**20:,.0f} MiB; give examples of your own as DATA (.npz)"
        )
    rng = np.random.default_rng(0)
    arrays = {}
    for name, port in names.inputs.items():
        shape = (count, *shapes[name])
        values = rng.random(shape, np.float32) if _kind(port.dtype) == "f" else rng.integers(0, 2, shape, np.uint8)
        arrays[name or "input"] = values.astype(port.dtype)
    return arrays


def _example(port: TensorInfo, names: Names) -> tuple[int, ...]:
    """The shape of one example: without the batch, which is there when it is 1, unknown, or the same everywhere."""
    first = {other.shape[:1] for other in (*names.inputs.values(), *names.outputs.values())}
    batched = port.shape and (port.shape[0] in (None, 1) or (len(port.shape) > 1 and len(first) == 1))
    return tuple(size or 1 for size in (port.shape[1:] if batched else port.shape))


def _npz(arrays: Mapping[str, Any]) -> bytes:
    from tflite_guard.datasets.arrays import write_npz

    content = io.BytesIO()
    write_npz(content, arrays)
    return content.getvalue()


def relative(path: str, folder: str) -> str:
    """A path as a manifest in some folder names it."""
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()
