"""A manifest after reading: every name resolved, every path absolute, every default filled in.

These types are plain data. They cross process boundaries as JSON and enter cache keys as JSON, so
they hold only strings, numbers, booleans, None, tuples and dictionaries.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from tflite_guard.vocabulary import Kernels, Ranges, ReferenceKind, SourceKind, ToleranceKind


@dataclass(frozen=True)
class ReferenceSpec:
    """A model to convert from or compare with. Exactly one kind."""

    kind: ReferenceKind
    path: str
    """Absolute, symlinks resolved."""
    signature: str = "serving_default"
    sha256: str | None = None
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """Where examples come from and what is done to them before a model sees them."""

    name: str
    source: SourceKind
    path: str
    """Absolute, symlinks resolved; for `python`, the function's `package.module:function`."""
    inputs: str | dict[str, str]
    """The source's key for a model with one input, or model input name to key."""
    labels: str | dict[str, str] | None = None
    """The source's key, or model output name to key."""
    group: str | None = None
    preprocess: tuple[dict[str, Any], ...] | dict[str, tuple[dict[str, Any], ...]] = ()
    """One-key steps for every input, or model input name to steps."""
    limit: int | None = None
    seed: int = 0
    sha256: str | None = None
    class_order: tuple[str, ...] | None = None
    labels_file: str | None = None
    columns: dict[str, Any] | None = None
    features: dict[str, dict[str, Any]] | None = None
    root: str = ""
    """The manifest's folder: what a `python` source is imported from."""
    roots: tuple[str, ...] = ()
    """Folders outside the repository that links in a folder of images may lead to; from the command line alone."""


@dataclass(frozen=True)
class MetricSpec:
    """One metric to compute. `name` labels it in reports, `metric` says which it is."""

    name: str
    metric: str
    output: str | None = None
    labels: str | None = None
    k: int = 5
    threshold: float | None = None
    from_logits: bool = False
    ignore_index: int | None = None
    average: Literal["macro", "weighted"] = "macro"
    python: str | None = None
    higher_is_better: bool = True


@dataclass(frozen=True)
class Tolerance:
    """What is allowed of one metric. Limits are in the metric's own unit; None means not limited."""

    max_drop: float | None = None
    max_relative_drop: float | None = None
    min: float | None = None
    max: float | None = None
    max_regression: float | None = None
    level: Literal["error", "warning"] = "error"
    require: Literal["proven_pass", "proven_fail"] | None = None
    line: int = 0
    """The manifest's line of the innermost object that set it, from 1."""
    lines: dict[ToleranceKind, int] = field(default_factory=dict)
    """The line of each limit's own key, which may be in an outer object."""

    def limits(self) -> dict[ToleranceKind, float]:
        """The limits that are set, in the order of the schema."""
        named: dict[ToleranceKind, float | None] = {
            "max_drop": self.max_drop,
            "max_relative_drop": self.max_relative_drop,
            "min": self.min,
            "max": self.max,
            "max_regression": self.max_regression,
        }
        return {kind: limit for kind, limit in named.items() if limit is not None}


@dataclass(frozen=True)
class CalibrationOptions:
    """How activation ranges are taken from the calibration data."""

    samples: int | None = None
    """Use only the first so many examples; None means all."""
    clip_percentile: float | None = None
    """Keep the central so many percent of each tensor's measured values, e.g. 99.9."""
    ranges: Ranges = "converter"


@dataclass(frozen=True)
class Ignore:
    """A rule whose findings a user has looked at and accepted, and why."""

    rule: str
    reason: str


@dataclass(frozen=True)
class VariantSpec:
    """One artifact to judge: exactly one of `quantization`, `tflite`, `recipe` is set."""

    name: str
    quantization: str | None = None
    tflite: str | None = None
    recipe: str | None = None
    """A recipe's name, or the absolute path of a recipe file."""
    sha256: str | None = None
    io: str = "float32"
    source: ReferenceSpec | None = None
    calibration: DatasetSpec | None = None
    calibration_options: CalibrationOptions = CalibrationOptions()
    keep_float: tuple[str, ...] = ()
    require_integer: bool = False
    kernels: Kernels = "default"
    observed_outputs: str | None = None
    observed_tolerance: float | None = None
    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    ignore: tuple[Ignore, ...] = ()
    line: int = 0

    @property
    def recipe_file(self) -> str | None:
        """The path of the recipe; None where it goes by a name."""
        return self.recipe if self.recipe is not None and os.path.isabs(self.recipe) else None


@dataclass(frozen=True)
class ModelSpec:
    """One float reference with the variants that are compared with it."""

    name: str
    reference: ReferenceSpec
    evaluation: DatasetSpec
    metrics: tuple[MetricSpec, ...]
    variants: tuple[VariantSpec, ...]
    line: int = 0


@dataclass(frozen=True)
class Manifest:
    """A valid manifest."""

    path: str
    """As the user wrote it, for messages."""
    folder: str
    """Absolute folder of the manifest."""
    sha256: str
    models: tuple[ModelSpec, ...]
