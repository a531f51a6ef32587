"""Classes and slices: which of them are told, what they are called, and how few examples one may have."""

from __future__ import annotations

from collections.abc import Sequence

from tflite_guard.results import Slice

FEWEST = 20
"""Examples from which on a slice's own figures decide: one example of them is 5 %. Below, its interval does, where it
has one, so that a slice of three is not out of tolerance by one example, and one of ten that is lost altogether is."""
MOST_LISTED = 100
MOST_SLICES = 100
"""Values of one key."""
LONGEST_NAME = 100


def listed(every: Sequence[Slice], *, higher_is_better: bool) -> tuple[Slice, ...]:
    """What fares worst first, at most 100, among which are all that can decide a tolerance.

    Whatever the limit, that is the largest drop of enough examples, and the largest of either end of an interval.
    """

    def badness(one: Slice) -> tuple[float, int]:
        worse = -one.variant if higher_is_better else one.variant
        return (-worse if one.drop is None else -one.drop), -one.examples

    ordered = sorted(every, key=badness)
    sure = [one for one in ordered if one.interval is not None]
    large = [one for one in ordered if one.examples >= FEWEST]
    ends = [max(sure, key=lambda one: (one.interval or (0.0, 0.0))[end]) for end in (0, 1) if sure]
    chosen = {id(one): one for one in (*large[:1], *ends, *ordered)}
    return tuple(sorted([*chosen.values()][:MOST_LISTED], key=badness))


def called(key: str | None, one: Slice, names: Sequence[str] = ()) -> str:
    """A class by its number and its name, where it has one, or a slice by its key and its value."""
    if key is not None:
        return f"{key} {one.label!r}"
    known = isinstance(one.label, int) and 0 <= one.label < len(names)
    return f"class {one.label}" + (f" ({names[int(one.label)]!r})" if known else "")
