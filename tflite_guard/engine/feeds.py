"""What enters a model: the data checked, cast and laid out as its inputs take it, whatever the model is made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_guard.errors import DataError
from tflite_guard.protocol import TensorInfo

Array = npt.NDArray[Any]
MAX_PERMUTED = 6
"""Axes; of more, there are too many orders to try, and nobody has them."""


def examples(name: str, info: TensorInfo, values: Array) -> Array:
    """The data in the input's dtype, (n, …), each row one example.

    Raises DataError where it is of another kind or shape, or an integer does not fit.
    """
    _check_kind(name, values, info.dtype)
    if not info.takes(values.shape):
        raise DataError(_unfit(name, info, values))
    return _cast(name, values, info.dtype)


def batched(info: TensorInfo, rows: Array) -> bool:
    """Whether the rows' first axis is the input's own, its batch; else each row is the whole input."""
    return rows.ndim == len(info.shape)


def alone(info: TensorInfo, rows: Array, index: int) -> Array:
    """One of the rows as the model takes it: as the whole input, or repeated to fill its batch."""
    if not batched(info, rows):
        return np.asarray(rows[index])
    return np.repeat(rows[index : index + 1], info.shape[0] or 1, axis=0)


def calibration_examples(
    batches: Iterable[Mapping[str, Array]], inputs: Mapping[str, TensorInfo], samples: int | None
) -> Iterator[dict[str, Array]]:
    """At most so many examples (None: all), given as batches of one, each as the model takes it.

    Raises DataError for one that does not fit, or where there is none.
    """
    empty = True
    for one in islice(batches, samples):
        empty = False
        rows = {name: examples(name, info, np.asarray(one[name])) for name, info in inputs.items()}
        yield {name: alone(info, rows[name], 0) for name, info in inputs.items()}
    if empty:
        raise DataError("the calibration data has no examples; calibrate on a dataset that holds some")


def kind_of(dtype: str) -> str:
    """`f` for floats, `i` for integers, `b` for booleans, `?` for what numpy has no numbers for."""
    try:
        return {"i": "i", "u": "i", "f": "f", "b": "b"}.get(np.dtype(dtype).kind, "?")
    except TypeError:
        return "?"


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape for messages, e.g. `[?, 8, 8, 1]`."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def permutation(given: Sequence[int], wanted: Sequence[int | None]) -> list[int] | None:
    """The order of axes that makes one shape another, e.g. [2, 0, 1]; of several, the one that swaps the fewest."""
    if len(given) != len(wanted) or len(given) > MAX_PERMUTED:
        return None
    fitting = [
        axes
        for axes in itertools.permutations(range(len(given)))
        if all(size in (None, given[axis]) for axis, size in zip(axes, wanted, strict=True))
    ]
    return list(min(fitting, key=_swaps)) if fitting else None


def _swaps(axes: Iterable[int]) -> int:
    return sum(first > second for first, second in itertools.combinations(axes, 2))


def _check_kind(name: str, values: Array, wanted: str) -> None:
    """Float data for a float input, integers for integers."""
    given, needed = kind_of(values.dtype.name), kind_of(wanted)
    takes = f"input {name}: the model takes {wanted} and the data is {values.dtype}"
    if "?" in (given, needed):
        raise DataError(f"{takes}; only numbers and booleans can be given to a model here")
    if given != needed:
        raise DataError(f'{takes}; add the preprocess step {{"cast": "{wanted}"}}')


def _unfit(name: str, info: TensorInfo, values: Array) -> str:
    example = info.example_shapes[0]
    takes, given = shape_text((None, *example)), shape_text((None, *values.shape[1:]))
    told = f"input {name}: the model takes {takes} and the data is {given}"
    if values.ndim == 1 and len(example) == 1:
        saved = ", ".join("?" if size is None else str(size) for size in example)
        return f"{told}, which is a single number for each example; save it as (n, {saved}), a row for each"
    if values.shape[1:2] > (1,) and info.takes(values.shape[1:]):
        return f"{told}, {values.shape[1]} examples in place of each, as batches have; give the examples one by one"
    if axes := permutation(values.shape[1:], example):
        return f'{told}; add the preprocess step {{"transpose": {axes}}}'
    return f"{told}; fix the data, or add a preprocess step (resize, reshape, expand_dims, channels)"


def _cast(name: str, values: Array, dtype: str) -> Array:
    target = np.dtype(dtype)
    if values.dtype == target:
        return values
    if target.kind in "iu" and values.size:
        limits = np.iinfo(target)
        low, high = int(values.min()), int(values.max())
        if low < limits.min or high > limits.max:
            raise DataError(
                f"input {name}: the value {low if low < limits.min else high} does not fit the model's {dtype}, which "
                f'holds {limits.min} to {limits.max}; correct the data, or scale it in "preprocess"'
            )
    return values.astype(target)
