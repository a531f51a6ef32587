"""What `init` writes for each kind of data: sources, steps and labels, without a run of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tflite_guard.errors import DataError, UsageError
from tflite_guard.init import Chosen, dataset_of, manifest_of
from tflite_guard.init.sources import split
from tflite_guard.protocol import Names, TensorInfo
from tflite_guard.vocabulary import ReferenceKind

KIND: ReferenceKind = "keras"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(
    inputs: Mapping[str, tuple[int | None, ...]], outputs: Mapping[str, tuple[int | None, ...]], *scaling: str
) -> Names:
    return Names(
        {name: TensorInfo((None, *shape), "float32") for name, shape in inputs.items()},
        {name: TensorInfo((None, *shape), "float32") for name, shape in outputs.items()},
        scaling=scaling,
    )


def pictures(folder: str, count: int = 2, size: tuple[int, int] = (6, 5)) -> None:
    Path(folder).mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size).save(Path(folder) / f"{number}.png")


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


def test_the_columns_of_a_table_beside_its_labels_are_the_input() -> None:
    Path("data.csv").write_text("id,a,b,label\nx,1,2.5,0\ny,3,4,2\n")
    model = names({"row": (2,)}, {"kind": (3,)})
    made = dataset_of("data.csv", ".", model)
    assert made.settings["columns"] == {"features": ["a", "b"], "label": "label"}
    assert (made.settings["inputs"], made.settings["labels"]) == ({"row": "features"}, "label")
    with pytest.raises(DataError, match="takes 3 numbers, but beside label there are 2 columns of numbers: a, b"):
        dataset_of("data.csv", ".", names({"row": (3,)}, {"kind": (3,)}))


def test_a_npy_has_its_labels_in_another() -> None:
    np.save("x.npy", np.zeros((6, 4), np.float32))
    np.save("y.npy", np.arange(6) % 3)
    model = names({"x": (4,)}, {"kind": (3,)})
    made = dataset_of("x.npy", ".", model, None, "y.npy")
    assert made.settings == {"source": "npy", "path": "x.npy", "labels_file": "y.npy", "labels": "label"}
    assert "labels" not in dataset_of("x.npy", ".", model).settings


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
    Path("empty").mkdir()
    Path("some.tfrecord").touch()
    model = names({"x": (4, 4, 3)}, {"kind": (3,)})
    for path, message in (
        ("pictures", "pictures/1.png: is a Git LFS pointer"),
        ("data.csv", "data.csv: is a Git LFS pointer"),
        ("empty", "holds no images"),
        ("some.tfrecord", "features"),
        ("nothing.npz", "no such file"),
    ):
        with pytest.raises(UsageError, match=message):
            dataset_of(path, ".", model)
