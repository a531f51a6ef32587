"""The words of a manifest, as data: quantizations, sources, metrics, tolerances and what each means.

Standard library only, so that `validate` and `--help` stay light. The schemas' enumerations are
tested to equal these tables.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

MANIFEST_VERSION = 1
REPORT_VERSION = 1
DEFAULT_MANIFEST = "tflite-guard.json"
FAIL_ON = ("error", "warning", "never")
DIAGNOSE = ("auto", "always", "never")
COMMENT_ON = ("auto", "always", "failures")
MOST_SHARDS = 10_000
CONFIDENCE = 0.95
"""At which an evaluation stops that is to stop when its verdict is certain, unless the manifest asks for more."""
LONGEST_TIMEOUT = 366 * 24 * 3600.0
"""Seconds; longer ones are more than a system's clock may hold."""
SERVING_DEFAULT = "serving_default"
"""TensorFlow's own name for the signature of a model that has one."""

ReferenceKind = Literal["keras", "saved_model", "tflite", "outputs", "artifact"]
"""`artifact` is a .tflite as it is, quantized or not, which `compare` asks for and no manifest can."""
SourceKind = Literal["npz", "npy", "images", "coco", "csv", "tfrecord", "python"]
LiteRT = Literal["default", "reference"]
Kernels = Literal["default", "reference", "micro"]
BoxFormat = Literal["yxyx", "xyxy", "xywh", "cxcywh"]
Decode = Literal["yolo", "yolo_end2end"]
BoxUnits = Literal["relative", "pixels"]
Ranges = Literal["converter", "measured"]
StateUse = Literal["reset", "kept"]
StopUse = Literal["conclusive", "never"]
DiagnoseUse = Literal["auto", "always", "never"]
ToleranceKind = Literal[
    "max_drop", "max_relative_drop", "max_class_drop", "max_slice_drop", "min", "max", "max_regression"
]


class Quantization(msgspec.Struct, frozen=True):
    """What the name of a quantization means to the TFLiteConverter."""

    name: str
    title: str
    calibrated: bool
    """Activations get fixed ranges from calibration data (unless the source is already quantization-aware)."""
    io: tuple[str, ...]
    """The input and output types that may be asked for; the first is the default."""
    integer: bool
    """Operators are meant to compute in integers."""


QUANTIZATIONS = {
    q.name: q
    for q in (
        Quantization("float32", "32-bit float, no quantization", False, ("float32",), False),
        Quantization("float16", "weights in 16-bit float", False, ("float32",), False),
        Quantization("dynamic_range", "8-bit weights, activations quantized on the fly", False, ("float32",), False),
        Quantization("int8", "8-bit weights and activations", True, ("float32", "int8", "uint8"), True),
        Quantization("int16x8", "16-bit activations, 8-bit weights", True, ("float32", "int16"), True),
    )
}

ALSO_CALLED = {
    '"float16"': ("fp16", "f16", "half", "float_16"),
    '"float32"': ("fp32", "f32", "float", "none", "no_quantization", "single"),
    '"float64"': ("fp64", "f64", "double"),
    '"dynamic_range"': ("dynamic", "drq", "dynamic_int8", "weights", "weight_only", "weights_only", "hybrid"),
    '"int8"': ("full_integer", "full_int8", "fullint8", "integer", "ptq", "i8", "int8_full", "full", "static", "w8a8"),
    '"int8" with "io": "int8"': ("int8_io", "int8_only", "integer_only", "full_integer_only"),
    '"int8" with "io": "uint8"': ("uint8", "u8"),
    '"int16x8"': ("int16", "i16", "16x8", "int16_int8", "w8a16", "a16w8"),
    '{"name": "int4", "recipe": "weight_only_wi4_afp32"}': ("int4", "i4", "4bit", "w4"),
}
"""What to write for a quantization or a type of numbers that goes by another name elsewhere."""

# Recipes of the LiteRT Quantizer 0.11 by name, and whether each needs calibration data. Those that it has beside these
# make nothing to judge: recipes of several models in one file, rules for layers of one model, blocks of 8 bits, which
# it leaves in float, blocks of 2 bits, for which LiteRT has no kernel, and 2 bits throughout, with which LiteRT reads
# convolutions' weights from memory that nobody has written.
RECIPES = {
    "dynamic_wi8_afp32": False,
    "dynamic_wi4_afp32": False,
    "dynamic_wi8c_afp32": False,
    "dynamic_wi4c_afp32": False,
    "dynamic_wi4b32_afp32": False,
    "dynamic_wi4b64_afp32": False,
    "dynamic_wi8c_hr_afp32": False,
    "dynamic_wi4c_hr_afp32": False,
    "dynamic_wi2c_hr_afp32": False,
    "dynamic_wi8_afp32_hadamard": False,
    "dynamic_wi4_afp32_hadamard": False,
    "dynamic_legacy_wi8_afp32": False,
    "weight_only_wi8_afp32": False,
    "weight_only_wi4_afp32": False,
    "default_af32w8float": False,
    "default_af32w4float": False,
    "static_wi8_ai8": True,
    "static_wi8_ai16": True,
    "default_a8w8": True,
    "default_a16w8": True,
}


