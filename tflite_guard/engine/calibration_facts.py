"""Calibration data beside evaluation data, as far as it costs little to see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tflite_guard.datasets import Dataset
from tflite_guard.protocol import CalibrationFacts, InputSpans, Reach

Array = npt.NDArray[Any]
MOST_EXAMPLES = 512
MOST_BYTES = 64 * 2**20
VALUES = 256
"""Of each example, that ranges are taken from: at the same places in all."""
ENDS = (1.0, 99.0)
"""Percentiles, so that a few extremes have no say."""
MOST_LEFT_OUT = 3
"""Examples: so many are all in one of two random halves once in four times, and then the other half is without them."""


class Seen:
    """Some examples: which they are, and what they hold."""

    def __init__(self) -> None:
        self._bytes = 0
        self._values: dict[str, list[Array]] = {}
        self._ends: dict[str, list[tuple[float, float]]] = {}
        self.examples = 0
        self.constant = 0
        self.keys: set[bytes] = set()
        self.varied: set[bytes] = set()
        """Of `keys`, those of examples that are no constant."""

    @property
    def full(self) -> bool:
        """No more is taken in."""
        return self._bytes >= MOST_BYTES

    def add(self, inputs: Mapping[str, Array]) -> None:
        """Take in some examples, (n, …) by input."""
        for row in range(len(next(iter(inputs.values())))):
            if self.full:
                return
            self._add({name: values[row] for name, values in inputs.items()})

    def _add(self, example: Mapping[str, Array]) -> None:
        key = _key(example)
        several = [values for values in example.values() if values.size > 1]
        constant = bool(several) and all(bool((values == values.flat[0]).all()) for values in several)
        for name, values in example.items():
            if _has_range(values):
                self._values.setdefault(name, []).append(_some(values))
                self._ends.setdefault(name, []).append((float(values.min()), float(values.max())))
        self.examples += 1
        self.constant += constant
        self.keys.add(key)
        if not constant:
            self.varied.add(key)
        self._bytes += sum(values.nbytes for values in example.values())

    def spans(self) -> dict[str, tuple[float, float]]:
        """Between which values most of each float input lies."""
        return {name: _span(parts) for name, parts in self._values.items()}

    def reaches(self) -> list[Reach]:
        """How far each float input reaches, with and without its furthest examples; of finite examples alone."""
        found = []
        for name, pairs in self._ends.items():
            ends = np.array(pairs)
            ends = ends[np.isfinite(ends).all(1)]
            ends = ends[np.argsort(-np.abs(ends).max(1, initial=0.0), kind="stable")]
            kept = [ends[count:] for count in range(MOST_LEFT_OUT + 1)]
            ranges = [(float(e[:, 0].min(initial=0.0)), float(e[:, 1].max(initial=0.0))) for e in kept]
            found.append(Reach(name, tuple(ranges)))
        return found


def _key(example: Mapping[str, Array]) -> bytes:
    return hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in example.values())).digest()


def _has_range(values: Array) -> bool:
    return values.dtype.kind == "f" and bool(values.size)


def _span(parts: Sequence[Array]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate(parts).astype(np.float64), ENDS)
    return float(low), float(high)


def _some(values: Array) -> Array:
    """The values at places that are the same for all examples of one size."""
    flat = values.reshape(-1)
    return flat if flat.size <= VALUES else flat[np.random.default_rng(0).choice(flat.size, VALUES)]


def calibration_seen(data: Dataset, samples: int | None) -> Seen:
    """At most so many of the examples that calibration uses, spread over all of them."""
    rows = data.rows[:samples]
    every = -(-len(rows) // MOST_EXAMPLES)
    seen = Seen()
    for batch in replace(data, rows=rows[::every]).batches(1, with_labels=False):
        seen.add(batch.inputs)
        if seen.full:
            break
    return seen


class Beside:
    """Evaluation inputs looked at beside calibration data: each is recognized, and some say what ranges they have."""

    def __init__(self, calibration: Seen, examples: int, first: int = 0) -> None:
        """Of evaluation data of so many examples those from the place `first` on are added."""
        self._varied = {key: place for place, key in enumerate(sorted(calibration.varied))}
        self._every = -(-examples // MOST_EXAMPLES)
        self._place = first
        self._bytes = 0
        self._sizes: list[int] = []
        self._matches: list[int] = []
        self._values: dict[str, dict[int, Array]] = {}
        self._calibration = calibration

    def add(self, inputs: Mapping[str, Array]) -> None:
        """Take in some examples, (n, …) by input."""
        for row in range(len(next(iter(inputs.values())))):
            if self._bytes >= MOST_BYTES:
                return
            example = {name: values[row] for name, values in inputs.items()}
            if self._place % self._every == 0:
                for name, values in example.items():
                    if _has_range(values):
                        self._values.setdefault(name, {})[self._place] = _some(values)
            self._matches.append(self._varied.get(_key(example), -1))
            self._sizes.append(sum(values.nbytes for values in example.values()))
            self._bytes += self._sizes[-1]
            self._place += 1

    def seen(self) -> SeenBeside:
        """What was seen, as plain data."""
        own = self._calibration
        calibration = CalibrationFacts(
            examples=own.examples,
            distinct=len(own.keys),
            constant=own.constant,
            shared=0,
            reaches=tuple(own.reaches()),
        )
        sizes, matches = np.array(self._sizes, np.int64), np.array(self._matches, np.int64)
        return SeenBeside(calibration, own.spans(), sizes, matches, self._values)


@dataclass
class SeenBeside:
    """Evaluation inputs as they were seen beside calibration data."""

    calibration: CalibrationFacts
    """Of the calibration data alone."""
    spans: dict[str, tuple[float, float]]
    """Its own, by input."""
    _sizes: Array
    """(n,) int64: each example's bytes."""
    _matches: Array
    """(n,) int64: which of the calibration examples that are no constant it is, by number; -1 for none."""
    _values: dict[str, dict[int, Array]]
    """By input and the example's place: values that ranges are taken from."""

    def join(self, other: SeenBeside) -> None:
        """Take in what was seen of the examples behind."""
        self._sizes = np.concatenate([self._sizes, other._sizes])
        self._matches = np.concatenate([self._matches, other._matches])
        for name, values in other._values.items():
            self._values.setdefault(name, {}).update(values)

    def facts(self) -> CalibrationFacts:
        """What the one is beside the other, as far as examples within MOST_BYTES tell."""
        count = int((np.cumsum(self._sizes) - self._sizes < MOST_BYTES).sum())
        matches = self._matches[:count]
        parts = {name: [one for place, one in values.items() if place < count] for name, values in self._values.items()}
        theirs = {name: _span(some) for name, some in parts.items() if some}
        return replace(
            self.calibration,
            shared=len(np.unique(matches[matches >= 0])),
            inputs=tuple(InputSpans(name, own, theirs[name]) for name, own in self.spans.items() if name in theirs),
        )
