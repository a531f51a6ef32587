"""What inputs and outputs are like beside their figures: their range, the same for every example, always one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

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


@dataclass
class Watch:
    """Looks at one output of a variant and of its reference, batch by batch."""

    output: str
    specs: Sequence[tuple[MetricSpec, str | None]]
    """The metrics of this output, each with the key of its labels."""
    _examples: int = 0
    _saturated: int = 0
    _near: set[int] = field(default_factory=set)
    _constancy: _Constancy = field(default_factory=lambda: _Constancy())
    _whole: _Stuck = field(default_factory=lambda: _Stuck(by_channel=False))
    _channels: _Stuck = field(default_factory=lambda: _Stuck(by_channel=True))
    _tally: _Tally = field(default_factory=lambda: _Tally())
    _fit: _Fit = field(default_factory=lambda: _Fit())

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
        decided, agreeing, valued = self._decided, self._agreeing, _first(self.specs, VALUES)
        if decided is not None:
            self._tally.add(_compared(decided, reference, labels, rows))
        elif agreeing is not None:
            self._tally.add_unlabelled(Compared(agreeing, reference, reference, None, rows))
        if valued is not None:
            self._fit.add(_compared(valued, reference, labels, rows))

    def join(self, other: Watch) -> None:
        """Take in what was seen of the examples behind."""
        self._examples += other._examples
        self._saturated += other._saturated
        self._near |= other._near
        self._constancy.join(other._constancy)
        self._whole.join(other._whole)
        self._channels.join(other._channels)
        self._tally.join(other._tally)
        self._fit.join(other._fit)

    @property
    def _decided(self) -> tuple[MetricSpec, str] | None:
        return _first(self.specs, DECISIONS)

    @property
    def _agreeing(self) -> MetricSpec | None:
        return next((spec for spec, _ in self.specs if spec.metric == "agreement"), None)

    def facts(self) -> OutputFacts:
        """What was seen in all batches."""
        specs = [spec for spec, _ in self.specs]
        bounded = any(one.metric in (*DECISIONS, "agreement") and not one.from_logits for one in specs)
        logits = any(one.from_logits for one in specs)
        return OutputFacts(
            output=self.output,
            examples=self._examples,
            constant=self._constancy.constant,
            stuck=self._whole.found() or self._channels.found(),
            saturated=self._saturated if bounded or (self._near == {0, 1} and not logits) else 0,
            decided=None if self._decided is None and self._agreeing is None else self._tally.facts(),
            r2=self._fit.r2(),
        )


@dataclass
class Ranges:
    """Looks at the float inputs, batch by batch."""

    _ranges: dict[str, InputRange] = field(default_factory=dict)

    def add(self, inputs: Mapping[str, Array]) -> None:
        """One batch, (n, ...) each."""
        for name, values in inputs.items():
            if values.dtype.kind == "f" and values.size:
                smallest, largest = float(values.min()), float(values.max())
                image = values.ndim == 4 and not {1, 3, 4}.isdisjoint((values.shape[1], values.shape[3]))
                self._take(InputRange(name, smallest, largest, image))

    def join(self, other: Ranges) -> None:
        """Take in what was seen of the examples behind."""
        for one in other._ranges.values():
            self._take(one)

    def _take(self, found: InputRange) -> None:
        seen = self._ranges.get(found.input, found)
        smallest, largest = min(seen.smallest, found.smallest), max(seen.largest, found.largest)
        self._ranges[found.input] = replace(found, smallest=smallest, largest=largest)

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


@dataclass
class _Constancy:
    """Whether every example's outputs, of a float output, equal the first one's."""

    constant: bool = False
    _first: Array | None = None

    def add(self, values: Array) -> None:
        # Whole numbers are decisions or counts, few of which may well be the same.
        if not len(values) or values.dtype.kind != "f" or (self._first is not None and not self.constant):
            return
        if self._first is None:
            self._first = values[:1].copy()
        self.constant = bool(np.array_equal(np.broadcast_to(self._first, values.shape), values))

    def join(self, other: _Constancy) -> None:
        if other._first is not None:
            self.add(other._first)
            self.constant = self.constant and other.constant


@dataclass
class _Stuck:
    """Values of a float output that the variant gives every example alike, and how far the reference's lie apart.

    Looked at are the whole output or its channels. Whatever has varied once is not looked at again.
    """

    by_channel: bool
    _of: int = 0
    """How many channels there are; 0 of the whole output, or before the first batch."""
    _varied: bool = False
    """Nothing is left that never varied."""
    _left: Array | None = None
    """The channels that never varied in the variant, (left,)."""
    _value: Array | None = None
    """What the variant gives at each position of an example, or in each channel that is left; None where it varied."""
    _low: Array | None = None
    _high: Array | None = None
    """Between what the reference's values lie there."""
    _reach: Array | None = None
    """The least and the largest value of the reference anywhere, (2,)."""

    def add(self, values: Array, reference: Array) -> None:
        """One batch, (n, ...) each."""
        axis = _channel_axis(values.shape) if self.by_channel else None
        # Whole numbers are decisions or counts, few of which may well be the same.
        if self._varied or values.dtype.kind != "f" or not values.size or (self.by_channel and axis is None):
            return
        reach = np.array([reference.min(), reference.max()], np.float64)
        if axis is None:
            first = values[0].reshape(-1) if self._value is None else self._value
            if np.array_equal(np.broadcast_to(first, flat(values).shape), flat(values)):
                low, high = _by_position(flat(reference))
                self._extend(first, low, high, reach)
            else:
                self._end()
            return
        self._of = values.shape[axis]
        left = np.arange(self._of) if self._left is None else self._left
        (least, most), (low, high) = (_by_channel(one, axis, left) for one in (values, reference))
        same = least == most if self._value is None else (least == self._value) & (most == self._value)
        self._keep(left, same)
        self._extend(least[same], low[same], high[same], reach)

    def join(self, other: _Stuck) -> None:
        """Take in what was seen of the examples behind."""
        if self._varied or other._varied:
            self._end()
            return
        if other._value is None or other._low is None or other._high is None or other._reach is None:
            return
        if self._value is None:
            self._of, self._left, self._value = other._of, other._left, other._value
            self._low, self._high, self._reach = other._low, other._high, other._reach
        elif self._left is None or other._left is None:
            if np.array_equal(self._value, other._value):
                self._extend(other._value, other._low, other._high, other._reach)
            else:
                self._end()
        else:
            theirs = np.isin(other._left, self._left)
            self._keep(self._left, np.isin(self._left, other._left))
            same = self._value == other._value[theirs]
            self._keep(self._left, same)
            value, low, high = (one[theirs][same] for one in (other._value, other._low, other._high))
            self._extend(value, low, high, other._reach)

    def _keep(self, left: Array, which: Array) -> None:
        """Go on with some of the channels that are left alone."""
        self._left = left[which]
        if self._value is not None and self._low is not None and self._high is not None:
            self._value, self._low, self._high = self._value[which], self._low[which], self._high[which]

    def _extend(self, value: Array, low: Array, high: Array, reach: Array) -> None:
        """Take in what the variant gave where it never varied, and between what the reference's values lay there."""
        if not value.size:
            self._end()
            return
        if self._low is not None and self._high is not None and self._reach is not None:
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
            reach = np.array([min(reach[0], self._reach[0]), max(reach[1], self._reach[1])])
        self._value, self._low, self._high, self._reach = value, low, high, reach

    def _end(self) -> None:
        self._varied = True
        self._left = self._value = self._low = self._high = self._reach = None

    def found(self) -> Stuck | None:
        """What never varies though the reference's does; of channels those alone whose reference clearly does."""
        if self._low is None or self._high is None or self._reach is None:
            return None
        spread = self._high.astype(np.float64) - self._low
        width = float(self._reach[1] - self._reach[0])
        clear = spread >= CLEARLY * min(1, width)
        told = spread > 0 if self._left is None else (spread > 0) & clear
        if not told.any():
            return None
        numbers = () if self._left is None else tuple(self._left[told].tolist())
        return Stuck(
            spread=float(spread[told].max()),
            width=width,
            clear=bool(clear.any()),
            channels=numbers[:MOST_NAMES],
            count=len(numbers),
            of=self._of,
        )


