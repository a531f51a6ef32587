"""A manifest after reading: every name resolved, every path absolute, every default filled in.

These types are plain data. They cross process boundaries as JSON and enter cache keys as JSON, so
they hold only strings, numbers, booleans, None, tuples and dictionaries.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from tflite_guard.errors import Place
from tflite_guard.vocabulary import (
    TOLERANCES,
    BoxFormat,
    BoxUnits,
    Decode,
    Kernels,
    Ranges,
    ReferenceKind,
    SourceKind,
    StateUse,
    ToleranceKind,
)


class Spec(msgspec.Struct, frozen=True):
    """A part of a manifest."""

    titles: ClassVar[tuple[str, ...]] = ()
    """Fields that messages need and results do not depend on."""


Places = dict[str, Place]
"""Where a part of a manifest says what messages may be about: a key, or key/name, to its place; "" is the part."""


class FileSpec(Spec, frozen=True):
    """A file or folder that a manifest names: everything that a model's processes may read is one of these."""

    titles: ClassVar[tuple[str, ...]] = ("uri",)
    path: str
    """Absolute, symlinks resolved. Of a file elsewhere it is the URI, until it is fetched for a child."""
    sha256: str | None = None
    """The pin, in lower-case hexadecimal; a file elsewhere has one."""
    uri: str | None = None
    """Where to fetch it; None for a file that is here."""


class FunctionSpec(Spec, frozen=True):
    """A Python function of the user's own, which runs only with --allow-code."""

    name: str
    """`package.module:function`."""
    root: str
    """The manifest's folder: what it is imported from."""


class ReferenceSpec(Spec, frozen=True):
    """A model to convert from or compare with. Exactly one kind."""

    titles: ClassVar[tuple[str, ...]] = ("places",)
    kind: ReferenceKind
    file: FileSpec
    signature: str | None = None
    """None where the manifest does not say: then a SavedModel's is `serving_default`."""
    input_shapes: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    places: Places = msgspec.field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it is."""
        return self.file.path


class DatasetSpec(Spec, frozen=True):
    """Where examples come from and what is done to them before a model sees them."""

    titles: ClassVar[tuple[str, ...]] = ("name", "places")
    name: str
    source: SourceKind
    file: FileSpec | None
    """None for a `python` source, which has a `function`, and for `shards`."""
    inputs: str | dict[str, str]
    """The source's key for a model with one input, or model input name to key."""
    labels: str | dict[str, str] | None = None
    """The source's key, or model output name to key."""
    group: str | None = None
    slices: tuple[str, ...] = ()
    """The source's keys by whose values metrics are given, too."""
    preprocess: tuple[dict[str, Any], ...] | dict[str, tuple[dict[str, Any], ...]] = ()
    """One-key steps for every input, or model input name to steps."""
    limit: int | None = None
    seed: int = 0
    class_order: tuple[str, ...] | None = None
    labels_file: FileSpec | None = None
    masks: FileSpec | None = None
    """Of `images`, the folder with a mask for each."""
    image_suffix: str = ""
    """What the stem of an image ends in, in place of which the stem of its mask has `mask_suffix`."""
    mask_suffix: str = ""
    columns: dict[str, Any] | None = None
    features: dict[str, dict[str, Any]] | None = None
    function: FunctionSpec | None = None
    shards: tuple[FileSpec, ...] = ()
    """The files of a `tfrecord` whose path is a pattern, in their order."""
    pictures: bool = True
    """A report may show examples as small pictures."""
    places: Places = msgspec.field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it is, for messages: the file, the first of several, or the function's name."""
        if self.files:
            return self.files[0].path
        return self.function.name if self.function is not None else ""

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """The files or the folder that examples are read from, in this order."""
        return self.shards if self.file is None else (self.file,)


class Detection(Spec, frozen=True):
    """Which outputs hold a detector's boxes and how they are read: lists of boxes, or one head that is decoded."""

    boxes: str | None = None
    scores: str | None = None
    classes: str | None = None
    """None where all are of one class."""
    count: str | None = None
    """How many of the boxes count; None counts all."""
    box_format: BoxFormat = "yxyx"
    decode: Decode | None = None
    objectness: bool = False
    box_axis: int | None = None
    """Of a head, the axis that counts its boxes, 1 or 2; None is the longer."""
    units: BoxUnits = "relative"
    size: tuple[int, int] | None = None
    """Height and width of the model's input, which boxes in pixels are divided by; None takes the input's shape."""
    score_threshold: float = 0.0
    nms_iou: float = 0.7
    iou: float | None = None
    """None averages over those of COCO, 0.50 to 0.95."""


