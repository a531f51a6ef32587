"""What mends a variant: made as the user would get it, chosen on some examples and verified on others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import product
from typing import Any

from tflite_guard.diagnosis import mixed
from tflite_guard.diagnosis.causes import Cause, tensors
from tflite_guard.diagnosis.causes.calibration import MEASURED
from tflite_guard.diagnosis.causes.precision import INT16, WEIGHTS_BY_RECIPE
from tflite_guard.diagnosis.experiments import Bench
from tflite_guard.diagnosis.lab import Made, Option, Ports
from tflite_guard.errors import EvaluationError
from tflite_guard.results import Remedy

WEIGHTS = Option("quantize the weights alone, to 8 bits", {"quantization": "dynamic_range"})
FLOAT = Option("leave it in float32", {"quantization": "float32"})
INT16_BY_RECIPE = Option("use 16-bit activations", {"recipe": "static_wi8_ai16"})
FLOAT_ACTIVATIONS = Option(
    "use 8-bit weights, and activations in float throughout", {"recipe": "weight_only_wi8_afp32"}
)
SHOWN = 6
Judged = tuple[Made, dict[str, float | None], bool]
"""What an option makes, every metric's value on the examples that choose and confirm, and whether all hold."""


class Search:
    """Tries one option after the other until one is verified, or time is up."""

    def __init__(self, bench: Bench, causes: Sequence[Cause], seconds: float) -> None:
        self._bench = bench
        self._causes = causes
        self._end = time.monotonic() + seconds
        self._tested: list[Remedy] = []
        self._nearest: tuple[float, Option] | None = None
        """The best, by the metric, of what is quantized as was asked, and how good it is."""

    def run(self) -> tuple[tuple[Remedy, ...], tuple[Remedy, ...]]:
        """What is verified, the least change first; and the front of all that was tried, by value, size and operators
        in float.
        """
        bench = self._bench
        suggested, otherwise = _options(bench, self._causes)
        self._until_verified(suggested)
        if not self._verified and bench.restored:
            self._in_mixed_precision()
            if self._verified:
                # Which of them is best is for the user to say, who knows what runs well where it is to run.
                for option in otherwise if not self._late() else ():
                    self._try(option)
        self._until_verified(otherwise)
        holding = tuple(one for one in self._tested if one.verified)
        return holding, _undominated(self._tested, bench)[:SHOWN]

    @property
    def _verified(self) -> bool:
        return any(one.verified for one in self._tested)

    def _late(self) -> bool:
        return time.monotonic() >= self._end

    def _until_verified(self, options: Sequence[Option]) -> None:
        for option in options:
            if self._verified or self._late():
                return
            self._try(option)

    def _try(self, option: Option) -> None:
        """What holds every tolerance is measured again on examples that nothing was chosen by."""
        judged = self._judged(option)
        if judged is None:
            return
        made, values, holds = judged
        value = _value(values, self._bench)
        if _as_asked(option) and (self._nearest is None or value > self._nearest[0]):
            self._nearest = value, option
        if holds:
            values, holds = self._bench.judged(made.handle, self._bench.verifying)
        self._tested.append(
            Remedy(
                title=option.title,
                patch=dict(option.patch),
                verified=holds,
                metrics=values,
                size_bytes=made.size_bytes,
                float_operators=made.float_operators,
                target=option.target,
                also={target: dict(patch) for target, patch in option.also.items()},
            )
        )

    def _judged(self, option: Option) -> Judged | None:
        """None where an option cannot be made, or not be run."""
        try:
            made = self._bench.lab.convert(option)
            return (made, *self._bench.judged(made.handle, self._bench.looked_at))
        except EvaluationError:
            return None

    def _in_mixed_precision(self) -> None:
        """Leave the fewest tensors in float that it takes, and verify; where that fails, with what it took at first."""
        bench = self._bench
        base = self._base()

        def option(names: tuple[str, ...]) -> Option:
            kept = tensors.kept_in_float(bench, names)
            return kept if base is None else together(base, kept)

        def holds(names: tuple[str, ...]) -> bool:
            judged = self._judged(option(names))
            return judged is not None and judged[2]

        if base is None and bench.lab.shipped:
            return  # nothing that is quantized could be made
        now = time.monotonic()
        half = now + (self._end - now) / 2  # the rest is for another quantization
        names = mixed.candidates(bench, self._causes)
        found = mixed.smallest(bench, names, holds, lambda: time.monotonic() >= half)
        self._until_verified([option(one) for one in found])

    def _base(self) -> Option | None:
        """What to keep tensors in float besides: the best of what was tried, where it is better than the artifact."""
        if self._nearest is None or self._bench.lab.shipped:
            return None if self._nearest is None else self._nearest[1]
        value, option = self._nearest
        values, _ = self._bench.judged(self._bench.artifact, self._bench.looked_at)
        return option if value > _value(values, self._bench) else None


