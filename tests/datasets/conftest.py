from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tflite_guard.datasets import Batch, Dataset, open_dataset
from tflite_guard.manifest.types import DatasetSpec, FileSpec, FunctionSpec


@pytest.fixture(scope="session")
def opened() -> Callable[..., Dataset]:
    """Opens a dataset for a model with one input, `image`, unless told otherwise."""

    def open_it(source: Any, path: Path | str, inputs: Any = "x", names: Any = ("image",), **options: Any) -> Dataset:
        code, roots = options.pop("allow_code", False), options.pop("roots", ())
        if "labels_file" in options:
            options["labels_file"] = FileSpec(options["labels_file"])
        if source == "python":
            options["function"] = FunctionSpec(str(path), options.pop("root", ""))
        file = None if source == "python" else FileSpec(str(path))
        spec = DatasetSpec("test", source, file, inputs, **options)
        return open_dataset(spec, list(names), allow_code=code, roots=roots)

    return open_it


@pytest.fixture(scope="session")
def whole() -> Callable[..., Batch]:
    """All examples as one batch, read in steps of `size`."""

    def read(dataset: Dataset, size: int = 3, name: str = "image") -> Batch:
        batches = list(dataset.batches(size))
        assert [len(batch.inputs[name]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert [batch.start for batch in batches] == list(range(0, dataset.examples, size))
        assert all(batch.inputs[name].dtype.isnative for batch in batches)
        first = batches[0]
        return Batch(
            {key: np.concatenate([b.inputs[key] for b in batches]) for key in first.inputs},
            {key: np.concatenate([b.labels[key] for b in batches]) for key in first.labels},
            None if first.groups is None else np.concatenate([b.groups for b in batches if b.groups is not None]),
            0,
            np.concatenate([b.rows for b in batches]),
        )

    return read
