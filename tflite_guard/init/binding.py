"""Which array of the data is which input and which labels: by name, else where only one is possible, never by guess."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tflite_guard.errors import DataError, UsageError
from tflite_guard.init.sources import Array
from tflite_guard.protocol import Names, TensorInfo

Task = Literal["classes", "numbers"]
Values = Callable[[str], Any]
"""The values of a key, (n, ...)."""
Said = tuple[list[str], str]
"""Something about some arrays: their keys, and the sentence."""
MOST_LISTED = 5
NUMBERS = "biuf"
"""NumPy's letters for the kinds of numbers."""
LABEL_NAMES = frozenset({"label", "labels", "y", "target", "targets", "class", "classes"})
BY_HAND = 'say which with --input NAME=KEY, or write the manifest\'s "inputs" and "preprocess" by hand'


@dataclass(frozen=True)
class Chosen:
    """What the command line says: keys by input, and keys by output, whose name may be "" where there is one."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """Of outputs that have labels: the key, and what they are."""

    keys: dict[str, str]
    tasks: dict[str, Task]
    notes: tuple[str, ...] = ()


def inputs(names: Names, arrays: Mapping[str, Array], data: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Model input to array: as chosen, by its exact name, by another name of it, then where only one is possible.

    Names come before shapes for all inputs, so that an array with one input's name never goes to another.
    """
    found = {}
    for name, key in chosen.items():
        own = names.input(name) if name or len(names.inputs) != 1 else next(iter(names.inputs))
        if own not in names.inputs:
            raise UsageError(f"--input {name}={key}: the model has no such input; it has {', '.join(names.inputs)}")
        found[own] = present(f"--input {name}={key}", key, arrays, data)
    found |= {name: name for name in names.inputs if name in arrays and name not in found}
    for name in names.inputs:
        known = [alias for alias, own in names.input_aliases.items() if own == name and alias in arrays]
        if name not in found and len(known) > 1:
            raise DataError(f"{data}: {' and '.join(known)} are both names of input {name!r}; {BY_HAND}")
        if name not in found and known:
            found[name] = known[0]
    for name, key in found.items():
        if layout(names.inputs[name], arrays[key]) is None and not both_images(names.inputs[name], arrays[key]):
            raise DataError(
                f"{data}: array {key!r} {arrays[key]} does not fit the input of the same name, which takes "
                f"{told(names.inputs[name])}; change the array, or write the manifest's dataset by hand with "
                "preprocess steps"
            )
    taken = {*found.values(), *named_as_labels(names, arrays)}
    free = {key: array for key, array in arrays.items() if key not in taken}
    left = {name: port for name, port in names.inputs.items() if name not in found}
    found |= _only_fits(left, free, data)
    return {name: found[name] for name in names.inputs}


def labels(names: Names, arrays: Mapping[str, Array], data: str, chosen: Mapping[str, str], values: Values) -> Labels:
    """The labels of each output: as chosen, by a name that fits, else where values alone say so, which no target's do.

    Class numbers reach from the first class to the last; one-hot labels are one-hot. An array that is only left over,
    and real numbers without a telling name, are never taken.
    """
    keys: dict[str, str] = {}
    tasks: dict[str, Task] = {}
    for name, key in chosen.items():
        own = names.output(name) if name or len(names.outputs) != 1 else next(iter(names.outputs))
        if own not in names.outputs:
            written = f"{name}={key}" if name else key
            listed = ", ".join(names.outputs)
            raise UsageError(f"--labels {written}: say of which output, NAME=KEY; there are {listed}")
        keys[own] = present(f"--labels {key}", key, arrays, data)
        tasks[own] = _task(names.outputs[own], arrays[key], values, key) or "numbers"
    said = _by_name(names, arrays, values, keys, tasks) or _by_values(names, arrays, values, keys, tasks)
    unused = [key for key in arrays if key not in {*keys.values(), *(key for of, _ in said for key in of)}]
    notes = [*(note for _, note in said), *_of_unused(unused, arrays)]
    return Labels(keys, tasks, tuple(f"{data}: {note}" for note in notes))


