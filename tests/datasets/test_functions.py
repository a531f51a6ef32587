"""A user's function as a source runs only when it is allowed, and what it gives is checked."""

from __future__ import annotations

import os
import sys
import types

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
def nothing_between():
    return [{{"x": 1}}, None, {{"x": 3}}]
def short():
    return {{"x": np.ones(3), "y": np.ones(2)}}
def beside():
    return {{"x": np.load("beside.npy")}}
def beside_later():
    for row in np.load("beside.npy"):
        yield {{"x": row}}
def leaves():
    raise SystemExit("done")
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
        ("breaks", r"the function failed with KeyError: 'broken' \(at user_\d+\.py:12, in breaks\)"),
        ("breaks_later", r"the function failed with KeyError: 'later' \(at user_\d+\.py:15, in breaks_later\)"),
        ("leaves", r"the function failed with SystemExit: done \(at user_\d+\.py:"),
        ("number", "must return a mapping or an iterable of mappings, not int"),
        (
            "numbers",
            r"example 0 \(from 0\) is of type int; give a dictionary for each example, by the keys .* such as 'x'",
        ),
        ("nothing_between", r"example 1 \(from 0\) is of type NoneType; give a dictionary for each example"),
        ("nothing", "has no function 'nothing'"),
        ("short", "x: 3, y: 2"),
        ("objects", r"example 0 \(from 0\): x: is not a plain array of numbers"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(source, opened, function, message):
    with pytest.raises(DataError, match=message):
        opened("python", **source(function), labels="y" if function == "short" else None)


@pytest.mark.parametrize("function", ["beside", "beside_later"])
def test_relative_paths_are_of_the_manifests_folder(source, opened, whole, tmp_path, function):
    np.save(tmp_path / "beside.npy", np.arange(6.0).reshape(3, 2))
    before = os.getcwd()
    batch = whole(opened("python", **source(function)))
    np.testing.assert_array_equal(batch.inputs["image"], [[0, 1], [2, 3], [4, 5]])
    assert os.getcwd() == before


class BatchDataset:
    """As far as it is looked at, what tf.data.Dataset.batch gives; MapDataset and the others stand behind it."""

    element_spec = None

    def __init__(self, records, *before):
        self._records, self._before = records, before

    def _inputs(self):
        return list(self._before)

    def __iter__(self):
        return iter(self._records)


class MapDataset(BatchDataset):
    pass


class UnbatchDataset(BatchDataset):
    pass


BATCHES = [{"x": np.arange(4.0).reshape(2, 2), "y": np.array([0, 1])}, {"x": np.full((1, 2), 9.0), "y": np.array([2])}]


def test_a_batched_tf_dataset_gives_its_examples(opened, whole, tmp_path, monkeypatch):
    given = MapDataset(BATCHES, BatchDataset(()))
    monkeypatch.setitem(sys.modules, "user_batches", types.SimpleNamespace(load=lambda: given))
    batch = whole(opened("python", "user_batches:load", root=str(tmp_path), allow_code=True, labels="y"))
    np.testing.assert_array_equal(batch.inputs["image"], [[0, 1], [2, 3], [9, 9]])
    np.testing.assert_array_equal(batch.labels[""], [0, 1, 2])


@pytest.mark.parametrize("before", [(), (UnbatchDataset((), BatchDataset(())),)])
def test_an_element_of_another_tf_dataset_is_an_example(opened, whole, tmp_path, monkeypatch, before):
    given = MapDataset(BATCHES[:1], *before)
    monkeypatch.setitem(sys.modules, "user_examples", types.SimpleNamespace(load=lambda: given))
    batch = whole(opened("python", "user_examples:load", root=str(tmp_path), allow_code=True))
    assert batch.inputs["image"].shape == (1, 2, 2)


def test_batches_of_unlike_size_are_told_as_what_they_are(opened, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "user_lists", types.SimpleNamespace(load=lambda: list(BATCHES)))
    with pytest.raises(DataError, match=r"\(1, 2\), \(2, 2\).*if these are batches, give the examples one by one"):
        whole(opened("python", "user_lists:load", root=str(tmp_path), allow_code=True))


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
