"""What mends a variant: made as the user would get it, chosen on some examples and verified on others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.causes.calibration import MEASURED
from tflite_guard.diagnosis.causes.precision import INT16
from tflite_guard.diagnosis.experiments import Bench
from tflite_guard.diagnosis.lab import Array, Handle, Option
from tflite_guard.errors import EvaluationError
from tflite_guard.judgement.verdict import judge
from tflite_guard.results import Remedy, Verdict

WEIGHTS = Option("quantize the weights alone, to 8 bits", {"quantization": "dynamic_range"})
FLOAT = Option("leave it in float32", {"quantization": "float32"})
SHOWN = 6


@dataclass(frozen=True)
class _Tested:
    remedy: Remedy
    within: bool
    """Every tolerance holds on the choosing examples."""
    handle: Handle


class Search:
    """Tries one option at a time, so that it can be stopped between."""

    def __init__(self, bench: Bench, cause: Cause | None) -> None:
        self._bench = bench
        self._open = list(_options(bench, cause))
        self._tested: list[_Tested] = []

    def remaining(self) -> int:
        """How many options are left; none once one of the cause's own holds every tolerance."""
        return 0 if any(one.within for one in self._tested) else len(self._open)

    def step(self) -> None:
        """Try the next option."""
        option = self._open.pop(0)
        try:
            made = self._bench.lab.convert(option)
        except EvaluationError:
            return
        values, within = self._judged(made.handle, self._bench.choosing)
        remedy = Remedy(
            option.title, dict(option.patch), False, values, made.size_bytes, made.float_operators, option.target
        )
        self._tested.append(_Tested(remedy, within, made.handle))

    def results(self) -> tuple[tuple[Remedy, ...], tuple[Remedy, ...]]:
        """Those that hold every tolerance, verified on unseen examples; and the front of all, by value and size."""
        verified = [self._verified(one) for one in self._tested if one.within]
        holding = sorted((one for one in verified if one.verified), key=lambda one: one.float_operators)
        front = [one.remedy for one in self._tested] if not verified else [*verified, *self._others()]
        return tuple(holding), _undominated(front, self._bench)[:SHOWN]

    def _others(self) -> Iterator[Remedy]:
        return (one.remedy for one in self._tested if not one.within)

    def _verified(self, one: _Tested) -> Remedy:
        values, within = self._judged(one.handle, self._bench.verifying)
        return replace(one.remedy, verified=within, metrics=values)

    def _judged(self, handle: Handle, rows: Array) -> tuple[dict[str, float | None], bool]:
        """Every metric's value on some examples, and whether all hold their tolerances."""
        outputs = self._bench.outputs(handle, rows)
        values: dict[str, float | None] = {}
        within = True
        for of, measurement in self._bench.lab.measured(outputs, rows):
            tolerance = self._bench.case.tolerances.get(of)
            result, _ = judge(measurement, tolerance, None)
            values[measurement.name] = measurement.value
            within = within and result.verdict in (None, Verdict.PASS)
        return values, within


def _options(bench: Bench, cause: Cause | None) -> Iterator[Option]:
    """What to try: what the cause says, then what helps often, the cheapest to try first."""
    lab = bench.lab
    if lab.shipped:
        # Nothing is known of how the file was made, so it can only be made anew in a way that needs no calibration.
        for one in (WEIGHTS, FLOAT) if lab.form == "integer" else (FLOAT,):
            yield replace(
                one, title=f"make it anew from the reference: {one.title}", patch={"tflite": None, **one.patch}
            )
        return
    own = cause.options if cause is not None else ()
    yield from own
    if lab.quantizable:
        # Experiments are made on true ranges; the converter's own may cost what a float operator gives back.
        yield from (_measured(one) for one in own if one.keep)
    anyway: tuple[Option, ...] = (MEASURED,) if lab.quantizable else ()
    if not lab.by_recipe:
        anyway += (WEIGHTS, INT16) if lab.quantizable else (FLOAT,)
    yield from (one for one in anyway if one not in own)


def _measured(option: Option) -> Option:
    """The same with measured ranges."""
    patch = {**option.patch, **MEASURED.patch}
    return replace(option, title=f"{option.title} and measure each tensor's own range", patch=patch)


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
