"""What mends a variant: made as the user would get it, chosen on some examples and verified on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import product
from typing import Any

from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.causes.calibration import MEASURED
from tflite_guard.diagnosis.causes.precision import INT16
from tflite_guard.diagnosis.experiments import Bench
from tflite_guard.diagnosis.lab import Option, Ports
from tflite_guard.errors import EvaluationError
from tflite_guard.results import Remedy

WEIGHTS = Option("quantize the weights alone, to 8 bits", {"quantization": "dynamic_range"})
FLOAT = Option("leave it in float32", {"quantization": "float32"})
SHOWN = 6


class Search:
    """Tries one option at a time, so that it can be stopped between."""

    def __init__(self, bench: Bench, causes: Sequence[Cause]) -> None:
        self._bench = bench
        self._open = list(_options(bench, causes))
        self._tested: list[Remedy] = []

    def remaining(self) -> int:
        """How many options are left; none once one is verified."""
        return 0 if any(one.verified for one in self._tested) else len(self._open)

    def step(self) -> None:
        """Try the next option; what holds every tolerance is measured again on examples that nothing was chosen by."""
        option, bench = self._open.pop(0), self._bench
        try:
            made = bench.lab.convert(option)
        except EvaluationError:
            return
        values, verified = bench.judged(made.handle, bench.looked_at)
        if verified:
            values, verified = bench.judged(made.handle, bench.verifying)
        self._tested.append(
            Remedy(
                title=option.title,
                patch=dict(option.patch),
                verified=verified,
                metrics=values,
                size_bytes=made.size_bytes,
                float_operators=made.float_operators,
                target=option.target,
                also={target: dict(patch) for target, patch in option.also.items()},
            )
        )

    def results(self) -> tuple[tuple[Remedy, ...], tuple[Remedy, ...]]:
        """What is verified; and the front of all that was tried, by value and size."""
        holding = tuple(one for one in self._tested if one.verified)
        return holding, _undominated(self._tested, self._bench)[:SHOWN]


def _options(bench: Bench, causes: Sequence[Cause]) -> Iterator[Option]:
    """What to try: what the causes say, all at once, then what helps often, the cheapest to try first."""
    lab = bench.lab
    said = [cause.options for cause in causes if cause.options]
    own = [reduce(together, each) for each in product(*said)] if said else []
    if lab.shipped:
        yield from _anew(bench, causes, own)
        return
    yield from own
    if lab.quantizable:
        # Experiments are made on true ranges; the converter's own may cost what a float operator gives back.
        yield from (together(one, MEASURED) for one in own if one.keep)
    anyway: tuple[Option, ...] = (MEASURED,) if lab.quantizable else ()
    if not lab.by_recipe:
        anyway += (WEIGHTS, INT16) if lab.quantizable else (FLOAT,)
    yield from (one for one in anyway if one not in own)


def _anew(bench: Bench, causes: Sequence[Cause], own: Sequence[Option]) -> Iterator[Option]:
    """A file of the user's own can only be made anew: like it where its calibration data is known, else without any."""
    lab = bench.lab

    def from_reference(one: Option) -> Option:
        return replace(one, title=f"make it anew from the reference: {one.title}", patch={"tflite": None, **one.patch})

    calibration_at_fault = any(cause.change is not None and cause.change.of_ranges for cause in causes)
    if lab.calibration is not None and lab.quantizable and (own or not calibration_at_fault):
        whole = Option("all in 8 bits", {"quantization": "int8", **_io(lab.ports)})
        yield from map(from_reference, [together(whole, one) for one in own] or [whole])
        yield from (from_reference(together(whole, together(one, MEASURED))) for one in own if one.keep)
        yield from (from_reference(together(whole, one)) for one in (MEASURED,) if one not in own)
    yield from map(from_reference, (WEIGHTS, FLOAT) if lab.form == "integer" else (FLOAT,))


def _io(ports: Ports) -> dict[str, str]:
    """The type of a file's inputs and outputs, as a variant says it; nothing where they are float."""
    types = {port.dtype for port in (*ports.inputs.values(), *ports.outputs.values())}
    return {"io": types.pop()} if len(types) == 1 and types <= {"int8", "uint8"} else {}


def together(one: Option, other: Option) -> Option:
    """Both in one: what is of the variant in one patch, with what is of something else beside it."""
    also = {**one.also, **other.also}
    patch: dict[str, Any] = {}
    for option in (one, other):
        if option.target:
            also[option.target] = {**also.get(option.target, {}), **option.patch}
        else:
            patch = _merged(patch, option.patch)
    title = f"{one.title} and {other.title}"
    kept = tuple(dict.fromkeys((*one.keep, *other.keep)))
    if patch:
        return Option(title, patch, also=also, keep=kept)
    target = next(iter(also))
    return Option(title, also.pop(target), target, also=also, keep=kept)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two patches of one variant as one: lists grow, objects are merged, of all else the other's holds."""
    merged = dict(one)
    for key, value in other.items():
        own = merged.get(key)
        if isinstance(own, list) and isinstance(value, list):
            merged[key] = [*dict.fromkeys((*own, *value))]
        elif isinstance(own, Mapping) and isinstance(value, Mapping):
            merged[key] = {**own, **value}
        else:
            merged[key] = value
    return merged


def _undominated(remedies: Sequence[Remedy], bench: Bench) -> tuple[Remedy, ...]:
    """Those that no other beats in both the metric and the size, smallest first."""
    sign = 1.0 if bench.case.higher_is_better else -1.0

    def value(one: Remedy) -> float:
        found = one.metrics.get(bench.case.metric)
        return float("-inf") if found is None else sign * found

    kept: list[Remedy] = []
    for one in sorted(remedies, key=lambda remedy: (remedy.size_bytes or 0, -value(remedy))):
        if not kept or value(one) > value(kept[-1]):
            kept.append(one)
    return tuple(kept)
