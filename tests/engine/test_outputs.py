from __future__ import annotations

import numpy as np
import pytest

from tflite_guard.engine.outputs import require_finite
from tflite_guard.errors import EvaluationError


@pytest.mark.parametrize(
    ("converted", "cause"), [(True, "so the conversion did it"), (False, "find what overflows or divides by zero")]
)
def test_what_is_not_finite_is_the_conversions_where_the_reference_is(converted: bool, cause: str) -> None:
    values = np.array([[1.0, 2.0], [3.0, np.nan]])
    with pytest.raises(EvaluationError, match=f"m: output 'y' holds NaN or infinity, first in example 5 .*{cause}"):
        require_finite("m", {"x": values[:1], "y": values}, range(4, 6), converted=converted)
    require_finite("m", {"y": values[:1]}, range(1), converted=converted)
