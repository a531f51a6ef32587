"""What a model's inputs and outputs are called and look like, whatever the model is made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

MAX_PERMUTED = 6
"""Axes; of more, there are too many orders to try, and nobody has them."""


def compatible(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes can be of the same tensor: the batch axis is free, None and equal dimensions agree."""
    if len(one) != len(other):
        return False
    return all(a is None or b is None or a == b for a, b in zip(one[1:], other[1:], strict=True))


def permutation(given: Sequence[int], wanted: Sequence[int | None]) -> list[int] | None:
    """The order of axes that makes one shape another, e.g. [2, 0, 1]; of several, the one that swaps the fewest."""
    if len(given) != len(wanted) or len(given) > MAX_PERMUTED:
        return None
    orders = itertools.permutations(range(len(given)))
    fitting = [axes for axes in orders if compatible((0, *(given[axis] for axis in axes)), (0, *wanted))]
    return list(min(fitting, key=_swaps)) if fitting else None


def _swaps(axes: Iterable[int]) -> int:
    return sum(first > second for first, second in itertools.combinations(axes, 2))


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape for messages, e.g. `[?, 8, 8, 1]`."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
