"""Images with masks: which belongs to which, what its pixels mean, and where preprocessing moves them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tflite_guard.datasets.geometry import mask_after
from tflite_guard.datasets.masks import decode_mask
from tflite_guard.datasets.preprocess import prepare
from tflite_guard.errors import DataError
from tflite_guard.manifest.types import FileSpec

RNG = np.random.default_rng(4)
SQUARE = ({"resize": [8, 8]},)


@pytest.fixture
def city(tmp_path: Path) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """Three images in two folders, their masks beside them; `masks` maps an image to the classes of its pixels."""
    masks = {}
    for name, size in (("b/two.jpg", (6, 9)), ("a/one.png", (5, 7)), ("b/three.png", (4, 4))):
        image, mask = tmp_path / "images" / name, tmp_path / "masks" / name
        for folder in (image.parent, mask.parent):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (*size, 3)).astype(np.uint8)).save(image)
        masks[name] = RNG.integers(0, 5, size).astype(np.uint8)
        Image.fromarray(masks[name]).save(mask.with_suffix(".png"))
    return tmp_path / "images", tmp_path / "masks", masks


@pytest.fixture
def masked(opened: Any) -> Any:
    def open_it(images: Path, masks: Path, **options: Any) -> Any:
        options = {"labels": "label", "preprocess": SQUARE, **options}
        return opened("images", images, "image", masks=FileSpec(str(masks)), **options)

    return open_it


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel by pixel: the one on which the centre falls."""
    found = np.empty((height, width), mask.dtype)
    for row in range(height):
        for column in range(width):
            found[row, column] = mask[
                (2 * row + 1) * mask.shape[0] // (2 * height), (2 * column + 1) * mask.shape[1] // (2 * width)
            ]
    return found


def test_each_image_comes_with_its_mask_by_path(city, masked, whole):
    images, masks, pixels = city
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(masks / "of_no_image.png")
    (images / "b/.DS_Store").write_bytes(b"x")
    data = masked(images, masks)
    batch = whole(data, 2)
    order = ["a/one.png", "b/three.png", "b/two.jpg"]
    assert [data.file_of(row) for row in range(3)] == order
    np.testing.assert_array_equal(batch.labels[""], np.stack([nearest(pixels[name], 8, 8) for name in order]))
    assert batch.labels[""].dtype == np.uint8
    shown = prepare(np.asarray(Image.open(images / "b/three.png"))[np.newaxis], SQUARE, "")
    np.testing.assert_array_equal(batch.inputs["image"][1:2], shown)
    assert [len(part) for part in data.labels_of("", 2)] == [2, 1]


def test_names_may_differ_in_their_ends_as_those_of_cityscapes(tmp_path, masked, whole):
    for number, town in enumerate(("ulm", "bonn")):
        for kind, end in (("images", "leftImg8bit"), ("masks", "gtFine_labelIds"), ("masks", "gtFine_instanceIds")):
            file = tmp_path / kind / town / f"{town}_{end}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            depth = (3,) if kind == "images" else ()
            Image.fromarray(np.full((8, 8, *depth), number + 1, np.uint8)).save(file)
    (tmp_path / "images/ulm/licence.txt").write_text("none of the images")
    ends = {"image_suffix": "_leftImg8bit", "mask_suffix": "_gtFine_labelIds"}
    batch = whole(masked(tmp_path / "images", tmp_path / "masks", **ends), 2)
    assert batch.labels[""][:, 0, 0].tolist() == [2, 1]
    with pytest.raises(DataError, match="images: no image's name ends in '_left' before its suffix"):
        masked(tmp_path / "images", tmp_path / "masks", image_suffix="_left")


def test_one_folder_may_hold_both(tmp_path, masked, whole):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "1_photo.png")
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(tmp_path / "1_mask.png")
    batch = whole(masked(tmp_path, tmp_path, image_suffix="_photo", mask_suffix="_mask"), 1)
    assert batch.labels[""].shape == (1, 8, 8)
    assert batch.labels[""].max() == batch.labels[""].min() == 3


