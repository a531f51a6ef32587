"""Tensors that lose most although their ranges are right: what ails each is shown by the change that cures it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
from msgspec.structs import replace

from tflite_guard.diagnosis import evidence, rewrites
from tflite_guard.diagnosis.causes import Cause, precision
from tflite_guard.diagnosis.experiments import HALF, SCREENED, Bench, Trial
from tflite_guard.diagnosis.lab import LAYOUT, Array, Arrays, Change, Operator, Option, TensorView
from tflite_guard.text import figures

CANDIDATES = 16
"""Tensors that are restored one by one: those that look worst, and those next to the outputs."""
SEEN_IN_FULL = 4
"""Of those, the ones tried on all examples."""
LOOKED_INTO = 4
"""Tensors for which specific rewrites are tried."""
TOGETHER = 4
EQUALIZED = ("channel-imbalance", "concat-range-mismatch")
"""What the manifest's `equalize` mends."""
ALIKE = 0.02
"""Of the noise, or of the metric's loss: what restoring two tensors gives back is then the same."""
AS_GOOD = 0.7
"""A specific rewrite names the cause where it gives back so much of what restoring gives."""
MORE = 0.1
"""Of the loss, what many rewrites at once must give back beyond one operator in float to explain it better."""
UNDECIDED = 0.8
"""Of the decisions that changed, those that are ties where the output's steps alone are at fault."""
BRANCHES = 4.0
"""A ratio of branches' ranges that is worth a rewrite."""
OUTLIERS = (6.0, 24.0)
"""Weights beyond so many times their channel's 95th percentile are clipped to it; small healthy models have up to 4.2.
The second is for networks with larger ones that matter.
"""
MASK = 500.0
MASKED = 30.0
"""What an exponential still takes for nothing."""
T = TypeVar("T")


@dataclass(frozen=True)
class Rewrite:
    """Constants that would cure a tensor of what could ail it."""

    rule: str
    constants: Arrays
    why: str
    tensor: str
    """Whose operator is at fault."""
    spread: float


def mask(bench: Bench) -> Cause | None:
    """A large constant, clipped to what masks as well, gives the loss back."""
    found = list(rewrites.large_constants(bench.lab, MASK)) if bench.lab.quantizable else []
    if not found:
        return None
    changed = {name: np.clip(bench.lab.constant(name), -MASKED, MASKED) for _, name, _ in found}
    if not _same_function(bench, changed):
        return None
    trial = _rewritten(bench, f"constants clipped to ±{MASKED:g}", changed)
    told = bench.proven(trial)
    if told is None:
        return None
    operator, name, value = max(found, key=lambda one: abs(one[2]))
    result = operator.outputs[0]
    return Cause(
        "mask-constant",
        f"The constant {figures.real(value)} at {bench.lab.place(result)} ({operator.type}) shares a scale with small "
        f"values, which are then all one step. A constant of {figures.real(np.sign(value) * MASKED)} masks just as "
        f"well and leaves the float outputs as they are: use it in the model.",
        told,
        tensor=result,
        operator=operator.type,
        evidence={"constant": float(value), "name": name},
        options=(kept_in_float(bench, (result,)),),
        change=trial.change,
    )


def sensitive(bench: Bench) -> Cause | None:
    """Some few tensors in float give back half of the loss; what ails the first is looked into."""
    if not bench.lab.quantizable:
        return None
    views = {view.name: view for view in bench.real_views}
    candidates = [bench.lab.graph.origin(name) for name in _candidates(list(views.values()))]
    trials = _each_restored(bench, [name for name in dict.fromkeys(candidates) if name in views])
    ranked = by_effect(bench, trials)
    if not ranked:
        return None
    bench.restored.update(trials)
    chosen, best = _together(bench, ranked, trials)
    looked_into = dict.fromkeys([*chosen, *ranked[:LOOKED_INTO]])
    if best.recovered < HALF or not _has_units(bench, views[chosen[0]]):
        specific = _specific(bench, [views[name] for name in looked_into], chosen, best)
        if specific is not None:
            return replace(specific, options=(*specific.options, *_options(bench, chosen)))
    if (coarse := _undecided(bench, views, trials)) is not None:
        return coarse
    told = bench.proven(best)
    found = _by_look(bench, views[chosen[0]]) if told is not None else None
    if told is None or found is None or found[0] == "sensitive-operator":
        several = at_once(bench, [views[name] for name in trials])
        if several is not None and (told is None or several.experiment.recovered >= told.recovered + MORE):
            return replace(several, options=(*several.options, *_options(bench, chosen)))
    if best.recovered >= HALF and not _is_local(bench, chosen):
        return precision.spread(bench, best)
    if told is None or found is None:
        return None
    rule, why = found
    places = [bench.lab.place(name) for name in chosen]
    producer = bench.lab.graph.producer(chosen[0])
    return Cause(
        rule,
        f"{why} With {' and '.join(places)} and the operators around in float, "
        f"{figures.percent(told.recovered)} of the loss comes back.",
        told,
        tensor=chosen[0],
        operator=producer.type if producer else None,
        evidence={"channel_spread": round(evidence.channel_spread(views[chosen[0]].channels), 1)},
        options=_options(bench, chosen),
        change=best.change,
    )


