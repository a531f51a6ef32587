"""What a model's inputs and outputs are called and look like, whatever the model is made of."""

from __future__ import annotations

from collections.abc import Sequence


def compatible(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes can be of the same tensor: the batch axis is free, None and equal dimensions agree."""
    if len(one) != len(other):
        return False
    return all(a is None or b is None or a == b for a, b in zip(one[1:], other[1:], strict=True))


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape for messages, e.g. `[?, 8, 8, 1]`."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
