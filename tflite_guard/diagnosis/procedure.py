"""A diagnosis from start to end, in the order in which causes rule one another out.

The ladder says where the metric breaks. Then each family of causes looks for evidence, makes its experiments on a third
of the examples and confirms at most one on another third. What is confirmed is the primary cause. Where the variant
would be out of tolerance without it too, what is still lost is explained in the same way. Remedies are made as the user
would get them and verified on the last third. What the user's application does besides is a question of its
own, and has a cause of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from msgspec.structs import replace

from tflite_guard.diagnosis import evidence
from tflite_guard.diagnosis.causes import (
    Cause,
    Look,
    application,
    artifact,
    calibration,
    conversion,
    precision,
    tensors,
)
from tflite_guard.diagnosis.experiments import Bench, Trial
from tflite_guard.diagnosis.lab import Array, Case, Change, Handle, Lab, Range
from tflite_guard.diagnosis.remedies import Search
from tflite_guard.errors import EvaluationError
from tflite_guard.protocol import Diagnosed
from tflite_guard.results import Diagnosis, Experiment, Finding, Histogram, Rung, TensorLoss
from tflite_guard.rules import finding

FEWEST = 30
"""Examples below which nothing can be shown."""
MOST_TENSORS = 200
MOST_TRIED = 50
MOST_HISTOGRAMS = 3
SECONDS_FOR_REMEDIES = 20.0

PROCEDURE: tuple[Look, ...] = (
    conversion.float_conversion,
    conversion.float16_range,
    artifact.order,
    artifact.input_range,
    conversion.shipped_float,
    artifact.stale,
    conversion.plain_kernels,
    calibration.ranges,
    tensors.mask,
    tensors.sensitive,
    conversion.optimized_kernels,
    precision.limit,
)
"""Each rules out what comes before it: what is wrong before quantization is not looked for in it."""
BESIDES: tuple[Look, ...] = (calibration.ranges, tensors.mask, tensors.sensitive)
"""Faults that hide behind one another: each is one of how the model is quantized."""
MOST_CAUSES = 3


def diagnose(lab: Lab, case: Case) -> Diagnosed:
    """Why a variant is worse than its reference, and what would mend it."""
    started = time.monotonic()
    bench = Bench(lab, case)
    count = lab.evaluation.count
    if count < FEWEST:
        note = f"{count} examples are too few to prove a cause; evaluate on {FEWEST} or more"
        return Diagnosed(Diagnosis(case.metric, count, note=note))
    ladder = _ladder(bench)
    causes = _causes(bench) if case.failed else ()
    cause = next(iter(causes), None)
    misused, why_not = application.misuse(bench) if case.application else (None, "")
    with ThreadPoolExecutor(1) as pool:  # what converts leaves a core idle
        shown = pool.submit(_shown, bench, cause)
        holding, front = Search(bench, causes, SECONDS_FOR_REMEDIES).run() if case.failed else ((), ())
    losses, histograms = shown.result()
    diagnosis = Diagnosis(
        metric=case.metric,
        examples=count,
        ladder=tuple(ladder),
        tensors=losses,
        tried=_tried(bench.tried),
        front=front,
        note=_note(bench, cause, why_not),
        histograms=histograms,
        seconds=round(time.monotonic() - started, 3),
    )
    return Diagnosed(diagnosis, tuple(_finding(bench, one) for one in (*causes, misused) if one is not None), holding)


def _causes(bench: Bench) -> tuple[Cause, ...]:
    """What costs at least half of the loss, and then what costs at least half of what is lost without it."""
    cause = _found(bench, PROCEDURE)
    found: tuple[Cause, ...] = () if cause is None else (cause,)
    while cause is not None and cause.change is not None and len(found) < MOST_CAUSES:
        bench = bench.after(cause.experiment.name, cause.change)
        _, within = bench.judged(bench.artifact, bench.looked_at)
        cause = None if within else _found(bench, BESIDES)
        found += () if cause is None else (cause,)
    return _told(found)


def _told(causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
    """Where there are several, the first says so, and the others that they are about the rest of the loss."""
    if len(causes) < 2:
        return causes
    first, *others = causes
    rules = " and ".join(dict.fromkeys(one.rule for one in others))
    told = [replace(first, message=f"{first.message} It is not the only cause; another is {rules}.")]
    for before, one in pairwise(causes):
        rest = f"This is about what is still lost once the previous cause is fixed ({before.experiment.name})."
        told.append(replace(one, message=f"{one.message} {rest}"))
    return tuple(told)


def _found(bench: Bench, looks: Sequence[Look]) -> Cause | None:
    return next((found for look in looks if (found := look(bench)) is not None), None)


def _finding(bench: Bench, cause: Cause) -> Finding:
    where = {} if cause.tensor is None else {"layer": bench.lab.layer(cause.tensor)}
    told = finding(cause.rule, cause.message, **cause.evidence, **where)
    return replace(told, primary=True, experiment=cause.experiment, tensor=cause.tensor, operator=cause.operator)


def _note(bench: Bench, cause: Cause | None, application: str) -> str | None:
    """Why something is not explained: what the artifact loses, and what its application does besides."""
    notes = [_abstained(bench)] if bench.case.failed and cause is None else []
    return "; ".join([*notes, *([application] if application else [])]) or None


def _abstained(bench: Bench) -> str:
    if not bench.tried:
        return "no experiment could be made on this variant"
    best = max(bench.tried, key=lambda one: one.recovered)
    made = f"{count} experiments were made and none" if (count := len(bench.tried)) > 1 else "The one experiment never"
    return f"{made} gave back half of the loss on a second set of examples; the best was {best.name}"


def _ladder(bench: Bench) -> list[Rung]:
    """The metric from the reference to the artifact, on the choosing examples."""
    rows = bench.choosing
    rungs = [_rung(bench, "reference", bench.reference, rows), _rung(bench, "float32", bench.float32, rows)]
    with ThreadPoolExecutor(1) as pool:  # while one runs, the next is made
        making = [(name, pool.submit(make)) for name, make in _rungs_to_make(bench)]
        found = (_made_rung(bench, name, handle, rows) for name, handle in making)
        rungs += [rung for rung in found if rung is not None]
    rungs.append(_rung(bench, "file", bench.bad, rows))
    recorded = application.recorded(bench, rows)
    return rungs if recorded is None else [*rungs, _rung(bench, "application", recorded, rows)]


def _made_rung(bench: Bench, name: str, making: Future[Handle | None], rows: Array) -> Rung | None:
    """A rung, or why it could not be made or run, without which the others stand; None where there is none to make."""
    try:
        handle = making.result()
        return None if handle is None else _rung(bench, name, bench.outputs(handle, rows), rows)
    except EvaluationError as error:
        return Rung(name, None, None, note=str(error))


def _rungs_to_make(bench: Bench) -> Iterator[tuple[str, Callable[[], Handle | None]]]:
    lab = bench.lab
    yield "float16", lab.float16
    if lab.quantizable:
        ranges = {**bench.real, **lab.artifact_ranges}
        yield "weights", lab.rounded
        yield "int16x8", lambda: lab.int16x8({name: _with_a_step(pair) for name, pair in ranges.items()})
        yield "int8", lambda: lab.quantize(Change(ranges))


def _with_a_step(pair: Range) -> Range:
    """A range with an 8-bit step more at each end: a softmax's 1.0 lies beyond by design, in 8 bits alone."""
    step = (pair[1] - pair[0]) / evidence.STEPS
    return pair[0] - step, pair[1] + step


