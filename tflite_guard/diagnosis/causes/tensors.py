"""Tensors that lose most although their ranges are right: restored to float one by one, and what ails them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import HALF, Bench, Trial
from tflite_guard.diagnosis.lab import Array, Change, Option, TensorView
from tflite_guard.text import figures

CANDIDATES = 16
"""Tensors that are restored one by one: those that look worst, and those next to the outputs."""
TOGETHER = 3
SPREAD = 30.0
"""Channels that differ by so much cannot share a scale."""
OUTLIER = 15.0
BRANCHES = 8.0
MASK = 1e3
UNITS = 100.0


def sensitive(bench: Bench) -> Cause | None:
    """Some few tensors in float give back half of the loss."""
    if not bench.lab.quantizable:
        return None
    views = {view.name: view for view in bench.real_views}
    trials = {name: _restored(bench, (name,)) for name in _candidates(list(views.values()))}
    ranked = sorted(trials, key=lambda name: trials[name].quieter, reverse=True)
    chosen: tuple[str, ...] = ()
    best: Trial | None = None
    for name in ranked[:TOGETHER]:
        trial = trials[name] if not chosen else _restored(bench, (*chosen, name))
        if best is None or trial.quieter > best.quieter + 0.05:
            chosen, best = (*chosen, name), trial
        if best.recovered >= HALF and best.quieter >= HALF:
            break
    if best is None or best.recovered < HALF:
        return None
    told = bench.confirmed(best)
    if told is None:
        return None
    rule, why = _kind(bench, views[chosen[0]])
    producer = bench.lab.graph.producer(chosen[0])
    places = [bench.lab.place(name) for name in chosen]
    return Cause(
        rule,
        f"{why} With {' and '.join(places)} and the operators around in float, "
        f"{figures.percent(told.recovered)} of the loss comes back.",
        told,
        tensor=chosen[0],
        operator=producer.type if producer else "input",
        evidence={"channel_spread": round(evidence.channel_spread(views[chosen[0]].channels), 1)},
        options=tuple(
            Option(
                f"{' and '.join(places[:count])} in float",
                {"keep_float": places[:count]},
                keep=chosen[:count],
            )
            for count in range(1, len(places) + 1)
        ),
    )


def _restored(bench: Bench, names: tuple[str, ...]) -> Trial:
    places = " and ".join(bench.lab.place(name) for name in names)
    return bench.quantized(f"{places} in float, on real ranges", Change(bench.real, keep=names))


def _candidates(views: Sequence[TensorView]) -> list[str]:
    """Those whose worst channel is quantized worst, and the last ones."""
    worst = sorted(views, key=lambda view: view.worst_channel if view.worst_channel is not None else np.inf)
    names = [view.name for view in worst[: CANDIDATES - 4]]
    last = [view.name for view in views[-4:]]
    return list(dict.fromkeys([*names, *last]))


def _kind(bench: Bench, view: TensorView) -> tuple[str, str]:
    """The rule that the tensor's numbers say, and a sentence on them."""
    graph, lab = bench.lab.graph, bench.lab
    place = lab.place(view.name)
    producer, consumers = graph.producer(view.name), graph.consumers(view.name)
    around = [*([producer] if producer else []), *consumers]
    ranges = bench.real
    for operator in around:
        if operator.type == "CONCATENATION":
            sizes = [max(abs(v) for v in ranges[name]) for name in operator.inputs if name in ranges]
            if sizes and min(sizes) > 0 and max(sizes) / min(sizes) >= BRANCHES:
                return (
                    "concat-range-mismatch",
                    f"The branches that are concatenated at {place} have unlike ranges (by a factor of "
                    f"{max(sizes) / min(sizes):,.0f}) and share one scale.",
                )
    for operator in around:
        for name in operator.constants:
            values = lab.constant(name)
            if (
                operator.type in ("ADD", "MUL", "SUB", "SELECT_V2", "MINIMUM", "MAXIMUM")
                and np.abs(values).max() >= MASK
            ):
                return (
                    "mask-constant",
                    f"A constant of {float(values.flat[np.abs(values).argmax()]):,.6g} meets small values at {place} "
                    "and sets their scale; a constant of about -30 masks as well.",
                )
    if max(abs(v) for v in view.range) >= MASK * 10 and any(op.type == "SOFTMAX" for op in consumers):
        return (
            "mask-constant",
            f"{place} holds {figures.span(view.range)} before a softmax: the mask sets the scale of all scores; a "
            "mask of about -30 does as well.",
        )
    spread = evidence.channel_spread(view.channels)
    if producer is None and spread >= UNITS:
        return (
            "input-unit-mismatch",
            f"The channels of the input {place} are of unlike units (ranges differ by a factor of {spread:,.0f}) and "
            "share one scale.",
        )
    for operator in around:
        for name in operator.constants:
            values = lab.constant(name)
            if operator.type in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and values.ndim > 1:
                ratio = float(evidence.outlier_ratio(_channels_first(values, operator.type)).max())
                if ratio >= OUTLIER and spread < SPREAD:
                    return (
                        "weight-outliers",
                        f"One weight of {operator.type} at {place} is {ratio:,.0f} times as large as 95 % of its "
                        "channel's and stretches the scale.",
                    )
    if spread >= SPREAD:
        return (
            "channel-imbalance",
            f"The channels of {place} differ in range by a factor of {spread:,.0f} and share one scale, so the small "
            "ones are lost.",
        )
    if view.name in graph.outputs and view.codes < 32:
        return ("output-outlier", f"The values of the output {place} fall on {view.codes} of 256 steps.")
    kind = producer.type if producer else "input"
    return ("sensitive-operator", f"{place} ({kind}) loses most of all tensors by being quantized.")


def _channels_first(values: Array, kind: str) -> Array:
    return np.moveaxis(values, -1, 0) if kind == "DEPTHWISE_CONV_2D" else values