def test_masks_are_not_wanted_where_no_labels_are_read(city, masked, whole):
    images, masks, _ = city
    for file in masks.rglob("*.png"):
        file.unlink()
    assert whole(masked(images, masks, labels=None, preprocess=(*SQUARE, {"reshape": [192]})), 3).labels == {}


@given(
    mask=arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 20) | st.just(255)
    ),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["resize", "center_crop", "pad", "letterbox"]),
            st.tuples(st.integers(1, 60), st.integers(1, 60)).map(list),
            st.sampled_from(["center", "top_left"]),
        ),
        max_size=4,
    ),
)
@settings(max_examples=300, deadline=None)
def test_a_mask_moves_exactly_as_an_image_of_its_values(mask, steps):
    written = [
        {
            "resize": {"resize": {"size": size, "method": "nearest"}},
            "center_crop": {"center_crop": size},
            "pad": {"pad": {"size": size, "value": 255, "at": at}},
            "letterbox": {"letterbox": {"size": size, "value": 255, "at": at, "method": "nearest"}},
        }[name]
        for name, size, at in steps
    ]
    try:
        shown = prepare(np.repeat(mask[np.newaxis, ..., np.newaxis], 3, -1), [*written, {"cast": "float32"}], "")
    except DataError:
        return  # a crop of what is smaller, a pad of what is larger
    moved = mask_after([*written, {"cast": "float32"}, {"transpose": [2, 0, 1]}], mask, "")
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(moved, shown[0, ..., 0])


@given(size=st.tuples(st.integers(1, 50), st.integers(1, 50)), target=st.tuples(st.integers(1, 70), st.integers(1, 70)))
@settings(max_examples=100, deadline=None)
def test_a_resized_mask_is_pillows_nearest_neighbour(size, target):
    mask = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    moved = mask_after([{"resize": list(target)}], mask, "")
    pillow = np.asarray(Image.fromarray(mask).resize(target[::-1], Image.Resampling.NEAREST))
    # Of a centre that falls between two pixels, rounding decides, and Pillow's is another.
    rows, columns = (
        [(2 * place + 1) * old % (2 * new) != 0 for place in range(new)] for old, new in zip(size, target, strict=True)
    )
    for expected in (nearest(mask, *target), pillow):
        np.testing.assert_array_equal(moved[rows][:, columns], expected[rows][:, columns])


def test_what_a_step_adds_is_of_no_class():
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    padded = mask_after([{"pad": [4, 4]}], mask, "")
    assert padded.tolist() == [[255] * 4, [0, 1, 2, 255], [3, 4, 5, 255], [255] * 4]
    boxed = mask_after([{"letterbox": {"size": [6, 6], "at": "top_left", "value": 0}}], mask, "")
    assert boxed[:4].tolist() == np.kron(mask, np.ones((2, 2), int)).tolist()
    assert (boxed[4:] == 255).all()


