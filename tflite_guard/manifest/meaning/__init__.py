"""What is wrong in meaning with a manifest whose form is right. No TensorFlow, LiteRT or numpy."""

from __future__ import annotations

from collections.abc import Sequence

from tflite_guard.manifest.meaning.datasets import check_dataset, check_dataset_name
from tflite_guard.manifest.meaning.models import check_model, check_unique
from tflite_guard.manifest.meaning.paths import Context
from tflite_guard.manifest.meaning.tolerances import check_default_tolerances
from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.views import ModelView

__all__ = ["Context", "check"]


def check(tree: Node, models: Sequence[ModelView], context: Context) -> None:
    """Add every problem of meaning to the context."""
    datasets = tree.get("datasets")
    for _, dataset in datasets.members() if datasets else ():
        check_dataset(dataset, context)
    defaults = tree.get("defaults")
    for key in ("evaluation", "calibration"):
        check_dataset_name(defaults.get(key) if defaults else None, tree, context)
    check_default_tolerances(tree, models, context)
    check_unique(((model.node.content["name"], model.name) for model in models), "model", context)
    for model in models:
        check_model(model, tree, context)
