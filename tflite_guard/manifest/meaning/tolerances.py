"""What is wrong in meaning with tolerances: names that are not computed, limits that do not fit their metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tflite_guard.manifest.jsontext import quoted
from tflite_guard.manifest.meaning.paths import Context
from tflite_guard.manifest.rejections import did_you_mean, listed
from tflite_guard.manifest.tree import Node
from tflite_guard.manifest.views import MetricView, ModelView, ToleranceView
from tflite_guard.vocabulary import METRICS, OF_CLASSES, TOLERANCES

_AT_MOST_ONE = ("cosine_similarity", "r2")
"""Metrics that cannot exceed 1 but fall below 0. There as with shares a percentage is a likely slip."""


def check_default_tolerances(tree: Node, models: Sequence[ModelView], context: Context) -> None:
    """A default tolerance may concern some models only, but must concern one."""
    defaults = tree.get("defaults")
    tolerances = defaults.get("tolerances") if defaults else None
    written = tree.document.value.get("models")
    complete = isinstance(written, list) and len(models) == len(written) and all(m.metrics_complete for m in models)
    if tolerances is not None and complete:
        _say_unknown_tolerances(tolerances, [metric for model in models for metric in model.metrics], context)


def check_tolerance_names(model: ModelView, context: Context) -> None:
    """Add the problems of tolerance names that a model or its variants give for nothing computed."""
    if not model.metrics_complete:
        return
    own = [layer for layer, of_model in model.tolerance_layers if of_model]
    own += [found for variant in model.variants if (found := variant.node.get("tolerances"))]
    for tolerances in own:
        _say_unknown_tolerances(tolerances, model.metrics, context)


def check_reference_tolerances(model: ModelView, context: Context) -> None:
    """Add the problems of what is asked of the reference's own values."""
    tolerances = model.node.content["reference"].get("tolerances")
    if tolerances is None or not model.metrics_complete:
        return
    _say_unknown_tolerances(tolerances, model.metrics, context)
    metrics = {metric.spec.name: metric for metric in model.metrics}
    for name, tolerance in model.reference_tolerances.items():
        if name not in metrics:
            continue
        if metrics[name].traits.needs_labels:
            check_tolerance(tolerance, metrics[name], context)
        else:
            why = "it compares a variant with the reference, which has no value of its own"
            context.say(tolerance.node, f"a tolerance of the reference does not apply to {quoted(name)}: {why}")


def _say_unknown_tolerances(tolerances: Node, metrics: Iterable[MetricView], context: Context) -> None:
    names = dict.fromkeys(metric.spec.name for metric in metrics)
    for name, node in tolerances.members():
        if name not in names:
            hint = did_you_mean(name, names, known="computed")
            if name in METRICS:
                hint = f'; add it to "metrics" (there: {listed(names)})'
            context.say_key(node, f"a tolerance for {quoted(name)}, which is not computed{hint}")


def check_tolerance(tolerance: ToleranceView, metric: MetricView, context: Context) -> None:
    """Add the problems of one tolerance, inheritance done, for its metric."""
    limits = [key for key in TOLERANCES if key in tolerance.keys]
    name = quoted(metric.spec.name)
    if not limits and not tolerance.node.removed:
        context.say(tolerance.node, f"this tolerance of {name} sets no limit, such as max_drop, min or max")
    for key in limits:
        if why := _no_meaning(key, metric):
            context.say_key(tolerance.keys[key], f"{quoted(key)} does not apply to {name}: {why}")
        elif percent := _percent(key, float(tolerance.value(key)), metric):
            context.say(tolerance.keys[key], percent)
    if {"min", "max"} <= tolerance.keys.keys() and tolerance.value("min") > tolerance.value("max"):
        context.say(tolerance.keys["min"], f'"min" of {name} is above its "max"')
    if (require := tolerance.keys.get("require")) is not None and (why := _cannot_prove(limits, metric)):
        context.say_key(require, f'"require" does not apply here: {why}')


def _no_meaning(limit: str, metric: MetricView) -> str | None:
    """Why a limit does not fit a metric; None when it does. A user's own metric takes every limit."""
    traits = metric.traits
    if limit == "max_class_drop" and metric.spec.metric not in OF_CLASSES:
        return f"it is of decisions, each of which counts for one class; set it on {listed(OF_CLASSES)}"
    if metric.spec.python:
        return None
    if limit == "max_slice_drop" and not (traits.mean and traits.needs_labels):
        possible = listed(name for name, one in METRICS.items() if one.mean and one.needs_labels)
        return f"it is of means of examples' scores that compare with labels, {possible}"
    if limit in ("max_drop", "max_relative_drop") and not traits.needs_labels:
        instead = "min" if traits.higher_is_better else "max"
        return f'the reference has no value of its own to drop from; use "{instead}"'
    if limit == "min" and not traits.higher_is_better:
        return 'smaller is better; use "max"'
    if limit == "max" and traits.higher_is_better:
        return 'larger is better; use "min"'
    return None


def _percent(limit: str, value: float, metric: MetricView) -> str | None:
    share = metric.traits.share
    if not share and metric.spec.metric not in _AT_MOST_ONE:
        return None
    if limit == "min" and value > 1:
        return f"{metric.spec.metric} is never above 1; 97 % is written 0.97"
    if limit in ("max_drop", "max_class_drop", "max_slice_drop", "max_regression") and value >= 1 and share:
        return f"{metric.spec.metric} is between 0 and 1, so this allows everything; 1 % is written 0.01"
    return None


def _cannot_prove(limits: Sequence[str], metric: MetricView) -> str | None:
    if not metric.traits.has_interval:
        return f"{metric.spec.metric} has no confidence interval"
    return "a change since the baseline has no confidence interval" if list(limits) == ["max_regression"] else None
