"""What has to be done to data before a model sees it, as far as model and data say; the rest is told, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tflite_guard.errors import DataError, UsageError
from tflite_guard.init.binding import Chosen, kind_of_numbers, named_as_labels
from tflite_guard.init.sources import Array, Data
from tflite_guard.protocol import Names, TensorInfo

NOTHING = Array((0,), "int64")
Step = dict[str, Any]
FEATURES = "features"
"""The key of a table's columns that together are one input."""


def images(data: Data) -> bool:
    """Whether examples are pictures from files, which are fitted to the model."""
    return bool(data.settings["source"] == "images")


def as_rows(data: Data, names: Names, chosen: Chosen) -> Data:
    """A table whose other columns make the one input, as many as it takes; anything else as it is.

    Raises DataError where their number is another.
    """
    if data.settings["source"] != "csv" or len(names.inputs) != 1:
        return data
    ((name, port),) = names.inputs.items()
    example = port.example_shapes[0]
    if len(example) != 1 or name in data.arrays or chosen.inputs:
        return data
    labels = {*chosen.labels.values(), *named_as_labels(names, dict.fromkeys(data.columns, NOTHING))}
    columns = [key for key in data.columns if key in data.arrays and key not in labels]
    if example[0] not in (None, len(columns)):
        beside = " and ".join(sorted(labels)) or "no labels"
        raise DataError(
            f"{data.path}: input {name!r} takes {example[0]} numbers, but beside {beside} there are {len(columns)} "
            f"columns of numbers: {', '.join(columns)}; remove the others, name the labels with --labels, or write "
            '"columns" by hand'
        )
    rows = next(iter(data.arrays.values())).shape[0]
    kept = {key: array for key, array in data.arrays.items() if key in labels}
    settings = {**data.settings, "columns": {FEATURES: columns, **{key: key for key in kept}}}
    return replace(data, settings=settings, arrays={FEATURES: Array((rows, len(columns)), "float32"), **kept})


def preparation(data: Data, names: Names, inputs: Mapping[str, str]) -> tuple[dict[str, list[Step]], tuple[str, ...]]:
    """Steps by input, and what a reader should know of them."""
    if images(data):
        return _of_images(data, names)
    casts = {
        name: [{"cast": names.inputs[name].dtype}]
        for name, key in inputs.items()
        if kind_of_numbers(data.arrays[key].dtype) != kind_of_numbers(names.inputs[name].dtype)
    }
    pixels = [key for name, key in inputs.items() if name in casts and data.arrays[key].dtype == "uint8"]
    return casts, _of_scale(names) if pixels else ()


def _of_images(data: Data, names: Names) -> tuple[dict[str, list[Step]], tuple[str, ...]]:
    if len(names.inputs) != 1:
        raise UsageError(f"{data.path}: images are for a model with one input; this one has {', '.join(names.inputs)}")
    ((name, port),) = names.inputs.items()
    height, width, channels, first = _layout(port, data.path)
    steps: list[Step] = []
    notes: list[str] = []
    if (height, width) != data.arrays["image"].shape[1:3] and height is not None and width is not None:
        steps.append({"resize": [height, width]})
        notes.append("images are resized as Pillow does; where training resized otherwise, say so (docs/datasets.md)")
    if channels == 1:
        steps.append({"channels": "grayscale"})
    if first:
        steps.append({"transpose": [2, 0, 1]})
    if kind_of_numbers(port.dtype) != "u":
        steps.append({"cast": port.dtype})
    return {name: steps}, (*notes, *_of_scale(names))


def _layout(port: TensorInfo, path: str) -> tuple[int | None, int | None, int | None, bool]:
    """Height, width and channels of one example, and whether the channels come first."""
    for example in port.example_shapes:
        if len(example) == 3 and example[2] in (1, 3):
            return example[0], example[1], example[2], False
        if len(example) == 3 and example[0] in (1, 3):
            return example[1], example[2], example[0], True
    raise UsageError(f"{path}: the model's input {list(port.shape)} is not an image of 1 or 3 channels")


def _of_scale(names: Names) -> tuple[str, ...]:
    if names.scaling:
        return (f"the model scales its inputs itself ({', '.join(names.scaling)}), so no scaling is written",)
    return (
        "pixels go in as 0 to 255, since nothing in the model says how training scaled them: add that scaling to "
        '"preprocess" of every dataset',
    )
