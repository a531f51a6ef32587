"""Image folders: what is read, in which order, with which labels, and what is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tflite_guard.errors import DataError

RNG = np.random.default_rng(1)


def picture(height=4, width=3):
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes with two and one images; `saved` maps file to pixels."""
    saved = {}
    for name in ("cat/b.png", "cat/a.png", "dog/c.png"):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        saved[name] = picture()
        Image.fromarray(saved[name]).save(file)
    return tmp_path / "images", saved


def test_classes_are_read_in_their_order_and_files_by_name(folder, opened, whole):
    path, saved = folder
    (path / ".DS_Store").write_bytes(b"x")
    batch = whole(opened("images", path, "image", labels="label", class_order=("dog", "cat")), 2)
    np.testing.assert_array_equal(
        batch.inputs["image"], np.stack([saved[n] for n in ("dog/c.png", "cat/a.png", "cat/b.png")])
    )
    np.testing.assert_array_equal(batch.labels[""], [0, 1, 1])
    assert batch.labels[""].dtype == np.int64


def test_an_example_is_called_by_its_file_in_the_folder(folder, opened):
    path, _ = folder
    data = opened("images", path, "image", labels="label", class_order=("dog", "cat"))
    assert [data.file_of(row) for row in range(3)] == ["dog/c.png", "cat/a.png", "cat/b.png"]
    assert opened("npz", saved_npz(path), "x").file_of(0) is None


def saved_npz(folder):
    np.savez(folder.parent / "x.npz", x=np.zeros((2, 3), np.float32))
    return folder.parent / "x.npz"


def test_limit_reads_only_what_it_chose(folder, opened, whole):
    path, saved = folder
    rows = np.sort(np.random.default_rng(3).choice(3, 2, replace=False))
    order = ("cat/a.png", "cat/b.png", "dog/c.png")
    batch = whole(opened("images", path, "image", class_order=("cat", "dog"), limit=2, seed=3), 1)
    np.testing.assert_array_equal(batch.inputs["image"], np.stack([saved[order[row]] for row in rows]))


def test_class_folders_must_be_exactly_those_named(folder, opened):
    path, _ = folder
    with pytest.raises(DataError, match=r"images/bird: class_order names this class"):
        opened("images", path, "image", class_order=("bird", "cat", "dog"))
    with pytest.raises(
        DataError,
        match=r"images/dog: is not a class in class_order; add it there, or move it elsewhere; did you mean 'dogs'",
    ):
        opened("images", path, "image", class_order=("cat", "dogs"))
    with pytest.raises(DataError, match="holds folders such as 'cat'; name them in class_order"):
        opened("images", path, "image")
    with pytest.raises(DataError, match=r"nowhere: there is no such folder"):
        opened("images", path / "nowhere", "image")


@pytest.mark.parametrize("head", ["", "file,label\n", "\ufefffile,label\n"])
@pytest.mark.parametrize(("labels", "dtype"), [(("7", "2"), np.int64), (("0.5", "2"), np.float32)])
def test_a_list_gives_files_and_labels_in_its_order(folder, tmp_path, opened, whole, head, labels, dtype):
    path, saved = folder
    listed = tmp_path / "labels.csv"
    listed.write_text(f"{head}dog/c.png,{labels[0]}\n\ncat/a.png,{labels[1]}\n", encoding="utf-8")
    batch = whole(opened("images", path, "image", labels="label", labels_file=str(listed)))
    np.testing.assert_array_equal(batch.inputs["image"], np.stack([saved["dog/c.png"], saved["cat/a.png"]]))
    np.testing.assert_array_equal(batch.labels[""], [float(label) for label in labels])
    assert batch.labels[""].dtype == dtype


def test_further_columns_of_a_list_are_slices_and_groups(folder, tmp_path, opened):
    path, _ = folder
    (tmp_path / "l.csv").write_text("file,label,lighting,room\ndog/c.png,1,dark,7\ncat/a.png,0,day,8\n")
    options = {"labels": "label", "labels_file": str(tmp_path / "l.csv")}
    (batch,) = opened("images", path, "image", slices=("lighting", "room"), group="room", **options).batches(9)
    assert {key: values.tolist() for key, values in batch.slices.items()} == {
        "lighting": ["dark", "day"],
        "room": ["7", "8"],
    }
    assert batch.groups.tolist() == ["7", "8"]
    with pytest.raises(DataError, match="lightning"):
        opened("images", path, "image", slices=("lightning",), **options)
    (tmp_path / "l.csv").write_text("file,label,lighting\ndog/c.png,1\n")
    with pytest.raises(
        DataError, match="line 2: has 2 cells; each line is a file and its label, and what the header names: lighting"
    ):
        opened("images", path, "image", **options)


@pytest.mark.parametrize("name", ["label", "image", "room"])
def test_a_further_column_hides_no_other(folder, tmp_path, opened, name):
    path, _ = folder
    (tmp_path / "l.csv").write_text(f"file,label,room,{name}\ndog/c.png,1,7,7\n")
    with pytest.raises(DataError, match=f"line 1: names '{name}', which is a key already; rename it"):
        opened("images", path, "image", labels="label", labels_file=str(tmp_path / "l.csv"))