def _channel_axis(shape: Sequence[int]) -> int | None:
    """The axis of the channels, where each is of several places; None where that cannot be told.

    The shorter of the last and of the first behind the examples': a detector's head is (n, places, channels) or
    (n, channels, places).
    """
    if len(shape) < 3 or shape[1] == shape[-1] or min(shape[1], shape[-1]) < 2:
        return None
    return 1 if shape[1] < shape[-1] else len(shape) - 1


def _by_position(values: Array) -> tuple[Array, Array]:
    """The least and the largest of (n, values) at each place; of one example itself, without a copy."""
    return (values[0], values[0]) if len(values) == 1 else (values.min(0), values.max(0))


def _by_channel(outputs: Array, axis: int, which: Array) -> tuple[Array, Array]:
    """The least and the largest value of some channels along an axis, (which,) each."""
    taken = outputs if len(which) == outputs.shape[axis] else np.take(outputs, which, axis)
    others = tuple(one for one in range(outputs.ndim) if one != axis)
    return taken.min(others), taken.max(others)


@dataclass
class _Tally:
    """Decisions by class, and labels by class."""

    _labels: Counter[int] = field(default_factory=Counter)
    _decided: Counter[int] = field(default_factory=Counter)
    _right: int = 0

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

    def join(self, other: _Tally) -> None:
        self._labels.update(other._labels)
        self._decided.update(other._decided)
        self._right += other._right

    def facts(self) -> Decided:
        return Decided(
            decisions=self._labels.total(),
            right=self._right,
            most_frequent=max(self._labels.values(), default=0),
            classes_labelled=len(self._labels),
            classes_decided=len(self._decided),
        )


