"""Models and variants with inheritance resolved, still as nodes: what is checked and then built.

`defaults`, model and variant are layers from the outside in. Tolerances and calibration options merge
key by key; of everything else the innermost wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec

from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.types import Detection, FunctionSpec, MetricSpec
from tflite_guard.vocabulary import (
    CONFIDENCE,
    DETECTION_OPTIONS,
    METRICS,
    PYTHON_METRIC,
    QUANTIZATIONS,
    RECIPES,
    Kernels,
    MetricTraits,
)

INHERITED = ("calibration", "require_integer", "kernels", "stop_when")
LABELLED_DEFAULT = ("accuracy", "agreement")
UNLABELLED_DEFAULT = ("sqnr", "cosine_similarity")
LEAST_SCORE = 0.001
"""From which score on boxes of a decoded head are looked at, as in the validation of YOLO models."""
REFERENCE_KINDS = ("keras", "saved_model", "tflite", "outputs")


class MetricView(msgspec.Struct, frozen=True):
    """A metric as a model has it. `node` is None for a default that the manifest does not name."""

    node: Node | None
    spec: MetricSpec

    @property
    def traits(self) -> MetricTraits:
        """What may be said of it."""
        return PYTHON_METRIC if self.spec.python else METRICS[self.spec.metric]


class ToleranceView(msgspec.Struct, frozen=True):
    """A tolerance with each key from the innermost layer that sets it; `node` is the innermost object."""

    node: Node
    keys: dict[str, Node]

    def value(self, key: str) -> Any:
        """A key's value; None when no layer sets it."""
        return self.keys[key].value() if key in self.keys else None


class VariantView(msgspec.Struct, frozen=True):
    """A variant with what it inherits. `own` are its own keys, in the short form just `quantization`."""

    node: Node
    own: dict[str, Node]
    settings: dict[str, Node]
    calibration_options: dict[str, Node]
    tolerances: dict[str, ToleranceView]
    reference: Node
    quantization_aware: bool
    """The model it is converted from seems to hold ranges learned in training, so calibration data may be missing."""

    @property
    def name(self) -> str:
        """The variant's name."""
        return str(self.own.get("name", self.node).value())

    def text(self, key: str) -> str | None:
        """One of its own strings; None when it has none."""
        return str(self.own[key].value()) if key in self.own else None

    @property
    def confidence(self) -> float | None:
        """With which its verdict must be certain for its evaluation to stop; None where every example is evaluated."""
        stop = self.settings.get("stop_when")
        if stop is None or stop.value() == "never":
            return None
        return CONFIDENCE if stop.value() == "conclusive" else float(stop.value()["confidence"])

    @property
    def kernels(self) -> Kernels:
        """Which kernels evaluate it."""
        node = self.settings.get("kernels")
        return cast(Kernels, node.value()) if node else "default"

    def computes(self, metric: MetricSpec) -> bool:
        """Whether a metric of its model is one of its own: an arena is TensorFlow Lite Micro's alone."""
        return metric.metric != "arena_bytes" or self.kernels == "micro"

    @property
    def converted_from(self) -> tuple[str, Node] | None:
        """The kind and path of the model it is converted from; None for an existing .tflite."""
        return None if "tflite" in self.own else kind_of_model(self.own.get("source", self.reference))

    @property
    def calibrated(self) -> bool:
        """Calibration data decides its ranges (for a recipe file: may decide them)."""
        if recipe := self.text("recipe"):
            return is_recipe_file(recipe) or RECIPES.get(recipe, False)
        quantization = QUANTIZATIONS.get(self.text("quantization") or "")
        return quantization is not None and quantization.calibrated

    @property
    def measurable(self) -> bool:
        """Ranges can be measured for it instead of taken from the converter."""
        return self.calibrated and self.text("quantization") != "int16x8"


class ModelView(msgspec.Struct, frozen=True):
    """A model with what it inherits."""

    node: Node
    settings: dict[str, Node]
    metrics: tuple[MetricView, ...]
    metrics_complete: bool
    """No metric of it was rejected, so what is not among `metrics` is truly absent."""
    variants: tuple[VariantView, ...]
    tolerance_layers: tuple[tuple[Node, bool], ...]
    """Each `tolerances` object that bears on it and whether it is the model's own, not shared by `defaults`."""

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.node.content["name"].value())

    @property
    def reference_tolerances(self) -> dict[str, ToleranceView]:
        """Those of the reference itself, by metric."""
        tolerances = self.node.content["reference"].get("tolerances")
        return _tolerances([self.node.content["reference"]]) if tolerances else {}


def model_views(tree: Node, folder: str, quantization_aware: Callable[[str], bool]) -> list[ModelView]:
    """Every model of a manifest, which lies in a folder, that conforms to the schema.

    `quantization_aware` tells of a SavedModel's path, as written, whether it was trained for quantization.
    """
    models, datasets = tree.get("models"), tree.get("datasets")
    return [_model(node, tree.get("defaults"), datasets, folder, quantization_aware) for node in _elements(models)]


def expanded_size(tree: Node) -> int:
    """How many metrics and tolerances the variants of all models have, with those that `defaults` repeats for each."""
    defaults = tree.get("defaults")
    return sum(_size(node, defaults) for node in _elements(tree.get("models")))


def _size(model: Node, defaults: Node | None) -> int:
    layers = [layer for layer in (defaults, model) if layer is not None]
    found = _innermost(layers, ("metrics", "variants"))
    tolerances = sum(len(dict(shared.members())) for layer in layers if (shared := layer.get("tolerances")))
    return len(_elements(found.get("variants"))) * (1 + len(_elements(found.get("metrics"))) + tolerances)


