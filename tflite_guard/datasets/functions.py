"""A user's own Python function as a source. Runs only with --allow-code."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tflite_guard.datasets.arrays import hold
from tflite_guard.datasets.sources import Array, Column, Reader, Rows, agree, columns_of, native, pick, require_keys
from tflite_guard.errors import DataError
from tflite_guard.files import under
from tflite_guard.manifest.types import FunctionSpec


@dataclass(frozen=True)
class FunctionReader:
    """A function that yields one mapping an example; it is called anew for every pass."""

    spec: FunctionSpec
    function: Callable[[], Iterable[Mapping[str, Any]]]
    examples: int

    def read(self, keys: Sequence[str], rows: Rows, size: int) -> Iterator[dict[str, Column]]:
        for records in pick(_records(self.spec, self.function, keys), rows, size):
            yield columns_of(records, keys)


def open_function(spec: FunctionSpec, keys: Sequence[str], allow_code: bool) -> Reader:
    """Calls a function in the manifest's folder, which is first on the import path too.

    It returns a mapping from key to array (first axis examples), or an iterable of one mapping an example, which is
    gone through once to count and once a pass; a tf.data.Dataset may be batched. Raises DataError without
    `allow_code`, and for whatever the function raises.
    """
    name = spec.name
    if not allow_code:
        raise DataError(f"{name}: a python source runs code of this repository; allow it with --allow-code")
    with user_code(spec):
        function = find_function(name)
        returned = function()
    if isinstance(returned, Mapping):
        return hold(name, returned, keys)
    if not isinstance(returned, Iterable):
        raise DataError(f"{name}: must return a mapping or an iterable of mappings, not {type(returned).__name__}")
    return FunctionReader(spec, function, sum(1 for _ in _records(spec, function, keys)))


def find_function(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names. Raises DataError when there is none."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise DataError(f"{name}: write it as package.module:function")
    function = getattr(importlib.import_module(module_name), function_name, None)
    if not callable(function):
        raise DataError(f"{name}: the module {module_name} has no function {function_name!r}")
    return function  # type: ignore[no-any-return]


def _records(
    spec: FunctionSpec, function: Callable[[], Iterable[Mapping[str, Any]]], keys: Sequence[str]
) -> Iterator[dict[str, Array]]:
    name = spec.name
    with user_code(spec):
        returned = function()
        records = iter(returned)
    batched = _is_batched(returned)
    for index in itertools.count():
        with user_code(spec):
            record = next(records, _END)
        if record is _END:
            return
        if not isinstance(record, Mapping):
            raise DataError(
                f"{name}: example {index} (from 0) is of type {type(record).__name__}; give a dictionary for each "
                f"example, by the keys that the manifest names, such as {keys[0]!r}"
            )
        require_keys(f"{name}: example {index} (from 0)", keys, [str(key) for key in record])
        arrays = {key: _plain(record[key], f"{name}: example {index} (from 0): {key}") for key in keys}
        yield from _split(arrays, f"{name}: batch {index}") if batched else (arrays,)


_END = object()


def _is_batched(dataset: Any) -> bool:
    """Whether a tf.data.Dataset gives batches: its last step that joins or parts examples joins them."""
    while hasattr(dataset, "element_spec") and hasattr(dataset, "_inputs"):
        kind = type(dataset).__name__.lower()
        if "batch" in kind:
            return "unbatch" not in kind
        before = dataset._inputs()
        if len(before) != 1 or any(step in kind for step in _PARTING):
            return False
        (dataset,) = before
    return False


_PARTING = ("flatmap", "interleave", "window")
"""Steps after which nothing is known of how many examples an element is."""


def _split(batch: Mapping[str, Array], where: str) -> Iterator[dict[str, Array]]:
    lengths = {key: len(values) if values.ndim else 0 for key, values in batch.items()}
    for row in range(agree(where, lengths)):
        yield {key: values[row] for key, values in batch.items()}


def _plain(value: Any, where: str) -> Array:
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise DataError(f"{where}: is not a plain array of numbers; give a NumPy array")
    return native(array)


@contextlib.contextmanager
def user_code(spec: FunctionSpec) -> Iterator[None]:
    """Runs the function's own code in its folder, which is on the import path too; errors have its file and line."""
    sys.path.insert(0, spec.root)
    before = os.getcwd()
    with contextlib.suppress(OSError):  # then its relative paths will not be found, and say so
        os.chdir(spec.root)
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        told = f"{spec.name}: the function failed with {type(error).__name__}: {error}"
        raise DataError(f"{told}{_place(error, spec.root)}") from error
    finally:
        os.chdir(before)
        with contextlib.suppress(ValueError):  # the user's code may have taken it off itself
            sys.path.remove(spec.root)


def _place(error: BaseException, root: str) -> str:
    """Where in the user's own code an error came from, as the end of a sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if under(frame.filename, root)]
    if not theirs:  # the module is installed elsewhere
        theirs = [one for one in frames if not one.filename.startswith("<") and not under(one.filename, _PACKAGE)]
    if not theirs:
        return ""
    last = theirs[-1]
    shown = os.path.relpath(last.filename, root) if under(last.filename, root) else last.filename
    return f" (at {shown}:{last.lineno}, in {last.name})"


_PACKAGE = str(Path(__file__).parents[1])
