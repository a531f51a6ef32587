"""NumPy files: what is streamed equals what numpy.load gives, and what is broken is said."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tflite_guard.datasets import arrays
from tflite_guard.errors import DataError

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
DTYPES += ["float16", "float32", "float64", ">f4", ">i2"]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 40),
    shape=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from(DTYPES),
    size=st.integers(1, 50),
    limit=st.none() | st.integers(1, 45),
    seed=st.integers(0, 1000),
    form=st.sampled_from(["stored", "deflated", "npy", "fortran"]),
)
def test_streaming_equals_loading_the_whole_array(opened, whole, n, shape, dtype, size, limit, seed, form):
    values = np.random.default_rng(seed).integers(0, 100, (n, *shape)).astype(dtype)
    values = np.asfortranarray(values) if form == "fortran" else values
    rows = np.arange(n) if limit is None or limit >= n else np.sort(
        np.random.default_rng(seed).choice(n, limit, replace=False)
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("data.npy" if form == "npy" else "data.npz")
        if form == "npy":
            np.save(path, values)
        else:
            save = np.savez_compressed if form == "deflated" else np.savez
            save(path, x=values, other=np.ones(3))
        batch = whole(opened("npy" if form == "npy" else "npz", path, limit=limit, seed=seed), size)
    np.testing.assert_array_equal(batch.inputs["image"], values[rows])
    assert batch.inputs["image"].dtype == values.dtype.newbyteorder("=")


def test_one_array_may_be_input_and_label(tmp_path, opened, whole):
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "a.npz", x=values)
    np.save(tmp_path / "a.npy", values)
    for source in ("npz", "npy"):
        batch = whole(opened(source, tmp_path / f"a.{source}", labels="x", preprocess=({"scale": 2},)))
        np.testing.assert_array_equal(batch.inputs["image"], values * 2)
        np.testing.assert_array_equal(batch.labels[""], values)


def test_a_npy_takes_its_labels_from_another(tmp_path, opened, whole):
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    np.save(tmp_path / "y.npy", np.arange(3))
    batch = whole(opened("npy", tmp_path / "x.npy", labels="y", labels_file=str(tmp_path / "y.npy")))
    np.testing.assert_array_equal(batch.labels[""], [0, 1, 2])
    with pytest.raises(DataError, match=r"x\.npy: an \.npy file holds no labels; give labels_file"):
        opened("npy", tmp_path / "x.npy", labels="y")
    with pytest.raises(DataError, match="holds one array"):
        opened("npy", tmp_path / "x.npy", {"a": "p", "b": "q"}, ["a", "b"])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([0.0, np.nan, 1.0], r"y\.npy: y: example 1 .* NaN or infinity;"),
        (["a", "b", "c"], r"y\.npy: y: must hold numbers"),
    ],
    ids=["nan", "text"],
)
def test_labels_that_cannot_be_used_are_told_of_the_file_that_they_are_in(tmp_path, opened, whole, wrong, told):
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    np.save(tmp_path / "y.npy", wrong)
    with pytest.raises(DataError, match=told):
        whole(opened("npy", tmp_path / "x.npy", labels="y", labels_file=str(tmp_path / "y.npy")))


def test_fewer_labels_than_examples_is_an_error_with_both_numbers(tmp_path, opened):
    np.savez(tmp_path / "a.npz", image=np.ones((100, 2)), labels=np.ones(90))
    with pytest.raises(DataError, match=r"a\.npz: .* image: 100, labels: 90"):
        opened("npz", tmp_path / "a.npz", "image", labels="labels")


def test_a_large_array_in_fortran_order_says_how_to_save_it(tmp_path, opened, whole, monkeypatch):
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(np.ones((10, 10))))
    monkeypatch.setattr(arrays, "FORTRAN_BYTES", 100)
    with pytest.raises(DataError, match=r"numpy\.ascontiguousarray"):
        whole(opened("npz", tmp_path / "a.npz"))


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (Path(self.path).touch, ())


def test_python_objects_are_refused_and_never_unpickled(tmp_path, opened):
    trap = tmp_path / "trap"
    np.savez(tmp_path / "a.npz", x=np.array([Evil(str(trap))], dtype=object))
    np.save(tmp_path / "a.npy", np.array([Evil(str(trap))], dtype=object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Evil(str(trap))))
    for source, name in [("npz", "a.npz"), ("npy", "a.npy")]:
        with pytest.raises(DataError, match="holds Python objects"):
            opened(source, tmp_path / name)
    with pytest.raises(DataError, match=r"b\.npz: the file is damaged or in another format"):
        opened("npz", tmp_path / "b.npz")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32(3), "x: is a single value"),
        (np.ones(2, [("a", "f4")]), "x: holds records with fields"),
    ],
)
def test_an_array_without_examples_on_its_first_axis_is_an_error(tmp_path, opened, values, message):
    np.savez(tmp_path / "a.npz", x=values)
    with pytest.raises(DataError, match=message):
        opened("npz", tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_off_anywhere_or_with_any_byte_changed_is_never_read_as_other_values(tmp_path, opened, whole, save):
    values = np.random.default_rng(0).integers(0, 255, (20, 8)).astype(np.uint8)
    path = tmp_path / "a.npz"
    save(path, x=values)
    good = path.read_bytes()
    for cut in range(0, len(good), 7):
        path.write_bytes(good[:cut])
        with pytest.raises(DataError, match=r"a\.npz"):
            whole(opened("npz", path))
    for place in range(0, len(good), 3):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            batch = whole(opened("npz", path))
        except DataError as error:
            assert "a.npz" in str(error)  # noqa: PT017
        else:
            np.testing.assert_array_equal(batch.inputs["image"], values)


@pytest.mark.parametrize("keep", [0, 5, 60, 127, 128, 200])
def test_a_truncated_npy_is_an_error(tmp_path, opened, keep):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((20, 2)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.npy"):
        opened("npy", path)


@pytest.mark.parametrize("rows", [10**15, 1])
def test_a_header_that_claims_more_or_less_than_there_is_is_an_error(tmp_path, opened, rows):
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 1000), }" % rows
    head += b" " * (118 - len(head)) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 8_008
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for source in ("npy", "npz"):
        with pytest.raises(DataError, match="truncated"):
            opened(source, tmp_path / f"a.{source}")


def test_an_encrypted_archive_is_an_error(tmp_path, opened):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones((2, 2)))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: the archive is encrypted"):
        opened("npz", path)


@pytest.mark.parametrize("source", ["npz", "npy"])
def test_what_is_there_instead_of_the_data_is_said(tmp_path, opened, source):
    path = tmp_path / f"data.{source}"
    with pytest.raises(DataError, match=f"data.{source}: there is no such file"):
        opened(source, path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(DataError, match=r"Git LFS pointer.*git lfs pull"):
        opened(source, path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        opened(source, path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"data.{source}"):
        opened(source, path)


def test_members_that_are_not_arrays_are_no_keys(tmp_path, opened):
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 2)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("images.npy", buffer.getvalue())
    with pytest.raises(DataError, match="no array 'x'; did you mean 'images'"):
        opened("npz", tmp_path / "a.npz")


def test_memory_does_not_grow_with_a_compressed_archive(tmp_path):
    """200 MB are streamed, wholly and as a subset, in a process that never holds a quarter of them."""
    script = """