def _by_name(
    names: Names, arrays: Mapping[str, Array], values: Values, keys: dict[str, str], tasks: dict[str, Task]
) -> list[Said]:
    """Take labels that are named so and fit; gives what is said of those that do not, or could be several's."""
    named = [key for key in named_as_labels(names, arrays) if key not in keys.values()]
    fitting: dict[str, dict[str, Task]] = {name: {} for name in names.outputs if name not in keys}
    said: list[Said] = []
    for key in named:
        meant = _outputs_of(key, names)
        fits = {name: task for name in meant if (task := _task(names.outputs[name], arrays[key], values, key))}
        if not fits:
            listed = " or ".join(f"{name!r} {told(names.outputs[name])}" for name in meant)
            why = next(filter(None, (_misfit(names.outputs[name], arrays[key], values, key) for name in meant)), "")
            said.append(([key], f"{key} {arrays[key]} does not fit as labels of {listed}{why}, so it is not used"))
        for name in fits.keys() & fitting.keys():
            fitting[name][key] = fits[name]
    for name, found in fitting.items():
        own = [key for key in found if _outputs_of(key, names) == [name]] if len(names.outputs) > 1 else []
        exact = [key for key in found if names.output(key) == name]
        best = exact or own or list(found)
        rivals = [other for other in fitting if other != name and best and best[0] in fitting[other]]
        if len(best) == 1 and not rivals:
            keys[name], tasks[name] = best[0], found[best[0]]
        elif best:
            said.append((best, _contested(best, name, names)))
    return said


def _by_values(
    names: Names, arrays: Mapping[str, Array], values: Values, keys: dict[str, str], tasks: dict[str, Task]
) -> list[Said]:
    """Take labels whose values alone say of which output they are; gives what is said where that is not certain."""
    left = [key for key in arrays if key not in {*keys.values(), *named_as_labels(names, arrays)}]
    fitting = {
        name: [key for key in left if _is_exactly(names.outputs[name], arrays[key], values, key)]
        for name in names.outputs
        if name not in keys
    }
    said: list[Said] = []
    for name, found in fitting.items():
        rivals = [other for other, others in fitting.items() if other != name and set(others) & set(found)]
        if len(found) == 1 and not rivals:
            keys[name], tasks[name] = found[0], "classes"
        elif found:
            said.append((found, _contested(found, name, names)))
    return said


def _contested(found: Sequence[str], output: str, names: Names) -> str:
    what = f"{' and '.join(found)} could {'each ' if len(found) > 1 else ''}be the labels"
    of = f" of {output!r}" if len(names.outputs) > 1 else ""
    return f"{what}{of}; none is used: say which with --labels"


def _of_unused(keys: Sequence[str], arrays: Mapping[str, Array]) -> list[str]:
    """What is left over is said, lest labels without a telling name go unnoticed."""
    be = "is" if len(keys) == 1 else "are"
    return [f"{listed_and([f'{key} {arrays[key]}' for key in keys])} {be} not used"] if keys else []


def listed_and(words: Sequence[str]) -> str:
    """Words as a sentence lists them, the first few where they are many."""
    shown = [*words[:MOST_LISTED], *([f"{len(words) - MOST_LISTED} more"] if len(words) > MOST_LISTED else [])]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def present(option: str, key: str, arrays: Mapping[str, Array], data: str) -> str:
    """A key that an option chooses. Raises UsageError where the data has no such array."""
    if key not in arrays:
        raise UsageError(f"{option}: {data} has no array {key!r}; it has {', '.join(arrays)}")
    return key


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _outputs_of(key: str, names: Names) -> list[str]:
    """The outputs that an array's name can be of: the one of that name, the one named beside `labels`, else any."""
    own = names.output(key)
    if own in names.outputs:
        return [own]
    rest = [word for word in _words(key) if word not in LABEL_NAMES]
    named = [name for name in (*names.outputs, *names.output_aliases) if rest and _words(name) == rest]
    return list(dict.fromkeys(map(names.output, named))) or list(names.outputs)


