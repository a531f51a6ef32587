"""What a diagnosis works with: a laboratory that quantizes and runs one model, and what it says of the model's graph.

The procedure knows nothing of TensorFlow, LiteRT or files; `engine/lab.py` implements this on real models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tflite_guard.manifest.types import Tolerance
from tflite_guard.results import Measurement
from tflite_guard.vocabulary import Kernels

Array = NDArray[Any]
Arrays = dict[str, Array]
Range = tuple[float, float]
Ranges = Mapping[str, Range]
"""Tensor name to its smallest and largest value, in real units."""
LAYOUT = frozenset(
    {
        "BATCH_TO_SPACE_ND",
        "DEPTH_TO_SPACE",
        "EXPAND_DIMS",
        "GATHER",
        "PAD",
        "RESHAPE",
        "REVERSE_V2",
        "SLICE",
        "SPACE_TO_BATCH_ND",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TRANSPOSE",
        "UNPACK",
    }
)
"""Operators that move values and compute none."""
Form = Literal["float32", "float16", "integer"]
Handle = Any
"""A model that can be run, as the laboratory holds it."""


@dataclass(frozen=True)
class Operator:
    """One operator of the float graph."""

    type: str
    inputs: tuple[str, ...]
    """Activations that it reads, by name."""
    outputs: tuple[str, ...]
    constants: tuple[str, ...] = ()
    """Constants of floats that it reads, by name."""
    activation: str = "NONE"
    """What is fused to it: `NONE`, `RELU`, `RELU6`, …"""


@dataclass(frozen=True)
class FloatGraph:
    """The float model's activations and operators, in the order of execution."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[Operator, ...]

    @property
    def activations(self) -> tuple[str, ...]:
        """Inputs and results of floats."""
        return (*self.inputs, *(name for operator in self.operators for name in operator.outputs))

    def producer(self, tensor: str) -> Operator | None:
        """The operator that computes a tensor; None of an input."""
        return next((one for one in self.operators if tensor in one.outputs), None)

    def origin(self, tensor: str) -> str:
        """The tensor whose values an operator that only moves data has taken a tensor from; itself of any other."""
        producer = self.producer(tensor)
        while producer is not None and producer.type in LAYOUT and len(producer.inputs) == 1:
            tensor = producer.inputs[0]
            producer = self.producer(tensor)
        return tensor

    def copies(self, tensor: str) -> tuple[str, ...]:
        """A tensor with all that is the same values in another order or in part, by operators that only move data."""
        found = [tensor]
        for name in found:
            producer = self.producer(name)
            moved = [producer] if producer is not None and producer.type in LAYOUT else []
            moved += [one for one in self.consumers(name) if one.type in LAYOUT]
            found += [other for one in moved for other in (*one.inputs, *one.outputs) if other not in found]
        return tuple(found)

    def consumers(self, tensor: str) -> tuple[Operator, ...]:
        """The operators that read a tensor's values, and not its shape alone."""
        return tuple(one for one in self.operators if tensor in one.inputs and one.type != "SHAPE")


@dataclass(frozen=True)
class Samples:
    """Inputs of a model by name, examples first."""

    inputs: Arrays

    @property
    def count(self) -> int:
        """How many examples."""
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    def take(self, rows: Array | Sequence[int]) -> Samples:
        """Some of them, in this order."""
        index = np.asarray(rows, np.int64)
        return Samples({name: values[index] for name, values in self.inputs.items()})


@dataclass(frozen=True)
class Port:
    """One input or output of the artifact: how reals become its integers (scale 0: they do not)."""

    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def quantized(self) -> bool:
        """Whether it holds integers of at most 16 bits that stand for reals."""
        return self.scale != 0.0 and self.dtype in ("int8", "uint8", "int16", "uint16")


@dataclass(frozen=True)
class Ports:
    """The artifact's inputs and outputs by name."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


@dataclass(frozen=True)
class Change:
    """An experiment: how the model is quantized in it."""

    ranges: Ranges
    """Of activations; those not named keep what the artifact's calibration gave."""
    keep: tuple[str, ...] = ()
    """Activations that stay in float, with their producers and consumers."""
    constants: Mapping[str, Array] | None = None
    """Constants of the float model that are replaced."""

    @property
    def of_ranges(self) -> bool:
        """Whether it changes ranges alone."""
        return not self.keep and not self.constants


@dataclass(frozen=True)
class Option:
    """Another way to make the artifact, as a manifest would say it."""

    title: str
    patch: Mapping[str, Any]
    target: str = ""
    """What the patch is of, as a JSON pointer; empty means the variant."""
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Patches that go with it, of something else, by JSON pointer."""
    keep: tuple[str, ...] = ()
    """Activations that stay in float, by their exact names."""


@dataclass(frozen=True)
class Made:
    """What the user would get by an option."""

    handle: Handle
    size_bytes: int
    float_operators: int


@dataclass(frozen=True)
class TensorView:
    """One activation on some examples, in the float graph and in the quantized one. Decibels are None where exact."""

    name: str
    operator: str
    range: Range
    channels: Array
    """Each channel's range over the last axis, (channels, 2)."""
    isolated: float | None
    """Of the exact inputs' result with weights rounded to 8 bits, a scale a channel, itself rounded to its range."""
    worst_channel: float | None
    """Of the rounding to its range alone, in the channel that fares worst, of those that carry any power."""
    cumulative: float | None
    clipped: float
    codes: int


