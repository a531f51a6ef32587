"""The preprocessing steps of a manifest, on batches: arrays whose first axis counts examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tflite_guard.datasets.geometry import GREY, Framing, framing, target
from tflite_guard.datasets.resampling import METHODS, resample
from tflite_guard.datasets.sources import Array, Column, near, require_numbers
from tflite_guard.errors import DataError

Step = Mapping[str, Any]


def prepare(column: Column, steps: Sequence[Step], where: str) -> Array:
    """Applies `steps` in order and returns one array (n, ...).

    A list of examples of unlike shapes is prepared one by one and must be alike afterwards. `where` names
    the data in messages. Raises DataError when a step does not fit the data.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite afterwards is an error with its place
        if isinstance(column, list):
            return _stack([_apply(example[np.newaxis], steps, where) for example in column], where)
        return _apply(column, steps, where)


def _stack(prepared: Sequence[Array], where: str) -> Array:
    shapes = {array.shape[1:] for array in prepared}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes, key=str)[:4])
        images = all(len(shape) in (2, 3) for shape in shapes)
        advice = 'add a step such as {"resize": [96, 96]}' if images else "give all of them the same shape"
        if len({shape[1:] for shape in shapes}) == 1 and all(shapes):
            advice += "; if these are batches, give the examples one by one"
        raise DataError(f"{where}: examples have different shapes ({listed}); {advice}")
    return np.concatenate(prepared)


def _apply(array: Array, steps: Sequence[Step], where: str) -> Array:
    require_numbers(array, where)
    for step in steps:
        if len(step) != 1:
            raise DataError(f"{where}: a preprocessing step has exactly one key, this one has {len(step)}: {step}")
        ((name, argument),) = step.items()
        if name not in STEPS:
            raise DataError(f"{where}: there is no preprocessing step {name!r}{near(name, STEPS)}")
        shape = array.shape[1:]
        try:
            array = STEPS[name](array, argument, f"{where}: {name}")
        # What NumPy and Pillow say to numbers beyond measure and to more than 64 axes.
        except (ValueError, OverflowError, TypeError, SyntaxError) as error:
            raise DataError(f"{where}: {name}: cannot be done on examples of shape {shape} ({error})") from error
    return array


def cast(array: Array, dtype: Any, where: str) -> Array:
    """NumPy's `astype`: floats lose their fraction when they become integers.

    NaN or infinity cannot become an integer: DataError.
    """
    try:
        target = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise DataError(f"{where}: {dtype!r} is not a type of numbers; use one such as float32") from error
    if target.kind not in "biuf":
        raise DataError(f"{where}: {dtype!r} is not a type of numbers; use one such as float32")
    if array.dtype.kind == "f" and target.kind in "iu" and not np.isfinite(array).all():
        raise DataError(f"{where}: NaN or infinity cannot become {target}")
    return array.astype(target)


def scale(array: Array, factor: Any, where: str) -> Array:
    """Multiplies. Floats keep their type, integers become float32."""
    values = _floating(array, where)
    scaled: Array = values * _number(factor, values.dtype, where)
    return scaled


def offset(array: Array, amount: Any, where: str) -> Array:
    """Adds. Floats keep their type, integers become float32."""
    values = _floating(array, where)
    moved: Array = values + _number(amount, values.dtype, where)
    return moved


def normalize(array: Array, argument: Any, where: str) -> Array:
    """(x - mean) / std, each one number or one per channel of the last axis. Integers become float32."""
    if not isinstance(argument, Mapping) or set(argument) != {"mean", "std"}:
        raise DataError(f"{where}: needs exactly 'mean' and 'std'")
    values = _floating(array, where)
    mean, std = (_per_channel(argument[key], values, f"{where}: {key}") for key in ("mean", "std"))
    if not np.all(std):
        raise DataError(f"{where}: std must not be zero")
    return (values - mean) / std


def resize(array: Array, argument: Any, where: str) -> Array:
    """Resizes images (n, h, w) or (n, h, w, channels).

    [height, width] is Pillow's bilinear filter, which widens when it shrinks an image (antialiasing): uint8 stays
    uint8, rounded after each direction; floats are computed in float32 and keep their type; other integers become
    float32. {"size": [height, width], "method": …} is tf.image.resize, float32 except that `nearest` keeps the type.
    With "antialias": true, which is for `bilinear` alone, it is Pillow's filter again.
    """
    size, method = _resizing(argument, where)
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise DataError(f"{where}: needs images of shape (h, w) or (h, w, channels), not {array.shape[1:]}")
    planes = array[..., np.newaxis] if array.ndim == 3 else array
    resized = _antialiased(planes, size, where) if method is None else resample(planes, size, method)
    return resized[..., 0] if array.ndim == 3 else resized


