"""A first manifest for a model: names read from the model, keys matched with the data, tolerances to start from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tflite_guard.errors import DataError, EvaluationError, UsageError
from tflite_guard.files import find_root, sniff, write_atomically
from tflite_guard.manifest.types import FileSpec, ReferenceSpec
from tflite_guard.run.jobs import Options
from tflite_guard.run.pipeline import describe
from tflite_guard.vocabulary import DEFAULT_MANIFEST, ReferenceKind

KINDS: dict[str, ReferenceKind] = {"keras": "keras", "hdf5": "keras", "saved_model": "saved_model", "tflite": "tflite"}
RANDOM_EXAMPLES = 64
MAX_DROP = 0.01
MIN_AGREEMENT = 0.97
MIN_SQNR_DB = 10.0


@dataclass(frozen=True)
class _Array:
    """One array of an .npz, from its header alone."""

    shape: tuple[int, ...]
    dtype: str


def write_manifest(
    model: str, data: str | None, output: str, *, force: bool = False, on_log: Callable[[str], None] | None = None
) -> Iterator[str]:
    """Write a manifest that passes `validate` and runs; yields what was done, a line each.

    Without data, an .npz of random inputs is written beside it, which checks that conversion works and
    says nothing of accuracy.

    Raises:
        UsageError: the model is of no supported kind, or the manifest exists already.
        EvaluationError: the model cannot be loaded.
        DataError: no array of the data fits an input.
    """
    if os.path.exists(output) and not force:
        raise UsageError(f"{output}: exists already; use --force to overwrite it, or -o to write another")
    for path in filter(None, (model, data)):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder")
    kind = KINDS.get(sniff(model))
    if kind is None:
        raise UsageError(f"{model}: is no .keras, .h5, SavedModel or .tflite that can be read")
    folder = os.path.dirname(os.path.abspath(output))
    root = find_root(folder)
    for path in filter(None, (model, data)):
        if not os.path.realpath(path).startswith(os.path.realpath(root) + os.sep):
            raise UsageError(
                f"{path}: lies outside {root}; a manifest may only name files under it (move it, or use -o)"
            )
    try:
        described = describe(ReferenceSpec(kind, FileSpec(os.path.realpath(model))), Options(), on_log)
    except EvaluationError as error:
        raise EvaluationError(error.kind, str(error).replace(os.path.realpath(model), model)) from None
    names = asdict(described)
    if data is None:
        data = _random_data(names["inputs"], Path(folder) / f"{Path(output).stem}-random.npz")
        notes = [
            f"{data}: {RANDOM_EXAMPLES} random examples; they show that conversion works, not how accurate it is",
            "replace them with real data and labels",
        ]
    else:
        notes = ["calibration uses the evaluation data for now; name a sample of the training data for honest figures"]
    manifest = _manifest(kind, model, data, folder, names)
    try:
        write_atomically(output, (json.dumps(manifest, indent=2) + "\n").encode())
    except OSError as error:
        raise EvaluationError("file", f"{output}: cannot be written ({error.strerror}); name another with -o") from None
    yield from notes
    variants = ", ".join(
        variant if isinstance(variant, str) else variant["name"] for variant in manifest["models"][0]["variants"]
    )
    yield f"{output}: model {manifest['models'][0]['name']!r} with {variants}"
    yield "next: tflite-guard check" + ("" if output == DEFAULT_MANIFEST else f" {output}")


def _manifest(kind: str, model: str, data: str, folder: str, names: dict[str, Any]) -> dict[str, Any]:
    arrays = _arrays(data)
    inputs, casts = _inputs(names["inputs"], arrays, data)
    labels = _labels(arrays, set(inputs.values()), names["outputs"])
    dataset: dict[str, Any] = {"source": "npz", "path": _relative(data, folder), "inputs": inputs}
    if labels is not None:
        dataset["labels"] = labels
    if casts:
        dataset["preprocess"] = casts
    entry: dict[str, Any] = {
        "name": Path(model).stem,
        "reference": {kind: _relative(model, folder)},
        "evaluation": "evaluation",
        "calibration": "evaluation",
        "metrics": ["accuracy", "agreement"] if labels is not None else ["sqnr", "cosine_similarity"],
        "tolerances": {"accuracy": {"max_drop": MAX_DROP}, "agreement": {"min": MIN_AGREEMENT}}
        if labels is not None
        else {"sqnr": {"min": MIN_SQNR_DB}},
        "variants": _variants(kind, names),
    }
    return {"schema_version": 1, "datasets": {"evaluation": dataset}, "models": [entry]}


def _variants(kind: str, names: dict[str, Any]) -> list[Any]:
    floats = all(info["dtype"].startswith("float") for side in ("inputs", "outputs") for info in names[side].values())
    int8: Any = {"name": "int8", "quantization": "int8", "io": "int8"} if floats else "int8"
    return ["float32", int8] if kind == "tflite" else ["float32", "float16", "dynamic_range", int8]


def _inputs(
    wanted: dict[str, Any], arrays: dict[str, _Array], data: str
) -> tuple[dict[str, str], list[dict[str, str]] | dict[str, list[dict[str, str]]]]:
    """Model input to key, by name and then by shape; and the casts that differing dtypes need."""
    inputs: dict[str, str] = {}
    casts: dict[str, list[dict[str, str]]] = {}
    for name, info in wanted.items():
        free = {key: array for key, array in arrays.items() if key not in inputs.values() and _fits(array, info)}
        if not free:
            held = ", ".join(f"{key} {list(array.shape)} {array.dtype}" for key, array in arrays.items())
            raise DataError(
                f"{data}: no array fits input {name!r} of shape {_shape(info)} {info['dtype']} (it holds {held})"
            )
        key = name if name in free else next(iter(free))
        inputs[name] = key
        if _kind(free[key].dtype) != _kind(info["dtype"]):
            casts[name] = [{"cast": info["dtype"]}]
    if len(wanted) == 1:
        return inputs, next(iter(casts.values()), [])
    return inputs, casts


def _labels(arrays: dict[str, _Array], taken: set[str], outputs: dict[str, Any]) -> str | None:
    """The key of class labels: one integer an example, where the model has one output of classes."""
    if len(outputs) != 1:
        return None
    (output,) = outputs.values()
    if len(output["shape"]) != 2 or not output["dtype"].startswith("float"):
        return None
    found = [
        key
        for key, array in arrays.items()
        if key not in taken and len(array.shape) == 1 and _kind(array.dtype) in "iu"
    ]
    return next(
        (key for key in found if "label" in key or key in ("y", "target")), found[0] if len(found) == 1 else None
    )


def _fits(array: _Array, info: dict[str, Any]) -> bool:
    shape = info["shape"]
    tail = array.shape[1:]
    return len(tail) == len(shape) - 1 and all(
        want is None or want == have for want, have in zip(shape[1:], tail, strict=True)
    )


def _shape(info: dict[str, Any]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in info["shape"]) + "]"


def _kind(dtype: str) -> str:
    import numpy as np

    return np.dtype(dtype).kind


def _arrays(data: str) -> dict[str, _Array]:
    """Shapes and types of the arrays in an .npz, without reading them."""
    from tflite_guard.datasets.arrays import npz_headers

    return {key: _Array(tuple(header.shape), str(header.dtype)) for key, header in npz_headers(data).items()}


def _random_data(inputs: dict[str, Any], path: Path) -> str:
    """Random inputs of the right shapes: reals in [0, 1), integers 0 and 1."""
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {}
    for name, info in inputs.items():
        shape = (RANDOM_EXAMPLES, *(size or 1 for size in info["shape"][1:]))
        real = np.dtype(info["dtype"]).kind == "f"
        arrays[name] = (rng.random(shape) if real else rng.integers(0, 2, shape)).astype(info["dtype"])
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return os.path.relpath(path)


def _relative(path: str, folder: str) -> str:
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()
