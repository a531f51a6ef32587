"""Decisions of a variant beside its reference's: the examples whose answer has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tflite_guard.datasets import Batch, Dataset
from tflite_guard.engine.confidence import Confidences
from tflite_guard.files import png
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.labels import Compared, binary_threshold, class_labels, decisions, is_decided, is_one_unit
from tflite_guard.protocol import Mistakes
from tflite_guard.results import MOST_WRONG, Changed, ChangedAnswer, Confidence, Mistake

Array = npt.NDArray[Any]
LABELLED = ("accuracy", "f1_macro", "top_k_accuracy")
"""Metrics whose labels say of an example which class is right."""
MOST_CHANGED = 20
MOST_PICTURES = 12


@dataclass
class Answers:
    """Collects the decisions on one output, batch by batch."""

    spec: MetricSpec
    """The metric that decides, with its `multi_label` settled."""
    output: str
    labels: str | None
    """The key of the output's labels; None without any."""
    pictures: bool = True
    """Examples may be shown."""
    confidences: Confidences = field(default_factory=lambda: Confidences(from_logits=False))
    _single: bool = True
    _examples: int = 0
    _labelled: int = 0
    """Examples whose label counts."""
    _changed: int = 0
    _lost: int = 0
    _gained: int = 0
    _worst: list[ChangedAnswer] = field(default_factory=list)
    _wrong: list[Mistake] = field(default_factory=list)
    """In order, at most `MOST_WRONG`."""
    _places: list[int] = field(default_factory=list)
    """Their places among all examples."""

    @staticmethod
    def first(columns: Sequence[tuple[MetricSpec, str, str | None]], data: Dataset) -> Answers | None:
        """Of the first metric that has labels of classes, else of the first `agreement`; None without either.

        `columns` are metrics, each with its output and the key of its labels.
        """
        deciding = [one for one in columns if not one[0].multi_label]
        labelled = (one for one in deciding if one[0].metric in LABELLED and one[2] is not None)
        agreeing = ((spec, output, None) for spec, output, _ in deciding if spec.metric == "agreement")
        found = next(labelled, None) or next(agreeing, None)
        if found is None:
            return None
        from_logits = any(spec.from_logits for spec, output, _ in columns if output == found[1])
        return Answers(*found, data.spec.pictures, Confidences(from_logits))

    def add(
        self, batch: Batch, outputs: Array, reference: Array, named: Callable[[int], str | None] = lambda _: None
    ) -> None:
        """One batch with the variant's and the reference's values of the output, (n, ...) each.

        `named` gives the file of the example at a row of the source.
        """
        decided = decisions(self.spec, reference)[0]
        self._single = self._single and decided.size == len(decided)
        if not self._single:
            return
        labels = None if self.labels is None else batch.labels[self.labels]
        numbers, counted = np.zeros(decided.shape, np.int64), np.zeros(decided.shape, bool)
        if labels is not None:
            numbers, counted = class_labels(Compared(self.spec, outputs, reference, labels, batch.rows), decided.shape)
        answers = decisions(self.spec, outputs)[0]
        wrong = np.flatnonzero(counted.reshape(-1) & (answers.reshape(-1) != numbers.reshape(-1)))
        wrong = wrong[: MOST_WRONG - len(self._wrong)]
        if len(wrong):
            above = _margins(self.spec, outputs, answers.reshape(-1), numbers.reshape(-1))
            self._places += (self._examples + wrong).tolist()
            self._wrong += [
                Mistake(
                    example=int(batch.rows[at]),
                    label=int(numbers.flat[at]),
                    variant=int(answers.flat[at]),
                    reference=int(decided.flat[at]),
                    margin=_finite(above, at),
                    file=named(int(batch.rows[at])) if self.pictures else None,
                )
                for at in wrong.tolist()
            ]
        theirs, ours, labelled, valid = (values.reshape(-1) for values in (decided, answers, numbers, counted))
        self._tally(theirs, ours, labelled, valid)
        if not is_decided(outputs):
            valid = np.ones(len(valid), bool) if labels is None else valid
            self.confidences.add(reference, outputs, theirs, ours, labelled, valid)
        changed = np.flatnonzero(decided.reshape(-1) != answers.reshape(-1))
        if not len(changed):
            return
        margins = [
            _margins(self.spec, scores, own.reshape(-1), other.reshape(-1))
            for scores, own, other in ((reference, decided, answers), (outputs, answers, decided))
        ]
        found = [
            ChangedAnswer(
                example=int(batch.rows[at]),
                label=int(numbers.flat[at]) if counted.flat[at] else None,
                reference=int(decided.flat[at]),
                variant=int(answers.flat[at]),
                reference_margin=_finite(margins[0], at),
                variant_margin=_finite(margins[1], at),
                file=named(int(batch.rows[at])) if self.pictures else None,
            )
            for at in changed.tolist()
        ]
        places = {one.example: at for one, at in zip(found, changed.tolist(), strict=True)}
        self._worst = sorted([*self._worst, *found], key=_badness)[:MOST_CHANGED]
        if not self.pictures:
            return
        self._worst[:MOST_PICTURES] = [
            replace(one, picture=_picture(batch.inputs, places[one.example])) if one.example in places else one
            for one in self._worst[:MOST_PICTURES]
        ]

    def join(self, other: Answers) -> None:
        """Take in what was collected on the examples behind."""
        self._single = self._single and other._single
        self.confidences.join(other.confidences)
        room = MOST_WRONG - len(self._wrong)
        self._wrong += other._wrong[:room]
        self._places += [self._examples + place for place in other._places[:room]]
        self._examples += other._examples
        self._labelled += other._labelled
        self._changed += other._changed
        self._lost += other._lost
        self._gained += other._gained
        self._worst = sorted([*self._worst, *other._worst], key=_badness)[:MOST_CHANGED]

    def _tally(self, decided: Array, answers: Array, numbers: Array, counted: Array) -> None:
        theirs, ours, differ = counted & (decided == numbers), counted & (answers == numbers), decided != answers
        self._examples += len(numbers)
        self._labelled += int(counted.sum())
        self._changed += int(differ.sum())
        self._lost += int((theirs & differ).sum())
        self._gained += int((ours & differ).sum())

    def confidence(self) -> Confidence | None:
        """How sure both are; None where an example has several decisions, and of outputs that are no probabilities."""
        return self.confidences.found(self.spec.name, labelled=self.labels is not None) if self._single else None

    def changed(self) -> Changed | None:
        """What has another answer than the reference's; None where an example has several decisions."""
        if not self._single:
            return None
        labelled = self.labels is not None
        # A picture of what has since come to lie further back is not worth its size.
        worst = [replace(one, picture=None) if at >= MOST_PICTURES else one for at, one in enumerate(self._worst)]
        return Changed(
            metric=self.spec.name,
            examples=self._examples,
            changed=self._changed,
            lost=self._lost if labelled else None,
            gained=self._gained if labelled else None,
            worst=tuple(worst),
        )

    def mistakes(self) -> Mistakes | None:
        """What the variant gets wrong, of examples in the order of their rows.

        None where an example has several decisions, and where no label counts.
        """
        if not self._single or not self._labelled:
            return None
        full = len(self._wrong) == MOST_WRONG
        looked_at = self._places[-1] + 1 if full else self._examples
        return Mistakes(self.spec.name, looked_at, self._examples, tuple(self._wrong))


