from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tflite_guard.engine import feeds
from tflite_guard.errors import DataError
from tflite_guard.protocol import Names, TensorInfo


@pytest.mark.parametrize(
    ("shape", "data", "tensor"),
    [
        ((None, 4), (3, 4), (1, 4)),
        ((1, 4), (3, 4), (1, 4)),
        ((None,), (3,), (1,)),
        ((None,), (3, 700), (700,)),
        ((), (3,), ()),
        ((5360,), (3, 5360), (5360,)),
        ((6, 4), (3, 6, 4), (6, 4)),
        ((6, 4), (3, 4), (6, 4)),
        ((None, None, 2), (3, 7, 2), (1, 7, 2)),
    ],
)
def test_what_an_example_is_follows_from_the_inputs_shape(shape: Any, data: Any, tensor: Any) -> None:
    info = TensorInfo(shape, "float32")
    values = np.random.default_rng(0).normal(size=data)
    rows = feeds.examples("x", info, values)
    assert rows.dtype == np.float32
    taken = feeds.alone(info, rows, 1)
    assert taken.shape == tensor
    np.testing.assert_array_equal(taken, np.broadcast_to(values[1].astype("float32"), tensor))
    [calibrated] = feeds.calibration_examples([{"x": values[1:2]}], {"x": info}, None)
    np.testing.assert_array_equal(calibrated["x"], taken)


@pytest.mark.parametrize(
    ("shape", "data"),
    [((5360,), (5360,)), ((5360,), (3, 5359)), ((1, 4), (3, 1, 4)), ((6, 4), (3, 6)), ((), (3, 1)), ((None, 4), (3,))],
)
def test_other_data_is_refused(shape: Any, data: Any) -> None:
    with pytest.raises(DataError, match="input x: the model takes"):
        feeds.examples("x", TensorInfo(shape, "float32"), np.zeros(data, "float32"))


def test_one_waveform_is_not_taken_for_single_numbers() -> None:
    with pytest.raises(DataError, match=r"takes \[\?, 5360\] and the data is \[\?\].*save it as \(n, 5360\)"):
        feeds.examples("wave", TensorInfo((5360,), "float32"), np.zeros(5360, "float32"))


def test_batches_in_place_of_examples_are_told_as_what_they_are() -> None:
    with pytest.raises(DataError, match=r"16 examples in place of each, as batches have; give the examples one by one"):
        feeds.examples("image", TensorInfo((None, 8, 8, 1), "float32"), np.zeros((3, 16, 8, 8, 1), "float32"))


def test_names_aliases_and_places_lead_to_canonical_names() -> None:
    info = TensorInfo((None,), "float32")
    names = Names({"a": info, "#1": info}, {"y": info}, {"layer": "a"}, {"key": "y"})
    assert [names.input(name) for name in ("a", "layer", "#0", "#1", "#2", "b")] == ["a", "a", "a", "#1", "#2", "b"]
    assert [names.output(name) for name in ("y", "key", "#0", "layer")] == ["y", "y", "y", "layer"]
