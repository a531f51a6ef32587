"""TFRecord files, through the dataset that a manifest would describe."""

from __future__ import annotations

import io
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tflite_guard.datasets import open_dataset
from tflite_guard.engine.tfrecord import read_tfrecord
from tflite_guard.errors import DataError
from tflite_guard.manifest.types import DatasetSpec, FileSpec, FunctionSpec

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (5, 4, 3, 3)).astype(np.uint8)
VALUES = RNG.normal(size=(5, 2, 3)).astype(np.float32)
FEATURES = {
    "image": {"dtype": "uint8", "shape": [4, 3, 3], "encoding": "png"},
    "values": {"dtype": "float32", "shape": [2, 3]},
    "raw": {"dtype": "int16", "shape": [6], "encoding": "raw"},
    "label": {"dtype": "int64", "shape": []},
    "who": {"dtype": "str"},
}


def message(index):
    png = io.BytesIO()
    Image.fromarray(PICTURES[index]).save(png, "PNG")
    raw = np.arange(index, index + 6, dtype="<i2").tobytes()
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png.getvalue()])),
        "values": tf.train.Feature(float_list=tf.train.FloatList(value=VALUES[index].ravel())),
        "raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[raw])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[index * 10])),
        "who": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"ab"[index % 2 : index % 2 + 1]])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@pytest.fixture(params=[None, "GZIP"])
def path(tmp_path, request):
    file = str(tmp_path / "data.tfrecord")
    with tf.io.TFRecordWriter(file, request.param) as writer:
        for index in range(5):
            writer.write(message(index))
    return file


def opened(path, key, features=FEATURES, **options):
    return opened_spec(DatasetSpec("d", "tfrecord", FileSpec(path), key, features=features, **options))


def opened_spec(spec):
    return open_dataset(spec, ["in"], tfrecord=read_tfrecord)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("image", PICTURES), ("values", VALUES), ("raw", np.arange(6) + np.arange(5)[:, None])],
)
def test_every_encoding_gives_the_values_that_were_written(path, key, expected):
    batches = list(opened(path, key, labels="label", group="who").batches(2))
    assert [batch.start for batch in batches] == [0, 2, 4]
    read = np.concatenate([batch.inputs["in"] for batch in batches])
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == FEATURES[key]["dtype"]
    np.testing.assert_array_equal(np.concatenate([b.labels[""] for b in batches]), np.arange(5) * 10)
    assert list(np.concatenate([b.groups for b in batches])) == ["a", "b", "a", "b", "a"]


def test_several_files_are_read_in_order_each_compressed_or_not(path, tmp_path):
    other = str(tmp_path / "other.tfrecord")
    with tf.io.TFRecordWriter(other) as writer:
        writer.write(message(3))
        writer.write(b"no message")
    spec = DatasetSpec("d", "tfrecord", None, "values", features=FEATURES, shards=(FileSpec(path), FileSpec(other)))
    first, second = opened_spec(spec).batches(6), opened_spec(spec).batches(7)
    np.testing.assert_array_equal(next(first).inputs["in"], [*VALUES, VALUES[3]])
    with pytest.raises(DataError, match=r"other\.tfrecord: record 1: is not a tf\.train\.Example"):
        list(second)


def test_limit_takes_a_subset_in_order(path):
    rows = np.sort(np.random.default_rng(2).choice(5, 3, replace=False))
    (batch,) = opened(path, "values", limit=3, seed=2).batches(9)
    np.testing.assert_array_equal(batch.inputs["in"], VALUES[rows])


@pytest.mark.parametrize(
    ("key", "features", "expected"),
    [
        ("valeus", {"valeus": {}}, "record 0: there is no feature 'valeus'; did you mean 'values'"),
        ("pixels", {"image": {}}, "'features' does not describe 'pixels'"),
        ("image", {"image": {"dtype": "uint8"}}, "record 0: image: holds bytes; say how they are stored"),
        ("raw", {"raw": {"dtype": "float64", "encoding": "raw"}}, "12 bytes are not a whole number of float64"),
        ("values", {"values": {"dtype": "float32", "shape": [7]}}, r"do not make the shape \[7\]"),
        ("values", {"values": {"encoding": "raw"}}, "must hold one byte string, not 0"),
        ("raw", {"raw": {"encoding": "jpeg"}}, "record 0: raw: the image cannot be decoded"),
    ],
)
def test_features_that_do_not_fit_are_named_with_the_record(path, key, features, expected):
    with pytest.raises(DataError, match=expected):
        list(opened(path, key, features).batches(2))


def test_a_damaged_or_missing_file_is_an_error(tmp_path):
    file = tmp_path / "bad.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(message(0))
        writer.write(b"no message")
    with pytest.raises(DataError, match=r"record 1: is not a tf\.train\.Example"):
        list(opened(str(file), "values").batches(2))
    content = file.read_bytes()
    for broken in (content[:-5], content[:40] + b"?" + content[41:], b"version https://git-lfs.github.com/spec/v1\n"):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"bad\.tfrecord: the file is damaged or not a TFRecord"):
            list(opened(str(file), "values").batches(2))
    with pytest.raises(DataError, match=r"none\.tfrecord: the file cannot be read"):
        opened(str(tmp_path / "none.tfrecord"), "values")


def test_without_tensorflow_the_message_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(DataError, match=r"pip install 'tflite-guard\[tensorflow\]'"):
        opened(path, "values")


@pytest.mark.parametrize("batch", [2, None])
def test_a_dataset_of_tf_gives_its_examples_batched_or_not(monkeypatch, batch):
    source = tf.data.Dataset.from_tensor_slices({"x": VALUES})
    given = source if batch is None else source.batch(batch).map(lambda one: {"x": one["x"] * 1}).prefetch(1)
    monkeypatch.setitem(sys.modules, "user_pipeline", types.SimpleNamespace(load=lambda: given))
    spec = DatasetSpec("d", "python", None, "x", function=FunctionSpec("user_pipeline:load", "."))
    dataset = open_dataset(spec, ["x"], allow_code=True)
    np.testing.assert_array_equal(np.concatenate([one.inputs["x"] for one in dataset.batches(3)]), VALUES)


def test_features_become_slices(path):
    (batch,) = opened(path, "values", slices=("who", "label")).batches(9)
    assert {key: values.tolist() for key, values in batch.slices.items()} == {
        "who": ["a", "b", "a", "b", "a"],
        "label": [0, 10, 20, 30, 40],
    }