def _badness(one: ChangedAnswer) -> tuple[bool, float, int]:
    """What the reference had right first, then what it was surest of."""
    return one.label != one.reference, -(one.reference_margin or 0.0), one.example


def _margins(spec: MetricSpec, scores: Array, own: Array, other: Array) -> Array | None:
    """By how much one answer's score is above the other's, (n,) float64; None where outputs are decisions."""
    if is_decided(scores):
        return None
    values = scores.reshape(len(scores), -1).astype(np.float64)
    if is_one_unit(scores):
        return np.abs(values[:, 0] - binary_threshold(spec))
    each = np.arange(len(values))
    return np.asarray(values[each, own] - values[each, other])


def _finite(margins: Array | None, at: int) -> float | None:
    return None if margins is None or not np.isfinite(margins[at]) else float(margins[at])


def _picture(inputs: dict[str, Array], at: int) -> str | None:
    """One example's input as a PNG in base64, its smallest value black and its largest white; None of what is no image.

    An image is the only input, (height, width, 1 or 3), of floats or bytes.
    """
    (values, *others) = inputs.values()
    if others or values.ndim != 4 or values.shape[3] not in png.COLOUR_TYPES or not values[at].size:
        return None
    if values.dtype.kind != "f" and values.dtype != np.uint8:
        return None
    small = values[at].astype(np.float64)
    longest = max(small.shape[:2])
    for axis in (0, 1):
        small = _shrunk(small, axis, max(1, small.shape[axis] * min(png.LONGEST_SIDE, longest) // longest))
    low, high = float(small.min()), float(small.max())
    scaled = np.rint((small - low) * (255 / (high - low) if high > low else 0.0)).astype(np.uint8)
    return png.picture(scaled.tobytes(), *scaled.shape)


def _shrunk(values: Array, axis: int, size: int) -> Array:
    """An axis made shorter: the means of so many stretches of it."""
    length = values.shape[axis]
    starts = np.arange(size) * length // size
    counts = np.diff(np.append(starts, length))
    shape = [-1 if at == axis else 1 for at in range(values.ndim)]
    return np.asarray(np.add.reduceat(values, starts, axis) / counts.reshape(shape))
