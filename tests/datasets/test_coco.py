"""Images with annotated boxes: what is read, where preprocessing moves boxes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tflite_guard.datasets.geometry import boxes_after
from tflite_guard.datasets.preprocess import prepare
from tflite_guard.errors import DataError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


@pytest.fixture
def scenes(tmp_path):
    """A folder with two images and none in the second's annotations; `write` changes what is annotated."""
    rng = np.random.default_rng(0)
    (tmp_path / "images/far").mkdir(parents=True)
    pixels = {}
    for name, size in (("b.png", (20, 40)), ("far/a.png", (30, 10)), ("c.png", (8, 8))):
        pixels[name] = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels[name]).save(tmp_path / "images" / name)
    annotated: dict[str, Any] = {
        "info": {"year": 2026},
        "images": [
            {"id": 12, "file_name": "b.png", "width": 40, "height": 20, "license": 1},
            {"id": 5, "file_name": "far/a.png", "width": 10, "height": 30},
            {"id": 6, "file_name": "c.png", "width": 8, "height": 8},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 3, 4, 6], "segmentation": [[1, 2]], "area": 24},
            {"id": 2, "image_id": 12, "category_id": 3, "bbox": [0, 0, 40, 10.0], "iscrowd": 1},
            {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0.5, 0, 5, 15], "iscrowd": False},
        ],
        "categories": [dict(one) for one in CATEGORIES],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(annotated))
    return tmp_path / "images", path, annotated, pixels


SQUARE = ({"resize": [16, 16]},)
NONE = [0, 0, 0, 0, -1, 0]


def test_images_come_in_the_files_order_with_their_boxes(scenes, opened, whole):
    folder, path, _, pixels = scenes
    data = opened("coco", folder, "image", labels="label", labels_file=str(path), preprocess=SQUARE)
    batch = whole(data, 2)
    assert batch.inputs["image"].shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(batch.inputs["image"][0], prepare(pixels["b.png"][np.newaxis], SQUARE, "")[0])
    # Classes count categories by their ids: cat is 0, dog is 1.
    np.testing.assert_allclose(
        batch.labels[""],
        [[[0, 0, 1, 0.5, 0, 1], NONE], [[0.1, 0.1, 0.5, 0.3, 1, 0], [0.05, 0, 0.55, 0.5, 0, 0]], [NONE, NONE]],
        atol=1e-6,
    )
    assert [data.file_of(row) for row in range(3)] == ["b.png", "far/a.png", "c.png"]


def test_classes_are_counted_in_the_models_order_which_may_know_more(scenes, opened, whole):
    folder, path, _, _ = scenes
    order = ("???", "dog", "bird", "???", "cat")
    data = opened("coco", folder, "image", labels="label", labels_file=str(path), class_order=order, preprocess=SQUARE)
    assert whole(data, 3).labels[""][..., 4].tolist() == [[4, -1], [1, 4], [-1, -1]]


def test_boxes_are_not_moved_where_no_labels_are_read(scenes, opened, whole):
    folder, path, _, _ = scenes
    steps = (*SQUARE, {"reshape": [768]})
    assert whole(opened("coco", folder, "image", labels_file=str(path), preprocess=steps), 3).labels == {}


