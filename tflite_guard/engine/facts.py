"""What inputs and outputs are like beside their figures: their range, the same for every example, always one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_guard.engine import graph
from tflite_guard.engine.surgery import unpack
from tflite_guard.manifest.types import MetricSpec
from tflite_guard.metrics.labels import (
    Compared,
    Rows,
    class_labels,
    decisions,
    flat,
    is_decided,
    is_one_unit,
    value_labels,
)
from tflite_guard.protocol import Decided, DegenerateScale, InputRange, OutputFacts, Scales, Stuck

Array = npt.NDArray[Any]
DECISIONS = ("accuracy", "top_k_accuracy", "f1_macro", "mean_iou")
VALUES = ("mae", "rmse", "r2")
SATURATED_WITHIN = 1e-6
"""How near to 0 or 1 a probability says nothing but yes or no."""
MOST_NAMES = 20
BIAS_WITHIN = 0.02
"""By how much a bias's scale may differ from what it is added to; rounding makes it a millionth."""
SMALLEST = float(np.finfo(np.float32).tiny)
"""The smallest normal float32; kernels flush what is below to zero."""
NO_RANGE = 2.1e-6
"""The width that the TFLiteConverter gives an activation without any: 1e-6 to either side, rounded."""
CLEARLY = 0.05
"""By how much values vary for it to matter that a variant's do not: a probability, or of the output's own range."""
NARROWER = 1e-5
"""Of its operator's widest input; an activation of small values has small inputs as well."""


class Watch:
    """Looks at one output of a variant and of its reference, batch by batch."""

    def __init__(self, output: str, specs: Sequence[tuple[MetricSpec, str | None]]) -> None:
        """`specs` are the metrics of this output, each with the key of its labels."""
        self._output = output
        self._decided = _first(specs, DECISIONS)
        self._agreeing = next((spec for spec, _ in specs if spec.metric == "agreement"), None)
        self._valued = _first(specs, VALUES)
        self._bounded = any(spec.metric in (*DECISIONS, "agreement") and not spec.from_logits for spec, _ in specs)
        self._examples = self._saturated = 0
        self._near: set[int] = set()
        self._logits = any(spec.from_logits for spec, _ in specs)
        self._constancy = _Constancy()
        self._whole, self._channels = _Stuck(channels=False), _Stuck(channels=True)
        self._tally = _Tally()
        self._fit = _Fit()

    def add(self, values: Array, reference: Array, labels: Mapping[str, Array], rows: Rows) -> None:
        """One batch, (n, ...) each; `rows` are its examples' in the data's source."""
        self._examples += len(reference)
        self._constancy.add(reference)
        self._whole.add(values, reference)
        self._channels.add(values, reference)
        if reference.dtype.kind == "f":
            units = flat(reference)
            zeros, ones = np.abs(units) <= SATURATED_WITHIN, np.abs(units - 1) <= SATURATED_WITHIN
            self._saturated += int((zeros | ones).all(1).sum())
            # What is 0 or 1 to the last bit may be a mask by design; a function that saturates comes near both.
            self._near |= {end for end, seen in ((0, zeros & (units != 0)), (1, ones)) if seen.any()}
        if self._decided is not None:
            self._tally.add(_compared(self._decided, reference, labels, rows))
        elif self._agreeing is not None:
            self._tally.add_unlabelled(Compared(self._agreeing, reference, reference, None, rows))
        if self._valued is not None:
            self._fit.add(_compared(self._valued, reference, labels, rows))

    def facts(self) -> OutputFacts:
        """What was seen in all batches."""
        return OutputFacts(
            output=self._output,
            examples=self._examples,
            constant=self._constancy.constant,
            stuck=self._whole.found() or self._channels.found(),
            saturated=self._saturated if self._bounded or (self._near == {0, 1} and not self._logits) else 0,
            decided=None if self._decided is None and self._agreeing is None else self._tally.facts(),
            r2=self._fit.r2(),
        )


class Ranges:
    """Looks at the float inputs, batch by batch."""

    def __init__(self) -> None:
        self._ranges: dict[str, InputRange] = {}

    def add(self, inputs: Mapping[str, Array]) -> None:
        """One batch, (n, ...) each."""
        for name, values in inputs.items():
            if values.dtype.kind == "f" and values.size:
                smallest, largest = float(values.min()), float(values.max())
                image = values.ndim == 4 and not {1, 3, 4}.isdisjoint((values.shape[1], values.shape[3]))
                seen = self._ranges.get(name, InputRange(name, smallest, largest, image))
                self._ranges[name] = InputRange(name, min(seen.smallest, smallest), max(seen.largest, largest), image)

    def facts(self) -> tuple[InputRange, ...]:
        """What was seen in all batches."""
        return tuple(self._ranges.values())