class MetricTraits(msgspec.Struct, frozen=True):
    """What a manifest may say of a metric, and which way is better."""

    name: str
    title: str
    higher_is_better: bool
    needs_labels: bool
    """Compares with labels, so the reference has a value of its own and a drop exists."""
    has_interval: bool
    """A confidence interval exists (not for a maximum or what a file takes)."""
    unit: str = ""
    options: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    """Between what each example's score lies, where the metric is their mean; None of any other metric."""
    of_file: bool = False
    """Told by the file alone, whatever the examples."""
    share: bool = False
    """From 0 to 1, the more the better."""
    of_boxes: bool = False
    """Of a detector's boxes, which several outputs may hold together."""
    mean: bool = False
    """It is the mean of examples' scores, so it has a value on any of them."""


MOST_BOXES = 10_000
"""True boxes of an example: each takes a row of the labels of every other."""
BOX_OUTPUTS = ("boxes", "scores", "classes", "count")
"""What outputs of a detector hold: options that name an output, as `output` does."""
DETECTION_OPTIONS = (
    *BOX_OUTPUTS,
    "box_format",
    "decode",
    "objectness",
    "box_axis",
    "units",
    "size",
    "score_threshold",
    "nms_iou",
    "iou",
)
"""How a detector's outputs are read, and at which overlap a box is found."""

METRICS = {
    m.name: m
    for m in (
        MetricTraits(
            "accuracy",
            "accuracy",
            True,
            True,
            True,
            options=("threshold", "from_logits", "multi_label", "ignore_index"),
            bounds=(0.0, 1.0),
            mean=True,
            share=True,
        ),
        MetricTraits(
            "top_k_accuracy",
            "top-k accuracy",
            True,
            True,
            True,
            options=("k", "ignore_index"),
            bounds=(0.0, 1.0),
            mean=True,
            share=True,
        ),
        MetricTraits(
            "f1_macro",
            "macro F1",
            True,
            True,
            True,
            options=("threshold", "from_logits", "multi_label", "ignore_index"),
            share=True,
        ),
        MetricTraits("roc_auc", "area under the ROC curve", True, True, True, options=("average",), share=True),
        MetricTraits("average_precision", "average precision", True, True, True, options=("average",), share=True),
        MetricTraits(
            "mean_iou", "mean IoU", True, True, True, options=("threshold", "from_logits", "ignore_index"), share=True
        ),
        MetricTraits(
            "mean_average_precision",
            "mean average precision of boxes",
            True,
            True,
            True,
            options=DETECTION_OPTIONS,
            of_boxes=True,
            share=True,
        ),
        MetricTraits("mae", "mean absolute error to labels", False, True, True, mean=True),
        MetricTraits("rmse", "root mean squared error to labels", False, True, True),
        MetricTraits("r2", "coefficient of determination", True, True, True),
        MetricTraits(
            "agreement",
            "same decision as the reference",
            True,
            False,
            True,
            options=("threshold", "from_logits", "multi_label"),
            bounds=(0.0, 1.0),
            mean=True,
            share=True,
        ),
        MetricTraits(
            "detection_agreement",
            "mean average precision, the reference's boxes being the truth",
            True,
            False,
            True,
            options=(*DETECTION_OPTIONS, "threshold"),
            of_boxes=True,
            share=True,
        ),
        MetricTraits("sqnr", "signal to quantization noise ratio", True, False, True, "dB"),
        MetricTraits(
            "cosine_similarity", "cosine similarity to the reference", True, False, True, bounds=(-1.0, 1.0), mean=True
        ),
        MetricTraits("max_abs_error", "largest absolute difference from the reference", False, False, False),
        MetricTraits("mean_abs_error", "mean absolute difference from the reference", False, False, True, mean=True),
        MetricTraits(
            "kl_divergence",
            "Kullback-Leibler divergence from the reference",
            False,
            False,
            True,
            "nats",
            ("from_logits",),
            mean=True,
        ),
        MetricTraits("size_bytes", "size of the .tflite file", False, False, False, "bytes", of_file=True),
        MetricTraits(
            "arena_bytes", "memory that TensorFlow Lite Micro takes", False, False, False, "bytes", of_file=True
        ),
        MetricTraits("macs", "multiply-accumulates of an example", False, False, False, of_file=True),
    )
}

PADDING = ("pad", "letterbox")
"""Preprocessing steps that add places around an image."""
UNLABELLED = 255
"""What masks have by habit where there is no class; so has what a step adds around them."""

PYTHON_METRIC = MetricTraits("python", "user's own metric", True, True, True)

OF_CLASSES = ("accuracy", "top_k_accuracy")
"""Metrics that may have a `max_class_drop`: a decision is right or wrong, and counts for its label's class alone."""

TOLERANCES: tuple[ToleranceKind, ...] = get_args(ToleranceKind)
