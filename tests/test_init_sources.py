"""What `init` writes for each kind of data: sources, steps and labels, without a run of the model."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import EXAMPLES
from tests.fuzz.samples import field, tfrecord
from tflite_guard.errors import DataError, ManifestError, UsageError
from tflite_guard.init import Chosen, Dataset, dataset_of, manifest_of
from tflite_guard.init.sources import pattern_for, split
from tflite_guard.manifest import load
from tflite_guard.protocol import Names, TensorInfo
from tflite_guard.vocabulary import ReferenceKind

KIND: ReferenceKind = "keras"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(
    inputs: Mapping[str, tuple[int | None, ...]],
    outputs: Mapping[str, tuple[int | None, ...]],
    *scaling: str,
    outputs_called: Mapping[str, str] | None = None,
) -> Names:
    return Names(
        {name: TensorInfo((None, *shape), "float32") for name, shape in inputs.items()},
        {name: TensorInfo((None, *shape), "float32") for name, shape in outputs.items()},
        output_aliases=dict(outputs_called or {}),
        scaling=scaling,
    )


def pictures(folder: str, count: int = 2, size: tuple[int, int] = (6, 5)) -> None:
    Path(folder).mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size).save(Path(folder) / f"{number}.png")


def pictured() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (6, 5)).save(target, "PNG")
    return target.getvalue()


def test_a_folder_for_each_class_is_fitted_to_the_model() -> None:
    pictures("pictures/dog")
    pictures("pictures/cat")
    made = dataset_of("pictures", ".", names({"image": (8, 8, 1)}, {"kind": (2,)}))
    assert made.settings == {
        "source": "images",
        "path": "pictures",
        "class_order": ["cat", "dog"],
        "inputs": {"image": "image"},
        "labels": "label",
        "preprocess": [{"resize": [8, 8]}, {"channels": "grayscale"}, {"cast": "float32"}],
    }
    said = " ".join(made.notes)
    assert "class_order is alphabetical, as Keras numbers folders: check" in said
    assert "nothing in the model says how training scaled them" in said


def test_a_list_of_the_classes_beside_the_folder_says_their_order() -> None:
    pictures("pictures/dog")
    pictures("pictures/cat")
    Path("labels.txt").write_text("dog\ncat\n")
    made = dataset_of("pictures", ".", names({"image": (5, 6, 3)}, {"kind": (2,)}, "rescaling"))
    assert made.settings["class_order"] == ["dog", "cat"]
    assert made.settings["preprocess"] == [{"cast": "float32"}], "they have the model's size"
    assert "the model scales its inputs itself (rescaling), so no scaling is written" in made.notes


def test_images_without_classes_have_no_labels_and_channels_may_come_first() -> None:
    pictures("pictures")
    made = dataset_of("pictures", ".", names({"image": (3, 4, 4)}, {"kind": (2,)}))
    assert "labels" not in made.settings
    assert made.settings["preprocess"] == [{"resize": [4, 4]}, {"transpose": [2, 0, 1]}, {"cast": "float32"}]


def test_folders_that_are_not_the_models_classes_are_no_labels() -> None:
    for name in "abc":
        pictures(f"pictures/{name}")
    made = dataset_of("pictures", ".", names({"image": (5, 6, 3)}, {"kind": (2,)}))
    assert "labels" not in made.settings
    assert any("label [6] int64 does not fit as labels of 'kind'" in note for note in made.notes)


@pytest.mark.parametrize(
    ("outputs", "arrays", "labels", "tasks"),
    [
        ({"kind": (3,)}, {"y": np.arange(6) % 3}, "y", {"kind": "classes"}),
        ({"kind": (3,)}, {"y": (np.arange(6) % 3)[:, None]}, "y", {"kind": "classes"}),
        ({"kind": (3,)}, {"z": np.eye(3)[np.arange(6) % 3]}, "z", {"kind": "classes"}),
        ({"price": (1,)}, {"y": np.linspace(0, 9, 6)}, "y", {"price": "numbers"}),
        ({"price": (1,)}, {"price": np.linspace(0, 9, 6)[:, None]}, "price", {"price": "numbers"}),
        ({"price": (1,)}, {"z": np.linspace(0, 9, 6)}, None, {}),
        ({"kind": (3,)}, {"y": np.arange(6)}, None, {}),
        ({"kind": (3,)}, {"y": np.array(list("abcabc"))}, None, {}),
        ({"kind": (1,)}, {"y": np.arange(6) % 2}, "y", {"kind": "classes"}),
        ({"kind": (1,)}, {"y": np.arange(6)[:, None] % 2.0}, "y", {"kind": "classes"}),
        ({"kind": (1,)}, {"y": np.arange(6) % 2 * 2 - 1}, None, {}),
        ({"age": (1,)}, {"y": np.arange(6) + 40}, "y", {"age": "numbers"}),
        ({"box": (4,)}, {"box": np.arange(24).reshape(6, 4)}, "box", {"box": "numbers"}),
        (
            {"kind": (3,), "size": (1,)},
            {"y_size": np.linspace(0, 9, 6), "kind": np.arange(6) % 3},
            {"kind": "kind", "size": "y_size"},
            {"kind": "classes", "size": "numbers"},
        ),
        ({"a": (3,), "b": (3,)}, {"y": np.arange(6) % 3}, None, {}),
    ],
)
def test_labels_are_found_by_name_and_fit_or_by_values_and_never_because_they_are_left(
    outputs: dict[str, tuple[int, ...]], arrays: dict[str, np.ndarray], labels: object, tasks: dict[str, str]
) -> None:
    np.savez("data.npz", x=np.zeros((6, 4), np.float32), **arrays)
    model = names({"x": (4,)}, outputs)
    made = dataset_of("data.npz", ".", model)
    assert made.settings.get("labels") == labels
    assert made.tasks == tasks
    (entry,) = manifest_of(KIND, {}, "m", {"evaluation": made}, model)["models"]
    assert set(entry["tolerances"]) <= {one if isinstance(one, str) else one["name"] for one in entry["metrics"]}
    assert ("accuracy" in str(entry["metrics"])) == ("classes" in tasks.values())
    assert ("mae" in str(entry["metrics"])) == ("numbers" in tasks.values())


def test_what_is_not_certain_is_said_by_options() -> None:
    rows = np.zeros((6, 4), np.float32)
    np.savez("data.npz", a=rows, b=rows, c=np.arange(6) % 3, d=np.arange(6) % 3)
    model = names({"x": (4,)}, {"kind": (3,)})
    with pytest.raises(DataError, match="say which with --input NAME=KEY"):
        dataset_of("data.npz", ".", model)
    made = dataset_of("data.npz", ".", model, Chosen({"x": "b"}, {"": "d"}))
    assert (made.settings["inputs"], made.settings["labels"]) == ({"x": "b"}, "d")
    assert dataset_of("data.npz", ".", model, Chosen({"": "a"})).settings["inputs"] == {"x": "a"}
    for chosen, message in (
        (Chosen({"z": "a"}), "--input z=a: the model has no such input; it has x"),
        (Chosen({"x": "z"}), "--input x=z: data.npz has no array 'z'; it has a, b, c, d"),
        (Chosen({"x": "a"}, {"no": "c"}), "--labels no=c: say of which output"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            dataset_of("data.npz", ".", model, chosen)


@pytest.mark.parametrize(
    ("arrays", "note"),
    [
        ({"y": np.arange(6) + 1}, "labels of 'kind' [?, 3] float32, whose classes are the numbers 0 to 2 where y "
                                  "has 1 to 6, so it is not used"),
        ({"y": np.array(list("abcabc"))}, "y [6] <U1 does not fit as labels of 'kind' [?, 3] float32, whose classes"),
        ({"fold": np.ones(6), "id": np.arange(6)}, "data.npz: fold [6] float64 and id [6] int64 are not used"),
        ({"y": np.arange(6) % 3}, "data.npz: a is input 'x', since nothing else fits it"),
    ],
)  # fmt: skip
def test_what_is_left_out_or_taken_without_its_name_is_said(arrays: dict[str, np.ndarray], note: str) -> None:
    np.savez("data.npz", a=np.zeros((6, 4), np.float32), **arrays)
    made = dataset_of("data.npz", ".", names({"x": (4,)}, {"kind": (3,)}, outputs_called={"output_0": "kind"}))
    assert note in " ".join(made.notes)


def test_outputs_are_called_what_their_layers_are() -> None:
    np.savez("data.npz", x=np.zeros((6, 4), np.float32), kind=np.arange(6) % 3, alive_y=np.arange(6) % 2)
    called = {"output_0": "kind", "output_1": "alive"}
    model = names({"x": (4,)}, {"kind": (3,), "alive": (1,)}, outputs_called=called)
    made = dataset_of("data.npz", ".", model)
    assert made.settings["labels"] == {"kind": "kind", "alive": "alive_y"}
    (entry,) = manifest_of(KIND, {}, "m", {"evaluation": made}, model)["models"]
    assert [(one["name"], one["output"]) for one in entry["metrics"]][::2] == [
        ("kind.accuracy", "kind"), ("alive.accuracy", "alive"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="there are kind, alive"):
        dataset_of("data.npz", ".", model, Chosen(labels={"": "alive_y"}))


def test_the_columns_of_a_table_beside_its_labels_are_the_input() -> None:
    Path("data.csv").write_text("id,a,b,label\nx,1,2.5,0\ny,3,4,2\n")
    model = names({"row": (2,)}, {"kind": (3,)})
    made = dataset_of("data.csv", ".", model)
    assert made.settings["columns"] == {"features": ["a", "b"], "label": "label"}
    assert (made.settings["inputs"], made.settings["labels"]) == ({"row": "features"}, "label")
    assert made.notes == ("data.csv: id is not used, since not every cell is a number",)
    beside = r"takes 3 numbers, but beside label there are 2 columns of numbers: a, b \(not every cell .* in id\)"
    with pytest.raises(DataError, match=beside):
        dataset_of("data.csv", ".", names({"row": (3,)}, {"kind": (3,)}))


def test_columns_that_nobody_can_tell_apart_are_asked_for() -> None:
    Path("data.csv").write_text("id,a,b,c,kind\n1,1,2.5,0,1\n2,3,4,2,0\n")
    ids = dataset_of("data.csv", ".", names({"row": (3,)}, {"kind": (2,)}))
    assert ids.settings["columns"]["features"] == [
        "FILL IN: the 3 columns that are input 'row', in the order of training: keep these of those below, and remove "
        "the rest", "id", "a", "b", "c",
    ]  # fmt: skip
    assert ids.settings["labels"] == "kind"
    several = dataset_of("data.csv", ".", names({"left": (2,), "right": (1,), "c": (1,)}, {"kind": (2,)}),
                         Chosen({"right": "id"}))  # fmt: skip
    assert several.settings["inputs"] == {"left": "left", "right": "id", "c": "c"}
    assert several.settings["columns"]["left"][1:] == ["a", "b"]
    assert several.settings["preprocess"]["right"] == [{"expand_dims": 0}, {"cast": "float32"}]


@pytest.mark.parametrize(
    ("text", "chosen", "message"),
    [
        ("0.5,1.5,0\n2.5,3.5,1\n", (), "begins with numbers; its first line must name the columns"),
        ("a;b;kind\n1;2;0\n", (), "separates its columns by ';'; write it anew with commas"),
        (
            "a,b,kind\n1,2,cat\n",
            ("kind",),
            "--labels kind: in that column of data.csv not every cell is a number; for lab",
        ),
    ],
)
def test_a_table_that_is_none_is_told_as_what_it_is(text: str, chosen: tuple[str, ...], message: str) -> None:
    Path("data.csv").write_text(text)
    labels = dict.fromkeys(chosen and ("",), "".join(chosen))
    with pytest.raises((DataError, UsageError), match=message):
        dataset_of("data.csv", ".", names({"row": (2,)}, {"kind": (2,)}), Chosen(labels=labels))


def test_a_npy_has_its_labels_in_another() -> None:
    np.save("x.npy", np.zeros((6, 4), np.float32))
    np.save("y.npy", np.arange(6) % 3)
    model = names({"x": (4,)}, {"kind": (3,)})
    made = dataset_of("x.npy", ".", model, None, "y.npy")
    assert made.settings == {"source": "npy", "path": "x.npy", "labels_file": "y.npy", "labels": "label"}
    assert "labels" not in dataset_of("x.npy", ".", model).settings
    with pytest.raises(UsageError, match=r"holds one array; for inputs a, b put one of each name into an \.npz"):
        dataset_of("x.npy", ".", names({"a": (4,), "b": (4,)}, {"kind": (3,)}))
    with pytest.raises(UsageError, match=r"name labels with --labels y\.npy"):
        pattern_for(["x.npy", "y.npy"])


def test_calibration_lies_beside_evaluation() -> None:
    for folder in ("data/test/a", "data/train/a", "other/a"):
        pictures(folder)
    assert split("data") == ("data/test", "data/train")
    assert split("other") == ("other", None)
    Path("files").mkdir()
    for name in ("evaluation.npz", "calibration.npz", "test.npz"):
        (Path("files") / name).touch()
    assert split("files") == ("files/evaluation.npz", "files/calibration.npz")


def test_what_is_no_data_is_told_as_what_it_is() -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    Path("pictures").mkdir()
    Path("pictures/1.png").write_text(pointer)
    Path("data.csv").write_text(pointer)
    Path("y.npy").write_text(pointer)
    Path("data.parquet").write_text("PAR1")
    Path("empty").mkdir()
    Path("arrays").mkdir()
    for name in ("x.npy", "arrays/a.npy"):
        np.save(name, np.zeros((6, 4, 4, 3), np.float32))
    Path("some.tfrecord").touch()
    Path("other.tfrecord").write_bytes(b"something else, of some length")
    model = names({"x": (4, 4, 3)}, {"kind": (3,)})
    for path, message in (
        ("pictures", "pictures/1.png: is a Git LFS pointer"),
        ("data.csv", "data.csv: is a Git LFS pointer"),
        ("empty", "holds no images"),
        ("nothing.npz", "no such file"),
        ("arrays", r"name one as DATA: arrays/a\.npy"),
        ("data.parquet", r"no data that can be read: no \.npz, \.npy, CSV file"),
        ("x.npy", r"y\.npy: is a Git LFS pointer, not the file of labels itself; run `git lfs pull`"),
    ):
        with pytest.raises(UsageError, match=message):
            dataset_of(path, ".", model, None, "y.npy" if path == "x.npy" else None)
    for path, message in (("some.tfrecord", "holds no records"), ("other.tfrecord", "is damaged or not a TFRecord")):
        with pytest.raises(DataError, match=message):
            dataset_of(path, ".", model)


IMAGE = np.linspace(0, 1, 16, dtype=np.float32)
LABELS = [0, 2, 1, 0, 1, 2]


def record(**features: object) -> bytes:
    """A tf.train.Example as a protocol buffer."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            held = field(1, field(1, value))
        elif isinstance(value, int):
            held = field(3, field(1, bytes([value])))
        else:
            held = field(2, field(1, np.asarray(value, "<f4").tobytes()))
        entries += field(1, field(1, key.encode()) + field(2, held))
    return field(1, entries)


