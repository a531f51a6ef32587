"""Mixed precision: which tensors to leave in float where no change by itself holds the tolerances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tflite_guard.diagnosis.causes import Cause, tensors
from tflite_guard.diagnosis.experiments import Bench

Holds = Callable[[tuple[str, ...]], bool]
"""Whether every tolerance holds with some tensors in float."""


def candidates(bench: Bench, causes: Sequence[Cause]) -> list[str]:
    """Tensors that experiments have restored: the causes' own, then by what restoring each by itself gives back."""
    own = [cause.tensor for cause in causes if cause.tensor in bench.restored]
    return list(dict.fromkeys([*own, *tensors.by_effect(bench, bench.restored)]))


def smallest(bench: Bench, names: Sequence[str], holds: Holds, late: Callable[[], bool]) -> list[tuple[str, ...]]:
    """Sets of tensors with which every tolerance holds, the one to prefer first; none where there is none in time.

    They are restored one after the other until the tolerances hold. Then each, the heaviest first, is quantized again
    where they hold without it too, since a later one can make an earlier one needless.
    """
    enough = _enough(bench, names, holds, late)
    needed = enough
    for name in sorted(enough, key=lambda one: _weight(bench, one), reverse=True):
        rest = tuple(one for one in needed if one != name)
        if rest and not late() and holds(rest):
            needed = rest
    return [one for one in dict.fromkeys((needed, enough)) if one]


def _enough(bench: Bench, names: Sequence[str], holds: Holds, late: Callable[[], bool]) -> tuple[str, ...]:
    chosen: tuple[str, ...] = ()
    touched: set[str] = set()
    for name in names:
        around = tensors.touched(bench, name)
        if around <= touched:
            continue  # every operator that computes with it is in float already
        if late():
            break
        chosen, touched = (*chosen, name), touched | around
        if holds(chosen):
            return chosen
    return ()


def _weight(bench: Bench, name: str) -> tuple[int, int]:
    """What a tensor in float costs: constants that are not quantized, and operators."""
    around = tensors.operators_around(bench, name)
    constants = {constant for operator in around for constant in operator.constants}
    return sum(bench.lab.constant(one).size for one in constants), len(around)