class Editable(Protocol):
    """A float model whose constants can be looked at, to be rewritten."""

    @property
    def graph(self) -> FloatGraph:
        """Its activations and operators."""

    def width(self, tensor: str) -> int:
        """The length of an activation's last axis."""

    def constant(self, name: str) -> Array:
        """A constant by name."""


class Lab(Protocol):
    """Quantizes and runs one model. Rows are numbers of examples of `evaluation`."""

    evaluation: Samples
    """The diagnosis's share of the evaluation data."""
    calibration: Samples | None
    """What the artifact was calibrated on; None where that is not known."""
    calibration_name: str
    recipe: str | None
    """The recipe of the LiteRT Quantizer that the artifact is made by: its name, or its file's path."""
    shipped: bool
    """The artifact is a file of the user's own, not made here."""
    eight_bits: bool
    """The artifact's activations have 8 bits."""
    quantizable: bool
    """Experiments that quantize can be made."""
    artifact: Handle
    float32: Handle
    preprocess: tuple[Any, Any]
    """What is done to evaluation and to calibration data, to be compared."""
    kernels: Kernels
    """Those that the variant is judged with."""

    @property
    def observed(self) -> Arrays | None:
        """What the user's application recorded for `evaluation`, integers as they were; None without a recording."""

    @property
    def ports(self) -> Ports:
        """The artifact's inputs and outputs."""

    def fed(self, inputs: Arrays) -> Arrays:
        """The artifact's outputs, dequantized, for inputs as its tensors take them, with the variant's kernels."""

    @property
    def form(self) -> Form:
        """What the artifact's weights are."""

    @property
    def graph(self) -> FloatGraph:
        """The float model's activations and operators."""

    @property
    def artifact_ranges(self) -> Ranges:
        """What the artifact's scales and zero points say, by the float graph's names."""

    @property
    def artifact_names(self) -> Mapping[str, str]:
        """The float graph's names to what the artifact calls the tensors that hold their integers."""

    def reference(self, rows: Array) -> Arrays:
        """The reference's outputs, (n, …) each."""

    def outputs(self, handle: Handle, samples: Samples, kernels: Kernels | None = None) -> Arrays:
        """A model's outputs, dequantized, (n, …) each, with the variant's kernels where no others are asked for."""

    def scores(self, outputs: Arrays, rows: Array) -> Mapping[str, Array]:
        """Per-example scores of the metric that is diagnosed."""

    def statistic(self, scores: Mapping[str, Array], weights: Array) -> Array:
        """The metric for each row of weights (k, n): (k, 2), of the reference and of the model."""

    def measured(self, outputs: Arrays, rows: Array) -> list[tuple[str, Measurement]]:
        """Every metric of the variant: its name in the manifest, and its measurement."""

    def quantize(self, change: Change) -> Handle:
        """An experiment's model, with inputs and outputs in float."""

    def convert(self, option: Option) -> Made:
        """What the user would get. Raises EvaluationError where it cannot be made."""

    def ranges(self, samples: Samples, constants: Mapping[str, Array] | None = None) -> Ranges:
        """Each activation's true range in the float graph, with some of its constants replaced."""

    def edited(self, constants: Mapping[str, Array]) -> Handle:
        """The float model with some of its constants replaced."""

    def width(self, tensor: str) -> int:
        """The length of an activation's last axis."""

    def tensors(self, ranges: Ranges, rows: Array, *, alone: bool = False) -> list[TensorView]:
        """How each activation fares when quantized with some ranges.

        `alone` looks at each as rounded by itself, with exact weights: `cumulative` is then None throughout.
        """

    def values(self, tensors: Sequence[str], samples: Samples) -> list[Arrays]:
        """The finite values of some activations in the float graph, flat, for each of a few of the examples."""

    def constant(self, name: str) -> Array:
        """A constant of the float model, float32."""

    def weights_alike(self) -> float | None:
        """The smallest cosine, over weight tensors, of the artifact's weights with the float model's by output channel.

        Folding a normalization into weights or not leaves it at 1. None where none can be paired.
        """

    def largest_constant(self) -> float:
        """The largest absolute value among the float model's constants."""

    def weights_differ(self) -> float | None:
        """The largest difference of the artifact's weights from the float model's, in the artifact's own steps.

        At most 0.5 where they are the same weights rounded; None where none can be paired.
        """

    def float16(self) -> Handle:
        """The float model with its constants rounded to float16, clamped to what that holds."""

    def rounded(self) -> Handle:
        """The float model with its weights rounded as int8 quantization rounds them."""

    def int16x8(self, ranges: Ranges) -> Handle | None:
        """The same with activations rounded to 16 bits of some ranges, and clipped to them, as int16x8 does it.

        None where that cannot be made.
        """

    def place(self, tensor: str) -> str:
        """The shortest `keep_float` pattern that means just this tensor: the name that its user knows."""

    def layer(self, tensor: str) -> str:
        """The layer that computes a tensor, or the tensor's place where it has none."""


@dataclass(frozen=True)
class Case:
    """What is to be explained."""

    metric: str
    higher_is_better: bool
    failed: bool
    """It is outside of its tolerance."""
    healthy: float | None
    """The value that is to be come back to; None means the reference's own."""
    tolerances: Mapping[str, Tolerance]
    application: bool = False
    """What the user's application recorded is out of tolerance."""
