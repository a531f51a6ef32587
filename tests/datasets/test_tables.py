"""CSV files: columns become arrays, and a bad cell is named by line and column."""

from __future__ import annotations

import numpy as np
import pytest

from tflite_guard.errors import DataError

TABLE = "a,b,class,who\n1,2.5,0,x\n-3,4e1,1,x\n\n5,6,2,y\n7,8,0,z\n"


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("text", [TABLE, "\ufeff" + TABLE.replace("\n", "\r\n")])
def test_columns_become_inputs_labels_and_groups(table, opened, whole, size, text):
    columns = {"x": ["a", "b"], "y": "class", "g": "who"}
    batch = whole(opened("csv", table(text), labels="y", group="g", columns=columns), size)
    np.testing.assert_array_equal(batch.inputs["image"], np.array([[1, 2.5], [-3, 40], [5, 6], [7, 8]], np.float32))
    assert batch.inputs["image"].dtype == np.float32
    np.testing.assert_array_equal(batch.labels[""], [0, 1, 2, 0])
    assert batch.labels[""].dtype == np.int64
    assert list(batch.groups) == ["x", "x", "y", "z"]


def test_columns_become_slices_as_they_are_written(table, opened):
    (batch,) = opened("csv", table(TABLE), "a", slices=("who", "class"), group="who").batches(9)
    assert {key: values.tolist() for key, values in batch.slices.items()} == {
        "who": ["x", "x", "y", "z"],
        "class": ["0", "1", "2", "0"],
    }


def test_a_key_is_a_columns_name_without_columns(table, opened, whole):
    batch = whole(opened("csv", table(TABLE), "b", labels="a"))
    np.testing.assert_array_equal(batch.inputs["image"], np.array([2.5, 40, 6, 8], np.float32))
    np.testing.assert_array_equal(batch.labels[""], [1, -3, 5, 7])


def test_labels_with_a_fraction_anywhere_are_floats_in_every_batch(table, opened):
    dataset = opened("csv", table(TABLE), "a", labels="b")
    assert {batch.labels[""].dtype for batch in dataset.batches(1)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        (["1", "16777216"], np.float32),
        (["1", "16777217"], np.int64),
        (["-9223372036854775808", "9007199254740993"], np.int64),
        (["1.5", "16777217"], np.float32),
        (["16777217", "1e0"], np.float32),
        (["1", "1e20"], np.float32),
        (["1.5", "1" + "0" * 30], np.float32),
    ],
)
@pytest.mark.parametrize("limit", [None, 1])
def test_integers_that_float32_would_change_stay_integers_in_every_batch(table, opened, cells, dtype, limit):
    dataset = opened("csv", table("x\n" + "\n".join(cells)), limit=limit)
    batches = [batch.inputs["image"] for batch in dataset.batches(1)]
    assert {batch.dtype for batch in batches} == {np.dtype(dtype)}
    if limit is None:
        assert [batch[0] for batch in batches] == [dtype(cell) for cell in cells]


def test_integers_come_out_of_a_cast_unchanged(table, opened, whole):
    dataset = opened("csv", table("x\n16777217\n3\n"), preprocess=({"cast": "int32"},))
    assert whole(dataset).inputs["image"].tolist() == [16777217, 3]


def test_large_labels_keep_every_digit(table, opened, whole):
    text = "x,y\n1,9007199254740993\n2,3.0\n"
    assert whole(opened("csv", table(text), labels="y")).labels[""].tolist() == [9007199254740993, 3]


@pytest.mark.parametrize(("cell", "role"), [("9223372036854775809", "x"), ("1e20", "y"), ("-9223372036854775809", "y")])
def test_whole_numbers_beyond_64_bits_are_errors(table, opened, cell, role):
    row = {"x": "1", "y": "2", role: cell}
    with pytest.raises(DataError, match=f"line 2, column '{role}': '{cell}' does not fit in 64 bits"):
        opened("csv", table(f"x,y\n{row['x']},{row['y']}\n3,4\n"), labels="y")


def test_limit_takes_a_subset(table, opened, whole):
    text = "x\n" + "".join(f"{i}\n" for i in range(50))
    rows = np.sort(np.random.default_rng(5).choice(50, 9, replace=False))
    batch = whole(opened("csv", table(text), limit=9, seed=5), 4)
    np.testing.assert_array_equal(batch.inputs["image"], rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE.replace("4e1", "four"), "line 3, column 'b': 'four' is not a number"),
        (TABLE.replace("4e1", ""), "line 3, column 'b': '' is not a number"),
        (TABLE.replace("4e1", "nan"), "line 3, column 'b': 'nan' is not a finite number"),
        (TABLE.replace("4e1", "٣"), "line 3, column 'b': '٣' is not a number"),
        (TABLE.replace("4e1", "4_1"), "line 3, column 'b': '4_1' is not a number"),
        (TABLE.replace("4e1", "9" * 400), "line 3, column 'b': '9{59}…' is not a finite number"),
        (TABLE.replace("4e1", "9" * 5000), "line 3, column 'b': '9{59}…' is not a finite number"),
        (TABLE.replace("6,2,y", "6"), "line 5: has 2 cells, the header has 4"),
        ("", "the file is empty"),
        ("b,bb\n", "holds no examples"),
        ("bb,c\n1,2\n", "no column 'b'; did you mean 'bb'"),
        ("b,b\n1,2\n", "more than one column is named 'b'"),
        ('b\n"1\n', "cannot be read as UTF-8 CSV"),
        ("b\n1\0\n", "table.csv"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(table, opened, text, message):
    with pytest.raises(DataError, match=message):
        opened("csv", table(text), "b")


def test_other_encodings_and_missing_files_are_errors(table, opened, tmp_path):
    with pytest.raises(DataError, match="cannot be read as UTF-8 CSV"):
        opened("csv", table("b\nü\n", "latin-1"), "b")
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        opened("csv", tmp_path / "nowhere.csv", "b")


def test_columns_must_describe_every_key(table, opened):
    with pytest.raises(DataError, match="'columns' does not say which column is 'feature'; did you mean 'features'"):
        opened("csv", table(TABLE), "feature", columns={"features": ["a", "b"]})
