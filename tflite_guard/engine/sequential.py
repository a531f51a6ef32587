"""An evaluation that stops as soon as its verdict is certain: in which order, in which blocks, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tflite_guard.errors import GuardError
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.scores import Scores
from tflite_guard.metrics.sequential import settled, with_intervals, without_intervals
from tflite_guard.protocol import Stopping
from tflite_guard.results import Measurement
from tflite_guard.vocabulary import METRICS

Array = npt.NDArray[Any]
Scored = tuple[str, MetricSpec, Scores]
"""A measurement's name, its metric, and its scores."""


class Scorer(Protocol):
    """What collects the scores, in the order in which examples are evaluated."""

    @property
    def scored(self) -> list[Scored]:
        """Each measurement's name with its metric and the scores so far."""

    def arrange(self, index: Array) -> None:
        """Bring them into another order."""

    def measurements(self) -> list[tuple[str, Measurement]]:
        """Each metric's name in the manifest with its measurement."""


FIRST = 128
"""Examples of the first block."""
_ORDER = 1
"""Beside the dataset's seed, so that the order has nothing to do with which examples `limit` has chosen."""


def ends(examples: int) -> Iterator[int]:
    """How many examples have been evaluated at the end of each block: each time half as many more, then all."""
    end = FIRST
    while end < examples:
        yield end
        end += end // 2
    yield examples


class Sampling:
    """The order of a sequential evaluation, and what is certain at the end of each block.

    Within a block examples are read in the order of the source, so that one pass through it is enough. The order in
    which they count as drawn is the random one.
    """

    def __init__(self, stopping: Stopping, examples: int, seed: int) -> None:
        self._stopping = stopping
        self._size = examples
        self._order = np.random.default_rng((seed, _ORDER)).permutation(examples)
        self._ends = [0, *ends(examples)]
        self.blocks = [np.sort(self._order[start:end]) for start, end in pairwise(self._ends)]
        self.places = np.concatenate(self.blocks)
        """Each example's place in the evaluation data, in the order in which they are evaluated."""

    def certain(self, done: int, scorer: Scorer) -> bool:
        """Whether a block ends after so many examples, and with it the verdict on all of them is certain."""
        if done not in self._ends or done == self._size:
            return False
        evaluated = np.empty(self._size, np.int64)
        evaluated[self.places] = np.arange(self._size)
        scored = scorer.scored
        certain = all(
            settled(
                _taken(scores, evaluated[self._order[:done]]),
                _bounds(spec),
                self._size,
                self._stopping.limits[spec.name],
                self._stopping.recorded.get(name),
                self._alpha(scored),
            )
            for name, spec, scores in scored
            if spec.name in self._stopping.limits
        )
        return certain and _sound(scorer)

    def measurements(self, done: int, scorer: Scorer) -> list[tuple[str, Measurement]]:
        """Each metric's name in the manifest with its measurement on the first so many examples.

        Of all examples it is what it is when they are evaluated in order.
        """
        scorer.arrange(np.argsort(self.places[:done]))
        measured = scorer.measurements()
        if done == self._size:
            return measured
        scored = {name: (name, spec, scores) for name, spec, scores in scorer.scored}
        alpha = self._alpha(scorer.scored)
        return [(of, self._of_all(one, scored.get(one.name), done, alpha)) for of, one in measured]

    def _of_all(self, measured: Measurement, scored: Scored | None, done: int, alpha: float) -> Measurement:
        """A measurement on a part with what it says of all; the scores are by place."""
        if scored is None or METRICS[scored[1].metric].bounds is None:
            return without_intervals(measured)
        _, spec, scores = scored
        drawn = np.searchsorted(np.sort(self.places[:done]), self._order[:done])
        found = with_intervals(measured, _taken(scores, drawn), _bounds(spec), self._size, alpha)
        return replace(found, settled=spec.name in self._stopping.limits)

    def _alpha(self, scored: Sequence[Scored]) -> float:
        """With which each end of each interval may be wrong, so that no limit of any metric is misjudged more often."""
        limits = sum(len(self._stopping.limits.get(spec.name, ())) for _, spec, _ in scored)
        return (1 - self._stopping.confidence) / (2 * max(limits, 1))


def _sound(scorer: Scorer) -> bool:
    """Whether every metric has a value on what was evaluated: one that lacks a class, say, would be an error."""
    try:
        return all(measured.error is None for _, measured in scorer.measurements())
    except GuardError:  # a user's own metric
        return False


def _taken(scores: Scores, index: Array) -> Scores:
    return {key: values[index] for key, values in scores.items()}


def _bounds(spec: MetricSpec) -> tuple[float, float]:
    bounds = METRICS[spec.metric].bounds
    assert bounds is not None
    return bounds