def named_as_labels(names: Names, arrays: Mapping[str, Array]) -> list[str]:
    """The arrays that bear an output's name, or that of labels, such as `y`, `y_test` or `labels`."""
    known = {*names.outputs, *names.output_aliases} - {*names.inputs, *names.input_aliases}
    return [key for key in arrays if key in known or (key not in names.inputs and LABEL_NAMES & set(_words(key)))]


def _task(output: TensorInfo, array: Array, values: Values, key: str) -> Task | None:
    """What an array can be as labels of an output, by its shape and range; None where it cannot be any."""
    kind = kind_of_numbers(array.dtype)
    if kind not in NUMBERS:
        return None
    for example in output.example_shapes:
        units = example[-1] if example else 1
        shape = _core(array.shape[1:])
        classes = max(units or 0, 2)
        if shape in (_core(example[:-1]), _core(example) if units == 1 else None):
            found = values(key)
            if found.size and found.min() >= 0 and found.max() < classes and (kind != "f" or not (found % 1).any()):
                return "classes"
        if shape == _core(example) and units not in (None, 1):
            found = values(key)
            if found.any() and ((found == 0) | (found == 1)).all():
                return "classes"
        if shape == _core(example) and (kind == "f" or units != 1 or _is_measured(values(key))):
            return "numbers"
    return None


def _is_measured(found: Any) -> bool:
    """Whether whole numbers are more than the two that stand for no and yes, such as -1 and 1."""
    return bool(((found != found.min()) & (found != found.max())).any()) if found.size else False


def _misfit(output: TensorInfo, array: Array, values: Values, key: str) -> str:
    """Why an array is no labels of an output although it has their shape, as an addition to a sentence."""
    for example in output.example_shapes:
        units = example[-1] if example else 1
        if not units or _core(array.shape[1:]) != _core(example[:-1]):
            continue
        classes = f"whose classes are the numbers 0 to {max(units, 2) - 1}"
        if kind_of_numbers(array.dtype) not in NUMBERS:
            return f", {classes}"
        found = values(key)
        return f", {classes} where {key} has {found.min():g} to {found.max():g}" if found.size else ""
    return ""


def _is_exactly(output: TensorInfo, array: Array, values: Values, key: str) -> bool:
    """Whether an array without a telling name holds the classes of an output, all of them, and no other numbers."""
    if not output.dtype.startswith("float") or kind_of_numbers(array.dtype) not in NUMBERS:
        return False
    for example in output.example_shapes:
        if not example or len(example) != 1:
            continue
        classes = max(example[0] or 0, 2)
        whole = array.dtype.startswith(("int", "uint"))
        if whole and _core(array.shape[1:]) == ():
            found = values(key)
            if found.size and (found.min(), found.max()) == (0, classes - 1):
                return True
        if array.shape[1:] == (example[0],) and example[0] not in (None, 1):
            found = values(key)
            if found.size and ((found == 0) | (found == 1)).all() and (found.sum(axis=1) == 1).all():
                return True
    return False