def center_crop(array: Array, size: Any, where: str) -> Array:
    """Cuts [height, width] out of the middle of images (n, h, w) or (n, h, w, channels), as keras.layers.CenterCrop."""
    found = _framed(array, "center_crop", size, where)
    (top, left), (height, width) = found.corner, found.canvas
    return array[:, -top : height - top, -left : width - left]


def pad(array: Array, argument: Any, where: str) -> Array:
    """Puts images (n, h, w) or (n, h, w, channels) on a canvas, as tf.image.resize_with_crop_or_pad.

    [height, width], or {"size": [height, width], "value": 0, "at": "center" or "top_left"}.
    """
    _require_options(argument, ("size", "value", "at"), where)
    return _on_canvas(array, _framed(array, "pad", argument, where), argument, 0, where)


def letterbox(array: Array, argument: Any, where: str) -> Array:
    """Resizes images as far as they fit, keeping their proportions, and fills the rest, as YOLO does.

    [height, width], or {"size": [height, width], "value": 114, "at": "center" or "top_left", "method": "bilinear",
    "antialias": false}. Images (n, h, w) or (n, h, w, channels); uint8 stays uint8, rounded.
    """
    _require_options(argument, ("size", "value", "at", "method", "antialias"), where)
    found = _framed(array, "letterbox", argument, where)
    how = {key: argument[key] for key in ("method", "antialias") if key in argument} if _is_object(argument) else {}
    resized = resize(array, {"size": list(found.scaled), **how}, where)
    if array.dtype == np.uint8:
        resized = np.rint(resized).astype(np.uint8)
    return _on_canvas(resized, found, argument, GREY, where)


def _framed(array: Array, name: str, argument: Any, where: str) -> Framing:
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise DataError(f"{where}: needs images of shape (h, w) or (h, w, channels), not {array.shape[1:]}")
    return framing(name, argument, (array.shape[1], array.shape[2]), where)


def _on_canvas(array: Array, found: Framing, argument: Any, default: int, where: str) -> Array:
    value = argument.get("value", default) if _is_object(argument) else default
    if array.dtype.kind != "f" and not (value % 1 == 0 and np.can_cast(np.min_scalar_type(int(value)), array.dtype)):
        raise DataError(f"{where}: {array.dtype} does not hold the value {value}; cast the images first")
    result = np.full((len(array), *found.canvas, *array.shape[3:]), _number(value, array.dtype, where))
    (top, left), (height, width) = found.corner, found.scaled
    result[:, top : top + height, left : left + width] = array
    return result


def _is_object(argument: Any) -> bool:
    return isinstance(argument, Mapping)


def _require_options(argument: Any, known: Sequence[str], where: str) -> None:
    unknown = set(argument) - set(known) if _is_object(argument) else set()
    if unknown:
        raise DataError(f"{where}: there is no {min(unknown)!r}; it takes {', '.join(map(repr, known))}")


def _resizing(argument: Any, where: str) -> tuple[tuple[int, int], str | None]:
    """(height, width), and the method without antialiasing; None is Pillow's bilinear filter, with it."""
    written = argument if isinstance(argument, Mapping) else {"size": argument, "antialias": True}
    _require_options(written, ("size", "method", "antialias"), where)
    size = target(written, where)
    method, antialias = written.get("method", "bilinear"), written.get("antialias", False)
    if method not in METHODS:
        raise DataError(f"{where}: {method!r} is not one of {', '.join(map(repr, METHODS))}")
    if antialias and method != "bilinear":
        raise DataError(f"{where}: antialiasing is only for 'bilinear', not for {method!r}")
    return size, None if antialias else method


def _antialiased(images: Array, size: tuple[int, int], where: str) -> Array:
    """Images (n, h, w, channels) through Pillow's bilinear filter."""
    from PIL import Image

    exact = images.dtype == np.uint8
    source = np.ascontiguousarray(images if exact else _floating(images, where).astype(np.float32))
    result = np.empty((len(source), *size, source.shape[-1]), source.dtype)
    for image, resized in zip(source, result, strict=True):
        for channel in range(source.shape[-1]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            resized[..., channel] = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR))
    return result.astype(images.dtype, copy=False) if images.dtype.kind == "f" else result