class MetricSpec(Spec, frozen=True):
    """One metric to compute. `name` labels it in reports, `metric` says which it is."""

    titles: ClassVar[tuple[str, ...]] = ("places",)
    name: str
    metric: str
    output: str | None = None
    labels: str | None = None
    k: int = 5
    threshold: float | None = None
    from_logits: bool = False
    multi_label: bool | None = None
    """Each unit of the output is a binary decision of its own; None leaves it to what labels and outputs are like."""
    ignore_index: int | None = None
    average: Literal["macro", "weighted"] = "macro"
    detection: Detection | None = None
    """Of metrics of boxes."""
    python: FunctionSpec | None = None
    higher_is_better: bool = True
    places: Places = msgspec.field(default_factory=dict)

    def place(self, key: str = "") -> Place | None:
        """Where the manifest gives an option of it, else where it stands."""
        return self.places.get(key, self.places.get(""))


class Tolerance(Spec, frozen=True):
    """What is allowed of one metric. Limits are in the metric's own unit; None means not limited."""

    max_drop: float | None = None
    max_relative_drop: float | None = None
    max_class_drop: float | None = None
    """The largest drop of any one class."""
    max_slice_drop: float | None = None
    """The largest drop of any one slice, of every key that the evaluation data has slices by."""
    min: float | None = None
    max: float | None = None
    max_regression: float | None = None
    level: Literal["error", "warning"] = "error"
    require: Literal["proven_pass", "proven_fail"] | None = None
    line: int = 0
    """The manifest's line of the innermost object that set it, from 1."""
    lines: dict[ToleranceKind, int] = msgspec.field(default_factory=dict)
    """The line of each limit's own key, which may be in an outer object."""

    def limits(self) -> dict[ToleranceKind, float]:
        """The limits that are set, in the order of the schema."""
        named: dict[ToleranceKind, float | None] = {kind: getattr(self, kind) for kind in TOLERANCES}
        return {kind: limit for kind, limit in named.items() if limit is not None}


class CalibrationOptions(Spec, frozen=True):
    """How activation ranges are taken from the calibration data."""

    samples: int | None = None
    """Use only the first so many examples; None means all."""
    clip_percentile: float | None = None
    """Keep the central so many percent of each tensor's measured values, e.g. 99.9."""
    ranges: Ranges = "converter"


class Ignore(Spec, frozen=True):
    """A rule whose findings a user has looked at and accepted, and why."""

    rule: str
    reason: str


class Conversion(Spec, frozen=True):
    """Where an artifact comes from: one of `quantization`, `tflite`, `recipe`, and all that its bytes depend on."""

    titles: ClassVar[tuple[str, ...]] = ("places",)
    quantization: str | None = None
    tflite: FileSpec | None = None
    signature: str | None = None
    """Which of an existing .tflite's; None where the manifest does not say."""
    recipe: str | FileSpec | None = None
    """A recipe's name, or a recipe file."""
    source: ReferenceSpec | None = None
    """The model that it is made from; None for an existing .tflite, and where recorded outputs hold no model."""
    io: str = "float32"
    calibration: DatasetSpec | None = None
    calibration_options: CalibrationOptions = CalibrationOptions()
    keep_float: tuple[str, ...] = ()
    equalize: tuple[str, ...] = ()
    """Patterns of activations whose channels are brought to more equal range before they are quantized."""
    places: Places = msgspec.field(default_factory=dict)


class EvaluationOptions(Spec, frozen=True):
    """How an artifact is run and what is looked at, beside the metrics."""

    kernels: Kernels = "default"
    observed_outputs: FileSpec | None = None
    integer: bool | None = None
    """Its operators are meant to compute in integers; None where the manifest does not say."""
    confidence: float | None = None
    """Stop as soon as the verdict is certain with this confidence; None evaluates every example."""


class Judgement(Spec, frozen=True):
    """What is allowed of a variant. Nothing that is measured depends on it."""

    tolerances: dict[str, Tolerance] = msgspec.field(default_factory=dict)
    ignore: tuple[Ignore, ...] = ()
    require_integer: bool = False
    observed_tolerance: float | None = None
    """In quantization steps."""


class VariantSpec(Spec, frozen=True):
    """One artifact to judge."""

    name: str
    conversion: Conversion
    evaluation: EvaluationOptions = EvaluationOptions()
    judgement: Judgement = Judgement()
    line: int = 0


class ModelSpec(Spec, frozen=True):
    """One float reference with the variants that are compared with it."""

    name: str
    reference: ReferenceSpec
    evaluation: DatasetSpec
    metrics: tuple[MetricSpec, ...]
    variants: tuple[VariantSpec, ...]
    state: StateUse = "reset"
    """What a model carries from call to call: forgotten before each example, or kept within a group of them."""
    line: int = 0
    ignore: tuple[Ignore, ...] = ()
    """Accepted of the model itself, and of each of its variants."""
    reference_tolerances: dict[str, Tolerance] = msgspec.field(default_factory=dict)
    """What the reference's own values must be: `min` and `max` by metric."""


class Manifest(Spec, frozen=True):
    """A valid manifest."""

    path: str
    """As the user wrote it, for messages."""
    folder: str
    """Absolute folder of the manifest."""
    sha256: str
    models: tuple[ModelSpec, ...]
    data_roots: tuple[str, ...] = ()
    """Folders outside the repository that it may name and links may lead to; from the command line alone."""
