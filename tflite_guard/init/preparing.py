"""What has to be done to data before a model sees it, as far as model and data say; the rest is told, not guessed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tflite_guard.errors import DataError, UsageError
from tflite_guard.init.binding import Chosen, kind_of_numbers, layout, listed_and, named_as_labels, told
from tflite_guard.init.records import Feature
from tflite_guard.init.sources import Array, Data
from tflite_guard.manifest.gaps import gap
from tflite_guard.protocol import Names, TensorInfo

NOTHING = Array((0,), "int64")
Step = dict[str, Any]
FEATURES = "features"
"""The key of a table's columns that together are one input."""


def as_rows(data: Data, names: Names, chosen: Chosen) -> Data:
    """A table whose columns are put together for the inputs that take several numbers; anything else as it is.

    Of a model with one input they are all that are no labels, where these are as many as it takes. Else nobody can
    know which they are, and it is asked.

    Raises:
        UsageError: what is chosen as labels are no numbers.
        DataError: there are too few columns.
    """
    if data.settings["source"] != "csv":
        return data
    labels = {*chosen.labels.values(), *named_as_labels(names, dict.fromkeys(data.columns, NOTHING))}
    data = replace(data, notes=(*data.notes, *_of_text(data, labels, chosen)))
    wide = _wide(names, data, chosen)
    if not wide:
        return data
    kept = {*labels, *chosen.inputs.values(), *names.inputs, *names.input_aliases} & data.arrays.keys()
    columns = [key for key in data.columns if key in data.arrays and key not in kept]
    if sum(size or 1 for size in wide.values()) > len(columns):
        raise DataError(_too_few(data, wide, labels, columns))
    lone = len(names.inputs) == 1
    known = lone and {*wide.values()} <= {None, len(columns)}
    rows = next(iter(data.arrays.values())).shape[0]
    together = {FEATURES if lone else name: (name, size) for name, size in wide.items()}
    listed = {key: [*([] if known else [gap(_asked(*one))]), *columns] for key, one in together.items()}
    arrays = {
        key: Array((rows, len(columns) if size is None else size), "float32") for key, (_, size) in together.items()
    }
    single = {key: data.arrays[key] for key in data.columns if key in kept}
    settings = {**data.settings, "columns": {**listed, **{key: key for key in single}}}
    return replace(data, settings=settings, arrays={**arrays, **single})


def _wide(names: Names, data: Data, chosen: Chosen) -> dict[str, int | None]:
    """The inputs that take a row of numbers and that no column or option feeds, with how many; a lone one takes any."""
    lone = len(names.inputs) == 1
    fed = {*map(names.input, (*data.arrays, *chosen.inputs)), *(names.inputs if lone and chosen.inputs else ())}
    shapes = {name: port.example_shapes[0] for name, port in names.inputs.items() if name not in fed}
    return {name: one[0] for name, one in shapes.items() if len(one) == 1 and (lone or one != (1,))}


def _asked(name: str, size: int | None) -> str:
    few = "the columns" if size is None else f"the {size} columns"
    return f"{few} that are input {name!r}, in the order of training: keep these of those below, and remove the rest"


def _too_few(data: Data, wide: Mapping[str, int | None], labels: Collection[str], columns: Sequence[str]) -> str:
    takes = " and ".join(f"input {name!r} takes {size or 'some'} numbers" for name, size in wide.items())
    beside = " and ".join(sorted(labels)) or "no labels"
    others = [name for name in data.columns if name not in data.arrays]
    texts = f" (not every cell is a number in {listed_and(others)})" if others else ""
    listed = f": {', '.join(columns)}" if columns else ""
    return (
        f"{data.path}: {takes}, but beside {beside} there are {len(columns)} columns of numbers{listed}{texts}; "
        "give a table with all of them"
    )


def _of_text(data: Data, labels: Collection[str], chosen: Chosen) -> list[str]:
    """What is said of columns that are not all numbers. Raises UsageError where these are chosen as labels."""
    told = "not every cell is a number"
    advice = "; for labels, write the number of the class, from 0, or the measured value"
    texts = [name for name in data.columns if name not in data.arrays]
    for name in texts:
        if name in chosen.labels.values():
            raise UsageError(f"--labels {name}: in that column of {data.path} {told}{advice}")
    named, others = [name for name in texts if name in labels], [name for name in texts if name not in labels]
    return [
        f"{data.path}: {listed_and(names)} {'is' if len(names) == 1 else 'are'} not used, since {told}{more}"
        for names, more in ((named, advice), (others, ""))
        if names
    ]


def as_features(data: Data, names: Names) -> Data:
    """A TFRecord with its values in the shapes of the model's inputs, and its bytes as arrays where they fit one.

    A record holds values in a row, and bytes without a type.
    """
    if not data.features:
        return data
    arrays = dict(data.arrays)
    written: dict[str, Step] = {}
    notes: list[str] = []
    examples = next((array.shape[0] for array in arrays.values()), None)
    for key, one in data.features.items():
        if key in data.pictures:
            written[key] = {"dtype": "uint8", "encoding": one.picture}
        elif key in arrays:
            shape = _shape_of_input(names, arrays[key].shape[1:])
            arrays[key] = replace(arrays[key], shape=(*arrays[key].shape[:1], *shape))
            written[key] = {"dtype": arrays[key].dtype, "shape": [*shape]} if None not in shape else {}
        elif one.count == 1 and (fitting := _raw(names, one)):
            shape, dtype, asked = fitting
            arrays[key] = Array((examples, *shape), dtype)
            written[key] = {"dtype": asked or dtype, "shape": [*shape], "encoding": "raw"}
            notes.append(f"{data.path}: {key} holds bytes, as many as {list(shape)} values of {dtype} take")
    for only in _only_bytes(data, arrays, names):
        (port,) = names.inputs.values()
        arrays[only] = Array((examples, *port.example_shapes[0]), port.dtype)
        written[only] = _described_by_hand(data.features[only], port)
    return replace(data, settings={**data.settings, "features": written}, arrays=arrays, notes=(*data.notes, *notes))