def _core(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """A shape without axes of length 1."""
    return tuple(size for size in shape if size != 1)


def _only_fits(left: Mapping[str, TensorInfo], arrays: Mapping[str, Array], data: str) -> dict[str, str]:
    """Each input's array where it alone fits and fits no other input. Raises DataError where that leaves a doubt."""
    fitting = {
        name: [key for key, array in arrays.items() if takes(info, array)]
        or [key for key, array in arrays.items() if layout(info, array) is not None]
        for name, info in left.items()
    }
    for name, keys in fitting.items():
        rivals = [other for other, others in fitting.items() if other != name and set(keys) & set(others)]
        if len(keys) == 1 and not rivals:
            continue
        listed = ", ".join(f"{key} {arrays[key]}" for key in keys or arrays) or "no other array"
        wanted = f"input {name!r} {told(left[name])}"
        if not keys:
            raise DataError(f"{data}: no array fits {wanted} (there is {listed}); {BY_HAND}")
        contested = f", which could also be {' or '.join(map(repr, rivals))}" if rivals else ""
        raise DataError(f"{data}: it is not certain which array is {wanted}: {listed}{contested}; {BY_HAND}")
    return {name: keys[0] for name, keys in fitting.items()}


def takes(info: TensorInfo, array: Array) -> bool:
    """Whether an array holds one example a row, and numbers that can become the input's without loss of meaning."""
    kind, own = kind_of_numbers(array.dtype), kind_of_numbers(info.dtype)
    as_numbers = kind == own or (kind in "iu" and own in "iu") or (kind in "biu" and own == "f")
    return as_numbers and info.takes([-1 if size is None else size for size in array.shape])


def layout(info: TensorInfo, array: Array) -> tuple[list[dict[str, Any]], list[str]] | None:
    """The steps that give an array's examples the input's shape, and what they do; None where that is not certain.

    Nothing is added, dropped or put in another order, but for channels, which come first or last.
    """
    if takes(info, array):
        return [], []
    (wanted, *_), given = info.example_shapes, array.shape[1:]
    flat = replace(array, shape=(*array.shape[:1], *wanted))
    if None in wanted or None in given or not takes(info, flat):
        return None
    axes = _channels_moved(given, wanted)
    if axes:
        return [{"transpose": axes}], [f"has its channels {'first' if axes[0] else 'last'}, so its axes are reordered"]
    missing = [axis for axis, size in enumerate(wanted) if size == 1 and given == (*wanted[:axis], *wanted[axis + 1 :])]
    if missing:
        return [{"expand_dims": missing[-1]}], []
    by_size = _core(given) == _core(wanted) or 1 in (len(given), len(wanted))
    if not by_size or math.prod(map(int, given)) != math.prod(map(int, wanted)):  # type: ignore[arg-type]
        return None
    return [{"reshape": list(wanted)}], [f"is reshaped to {list(wanted)} in the order in which it is stored"]


def both_images(info: TensorInfo, array: Array) -> bool:
    """Whether steps may make an array's examples into the input's, which nobody can tell from their shapes."""
    shapes = (info.example_shapes[0], array.shape[1:])
    numbers = kind_of_numbers(array.dtype) in "iuf" and kind_of_numbers(info.dtype) in "iuf"
    return numbers and all(len(shape) in (2, 3) and (len(shape) == 2 or shape[2] in (1, 3)) for shape in shapes)


def _channels_moved(given: Sequence[int | None], wanted: Sequence[int | None]) -> list[int] | None:
    """The order of axes that takes an image's channels, three or four, from first to last or back."""
    if len(given) != 3 or len(wanted) != 3:
        return None
    orders = [axes for axes in ([1, 2, 0], [2, 0, 1]) if [given[axis] for axis in axes] == list(wanted)]
    moved = [axes for axes in orders if (wanted[2] if axes[0] == 1 else wanted[0]) in (3, 4)]
    return moved[0] if len(moved) == 1 else None


def told(info: TensorInfo) -> str:
    """What data for an input looks like: the first axis counts examples."""
    sizes = ("?" if size is None else str(size) for size in (None, *info.example_shapes[0]))
    return f"[{', '.join(sizes)}] {info.dtype}"


def kind_of_numbers(dtype: str) -> str:
    """NumPy's letter for a kind of numbers; `O` for what is none."""
    import numpy as np

    try:
        return np.dtype(dtype).kind
    except TypeError:
        return "O"
