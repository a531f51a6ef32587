"""Node data for Google's Model Explorer: what each tensor loses, on the graph of the file that was judged.

Model Explorer looks for a key among the names of the nodes' output tensors first, then among the nodes' ids. A file has
one value a node, so each measure has a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tflite_guard.reports import json
from tflite_guard.reports.wording import named_variants
from tflite_guard.results import Report, TensorLoss, VariantResult
from tflite_guard.text.plain import plain

FOLDER = "model-explorer"
"""In a report folder."""


@dataclass(frozen=True)
class _Measure:
    name: str
    title: str
    of: Callable[[TensorLoss], float | None]
    colours: tuple[tuple[float, str], ...]
    """Each up to a value; what is above them all has no colour."""


_DECIBELS = ((10.0, "#b71c1c"), (20.0, "#ef6c00"), (30.0, "#fdd835"), (40.0, "#c5e1a5"))
MEASURES = (
    _Measure("isolated", "SQNR alone (dB)", lambda one: _rounded(one.isolated), _DECIBELS),
    _Measure("cumulative", "SQNR in the graph (dB)", lambda one: _rounded(one.cumulative), _DECIBELS),
    _Measure(
        "clipped",
        "clipped values (%)",
        lambda one: round(100 * one.clipped, 3),
        ((0.0, "#ffffff"), (0.1, "#fdd835"), (1.0, "#ef6c00"), (100.0, "#b71c1c")),
    ),
)


def files(report: Report) -> dict[str, str]:
    """Name of a file to its text: one for each diagnosed variant and measure that has a value of any tensor."""
    return {
        f"{name}-{measure.name}.json": json.text(_node_data(f"{plain(variant.name)}: {measure.title}", measure, found))
        for name, variant in named_variants(report)
        for measure in MEASURES
        if (found := _values(variant, measure))
    }


def _values(variant: VariantResult, measure: _Measure) -> dict[str, float]:
    tensors = () if variant.diagnosis is None else variant.diagnosis.tensors
    given = ((one.in_file, measure.of(one)) for one in tensors)
    return {name: value for name, value in given if name and value is not None}


def _node_data(title: str, measure: _Measure, values: dict[str, float]) -> dict[str, Any]:
    """Without a graph's id, which a subgraph has from its own name, it is for the graph that is shown: the main one."""
    return {
        "name": title,
        "results": {name: {"value": value} for name, value in values.items()},
        "thresholds": [{"value": value, "bgColor": colour} for value, colour in measure.colours],
        # Neither decibels nor fractions add up.
        "hideAggregatedStats": ["sum"],
        "hideInChildrenStatsTable": True,
    }


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 2)
