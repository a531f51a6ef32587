"""Every preprocessing step against the plain expression that a user would write."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tflite_guard.datasets.geometry import framing
from tflite_guard.datasets.preprocess import prepare
from tflite_guard.errors import DataError

BYTES = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3)).astype(np.uint8)
FLOATS = BYTES.astype(np.float32) / 255


def run(array, *steps):
    return prepare(array, steps, "data.npz: x")


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "float16"])
def test_cast_gives_the_type(dtype):
    result = run(BYTES, {"cast": dtype})
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, BYTES.astype(dtype))


def test_cast_and_scale_equal_the_plain_float32_expression_bit_for_bit():
    result = run(BYTES, {"cast": "float32"}, {"scale": 1 / 255})
    np.testing.assert_array_equal(result, BYTES.astype(np.float32) * np.float32(1 / 255))


@given(st.sampled_from(["scale", "offset"]), st.sampled_from(["uint8", "int32", "float16", "float32", "float64"]))
def test_scale_and_offset_keep_floats_and_turn_integers_into_float32(step, dtype):
    array = BYTES.astype(dtype)
    result = run(array, {step: 3})
    assert result.dtype == (dtype if dtype.startswith("float") else "float32")
    np.testing.assert_array_equal(result, array.astype(result.dtype) * 3 if step == "scale" else BYTES + 3.0)


def test_steps_run_in_the_order_written():
    np.testing.assert_array_equal(run(FLOATS, {"offset": 1}, {"scale": 2}), (FLOATS + np.float32(1)) * 2)
    np.testing.assert_array_equal(run(FLOATS, {"scale": 2}, {"offset": 1}), FLOATS * 2 + np.float32(1))


def test_normalize_takes_one_number_or_one_a_channel():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    result = run(FLOATS, {"normalize": {"mean": mean, "std": std}})
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, (FLOATS - np.float32(mean)) / np.float32(std))
    single = run(BYTES, {"normalize": {"mean": 127.5, "std": 127.5}})
    np.testing.assert_array_equal(single, (BYTES.astype(np.float32) - np.float32(127.5)) / np.float32(127.5))


def triangle(length, target):
    """Bilinear weights (target, length) with the filter widened when shrinking, written from its definition."""
    step = length / target
    centres = (np.arange(target) + 0.5) * step
    distances = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(step, 1)
    weights = np.maximum(0, 1 - distances)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [[3, 4], [12, 11], [6, 5]])
def test_resize_is_pillows_bilinear_filter(size):
    pillow = [np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)) for image in BYTES]
    result = run(BYTES, {"resize": size})
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, pillow)
    floats = run(FLOATS, {"resize": size})
    assert floats.dtype == np.float32
    rows, columns = triangle(6, size[0]), triangle(5, size[1])
    np.testing.assert_allclose(floats, np.einsum("yh,xw,nhwc->nyxc", rows, columns, FLOATS), atol=1e-6)
    np.testing.assert_array_equal(run(BYTES[..., 0], {"resize": size}), result[..., 0])
    assert run(BYTES.astype(np.int16), {"resize": size}).dtype == np.float32
    assert run(FLOATS.astype(np.float64), {"resize": size}).dtype == np.float64


SIZES = [
    ((48, 48), (20, 20)), ((7, 5), (13, 11)), ((13, 11), (7, 5)), ((5, 6), (5, 6)), ((5, 4), (1, 1)), ((1, 1), (3, 4)),
    ((97, 101), (33, 29)), ((31, 64), (30, 96)), ((2, 3), (200, 100)), ((2, 1000), (1, 1001)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic", "area"])
def test_resize_without_antialiasing_is_tensorflows(method, dtype):
    import tensorflow as tf

    rng = np.random.default_rng(1)
    for (height, width), size in SIZES:
        images = (rng.random((2, height, width, 3)) * 255).astype(dtype)
        expected = tf.image.resize(images, size, method=method, antialias=False).numpy()
        result = run(images, {"resize": {"size": list(size), "method": method}})
        assert result.dtype == (dtype if method == "nearest" else "float32")
        np.testing.assert_allclose(result, expected, rtol=0, atol=0 if method == "nearest" else 1e-4 * 255)


def test_resize_is_bilinear_by_default_and_antialiased_only_where_asked():
    size = [3, 2]
    plain = run(BYTES, {"resize": {"size": size, "method": "bilinear", "antialias": False}})
    np.testing.assert_array_equal(run(BYTES, {"resize": {"size": size}}), plain)
    np.testing.assert_array_equal(run(BYTES[..., 0], {"resize": {"size": size}}), plain[..., 0])
    pillow = run(BYTES, {"resize": size})
    np.testing.assert_array_equal(run(BYTES, {"resize": {"size": size, "antialias": True}}), pillow, strict=True)
    assert np.abs(plain - pillow).max() > 20


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
def test_crops_and_pads_are_tensorflows_and_keras(dtype):
    import keras
    import tensorflow as tf

    images = (np.random.default_rng(2).random((2, 7, 10, 3)) * 255).astype(dtype)
    for size in ([7, 10], [4, 4], [3, 7], [1, 1], [6, 9]):
        cropped = run(images, {"center_crop": size})
        expected = np.asarray(keras.layers.CenterCrop(*size, dtype="float32")(images.astype("float32")))
        np.testing.assert_array_equal(cropped, expected.astype(dtype), strict=True)
    for size in ([7, 10], [8, 11], [12, 10], [9, 15]):
        padded = run(images, {"pad": size})
        np.testing.assert_array_equal(padded, tf.image.resize_with_crop_or_pad(images, *size).numpy(), strict=True)
    corner = run(images[..., 0], {"pad": {"size": [8, 12], "value": 7, "at": "top_left"}})
    np.testing.assert_array_equal(corner[:, :7, :10], images[..., 0])
    assert (corner[:, 7:] == 7).all()
    assert (corner[:, :, 10:] == 7).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6), (5, 5), (480, 641), (3, 1)])
def test_letterbox_keeps_proportions_and_fills_with_grey(height, width):
    """As YOLO's training does it, by a plain loop of its own on TensorFlow's resize."""
    import tensorflow as tf

    image = (np.random.default_rng(3).random((1, height, width, 3)) * 255).astype(np.uint8)
    for size in ([8, 8], [32, 48]):
        ratio = min(size[0] / height, size[1] / width)
        inner = [round(height * ratio), round(width * ratio)]
        expected = np.full((1, *size, 3), 114.0)
        top, left = (round((whole - part) / 2 - 0.1) for whole, part in zip(size, inner, strict=True))
        expected[:, top : top + inner[0], left : left + inner[1]] = tf.image.resize(image, inner)
        result = run(image, {"letterbox": size})
        assert result.dtype == np.uint8
        assert np.abs(result - expected).max() <= 0.5 + 1e-3
        floats = run(image.astype(np.float32) / 255, {"letterbox": {"size": size, "value": 0.5, "at": "top_left"}})
        assert floats.dtype == np.float32
        assert (floats[:, inner[0] :] == 0.5).all()
        assert (floats[:, :, inner[1] :] == 0.5).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"center_crop": [7, 5]}, "smaller than [7, 5]; resize or pad it first"),
        ({"pad": [5, 5]}, "larger than [5, 5]; resize or crop it first"),
        ({"pad": {"size": [9, 9], "value": 300}}, "uint8 does not hold"),
        ({"pad": {"size": [9, 9], "at": "left"}}, "'left' is not one of 'center', 'top_left'"),
        ({"letterbox": {"size": [9, 9], "colour": 1}}, "there is no 'colour'; it takes 'size', 'value', 'at'"),
        ({"letterbox": [9]}, "needs [height, width]"),
    ],
)
def test_frames_that_do_not_fit_say_so(step, message):
    with pytest.raises(DataError, match=re.escape(message)):
        run(BYTES, step)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    canvas=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    at=st.sampled_from(["center", "top_left"]),
)
def test_a_letterboxed_image_lies_within_its_canvas_and_fills_a_side(size, canvas, at):
    found = framing("letterbox", {"size": list(canvas), "at": at}, size, "test")
    ends = [corner + side for corner, side in zip(found.corner, found.scaled, strict=True)]
    assert all(corner >= 0 for corner in found.corner)
    assert all(end <= whole for end, whole in zip(ends, canvas, strict=True))
    assert any(side == whole for side, whole in zip(found.scaled, canvas, strict=True))


def test_transpose_reorders_the_axes_of_one_example():
    result = run(BYTES, {"transpose": [2, 0, 1]})
    assert result.shape == (4, 3, 6, 5)
    assert all(result[n, c, y, x] == BYTES[n, y, x, c] for n, y, x, c in np.ndindex(BYTES.shape))
    np.testing.assert_array_equal(run(result, {"transpose": [1, 2, 0]}), BYTES)


def test_images_of_unlike_size_are_resized_one_by_one():
    images = [BYTES[0], BYTES[1, :4], BYTES[2, :, :2]]
    result = run(images, {"resize": [3, 3]}, {"scale": 2})
    for got, image in zip(result, images, strict=True):
        np.testing.assert_array_equal(got, run(image[np.newaxis], {"resize": [3, 3]}, {"scale": 2})[0])
    with pytest.raises(DataError, match=r'different shapes .*"resize"'):
        run(images, {"scale": 2})


def test_channels_rearranges_colours():
    np.testing.assert_array_equal(run(BYTES, {"channels": "rgb"}), BYTES)
    np.testing.assert_array_equal(run(BYTES, {"channels": "bgr"}), BYTES[..., [2, 1, 0]])
    grey = run(BYTES, {"channels": "grayscale"})
    np.testing.assert_array_equal(grey[..., 0], [np.asarray(Image.fromarray(image).convert("L")) for image in BYTES])
    assert grey.shape == (4, 6, 5, 1)
    np.testing.assert_array_equal(run(grey, {"channels": "grayscale"}), grey)
    np.testing.assert_array_equal(run(grey, {"channels": "rgb"}), np.repeat(grey, 3, -1))
    floats = run(FLOATS, {"channels": "grayscale"})
    np.testing.assert_allclose(floats[..., 0], FLOATS @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)
    assert floats.dtype == np.float32


def test_expand_dims_counts_the_axes_of_one_example():
    assert run(BYTES, {"expand_dims": 0}).shape == (4, 1, 6, 5, 3)
    assert run(BYTES, {"expand_dims": 3}).shape == (4, 6, 5, 3, 1)
    assert run(BYTES, {"expand_dims": -1}).shape == (4, 6, 5, 3, 1)
    assert run(BYTES, {"expand_dims": -4}).shape == (4, 1, 6, 5, 3)


def test_reshape_gives_the_shape_of_one_example():
    np.testing.assert_array_equal(run(BYTES, {"reshape": [-1, 3]}), BYTES.reshape(4, 30, 3))
    np.testing.assert_array_equal(run(BYTES, {"reshape": [90]}), BYTES.reshape(4, 90))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"scael": 2}, "no preprocessing step 'scael'; did you mean 'scale'"),
        ({"scale": 2, "offset": 1}, "exactly one key"),
        ({"scale": "2"}, "needs a number, not '2'"),
        ({"offset": True}, "needs a number"),
        ({"cast": "float33"}, "'float33' is not a type of numbers"),
        ({"cast": "str"}, "'str' is not a type of numbers"),
        ({"normalize": {"mean": 0}}, "exactly 'mean' and 'std'"),
        ({"normalize": {"mean": [0, 0], "std": 1}}, r"mean: has 2 values, but examples have shape \(6, 5, 3\)"),
        ({"normalize": {"mean": 0, "std": [1, 0, 1]}}, "std must not be zero"),
        ({"resize": [0, 3]}, "two whole numbers of at least 1"),
        ({"resize": 3}, "two whole numbers of at least 1"),
        ({"resize": {"size": [0, 3]}}, "two whole numbers of at least 1"),
        ({"resize": {"size": [3, 3], "method": "cubic"}}, "'cubic' is not one of 'bilinear', 'nearest'"),
        ({"resize": {"size": [3, 3], "method": "area", "antialias": True}}, "only for 'bilinear', not for 'area'"),
        ({"resize": {"shape": [3, 3]}}, "there is no 'shape'; it takes 'size'"),
        ({"transpose": [0, 1]}, r"needs each of \[0, 1, 2\] once, for examples of shape \(6, 5, 3\), not \[0, 1\]"),
        ({"transpose": [0, 1, 1]}, r"each of \[0, 1, 2\] once"),
        ({"transpose": 1}, r"each of \[0, 1, 2\] once"),
        ({"channels": "gbr"}, "'gbr' is not one of"),
        ({"expand_dims": 4}, "axis must lie from -4 to 3"),
        ({"reshape": [7]}, r"an example of shape \(6, 5, 3\) cannot become \[7\]"),
        ({"reshape": 7}, "a list of whole numbers"),
        ({"scale": 10**400}, r"scale: cannot be done on examples of shape \(6, 5, 3\) \(int too large"),
        ({"normalize": {"mean": 10**400, "std": 1}}, "normalize: cannot be done"),
        ({"resize": [10**30, 3]}, "resize: cannot be done"),
        ({"cast": ",,,"}, "',,,' is not a type of numbers"),
    ],
)
def test_a_step_that_does_not_fit_names_itself_and_the_data(step, message):
    with pytest.raises(DataError, match=message) as caught:
        run(BYTES, step)
    assert str(caught.value).startswith("data.npz: x")


def test_more_axes_than_numpy_has_are_refused():
    with pytest.raises(DataError, match=r"expand_dims: cannot be done on examples of shape \(1, .*64"):
        run(BYTES, *[{"expand_dims": 0}] * 70)


def test_images_of_a_wrong_shape_are_refused():
    with pytest.raises(DataError, match=r"resize: needs images .* not \(5,\)"):
        run(np.ones((3, 5)), {"resize": [2, 2]})
    with pytest.raises(DataError, match="channels: needs images whose last axis"):
        run(np.ones((3, 5, 4, 4)), {"channels": "bgr"})


def test_what_is_not_finite_cannot_become_an_integer():
    with pytest.raises(DataError, match="cast: NaN or infinity cannot become int8"):
        run(np.array([[np.nan]]), {"cast": "int8"})
