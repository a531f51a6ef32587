"""A user's function as a source runs only when it is allowed, and what it gives is checked."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tflite_guard.errors import DataError

MODULE = """
import numpy as np
from {name}_helper import SIZE
def arrays():
    return {{"x": np.arange(SIZE * 2).reshape(SIZE, 2), "y": list(range(SIZE))}}
def examples():
    for i in range(SIZE):
        yield {{"x": np.full((2,), i, ">f4"), "y": i}}
def ragged():
    return [{{"x": np.ones(i + 1)}} for i in range(SIZE)]
def breaks():
    raise KeyError("broken")
def breaks_later():
    yield {{"x": 1}}
    raise KeyError("later")
def number():
    return 3
def numbers():
    return [3]
def short():
    return {{"x": np.ones(3), "y": np.ones(2)}}
once = iter([{{"x": 1}}, {{"x": 2}}])
def spent():
    return once
def objects():
    return [{{"x": {{}}}}]
"""


@pytest.fixture
def source(tmp_path, monkeypatch, request):
    """Writes the module under a name of its own; gives a function to open one of its functions."""
    name = f"user_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    (tmp_path / f"{name}_helper.py").write_text("SIZE = 7\n")
    before = list(sys.path)
    yield lambda function: {"path": f"{name}:{function}", "root": str(tmp_path), "allow_code": True}
    assert sys.path == before
    for module in (name, f"{name}_helper"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_arrays_and_examples_are_read_alike(source, opened, whole, size):
    batch = whole(opened("python", **source("arrays"), labels="y"), size)
    np.testing.assert_array_equal(batch.inputs["image"], np.arange(14).reshape(7, 2))
    streamed = whole(opened("python", **source("examples"), labels="y"), size)
    np.testing.assert_array_equal(streamed.inputs["image"], np.repeat(np.arange(7.0)[:, None], 2, 1))
    assert streamed.inputs["image"].dtype == np.dtype("f4")
    np.testing.assert_array_equal(streamed.labels[""], batch.labels[""])


def test_no_code_runs_unless_it_is_allowed(source, opened, tmp_path):
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError, match=r"trap:f: .* --allow-code"):
        opened("python", "trap:f", root=str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("breaks", "the function failed with KeyError: 'broken'"),
        ("breaks_later", "the function failed with KeyError: 'later'"),
        ("number", "must return a mapping or an iterable of mappings, not int"),
        ("numbers", "example 0 is not a mapping but int"),
        ("nothing", "has no function 'nothing'"),
        ("short", "x: 3, y: 2"),
        ("objects", "example 0: x: is not a plain array of numbers"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(source, opened, function, message):
    with pytest.raises(DataError, match=message):
        opened("python", **source(function), labels="y" if function == "short" else None)


def test_a_module_that_is_not_there_is_named(opened, tmp_path):
    with pytest.raises(DataError, match=r"absent_module:f: .*No module named 'absent_module'"):
        opened("python", "absent_module:f", root=str(tmp_path), allow_code=True)
    with pytest.raises(DataError, match=r"write it as package\.module:function"):
        opened("python", "absent_module", root=str(tmp_path), allow_code=True)


def test_examples_of_unlike_shape_and_iterators_that_run_dry_are_errors(source, opened, whole):
    with pytest.raises(DataError, match="different shapes"):
        whole(opened("python", **source("ragged")))
    with pytest.raises(DataError, match="gave fewer examples"):
        whole(opened("python", **source("spent")))


def test_a_function_that_gives_fewer_examples_later_is_an_error(opened, tmp_path):
    (tmp_path / "shrinking.py").write_text("sizes = iter([4, 4, 3])\ndef f():\n    return [{'x': 1.0}] * next(sizes)\n")
    dataset = opened("python", "shrinking:f", root=str(tmp_path), allow_code=True)
    with pytest.raises(DataError, match=r"gave fewer examples than when it was opened \(4\)"):
        list(dataset.batches(2))
    sys.modules.pop("shrinking")
