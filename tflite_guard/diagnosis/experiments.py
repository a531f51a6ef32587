"""Experiments on one case: made on some examples, confirmed on others, and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.lab import Array, Arrays, Case, Change, Handle, Lab, Range, Ranges, Samples, TensorView
from tflite_guard.diagnosis.rewrites import composed
from tflite_guard.errors import EvaluationError
from tflite_guard.judgement.verdict import judge
from tflite_guard.results import Experiment, Verdict

HALF = 0.5
"""The fraction of the loss that a cause must give back."""
ONE_BIT = 0.75
"""The fraction of the noise's power that one bit more takes away: 6 dB."""
MOST_CHOOSING = 256
"""An experiment's cost grows with them, and half of a loss that matters is seen on fewer."""
SCREENED = 64
"""Examples that show which of many experiments are worth all: an error's power is known from few, a metric is not."""
MOST_CONFIRMING = 512
"""One change alone is confirmed, so that more cost little, and smaller losses are certain on them."""
UNMOVED = 0.01
"""A change of a range that is none: rescaled constants are rounded."""
FAR_TOO_WIDE = 2.0
"""Times as wide as what a tensor holds."""
MOST_CALIBRATED = 128
"""Evaluation inputs that real ranges are taken on."""


@dataclass(frozen=True)
class Trial:
    """What one change gave back on the examples that choose."""

    name: str
    handle: Handle
    quieter: float
    """The fraction of the noise's power that is gone; below zero where there is more."""
    recovered: float
    """The fraction of the metric's loss that is back."""
    samples: Samples | None = None
    """Inputs in place of the evaluation's, in all examples."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Outputs whose values are another's; those not named keep their own."""
    change: Change | None = None
    """How the model was quantized, where that is what was tried."""
    ran: bool = True
    """Whether it could be made and run; one that could not gives nothing back."""

    def read(self, outputs: Arrays) -> Arrays:
        """A model's outputs as this change reads them."""
        return exchanged(outputs, self.taken)


def exchanged(arrays: Arrays, taken: Mapping[str, str]) -> Arrays:
    """Arrays of which some take another's values, by name."""
    return {name: arrays[taken.get(name, name)] for name in arrays}


@dataclass(frozen=True)
class Mended:
    """A fault that is out of the way, so that experiments are about what is lost besides."""

    name: str
    change: Change
    """With each activation's true range."""
    before: Bench