def test_a_list_may_name_classes(folder, tmp_path, opened, whole):
    path, _ = folder
    (tmp_path / "l.csv").write_text("dog/c.png,dog\ncat/a.png,cat\n")
    options = {"labels": "label", "labels_file": str(tmp_path / "l.csv"), "class_order": ("cat", "dog")}
    np.testing.assert_array_equal(whole(opened("images", path, "image", **options)).labels[""], [1, 0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat/z.png,1", "cat/z.png: is not a file; put the image itself there, or remove it"),
        ("../labels.csv,1", "leads outside the folder"),
        ("/etc/hostname,1", "line 2: '/etc/hostname' is absolute"),
        ("cat/a.png,tiger", "line 2: the label 'tiger' is not a number"),
        ("cat/a.png", "line 2: has 1 cells"),
        ("cat/a.png," + "9" * 400, "line 2: the label '9{59}…' does not fit in 64 bits"),
        ("cat/a.png," + "9" * 5000, "line 2: the label '9{59}…' is not a number"),
        ("cat/a.png,-9223372036854775809", "line 2: the label '-9223372036854775809' does not fit in 64 bits"),
        ("cat/a.png,nan", "line 2: the label 'nan' is not a number"),
        ("cat/a.png,١", "line 2: the label '١' is not a number"),
        ("cat/a.png,1\0", "line 2: the label .* is not a number"),
        ("cat/a\0.png,1", "line 2: .* is not the name of a file"),
    ],
)
def test_a_bad_line_of_a_list_is_named(folder, tmp_path, opened, line, message):
    path, _ = folder
    (tmp_path / "labels.csv").write_text(f"file,label\n{line}\n")
    with pytest.raises(DataError, match=message):
        opened("images", path, "image", labels="label", labels_file=str(tmp_path / "labels.csv"))


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, opened):
    path, _ = folder
    Image.fromarray(picture()).save(tmp_path / "secret.png")
    (path / "cat" / "z.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"z\.png: leads outside the folder"):
        opened("images", path, "image", class_order=("cat", "dog"))


def test_a_link_into_an_allowed_root_is_followed(folder, tmp_path, opened, whole):
    path, _ = folder
    cache = tmp_path / "cache"
    cache.mkdir()
    for file in list(path.rglob("*.png")):  # as DVC leaves a folder of links into its cache
        file.rename(cache / file.name.replace(".png", f"-{file.parent.name}.png"))
        file.symlink_to(cache / file.name.replace(".png", f"-{file.parent.name}.png"))
    with pytest.raises(DataError, match="--data-root"):
        opened("images", path, "image", class_order=("cat", "dog"))
    found = opened("images", path, "image", class_order=("cat", "dog"), roots=(str(cache),))
    assert len(whole(found).inputs["image"]) == found.examples > 0


def test_every_mode_of_eight_bits_becomes_rgb(tmp_path, opened, whole):
    grey = picture()[..., 0]
    (tmp_path / "i").mkdir()
    Image.fromarray(grey).save(tmp_path / "i" / "a.png")
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "i" / "b.png")
    Image.fromarray(grey).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "i" / "c.png")
    pixels = whole(opened("images", tmp_path / "i", "image")).inputs["image"]
    np.testing.assert_array_equal(pixels, np.broadcast_to(grey[None, ..., None], (3, 4, 3, 3)))


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path, opened, whole):
    Image.fromarray(np.full((2, 2), 4000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: has more than 8 bits"):
        whole(opened("images", tmp_path, "image"))


def test_images_of_unlike_size_need_a_resize(folder, opened, whole):
    path, _ = folder
    Image.fromarray(picture(9, 7)).save(path / "dog" / "big.png")
    options = {"class_order": ("cat", "dog")}
    with pytest.raises(DataError, match="different shapes"):
        whole(opened("images", path, "image", **options), 4)
    batch = whole(opened("images", path, "image", preprocess=({"resize": [5, 5]},), **options), 4)
    assert batch.inputs["image"].shape == (4, 5, 5, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", None])
def test_an_image_that_cannot_be_decoded_is_named(folder, opened, whole, content):
    path, _ = folder
    broken = path / "dog" / "broken.png"
    broken.write_bytes((path / "dog" / "c.png").read_bytes()[:60] if content is None else content)
    with pytest.raises(DataError, match=r"broken\.png: the image cannot be decoded"):
        whole(opened("images", path, "image", class_order=("cat", "dog")))


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, opened, whole, side):
    def block(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = block(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = block(b"IDAT", zlib.compress(b"\0" * 1000)) + block(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    with pytest.raises(DataError, match=r"bomb\.png: the image is too large"):
        whole(opened("images", tmp_path, "image"))


def test_labels_need_a_source_of_labels(tmp_path, opened):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no key 'label'; did you mean 'image'"):
        opened("images", tmp_path, "image", labels="label")