def _undecided(bench: Bench, views: Mapping[str, TensorView], trials: Mapping[str, Trial]) -> Cause | None:
    """An output whose steps are as large as what decides: ties are lost decisions, whatever noise there is besides."""
    tied = evidence.tied(bench.bad, bench.reference)
    even = [name for name in trials if evidence.channel_spread(views[name].channels) < evidence.UNITS]
    # Where the noise goes too, this is as any other tensor.
    gains = [name for name in even if trials[name].recovered >= HALF > trials[name].quieter]
    deciding = [name for name in gains if _decides(bench, name)]
    if tied < UNDECIDED or not deciding:
        return None
    name = min(deciding, key=lambda one: (-round(trials[one].recovered, 2), len(touched(bench, one))))
    told = bench.confirmed(trials[name], noise=False)
    if told is None:
        return None
    producer = bench.lab.graph.producer(name)
    return Cause(
        "coarse-output",
        f"{_tie(bench, name, tied)} With it and the operators around in float, {figures.percent(told.recovered)} of "
        "the loss comes back.",
        told,
        tensor=name,
        operator=producer.type if producer else None,
        options=_options(bench, (name,)),
        change=trials[name].change,
    )


def _tie(bench: Bench, name: str, tied: float) -> str:
    return (
        f"The steps of the output at {bench.lab.place(name)} are as large as the differences that decide: "
        f"{figures.percent(tied)} of the decisions that changed are ties among the largest values."
    )


def _is_local(bench: Bench, chosen: Sequence[str]) -> bool:
    """Whether what is around some tensors is a part of the network; where it is most of it, no place is at fault."""
    around = {result for name in chosen for result in touched(bench, name)}
    everywhere = [result for one in bench.lab.graph.operators if _computes(one) for result in one.outputs]
    return len(chosen) == 1 or 2 * len(around) <= len(everywhere)


def _each_restored(bench: Bench, names: Sequence[str]) -> dict[str, Trial]:
    """An experiment with each tensor in float: those that look best on a few examples on all of them."""
    screened = bench.screened([_restoring(bench, (name,)) for name in names])
    trials = dict(zip(names, screened, strict=True))
    ranked = by_effect(bench, trials)
    alike = [name for name in ranked if _is_alike(trials[name], trials[ranked[0]])]
    return trials | {name: bench.in_full(trials[name]) for name in dict.fromkeys([*alike, *ranked[:SEEN_IN_FULL]])}


def by_effect(bench: Bench, trials: dict[str, Trial]) -> list[str]:
    """The tensors by what restoring them takes away of the noise; of those like the best, the smallest change first."""
    ranked = sorted(trials, key=lambda name: trials[name].quieter, reverse=True)
    alike = [name for name in ranked if _is_alike(trials[name], trials[ranked[0]])]
    alike.sort(key=lambda name: len(touched(bench, name)))
    return [*alike, *(name for name in ranked if name not in alike)]


def _is_alike(trial: Trial, best: Trial) -> bool:
    """Whether one change does what the other does: by the noise, or by the metric where both take most noise away."""
    by_metric = min(trial.quieter, trial.recovered) >= HALF and trial.recovered >= best.recovered - ALIKE
    return by_metric or trial.quieter >= best.quieter - ALIKE


def touched(bench: Bench, name: str) -> set[str]:
    """The results of the operators that compute with a restored tensor."""
    return {result for one in operators_around(bench, name) for result in one.outputs}