@dataclass
class Bench:
    """One case under examination: its examples in three parts, and all that was tried."""

    lab: Lab
    case: Case
    tried: list[Trial] = field(default_factory=list)
    mended: Mended | None = None
    restored: dict[str, Trial] = field(default_factory=dict)
    """The experiments with one tensor in float, by its name."""

    def after(self, name: str, change: Change) -> Bench:
        """The same case with a change made first, all else as the artifact has it, to look for another fault.

        `change` has each activation's true range. Where it changes nothing else, the ranges are what it mends.
        """
        return Bench(self.lab, self.case, self.tried, Mended(name, change, self))

    @cached_property
    def artifact(self) -> Handle:
        """What is to be explained: the artifact, or what it becomes with a first fault mended."""
        if self.mended is None:
            return self.lab.artifact
        return self.lab.quantize(self._with_mended(Change({**self.real, **self.artifact_ranges})))

    @cached_property
    def artifact_ranges(self) -> Ranges:
        """The artifact's ranges by the float graph's names; of rescaled tensors, rescaled as their true ones are."""
        if self.mended is None:
            return self.lab.artifact_ranges
        before, change = self.mended.before, self.mended.change
        if change.of_ranges:
            return change.ranges
        given = before.artifact_ranges
        moved = {
            name: _moved(pair, before.real[name], self.real[name]) for name, pair in given.items() if name in self.real
        }
        # The converter's calibrator gives an addition's input its result's range, and a concatenation's branches share
        # one; where that shrinks, all do.
        followed: dict[Range, Range] = {}
        for name in sorted(moved, key=lambda one: evidence.width(moved[one])):
            if moved[name] != given[name]:
                followed[given[name]] = moved[name]
        return {name: followed.get(given[name], pair) for name, pair in moved.items()}

    def ranges(self, samples: Samples, constants: Mapping[str, Array] | None = None) -> Ranges:
        """Each activation's true range on some inputs, with some constants replaced."""
        return self.lab.ranges(samples, self._with_mended(Change({}, constants=constants)).constants)

    def _with_mended(self, change: Change) -> Change:
        """A change made besides those that mend."""
        if self.mended is None:
            return change
        first = self.mended.before._with_mended(self.mended.change)
        constants = composed(self.lab, [first.constants or {}, change.constants or {}])
        return replace(change, keep=(*first.keep, *change.keep), constants=constants)

    @cached_property
    def _parts(self) -> list[Array]:
        """Examples that choose, that confirm and that verify: a third each; what few choose of more, others share."""
        count = self.lab.evaluation.count
        chosen = min(count // 3, MOST_CHOOSING)
        confirmed = min((count - chosen) // 2, MOST_CONFIRMING)
        return np.split(np.arange(count), [chosen, chosen + confirmed])

    @property
    def choosing(self) -> Array:
        """The examples that experiments are chosen by."""
        return self._parts[0]

    @property
    def confirming(self) -> Array:
        """The examples that a cause is confirmed on."""
        return self._parts[1]

    @property
    def looked_at(self) -> Array:
        """All examples but those that verify."""
        return np.concatenate([self.choosing, self.confirming])

    @property
    def verifying(self) -> Array:
        """The examples that remedies are verified on."""
        return self._parts[2]

    @cached_property
    def reference(self) -> Arrays:
        """The reference's outputs on the choosing examples."""
        return self.lab.reference(self.choosing)

    @cached_property
    def bad(self) -> Arrays:
        """The artifact's outputs on the choosing examples."""
        return self.outputs(self.artifact, self.choosing)

    @cached_property
    def float32(self) -> Arrays:
        """The float model's outputs on the choosing examples."""
        if self.mended is not None:
            return self.mended.before.float32
        return self.outputs(self.lab.float32, self.choosing)

    @cached_property
    def real(self) -> Ranges:
        """Each activation's true range on the choosing examples."""
        return self.ranges(self.calibrating) if self.mended is None else self.mended.change.ranges

    @property
    def calibrating(self) -> Samples:
        """The evaluation inputs that real ranges are taken on."""
        return self.lab.evaluation.take(self.choosing[:MOST_CALIBRATED])

    @cached_property
    def views(self) -> list[TensorView]:
        """How each activation fares with the artifact's ranges."""
        if self.mended is not None:
            return self.mended.before.views
        return self.lab.tensors({**self.real, **self.lab.artifact_ranges}, self.choosing)

    @cached_property
    def real_views(self) -> list[TensorView]:
        """How each activation fares with its true range, by itself."""
        if self.mended is not None:
            return self.mended.before.real_views
        return self.lab.tensors(self.real, self.choosing, alone=True)

    def outputs(self, handle: Handle, rows: Array) -> Arrays:
        """A model's outputs on some examples."""
        return self.lab.outputs(handle, self.lab.evaluation.take(rows))

    def quieter(self, outputs: Arrays) -> float:
        """The fraction of the artifact's noise that some outputs, of the first choosing examples, do not have."""
        count = len(next(iter(outputs.values())))
        reference, bad = (_first(arrays, count) for arrays in (self.reference, self.bad))
        lost = evidence.noise(bad, reference)
        return 1.0 - evidence.noise(outputs, reference) / lost if lost > 0 else 0.0

    def value(self, outputs: Arrays, rows: Array) -> float | None:
        """The metric that is diagnosed, on some examples."""
        found = self._values(outputs, rows, np.ones((1, len(rows))))[0, 1]
        return float(found) if np.isfinite(found) else None

    def _values(self, outputs: Arrays, rows: Array, weights: Array) -> Array:
        return self.lab.statistic(self.lab.scores(outputs, rows), weights)

    def recovered(self, outputs: Arrays, bad: Arrays, rows: Array, weights: Array) -> Experiment | None:
        """What some outputs give back on some examples, without a name; None where nothing is lost there."""
        found = evidence.recovered(
            self.case.healthy,
            self._values(bad, rows, weights),
            self._values(outputs, rows, weights),
            higher_is_better=self.case.higher_is_better,
        )
        return None if found is None else Experiment("", *found)

    def quantized(self, name: str, change: Change) -> Trial:
        """Quantize otherwise, and see."""
        return self._seen(self._made(name, change), self.choosing)

    def screened(self, changes: Iterable[tuple[str, Change]]) -> list[Trial]:
        """Quantize otherwise, and see what a few examples say; while one runs, the next is made."""
        with ThreadPoolExecutor(1) as pool:
            made = pool.map(lambda one: self._made(*one), changes)
            return [self._seen(trial, self.choosing[:SCREENED]) for trial in made]

    def in_full(self, screened: Trial) -> Trial:
        """The same experiment on all choosing examples."""
        if len(self.choosing) <= SCREENED:
            return screened
        self.tried[:] = [one for one in self.tried if one is not screened]
        return self._seen(screened, self.choosing)

    def tested(
        self, name: str, handle: Handle, samples: Samples | None = None, taken: Mapping[str, str] | None = None
    ) -> Trial:
        """Run a model, or the same one on other inputs or read otherwise, on the choosing examples, and see."""
        return self._seen(Trial(name, handle, 0.0, 0.0, samples, taken or {}), self.choosing)

    def _made(self, name: str, change: Change) -> Trial:
        besides = f", besides {self.mended.name}" if self.mended is not None else ""
        try:
            handle = self.lab.quantize(self._with_mended(change))
        except EvaluationError:
            return _not_run(Trial(f"{name}{besides}", self.artifact, 0.0, 0.0, change=change))
        return Trial(f"{name}{besides}", handle, 0.0, 0.0, change=change)

    def _seen(self, trial: Trial, rows: Array) -> Trial:
        if not trial.ran:
            return trial
        try:
            outputs = self._tried(trial, rows)
        except EvaluationError:
            return _not_run(trial)  # ranges that no user would have can be such that LiteRT refuses the file
        given = self.recovered(outputs, _first(self.bad, len(rows)), rows, np.ones((1, len(rows))))
        trial = replace(trial, quieter=self.quieter(outputs), recovered=given.recovered if given else 0.0)
        self.tried.append(trial)
        return trial

    def _tried(self, trial: Trial, rows: Array) -> Arrays:
        return trial.read(self.lab.outputs(trial.handle, (trial.samples or self.lab.evaluation).take(rows)))

    def confirmed(self, trial: Trial, *, noise: bool = True) -> Experiment | None:
        """The experiment on the confirming examples: None unless it gives back half of the loss, surely not by chance.

        Only one hypothesis is ever confirmed, the one that the choosing examples chose, so nothing is corrected.
        `noise` is as `surely` has it.
        """
        found = self.surely(self._tried(trial, self.confirming), noise=noise)
        if found is None or found.confidence_interval is None:
            return None
        return Experiment(trial.name, round(found.recovered, 4), _rounded(found.confidence_interval))

    def proven(self, trial: Trial) -> Experiment | None:
        """The same of an experiment that gives back half of the loss on the choosing examples, too."""
        return self.confirmed(trial) if trial.recovered >= HALF else None

    def surely(self, outputs: Arrays, *, noise: bool = True) -> Experiment | None:
        """What some outputs, of the confirming examples, give back, without a name; None as `confirmed` has it.

        With `noise`, None as well where most of it is left: errors can happen to cancel out in a metric, which explains
        none.
        """
        rows = self.confirming
        bad, reference = self.outputs(self.artifact, rows), self.lab.reference(rows)
        if noise and evidence.noise(outputs, reference) > (1.0 - HALF) * evidence.noise(bad, reference):
            return None
        found = self.recovered(outputs, bad, rows, evidence.weights_drawn(len(rows)))
        if found is None or found.confidence_interval is None:
            return None
        return found if found.recovered >= HALF and found.confidence_interval[0] > 0 else None

    def judged(self, handle: Handle, rows: Array) -> tuple[dict[str, float | None], bool]:
        """Every metric's value on some examples, and whether all hold their tolerances."""
        values: dict[str, float | None] = {}
        within = True
        for of, measurement in self.lab.measured(self.outputs(handle, rows), rows):
            result, _ = judge(measurement, self.case.tolerances.get(of), None)
            values[measurement.name] = measurement.value
            within = within and result.verdict in (None, Verdict.PASS)
        return values, within


def _not_run(trial: Trial) -> Trial:
    return replace(trial, quieter=-np.inf, recovered=0.0, ran=False)


def _moved(given: Range, before: Range, after: Range) -> Range:
    """The range that a tensor is given where its true one changes: as far off from it as it was, in proportion.

    One that was given far too much, as a concatenation's branches are, grows into that first.
    """
    ratio = evidence.width(after) / evidence.width(before) if evidence.width(before) > 0 else 1.0
    if abs(ratio - 1.0) < UNMOVED:
        return given
    if ratio > 1.0 and evidence.width(given) > FAR_TOO_WIDE * evidence.width(before):
        return min(given[0], after[0]), max(given[1], after[1])
    low, high = (end + (own - true) * ratio for own, true, end in zip(given, before, after, strict=True))
    return low, high


def _first(arrays: Arrays, count: int) -> Arrays:
    return {name: values[:count] for name, values in arrays.items()}


def _rounded(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    return round(low, 4), round(high, 4)