def kind_of_model(node: Node) -> tuple[str, Node]:
    """The kind of a reference or source and the node of its path."""
    return next((kind, path) for kind in REFERENCE_KINDS if (path := node.get(kind)) is not None)


def is_recipe_file(recipe: str) -> bool:
    """Whether a recipe is meant as a file's path, not a name."""
    return "/" in recipe or recipe.endswith(".json")


def label_keys(dataset: Node | None) -> str | dict[str, str] | None:
    """A dataset's labels: a key, a map from output name to key, or None."""
    labels = dataset.get("labels") if dataset else None
    plain: str | dict[str, str] | None = labels.value() if labels else None
    return plain


def _model(
    node: Node,
    defaults: Node | None,
    datasets: Node | None,
    folder: str,
    quantization_aware: Callable[[str], bool],
) -> ModelView:
    layers = [layer for layer in (defaults, node) if layer is not None]
    settings = _innermost(layers, (*INHERITED, "evaluation", "metrics", "state", "variants"))
    evaluation = settings.get("evaluation")
    dataset = datasets.get(str(evaluation.value())) if datasets and evaluation else None
    metrics = settings.get("metrics")
    variants = settings.get("variants")
    return ModelView(
        node=node,
        settings=settings,
        metrics=tuple(_metrics(metrics, dataset, folder)),
        metrics_complete=not any("metrics" in layer.removed for layer in layers) and not _damaged(metrics),
        variants=tuple(_variant(variant, layers, node, quantization_aware) for variant in _elements(variants)),
        tolerance_layers=tuple((found, layer is node) for layer in layers if (found := layer.get("tolerances"))),
    )


def _damaged(node: Node | None) -> bool:
    return node is not None and (bool(node.removed) or any(element.removed for element in node.elements()))


def _elements(node: Node | None) -> list[Node]:
    return node.elements() if node else []


def _variant(node: Node, layers: Sequence[Node], model: Node, quantization_aware: Callable[[str], bool]) -> VariantView:
    reference = model.content["reference"]
    own = dict(node.members()) or {"quantization": node}
    nested = [*layers, node]
    kind, path = kind_of_model(own.get("source", reference))
    options = [found for layer in nested if (found := layer.get("calibration_options"))]
    return VariantView(
        node=node,
        own=own,
        settings=_innermost(nested, INHERITED),
        calibration_options=_innermost(options, ("samples", "clip_percentile", "ranges")),
        tolerances=_tolerances(nested),
        reference=reference,
        quantization_aware=kind == "saved_model" and quantization_aware(str(path.value())),
    )


def _innermost(layers: Sequence[Node], keys: Sequence[str]) -> dict[str, Node]:
    return {key: found for layer in layers for key in keys if (found := layer.get(key)) is not None}


def _tolerances(layers: Sequence[Node]) -> dict[str, ToleranceView]:
    merged: dict[str, ToleranceView] = {}
    for layer in layers:
        tolerances = layer.get("tolerances")
        for name, node in tolerances.members() if tolerances else ():
            outer = merged[name].keys if name in merged else {}
            merged[name] = ToleranceView(node, {**outer, **dict(node.members())})
    return merged


def _metrics(node: Node | None, dataset: Node | None, folder: str) -> Iterator[MetricView]:
    if node is None:
        for name in _default_metrics(dataset):
            yield MetricView(None, MetricSpec(name, name, higher_is_better=METRICS[name].higher_is_better))
        return
    for element in node.elements():
        yield MetricView(element, _metric_spec(element.value(), label_keys(dataset), folder))


def _default_metrics(dataset: Node | None) -> tuple[str, ...]:
    labels = label_keys(dataset)
    if dataset is not None and dataset.content["source"].value() == "coco":
        return UNLABELLED_DEFAULT  # whose boxes no metric can compare with that is not told which outputs hold some
    one = isinstance(labels, str) or (isinstance(labels, dict) and len(labels) == 1)
    return LABELLED_DEFAULT if one else UNLABELLED_DEFAULT


def _metric_spec(written: str | dict[str, Any], labels: str | dict[str, str] | None, folder: str) -> MetricSpec:
    options: dict[str, Any] = {"metric": written} if isinstance(written, str) else dict(written)
    python: str | None = options.pop("python", None)
    metric = "python" if python else options["metric"]
    options.setdefault("name", python.rpartition(":")[2] if python else metric)
    options.setdefault("higher_is_better", True if python else METRICS[metric].higher_is_better)
    for key in ("k", "ignore_index"):
        if key in options:
            options[key] = int(options[key])
    detection = {key: options.pop(key) for key in DETECTION_OPTIONS if key in options}
    if python is None and METRICS[metric].of_boxes:
        options["detection"] = _detection(detection)
    function = None if python is None else FunctionSpec(python, folder)
    options |= {"metric": metric, "labels": _output_of(options.get("labels"), labels), "python": function}
    return MetricSpec(**options)


def _detection(written: dict[str, Any]) -> Detection:
    if "size" in written:
        written["size"] = tuple(map(int, written["size"]))
    if "box_axis" in written:
        written["box_axis"] = int(written["box_axis"])
    if written.get("decode") == "yolo":
        written.setdefault("score_threshold", LEAST_SCORE)
    return Detection(**written)


def _output_of(wanted: str | None, labels: str | dict[str, str] | None) -> str | None:
    """The output name whose labels are meant, where they were named by the source's key."""
    if isinstance(labels, str) and wanted == labels:
        return None
    if isinstance(labels, dict) and wanted not in labels:
        return next((output for output, key in labels.items() if key == wanted), wanted)
    return wanted