def operators_around(bench: Bench, name: str) -> list[Operator]:
    """The operators that compute a tensor or read it, or a copy of it; those that only move data left out."""
    kept = set(_with_copies(bench, (name,)))
    operators = (one for one in bench.lab.graph.operators if kept & {*one.inputs, *one.outputs})
    return [one for one in operators if _computes(one)]


def _computes(operator: Operator) -> bool:
    """Whether an operator does more than move data, or look at its shape."""
    return operator.type not in LAYOUT and operator.type != "SHAPE"


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
    return (chosen, best) if best.recovered >= HALF else _needed(bench, ranked, (chosen, best))


def _needed(
    bench: Bench, ranked: Sequence[str], otherwise: tuple[tuple[str, ...], Trial]
) -> tuple[tuple[str, ...], Trial]:
    """Of many tensors in float those that are needed, where none gives anything back without the others."""
    needed = tuple(ranked[: TOGETHER * 2])
    best = _restored(bench, needed)
    if best.recovered < HALF:
        return otherwise
    return thinned(needed, best, lambda names: _restored(bench, names))


def thinned(needed: tuple[T, ...], best: Trial, tried: Callable[[tuple[T, ...]], Trial]) -> tuple[tuple[T, ...], Trial]:
    """Of changes that give half back together, those without which they do not; the last are left out first."""
    for index in reversed(range(len(needed))):
        rest = needed[:index] + needed[index + 1 :]
        trial = tried(rest) if rest else best
        if rest and trial.recovered >= max(HALF, best.recovered - 0.05):
            needed, best = rest, trial
    return needed, best


def _restored(bench: Bench, names: tuple[str, ...]) -> Trial:
    return bench.quantized(*_restoring(bench, names))


def _restoring(bench: Bench, names: tuple[str, ...]) -> tuple[str, Change]:
    """What an experiment with some tensors in float is called, and what it changes."""
    places = " and ".join(bench.lab.place(name) for name in names)
    return f"{places} in float, on real ranges", Change(bench.real, keep=_with_copies(bench, names))


def _with_copies(bench: Bench, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(copy for name in names for copy in bench.lab.graph.copies(name)))


def kept_in_float(bench: Bench, names: tuple[str, ...]) -> Option:
    """Tensors, and all that is the same values, left in float as a manifest would say it."""
    places = [bench.lab.place(name) for name in names]
    kept = _with_copies(bench, names)
    return Option(
        f"keep {' and '.join(places)} in float", {"keep_float": [bench.lab.place(one) for one in kept]}, keep=kept
    )


def _options(bench: Bench, chosen: tuple[str, ...]) -> tuple[Option, ...]:
    return tuple(kept_in_float(bench, chosen[:count]) for count in range(1, len(chosen) + 1))


def _candidates(views: Sequence[TensorView]) -> list[str]:
    """Those whose worst channel is quantized worst, and the last ones."""
    worst = sorted(views, key=lambda view: view.worst_channel if view.worst_channel is not None else np.inf)
    names = [view.name for view in worst[: CANDIDATES - 4]]
    last = [view.name for view in views[-4:]]
    return list(dict.fromkeys([*names, *last]))


def _specific(bench: Bench, views: Sequence[TensorView], chosen: Sequence[str], restored: Trial) -> Cause | None:
    """The rewrite, of those that leave the float function as it is, that gives back almost as much as floats.

    Where several tensors are needed, a rewrite of each, together.
    """
    goal = max(restored.recovered, HALF)
    best: tuple[Trial, tuple[Rewrite, ...]] | None = None
    each: dict[str, tuple[Trial, Rewrite]] = {}
    for view in views:
        for rewrite in _rewrites(bench, view):
            if best is not None and best[0].quieter >= restored.quieter - ALIKE:
                break  # nothing can explain more
            if not _same_function(bench, rewrite.constants):
                continue
            trial = _rewritten(bench, f"{bench.lab.place(view.name)} rewritten ({rewrite.rule})", rewrite.constants)
            if view.name not in each or trial.quieter > each[view.name][0].quieter:
                each[view.name] = (trial, rewrite)
            if trial.recovered >= AS_GOOD * goal and (best is None or trial.quieter > best[0].quieter + 0.02):
                best = (trial, (rewrite,))
    if best is None and len(chosen) > 1 and all(name in each for name in chosen):
        best = _combined(bench, [each[name][1] for name in chosen], goal)
    return None if best is None else _of_rewrites(bench, *best)