def channels(array: Array, order: Any, where: str) -> Array:
    """Rearranges the colours of RGB or one-channel images (..., 3 or 1).

    `rgb` repeats a single channel, `bgr` also reverses the three, `grayscale` gives the luma of ITU-R BT.601
    with the channel axis kept at 1. uint8 luma is rounded as Pillow rounds it.
    """
    if order not in ("rgb", "bgr", "grayscale"):
        raise DataError(f"{where}: {order!r} is not one of 'rgb', 'bgr', 'grayscale'")
    if array.ndim < 3 or array.shape[-1] not in (1, 3):
        raise DataError(f"{where}: needs images whose last axis is 1 or 3 channels, not shape {array.shape[1:]}")
    if order == "grayscale":
        return array if array.shape[-1] == 1 else _luma(array, where)[..., np.newaxis]
    colours = np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array
    return colours[..., ::-1] if order == "bgr" else colours


def expand_dims(array: Array, axis: Any, where: str) -> Array:
    """Adds an axis of 1 to each example. `axis` does not count the batch: 0 is an example's first, -1 its last."""
    places = array.ndim
    if not _is_whole(axis) or not -places <= axis < places:
        raise DataError(
            f"{where}: axis must lie from {-places} to {places - 1} for examples of shape {array.shape[1:]}"
        )
    return np.expand_dims(array, axis + 1 if axis >= 0 else axis)


def reshape(array: Array, shape: Any, where: str) -> Array:
    """Gives each example a shape, in C order; one -1 stands for what remains."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or not all(_is_whole(size) for size in shape):
        raise DataError(f"{where}: needs a list of whole numbers, the shape of one example, not {shape!r}")
    try:
        # An example by itself decides what -1 is, so that an empty batch cannot make it ambiguous.
        target = np.empty(array.shape[1:], np.bool_).reshape(tuple(shape)).shape
        return array.reshape((len(array), *target))
    except ValueError as error:
        raise DataError(f"{where}: an example of shape {array.shape[1:]} cannot become {list(shape)}") from error


def transpose(array: Array, axes: Any, where: str) -> Array:
    """Reorders the axes of each example, which count from 0 without the batch: [2, 0, 1] puts channels first."""
    places = list(range(array.ndim - 1))
    if not isinstance(axes, list | tuple) or not all(map(_is_whole, axes)) or sorted(axes) != places:
        raise DataError(f"{where}: needs each of {places} once, for examples of shape {array.shape[1:]}, not {axes!r}")
    return array.transpose(0, *(axis + 1 for axis in axes))


STEPS: dict[str, Callable[[Array, Any, str], Array]] = {
    "cast": cast,
    "scale": scale,
    "offset": offset,
    "normalize": normalize,
    "resize": resize,
    "center_crop": center_crop,
    "pad": pad,
    "letterbox": letterbox,
    "channels": channels,
    "expand_dims": expand_dims,
    "reshape": reshape,
    "transpose": transpose,
}


def _luma(array: Array, where: str) -> Array:
    """0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); for uint8 in Pillow's 16-bit fixed point."""
    if array.dtype == np.uint8:
        red, green, blue = (array[..., index].astype(np.uint32) for index in range(3))
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
    values = _floating(array, where)
    luma: Array = values @ np.array([0.299, 0.587, 0.114], values.dtype)
    return luma


def _floating(array: Array, where: str) -> Array:
    if array.dtype.kind == "f":
        return array
    if array.dtype.kind in "biu":
        return array.astype(np.float32)
    raise DataError(f"{where}: needs numbers, not {array.dtype}")


def _number(value: Any, dtype: np.dtype[Any], where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: needs a number, not {value!r}")
    return dtype.type(value)


def _per_channel(value: Any, array: Array, where: str) -> Array:
    numbers: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    result = np.array([_number(number, array.dtype, where) for number in numbers], array.dtype)
    if array.ndim < 2 or len(result) not in (1, array.shape[-1]):
        raise DataError(f"{where}: has {len(result)} values, but examples have shape {array.shape[1:]}")
    return result


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
