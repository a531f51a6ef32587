"""How sure a variant and its reference are of their answers, and how often they are right when they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_guard.metrics.labels import flat, is_one_unit
from tflite_guard.metrics.scores import improbable
from tflite_guard.results import Confidence

Array = npt.NDArray[Any]
BINS = 15
"""Of equal width, as Guo et al. 2017 have."""
UNIT = 2**32
"""Confidences are added as whole multiples of its inverse, so that the sum is the same in whatever parts it is made.
Those of billions of examples are a number that JSON and 64 bits hold."""


@dataclass
class Bins:
    """One model's answers by its confidence in them."""

    examples: list[int] = field(default_factory=lambda: [0] * BINS)
    right: list[int] = field(default_factory=lambda: [0] * BINS)
    total: list[int] = field(default_factory=lambda: [0] * BINS)
    """The sum of confidences, in units."""

    def add(self, confidence: Array, right: Array) -> None:
        """Confidences (n,) float64 from 0 to 1, and whether each answer is right."""
        # Bins are open below, ((m - 1) / 15, m / 15].
        which = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        units = np.rint(confidence * UNIT).astype(np.int64)
        for place in np.unique(which).tolist():
            own = which == place
            self.examples[place] += int(own.sum())
            self.right[place] += int(right[own].sum())
            self.total[place] += int(units[own].sum())

    def join(self, other: Bins) -> None:
        """Take in the answers to other examples."""
        for own, theirs in (
            (self.examples, other.examples),
            (self.right, other.right),
            (self.total, other.total),
        ):
            own[:] = [one + more for one, more in zip(own, theirs, strict=True)]

    @property
    def mean(self) -> float:
        """Of all confidences."""
        return sum(self.total) / UNIT / sum(self.examples)

    @property
    def error(self) -> float:
        """The expected calibration error: how far accuracy is from confidence in a bin, averaged over the examples."""
        apart = (abs(right - total / UNIT) for right, total in zip(self.right, self.total, strict=True))
        return sum(apart) / sum(self.examples)


@dataclass
class Confidences:
    """Collects how sure both models are of one decision an example."""

    from_logits: bool
    """The manifest says so; else outputs are probabilities, where all of the reference's are."""
    probable: bool = True
    reference: Bins = field(default_factory=Bins)
    variant: Bins = field(default_factory=Bins)

    def add(
        self, reference: Array, outputs: Array, decided: Array, answers: Array, numbers: Array, counted: Array
    ) -> None:
        """One batch: both models' outputs (n, ...), their decisions, the labels and which examples count, each (n,)."""
        if not self.from_logits:
            self.probable = self.probable and not bool(np.any(improbable(reference)))
            if not self.probable:
                return
        for bins, values, chosen in ((self.reference, reference, decided), (self.variant, outputs, answers)):
            sure = self._of(values, chosen)
            bins.add(sure[counted], (chosen == numbers)[counted])

    def _of(self, outputs: Array, chosen: Array) -> Array:
        """The probability of what is chosen, (n,) float64, as an application would read it: not divided by the sum."""
        values = flat(outputs).astype(np.float64)
        if is_one_unit(outputs):
            one = values[:, 0]
            if self.from_logits:
                one = np.exp(-np.logaddexp(0.0, -one))
            values = np.stack([1.0 - one, one], 1)
        elif self.from_logits:
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        return np.clip(values[np.arange(len(values)), chosen], 0.0, 1.0)

    def join(self, other: Confidences) -> None:
        """Take in what was collected on the examples behind."""
        self.probable = self.probable and other.probable
        self.reference.join(other.reference)
        self.variant.join(other.variant)

    def found(self, metric: str, *, labelled: bool) -> Confidence | None:
        """What comes of it; None where outputs are not known to be probabilities or logits, or no example counts."""
        count = sum(self.reference.examples)
        if not count or not (self.from_logits or self.probable):
            return None
        return Confidence(
            metric,
            count,
            self.reference.mean,
            self.variant.mean,
            self.reference.error if labelled else None,
            self.variant.error if labelled else None,
        )