def at_once(bench: Bench, views: Sequence[TensorView]) -> Cause | None:
    """Rewrites of several tensors, where faults hide one another so that none gives anything back by itself.

    All are made at once, and those left out again that are not needed.
    """
    each: dict[str, Rewrite] = {}
    for view in views:
        for rewrite in _rewrites(bench, view):
            known = each.get(rewrite.tensor)
            # Of a concatenation the branches come before the channels; of factors for channels the latter are finer.
            if (known is None or known.rule == rewrite.rule) and _same_function(bench, rewrite.constants):
                each[rewrite.tensor] = rewrite
    # Tensors that differ by a pooling alone are rewritten by the same constants, which must not happen twice.
    apart = list({(one.rule, *sorted(one.constants)): one for one in reversed(each.values())}.values())[::-1]
    found = _combined(bench, apart, HALF / AS_GOOD) if len(apart) > 1 else None
    if found is None:
        return None
    trial, chosen = found
    needed, best = thinned(chosen, trial, lambda rest: _all(bench, rest))
    return _of_rewrites(bench, best, needed)


def _of_rewrites(bench: Bench, trial: Trial, chosen: Sequence[Rewrite]) -> Cause | None:
    """The cause that rewrites show, where they are confirmed."""
    told = bench.confirmed(trial)
    if told is None:
        return None
    first = chosen[0]
    producer = bench.lab.graph.producer(first.tensor)
    return Cause(
        first.rule,
        f"{' '.join(dict.fromkeys(one.why for one in chosen))} With true ranges, and the constants around rescaled so "
        f"that the float outputs stay as they are, {figures.percent(told.recovered)} of the loss comes back.",
        told,
        tensor=first.tensor,
        operator=producer.type if producer else None,
        evidence={"channel_spread": round(first.spread, 1)},
        options=_equalize(bench, chosen),
        change=trial.change,
    )


def _equalize(bench: Bench, chosen: Sequence[Rewrite]) -> tuple[Option, ...]:
    """The rewrites as the manifest would have them made, where it can."""
    if bench.lab.recipe is not None or any(one.rule not in EQUALIZED for one in chosen):
        return ()
    places = [*dict.fromkeys(bench.lab.place(one.tensor) for one in chosen)]
    return (Option(f"equalize the channels of {' and '.join(places)}", {"equalize": places}),)


def _combined(bench: Bench, chosen: Sequence[Rewrite], goal: float) -> tuple[Trial, tuple[Rewrite, ...]] | None:
    """Several rewrites at once, where they give back what is asked for."""
    if not _same_function(bench, rewrites.composed(bench.lab, [one.constants for one in chosen])):
        return None
    trial = _all(bench, chosen)
    return (trial, tuple(chosen)) if trial.recovered >= AS_GOOD * goal else None


def _all(bench: Bench, chosen: Sequence[Rewrite]) -> Trial:
    places = " and ".join(dict.fromkeys(bench.lab.place(one.tensor) for one in chosen))
    constants = rewrites.composed(bench.lab, [one.constants for one in chosen])
    return _rewritten(bench, f"{places} rewritten", constants)


def _rewrites(bench: Bench, view: TensorView) -> Iterator[Rewrite]:
    """What could ail a tensor."""
    lab = bench.lab
    place = lab.place(view.name)
    around = operators_around(bench, view.name)
    spread = evidence.channel_spread(view.channels)
    for operator in around:
        if operator.type != "CONCATENATION":
            continue
        sizes, whole = _branches(bench, operator), operator.outputs[0]
        if sizes and (changed := rewrites.branches_scaled(lab, whole, sizes)) is not None:
            yield Rewrite("concat-range-mismatch", changed, _branches_differ(bench, whole, sizes), whole, spread)
    for operator, times in product(around, OUTLIERS):
        if (changed := rewrites.clipped_weights(lab, operator, times)) is not None:
            weights = _channels_first(lab.constant(operator.constants[0]), operator.type)
            why = (
                f"One weight of {lab.place(operator.outputs[0])} ({operator.type}) is "
                f"{float(evidence.outlier_ratio(weights).max()):,.0f} times as large as 95 % of its channel's and "
                "stretches their scale."
            )
            yield Rewrite("weight-outliers", changed, why, operator.outputs[0], spread)
    why = (
        f"The channels of {place} ({view.operator}) differ in range, by a factor of {spread:,.0f} from the typical one "
        "to the largest, and share one scale, so the small ones are lost."
    )
    for changed in rewrites.equalized(lab, view.name, view.channels):
        yield Rewrite("channel-imbalance", changed, why, view.name, spread)


