from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tflite_guard.datasets import open_dataset
from tflite_guard.engine.outputs import batch_size, require_finite
from tflite_guard.errors import EvaluationError
from tflite_guard.manifest.types import DatasetSpec, FileSpec
from tflite_guard.protocol import LARGEST_BATCH


@pytest.mark.parametrize(
    ("converted", "cause"), [(True, "so the conversion did it"), (False, "find what overflows or divides by zero")]
)
def test_what_is_not_finite_is_the_conversions_where_the_reference_is(converted: bool, cause: str) -> None:
    values = np.array([[1.0, 2.0], [3.0, np.nan]])
    with pytest.raises(EvaluationError, match=f"m: output 'y' holds NaN or infinity, first in example 5 .*{cause}"):
        require_finite("m", {"x": values[:1], "y": values}, range(4, 6), converted=converted)
    require_finite("m", {"y": values[:1]}, range(1), converted=converted)


@pytest.mark.parametrize(("values", "size"), [(10, 64), (40_000, 32), (60_000, 32), (140_000, 8), (10_000_000, 1)])
def test_batches_begin_where_pieces_may(values: int, size: int, tmp_path: Path) -> None:
    """A piece begins at a multiple of the largest batch, so every batch has a power of two."""
    np.savez(tmp_path / "data.npz", x=np.zeros((2, values), np.float32))
    data = open_dataset(DatasetSpec("data", "npz", FileSpec(str(tmp_path / "data.npz")), "x"), ["x"])
    assert batch_size(data, 0) == size
    assert LARGEST_BATCH % size == 0
