"""Tensors that lose most although their ranges are right: what ails each is shown by the change that cures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tflite_guard.diagnosis import evidence, rewrites
from tflite_guard.diagnosis.causes import Cause
from tflite_guard.diagnosis.experiments import HALF, Bench, Trial
from tflite_guard.diagnosis.lab import Array, Arrays, Change, Option, TensorView
from tflite_guard.text import figures

CANDIDATES = 16
"""Tensors that are restored one by one: those that look worst, and those next to the outputs."""
LOOKED_INTO = 4
"""Tensors for which specific rewrites are tried."""
TOGETHER = 4
AS_GOOD = 0.7
"""A specific rewrite names the cause where it gives back so much of what restoring gives."""
SAME_FUNCTION = 40.0
"""Decibels of the rewritten float model's outputs to the float model's own."""
BRANCHES = 4.0
"""A ratio of branches' ranges that is worth a rewrite."""
OUTLIERS = 6.0
"""Weights beyond so many times their channel's 95th percentile are clipped to it; healthy models have up to 4.2."""
MASK = 500.0
MASKED = 30.0
"""What an exponential still takes for nothing."""
UNITS = 30.0


def mask(bench: Bench) -> Cause | None:
    """A large constant, clipped to what masks as well, gives the loss back."""
    found = list(rewrites.large_constants(bench.lab, MASK)) if bench.lab.quantizable else []
    if not found:
        return None
    changed = {name: np.clip(bench.lab.constant(name), -MASKED, MASKED) for _, name, _ in found}
    if not _same_function(bench, changed):
        return None
    trial = _rewritten(bench, f"constants clipped to ±{MASKED:g}", changed)
    told = bench.confirmed(trial) if trial.recovered >= HALF else None
    if told is None:
        return None
    operator, name, value = max(found, key=lambda one: abs(one[2]))
    result = operator.outputs[0]
    return Cause(
        "mask-constant",
        f"The constant {value:.6g} at {bench.lab.place(result)} ({operator.type}) shares a scale with small values, "
        f"which are then all one step. A constant of {np.sign(value) * MASKED:g} masks as well and leaves the float "
        "outputs as they are: use it in the model.",
        told,
        tensor=result,
        operator=operator.type,
        evidence={"constant": float(value), "name": name},
        options=(_keep(bench, (result,)),),
    )


def sensitive(bench: Bench) -> Cause | None:
    """Some few tensors in float give back half of the loss; what ails the first is looked into."""
    if not bench.lab.quantizable:
        return None
    views = {view.name: view for view in bench.real_views}
    trials = {name: _restored(bench, (name,)) for name in _candidates(list(views.values()))}
    ranked = sorted(trials, key=lambda name: trials[name].quieter, reverse=True)
    if not ranked:
        return None
    chosen, best = _together(bench, ranked, trials)
    specific = _specific(bench, [views[name] for name in ranked[:LOOKED_INTO]], max(best.recovered, HALF))
    if specific is not None:
        return replace(specific, options=(*specific.options, *_options(bench, chosen)))
    told = bench.confirmed(best) if best.recovered >= HALF else None
    if told is None:
        return None
    rule, why = _by_look(bench, views[chosen[0]])
    places = [bench.lab.place(name) for name in chosen]
    producer = bench.lab.graph.producer(chosen[0])
    return Cause(
        rule,
        f"{why} With {' and '.join(places)} and the operators around in float, "
        f"{figures.percent(told.recovered)} of the loss comes back.",
        told,
        tensor=chosen[0],
        operator=producer.type if producer else "input",
        evidence={"channel_spread": round(evidence.channel_spread(views[chosen[0]].channels), 1)},
        options=_options(bench, chosen),
    )


def _together(bench: Bench, ranked: Sequence[str], trials: dict[str, Trial]) -> tuple[tuple[str, ...], Trial]:
    """The fewest tensors in float that give back most, the best first, each of which adds something."""
    chosen: tuple[str, ...] = (ranked[0],)
    best = trials[ranked[0]]
    for name in ranked[1 : TOGETHER * 2]:
        if (best.recovered >= HALF and best.quieter >= HALF) or len(chosen) == TOGETHER:
            break
        trial = _restored(bench, (*chosen, name))
        if trial.quieter > best.quieter + 0.05:
            chosen, best = (*chosen, name), trial
    return chosen, best


def _restored(bench: Bench, names: tuple[str, ...]) -> Trial:
    places = " and ".join(bench.lab.place(name) for name in names)
    return bench.quantized(f"{places} in float, on real ranges", Change(bench.real, keep=_with_copies(bench, names)))


def _with_copies(bench: Bench, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(copy for name in names for copy in bench.lab.graph.copies(name)))


def _keep(bench: Bench, names: tuple[str, ...]) -> Option:
    places = [bench.lab.place(name) for name in names]
    kept = _with_copies(bench, names)
    return Option(f"{' and '.join(places)} in float", {"keep_float": [bench.lab.place(one) for one in kept]}, keep=kept)


def _options(bench: Bench, chosen: tuple[str, ...]) -> tuple[Option, ...]:
    return tuple(_keep(bench, chosen[:count]) for count in range(1, len(chosen) + 1))


