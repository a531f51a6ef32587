"""Calibration data beside evaluation data, as far as it costs little to see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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

    def __init__(self, every: int = 1) -> None:
        """Ranges are taken of one example in so many."""
        self._every = every
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
        key = hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in example.values())).digest()
        several = [values for values in example.values() if values.size > 1]
        constant = bool(several) and all(bool((values == values.flat[0]).all()) for values in several)
        if self.examples % self._every == 0:
            for name, values in example.items():
                if values.dtype.kind == "f" and values.size:
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
        found = {}
        for name, parts in self._values.items():
            low, high = np.percentile(np.concatenate(parts).astype(np.float64), ENDS)
            found[name] = (float(low), float(high))
        return found

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


def evaluation_seen(examples: int) -> Seen:
    """To be filled with all evaluation inputs: each is recognized, and some say what ranges they have."""
    return Seen(every=-(-examples // MOST_EXAMPLES))


def facts(calibration: Seen, evaluation: Seen) -> CalibrationFacts:
    """What the one is beside the other."""
    theirs = evaluation.spans()
    spans = ((name, own) for name, own in calibration.spans().items() if name in theirs)
    return CalibrationFacts(
        examples=calibration.examples,
        distinct=len(calibration.keys),
        constant=calibration.constant,
        shared=len(calibration.varied & evaluation.keys),
        inputs=tuple(InputSpans(name, own, theirs[name]) for name, own in spans),
        reaches=tuple(calibration.reaches()),
    )
