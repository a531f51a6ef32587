"""Which examples are told as being run, so that a crash can name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from tflite_guard.datasets import Dataset, open_dataset
from tflite_guard.datasets.under_way import UnderWay
from tflite_guard.engine.running import Running, run_batches
from tflite_guard.errors import EvaluationError
from tflite_guard.manifest.types import DatasetSpec, FileSpec
from tflite_guard.protocol import TensorInfo


class Echo(Running):
    """Gives back its input, and notes what was told when it got it."""

    def __init__(self, told: list[str], shape: tuple[int | None, ...], dtype: str = "float32") -> None:
        super().__init__("echo", {"x": TensorInfo(shape, dtype)}, stateful=False, fixed_batch=None)
        self.told, self.seen = told, dict[int, str]()

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        self.seen |= dict.fromkeys(np.ravel(tensors["x"]).astype(int).tolist(), self.told[-1])
        return {"y": tensors["x"]}

    def restart(self) -> None:
        pass


def telling(data: Dataset, told: list[str]) -> Dataset:
    return replace(data, under_way=UnderWay(told.append))


def ran(model: Running, data: Dataset, size: int = 64) -> None:
    list(run_batches([model], data.batches(size), data=data))


def told_at(data: Dataset, shape: tuple[int | None, ...], dtype: str = "float32", size: int = 64) -> dict[int, str]:
    told = [""]
    echo = Echo(told, shape, dtype)
    ran(echo, telling(data, told), size)
    assert told[-1] == ""
    return echo.seen


def numbers(folder: Path, **settings: Any) -> Dataset:
    np.savez(folder / "d.npz", x=np.arange(200, dtype=np.float32))
    return open_dataset(DatasetSpec("d", "npz", FileSpec(str(folder / "d.npz")), "x", **settings), ["x"])


def test_each_example_is_told_as_one_of_those_being_run(tmp_path: Path) -> None:
    seen = told_at(numbers(tmp_path), (None,))
    assert seen[0] == "ran examples 0 to 63 (from 0) of dataset 'd'"
    assert seen[64] == seen[127] == "ran examples 64 to 127 (from 0) of dataset 'd'"
    assert seen[199] == "ran examples 192 to 199 (from 0) of dataset 'd'"
    assert told_at(numbers(tmp_path), (None,), size=1)[7] == "ran example 7 (from 0) of dataset 'd'"


def test_examples_go_by_their_places_in_the_source_whatever_is_left_out(tmp_path: Path) -> None:
    few = numbers(tmp_path, limit=10, seed=1)
    first, last = int(few.rows[0]), int(few.rows[-1])
    assert told_at(few, (None,))[last] == f"ran 10 of examples {first} to {last} (from 0) of dataset 'd'"
    backwards = numbers(tmp_path).in_blocks([np.arange(100, 200), np.arange(100)])
    assert told_at(backwards, (None,))[0] == "ran examples 0 to 63 (from 0) of dataset 'd'"


def test_all_that_runs_at_once_is_told() -> None:
    told: list[str] = []
    data = Dataset(DatasetSpec("d", "npz", FileSpec("d.npz"), "x"), {}, {}, {}, None, range(200))  # type: ignore[arg-type]
    data = telling(data, told)
    with data.doing("ran", range(64)):
        with data.doing("ran", range(64, 128)), data.doing("read", range(128, 192)):
            pass
        assert told[1:4] == [
            "ran examples 0 to 127 (from 0) of dataset 'd'",
            "ran examples 0 to 127 (from 0) of dataset 'd' and read examples 128 to 191 (from 0) of dataset 'd'",
            "ran examples 0 to 127 (from 0) of dataset 'd'",
        ]
        assert told[-1] == "ran examples 0 to 63 (from 0) of dataset 'd'"
    assert told[-1] == ""


def test_what_is_read_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    data = telling(numbers(tmp_path), told)
    for batch in data.batches(64):
        assert told[-2:] == [f"read {data.called(batch.rows)} of dataset 'd'", ""]
    assert told[0] == "read examples 0 to 63 (from 0) of dataset 'd'"


class Picky(Echo):
    """Refuses the example of value 70, as an index beyond a table is refused."""

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        if 70 in tensors["x"]:
            raise EvaluationError("run", "picky cannot be run: index out of range")
        return super().call(tensors)


def test_what_cannot_be_run_is_told_with_its_example(tmp_path: Path) -> None:
    data = numbers(tmp_path)
    told = [""]
    with pytest.raises(EvaluationError) as raised:
        ran(Picky(told, (None,)), data)
    assert raised.value.kind == "run"
    assert str(raised.value) == (
        "picky cannot be run: index out of range; this was example 70 (from 0): correct or remove it if the model runs "
        "on others, else change the model"
    )


def test_images_are_told_by_their_files(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 20), ("c", 30)):
        Image.fromarray(np.full((1, 1, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    data = open_dataset(DatasetSpec("d", "images", FileSpec(str(tmp_path)), "image"), ["x"])
    seen = told_at(data, (None, 1, 1, 3), "uint8", size=2)
    assert seen[10] == f"ran examples 0 to 1 (from 0: {tmp_path}/a.png to {tmp_path}/b.png) of dataset 'd'"
    assert seen[30] == f"ran example 2 (from 0: {tmp_path}/c.png) of dataset 'd'"