def _as_asked(option: Option) -> bool:
    """Whether all is in 8 bits as it was, with nothing else in float."""
    return not option.keep and option.patch.get("quantization", "int8") == "int8" and "recipe" not in option.patch


def _options(bench: Bench, causes: Sequence[Cause]) -> tuple[list[Option], list[Option]]:
    """What to try: what the causes say, all at once, with what helps often; and then another quantization."""
    lab = bench.lab
    said = [cause.options for cause in causes if cause.options]
    own = [reduce(together, each) for each in product(*said)] if said else []
    if lab.shipped:
        return list(_anew(bench, causes, own)), [_from_reference(one) for one in _otherwise(bench)]
    suggested = list(own)
    if lab.quantizable:
        # Experiments are made on true ranges; the converter's own may cost what a float operator gives back.
        suggested += [together(one, MEASURED) for one in own if one.keep]
        suggested += [MEASURED] if MEASURED not in own else []
    return suggested, [one for one in _otherwise(bench) if one not in own]


def _otherwise(bench: Bench) -> list[Option]:
    """Another quantization of the whole, the fastest first."""
    lab = bench.lab
    if lab.shipped:
        return [WEIGHTS, FLOAT] if lab.form == "integer" else [FLOAT]
    if lab.recipe is None:
        return [WEIGHTS, INT16] if lab.quantizable else [FLOAT]
    by_recipe = [WEIGHTS_BY_RECIPE, INT16_BY_RECIPE, FLOAT_ACTIVATIONS] if lab.form == "integer" else []
    return [one for one in by_recipe if one.patch["recipe"] != lab.recipe]


def _from_reference(one: Option) -> Option:
    return replace(one, title=f"make it again from the reference: {one.title}", patch={"tflite": None, **one.patch})


def _anew(bench: Bench, causes: Sequence[Cause], own: Sequence[Option]) -> Iterator[Option]:
    """A file of the user's own can only be made anew: like it where its calibration data is known."""
    lab = bench.lab
    calibration_at_fault = any(cause.change is not None and cause.change.of_ranges for cause in causes)
    if lab.calibration is not None and lab.quantizable and (own or not calibration_at_fault):
        whole = Option("all in 8 bits", {"quantization": "int8", **_io(lab.ports)})
        yield from map(_from_reference, [together(whole, one) for one in own] or [whole])
        yield from (_from_reference(together(whole, together(one, MEASURED))) for one in own if one.keep)
        if MEASURED not in own:
            yield _from_reference(together(whole, MEASURED))


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


def _value(values: Mapping[str, float | None], bench: Bench) -> float:
    """The metric that is diagnosed, larger is better."""
    found = values.get(bench.case.metric)
    return float("-inf") if found is None else found if bench.case.higher_is_better else -found


def _undominated(remedies: Sequence[Remedy], bench: Bench) -> tuple[Remedy, ...]:
    """Those that no other is as good as in the metric, the size and the operators in float; smallest first."""

    def costs(one: Remedy) -> tuple[int, int, float]:
        return one.size_bytes or 0, one.float_operators, -_value(one.metrics, bench)

    kept: list[Remedy] = []
    # Whatever is as good in all three comes earlier in this order.
    for one in sorted(remedies, key=costs):
        if not any(all(a <= b for a, b in zip(costs(other), costs(one), strict=True)) for other in kept):
            kept.append(one)
    return tuple(kept)
