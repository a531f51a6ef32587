"""Where steps that resize, crop and pad put an image, and the boxes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tflite_guard.datasets.sources import Array
from tflite_guard.errors import DataError

PLACES = ("center", "top_left")
GREY = 114
"""What the letterbox of YOLO's training and exports fills with."""


class Framing(NamedTuple):
    """An image of one size is scaled to another, then laid on a canvas (or cut by it) with its corner somewhere."""

    scaled: tuple[int, int]
    """Height and width of the image itself, before it is laid on the canvas."""
    corner: tuple[int, int]
    """Row and column of its first pixel on the canvas; below zero where it is cut."""
    canvas: tuple[int, int]


def framing(name: str, argument: Any, size: tuple[int, int], where: str) -> Framing:
    """What `center_crop`, `pad` or `letterbox` does to images (height, width). Raises DataError where it cannot be."""
    canvas = target(argument, where)
    if name == "center_crop":
        if canvas[0] > size[0] or canvas[1] > size[1]:
            raise DataError(f"{where}: an image of {list(size)} is smaller than {list(canvas)}; resize or pad it first")
        # As keras.layers.CenterCrop: what is left over goes to the end.
        return Framing(size, (-((size[0] - canvas[0]) // 2), -((size[1] - canvas[1]) // 2)), canvas)
    scaled = size
    if name == "letterbox":
        ratio = min(canvas[0] / size[0], canvas[1] / size[1])
        scaled = (max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio)))
    elif canvas[0] < size[0] or canvas[1] < size[1]:
        raise DataError(f"{where}: an image of {list(size)} is larger than {list(canvas)}; resize or crop it first")
    free = (canvas[0] - scaled[0], canvas[1] - scaled[1])
    at = _option(argument, "at", "center")
    if at not in PLACES:
        raise DataError(f"{where}: {at!r} is not one of {', '.join(map(repr, PLACES))}")
    return Framing(scaled, (free[0] // 2, free[1] // 2) if at == "center" else (0, 0), canvas)


FRAMED = ("center_crop", "pad", "letterbox")


def boxes_after(steps: Sequence[Mapping[str, Any]], boxes: Array, size: tuple[int, int], where: str) -> Array:
    """Boxes (k, 4 and more) in pixels of an image (height, width) as fractions of what preprocessing makes of it.

    The first four values are xmin, ymin, xmax, ymax. Boxes are cut at the image's edges; what lies beyond is left out.
    Raises DataError for steps that boxes cannot follow.
    """
    corners, turned = _cut(boxes[:, :4], size), False
    for step in steps:
        ((name, argument),) = step.items()
        place = f"{where}: {name}"
        if name == "reshape":
            raise DataError(f"{place}: boxes cannot follow it; use resize, center_crop, pad or letterbox")
        turned = turned or name == "transpose"
        if name == "transpose" and [axis for axis in argument if axis in (0, 1)] != [0, 1]:
            raise DataError(f"{place}: boxes cannot follow an image whose height and width change places")
        if name != "resize" and name not in FRAMED:
            continue
        if turned:
            raise DataError(f"{place}: boxes cannot follow it after transpose; put it before")
        after = target(argument, place)
        found = Framing(after, (0, 0), after) if name == "resize" else framing(name, argument, size, place)
        ratio, corner = np.divide(found.scaled, size)[::-1], np.array(found.corner)[::-1]
        size = found.canvas
        # After each step: what a crop has cut off does not come back in what a pad lays around it.
        corners = _cut(corners * np.tile(ratio, 2) + np.tile(corner, 2), size)
    beyond = (corners[:, 2:] <= corners[:, :2]).any(1) & (boxes[:, 2:4] > boxes[:, :2]).all(1)
    return np.asarray(np.concatenate([corners / np.tile(size[::-1], 2), boxes[:, 4:]], 1)[~beyond])


def _cut(corners: Array, size: tuple[int, int]) -> Array:
    """Boxes cut at the edges of an image (height, width); one that lies beyond is left without a width or height."""
    return np.clip(corners, 0, np.tile(size[::-1], 2))


def target(argument: Any, where: str) -> tuple[int, int]:
    """The size that a step asks for, (height, width), in either form."""
    size: Any = argument.get("size") if isinstance(argument, Mapping) else argument
    whole = isinstance(size, Sequence) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not whole:
        raise DataError(f"{where}: needs [height, width], two whole numbers of at least 1, not {size!r}")
    return (size[0], size[1])


def _option(argument: Any, key: str, default: Any) -> Any:
    return argument.get(key, default) if isinstance(argument, Mapping) else default