@dataclass
class _Fit:
    """Squared differences from the labels, and of the labels from their mean, for each value of an output."""

    _examples: int = 0
    _residual: Array | None = None
    _mean: Array | None = None
    _spread: Array | None = None

    def add(self, batch: Compared) -> None:
        labels = flat(value_labels(batch))
        if len(labels):
            mean = labels.mean(0)
            residual = np.square(flat(batch.reference).astype(np.float64) - labels).sum(0)
            self.join(_Fit(len(labels), residual, mean, np.square(labels - mean).sum(0)))

    def join(self, other: _Fit) -> None:
        """Chan, Golub and LeVeque 1983: sums of squares around the means of two samples to that of both."""
        if self._residual is None or self._mean is None or self._spread is None:
            self._residual, self._mean, self._spread = other._residual, other._mean, other._spread
        elif other._residual is not None and other._mean is not None and other._spread is not None:
            share = other._examples / (self._examples + other._examples)
            apart = other._mean - self._mean
            self._residual = self._residual + other._residual
            self._spread = self._spread + other._spread + np.square(apart) * (self._examples * share)
            self._mean = self._mean + apart * share
        self._examples += other._examples

    def r2(self) -> float | None:
        """The mean of the values' R2; None where the labels of a value never vary, or nothing was seen.

        Rounded to what does not depend on where batches and pieces end.
        """
        if self._residual is None or self._mean is None or self._spread is None:
            return None
        if not (self._spread > 1e-24 * self._examples * np.square(self._mean)).all():
            return None
        found = float((1 - self._residual / self._spread).mean())
        return round(float(f"{found:.9g}"), 9) if np.isfinite(found) else None