def custom_operators(model: graph.Graph) -> tuple[str, ...]:
    """The types of the operators that are not built in, each once and at most MOST_NAMES of them."""
    known = set(graph.OPERATOR_NAMES.values())
    named = (operator.type for subgraph in model.subgraphs for operator in subgraph.operators)
    return tuple(dict.fromkeys(name for name in named if name not in known))[:MOST_NAMES]


def scales(model: graph.Graph, content: Callable[[], bytes]) -> Scales:
    """What a file's scales say; `content` gives its bytes, should values have to be looked at.

    Degenerate is a scale that is zero, subnormal or no number, or that stands for no range at all.
    """
    suspects = list(_with_others_bias(model))
    found = _not_zero(suspects, content()) if suspects else []
    return Scales(tuple(_degenerate(model))[:MOST_NAMES], tuple(found)[:MOST_NAMES])


def _with_others_bias(model: graph.Graph) -> Iterator[tuple[int, int, str]]:
    """Biases (subgraph, tensor) of another scale than their inputs' times their weights', with the result's name."""
    for number, subgraph in enumerate(model.subgraphs):
        for operator in subgraph.operators:
            if operator.type not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") or len(operator.inputs) < 3:
                continue
            if min(operator.inputs) < 0:
                continue
            data, weights, bias = (subgraph.tensors[i] for i in operator.inputs[:3])
            if not (data.scale.size == 1 and weights.scale.size and bias.scale.size):
                continue
            needed = data.scale.astype(np.float64) * weights.scale.astype(np.float64)
            stored = bias.scale.astype(np.float64)
            if stored.size in (1, needed.size) and not np.allclose(stored, needed, rtol=BIAS_WITHIN, atol=0):
                yield number, operator.inputs[2], subgraph.tensors[operator.outputs[0]].name


def _not_zero(suspects: Iterable[tuple[int, int, str]], content: bytes) -> list[str]:
    """Those whose bias holds anything but zeros, of which every scale is right."""
    model = unpack(content)

    def holds(number: int, index: int) -> bool:
        data = model.buffers[model.subgraphs[number].tensors[index].buffer].data
        return data is not None and bool(np.any(data))

    return [name for number, index, name in suspects if holds(number, index)]


def _degenerate(model: graph.Graph) -> Iterator[DegenerateScale]:
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            wrong = tensor.scale[~(np.isfinite(tensor.scale) & (np.abs(tensor.scale) >= SMALLEST))]
            if wrong.size:
                yield DegenerateScale(tensor.name, float(wrong[0]), constant=False)
        for operator in subgraph.operators:
            inputs, outputs = (
                [subgraph.tensors[i] for i in side if i >= 0 and _is_activation(subgraph.tensors[i])]
                for side in (operator.inputs, operator.outputs)
            )
            most = max(map(_width, inputs), default=0.0)
            for tensor in outputs:
                if tensor.scale[0] >= SMALLEST and _width(tensor) <= NO_RANGE and _width(tensor) <= NARROWER * most:
                    yield DegenerateScale(tensor.name, float(tensor.scale[0]), constant=True)


def _is_activation(tensor: graph.Tensor) -> bool:
    return tensor.scale.size == 1 and not tensor.constant and tensor.dtype in ("int8", "uint8", "int16")


def _width(tensor: graph.Tensor) -> float:
    """The width of the range that a quantized activation can hold, in real units."""
    return float(tensor.scale[0]) * float(2 ** (8 * np.dtype(tensor.dtype).itemsize) - 1)


def _first(specs: Sequence[tuple[MetricSpec, str | None]], metrics: Sequence[str]) -> tuple[MetricSpec, str] | None:
    """The first metric of some kinds that has labels."""
    found = ((spec, key) for spec, key in specs if key is not None and spec.metric in metrics)
    return next(found, None)


def _compared(of: tuple[MetricSpec, str], reference: Array, labels: Mapping[str, Array], rows: Rows) -> Compared:
    spec, key = of
    return Compared(spec, reference, reference, labels[key], rows)


class _Constancy:
    """Whether every example's outputs, of a float output, equal the first one's."""

    def __init__(self) -> None:
        self.constant = False
        self._first: Array | None = None

    def add(self, values: Array) -> None:
        # Whole numbers are decisions or counts, few of which may well be the same.
        if not len(values) or values.dtype.kind != "f" or (self._first is not None and not self.constant):
            return
        if self._first is None:
            self._first = values[:1].copy()
        self.constant = np.array_equal(np.broadcast_to(self._first, values.shape), values)


