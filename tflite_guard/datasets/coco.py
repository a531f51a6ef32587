"""Images with annotated boxes: a folder and an annotations file in COCO's format."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from tflite_guard.datasets.geometry import boxes_after, require_followable
from tflite_guard.datasets.images import IMAGE, LABEL, ImageFiles, inside
from tflite_guard.datasets.preprocess import Step
from tflite_guard.datasets.sources import Array, Column, Rows, near, quoted, require_keys
from tflite_guard.errors import DataError
from tflite_guard.vocabulary import MOST_BOXES

MAX_BYTES = 1 << 30
"""Of an annotations file; COCO's own largest has 470 MB."""
MOST_PIXELS = 1 << 20
"""Of a side of an image."""
LEAST_TOLD = 20
"""Boxes from which on it is told that all of them are in another unit."""
NO_BOX = (0.0, 0.0, 0.0, 0.0, -1.0, 0.0)


Side = Annotated[int, msgspec.Meta(ge=1, le=MOST_PIXELS)]


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: Side
    height: Side


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class CocoReader(ImageFiles):
    """Annotated images in the order of their file."""

    sizes: Sequence[tuple[int, int]]
    """Height and width of each image, as annotated."""
    boxes: Sequence[Array]
    """Of each image (k, 6): xmin, ymin, xmax, ymax as fractions of the model's input, class, 1 for a crowd."""

    @cached_property
    def _most(self) -> int:
        return max(len(boxes) for boxes in self.boxes)

    def beside(self, keys: Sequence[str], rows: Rows) -> dict[str, Column]:
        if LABEL not in keys:
            return {}
        labels = np.tile(np.array(NO_BOX, np.float32), (len(rows), self._most, 1))
        for label, row in zip(labels, rows, strict=True):
            label[: len(self.boxes[row])] = self.boxes[row]
        return {LABEL: labels}

    def image(self, row: int) -> Array:
        """One image, which must have the size that its boxes are of."""
        image = super().image(row)
        if image.shape[:2] != self.sizes[row]:
            (height, width), (told_height, told_width) = image.shape[:2], self.sizes[row]
            raise DataError(
                f"{self.files[row]}: is {width} by {height} pixels, and annotated as {told_width} by {told_height}; "
                "its boxes are of another version of the image"
            )
        return image


def open_coco(
    path: str,
    keys: Sequence[str],
    annotations: str,
    class_order: Sequence[str] | None,
    steps: Sequence[Step],
    roots: Sequence[str] = (),
) -> CocoReader:
    """Reads which images are annotated with which boxes, and moves those as `steps` move the images.

    A class is the category's place in `class_order`, or among the categories by their ids. Raises DataError for a file
    of another format, for images that are missing or outside `path` and `roots`, and for steps that boxes cannot
    follow.
    """
    if not os.path.isdir(path):
        raise DataError(f"{path}: there is no such folder of images")
    require_keys(path, keys, [IMAGE, LABEL])
    if LABEL in keys:
        require_followable(steps, "boxes", path)
    found = _decoded(annotations)
    classes = _classes(annotations, found.categories, class_order)
    places = {image.id: place for place, image in enumerate(found.images)}
    if len(places) < len(found.images):
        raise DataError(f"{annotations}: two images have the same id; give each its own")
    boxes: list[list[tuple[float, ...]]] = [[] for _ in found.images]
    for number, one in enumerate(found.annotations):
        if one.image_id not in places or one.category_id not in classes:
            what = "image" if one.image_id not in places else "category"
            wanted = one.image_id if what == "image" else one.category_id
            raise DataError(f"{annotations}: annotation {number} (from 0) is of {what} {wanted}, which is not listed")
        left, top, width, height = one.bbox
        corners = (left, top, left + width, top + height)
        if not (all(map(math.isfinite, corners)) and width >= 0 and height >= 0):
            raise DataError(
                f"{annotations}: annotation {number} (from 0) has the box {list(one.bbox)}; it must be [x, y, width, "
                "height] in pixels"
            )
        own = boxes[places[one.image_id]]
        if len(own) == MOST_BOXES:
            raise DataError(f"{annotations}: image {one.image_id} has more than {MOST_BOXES:,} boxes; leave it out")
        own.append((*corners, classes[one.category_id], float(one.iscrowd != 0)))
    _require_pixels(annotations, found, places)
    files, sizes, moved = [], [], []
    for image, own in zip(found.images, boxes, strict=True):
        files.append(_file(path, image.file_name, annotations, roots))
        sizes.append((image.height, image.width))
        array = np.array(own, np.float64).reshape(-1, len(NO_BOX))
        moved.append(boxes_after(steps, array, sizes[-1], path) if LABEL in keys else array[:0])
    return CocoReader(files, sizes, moved)


def _require_pixels(path: str, found: _File, places: Mapping[int, int]) -> None:
    """Raise DataError where boxes as a whole are no [x, y, width, height] in pixels: they would mean nothing."""
    if len(found.annotations) < LEAST_TOLD:
        return
    boxes = np.array([one.bbox for one in found.annotations])
    if boxes.max() <= 1:
        raise DataError(f"{path}: no box has a value above 1; they must be [x, y, width, height] in pixels")
    sizes = np.array([(image.width, image.height) for image in found.images])
    own = sizes[[places[one.image_id] for one in found.annotations]]
    beyond = (boxes[:, :2] + boxes[:, 2:] > own + 1).any(1)
    if beyond.mean() > 0.5:
        raise DataError(
            f"{path}: {beyond.sum():,} of {len(beyond):,} boxes reach beyond their images; they must be [x, y, width, "
            "height] in pixels of the image, not two corners"
        )


def _file(path: str, name: str, annotations: str, roots: Sequence[str]) -> str:
    if "\0" in name or os.path.isabs(name):
        raise DataError(f"{annotations}: {quoted(name)} is not the name of a file in {path}")
    return inside(os.path.join(path, name), path, roots)


def _decoded(path: str) -> _File:
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise DataError(
                f"{path}: has {size:,} bytes, more than {MAX_BYTES:,}; split it, or use a part of the images"
            )
        return msgspec.json.decode(Path(path).read_bytes(), type=_File)
    except MemoryError as error:
        raise DataError(f"{path}: there is no memory for so many images and boxes; use a part of them") from error
    except OSError as error:
        raise DataError(f"{path}: the annotations cannot be read ({error.strerror or error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is no file of boxes in COCO's format ({error})") from error


def _classes(path: str, categories: Sequence[Any], class_order: Sequence[str] | None) -> dict[int, float]:
    """Category id to class number."""
    if len({one.id for one in categories}) < len(categories):
        raise DataError(f"{path}: two categories have the same id; give each its own")
    if class_order is None:
        return {id: float(place) for place, id in enumerate(sorted(one.id for one in categories))}
    times, places = Counter(class_order), {name: float(place) for place, name in enumerate(class_order)}
    for one in categories:
        if times[one.name] != 1:
            several = "twice" if one.name in places else "not"
            hint = "" if one.name in places else near(one.name, class_order)
            raise DataError(f"{path}: the category {quoted(one.name)} is {several} in class_order{hint}")
    return {one.id: places[one.name] for one in categories}