@given(
    box=st.tuples(*[st.integers(0, 60)] * 4).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 4, max(b[1], b[3]) + 4)
    ),
    height=st.integers(70, 90),
    width=st.integers(70, 90),
    steps=st.lists(
        st.one_of(
            st.sampled_from([{"resize": [64, 48]}, {"resize": {"size": [50, 90], "method": "bilinear"}}]),
            st.sampled_from([{"letterbox": [96, 64]}, {"letterbox": {"size": [40, 90], "at": "top_left", "value": 0}}]),
            st.sampled_from([{"pad": [120, 110]}, {"pad": {"size": [130, 111], "at": "top_left"}}]),
            st.sampled_from([{"center_crop": [40, 41]}, {"center_crop": [33, 40]}]),
        ),
        max_size=3,
    ),
)
@settings(max_examples=60, deadline=None)
def test_boxes_go_where_preprocessing_puts_what_is_in_them(box, height, width, steps):
    image = np.zeros((1, height, width, 1), np.float32)
    xmin, ymin, xmax, ymax = box
    image[0, ymin:ymax, xmin:xmax] = 1
    steps = [
        {
            name: {"size": how, "value": 0} if name in ("letterbox", "pad") and isinstance(how, list) else how
            for name, how in step.items()
        }
        for step in steps
    ]
    try:
        shown = prepare(image, steps, "")[0, :, :, 0] > 0.5
    except DataError:
        return  # a crop of what is smaller, a pad of what is larger
    moved = boxes_after(steps, np.array([[*box, 1, 0]], np.float64), (height, width), "")
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    # Pixels are whole, and each resize adds half of one.
    within = 1.6 * (1 + len(steps)) / min(shown.shape)
    if not len(rows) or not len(moved):
        thin = [min(len(rows), len(columns)) / min(shown.shape), *(moved[:, 2:4] - moved[:, :2]).min(1)]
        assert max(thin) <= within, "only a sliver is seen by one of both"
        return
    seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / np.tile(shown.shape[::-1], 2)
    assert np.abs(seen - moved[0, :4]).max() <= within
    assert moved[0, 4:].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (({"reshape": [400, 3]},), "reshape: boxes cannot follow it; use resize, center_crop, pad or letterbox"),
        (({"transpose": [1, 0, 2]},), "transpose: boxes cannot follow an image whose height and width change places"),
        (({"transpose": [2, 0, 1]}, {"resize": [8, 8]}), "resize: boxes cannot follow it after transpose"),
    ],
)
def test_steps_that_boxes_cannot_follow_are_refused(scenes, opened, steps, message):
    folder, path, _, _ = scenes
    with pytest.raises(DataError, match=message):
        opened("coco", folder, "image", labels="label", labels_file=str(path), preprocess=steps)


def test_channels_first_is_followed(scenes, opened, whole):
    folder, path, _, _ = scenes
    first = opened(
        "coco", folder, "image", labels="label", labels_file=str(path), preprocess=(*SQUARE, {"transpose": [2, 0, 1]})
    )
    last = opened("coco", folder, "image", labels="label", labels_file=str(path), preprocess=SQUARE)
    np.testing.assert_array_equal(whole(first, 3).labels[""], whole(last, 3).labels[""])


def test_what_a_crop_leaves_of_a_box_is_its_box():
    boxes = np.array([[0, 0, 10, 10, 2, 0], [5, 5, 20, 20, 1, 0], [90, 90, 100, 100, 0, 0]], np.float64)
    np.testing.assert_allclose(
        boxes_after([{"center_crop": [84, 84]}], boxes, (100, 100), ""),
        [[0, 0, 2 / 84, 2 / 84, 2, 0], [0, 0, 12 / 84, 12 / 84, 1, 0], [82 / 84, 82 / 84, 1, 1, 0, 0]],
    )
    np.testing.assert_allclose(
        boxes_after([{"center_crop": [80, 80]}], boxes, (100, 100), ""), [[0, 0, 10 / 80, 10 / 80, 1, 0]]
    )


def test_padding_does_not_bring_back_what_a_crop_has_cut():
    boxes = np.array([[0, 0, 20, 30, 2, 0], [0, 40, 5, 50, 1, 0], [-20, 40, 30, 50, 0, 0]], np.float64)
    np.testing.assert_allclose(
        boxes_after([{"center_crop": [80, 80]}, {"pad": [100, 100]}], boxes, (100, 100), ""),
        [[0.1, 0.1, 0.2, 0.3, 2, 0], [0.1, 0.4, 0.3, 0.5, 0, 0]],
    )
    np.testing.assert_allclose(
        boxes_after([{"pad": [200, 200]}], boxes[2:], (100, 100), ""), [[0.25, 0.45, 0.4, 0.5, 0, 0]]
    )


def fractions(annotated):
    return [one | {"bbox": [0.1, 0.2, 0.5, 0.9]} for one in annotated["annotations"][:1] * 20]


