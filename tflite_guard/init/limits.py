"""Metrics and tolerances to start from, and those of what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tflite_guard.init.binding import Task
from tflite_guard.protocol import Names
from tflite_guard.results import ModelResult
from tflite_guard.vocabulary import METRICS

MAX_DROP = 0.01
MAX_RELATIVE_DROP = 0.05
MIN_AGREEMENT = 0.97
MIN_SQNR_DB = 10.0
ROOM_DB = 1.0
ROOM = 0.005
"""What is left for other machines and versions, of metrics that are shares of examples."""


def to_start_from(tasks: Mapping[str, Task], names: Names) -> tuple[list[Any], dict[str, Any]]:
    """Metrics and tolerances: of outputs with labels by what these are; else fidelity to the reference."""
    metrics: list[Any] = []
    tolerances: dict[str, Any] = {}
    lone = len(names.outputs) == 1
    for output, task in tasks.items():
        chosen = {"accuracy": {"max_drop": MAX_DROP}, "agreement": {"min": MIN_AGREEMENT}}
        for metric, limit in (
            chosen.items() if task == "classes" else [("mae", {"max_relative_drop": MAX_RELATIVE_DROP})]
        ):
            name = metric if lone else f"{output}.{metric}"
            metrics.append(name if lone else {"name": name, "metric": metric, "output": output})
            tolerances[name] = limit
    if not tasks or "numbers" in tasks.values() or len(tasks) < len(names.outputs):
        metrics += ["sqnr"] if tasks else ["sqnr", "cosine_similarity"]
        tolerances["sqnr"] = {"min": MIN_SQNR_DB}
    return metrics, tolerances


def of_reference(metric: str, value: float) -> dict[str, float] | None:
    """What holds a reference to a value that it reaches: an accuracy, or an error in two digits; None for others."""
    match metric.rpartition(".")[2]:
        case "accuracy":
            least = math.floor((value - ROOM) * 100) / 100
            return {"min": least} if least > 0 else None
        case "mae" if value > 0:
            step = 10.0 ** (math.floor(math.log10(value)) - 1)
            return {"max": float(f"{math.ceil(value / step + 1e-9) * step:.2g}")}
    return None


def measured(variant: Any, model: ModelResult) -> Any:
    """A variant that is held to what it reaches: the limits that its metrics have, as near as there is room."""
    name = variant if isinstance(variant, str) else variant["name"]
    found = next(one for one in model.variants if one.name == name)
    tolerances: dict[str, Any] = {}
    for metric in found.metrics:
        traits = METRICS.get(metric.metric)
        if traits is None or metric.value is None or metric.tolerance is None:
            continue
        if metric.metric == "sqnr":
            tolerances[metric.name] = {"min": math.floor(metric.value - ROOM_DB)}
        elif metric.metric == "agreement":
            tolerances[metric.name] = {"min": max(0.0, math.floor((metric.value - ROOM) * 1000) / 1000)}
        elif metric.metric == "accuracy" and metric.drop is not None:
            tolerances[metric.name] = {"max_drop": math.ceil((max(metric.drop, 0.0) + ROOM) * 1000) / 1000}
        elif metric.metric == "mae" and metric.drop is not None and metric.reference:
            relative = max(metric.drop, 0.0) / metric.reference
            tolerances[metric.name] = {"max_relative_drop": math.ceil((relative + ROOM) * 1000) / 1000}
    if not tolerances:
        return variant
    return {**({"name": name, "quantization": name} if isinstance(variant, str) else variant), "tolerances": tolerances}