def _branches(bench: Bench, operator: Operator) -> dict[str, float]:
    """The largest value of each branch of a concatenation, where they are far apart; else none."""
    sizes = {name: max(abs(end) for end in bench.real[name]) for name in operator.inputs if name in bench.real}
    apart = len(sizes) == len(operator.inputs) > 1 and max(sizes.values()) >= BRANCHES * min(sizes.values())
    return sizes if apart else {}


def _branches_differ(bench: Bench, whole: str, sizes: Mapping[str, float]) -> str:
    ratio = max(sizes.values()) / max(min(sizes.values()), 1e-12)
    place = bench.lab.place(whole)
    return f"The branches that {place} concatenates differ in range by a factor of {ratio:,.0f} and share one scale."


def _same_function(bench: Bench, constants: Arrays) -> bool:
    """Whether the float model's outputs stay as they are with some constants replaced."""
    outputs = bench.outputs(bench.lab.edited(constants), bench.choosing[:SCREENED])
    return evidence.same_function(outputs, {name: values[:SCREENED] for name, values in bench.float32.items()})


def _rewritten(bench: Bench, name: str, constants: Arrays) -> Trial:
    real = bench.ranges(bench.calibrating, constants)
    return bench.quantized(name, Change(real, constants=constants))


def _by_look(bench: Bench, view: TensorView) -> tuple[str, str] | None:
    """The rule that a tensor's numbers say where no rewrite is possible, and a sentence on them; None where nothing
    ails it.
    """
    graph, place = bench.lab.graph, bench.lab.place(view.name)
    spread = evidence.channel_spread(view.channels)
    if _has_units(bench, view):
        return (
            "input-unit-mismatch",
            f"The channels of the input {place} have different units (ranges differ by a factor of {spread:,.0f}) "
            f"and share one scale.",
        )
    for operator in operators_around(bench, view.name):
        if operator.type == "CONCATENATION" and (sizes := _branches(bench, operator)):
            return ("concat-range-mismatch", _branches_differ(bench, operator.outputs[0], sizes))
    if view.name in graph.outputs and spread >= evidence.UNITS:
        return (
            "output-outlier",
            f"One value of the output {place} has a range {spread:,.0f} times the typical one, and sets the scale.",
        )
    if _decides(bench, view.name) and (tied := evidence.tied(bench.bad, bench.reference)) >= HALF:
        return ("coarse-output", _tie(bench, view.name, tied))
    if not _stands_out(bench, view.name):
        return None
    return ("sensitive-operator", f"{place} ({view.operator}) loses more than any other tensor by being quantized.")


def _has_units(bench: Bench, view: TensorView) -> bool:
    """Whether a tensor is an input whose channels have different units."""
    return bench.lab.graph.producer(view.name) is None and evidence.channel_spread(view.channels) >= evidence.UNITS


def _stands_out(bench: Bench, name: str) -> bool:
    """Whether a tensor, or what is computed with it, loses a bit more by itself than the typical one does.

    Late in a network whatever is in float gives much back, since nothing after it would have evened that out.
    """
    alone = {view.name: np.inf if view.isolated is None else view.isolated for view in bench.views}
    around = [alone[one] for one in {name, *touched(bench, name)} if one in alone]
    return min(around, default=-np.inf) < float(np.median([*alone.values()])) - evidence.BIT


def _decides(bench: Bench, tensor: str) -> bool:
    """Whether a tensor is an output, but for a softmax and the like behind it."""
    graph = bench.lab.graph
    return tensor in graph.outputs or any(
        one.type in ("SOFTMAX", "LOG_SOFTMAX", "LOGISTIC") and set(one.outputs) & set(graph.outputs)
        for one in graph.consumers(tensor)
    )


def _channels_first(values: Array, kind: str) -> Array:
    return np.moveaxis(values, -1, 0) if kind == "DEPTHWISE_CONV_2D" else values
