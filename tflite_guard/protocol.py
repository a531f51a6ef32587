"""What parent and child say to one another: a type for each request, with the type of its answer.

One JSON object a line. The parent sends `Limits` once, then a `Call` for each request. The child sends `Message`s:
progress and where it is any number of times, then a result or an error. A child runs untrusted models, so what it says
is decoded strictly against these types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec

from tflite_guard.errors import Place
from tflite_guard.manifest.types import Conversion, DatasetSpec, EvaluationOptions, MetricSpec, ReferenceSpec, Tolerance
from tflite_guard.results import (
    Artifact,
    Changed,
    Confidence,
    Diagnosis,
    ErrorInfo,
    Finding,
    Measurement,
    Mistake,
    Remedy,
)
from tflite_guard.vocabulary import StateUse, ToleranceKind

LARGEST_BATCH = 64
"""Examples that are run at a time, at most; batches of fewer have a power of two."""


class Piece(msgspec.Struct, frozen=True):
    """One of several pieces that evaluation data is cut into, each for a machine of its own."""

    number: int
    """From 1."""
    of: int

    def bounds(self, examples: int) -> tuple[int, int]:
        """Where it begins and ends in data of so many examples.

        At ends of batches, so that all examples are run in the same batches as without pieces. Few examples may leave
        a piece without any.
        """
        blocks = -(-examples // LARGEST_BATCH)
        first, last = (LARGEST_BATCH * (blocks * number // self.of) for number in (self.number - 1, self.number))
        return first, min(last, examples)


class Stretch(msgspec.Struct, frozen=True):
    """Which examples of the evaluation data were evaluated, by their places from 0."""

    first: int
    last: int
    """The place behind the last one."""
    of: int


class TensorInfo(msgspec.Struct, frozen=True):
    """One input or output. `shape` counts the batch axis; None is an unknown dimension. `dtype` is numpy's name."""

    shape: tuple[int | None, ...]
    dtype: str

    @property
    def example_shapes(self) -> tuple[tuple[int | None, ...], ...]:
        """The shapes that one example of an input may have, the likelier first.

        A leading axis of None or 1 counts the batch, and an example is the rest. A longer one belongs to the example
        (one waveform of 5,360 samples), or is a batch of fixed size, which one example then fills: never of single
        numbers, of which a waveform would be one each. A lone free axis is of single numbers or of a waveform.
        """
        lead, rest = self.shape[:1], self.shape[1:]
        if self.shape == (None,):
            return ((), self.shape)
        if lead in ((), (None,), (1,)):
            return (rest,)
        return (self.shape, rest) if rest else (self.shape,)

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether data of this shape, whose first axis counts examples, is such examples."""
        return any(
            len(shape) == len(example) + 1 and all(s in (None, d) for s, d in zip(example, shape[1:], strict=True))
            for example in self.example_shapes
        )


class Names(msgspec.Struct, frozen=True):
    """A model's inputs and outputs by their canonical names: a signature's; of a Keras model the author's own.

    The aliases map other names that a user may know (Keras layers, keys of a dictionary, an export's) to those.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    input_aliases: dict[str, str] = msgspec.field(default_factory=dict)
    output_aliases: dict[str, str] = msgspec.field(default_factory=dict)
    signature: str | None = None
    """The signature's own name; None where a file has none."""
    scaling: tuple[str, ...] = ()
    """What in it scales inputs: Keras layers as Rescaling and Normalization, else what comes first in its graph."""

    def input(self, name: str) -> str:
        """The canonical name of an input that goes by its name, an alias or `#index`; any other name as it is."""
        return _canonical(name, self.inputs, self.input_aliases)

    def output(self, name: str) -> str:
        """The canonical name of an output that goes by its name, an alias or `#index`; any other name as it is."""
        return _canonical(name, self.outputs, self.output_aliases)


def _canonical(name: str, known: Mapping[str, TensorInfo], aliases: Mapping[str, str]) -> str:
    if name in known:
        return name
    if name in aliases:
        return aliases[name]
    return dict(zip((f"#{index}" for index in range(len(known))), known, strict=True)).get(name, name)


class Facts(msgspec.Struct, frozen=True):
    """What running a model showed of it that a reader of its figures should know."""

    state_reset: bool = False
    """It carries state from call to call, and was given each example as if it were its first."""
    batch_dependent: bool = False
    """An example's outputs depend on what else is in its batch, so that it was run one example at a time."""


class Decided(msgspec.Struct, frozen=True):
    """The reference's decisions on one output beside their labels; positions without a label are left out.

    Without any labels, the classes that it decides for are counted alone.
    """

    decisions: int
    right: int
    most_frequent: int
    """How many have the label that occurs most: what always answering it would get right."""
    classes_labelled: int
    classes_decided: int
    """For how many classes it decides at all."""


class Stuck(msgspec.Struct, frozen=True):
    """A float output, or channels of it, that a variant gives every example alike, where the reference's vary."""

    spread: float
    """How far the reference's values lie apart there, at most."""
    width: float
    """How far they lie apart in the whole output."""
    clear: bool
    """The reference varies by more than could be without meaning."""
    channels: tuple[int, ...] = ()
    """The first of those that are meant; none where it is the whole output."""
    count: int = 0
    """How many channels are meant."""
    of: int = 0
    """How many channels there are."""


class OutputFacts(msgspec.Struct, frozen=True):
    """What one output is like over all examples, beside its metrics."""

    output: str
    examples: int
    constant: bool = False
    """It is float, and the reference gives every example the same."""
    stuck: Stuck | None = None
    """What the variant gives every example alike, though the reference does not."""
    saturated: int = 0
    """Examples of which every value of the reference is 0 or 1, of an output that is decided on or comes near them."""
    decided: Decided | None = None
    """None where nothing is decided against labels."""
    r2: float | None = None
    """R2 of the reference, where values are compared with labels that vary."""
    multi_label: bool = False
    """The manifest left it open, and its labels name several units of an example, or none."""


class InputRange(msgspec.Struct, frozen=True):
    """Between which values one float input lies, over all examples."""

    input: str
    smallest: float
    largest: float
    image: bool
    """Its examples are shaped like images."""


class ReferenceOutputs(msgspec.Struct, frozen=True):
    """The reference has been run: its outputs are in files of the folder `out`."""

    files: tuple[str, ...]
    examples: int
    names: Names | None
    """None where the reference is recorded outputs."""
    facts: Facts = Facts()
    stretch: Stretch | None = None
    """None of all examples."""


class Converted(msgspec.Struct, frozen=True):
    """A .tflite has been made."""

    size_bytes: int
    files: tuple[str, ...] = ("model.tflite",)


class Measured(msgspec.Struct, frozen=True):
    """A measurement under the name that the manifest gives its metric."""

    of: str
    measurement: Measurement


Measurements = Annotated[tuple[Measured, ...], msgspec.Meta(max_length=2000)]
"""One for each metric and output of a variant: what a child says beyond that would keep its parent busy for minutes."""


class ObservedMeasured(msgspec.Struct, frozen=True):
    """Recorded outputs measured, and their largest difference from our own run by kernels."""

    measurements: Measurements
    max_steps: dict[str, float]


class InputSpans(msgspec.Struct, frozen=True):
    """Between which values most of one float input lies, in calibration and in evaluation data."""

    input: str
    calibration: tuple[float, float]
    evaluation: tuple[float, float]


class Reach(msgspec.Struct, frozen=True):
    """How far the calibration data reaches, zero included as in every quantized range."""

    input: str
    ranges: tuple[tuple[float, float], ...]
    """Of all examples, then without the one that reaches furthest, without two, …"""


class CalibrationFacts(msgspec.Struct, frozen=True):
    """What calibration data is like beside evaluation data."""

    examples: int
    """That were looked at."""
    distinct: int
    constant: int
    """Examples that hold one value throughout."""
    shared: int
    """Examples that are evaluated too, constants aside."""
    inputs: tuple[InputSpans, ...] = ()
    reaches: tuple[Reach, ...] = ()


class WeightFacts(msgspec.Struct, frozen=True):
    """A given file's weights beside those of the reference."""

    steps: float
    """Their largest difference in quantization steps; rounding makes half a step."""
    cosine: float
    """The smallest over operators, each of its median output channel."""


class DegenerateScale(msgspec.Struct, frozen=True):
    """A quantized tensor whose scale is none to compute with."""

    tensor: str
    scale: float
    constant: bool
    """Nothing is wrong with the number: it is what converters write for an activation that is always the same."""


class Scales(msgspec.Struct, frozen=True):
    """What the scales in a file say."""

    degenerate: tuple[DegenerateScale, ...]
    shared_biases: tuple[str, ...] = ()
    """Results of operators whose bias is stored for another scale than theirs."""


class Stopping(msgspec.Struct, frozen=True):
    """What must be certain for an evaluation to stop before its end: all that the verdict depends on."""

    confidence: float
    limits: dict[str, dict[ToleranceKind, float]]
    """By the manifest's names of metrics."""
    recorded: dict[str, float] = msgspec.field(default_factory=dict)
    """The baseline's values of what `max_regression` limits, by the names of measurements."""


class Sequential(msgspec.Struct, frozen=True):
    """How an evaluation went that was to stop when its verdict is certain."""

    examples: int
    """That were evaluated."""
    of: int
    confidence: float
    reference: dict[str, float] = msgspec.field(default_factory=dict)
    """Where it stopped early: the reference's own values on all examples, by the names of measurements."""

    @property
    def early(self) -> bool:
        """There are examples that were not looked at."""
        return self.examples < self.of


class Mistakes(msgspec.Struct, frozen=True):
    """The examples that a variant gets wrong."""

    metric: str
    examples: int
    """How many were looked at, from the first: all, or those up to the last of `MOST_WRONG`."""
    of: int
    every: tuple[Mistake, ...]
    """In the order of their rows."""


class Evaluation(msgspec.Struct, frozen=True):
    """One variant has been evaluated."""

    measurements: Measurements
    artifact: Artifact
    observed: ObservedMeasured | None
    files: tuple[str, ...] = ()
    facts: Facts = Facts()
    reference: Facts = Facts()
    """The facts of the reference, remembered with what was compared with it."""
    outputs: tuple[OutputFacts, ...] = ()
    inputs: tuple[InputRange, ...] = ()
    calibration: CalibrationFacts | None = None
    """None where it was not calibrated here, or where the data could not be looked at."""
    weights: WeightFacts | None = None
    """None but of a given file whose weights can be paired with the reference's."""
    scales: Scales = Scales(())
    changed: Changed | None = None
    confidence: Confidence | None = None
    mistakes: Mistakes | None = None
    data: str | None = None
    """Tells the evaluation data from any other, which the parent knows; None where code of the user's makes it."""
    sequential: Sequential | None = None
    """None where every example was to be evaluated."""
    scaling: tuple[str, ...] = ()
    """The reference's own layers that scale inputs."""
    stretch: Stretch | None = None
    """Of a piece, which examples it has. What was collected on them is then in a file, and nothing is measured."""


COLLECTED = "collected.npz"
"""The file of what was collected on a piece."""


class Diagnosed(msgspec.Struct, frozen=True):
    """What came of a diagnosis."""

    diagnosis: Diagnosis
    findings: tuple[Finding, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    files: tuple[str, ...] = ()


class OperatorPort(msgspec.Struct, frozen=True):
    """An input or output of a saved operator, as the quantized one has it (scale 0: its values are no integers)."""

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


OPERATOR_FILES = ("operator.tflite", "operator_int8.tflite", "inputs.npz", "outputs.npz")


class SavedOperator(msgspec.Struct, frozen=True):
    """One operator is in files, out of a float model and of the file that was made from it."""

    type: str
    tensor: str
    """What it computes, by the quantized file's name."""
    float_tensor: str
    version: int
    float_version: int
    examples: int
    output: int
    """Which of its outputs the tensor is."""
    step: float
    """The tensor's scale."""
    sqnr: float | None
    """Decibels, of the quantized operator's output to the float one's, for the same inputs; None where it is exact."""
    max_error: float
    """The largest difference of the two, in real units."""
    inputs: tuple[OperatorPort, ...]
    outputs: tuple[OperatorPort, ...]
    files: tuple[str, ...] = OPERATOR_FILES


Answer = TypeVar("Answer")


def made_of(conversion: Conversion) -> str:
    """What a conversion makes, of which model."""
    recipe = conversion.recipe
    what = conversion.quantization or f"recipe {recipe if isinstance(recipe, str) or recipe is None else recipe.path}"
    return what if conversion.source is None else f"{what} of {conversion.source.path}"


class Request(msgspec.Struct, Generic[Answer], frozen=True, tag_field="task"):
    """Something that a child can be asked to do."""

    answer: ClassVar[Any]
    """The type of its answer, at run time."""

    @property
    def doing(self) -> str:
        """What a child did that was asked, and with which file: the end of "the process that …"."""
        raise NotImplementedError


class DescribeModel(Request[Names], frozen=True, tag="describe"):
    """Names, shapes and types of a model's inputs and outputs."""

    answer: ClassVar[Any] = Names
    reference: ReferenceSpec

    @property
    def doing(self) -> str:
        return f"read {self.reference.path}"


class RunReference(Request[ReferenceOutputs], frozen=True, tag="reference"):
    """Run the float reference over a dataset."""

    answer: ClassVar[Any] = ReferenceOutputs
    reference: ReferenceSpec
    dataset: DatasetSpec
    threads: int
    state: StateUse = "reset"
    convert: bool = False
    """Make the float conversion beside it, which will be asked for next."""
    piece: Piece | None = None
    """None runs it on all examples."""
    metrics: tuple[MetricSpec, ...] = ()
    """What it is run for, so that outputs that it does not have are told before it is run."""

    @property
    def doing(self) -> str:
        return f"ran the reference {self.reference.path}"


class Convert(Request[Converted], frozen=True, tag="convert"):
    """Make one artifact with the TFLiteConverter."""

    answer: ClassVar[Any] = Converted
    conversion: Conversion

    @property
    def doing(self) -> str:
        return f"made {made_of(self.conversion)}"


class ApplyRecipe(Request[Converted], frozen=True, tag="recipe"):
    """Make one artifact with a recipe of the quantizer from a float .tflite."""

    answer: ClassVar[Any] = Converted
    float32: str
    conversion: Conversion

    @property
    def doing(self) -> str:
        return f"made {made_of(self.conversion)}"


class Evaluate(Request[Evaluation], frozen=True, tag="evaluate"):
    """Evaluate one .tflite against recorded reference outputs."""

    answer: ClassVar[Any] = Evaluation
    tflite: str
    reference: str
    """The folder of the reference's outputs."""
    names: Names | None
    dataset: DatasetSpec
    metrics: tuple[MetricSpec, ...]
    options: EvaluationOptions
    threads: int
    signature: str | None = None
    """The one that the manifest names; None where it does not say."""
    signature_place: Place | None = None
    state: StateUse = "reset"
    facts: Facts = Facts()
    """What running the reference showed."""
    calibration: DatasetSpec | None = None
    """What it was calibrated on, to be looked at beside the evaluation data."""
    samples: int | None = None
    """How many examples of it calibration uses; None means all."""
    float32: str | None = None
    """The path of the reference's float conversion, whose weights a given file should have; None asks for nothing."""
    stopping: Stopping | None = None
    """None evaluates every example."""
    piece: Piece | None = None
    """None evaluates all examples; else the reference's outputs are of this piece alone."""

    @property
    def doing(self) -> str:
        return f"evaluated {self.tflite}"


class Aggregate(Request[Evaluation], frozen=True, tag="aggregate"):
    """Measure a variant by what was collected on all pieces of its evaluation data."""

    answer: ClassVar[Any] = Evaluation
    evaluation: Evaluation
    """What all pieces have said alike."""
    collected: tuple[str, ...]
    """The paths of the files, in the order of the examples."""
    examples: tuple[int, ...]
    """How many each has."""
    dataset: DatasetSpec
    metrics: tuple[MetricSpec, ...]

    @property
    def doing(self) -> str:
        return "joined the pieces of an evaluation"


class ReadScales(Request[Scales], frozen=True, tag="scales"):
    """Look at a .tflite's scales without running it."""

    answer: ClassVar[Any] = Scales
    tflite: str

    @property
    def doing(self) -> str:
        return f"read {self.tflite}"


class Diagnose(Request[Diagnosed], frozen=True, tag="diagnose"):
    """Find why one .tflite is worse than the reference, and what would mend it."""

    answer: ClassVar[Any] = Diagnosed
    evaluate: Evaluate
    """How it was evaluated."""
    source: ReferenceSpec
    """The float model that it was made from, or that is compared with."""
    float32: str | None
    """The path of its float conversion, where it has been made."""
    conversion: Conversion
    metric: str
    """The name of the measurement whose loss is to be explained."""
    higher_is_better: bool
    failed: bool
    healthy: float | None
    """The value to come back to; None means the reference's own."""
    tolerances: dict[str, Tolerance]
    converter: bool
    """Quantize with TensorFlow's converter; else with the LiteRT Quantizer."""
    application: bool = False
    """What the application recorded is out of tolerance, and is to be explained too."""

    @property
    def doing(self) -> str:
        return f"looked for the cause of what {self.evaluate.tflite} loses"


class SaveOperator(Request[SavedOperator], frozen=True, tag="operator"):
    """Cut the operator that computes a tensor out of a float model and of the .tflite that was made from it."""

    answer: ClassVar[Any] = SavedOperator
    evaluate: Evaluate
    """How the .tflite was evaluated."""
    float32: str
    """The path of the float model."""
    tensor: str
    """What the .tflite calls it."""
    examples: int
    """Of the evaluation data, from its start, at most."""

    @property
    def doing(self) -> str:
        return f"cut an operator out of {self.evaluate.tflite}"


AnyRequest = (
    DescribeModel | RunReference | Convert | ApplyRecipe | Evaluate | Aggregate | ReadScales | Diagnose | SaveOperator
)


class Limits(msgspec.Struct, frozen=True):
    """A parent's first line: how the child is to confine itself."""

    scratch: str
    readable: tuple[str, ...]
    places: tuple[str, ...]
    roots: tuple[str, ...]
    """Folders outside the repository that links in data may lead to."""
    memory_bytes: int | None
    allow_code: bool
    load: bool = False
    """Load LiteRT before the first request, which will need it."""


class Call(msgspec.Struct, frozen=True):
    """One request, and the folder that its files go to."""

    request: AnyRequest
    out: str = ""


class Message(msgspec.Struct, frozen=True):
    """One line from a child. Exactly one field is set."""

    progress: tuple[int, int] | None = None
    at: str | None = None
    """What a crash from now on is a crash at, as "ran example 5"; empty for nothing in particular."""
    error: ErrorInfo | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