@pytest.mark.parametrize(
    ("features", "described", "preprocess"),
    [
        ({"image": IMAGE}, {"dtype": "float32", "shape": [4, 4, 1]}, None),
        ({"image": IMAGE.tobytes()}, {"dtype": "float32", "shape": [4, 4, 1], "encoding": "raw"}, None),
        (
            {"pixels": bytes(range(16))},
            {"dtype": "uint8", "shape": [4, 4, 1], "encoding": "raw"},
            [{"cast": "float32"}],
        ),
        (
            {"image/encoded": pictured()},
            {"dtype": "uint8", "encoding": "png"},
            [{"resize": [4, 4]}, {"channels": "grayscale"}, {"cast": "float32"}],
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_tfrecord_holds_is_found_in_its_records(
    features: dict[str, object], described: dict[str, object], preprocess: object, packed: bool
) -> None:
    content = tfrecord([record(**features, label=label, file=b"a.png", height=6) for label in LABELS])
    Path("data.tfrecord").write_bytes(gzip.compress(content) if packed else content)
    made = dataset_of("data.tfrecord", ".", names({"x": (4, 4, 1)}, {"kind": (3,)}))
    (key,) = features
    assert made.settings["features"] == {key: described, "label": {"dtype": "int64", "shape": []}}
    assert (made.settings["inputs"], made.settings["labels"]) == ({"x": key}, "label")
    assert made.settings.get("preprocess") == preprocess
    assert made.tasks == {"kind": "classes"}


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (bytes(16 * 4), "float32 or int32: the type of the values"),
        (b"\x08\x01" * 9, "the type of the values that an example's 18 bytes hold"),
    ],
)
def test_a_type_that_bytes_do_not_tell_is_left_open_and_asked_for(content: bytes, asked: str) -> None:
    Path("data.tfrecord").write_bytes(tfrecord([record(image=content, label=label) for label in LABELS]))
    model = names({"x": (4, 4, 1)}, {"kind": (3,)})
    told = problems_of(dataset_of("data.tfrecord", ".", model), model)
    assert f"left open; put here {asked}" in told[0]
    assert all("left open; put here" in one for one in told), "and nothing else is wrong"


@pytest.mark.parametrize(
    ("array", "steps"),
    [
        ((4, 6), [{"expand_dims": 2}]),
        ((1, 4, 6), [{"reshape": [4, 6, 1]}]),
        ((24,), [{"reshape": [4, 6, 1]}]),
    ],
)
def test_an_axis_that_is_missing_is_added(array: tuple[int, ...], steps: object) -> None:
    np.savez("data.npz", x=np.zeros((6, *array), np.float32), y=LABELS)
    made = dataset_of("data.npz", ".", names({"image": (4, 6, 1)}, {"kind": (3,)}))
    assert (made.settings["inputs"], made.settings["preprocess"]) == ({"image": "x"}, steps)


def test_channels_are_taken_to_where_the_model_has_them() -> None:
    np.savez("data.npz", x=np.zeros((6, 3, 4, 6), np.float32))
    made = dataset_of("data.npz", ".", names({"image": (4, 6, 3)}, {"kind": (3,)}))
    assert made.settings["preprocess"] == [{"transpose": [1, 2, 0]}]
    assert any("has its channels first" in note for note in made.notes)
    np.savez("data.npz", x=np.zeros((6, 3, 6, 4), np.float32))
    with pytest.raises(DataError, match="no array fits"):
        dataset_of("data.npz", ".", names({"image": (4, 6, 3)}, {"kind": (3,)}))


def test_images_of_another_size_leave_open_what_was_done_to_them() -> None:
    np.savez("data.npz", image=np.zeros((6, 9, 9, 3), np.uint8), y=LABELS)
    model = names({"image": (4, 4, 1)}, {"kind": (3,)})
    (told,) = problems_of(dataset_of("data.npz", ".", model), model)
    assert "left open; put here the steps that make [9, 9, 3] uint8 into [4, 4, 1] float32 as in training" in told


def problems_of(made: Dataset, model: Names) -> list[str]:
    """What `validate` says of the manifest that is written with a dataset."""
    shutil.copy(EXAMPLES / "digits/app/digits_int8.tflite", "m.tflite")
    manifest = manifest_of("tflite", {"tflite": "m.tflite"}, "m", {"evaluation": made}, model)
    Path("m.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError) as raised:
        load("m.json")
    return [one.message for one in raised.value.problems]


def shards(folder: str, name: str, count: int) -> None:
    Path(folder).mkdir(exist_ok=True)
    for number in range(count):
        path = Path(folder) / name.format(f"{number:05}-of-{count:05}")
        path.write_bytes(tfrecord([record(image=IMAGE, label=label) for label in LABELS[number::count]]))


def test_shards_are_read_as_one_and_written_as_their_pattern() -> None:
    shards("data", "all-{}.tfrecord", 2)
    model = names({"x": (4, 4, 1)}, {"kind": (3,)})
    for given in ("data", "data/all-*-of-00002.tfrecord"):
        made = dataset_of(given, ".", model)
        assert (made.settings["path"], made.settings["labels"]) == ("data/all-*-of-00002.tfrecord", "label")
    one = dataset_of("data/all-00001-of-00002.tfrecord", ".", model)
    assert "alone is used of data/all-*-of-00002.tfrecord; for all, name that pattern" in one.notes[0]
    paths = [f"data/all-0000{number}-of-00002.tfrecord" for number in range(2)]
    assert pattern_for(paths) == "data/all-*-of-00002.tfrecord"
    Path(paths[0]).unlink()
    with pytest.raises(UsageError, match=r"all-00000-of-00002\.tfrecord: no such file, although others"):
        dataset_of("data", ".", model)


def test_splits_of_shards_are_found_in_their_folder() -> None:
    shards("data", "toy-train.tfrecord-{}", 2)
    shards("data", "toy-test.tfrecord-{}", 1)
    Path("data/dataset_info.json").write_text("{}")
    assert split("data") == ("data/toy-test.tfrecord-*-of-00001", "data/toy-train.tfrecord-*-of-00002")
    shards("data", "b-test.tfrecord-{}", 1)
    with pytest.raises(UsageError, match="could each be the evaluation data; name one as DATA"):
        split("data")
    shards("parts", "a-{}.tfrecord", 1)
    shards("parts", "b-{}.tfrecord", 1)
    with pytest.raises(UsageError, match=r"holds parts/a-\*-of-00001.tfrecord and parts/b-\*-of-00001.tfrecord; name"):
        dataset_of("parts", ".", names({"x": (4, 4, 1)}, {"kind": (3,)}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data/x*", "no file matches"),
        ("*.csv", "matches a.csv; only TFRecord files are read together"),
    ],
)
def test_a_pattern_of_anything_else_is_refused(given: str, message: str) -> None:
    for name in "ab":
        Path(f"{name}.csv").write_text("x\n1\n")
    with pytest.raises(UsageError, match=re.escape(message)):
        dataset_of(given, ".", names({"x": (4, 4, 1)}, {"kind": (3,)}))
    with pytest.raises(UsageError, match=r"a\.csv and 1 more: DATA is one file, folder or pattern"):
        pattern_for(["a.csv", "other.npz"])