def _only_bytes(data: Data, arrays: Mapping[str, Array], names: Names) -> list[str]:
    """The key of the only bytes that are no text, where nothing else can be the only input; else none."""
    left = [key for key, one in data.features.items() if key not in arrays and not one.text]
    taken = {*named_as_labels(names, arrays)}
    others = [key for key, array in arrays.items() if key not in taken and len(array.shape) > 1]
    return left if len(left) == 1 and len(names.inputs) == 1 and not others else []


def _described_by_hand(feature: Feature, port: TensorInfo) -> Step:
    size = f"{feature.size} bytes" if feature.size else "bytes, not as many in each,"
    return {
        "dtype": gap(f"the type of the values that an example's {size} hold; the model takes {told(port)}"),
        "shape": gap("their shape; what tf.io.serialize_tensor wrote must be written again as plain values"),
        "encoding": "raw",
    }


def _shape_of_input(names: Names, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape of the inputs that take so many values in a row, else these as they are."""
    shapes = {port.example_shapes[0] for port in names.inputs.values()}
    fitting = [one for one in shapes if None not in one and len(shape) == 1 and math.prod(one) == shape[0]]  # type: ignore[arg-type]
    return fitting[0] if len(fitting) == 1 else shape


def _raw(names: Names, feature: Feature) -> tuple[tuple[int, ...], str, str | None] | None:
    """The shape and type that bytes have if they are an input, and what is asked where two types are as likely."""
    for port in names.inputs.values():
        shape = tuple(size for size in port.example_shapes[0] if size is not None)
        values = math.prod(shape)
        if len(shape) != len(port.example_shapes[0]) or not feature.size or not values or feature.size % values:
            continue
        likely = _likely_types(feature.size // values, port.dtype, feature.samples)
        if likely:
            asked = f"{' or '.join(likely)}: the type of the values that were written as bytes"
            return shape, likely[0], None if len(likely) == 1 else gap(asked)
    return None


def _likely_types(width: int, own: str, samples: Sequence[bytes]) -> list[str]:
    """Types so many bytes wide in which the samples make sense: no reals huge or next to nothing, no huge integers."""
    import numpy as np

    if width == 1:
        return ["int8" if own == "int8" else "uint8"]
    content = b"".join(samples)
    found = []
    for dtype in {2: ("float16", "int16"), 4: ("float32", "int32"), 8: ("float64", "int64")}.get(width, ()):
        values = np.abs(np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(np.float64))
        nonzero = values[values != 0]
        if dtype.startswith("float"):
            sensible = bool(np.isfinite(values).all() and ((nonzero > 1e-12) & (nonzero < 1e12)).all())
        else:
            sensible = bool((values < 2**24).all())
        found += [dtype] if sensible else []
    return found


def preparation(data: Data, names: Names, inputs: Mapping[str, str]) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Steps by input, and what a reader should know of them."""
    if any(key in data.pictures for key in inputs.values()):
        return _of_images(data, names, inputs)
    steps: dict[str, list[Any]] = {}
    notes: list[str] = []
    pixels = False
    for name, key in inputs.items():
        port, array = names.inputs[name], data.arrays[key]
        laid_out, said = layout(port, array) or ([], [])
        asked = [] if layout(port, array) else [gap(_steps_asked(port, array))]
        cast = kind_of_numbers(array.dtype) != kind_of_numbers(port.dtype)
        steps[name] = [*asked, *laid_out, *([{"cast": port.dtype}] if cast else [])]
        notes += [f"{data.path}: {key} {array} {one}" for one in said]
        pixels |= cast and array.dtype == "uint8"
    return {name: one for name, one in steps.items() if one}, (*notes, *(_of_scale(names) if pixels else ()))


def _steps_asked(port: TensorInfo, array: Array) -> str:
    given, wanted = Array(array.shape[1:], array.dtype), Array(port.example_shapes[0], port.dtype)
    return f'the steps that make {given} into {wanted} as in training, such as {{"resize": [height, width]}}'


def _of_images(data: Data, names: Names, inputs: Mapping[str, str]) -> tuple[dict[str, list[Step]], tuple[str, ...]]:
    if len(names.inputs) != 1:
        raise UsageError(f"{data.path}: images are for a model with one input; this one has {', '.join(names.inputs)}")
    ((name, key),) = inputs.items()
    port = names.inputs[name]
    height, width, channels, first = _layout(port, data.path)
    steps: list[Step] = []
    notes: list[str] = []
    if (height, width) != data.arrays[key].shape[1:3] and height is not None and width is not None:
        steps.append({"resize": [height, width]})
        notes.append(
            "images are resized as Pillow does; if training resized differently, change that step (docs/datasets.md)"
        )
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
        "pixels go in as 0 to 255, since nothing in the model says how training scaled them: if it did, add that to "
        f'"preprocess" of every dataset, such as {{"scale": {1 / 255!r}}} for 0 to 1 (docs/datasets.md)',
    )