class _Stuck:
    """Values of a float output that the variant gives every example alike, and how far the reference's lie apart.

    Looked at are the whole output or its channels. Whatever has varied once is not looked at again.
    """

    def __init__(self, *, channels: bool) -> None:
        self._by_channel = channels
        self._left: Array | None = None
        """Positions of an example, or channels, that never varied in the variant; None before the first batch."""
        self._of = 0
        self._ends = np.empty((2, 2, 0))
        """The least and the largest value of the variant and of the reference there, (2, 2, left) float64."""
        self._least, self._most = np.inf, -np.inf
        """Values of the reference anywhere."""

    def add(self, values: Array, reference: Array) -> None:
        """One batch, (n, ...) each."""
        axis = _channel_axis(values.shape) if self._by_channel else None
        # Whole numbers are decisions or counts, few of which may well be the same.
        if values.dtype.kind != "f" or not values.size or (self._by_channel and axis is None):
            return
        if self._left is None:
            self._of = int(np.prod(values.shape[1:])) if axis is None else values.shape[axis]
            self._left = np.arange(self._of)
            self._ends = np.broadcast_to(np.array([[[np.inf]], [[-np.inf]]]), (2, 2, self._of))
        if not self._left.size:
            return
        parts = [_parts(one, axis, self._left) for one in (values, reference)]
        low = np.minimum(self._ends[0], [one.min(1) for one in parts])
        high = np.maximum(self._ends[1], [one.max(1) for one in parts])
        same = low[0] == high[0]
        if axis is None:
            same &= same.all()
        self._left, self._ends = self._left[same], np.stack([low, high])[..., same]
        self._least, self._most = min(self._least, float(reference.min())), max(self._most, float(reference.max()))

    def found(self) -> Stuck | None:
        """What never varies though the reference's does; of channels those alone whose reference clearly does."""
        if self._left is None or not self._left.size:
            return None
        spread = self._ends[1, 1] - self._ends[0, 1]
        width = self._most - self._least
        clear = spread >= CLEARLY * min(1, width)
        told = spread > 0 if not self._by_channel else (spread > 0) & clear
        if not told.any():
            return None
        numbers = tuple(self._left[told].tolist()) if self._by_channel else ()
        return Stuck(
            spread=float(spread.max()),
            width=width,
            clear=bool(clear.any()),
            channels=numbers[:MOST_NAMES],
            count=len(numbers),
            of=self._of if self._by_channel else 0,
        )


def _channel_axis(shape: Sequence[int]) -> int | None:
    """The axis of the channels, where each is of several places; None where that cannot be told.

    The shorter of the last and of the first behind the examples': a detector's head is (n, places, channels) or
    (n, channels, places).
    """
    if len(shape) < 3 or shape[1] == shape[-1] or min(shape[1], shape[-1]) < 2:
        return None
    return 1 if shape[1] < shape[-1] else len(shape) - 1


def _parts(outputs: Array, axis: int | None, which: Array) -> Array:
    """Some values of an example, or some channels along an axis, with all that they are in a batch: (which, values)."""
    taken = flat(outputs)[:, which] if axis is None else np.take(outputs, which, axis)
    return np.moveaxis(taken, -1 if axis is None else axis, 0).reshape(len(which), -1)


class _Tally:
    """Decisions by class, and labels by class."""

    def __init__(self) -> None:
        self._labels: Counter[int] = Counter()
        self._decided: Counter[int] = Counter()
        self._right = 0

    def add(self, batch: Compared) -> None:
        decided, _ = decisions(batch.spec, batch.reference)
        numbers, counted = class_labels(batch, decided.shape)
        self._right += int((decided == numbers)[counted].sum())
        for tally, values in ((self._labels, numbers), (self._decided, decided)):
            classes, counts = np.unique(values[counted], return_counts=True)
            tally.update(dict(zip(classes.tolist(), counts.tolist(), strict=True)))

    def add_unlabelled(self, batch: Compared) -> None:
        """Decisions of one of several classes alone; that a yes or no never changes may be what the data is like."""
        if not is_decided(batch.outputs) and not is_one_unit(batch.outputs) and not batch.spec.multi_label:
            self._decided.update(decisions(batch.spec, batch.reference)[0].reshape(-1).tolist())

    def facts(self) -> Decided:
        return Decided(
            decisions=self._labels.total(),
            right=self._right,
            most_frequent=max(self._labels.values(), default=0),
            classes_labelled=len(self._labels),
            classes_decided=len(self._decided),
        )


class _Fit:
    """Squared differences from the labels, and of the labels from their mean, for each value of an output."""

    def __init__(self) -> None:
        self._examples = 0
        self._shift: Array | None = None
        self._sums: Array | None = None

    def add(self, batch: Compared) -> None:
        labels = flat(value_labels(batch))
        if not len(labels):
            return
        if self._shift is None:
            self._shift = labels[0].copy()
        # Labels less the first, so that the difference of squares below keeps its digits.
        moved = labels - self._shift
        residuals = np.square(flat(batch.reference).astype(np.float64) - labels)
        sums = np.stack([residuals.sum(0), moved.sum(0), np.square(moved).sum(0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._examples += len(labels)

    def r2(self) -> float | None:
        """The mean of the values' R2; None where the labels of a value never vary, or nothing was seen."""
        if self._sums is None:
            return None
        residual, first, second = self._sums
        total = second - np.square(first) / self._examples
        if not (total > 1e-12 * second).all():
            return None
        found = float((1 - residual / total).mean())
        return found if np.isfinite(found) else None
