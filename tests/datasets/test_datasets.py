"""What holds for every source: binding by name, limit, labels, groups, and values that cannot be used."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_guard.datasets import open_dataset
from tflite_guard.datasets.sources import select
from tflite_guard.errors import DataError, NamingError
from tflite_guard.manifest.types import DatasetSpec, FileSpec


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_several_inputs_and_outputs_are_bound_by_name(npz, opened):
    path = npz(a=np.zeros((4, 2)), b=np.ones((4, 3)), y=np.arange(4), z=np.arange(4) * 2)
    dataset = opened("npz", path, {"right": "b", "left": "a"}, ["left", "right"], labels={"one": "y", "two": "z"})
    (batch,) = dataset.batches(4)
    assert list(batch.inputs) == ["left", "right"]
    assert batch.inputs["left"].shape == (4, 2)
    assert batch.inputs["right"].shape == (4, 3)
    np.testing.assert_array_equal(batch.labels["two"], [0, 2, 4, 6])


def test_one_key_serves_one_input_and_one_output(npz, opened, whole):
    batch = whole(opened("npz", npz(x=np.ones((5, 2)), y=np.arange(5)), labels="y"))
    assert list(batch.inputs) == ["image"]
    np.testing.assert_array_equal(batch.labels[""], np.arange(5))


@pytest.mark.parametrize(
    ("inputs", "names", "message"),
    [
        ("x", ["a", "b"], "map each of the model's inputs to a key: 'a', 'b'"),
        ({"imgae": "x"}, ["image"], "no input 'imgae'; did you mean 'image'"),
        ({"image": "x"}, ["image", "mask"], "the model's input 'mask' has no key"),
        ("pixel", ["image"], "no array 'pixel'; did you mean 'pixels'"),
    ],
)
def test_a_name_that_does_not_match_is_named_with_near_ones(npz, opened, inputs, names, message):
    path = npz(x=np.ones((2, 2)), pixels=np.ones((2, 2)))
    with pytest.raises((DataError, NamingError), match=message):
        opened("npz", path, inputs, names)


def test_labels_are_left_out_when_they_are_not_asked_for(npz, opened):
    dataset = opened("npz", npz(x=np.ones((2, 2)), y=np.array([np.nan, 0])), labels="y")
    (batch,) = dataset.batches(2, with_labels=False)
    assert batch.labels == {}
    assert batch.groups is None


@pytest.mark.parametrize("groups", [np.array([1, 1, 2]), np.array(["a", "a", "b"]), np.array([b"a", b"a", b"b"])])
def test_groups_come_with_the_batch(npz, opened, whole, groups):
    batch = whole(opened("npz", npz(x=np.ones((3, 2)), g=groups), group="g"))
    assert [str(group) for group in batch.groups] == [g.decode() if isinstance(g, bytes) else str(g) for g in groups]


@pytest.mark.parametrize("groups", [np.array([0.5, 1, 2]), np.ones((3, 1), int)])
def test_a_group_is_one_integer_or_string(npz, opened, whole, groups):
    with pytest.raises(DataError, match="g: a group must be one integer, boolean or string"):
        whole(opened("npz", npz(x=np.ones((3, 2)), g=groups), group="g"))


@pytest.mark.parametrize(
    "values",
    [np.array([1, 1, 2]), np.array(["a", "a", "b"]), np.array([b"a", b"a", b"b"]), np.array([True, False, True])],
)
def test_slices_come_with_the_batch_and_with_no_labels_not(npz, opened, values):
    dataset = opened("npz", npz(x=np.ones((3, 2)), g=values, h=np.arange(3)), slices=("g", "h"))
    (batch,) = dataset.batches(3)
    wanted = np.char.decode(values) if values.dtype.kind == "S" else values
    assert {key: found.tolist() for key, found in batch.slices.items()} == {"g": wanted.tolist(), "h": [0, 1, 2]}
    (plain,) = dataset.batches(3, with_labels=False)
    assert plain.slices == {}


@pytest.mark.parametrize("values", [np.array([0.5, 1, 2]), np.ones((3, 1), int)])
def test_a_slice_is_one_integer_boolean_or_string(npz, opened, values):
    with pytest.raises(DataError, match="g: a slice must be one integer, boolean or string for each example"):
        list(opened("npz", npz(x=np.ones((3, 2)), g=values), slices=("g",)).batches(3))


@given(n=st.integers(1, 200), limit=st.integers(1, 250), seed=st.integers(0, 2**31))
def test_limit_takes_a_random_subset_in_the_order_of_the_source(n, limit, seed):
    plain = np.sort(np.random.default_rng(seed).choice(n, limit, replace=False)) if limit < n else np.arange(n)
    np.testing.assert_array_equal(np.asarray(select(n, limit, seed)), plain)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_is_an_error_with_its_place_in_the_source(npz, opened, whole, bad):
    x = np.ones((10, 2), np.float32)
    x[7, 1] = bad
    with pytest.raises(DataError, match=r"data\.npz: x: example 7 "):
        whole(opened("npz", npz(x=x)))
    x[np.setdiff1d(np.arange(10), select(10, 4, 1))] = np.nan
    x[select(10, 4, 1)] = 1
    x[select(10, 4, 1)[2], 0] = bad
    with pytest.raises(DataError, match=f"example {select(10, 4, 1)[2]} "):
        whole(opened("npz", npz(x=x), limit=4, seed=1))


def test_a_value_that_overflows_in_preprocessing_is_an_error(npz, opened, whole):
    steps = ({"cast": "float16"}, {"scale": 1000})
    with pytest.raises(DataError, match=r"example 1 .* after preprocessing"):
        whole(opened("npz", npz(x=np.array([[1.0], [100.0]])), preprocess=steps))


def test_a_label_that_is_not_finite_is_an_error(npz, opened, whole):
    with pytest.raises(DataError, match="y: example 2 "):
        whole(opened("npz", npz(x=np.ones((3, 2)), y=np.array([1, 2, np.nan])), labels="y"))


@pytest.mark.parametrize("values", [np.array(["a", "b"]), np.array([1j, 2j]), np.zeros(2, "datetime64[s]")])
def test_inputs_must_be_numbers(npz, opened, whole, values):
    with pytest.raises(DataError, match="x: must hold numbers"):
        whole(opened("npz", npz(x=values)))


def test_no_examples_is_an_error(npz, opened):
    with pytest.raises(DataError, match="holds no examples"):
        opened("npz", npz(x=np.ones((0, 2))))


def test_preprocessing_may_differ_between_inputs(npz, opened):
    path = npz(a=np.ones((2, 2), np.uint8), b=np.ones((2, 2), np.uint8))
    dataset = opened("npz", path, {"a": "a", "b": "b"}, ["a", "b"], preprocess={"b": ({"scale": 3},)})
    (batch,) = dataset.batches(2)
    assert batch.inputs["a"].dtype == np.uint8
    np.testing.assert_array_equal(batch.inputs["b"], np.full((2, 2), 3, np.float32))
    with pytest.raises(NamingError, match="'preprocess' names no input of the model: 'c'"):
        opened("npz", path, {"a": "a", "b": "b"}, ["a", "b"], preprocess={"c": ()})


def test_a_tfrecord_without_tensorflow_says_what_to_install(tmp_path):
    spec = DatasetSpec("test", "tfrecord", FileSpec(str(tmp_path / "a.tfrecord")), "x", features={"x": {}})
    with pytest.raises(DataError, match=r"pip install 'tflite-guard\[tensorflow\]'"):
        open_dataset(spec, ["image"])


def test_reading_arrays_loads_no_heavy_library(npz):
    script = (
        "import sys; from tflite_guard.datasets import open_dataset;"
        "from tflite_guard.manifest.types import DatasetSpec, FileSpec;"
        "next(open_dataset(DatasetSpec('d', 'npz', FileSpec(sys.argv[1]), 'x'), ['image']).batches(2));"
        "print(*{'tensorflow', 'scipy', 'PIL', 'ai_edge_litert', 'keras'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(npz(x=np.ones((2, 2))))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_every_source_gives_its_examples_in_blocks_of_another_order(opened, tmp_path):
    x, y = np.arange(20, dtype=np.float32), np.arange(20) * 10
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
    np.save(tmp_path / "a.npy", x)
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in zip(x, y, strict=True)))
    (tmp_path / "in_blocks_source.py").write_text(
        "def rows():\n    for i in range(20):\n        yield {'x': i, 'y': i * 10}\n"
    )
    blocks = [np.array([2, 7, 19]), np.array([0, 1]), np.setdiff1d(np.arange(20), [2, 7, 19, 0, 1])]
    order = np.concatenate(blocks)
    python = {"path": "in_blocks_source:rows", "root": str(tmp_path), "allow_code": True}
    for source, options in (
        ("npz", {"path": tmp_path / "a.npz", "labels": "y"}),
        ("npy", {"path": tmp_path / "a.npy"}),
        ("csv", {"path": tmp_path / "a.csv", "labels": "y"}),
        ("python", {**python, "labels": "y"}),
    ):
        dataset = opened(source, **options).in_blocks(blocks)
        batches = list(dataset.batches(2))
        assert dataset.examples == 20
        # No batch holds examples of two blocks, whatever their lengths.
        assert [batch.start for batch in batches] == [0, 2, 3, *range(5, 20, 2)]
        np.testing.assert_array_equal(np.concatenate([b.inputs["image"].reshape(-1) for b in batches]), x[order])
        np.testing.assert_array_equal(dataset.rows, order)
        if "labels" in options:
            np.testing.assert_array_equal(np.concatenate([b.labels[""] for b in batches]), y[order])
    limited = opened("npz", tmp_path / "a.npz", limit=5, seed=1)
    shuffled = limited.in_blocks([np.array([3]), np.array([0, 1, 2, 4])])
    assert list(shuffled.rows) == [limited.rows[place] for place in (3, 0, 1, 2, 4)]
