"""Images with masks beside them, for segmentation: two folders whose files are called alike."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tflite_guard.datasets.geometry import mask_after, require_followable
from tflite_guard.datasets.images import DEEP_MODES, IMAGE, LABEL, ImageFiles, decoding, inside, size_of
from tflite_guard.datasets.preprocess import Step
from tflite_guard.datasets.sources import Array, Column, Rows, columns_of, near, require_keys
from tflite_guard.errors import DataError
from tflite_guard.files import files_below

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_GREY = 0
_MOST_NAMES = 1000
# The largest value of a grey pixel of so many bits, which Pillow spreads to 255.
_SPREAD = {2: 3, 4: 15}


@dataclass(frozen=True)
class MaskedReader(ImageFiles):
    """Images and their masks in the order of the images' paths, decoded when they are read."""

    masks: Sequence[str]
    """The mask of each image; none where labels are not read."""
    steps: Sequence[Step]
    """The images' preprocessing, which masks follow."""

    def beside(self, keys: Sequence[str], rows: Rows) -> dict[str, Column]:
        return columns_of([{LABEL: self._mask(row)} for row in rows], [LABEL]) if LABEL in keys else {}

    def _mask(self, row: int) -> Array:
        file, image = self.masks[row], self.files[row]
        mask = decode_mask(file)
        if mask.shape != (size := size_of(image)):
            raise DataError(
                f"{file}: is {mask.shape[1]} by {mask.shape[0]} pixels, and its image {image} is {size[1]} by "
                f"{size[0]}; make the mask again in the image's size"
            )
        return mask_after(self.steps, mask, file)


def open_masked(
    path: str,
    keys: Sequence[str],
    masks: str,
    suffixes: tuple[str, str],
    steps: Sequence[Step],
    roots: Sequence[str] = (),
) -> MaskedReader:
    """Lists the images below `path` and finds their masks: the same path below `masks`, with the suffix .png.

    `suffixes` are what the stem of an image ends in (files of another are no examples), and what the stem of its mask
    has in place of that. Masks without an image are passed over. Raises DataError for an image without a mask, for
    what lies outside the folders and `roots`, and for steps that masks cannot follow.
    """
    for folder, what in ((path, "images"), (masks, "masks")):
        if not os.path.isdir(folder):
            raise DataError(f"{folder}: there is no such folder of {what}")
    require_keys(path, keys, [IMAGE, LABEL])
    of_image, of_mask = suffixes
    names = [name for name in _names(path, roots) if os.path.splitext(name)[0].endswith(of_image)]
    files = [inside(os.path.join(path, name), path, roots) for name in names]
    if not files and of_image:
        raise DataError(f"{path}: no image's name ends in {of_image!r} before its suffix; correct 'image_suffix'")
    if LABEL not in keys:
        return MaskedReader(files, (), steps)
    require_followable(steps, "masks", path)
    known = dict.fromkeys(_names(masks, roots))
    found = []
    for name in names:
        stem = os.path.splitext(name)[0]
        mask = f"{stem[: len(stem) - len(of_image)]}{of_mask}.png"
        if mask not in known:
            raise DataError(
                f"{os.path.join(masks, mask)}: there is no such mask, which the image {os.path.join(path, name)} "
                f"needs; make it, remove the image, or correct 'mask_suffix'{_likely(mask, known)}"
            )
        found.append(inside(os.path.join(masks, mask), masks, roots))
    return MaskedReader(files, found, steps)


def decode_mask(path: str) -> Array:
    """A mask as uint8 (h, w), class numbers: a PNG's grey values as stored, or its indices into a palette.

    Raises DataError for other files, for colours, alpha and 16 bits, and for what `images.decode` refuses.
    """
    from PIL import Image

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the mask cannot be read ({error.strerror or error})") from error
    if not content.startswith(_PNG):
        raise DataError(f"{path}: is no PNG, which keeps class numbers as they are; save the mask as one")
    with decoding(path), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if image.mode.split(";")[0] in DEEP_MODES:
            raise DataError(f"{path}: has 16 bits a pixel; save the class numbers with 8, or as .npz")
        if image.mode not in ("1", "L", "P"):
            raise DataError(
                f"{path}: holds colours or alpha ({image.mode}); save the class numbers themselves, as grey values or "
                "as indices into a palette"
            )
        values = np.array(image, np.uint8)
    bits, kind = content[24], content[25]
    return values // np.uint8(255 // _SPREAD[bits]) if kind == _GREY and bits in _SPREAD else values


def _names(folder: str, roots: Sequence[str]) -> list[str]:
    """The files below a folder by their paths. Hidden ones, which operating systems leave behind, are passed over."""
    try:
        found = sorted(files_below(folder, roots))
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    return [name for name in found if not any(part.startswith(".") for part in name.split("/"))]


def _likely(mask: str, known: Iterable[str]) -> str:
    """The end of a message about a mask that is not there: others of its folder that are."""
    folder, name = os.path.split(mask)
    beside = (os.path.basename(one) for one in known if os.path.dirname(one) == folder)
    return near(name, islice(beside, _MOST_NAMES))