import resource, sys
import numpy as np
from tflite_guard.datasets import open_dataset
from tflite_guard.manifest.types import DatasetSpec, FileSpec
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for limit in (None, 5000, 1):
    dataset = open_dataset(DatasetSpec("d", "npz", FileSpec(sys.argv[1]), "x", limit=limit), ["image"])
    total = sum(int(batch.inputs["image"].sum()) for batch in dataset.batches(64))
    assert total == 3 * dataset.examples * 10_000, total
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (20000, 10000), }"
    head += b" " * (118 - len(head)) + b"\n"
    archive = zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("x.npy", "w") as stream:
        stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
        for _ in range(200):
            stream.write(b"\x03" * 1_000_000)
    command = [sys.executable, "-c", script, str(tmp_path / "a.npz")]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 50


def test_arrays_are_written_under_any_name_and_nothing_else_is(tmp_path):
    rng = np.random.default_rng(0)
    named = {name: rng.random((3, 2)) for name in ("file", "allow_pickle", "compressed", "a/b", "")}
    named["count"] = np.arange(3, dtype=np.int8)
    arrays.write_npz(tmp_path / "made.npz", named)
    with np.load(tmp_path / "made.npz") as read:
        assert list(read) == list(named)
        for name, array in named.items():
            np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_an_error(tmp_path, opened):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for value in (0, 1):
            with archive.open("x.npy", "w") as member:
                np.lib.format.write_array(member, np.full(3, value))
    with pytest.raises(DataError, match="two arrays named x"):
        opened("npz", tmp_path / "d.npz")


@given(header=st.text(st.characters(max_codepoint=127), max_size=80) | st.text("({[]})'\"\\:,#\n 0Lx", max_size=80))
@example(header="((")
@example(header="(" * 60_000)
@example(header="9" * 5000)
@example(header="{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 400 + ",)}")
@example(header="{'descr': [('a', '<f4', " + "(" * 500 + ")]}")
def test_a_header_of_any_text_is_an_array_or_an_error_that_names_the_file(tmp_path_factory, header):
    path = tmp_path_factory.mktemp("npy") / "x.npy"
    text = header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text)
    with pytest.raises(DataError, match=r"x\.npy"):
        arrays.open_npy({"x": str(path)})
