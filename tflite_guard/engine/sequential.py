"""An evaluation that stops as soon as its verdict is certain: in which order, in which blocks, and when."""

from __future__ import annotations

from collections.abc import Iterator

FIRST = 128
"""Examples of the first block."""


def ends(examples: int) -> Iterator[int]:
    """How many examples have been evaluated at the end of each block: each time half as many more, then all."""
    end = FIRST
    while end < examples:
        yield end
        end += end // 2
    yield examples