def png(values: np.ndarray, bits: int, kind: int = 0, *extra: bytes) -> bytes:
    """A PNG file of single values a pixel (kind 0 grey, 3 palette), as its specification has it, without Pillow."""
    rows = [b"\0" + np.packbits(np.unpackbits(row[:, np.newaxis], axis=1)[:, 8 - bits :]).tobytes() for row in values]
    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [b"IHDR" + header, *extra, b"IDAT" + zlib.compress(b"".join(rows)), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


@pytest.mark.parametrize("kind", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_pixels_class_is_the_number_in_the_file_whatever_its_bits(tmp_path, bits, kind):
    values = RNG.integers(0, 2**bits, (5, 7)).astype(np.uint8)
    values[0, :2] = 0, 2**bits - 1
    palette = [b"PLTE" + RNG.integers(0, 256, 3 * 2**bits).astype(np.uint8).tobytes()] if kind == 3 else []
    file = tmp_path / "mask.png"
    file.write_bytes(png(values, bits, kind, *palette))
    found = decode_mask(str(file))
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("mode", "suffix", "message"),
    [
        ("RGB", ".png", r"a/one.png: holds colours or alpha \(RGB\); save the class numbers themselves"),
        ("RGBA", ".png", r"a/one.png: holds colours or alpha \(RGBA\)"),
        ("LA", ".png", r"a/one.png: holds colours or alpha \(LA\)"),
        ("I;16", ".png", r"a/one.png: has 16 bits a pixel; save the class numbers with 8, or as .npz"),
        ("L", ".jpg", r"a/one.png: is no PNG, which keeps class numbers as they are"),
        (None, ".png", r"a/one.png: the image cannot be decoded"),
        ("size", ".png", r"masks/a/one.png: is 9 by 5 pixels, and its image .*images/a/one.png is 7 by 5"),
    ],
)
def test_what_is_no_mask_is_told_by_its_file(city, masked, mode, suffix, message, whole):
    images, masks, _ = city
    file = masks / "a/one.png"
    if mode is None:
        file.write_bytes(file.read_bytes()[:50])
    else:
        shape = (5, 9) if mode == "size" else (5, 7)
        made = Image.fromarray(np.zeros(shape, np.uint16 if mode == "I;16" else np.uint8))
        made = made if mode in ("I;16", "size") else made.convert(mode)
        made.save(file, "JPEG" if suffix == ".jpg" else "PNG")
    with pytest.raises(DataError, match=message):
        whole(masked(images, masks), 3)


def test_a_mask_of_too_many_pixels_is_not_unpacked(city, masked, whole):
    images, masks, _ = city
    content = bytearray(png(np.zeros((1, 1), np.uint8), 8))
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (masks / "a/one.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a/one.png: the image is too large to decode safely"):
        whole(masked(images, masks), 3)


def test_an_image_without_a_mask_is_an_error_with_what_is_there(city, masked):
    images, masks, _ = city
    (masks / "a/one.png").rename(masks / "a/one_mask.png")
    with pytest.raises(
        DataError,
        match=r"masks/a/one.png: there is no such mask, which the image .*/images/a/one.png needs; make it, remove "
        r"the image, or correct 'mask_suffix'; did you mean 'one_mask.png'\?",
    ):
        masked(images, masks)
    with pytest.raises(DataError, match=r"nowhere: there is no such folder of masks"):
        masked(images, masks.parent / "nowhere")


def test_masks_do_not_lead_out_of_their_folder(city, masked):
    images, masks, _ = city
    elsewhere = masks.parent / "elsewhere.png"
    (masks / "a/one.png").rename(elsewhere)
    (masks / "a/one.png").symlink_to(elsewhere)
    with pytest.raises(DataError, match=r"masks: the folder cannot be read .*a/one.png leads out of the folder"):
        masked(images, masks)
    assert masked(images, masks, roots=[str(masks.parent)]).examples == 3


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (({"reshape": [400, 3]},), "reshape: masks cannot follow it; use resize, center_crop, pad or letterbox"),
        (({"transpose": [1, 0, 2]},), "transpose: masks cannot follow an image whose height and width change places"),
        (({"transpose": [2, 0, 1]}, {"resize": [8, 8]}), "resize: masks cannot follow it after transpose"),
    ],
)
def test_steps_that_masks_cannot_follow_are_refused(city, masked, steps, message):
    images, masks, _ = city
    with pytest.raises(DataError, match=message):
        masked(images, masks, preprocess=steps)


def test_images_prepared_in_two_ways_have_no_one_mask(city, opened):
    images, masks, _ = city
    with pytest.raises(DataError, match="masks cannot follow images that are prepared in two ways"):
        opened(
            "images",
            images,
            {"left": "image", "right": "image"},
            ("left", "right"),
            labels="label",
            masks=FileSpec(str(masks)),
            preprocess={"left": SQUARE, "right": ({"resize": [4, 4]},)},
        )


def test_masks_of_different_sizes_need_steps_that_make_them_alike(city, masked, whole):
    images, masks, _ = city
    with pytest.raises(DataError, match="examples have different shapes"):
        whole(masked(images, masks, preprocess=()), 3)