def two_corners(annotated):
    sizes = {one["id"]: (one["width"], one["height"]) for one in annotated["images"]}
    own = annotated["annotations"][0]
    width, height = sizes[own["image_id"]]
    return [own | {"bbox": [width // 2, height // 2, width, height]}] * 20


def test_what_a_crop_cuts_off_does_not_come_back_in_the_padding():
    boxes = np.array([[0, 0, 4, 4, 1, 0], [10, 10, 30, 30, 2, 0]], np.float64)
    for step in ({"pad": [80, 80]}, {"letterbox": [80, 80]}):
        (moved,) = boxes_after(({"center_crop": [40, 40]}, step), boxes, (80, 80), "")
        # Half of the second box is left, in the corner of the crop.
        scale, corner = (1, 20) if "pad" in step else (2, 0)
        np.testing.assert_allclose(moved, [*[corner / 80] * 2, *[(corner + 10 * scale) / 80] * 2, 2, 0])


def test_as_many_names_as_a_manifest_can_have_are_looked_up_at_once(scenes, opened, whole):
    folder, path, annotated, _ = scenes
    count = 100_000  # quadratic, it would be minutes
    names = tuple(f"c{number}" for number in range(count))
    annotated["categories"] = [{"id": 2 * number, "name": name} for number, name in enumerate(names)]
    annotated["annotations"] = [annotated["annotations"][0] | {"category_id": 2 * count - 2}]
    path.write_text(json.dumps(annotated))
    data = opened("coco", folder, "image", labels="label", labels_file=str(path), class_order=names, preprocess=SQUARE)
    assert whole(data, 3).labels[""][..., 4].max() == count - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["images"].pop(), None),
        (lambda a: a["images"][1].update(id=12), "two images have the same id"),
        (lambda a: a["categories"][1].update(id=7), "two categories have the same id"),
        (
            lambda a: a["annotations"][1].update(image_id=99),
            r"annotation 1 \(from 0\) is of image 99, which is not listed",
        ),
        (lambda a: a["annotations"][2].update(category_id=8), r"annotation 2 \(from 0\) is of category 8"),
        (
            lambda a: a["annotations"][0].update(bbox=[1, 2, -3, 4]),
            r"annotation 0 \(from 0\) has the box \[1.0, 2.0, -3.0",
        ),
        (lambda a: a["annotations"][0].update(bbox=[1, 2, 3]), "is no file of boxes in COCO's format .*length 4"),
        (lambda a: a.pop("categories"), "is no file of boxes in COCO's format .*categories"),
        (lambda a: a["images"][0].update(width=0), r"Expected `int` >= 1 - at `\$.images\[0\].width`"),
        (lambda a: a["images"][0].update(width=10**400), r"Expected `int` <= 1048576 - at `\$.images\[0\].width`"),
        (lambda a: a["annotations"][0].update(bbox=[1e308, 1, 1e308, 1]), r"annotation 0 \(from 0\) has the box \[1e"),
        (lambda a: a["annotations"].extend(a["annotations"][:1] * 10_000), "image .* has more than 10,000 boxes"),
        (lambda a: a.update(annotations=fractions(a)), "no box has a value above 1; .* in pixels"),
        (
            lambda a: a.update(annotations=two_corners(a)),
            "20 of 20 boxes reach beyond their images; .* not two corners",
        ),
        (lambda a: a["images"][0].update(file_name="../boxes.json"), "leads outside the folder"),
        (lambda a: a["images"][0].update(file_name="/etc/passwd"), "is not the name of a file in"),
        (lambda a: a["images"][0].update(file_name="a\0b"), "is not the name of a file in"),
        (lambda a: a["images"][0].update(file_name="none.png"), "none.png: is not a file"),
        (lambda a: a["images"].clear() or a["annotations"].clear(), "holds no examples"),
    ],
)
def test_what_is_wrong_in_annotations_is_told_with_its_place(scenes, opened, change, message):
    folder, path, annotated, _ = scenes
    change(annotated)
    path.write_text(json.dumps(annotated))
    asked = ("coco", folder, "image")
    if message is None:
        assert opened(*asked, labels="label", labels_file=str(path)).examples == 2
        return
    with pytest.raises(DataError, match=message):
        opened(*asked, labels="label", labels_file=str(path))


def test_an_image_of_another_size_than_annotated_is_refused(scenes, opened, whole):
    folder, path, annotated, _ = scenes
    annotated["images"][0].update(width=20, height=10)
    path.write_text(json.dumps(annotated))
    data = opened("coco", folder, "image", labels="label", labels_file=str(path), preprocess=SQUARE)
    with pytest.raises(DataError, match=r"b.png: is 40 by 20 pixels, and annotated as 20 by 10"):
        whole(data, 2)


@pytest.mark.parametrize("order", [("cat",), ("cat", "dog", "cat"), ("cat", "dogs")])
def test_a_category_that_the_order_does_not_name_once_is_refused(scenes, opened, order):
    folder, path, _, _ = scenes
    with pytest.raises(DataError, match=r"the category '(dog' is not|cat' is twice) in class_order"):
        opened("coco", folder, "image", labels="label", labels_file=str(path), class_order=order)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"images": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_of_boxes_is_refused(scenes, opened, content):
    folder, path, _, _ = scenes
    path.write_bytes(content)
    with pytest.raises(DataError, match="is no file of boxes in COCO's format"):
        opened("coco", folder, "image", labels="label", labels_file=str(path))