def _candidates(views: Sequence[TensorView]) -> list[str]:
    """Those whose worst channel is quantized worst, and the last ones."""
    worst = sorted(views, key=lambda view: view.worst_channel if view.worst_channel is not None else np.inf)
    names = [view.name for view in worst[: CANDIDATES - 4]]
    last = [view.name for view in views[-4:]]
    return list(dict.fromkeys([*names, *last]))


def _specific(bench: Bench, views: Sequence[TensorView], goal: float) -> Cause | None:
    """The first rewrite, of those that leave the float function as it is, that gives back almost as much as floats."""
    best: tuple[Trial, str, TensorView, str] | None = None
    for view in views:
        for rule, changed, why in _rewrites(bench, view):
            if not _same_function(bench, changed):
                continue
            trial = _rewritten(bench, f"{bench.lab.place(view.name)} rewritten ({rule})", changed)
            if trial.recovered >= AS_GOOD * goal and (best is None or trial.quieter > best[0].quieter + 0.02):
                best = (trial, rule, view, why)
    told = bench.confirmed(best[0]) if best is not None else None
    if best is None or told is None:
        return None
    _, rule, view, why = best
    return Cause(
        rule,
        f"{why} With the constants around rescaled so that the float outputs stay as they are, "
        f"{figures.percent(told.recovered)} of the loss comes back.",
        told,
        tensor=view.name,
        operator=view.operator,
        evidence={"channel_spread": round(evidence.channel_spread(view.channels), 1)},
    )


def _rewrites(bench: Bench, view: TensorView) -> list[tuple[str, Arrays, str]]:
    """What could ail a tensor: the rule, the constants that would cure it, and a sentence."""
    lab = bench.lab
    place = lab.place(view.name)
    found: list[tuple[str, Arrays | None, str]] = []
    producer = lab.graph.producer(view.name)
    around = [*([producer] if producer else []), *lab.graph.consumers(view.name)]
    for operator in around:
        if operator.type != "CONCATENATION":
            continue
        sizes = {name: max(abs(end) for end in bench.real[name]) for name in operator.inputs if name in bench.real}
        if len(sizes) == len(operator.inputs) and max(sizes.values()) >= BRANCHES * min(sizes.values()):
            ratio = max(sizes.values()) / max(min(sizes.values()), 1e-12)
            whole = operator.outputs[0]
            found.append(
                (
                    "concat-range-mismatch",
                    rewrites.branches_scaled(lab, whole, sizes),
                    f"The branches that {lab.place(whole)} concatenates differ in range by a factor of {ratio:,.0f} "
                    "and share one scale.",
                )
            )
    for operator in around:
        if (changed := rewrites.clipped_weights(lab, operator, OUTLIERS)) is not None:
            where = lab.place(operator.outputs[0])
            ratio = float(
                evidence.outlier_ratio(_channels_first(lab.constant(operator.constants[0]), operator.type)).max()
            )
            found.append(
                (
                    "weight-outliers",
                    changed,
                    f"One weight of {where} ({operator.type}) is {ratio:,.0f} times as large as 95 % of its channel's "
                    "and stretches their scale.",
                )
            )
    spread = evidence.channel_spread(view.channels)
    why = (
        f"The channels of {place} ({view.operator}) differ in range, by a factor of {spread:,.0f} from the typical one "
        "to the largest, and share one scale, so the small ones are lost."
    )
    found += [("channel-imbalance", changed, why) for changed in rewrites.equalized(lab, view.name, view.channels)]
    return [(rule, changed, why) for rule, changed, why in found if changed]


def _same_function(bench: Bench, constants: Arrays) -> bool:
    """Whether the float model's outputs stay as they are with some constants replaced."""
    rows = bench.choosing[:64]
    one, other = (bench.outputs(handle, rows) for handle in (bench.lab.edited(constants), bench.lab.float32))
    closeness = evidence.sqnr(one, other)
    return closeness is None or closeness >= SAME_FUNCTION


def _rewritten(bench: Bench, name: str, constants: Arrays) -> Trial:
    real = bench.lab.ranges(bench.calibrating, constants)
    return bench.quantized(name, Change(real, constants=constants))


def _by_look(bench: Bench, view: TensorView) -> tuple[str, str]:
    """The rule that a tensor's numbers say where no rewrite is possible, and a sentence on them."""
    graph, lab = bench.lab.graph, bench.lab
    place, producer = lab.place(view.name), bench.lab.graph.producer(view.name)
    spread = evidence.channel_spread(view.channels)
    if view.operator == "SOFTMAX" and view.name in graph.outputs:
        return (
            "coarse-output",
            f"The output {place} is a softmax of {len(view.channels):,} values in steps of 1/256, and the differences "
            "that decide are smaller.",
        )
    if producer is None and spread >= UNITS:
        return (
            "input-unit-mismatch",
            f"The channels of the input {place} are of unlike units (ranges differ by a factor of {spread:,.0f}) and "
            "share one scale.",
        )
    if view.name in graph.outputs and spread >= UNITS:
        return (
            "output-outlier",
            f"One value of the output {place} has a range {spread:,.0f} times the typical one, and sets the scale.",
        )
    return ("sensitive-operator", f"{place} ({view.operator}) loses most of all tensors by being quantized.")


def _channels_first(values: Array, kind: str) -> Array:
    return np.moveaxis(values, -1, 0) if kind == "DEPTHWISE_CONV_2D" else values
