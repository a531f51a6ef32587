"""What is wrong in meaning with a model as a whole."""

from __future__ import annotations

from collections.abc import Iterable

from tflite_guard.manifest.jsontext import quoted
from tflite_guard.manifest.meaning.datasets import check_dataset_name, rejected
from tflite_guard.manifest.meaning.metrics import check_arena, check_metric, check_outputs
from tflite_guard.manifest.meaning.paths import Context, check_reference
from tflite_guard.manifest.meaning.tolerances import check_reference_tolerances, check_tolerance_names
from tflite_guard.manifest.meaning.variants import check_ignore, check_variant
from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.views import ModelView


def check_model(model: ModelView, tree: Node, context: Context) -> None:
    """Add the problems of a model, its metrics, tolerances and variants."""
    evaluation = check_dataset_name(model.settings.get("evaluation"), tree, context)
    for key in ("evaluation", "variants"):
        if key not in model.settings and not rejected(key, model, tree):
            context.say(model.node, f'model {quoted(model.name)} lacks {quoted(key)} (here or in "defaults")')
    check_dataset_name(model.settings.get("calibration"), tree, context)
    check_reference(model.node.content["reference"], context)
    check_unique(((view.node, view.spec.name) for view in model.metrics), "metric", context, key="name")
    check_unique(((variant.node, variant.name) for variant in model.variants), "variant", context, key="name")
    for metric in model.metrics:
        check_metric(metric, evaluation, context)
    check_outputs(model, evaluation, context)
    check_arena(model, context)
    check_tolerance_names(model, context)
    check_reference_tolerances(model, context)
    check_ignore(model.node.get("ignore"), context)
    for variant in model.variants:
        check_variant(variant, model, tree, context)


def check_unique(named: Iterable[tuple[Node | None, str]], what: str, context: Context, key: str | None = None) -> None:
    """Add a problem at every name that was there before; at a node's `key` where it has one."""
    first: dict[str, Node] = {}
    for node, name in named:
        if node is None:
            continue
        place = (node.get(key) if key else None) or node
        if name in first:
            context.say(place, f"a second {what} named {quoted(name)}, the first is on line {first[name].line}")
        first.setdefault(name, place)
