"""A user's own Python function as a source. Runs only with --allow-code."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite_guard.datasets.arrays import hold
from tflite_guard.datasets.sources import Array, Column, Reader, Rows, columns_of, native, pick, require_keys
from tflite_guard.errors import DataError
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
    """Calls a function, imported with the manifest's folder first on the path.

    It returns a mapping from key to array (first axis examples), or an iterable of one mapping an example,
    which is gone through once to count and once a pass. Raises DataError without `allow_code`, and for
    whatever the function raises.
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
        for index, record in enumerate(function()):
            if not isinstance(record, Mapping):
                raise DataError(f"{name}: example {index} is not a mapping but {type(record).__name__}")
            require_keys(f"{name}: example {index}", keys, [str(key) for key in record])
            yield {key: _plain(record[key], f"{name}: example {index}: {key}") for key in keys}


def _plain(value: Any, where: str) -> Array:
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise DataError(f"{where}: is not a plain array of numbers")
    return native(array)


@contextlib.contextmanager
def user_code(spec: FunctionSpec) -> Iterator[None]:
    """Puts the function's folder on the import path for the while, and names the source in whatever the code raises."""
    sys.path.insert(0, spec.root)
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{spec.name}: the function failed with {type(error).__name__}: {error}") from error
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have taken it off itself
            sys.path.remove(spec.root)