def _rung(bench: Bench, name: str, outputs: dict[str, Array], rows: Array) -> Rung:
    identical = all(np.array_equal(outputs[key], exact) for key, exact in bench.reference.items())
    return Rung(name, bench.value(outputs, rows), evidence.sqnr(outputs, bench.reference), identical)


def _shown(bench: Bench, cause: Cause | None) -> tuple[tuple[TensorLoss, ...], tuple[Histogram, ...]]:
    """The tables of a report: each activation's loss, and the values of the suspicious ones."""
    if not (bench.lab.eight_bits and bench.lab.artifact_ranges):
        return (), ()
    return _tensors(bench), _histograms(bench, cause)


def _tensors(bench: Bench) -> tuple[TensorLoss, ...]:
    given, called = bench.lab.artifact_ranges, bench.lab.artifact_names
    losses = [
        TensorLoss(
            tensor=view.name,
            operator=view.operator,
            isolated=view.isolated,
            cumulative=view.cumulative,
            calibrated=given.get(view.name, view.range),
            evaluated=view.range,
            clipped=view.clipped,
            codes=view.codes,
            in_file=called.get(view.name),
        )
        for view in bench.views
    ]
    worst = sorted(losses, key=lambda one: np.inf if one.isolated is None else one.isolated)[:MOST_TENSORS]
    kept = {one.tensor for one in worst}
    return tuple(one for one in losses if one.tensor in kept)


def _histograms(bench: Bench, cause: Cause | None) -> tuple[Histogram, ...]:
    """Of the tensor that the cause is about, else of those that clip most, or use the fewest integers."""
    lab, given = bench.lab, bench.lab.artifact_ranges
    worst = sorted((view for view in bench.views if view.name in given), key=lambda view: (-view.clipped, view.codes))
    named = [view for view in worst if cause is not None and view.name == cause.tensor]
    chosen = named or worst[:MOST_HISTOGRAMS]
    names = [view.name for view in chosen]
    evaluation = lab.values(names, lab.evaluation.take(bench.choosing))
    calibration = [] if lab.calibration is None else lab.values(names, lab.calibration)
    found = (
        evidence.histogram(
            view.name,
            view.operator,
            given[view.name],
            [values[view.name] for values in evaluation if view.name in values],
            [values[view.name] for values in calibration if view.name in values],
        )
        for view in chosen
    )
    return tuple(one for one in found if one is not None)


def _tried(trials: Sequence[Trial]) -> tuple[Experiment, ...]:
    best = sorted(trials, key=lambda one: one.recovered, reverse=True)[:MOST_TRIED]
    return tuple(Experiment(one.name, round(one.recovered, 4), None) for one in best)
